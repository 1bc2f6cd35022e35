//! The machines and the programs, with what differs between them marked.

use super::SHOWN;
use crate::report::exhibit::Exhibit;
use crate::report::text::{self, visible};
use indexmap::{IndexMap, IndexSet};
use maud::{Markup, html};
use serde_json::Value;

/// Machines and programs in columns; more would not fit any page.
const MAX_COLUMNS: usize = 8;
const MAX_PROGRAMS: usize = 40;
/// Different values of a fact that are listed.
const MAX_VALUES: usize = 4;
/// Characters of a value.
const VALUE: usize = 200;

/// `None` if no file says where it was made.
pub fn machines(exhibit: &Exhibit) -> Option<Markup> {
    let summary = exhibit.summary;
    let machines: Vec<IndexMap<String, String>> = summary
        .machines()
        .take(MAX_COLUMNS)
        .filter_map(|machine| serde_json::to_value(machine).ok())
        .map(|machine| facts(&machine))
        .collect();
    let programs = programs(exhibit);
    if machines.is_empty() && programs.is_empty() {
        return None;
    }
    let left_out = summary.machines().len().saturating_sub(MAX_COLUMNS);
    Some(html! {
        @if !machines.is_empty() { (machine_table(&machines, left_out)) }
        (runs(exhibit))
        @if !programs.is_empty() { (program_table(&programs)) }
    })
}

/// A machine's facts by their names, whichever it has: nested ones by their path.
fn facts(machine: &Value) -> IndexMap<String, String> {
    let mut facts = IndexMap::new();
    collect("", machine, &mut facts);
    facts
}

fn collect(path: &str, value: &Value, facts: &mut IndexMap<String, String>) {
    match value {
        Value::Null => {}
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path} {key}") };
                collect(&path, value, facts);
            }
        }
        Value::Array(values) if values.iter().any(Value::is_object) => {
            for (index, value) in values.iter().take(32).enumerate() {
                collect(&format!("{path} {}", index + 1), value, facts);
            }
        }
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(|it| text::scalar(Some(it))).collect();
            if !values.is_empty() {
                facts.insert(path.to_owned(), values.join(", "));
            }
        }
        Value::Number(bytes) if path.ends_with("_bytes") => {
            facts.insert(path.trim_end_matches("_bytes").to_owned(), size(bytes.as_f64()));
        }
        value => {
            facts.insert(path.to_owned(), text::scalar(Some(value)).into_owned());
        }
    }
}

fn size(bytes: Option<f64>) -> String {
    let bytes = bytes.unwrap_or(0.0);
    for (unit, size) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        let one = f64::from(1u32 << size);
        if bytes >= one {
            return format!("{} {unit}", crate::report::chart::three_digits(bytes / one));
        }
    }
    format!("{bytes} bytes")
}

fn machine_table(machines: &[IndexMap<String, String>], left_out: usize) -> Markup {
    let keys: IndexSet<&String> = machines.iter().flat_map(|it| it.keys()).collect();
    html! {
        div.wide tabindex="0" role="region" aria-label="Machines" {
            table {
                @if machines.len() > 1 {
                    thead { tr {
                        th scope="col" { "Fact" }
                        @for number in 1..=machines.len() { th scope="col" { "Machine " (number) } }
                    } }
                }
                tbody {
                    @for key in keys.iter().take(200) {
                        @let values: Vec<Option<&String>> = machines.iter().map(|it| it.get(*key)).collect();
                        @let differs = values.iter().any(|value| *value != values[0]);
                        tr .differs[differs] {
                            th scope="row" {
                                @if differs { span.mark title="differs between the machines" { "≠ " } }
                                bdi { (visible(&text::title(&key.replace(' ', "_")), SHOWN)) }
                            }
                            @for value in &values {
                                td { @match value {
                                    Some(value) => bdi { (visible(value, VALUE)) },
                                    None => span.m { (text::UNKNOWN) },
                                } }
                            }
                        }
                    }
                }
            }
        }
        @if left_out > 0 { p.note { "and " (left_out) " more machines" } }
    }
}

