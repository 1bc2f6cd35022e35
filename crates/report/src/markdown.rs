//! The Markdown report, in the specification's layout: its columns come first and in its order, ours
//! after them, where rows have more to say.

use crate::notes::{self, Note};
use crate::table::{self, Column};
use crate::text::{self, visible, width};
use rayon::prelude::*;
use record::figures::Shown;
use record::summary::Summary;
use std::borrow::Cow;
use std::io::Write;

/// Characters of a name or a value that are shown.
const SHOWN: usize = 60;

/// Explains the two columns of seconds.
const CLOCKS: &str = "Training Time is user + system CPU time of the trainer's whole process tree; \
                      Train Loop is the trainer's own clock around its training.";

/// A chart that stands in a file of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub title: String,
    /// As seen from the report, parts joined by slashes.
    pub path: String,
}

/// Writes the report, with the charts at its end if there are any.
///
/// # Errors
/// If `to` cannot be written to.
pub fn write(summary: &Summary, charts: &[Link], mut to: impl Write) -> std::io::Result<()> {
    let to = &mut to;
    let notes = notes::notes(summary, !summary.only_specification, Some(Shown::Documents));
    writeln!(to, "# Benchmark Report\n")?;
    if let Some(badges) = notes::badges(&notes) {
        writeln!(to, "> Caution: {}\n", escape_long(&badges))?;
    }
    writeln!(to, "## Summary\n")?;
    for (title, value) in facts(summary) {
        writeln!(to, "- **{title}:** {value}")?;
    }
    let settings = table::settings(summary).into_iter();
    let setting = |(key, value): (String, String)| {
        format!("- **{}:** {}", escape(&text::title(&key)), escape(&value))
    };
    section(to, "### Configuration\n", settings.map(setting))?;
    writeln!(to, "\n## Results\n")?;
    let columns = table::wide(summary);
    write_table(summary, &columns, to)?;
    for panel in crate::panel::panels(summary, true) {
        let heads: Vec<&str> = panel.heads.iter().map(String::as_str).collect();
        let table = small_table(
            &heads,
            &[],
            panel.rows.iter().map(|row| row.iter().map(|cell| escape(cell)).collect()),
        );
        writeln!(to, "\n## {}\n\n{}\n\n{table}", panel.heading, escape_long(&panel.title))?;
    }
    let has_loops =
        columns.iter().any(|it| matches!(it, Column::Figure(figure) if figure.key == "train_s"));
    let clocks = has_loops.then_some(CLOCKS).into_iter();
    let notes = notes.iter().map(escape_note);
    let notes = notes.chain(clocks.map(escape_long)).map(|note| format!("- {note}"));
    section(to, "## Notes\n", notes)?;
    let chart = |it: &Link| format!("\n![{}]({})", escape_long(&it.title), destination(&it.path));
    section(to, "## Charts", charts.iter().map(chart))
}

/// Lines below a heading, if there are any.
fn section(
    to: &mut impl Write,
    heading: &str,
    lines: impl Iterator<Item = String>,
) -> std::io::Result<()> {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        writeln!(to, "\n{heading}")?;
    }
    lines.try_for_each(|line| writeln!(to, "{line}"))
}

/// A table of few rows; cells are Markdown already where they hold any. `right`: columns of numbers.
pub(crate) fn small_table(
    heads: &[&str],
    right: &[usize],
    rows: impl Iterator<Item = Vec<String>>,
) -> String {
    let rules = (0..heads.len()).map(|at| if right.contains(&at) { "---:" } else { "---" });
    let heads = heads.iter().map(|head| escape(head)).collect::<Vec<_>>().join(" | ");
    let mut text = format!("| {heads} |\n|{}|\n", rules.collect::<Vec<_>>().join("|"));
    rows.for_each(|cells| text += &format!("| {} |\n", cells.join(" | ")));
    text
}

