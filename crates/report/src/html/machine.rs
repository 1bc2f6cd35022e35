//! The machines, the runs and the programs, with what differs between them marked.

use super::look::SHOWN;
use crate::exhibit::Exhibit;
use crate::text::{UNKNOWN, title, visible};
use indexmap::{IndexMap, IndexSet};
use maud::{Markup, html};
use serde::Serialize;

/// Columns of a table; more would not fit any page.
const MAX_COLUMNS: usize = 8;
/// Different values of a fact that are listed, and characters of each.
const MAX_VALUES: usize = 4;
const VALUE: usize = 200;

/// All that is known of one thing, by the name of the fact.
type Facts = IndexMap<String, IndexSet<String>>;

/// `None` if no file says where it was made.
pub fn machines(exhibit: &Exhibit) -> Option<Markup> {
    let summary = exhibit.summary;
    let machines = summary.machines.iter().enumerate();
    let machines: IndexMap<String, Facts> =
        machines.map(|(index, it)| (format!("Machine {}", index + 1), facts(it))).collect();
    let mut runs: IndexMap<String, Facts> = IndexMap::new();
    for run in summary.runs() {
        add(runs.entry("Runs".to_owned()).or_default(), facts(run));
    }
    let mut programs: IndexMap<String, Facts> = IndexMap::new();
    for (_, entry) in exhibit.entries() {
        if let Some(trainer) = &entry.record.trainer {
            let mut facts = facts(trainer);
            // Those of the protocol are the same for all.
            facts.retain(|name, _| !name.contains("TRAINMARK_"));
            // One command stands for those of all configurations.
            facts.shift_remove("command");
            let name = exhibit.contestants[entry.contestant].clone();
            let of_program = programs.entry(name).or_default();
            add(of_program, facts);
            let command = of_program.entry("command, for example".to_owned()).or_default();
            if command.is_empty() {
                command.insert(trainer.command.join(" "));
            }
        }
    }
    let tables = [("Machines", machines), ("Runs", runs), ("Trainers", programs)];
    tables.iter().any(|(_, columns)| !columns.is_empty()).then(|| {
        html! { @for (name, columns) in &tables { @if !columns.is_empty() { (table(name, columns)) } } }
    })
}

fn add(to: &mut Facts, more: Facts) {
    for (name, values) in more {
        to.entry(name).or_default().extend(values);
    }
}

/// A thing's facts by their names.
fn facts(of: &impl Serialize) -> Facts {
    let facts = crate::text::facts(of).into_iter();
    facts.map(|(name, value)| (name, IndexSet::from([value]))).collect()
}

/// A line per fact and a column per thing.
fn table(name: &str, columns: &IndexMap<String, Facts>) -> Markup {
    let shown: Vec<(&String, &Facts)> = columns.iter().take(MAX_COLUMNS).collect();
    let keys: IndexSet<&String> = shown.iter().flat_map(|(_, facts)| facts.keys()).collect();
    html! {
        h3 { (name) }
        div.wide tabindex="0" role="region" aria-label=(name) {
            table {
                @if shown.len() > 1 {
                    thead { tr {
                        th scope="col" { "Fact" }
                        @for (name, _) in &shown { th scope="col" { bdi { (visible(name, SHOWN)) } } }
                    } }
                }
                tbody { @for key in keys.iter().take(200) {
                    @let differs = shown.iter().any(|(_, it)| it.get(*key) != shown[0].1.get(*key));
                    tr .differs[differs] {
                        th scope="row" {
                            @if differs { span.mark title="differs" { "≠ " } }
                            bdi { (visible(&title(&key.replace(' ', "_")), SHOWN)) }
                        }
                        @for (_, facts) in &shown {
                            td { @match facts.get(*key) {
                                Some(values) => bdi { (list(values)) },
                                None => span.m { (UNKNOWN) },
                            } }
                        }
                    }
                } }
            }
        }
        @if columns.len() > shown.len() { p.note { "and " (columns.len() - shown.len()) " more" } }
    }
}

/// All values, the first few of many.
fn list(values: &IndexSet<String>) -> String {
    let shown: Vec<_> = values.iter().take(MAX_VALUES).map(|it| visible(it, VALUE)).collect();
    match values.len().saturating_sub(MAX_VALUES) {
        0 => shown.join("; "),
        more => format!("{}; and {more} more", shown.join("; ")),
    }
}
