//! The one table that terminal, Markdown and page are made of: which rows, in which order, with which columns,
//! and the text of each cell. Things that this machine lacks have no rows but one line, [`absent`].

use crate::text::{self, UNKNOWN, count, digits, three_digits, visible};
use indexmap::{IndexMap, IndexSet};
use measure::machine::Machine;
use record::figures::{Figure, Shown};
use record::name::by_number;
use record::stats::Interval;
use record::summary::{Difference, Group, Row, Summary};
use record::verdict::{Change, Scale};
use record::{DatasetRecord, Record, Verdict};
use serde_json::Value;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};

/// Characters of a name that are shown.
const SHOWN: usize = 60;

/// A column of a table.
#[derive(Clone, Debug)]
pub enum Column {
    Model,
    Backend,
    Difference(Difference),
    Status,
    Figure(Figure),
    SpeedUp,
    Verified,
}

/// The groups by their models in the order of the rows, then by what tells them apart: 64 before 128.
pub fn groups(summary: &Summary) -> Vec<&Group> {
    let models: IndexSet<&str> = summary.rows.iter().map(|row| row.record.model.as_str()).collect();
    let mut groups: Vec<(Option<usize>, &Group)> = summary
        .groups
        .iter()
        .map(|group| (models.get_index_of(&*summary.rows[group.rows[0]].record.model), group))
        .collect();
    let number = |row: &Row, of: &Difference| match of {
        Difference::Config(key) => row.record.config.get(key).and_then(Value::as_f64),
        _ => None,
    };
    groups.sort_by(|(model, one), (of_other, other)| {
        let (one, other) = (&summary.rows[one.rows[0]], &summary.rows[other.rows[0]]);
        let by = |of: &Difference| match (number(one, of), number(other, of)) {
            (Some(one), Some(other)) => one.total_cmp(&other),
            _ => difference(summary, one, of).cmp(&difference(summary, other, of)),
        };
        let order = summary.differences.iter().map(by).find(|order| order.is_ne());
        model.cmp(of_other).then(order.unwrap_or(Ordering::Equal))
    });
    groups.into_iter().map(|(_, group)| group).collect()
}

/// The rows of a group, the fastest first; those that this machine lacks with `all` only.
pub fn order(summary: &Summary, group: &Group, all: bool) -> Vec<usize> {
    let seconds = |place: &usize| {
        let clock = group.clock.as_ref();
        clock.and_then(|it| it.of(&summary.rows[*place].record)).unwrap_or(f64::INFINITY)
    };
    let mut places = group.rows.clone();
    places.retain(|&place| all || summary.rows[place].is_there());
    let name = |place: &usize| &*summary.rows[*place].record.executable;
    places.sort_by(|a, b| {
        seconds(a).total_cmp(&seconds(b)).then_with(|| by_number(name(a), name(b)))
    });
    places
}

/// Whether the rows that are there have more than one such name.
pub fn differ(summary: &Summary, name: impl Fn(&Record) -> &str) -> bool {
    let mut names = summary.rows.iter().filter(|row| row.is_there()).map(|row| name(&row.record));
    let first = names.next();
    names.any(|name| Some(name) != first)
}

/// `Training corpus · epochs 1 · seed 42 · 2 cores · 12 rows, 6 samples each`; of 12 rows of which some failed, `6 samples
/// each of 9 that completed`.
pub fn headline(summary: &Summary) -> String {
    let suites: BTreeSet<&str> = summary.runs().iter().map(|run| &*run.suite).collect();
    let tasks = summary.names(|record| &record.task().name);
    let names = if suites.is_empty() { tasks } else { suites.into_iter().collect() };
    let datasets: Vec<String> =
        summary.datasets.iter().map(|it| dataset_label(summary, it)).collect();
    let mut parts = vec![format!("Training {}", names.join(", "))];
    if !datasets.is_empty() && datasets != names {
        parts[0] += &format!(" on {}", datasets.join(", "));
    }
    let settings = settings(summary).into_iter().filter(|(_, it)| !it.contains('('));
    parts.extend(settings.map(|(key, value)| format!("{} {value}", key.replace('_', " "))));
    match summary.machines.as_slice() {
        [machine] => parts.extend(processors(summary, machine)),
        machines => parts.extend((!machines.is_empty()).then(|| count(machines.len(), "machine"))),
    }
    let there = || summary.rows.iter().filter(|row| row.is_there());
    let completed = || there().filter(|row| row.record.status.completed());
    let samples: BTreeSet<_> = completed().map(|row| row.record.counted().count().max(1)).collect();
    let samples = match (samples.first(), samples.last()) {
        (Some(few), Some(many)) if few == many => format!(", {} each", count(*few, "sample")),
        (Some(few), Some(many)) => format!(", {few} to {} each", count(*many, "sample")),
        _ => String::new(),
    };
    let of = match completed().count() {
        some if some > 0 && some < there().count() => format!(" of {some} that completed"),
        _ => String::new(),
    };
    parts.push(count(there().count(), "row") + &samples + &of);
    parts.join(" · ")
}