/// A path as a link's destination: everything that could end it, as its bytes.
fn destination(path: &str) -> String {
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"/.-_".contains(&byte);
    let escaped = |byte: u8| match is_safe(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    path.bytes().map(escaped).collect()
}

/// The bullets of the summary: the specification's three, then ours.
fn facts(summary: &Summary) -> Vec<(&'static str, String)> {
    let list = |names: Vec<&str>| names.into_iter().map(escape).collect::<Vec<_>>().join(", ");
    let mut facts = vec![
        ("Total Benchmarks", summary.rows.len().to_string()),
        ("Models", list(summary.names(|record| &record.model))),
        ("Backends", list(summary.names(|record| &record.backend))),
    ];
    if !summary.only_specification {
        facts.push(("Executables", list(summary.names(|record| &record.executable))));
    }
    if !summary.datasets.is_empty() {
        let labels = summary.datasets.iter().map(|it| table::dataset_label(summary, it));
        let labels: Vec<String> = labels.collect();
        facts.push(("Datasets", list(labels.iter().map(String::as_str).collect())));
    }
    facts
}

/// In the order of the files if they are the specification's, else with each group together and without
/// what this machine lacks: the specification's scripts write no file for what they cannot run.
fn write_table(summary: &Summary, columns: &[Column], to: &mut impl Write) -> std::io::Result<()> {
    let places: Vec<usize> = match summary.only_specification {
        true => (0..summary.rows.len()).collect(),
        false => {
            let groups = table::groups(summary).into_iter();
            groups.flat_map(|group| table::order(summary, group, false)).collect()
        }
    };
    let cell = |column: &Column, place: usize| {
        let cell = column.cell(summary, &summary.rows[place], false);
        if column.is_figure() { cell.into_owned() } else { escape(&cell) }
    };
    let titles: Vec<String> = columns.iter().map(|it| escape(&it.title(summary, true))).collect();
    // Cells are made twice, once for the widths: a long table takes no memory.
    let widths = columns.par_iter().zip(&titles).map(|(column, title)| {
        let cells = places.iter().map(|&place| width(&cell(column, place)));
        cells.max().unwrap_or(0).max(width(title))
    });
    let widths: Vec<usize> = widths.collect();
    let line = |cells: &mut dyn Iterator<Item = String>| -> String {
        let cells = cells.zip(&widths).map(|(cell, widest)| {
            let space = widest - width(&cell);
            format!("| {cell}{:space$} ", "")
        });
        cells.collect::<String>() + "|\n"
    };
    to.write_all(line(&mut titles.iter().cloned()).as_bytes())?;
    let rule: String = widths.iter().map(|widest| format!("|{}", "-".repeat(widest + 2))).collect();
    to.write_all((rule + "|\n").as_bytes())?;
    for place in places {
        let row = line(&mut columns.iter().map(|column| cell(column, place)));
        to.write_all(row.as_bytes())?;
    }
    Ok(())
}

/// A name on one line as plain Markdown text: it can end no cell, begin no element, link or HTML.
fn escape(name: &str) -> String {
    escape_visible(&visible(name, SHOWN)).into_owned()
}

/// The same for sentences.
pub(crate) fn escape_long(sentence: &str) -> String {
    escape_visible(&visible(sentence, 2000)).into_owned()
}

/// The same for notes; those of the program's own words may have code in them.
pub(crate) fn escape_note(note: &Note) -> String {
    let text = escape_long(&note.text);
    if note.has_code { text.replace("\\`", "`") } else { text }
}

/// Of no width, and no part of a name or an address.
const NO_SPACE: &str = "&#8203;";

/// Whether `@name`, `#123`, `scheme://` or `www.` stands here.
fn leads_elsewhere(c: char, before: &str, next: Option<&char>) -> bool {
    let is = |wanted: fn(char) -> bool| next.is_some_and(|&next| wanted(next));
    match c {
        '@' => is(char::is_alphanumeric),
        '#' => is(|next| next.is_ascii_digit()),
        ':' => is(|next| next == '/'),
        _ => {
            before.len() >= 3 && before.as_bytes()[before.len() - 3..].eq_ignore_ascii_case(b"www")
        }
    }
}

fn escape_visible(name: &str) -> Cow<'_, str> {
    let name = name.trim();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b" .,:()".contains(&byte);
    let is_numbered = name.starts_with(|c: char| c.is_ascii_digit());
    let has_www = ["w.", "W."].iter().any(|it| name.contains(it));
    if name.bytes().all(is_plain) && !has_www && !is_numbered {
        return Cow::Borrowed(name);
    }
    let mut escaped = String::with_capacity(name.len());
    let mut before = ' ';
    let mut rest = name.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\\' | '|' | '`' | '*' | '[' | ']' | '~' | '$' => escaped.extend(['\\', c]),
            // Inside of a word it is only an underscore.
            '_' if !(before.is_alphanumeric()
                && rest.peek().is_some_and(|it| it.is_alphanumeric())) =>
            {
                escaped.push_str("\\_");
            }
            // GitHub would make a mention, an issue or a link of it.
            '@' | '#' | ':' | '.' if leads_elsewhere(c, &escaped, rest.peek()) => {
                escaped.push(c);
                escaped.push_str(NO_SPACE);
            }
            // At the head of a note it would begin a list or a heading in it.
            '-' | '+' | '#'
                if escaped.is_empty() && rest.peek().is_none_or(|it| matches!(it, ' ' | '#')) =>
            {
                escaped.extend(['\\', c]);
            }
            '.' | ')'
                if is_numbered
                    && escaped.bytes().all(|byte| byte.is_ascii_digit())
                    && rest.peek().is_none_or(|&it| it == ' ') =>
            {
                escaped.extend(['\\', c]);
            }
            c => escaped.push(c),
        }
        before = c;
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_no_mentions_issues_links_lists_or_headings_on_github() {
        for (name, expected) in [
            ("@octocat", "@&#8203;octocat"),
            ("fixes #12", "fixes #&#8203;12"),
            ("https://a.example/x", "https:&#8203;//a.example/x"),
            ("see WWW.a.example", "see WWW.&#8203;a.example"),
            ("www.a.example", "www.&#8203;a.example"),
            ("me@a.example", "me@&#8203;a.example"),
            ("<a href=x>", "&lt;a href=x&gt;"),
            ("a @ b, C#, 3:4, 0.5, w.x", "a @ b, C#, 3:4, 0.5, w.x"),
            ("- a", "\\- a"),
            ("1. a (2) b", "1\\. a (2) b"),
            ("12) a", "12\\) a"),
            ("1.5 to 2. a", "1.5 to 2. a"),
            ("## a", "\\## a"),
            ("-5 - +a", "-5 - +a"),
        ] {
            assert_eq!(escape_long(name), expected);
        }
    }
}
