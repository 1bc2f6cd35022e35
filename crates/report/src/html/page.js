"use strict";
(() => {
  const table = document.getElementById("results-table");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const form = document.getElementById("controls");
  const shown = document.getElementById("shown");

  // A figure where the cell has one, else its text; what is not known comes last either way.
  const key = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
    const text = cell.textContent.trim();
    return text === "n/a" ? null : text;
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  };
  const sort = (header, column, descending) => {
    for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const keyed = rows.map((row) => [key(row, column), row]);
    keyed.sort(([a, first], [b, second]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      const order = compare(a, b) || first.dataset.r - second.dataset.r;
      return descending ? -order : order;
    });
    body.append(...keyed.map(([, row]) => row));
  };
  // Where the page is narrow, rows are paragraphs and have no headers: a choice takes their place.
  const choice = document.getElementById("sort");
  const headers = [...table.tHead.rows[0].cells];
  choice.append(new Option("as written", ""));
  headers.forEach((header, column) => {
    const button = header.firstElementChild;
    button.disabled = false;
    button.addEventListener("click", () => sort(header, column, header.getAttribute("aria-sort") === "ascending"));
    choice.append(new Option(button.textContent + " ↑", column), new Option(button.textContent + " ↓", column));
  });
  choice.addEventListener("input", () => {
    const index = choice.selectedIndex - 1;
    if (index >= 0) sort(headers[index >> 1], index >> 1, index % 2 === 1);
  });

  // Every mark in a chart and every row of a table behind one belongs to a row of the results.
  const parts = new Map();
  for (const part of document.querySelectorAll("[data-r]")) {
    if (!parts.has(part.dataset.r)) parts.set(part.dataset.r, []);
    parts.get(part.dataset.r).push(part);
  }
  const filter = () => {
    const fields = new FormData(form);
    const words = String(fields.get("text")).toLowerCase().split(/\s+/).filter(Boolean);
    let number = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const fits = words.every((word) => text.includes(word));
      number += fits;
      for (const part of parts.get(row.dataset.r)) part.classList.toggle("out", !fits);
    }
    for (const figure of document.querySelectorAll("figure")) {
      figure.classList.toggle("out", !figure.querySelector("svg [data-r]:not(.out)"));
    }
    shown.value = number === rows.length ? rows.length + " rows" : number + " of " + rows.length + " rows";
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = rows.length < 2;
  // A browser may have kept what was chosen before the page was loaded again.
  filter();

  // A row under the pointer is seen in every chart.
  let hot = [];
  body.addEventListener("mouseover", (event) => {
    const row = event.target.closest("tr");
    for (const part of hot) part.classList.remove("hot");
    hot = row ? parts.get(row.dataset.r) : [];
    for (const part of hot) part.classList.add("hot");
  });
})();