/// `2 cores` of the machine or, if its rows could use fewer, `16 threads of 64 cores`.
fn processors(summary: &Summary, machine: &Machine) -> Option<String> {
    let trained = summary.rows.iter().filter_map(|row| row.record.trainer.as_ref());
    let usable = trained.map(|it| it.limits.cpus.as_ref().map(Vec::len).or(machine.threads)).max();
    let (usable, all) = (usable.flatten(), machine.cores?);
    let few = usable.filter(|threads| *threads < all).map(|few| count(few, "thread") + " of ");
    Some(few.unwrap_or_default() + &count(all, "core"))
}

/// A row's executable, backend and model, and why this machine cannot run it, if it cannot.
pub type Lack<'a> = [Option<&'a str>; 4];

/// The line of missing devices, by the reason: `Not on this machine: mps, mpsgraph (needs macOS) · wgpu (no Vulkan)`;
/// `None` where nothing is missing.
pub fn absent(rows: &[Lack]) -> Option<String> {
    let several = rows.iter().any(|row| row[0] != rows[0][0]);
    // The reason of all rows of an executable, and of all of one backend of it; none if they differ.
    let mut shared: HashMap<_, Option<&str>> = HashMap::new();
    for &[executable, backend, _, reason] in rows {
        for backend in [None, backend] {
            let known = shared.entry((executable, backend)).or_insert(reason);
            if *known != reason {
                *known = None;
            }
        }
    }
    // By the reason, then by the executable where there are several.
    let mut reasons: IndexMap<(String, &str), IndexSet<String>> = IndexMap::new();
    for &[executable, backend, model, reason] in rows {
        let Some(reason) = reason else { continue };
        let whole = |backend| shared[&(executable, backend)].is_some();
        let of = executable.filter(|_| several).unwrap_or_default();
        let names = reasons.entry((in_short(reason), of)).or_default();
        if !several || !whole(None) {
            let parts = [backend, model.filter(|_| !whole(backend))];
            let name = parts.into_iter().flatten().collect::<Vec<_>>().join(" ");
            names.insert(visible(&name, SHOWN).into_owned());
        }
    }
    let part = |((reason, executable), names): ((String, &str), IndexSet<String>)| {
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        let names = format!("{} {names}", visible(executable, SHOWN));
        if reason.is_empty() { names } else { format!("{} ({reason})", names.trim()) }
    };
    let parts: Vec<String> = reasons.into_iter().map(part).collect();
    (!parts.is_empty()).then(|| format!("Not on this machine: {}", parts.join(" · ")))
}

/// The same of a summary's rows.
pub fn absent_line(summary: &Summary) -> Option<String> {
    fn lack(row: &Row) -> Lack<'_> {
        let Record { executable, backend, model, reason, .. } = &row.record;
        let reason = (!row.is_there()).then(|| reason.as_deref().unwrap_or_default());
        [Some(executable.as_str()), Some(backend.as_str()), Some(model.as_str()), reason]
    }
    match summary.rows.iter().all(Row::is_there) {
        true => None,
        false => absent(&summary.rows.iter().map(lack).collect::<Vec<_>>()),
    }
}

/// A reason without what stands in brackets and after a colon.
pub fn in_short(reason: &str) -> String {
    let mut depth = 0;
    let mut plain = String::new();
    for c in reason.chars() {
        depth += i32::from(c == '(');
        if depth <= 0 {
            plain.push(c);
        }
        depth -= i32::from(c == ')' && depth > 0);
    }
    let end = [": ", ". ", "\n"].iter().filter_map(|it| plain.find(it)).min();
    let words = plain[..end.unwrap_or(plain.len())].split_whitespace().collect::<Vec<_>>();
    visible(&words.join(" "), 100).into_owned()
}

