//! The columns that rows are shown with, on a terminal and in documents: what tells the rows apart, then
//! every figure that is known of any of them, then what they are compared by.

use crate::text::{self, UNKNOWN, decimal, visible};
use record::figures::{Figure, Shown};
use record::summary::{Difference, Row, Summary};
use record::{DatasetRecord, Verdict};
use std::borrow::Cow;

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

/// For a terminal, which has little room: names first, and of the figures those that matter most.
pub fn narrow(summary: &Summary) -> Vec<Column> {
    let mut columns = Vec::new();
    if summary.names(|record| &record.model).len() > 1 {
        columns.push(Column::Model);
    }
    let of = |executable: bool| {
        let differences = summary.differences.iter().cloned();
        differences.filter(move |it| (*it == Difference::Executable) == executable)
    };
    columns.extend(of(true).map(Column::Difference));
    columns.push(Column::Backend);
    columns.extend(of(false).map(Column::Difference));
    if !summary.only_specification || summary.has_exceptions() {
        columns.push(Column::Status);
    }
    columns.extend(figures(summary, Shown::Everywhere));
    if summary.compares() {
        columns.push(Column::SpeedUp);
    }
    if summary.has_verifications() {
        columns.push(Column::Verified);
    }
    columns
}

/// For documents: the specification's five columns first, then ours.
pub fn wide(summary: &Summary) -> Vec<Column> {
    let mut figures = figures(summary, Shown::Documents);
    let ours = figures.split_off(figures.len().min(3));
    let mut columns = vec![Column::Model, Column::Backend];
    columns.extend(figures);
    columns.extend(summary.differences.iter().cloned().map(Column::Difference));
    columns.extend(ours);
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

/// Those that are known of any row; the specification's three always.
fn figures(summary: &Summary, least: Shown) -> Vec<Column> {
    let is_known =
        |figure: &Figure| summary.rows.iter().any(|row| figure.of(&row.record).is_some());
    let is_first = |figure: &Figure| {
        let first = ["training_time_seconds", "peak_memory_mb"];
        let quality = summary.rows.first().and_then(|row| row.record.task().quality.as_deref());
        first.contains(&&*figure.key) || quality == Some(&*figure.key)
    };
    let wanted = summary.figures.iter().filter(|figure| figure.shown >= least);
    let mut figures: Vec<&Figure> =
        wanted.filter(|figure| is_first(figure) || is_known(figure)).collect();
    figures.sort_by_key(|figure| !is_first(figure)); // stable: the rest keeps its order
    figures.into_iter().cloned().map(Column::Figure).collect()
}

impl Column {
    /// For the head.
    pub fn title(&self, summary: &Summary) -> String {
        match self {
            Column::Model => "Model".to_owned(),
            Column::Backend => "Backend".to_owned(),
            Column::Difference(difference) => title(summary, difference),
            Column::Status => "Status".to_owned(),
            Column::Figure(figure) => visible(&figure.title(), SHOWN).into_owned(),
            Column::SpeedUp => "Speed-up".to_owned(),
            Column::Verified => "Verified".to_owned(),
        }
    }

    /// Whether it holds numbers.
    pub fn is_figure(&self) -> bool {
        matches!(self, Column::Figure(_) | Column::SpeedUp)
    }

    /// What the row has there.
    pub fn cell<'a>(&self, summary: &'a Summary, row: &'a Row) -> Cow<'a, str> {
        match self {
            Column::Model => visible(&row.record.model, SHOWN),
            Column::Backend => visible(&row.record.backend, SHOWN),
            Column::Difference(of) => difference(summary, row, of),
            Column::Status => row.status_words().into(),
            Column::Figure(figure) => {
                let claimed = !summary.only_specification && figure.is_claimed(&row.record);
                let mark = if claimed { "\u{2020}" } else { "" };
                let shown = figure.of(&row.record).map(|value| figure.printed(value) + mark);
                shown.map_or(UNKNOWN.into(), Cow::from)
            }
            Column::SpeedUp => speed_up(summary, row).into(),
            Column::Verified => summary.grade(row).words().into(),
        }
    }
}

/// What a column that tells rows apart is called.
pub fn title(summary: &Summary, difference: &Difference) -> String {
    match difference {
        Difference::Executable => "Executable".to_owned(),
        Difference::Task => "Task".to_owned(),
        Difference::Config(key) => {
            let declared = summary.rows.iter().find_map(|row| row.record.key(key));
            let label = declared.map_or("", |key| &key.label);
            let title = text::title(if label.is_empty() { key } else { label });
            visible(&title, SHOWN).into_owned()
        }
        Difference::Dataset => "Dataset".to_owned(),
        Difference::Machine => "Machine".to_owned(),
        Difference::Compiled => "Compiled".to_owned(),
        Difference::Timestamp => "Timestamp".to_owned(),
        Difference::File => "File".to_owned(),
    }
}

/// What stands in it.
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

/// `2.70x [2.61, 2.80]`: the interval where there is one. A `~` in front says that too few samples make
/// it a guess, a `≈` behind that no difference is shown; a clock that not all groups have is named.
pub fn speed_up(summary: &Summary, row: &Row) -> String {
    let Some(change) = row.speed_up else { return text::UNKNOWN.to_owned() };
    let unsure = if change.verdict == Verdict::Inconclusive { "~" } else { "" };
    let mut shown = format!("{unsure}{}x", decimal(Some(change.gain)));
    if let Some(it) = change.interval {
        shown += &format!(" [{}, {}]", decimal(Some(it.low)), decimal(Some(it.high)));
    }
    if change.interval.is_some() && change.verdict == Verdict::NoDifference {
        shown += " ≈";
    }
    let clock = summary.groups[row.group].clock.as_ref();
    let usual = summary.clocks().first().map(|clock| clock.key.clone());
    match clock.filter(|clock| Some(&clock.key) != usual.as_ref()) {
        Some(clock) => format!("{shown} ({})", clock.label),
        None => shown,
    }
}

/// What tells a row apart from the others: `mlp cpu, hidden 512`.
pub fn label(summary: &Summary, row: &Row, with_time: bool) -> String {
    let record = &row.record;
    let mut name = visible(&record.backend, SHOWN).into_owned();
    if summary.names(|record| &record.model).len() > 1 {
        name = format!("{} {name}", visible(&record.model, SHOWN));
    }
    let mut parts = vec![name];
    for of in &summary.differences {
        let value = difference(summary, row, of);
        match of {
            Difference::Executable => parts[0] = format!("{value} {}", parts[0]),
            _ if value == text::UNKNOWN => {}
            Difference::Timestamp | Difference::File if !with_time => {}
            Difference::Timestamp | Difference::File | Difference::Dataset | Difference::Task => {
                parts.push(value.into_owned());
            }
            _ => parts.push(format!("{} {value}", title(summary, of).to_lowercase())),
        }
    }
    parts.join(", ")
}
