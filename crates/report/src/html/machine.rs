//! The machines, the runs and the programs, with what differs between them marked.

use super::look::SHOWN;
use crate::exhibit::Exhibit;
use crate::text::{UNKNOWN, facts, title, visible};
use indexmap::{IndexMap, IndexSet};
use maud::{Markup, html};
use record::number::first_few;

/// Columns of a table; more would not fit any page.
const MAX_COLUMNS: usize = 8;
/// Different values of a fact that are listed, and characters of each.
const MAX_VALUES: usize = 4;
const VALUE: usize = 200;

/// All that is known of one thing, by the name of the fact.
type Facts = IndexMap<String, IndexSet<String>>;

/// `None` if no file says where it was made.
pub fn machines(exhibit: &Exhibit) -> Option<Markup> {
    let mut tables: IndexMap<&str, IndexMap<String, Facts>> = IndexMap::new();
    let mut add = |table, name: String, facts: Vec<(String, String)>| {
        let known = tables.entry(table).or_default().entry(name).or_default();
        for (fact, value) in facts {
            known.entry(fact).or_default().insert(value);
        }
    };
    for (machine, number) in exhibit.summary.machines.iter().zip(1..) {
        add("Machines", format!("Machine {number}"), facts(machine));
    }
    for run in exhibit.summary.runs() {
        add("Runs", "Runs".to_owned(), facts(run));
    }
    for (_, entry) in exhibit.entries() {
        let mut facts = entry.row.record.trainer.as_ref().map(facts).unwrap_or_default();
        // Variables of the protocol are the same for all.
        facts.retain(|(fact, _)| !fact.contains("TRAINMARK_"));
        add("Trainers", exhibit.contestants[entry.contestant].clone(), facts);
    }
    tables.retain(|_, columns| columns.values().any(|facts| !facts.is_empty()));
    (!tables.is_empty()).then(|| {
        html! { @for (name, columns) in &tables { (table(name, columns)) } }
    })
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
    let values: Vec<_> = values.iter().map(|it| visible(it, VALUE)).collect();
    first_few(&values, MAX_VALUES, "; ")
}