/// For a terminal and the page: what tells the rows apart, then the figures, the most telling first.
pub fn narrow(summary: &Summary, least: Shown, all: bool) -> Vec<Column> {
    let mut columns = Vec::new();
    let is_one = |of: &Difference| *of == Difference::Executable;
    let names = summary.differences.iter().cloned().map(Column::Difference);
    let (first, others): (Vec<_>, Vec<_>) =
        names.partition(|it| matches!(it, Column::Difference(of) if is_one(of)));
    if all || differ(summary, |record| &record.model) {
        columns.push(Column::Model);
    }
    columns.extend(first);
    if all || differ(summary, |record| &record.backend) {
        columns.push(Column::Backend);
    }
    columns.extend(others);
    if columns.is_empty() {
        columns.push(Column::Model);
    }
    if (all && summary.rows.iter().any(|row| !row.is_there())) || summary.has_exceptions() {
        columns.push(Column::Status);
    }
    let mut figures = figures(summary, least);
    let clocks = summary.clocks();
    let clock = clocks.first().map_or("", |clock| &clock.key);
    // The clock by which rows are compared always has a column.
    let missing = clocks.first().filter(|it| figures.iter().all(|figure| figure.key != it.key));
    figures.extend(missing.map(|it| (*it).clone()));
    let quality = summary.rows.first().and_then(|row| row.record.task().quality.as_deref());
    figures.sort_by_key(|figure| match &*figure.key {
        key if key == clock => 0,
        key if Some(key) == quality => 2,
        "peak_memory_mb" => 3,
        // CPU seconds say least where there is a clock.
        "training_time_seconds" => 5,
        _ => 4,
    });
    let after = figures.iter().position(|figure| figure.key != clock).unwrap_or(figures.len());
    let rest = figures.split_off(after);
    columns.extend(figures.into_iter().map(Column::Figure));
    columns.extend(summary.compares().then_some(Column::SpeedUp));
    columns.extend(summary.has_verifications().then_some(Column::Verified));
    columns.extend(rest.into_iter().map(Column::Figure));
    columns
}

/// For documents: the specification's five columns first, then ours.
pub fn wide(summary: &Summary) -> Vec<Column> {
    let quality = summary.rows.first().and_then(|row| row.record.task().quality.as_deref());
    let is_first = |figure: &Figure| {
        let first = ["training_time_seconds", "peak_memory_mb"];
        first.contains(&&*figure.key) || quality == Some(&*figure.key)
    };
    let mut columns = vec![Column::Model, Column::Backend];
    let first = summary.figures.iter().filter(|figure| is_first(figure)).cloned();
    columns.extend(first.map(Column::Figure));
    columns.extend(summary.differences.iter().cloned().map(Column::Difference));
    let ours = figures(summary, Shown::Documents).into_iter().filter(|it| !is_first(it));
    columns.extend(ours.map(Column::Figure));
    // A quotient of CPU seconds is all that the specification's own files allow.
    if summary.compares() && !summary.only_specification {
        columns.push(Column::SpeedUp);
    }
    if summary.has_verifications() {
        columns.push(Column::Verified);
    }
    if summary.has_exceptions() {
        columns.push(Column::Status);
    }
    columns
}

/// Those that are known of any row.
fn figures(summary: &Summary, least: Shown) -> Vec<Figure> {
    let is_known =
        |figure: &&Figure| summary.rows.iter().any(|row| figure.of(&row.record).is_some());
    let wanted = summary.figures.iter().filter(|figure| figure.shown >= least);
    wanted.filter(is_known).cloned().collect()
}

impl Column {
    /// For the head. `units`: whether the cells have none.
    pub fn title(&self, summary: &Summary, units: bool) -> String {
        match self {
            Column::Model => "Model".to_owned(),
            Column::Backend => "Backend".to_owned(),
            Column::Difference(difference) => title(summary, difference),
            Column::Status => "Status".to_owned(),
            Column::Figure(figure) if units => visible(&figure.title(), SHOWN).into_owned(),
            Column::Figure(figure) if figure.key == "training_time_seconds" => {
                "CPU Time".to_owned()
            }
            Column::Figure(figure) => visible(&figure.label, SHOWN).into_owned(),
            Column::SpeedUp => match &summary.reference {
                Some(it)
                    if it.settings.is_empty() && !differ(summary, |record| &record.backend) =>
                {
                    format!("Against {}", visible(&it.executable, SHOWN))
                }
                Some(it) => format!("Against {}", visible(&it.to_string(), SHOWN)),
                None => "Against".to_owned(),
            },
            Column::Verified => "Verified".to_owned(),
        }
    }

    /// Whether it holds numbers.
    pub fn is_figure(&self) -> bool {
        matches!(self, Column::Figure(_))
    }