/// Which runs of the harness the rows come from.
fn runs(exhibit: &Exhibit) -> Markup {
    let runs: Vec<_> = exhibit.summary.runs().collect();
    let values = |get: &dyn Fn(&crate::report::collection::Run) -> Option<String>| -> String {
        let values: IndexSet<String> = runs.iter().filter_map(|run| get(run)).collect();
        list(&values)
    };
    let facts = [
        ("Runs", runs.len().to_string()),
        ("Suite", values(&|run| Some(run.suite.clone()))),
        ("Harness", values(&|run| Some(format!("trainmark {}", run.harness)))),
        ("Commit", values(&|run| run.git_commit.clone())),
        ("Quick", values(&|run| Some(if run.quick { "yes" } else { "no" }.to_owned()))),
    ];
    html! {
        @if !runs.is_empty() {
            h3 { "Runs" }
            table { tbody {
                @for (title, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
                    tr { th scope="row" { (title) } td { bdi { (value) } } }
                }
            } }
        }
    }
}

/// All values, the first few of many.
fn list(values: &IndexSet<String>) -> String {
    let shown: Vec<_> = values.iter().take(MAX_VALUES).map(|it| visible(it, VALUE)).collect();
    let more = values.len().saturating_sub(MAX_VALUES);
    match more {
        0 => shown.join("; "),
        more => format!("{}; and {more} more", shown.join("; ")),
    }
}

/// What the trainers say of themselves: for each contestant every value of each fact.
struct Program {
    name: String,
    facts: Vec<IndexSet<String>>,
}

/// The last three differ from row to row by their nature.
const PROGRAM_FACTS: [&str; 8] = [
    "Version",
    "Device",
    "Threads",
    "Precision",
    "Program",
    "Path",
    "Environment",
    "Command, for example",
];
const COMPARED_FACTS: usize = 5;

fn programs(exhibit: &Exhibit) -> Vec<Program> {
    let mut programs: IndexMap<usize, Program> = IndexMap::new();
    for (_, entry) in exhibit.entries() {
        let Some(trainer) = entry.file.and_then(|file| file.trainer.as_ref()) else { continue };
        let program = programs.entry(entry.contestant).or_insert_with(|| Program {
            name: exhibit.contestants[entry.contestant].clone(),
            facts: vec![IndexSet::new(); PROGRAM_FACTS.len()],
        });
        let digest = |text: &String| text.chars().take(12).collect::<String>();
        let values = [
            trainer.version.clone(),
            trainer.device.clone(),
            trainer.threads.map(|threads| threads.to_string()),
            trainer.precision.clone(),
            trainer.sha256.as_ref().map(digest),
            trainer.path.clone(),
        ];
        for (fact, value) in program.facts.iter_mut().zip(values) {
            fact.extend(value);
        }
        let [.., environment, command] = &mut program.facts[..] else { continue };
        // Those of the protocol are the same for all.
        let own = trainer.environment.iter().filter(|(name, _)| !name.starts_with("TRAINMARK_"));
        environment.extend(own.map(|(name, value)| format!("{name}={value}")));
        if command.is_empty() && !trainer.command.is_empty() {
            command.insert(trainer.command.join(" "));
        }
    }
    programs.into_values().take(MAX_PROGRAMS).collect()
}

fn program_table(programs: &[Program]) -> Markup {
    html! {
        h3 { "Trainers" }
        p.lead { "As they say of themselves; the program is the beginning of its file's SHA-256. "
            span.mark { "≠" } " marks what differs between the rows of one trainer." }
        div.wide tabindex="0" role="region" aria-label="Trainers" {
            table {
                thead { tr {
                    th scope="col" { "Trainer" }
                    @for fact in PROGRAM_FACTS { th scope="col" { (fact) } }
                } }
                tbody { @for program in programs {
                    tr {
                        th scope="row" { bdi { (program.name) } }
                        @for (index, values) in program.facts.iter().enumerate() {
                            @let differs = values.len() > 1 && index < COMPARED_FACTS;
                            td .long[index >= COMPARED_FACTS] {
                                @if differs { span.mark title="differs between rows" { "≠ " } }
                                @if values.is_empty() { span.m { (text::UNKNOWN) } }
                                bdi { (list(values)) }
                            }
                        }
                    }
                } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_fact_of_a_machine_is_shown_whatever_it_is_called() {
        let machine = json!({
            "cpu": "c", "memory_bytes": 25_769_803_776u64, "gpus": ["a", "b"], "none": null,
            "caches": {"l1_bytes": 49152}, "empty": [],
        });
        let facts = facts(&machine);
        let shown: Vec<_> = facts.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(shown, ["cpu=c", "memory=24.0 GiB", "gpus=a, b", "caches l1=48.0 KiB"]);
    }
}
