//! The HTML report: one file that needs nothing else, neither a network nor, but for sorting and
//! filtering, a script. Light or dark as the reader's system is, readable on a phone, printable.
//!
//! Whatever comes out of a result file is put in by `maud`, which escapes it, after `visible` has
//! taken out what could not be seen. The page's policy lets nothing run and nothing load but the one
//! script and the one style here, by their hashes, so that even a mistake of ours could do nothing.

mod failure;
mod figure;
mod history;
mod look;
mod machine;
mod method;
mod overview;
mod results;

use crate::chart::{self, Section};
use crate::exhibit::Exhibit;
use crate::panel::{Panel, panels};
use crate::text::{count, visible};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use figure::figure;
use look::SHOWN;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use record::history::History;
use record::summary::Summary;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::io::Write;

const SCRIPT: &str = include_str!("page.js");
const STYLE: &str = include_str!("page.css");

/// Writes the report.
///
/// # Errors
/// If `to` cannot be written to.
pub fn write(summary: &Summary, mut to: impl Write) -> std::io::Result<()> {
    to.write_all(page(summary).into_string().as_bytes())?;
    to.write_all(b"\n")
}

fn page(summary: &Summary) -> Markup {
    let exhibit = Exhibit::new(summary);
    let charts = chart::sections(&exhibit);
    let parts = parts(&exhibit, &charts);
    document(&title(summary), overview::lead(&exhibit), &parts, summary.rows.len(), SCRIPT)
}

/// Every row over many runs.
///
/// # Errors
/// If `to` cannot be written to.
pub fn write_history(history: &History, mut to: impl Write) -> std::io::Result<()> {
    let title = format!("{} over time", history.figure.label);
    let runs = history.series.iter().map(|series| series.points.len()).sum();
    let parts = [("rows", "Every row", history::charts(history))];
    let page = document(&title, history::lead(history), &parts, runs, "");
    to.write_all(page.into_string().as_bytes())?;
    to.write_all(b"\n")
}

type Part<'a> = (&'a str, &'a str, Markup);

fn document(title: &str, lead: Markup, parts: &[Part], files: usize, script: &str) -> Markup {
    let style = format!("{}{STYLE}", chart::STYLE);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy(&style, script));
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="generator" content=(concat!("trainmark ", env!("CARGO_PKG_VERSION")));
                title { (title) }
                style { (PreEscaped(&style)) }
            }
            body {
                header {
                    h1 { (title) }
                    (lead)
                    @if parts.len() > 1 {
                        nav aria-label="Sections" {
                            @for (name, title, _) in parts { a href={ "#" (name) } { (title) } " " }
                        }
                    }
                }
                main {
                    @for (name, title, content) in parts {
                        section id=(name) aria-labelledby={ (name) "-h" } {
                            h2 id={ (name) "-h" } { (title) }
                            (content)
                        }
                    }
                }
                footer { p {
                    "Made by " code { (concat!("trainmark ", env!("CARGO_PKG_VERSION"))) } " from "
                    (count(files, "result file")) ". This page loads nothing from the network."
                } }
                @if !script.is_empty() { script { (PreEscaped(script)) } }
            }
        }
    }
}

/// Name, title and content of each section that has something to say.
fn parts<'a>(exhibit: &Exhibit, charts: &'a [Section]) -> Vec<Part<'a>> {
    let mut parts = vec![("results", "Results", results::table(exhibit))];
    let panels = panels(exhibit.summary, false);
    for (name, heading) in [("scaling", "Scaling"), ("devices", "Devices"), ("ranks", "Ranks")] {
        let those = panels.iter().filter(|panel| panel.heading == heading);
        parts.extend(tables(those).map(|it| (name, heading, it)));
    }
    parts.extend(charts.iter().map(|it| (it.name, it.title, section(it))));
    parts.extend(failure::failures(exhibit).map(|it| ("failures", "Failures", it)));
    parts.push(("notes", "Notes", overview::notes(exhibit)));
    parts.extend(machine::machines(exhibit).map(|it| ("machine", "Machine and environment", it)));
    parts.push(("method", "Method", method::method(exhibit)));
    parts
}

/// The small tables; none of none.
fn tables<'a>(panels: impl Iterator<Item = &'a Panel>) -> Option<Markup> {
    let mut panels = panels.peekable();
    panels.peek().is_some().then(|| {
        html! {
            @for panel in panels {
                p.lead { (visible(&panel.title, 200)) }
                div.table { table {
                    thead { tr { @for head in &panel.heads { th scope="col" { (visible(head, SHOWN)) } } } }
                    tbody { @for row in &panel.rows { tr { @for cell in row { td.num { (cell) } } } } }
                } }
            }
        }
    })
}

/// Nothing may run, load, be sent or embed this page's parts, but the script and the style in it.
fn policy(style: &str, script: &str) -> String {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; base-uri 'none'; \
         form-action 'none'",
        hash(script),
        hash(style)
    )
}

/// `Training benchmark: corpus`, with the suites' names.
fn title(summary: &Summary) -> String {
    let suites: BTreeSet<&str> = summary.runs().into_iter().map(|run| &*run.suite).collect();
    let suites: Vec<_> = suites.iter().take(4).map(|suite| visible(suite, SHOWN)).collect();
    match suites.is_empty() {
        true => "Training benchmark".to_owned(),
        false => format!("Training benchmark: {}", suites.join(", ")),
    }
}

fn section(section: &Section) -> Markup {
    html! {
        p.lead { (section.lead) }
        div.charts { @for chart in &section.charts { (figure(chart)) } }
        @if section.left_out > 0 {
            p.note { (count(section.left_out, "further panel")) " are not drawn." }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_allows_what_is_in_the_page_and_nothing_else() {
        let policy = policy("a{}", "");
        assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
    }
}