    /// The row's text in this column; `n/a` if it has none.
    pub fn cell<'a>(&self, summary: &'a Summary, row: &'a Row, units: bool) -> Cow<'a, str> {
        match self {
            Column::Model => visible(&row.record.model, SHOWN),
            Column::Backend => visible(&row.record.backend, SHOWN),
            Column::Difference(of) => difference(summary, row, of),
            Column::Status => row.status_words().into(),
            Column::Figure(figure) => match figure.of(&row.record) {
                None => UNKNOWN.into(),
                Some(value) => {
                    let claimed = !summary.only_specification && figure.is_claimed(&row.record);
                    let mark = if claimed { "\u{2020}" } else { "" };
                    match units {
                        true => with_unit(figure, value) + mark,
                        false => figure.printed(value) + mark,
                    }
                    .into()
                }
            },
            Column::SpeedUp => speed_up(summary, row).into(),
            Column::Verified => row.grade().words().into(),
        }
    }
}

/// A value for a screen; times and memory have three digits: `0.145 s`.
fn with_unit(figure: &Figure, value: f64) -> String {
    match figure.is_time() || figure.unit == "MB" {
        true => format!("{} {}", three_digits(value), figure.unit),
        false => figure.said(value),
    }
}

/// The title of a column that distinguishes rows.
pub fn title(summary: &Summary, difference: &Difference) -> String {
    match difference {
        Difference::Executable => "Executable".to_owned(),
        Difference::Task => "Task".to_owned(),
        Difference::Config(key) => key_title(summary, key),
        Difference::Dataset => "Dataset".to_owned(),
        Difference::Machine => "Machine".to_owned(),
        Difference::Compiled => "Compiled".to_owned(),
        Difference::Timestamp => "Timestamp".to_owned(),
        Difference::File => "File".to_owned(),
    }
}

fn key_title(summary: &Summary, key: &str) -> String {
    let declared = summary.rows.iter().find_map(|row| row.record.key(key));
    let label = declared.map_or("", |key| &key.label);
    let title = text::title(if label.is_empty() { key } else { label });
    visible(&title, SHOWN).into_owned()
}

/// Each setting that tells no rows of one model apart: `learning rate`, `0.01 (mlp, cnn), 0.1 (attention)`.
pub fn settings(summary: &Summary) -> Vec<(String, String)> {
    let is_told = |key: &str| summary.differences.contains(&Difference::Config(key.to_owned()));
    let setting = |(key, values): &(String, Vec<Value>)| {
        let mut models: IndexMap<String, IndexSet<&str>> = IndexMap::new();
        for row in summary.rows.iter().filter(|row| row.is_there()) {
            let value = row.record.config.get(key).filter(|value| !value.is_null());
            if let Some(value) = value {
                let value = visible(&text::scalar(Some(value)), SHOWN).into_owned();
                models.entry(value).or_default().insert(&row.record.model);
            }
        }
        let shown = models.into_iter().map(|(value, models)| match values.len() {
            1 => value,
            _ => format!("{value} ({})", visible(&Vec::from_iter(models).join(", "), SHOWN)),
        });
        (key.clone(), shown.collect::<Vec<_>>().join(", "))
    };
    let settings = summary.config.iter().filter(|(key, _)| !is_told(key)).map(setting);
    settings.filter(|(_, shown)| !shown.is_empty()).collect()
}

/// The row's text in the column of a difference.
pub fn difference<'a>(summary: &'a Summary, row: &'a Row, of: &Difference) -> Cow<'a, str> {
    let record = &row.record;
    match of {
        Difference::Executable => visible(&record.executable, SHOWN),
        Difference::Task => visible(&record.task().name, SHOWN),
        Difference::Config(key) => {
            visible(&text::scalar(record.config.get(key)), SHOWN).into_owned().into()
        }
        Difference::Dataset => match &record.dataset {
            Some(dataset) => dataset_label(summary, dataset).into(),
            None => text::UNKNOWN.into(),
        },
        Difference::Machine => match row.machine {
            Some(index) => (index + 1).to_string().into(),
            None => text::UNKNOWN.into(),
        },
        Difference::Compiled => if record.compiled { "yes" } else { "no" }.into(),
        Difference::Timestamp if record.timestamp.is_empty() => text::UNKNOWN.into(),
        Difference::Timestamp => visible(&record.timestamp, SHOWN),
        Difference::File => visible(&row.file, SHOWN),
    }
}

/// The dataset's name, with the beginning of its SHA-256 where two share the name.
pub fn dataset_label(summary: &Summary, dataset: &DatasetRecord) -> String {
    let namesakes = summary.datasets.iter().filter(|other| other.name == dataset.name).count();
    let name = visible(&dataset.name, SHOWN);
    match &dataset.sha256 {
        Some(sha256) if namesakes > 1 => {
            let start: String = sha256.chars().take(8).collect();
            format!("{name} ({})", visible(&start, 8))
        }
        _ => name.into_owned(),
    }
}

/// `14.6x slower [14.1, 15.2]` than the reference; a clock that not all groups have is named.
pub fn speed_up(summary: &Summary, row: &Row) -> String {
    let Some((change, clock)) = row.speed_up.zip(summary.clock(row)) else {
        return text::UNKNOWN.to_owned();
    };
    if row.is_reference {
        return "reference".to_owned();
    }
    let shown = against(clock, &change, false);
    match summary.clocks().first().is_some_and(|usual| usual.key == clock.key) {
        true => shown,
        false => format!("{shown} ({})", clock.label),
    }
}

/// `2.43x faster [2.31, 2.60]`, or `2.4x faster` in short.
pub fn against(figure: &Figure, change: &Change, in_short: bool) -> String {
    let factor = factor(figure, change, in_short);
    match interval(change).filter(|_| !in_short) {
        Some(it) => format!("{factor} [{}, {}]", three_digits(it.low), three_digits(it.high)),
        None => factor,
    }
}

/// Whether the new one is better, and the gain or loss of the same size, whichever way it counts.
fn sized(change: &Change, gain: f64) -> (bool, f64) {
    match change.scale {
        Scale::Ratio if change.gain >= 1.0 => (true, gain),
        Scale::Ratio => (false, 1.0 / gain),
        // Of values that are not all above 0 there is no ratio.
        Scale::Difference if change.gain >= 0.0 => (true, gain),
        Scale::Difference => (false, -gain),
    }
}

/// The interval of the factor, whichever way that counts.
pub fn interval(change: &Change) -> Option<Interval> {
    change.interval.map(|it| it.map(|gain| sized(change, gain).1))
}

/// `2.43x faster`. A `~` in front says that too few samples make it a guess; where no difference is shown there
/// is none to name.
pub fn factor(figure: &Figure, change: &Change, in_short: bool) -> String {
    let (is_better, factor) = sized(change, change.gain);
    let number = match factor {
        it if !in_short || it >= 1e6 || change.scale == Scale::Difference => three_digits(it),
        it if it < 1.95 => format!("{it:.2}"),
        it if it < 9.95 => format!("{it:.1}"),
        it if it < 999.5 => format!("{it:.0}"),
        it => digits(it),
    };
    let size = match change.scale {
        Scale::Ratio => number + "x",
        Scale::Difference => format!("{number} {}", figure.unit).trim_end().to_owned(),
    };
    let unsure = if change.verdict == Verdict::Inconclusive { "~" } else { "" };
    let claim = if is_better { Verdict::Faster } else { Verdict::Slower };
    match change.verdict {
        Verdict::NoDifference => Verdict::NoDifference.words(figure).to_owned(),
        _ if size == "1.00x" => format!("{unsure}equal"),
        _ => format!("{unsure}{size} {}", claim.words(figure)),
    }
}

/// The label of a row: `mlp cpu, hidden 512`.
pub fn label(summary: &Summary, row: &Row, with_time: bool) -> String {
    let record = &row.record;
    let mut names = Vec::new();
    if differ(summary, |record| &record.model) {
        names.push(visible(&record.model, SHOWN));
    }
    if differ(summary, |record| &record.backend) || names.is_empty() {
        names.push(visible(&record.backend, SHOWN));
    }
    if summary.differences.contains(&Difference::Executable) {
        names.insert(0, visible(&record.executable, SHOWN));
    }
    let is_time = |of: &Difference| matches!(of, Difference::Timestamp | Difference::File);
    let others = summary.differences.iter().filter(|of| **of != Difference::Executable);
    let told =
        others.filter(|of| with_time || !is_time(of)).filter_map(|of| told(summary, row, of));
    [names.join(" ")].into_iter().chain(told).collect::<Vec<_>>().join(", ")
}

/// `hidden 512`; `None` where it is not known.
pub fn told(summary: &Summary, row: &Row, of: &Difference) -> Option<String> {
    let value = difference(summary, row, of);
    let told = match of {
        Difference::Timestamp | Difference::File | Difference::Dataset | Difference::Task => {
            value.to_string()
        }
        _ => format!("{} {value}", title(summary, of).to_lowercase()),
    };
    (value != text::UNKNOWN).then_some(told)
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::folder::{Entry, Folder};
    use record::summary::Options;

    #[test]
    fn a_slower_row_says_how_many_times_slower_and_its_interval_too() {
        let seconds = record::figures::named("train_s", []).unwrap();
        let against = |change: &Change, in_short| against(&seconds, change, in_short);
        let interval = |low, high| Some(Interval { low, high, confidence: 0.95 });
        let scale = Scale::Ratio;
        let change = |gain, interval, verdict| Change { scale, gain, interval, verdict, loss: 0.0 };
        let slower = change(1.0 / 14.6, interval(1.0 / 15.2, 1.0 / 14.1), Verdict::Slower);
        assert_eq!(against(&slower, false), "14.6x slower [14.1, 15.2]");
        assert_eq!(against(&slower, true), "15x slower");
        assert_eq!(against(&change(2.43, None, Verdict::Inconclusive), false), "~2.43x faster");
        assert_eq!(against(&change(0.011, None, Verdict::Slower), true), "91x slower");
        assert_eq!(against(&change(1.0 / 120.0, None, Verdict::Slower), true), "120x slower");
        assert_eq!(against(&change(1.0 / 1200.0, None, Verdict::Slower), true), "1,200x slower");
        let late = Change { scale: Scale::Difference, ..change(-0.5, None, Verdict::Slower) };
        assert_eq!(against(&late, true), "0.500 s slower");
        let same = change(0.99, interval(0.97, 1.02), Verdict::NoDifference);
        assert_eq!(against(&same, true), "no difference shown");
        assert_eq!(against(&same, false), "no difference shown [0.980, 1.03]");
    }

    #[test]
    fn the_headline_says_how_much_of_the_machine_the_rows_could_use() {
        let headline = |threads: usize, cpus: &str| {
            let text = format!(
                r#"{{"executable": "x", "backend": "cpu", "model": "m", "status": "measured", "metrics": {{}}, "machine":
                {{"cores": 64, "threads": {threads}}}, "trainer": {{"limits": {{"cpus": {cpus}}}}}}}"#
            );
            let record = serde_json::from_str(&text).unwrap();
            let entries = vec![Entry { file: "a.json".into(), record }];
            let folder = Folder { entries, ..Folder::default() };
            headline(&Summary::new(folder, &Options::default()).unwrap())
        };
        assert!(headline(128, "null").contains("· 64 cores ·"), "{}", headline(128, "null"));
        assert!(headline(16, "null").contains("· 16 threads of 64 cores ·"));
        assert!(headline(128, "[2, 3]").contains("· 2 threads of 64 cores ·"));
    }

    #[test]
    fn what_is_missing_is_one_line_by_its_reason() {
        let [ours, torch] = ["MNISTClassic", "PyTorch"].map(Some);
        let row =
            |executable, backend, model, reason| [executable, Some(backend), Some(model), reason];
        let mac = Some("needs macOS");
        let mut rows = vec![
            row(ours, "cpu", "mlp", None),
            row(ours, "mps", "mlp", mac),
            row(ours, "mps", "cnn", mac),
            row(ours, "mpsgraph", "mlp", mac),
            row(ours, "wgpu", "mlp", None),
            row(ours, "wgpu", "cnn", Some("no such model")),
        ];
        let line = "Not on this machine: mps, mpsgraph (needs macOS) · wgpu cnn (no such model)";
        assert_eq!(absent(&rows).unwrap(), line);
        rows.push(row(torch, "cpu", "mlp", Some("not set up; `trainmark setup` does")));
        let line = absent(&rows).unwrap();
        assert!(line.contains("MNISTClassic mps, mpsgraph (needs macOS)"), "{line}");
        assert!(line.ends_with(" · PyTorch (not set up; `trainmark setup` does)"), "{line}");
        assert_eq!(absent(&rows[..1]), None);
    }

    #[test]
    fn a_reason_is_told_in_short() {
        let software = "only a software device (llvmpipe (LLVM 15, 256 bits)) is here; --x uses it";
        assert_eq!(in_short(software), "only a software device is here; --x uses it");
        assert_eq!(in_short("no CUDA driver: libcuda.so.1 not found"), "no CUDA driver");
        assert_eq!(in_short("needs macOS"), "needs macOS");
        assert_eq!(in_short("a) b (c"), "a) b");
    }
}
