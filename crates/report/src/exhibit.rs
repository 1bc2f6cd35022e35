//! A summary as charts, bars and the HTML report show it: panels of comparable rows, and in each panel its entries,
//! the fastest first. If a folder has more rows than a page can show, the first rows are shown.

use crate::table;
use crate::text::{count, three_digits, visible};
use indexmap::IndexSet;
use record::figures::Figure;
use record::stats::Interval;
use record::summary::{Difference, Group, Row, Summary, compare_rows};
use record::verdict::Change;
use record::{Sample, Verdict};

/// Entries that are shown.
pub const MAX_ENTRIES: usize = 200;
/// Samples of an entry that are drawn: more would be a blot, and would make the file large.
const MAX_SAMPLES: usize = 100;

/// The shown part of a summary.
#[derive(Debug)]
pub struct Exhibit<'a> {
    pub summary: &'a Summary,
    /// Names of who was measured: executable and backend, as far as they differ.
    pub contestants: Vec<String>,
    pub panels: Vec<Panel<'a>>,
    /// Rows that are not shown.
    pub left_out: usize,
}

/// Comparable rows: one model in one configuration on one dataset and machine.
#[derive(Debug)]
pub struct Panel<'a> {
    pub title: String,
    pub entries: Vec<Entry<'a>>,
    /// Which seconds its charts show.
    pub clock: Option<&'a Figure>,
    /// The quality's figure and the target of it.
    pub quality: Option<&'a Figure>,
    pub target: Option<f64>,
}

/// A row with its name and its place.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Place among all entries: what links a row of the table with the marks in the charts.
    pub place: usize,
    pub row: &'a Row,
    /// Place of its name among the contestants.
    pub contestant: usize,
    pub label: String,
}

impl<'a> Exhibit<'a> {
    /// The entries of every group.
    pub fn new(summary: &'a Summary) -> Exhibit<'a> {
        let mut contestants = IndexSet::new();
        let mut panels = Vec::new();
        let mut place = 0;
        for group in table::groups(summary) {
            let mut places = table::order(summary, group, false);
            places.truncate(MAX_ENTRIES - place);
            if !places.is_empty() {
                panels.push(panel(summary, group, &places, &mut place, &mut contestants));
            }
        }
        let left_out = summary.rows.iter().filter(|row| row.is_there()).count() - place;
        Exhibit { summary, contestants: contestants.into_iter().collect(), panels, left_out }
    }

    pub fn entries(&self) -> impl Iterator<Item = (&Panel<'a>, &Entry<'a>)> {
        self.panels.iter().flat_map(|panel| panel.entries.iter().map(move |it| (panel, it)))
    }

    /// A note for a folder that is too large to be shown completely.
    pub fn note(&self) -> Option<String> {
        let rows = count(self.left_out, "further row");
        (self.left_out > 0).then(|| format!("{rows} are not shown; the JSON report has all."))
    }
}

fn panel<'a>(
    summary: &'a Summary,
    group: &'a Group,
    places: &[usize],
    place: &mut usize,
    contestants: &mut IndexSet<String>,
) -> Panel<'a> {
    let mut entries: Vec<Entry> = Vec::new();
    let rows = || places.iter().map(|&place| &summary.rows[place]);
    // Keys that rows are compared across.
    let differs = |of: &&Difference| match of {
        Difference::Config(key) => rows().any(|row| {
            row.record.config.get(key) != summary.rows[places[0]].record.config.get(key)
        }),
        _ => false,
    };
    let across: Vec<&Difference> = summary.differences.iter().filter(differs).collect();
    for row in rows() {
        let told = across.iter().filter_map(|of| table::told(summary, row, of));
        let label =
            [contestant(summary, row)].into_iter().chain(told).collect::<Vec<_>>().join(", ");
        let (contestant, _) = contestants.insert_full(label.clone());
        entries.push(Entry { place: *place, row, contestant, label });
        *place += 1;
    }
    // Repeats of one contestant are told apart by when they ran.
    for index in 0..entries.len() {
        let own = entries[index].contestant;
        if entries.iter().filter(|entry| entry.contestant == own).count() > 1 {
            let time = table::difference(summary, entries[index].row, &Difference::Timestamp);
            entries[index].label = format!("{}, {time}", entries[index].label);
        }
    }
    let first = &summary.rows[group.rows[0]];
    let quality = first.record.task().quality.as_deref();
    Panel {
        title: title(summary, first, &across),
        clock: group.clock.as_ref(),
        quality: quality.and_then(|quality| summary.figure(quality)),
        target: quality.and_then(|quality| first.record.targets.get(quality).copied()),
        entries,
    }
}

/// Executable and backend, as far as they tell rows apart.
fn contestant(summary: &Summary, row: &Row) -> String {
    let executable = table::difference(summary, row, &Difference::Executable);
    let backend = visible(&row.record.backend, 60);
    let several = summary.differences.contains(&Difference::Executable);
    let mut label = match (several, table::differ(summary, |record| &record.backend)) {
        (true, true) => format!("{executable} {backend}"),
        (false, true) => backend.into_owned(),
        _ => executable.into_owned(),
    };
    if summary.differences.contains(&Difference::Compiled) && row.record.compiled {
        label += " compiled";
    }
    label
}

/// `mlp, hidden 512`: the model, and in what panels differ.
fn title(summary: &Summary, row: &Row, across: &[&Difference]) -> String {
    let of_panels = |of: &&Difference| {
        matches!(
            of,
            Difference::Config(_) | Difference::Machine | Difference::Dataset | Difference::Task
        )
    };
    let differences = summary.differences.iter().filter(of_panels);
    let differences = differences.filter(|of| !across.contains(of));
    let told = differences.filter_map(|of| table::told(summary, row, of));
    let model = visible(&row.record.model, 60).into_owned();
    [model].into_iter().chain(told).collect::<Vec<_>>().join(", ")
}

/// A ranked entry, its seconds, and what is shown of it against the fastest; `None` of the fastest itself.
pub struct Standing<'e, 'a> {
    pub entry: &'e Entry<'a>,
    pub seconds: f64,
    pub behind: Option<Change>,
}

/// Whether the first is shown to be faster than every other.
pub fn is_fastest(standings: &[Standing]) -> bool {
    let others = &standings[standings.len().min(1)..];
    let is_slower = |it: &Standing| it.behind.is_some_and(|it| it.verdict == Verdict::Slower);
    !others.is_empty() && others.iter().all(is_slower)
}

impl<'a> Panel<'a> {
    /// The ranked entries, the fastest first.
    pub fn standings(&self) -> Vec<Standing<'_, 'a>> {
        let Some(clock) = self.clock else { return Vec::new() };
        let mut standings: Vec<Standing> = Vec::new();
        for entry in self.entries.iter().filter(|entry| entry.row.is_ranked()) {
            let Some(seconds) = clock.of(&entry.row.record) else { continue };
            let first = standings.first().map(|first| &first.entry.row.record);
            let behind = first.and_then(|base| compare_rows(clock, base, &entry.row.record, false));
            standings.push(Standing { entry, seconds, behind });
        }
        standings
    }

    /// `cnn: PyTorch 0.34 s · JAX 15x slower`, where several are ranked: the panel, and who did how.
    pub fn answer(&self) -> Option<(String, String)> {
        let (standings, clock) = (self.standings(), self.clock?);
        let words = |it: &Standing| {
            let time = format!("{} s", three_digits(it.seconds));
            let shown = it.behind.map_or(time, |change| table::against(clock, &change, true));
            format!("{} {shown}", it.entry.label)
        };
        let words: Vec<String> = standings.iter().map(words).collect();
        (words.len() > 1).then(|| (self.title.clone(), words.join(" · ")))
    }

    /// `Roofline: mlp, hidden 512`.
    pub fn titled(&self, kind: &str) -> String {
        format!("{kind}: {}", self.title)
    }

    /// Entries that have figures worth a mark.
    pub fn charted(&self) -> impl Iterator<Item = &Entry<'a>> {
        self.entries.iter().filter(|entry| entry.row.record.status.completed())
    }
}

/// At most so many of the values, evenly spaced.
pub fn evenly<T: Copy>(values: Vec<T>, most: usize) -> Vec<T> {
    match values.len() > most {
        true => (0..most).map(|it| values[it * (values.len() - 1) / (most - 1)]).collect(),
        false => values,
    }
}

impl Entry<'_> {
    /// The interval of the median.
    pub fn interval(&self, figure: &Figure) -> Option<Interval> {
        self.row.record.intervals.get(&*figure.key).copied()
    }

    /// How many samples its figures are medians of.
    pub fn sample_count(&self) -> usize {
        self.row.record.counted().count().max(1)
    }

    /// Every sample's value, in their order; of very many, evenly spaced ones of all sizes.
    pub fn samples(&self, figure: &Figure) -> Vec<f64> {
        let samples = figure.samples(&self.row.record);
        let mut samples: Vec<f64> = samples.into_iter().map(|(_, value)| value).collect();
        if samples.len() > MAX_SAMPLES {
            samples.sort_by(f64::total_cmp);
        }
        evenly(samples, MAX_SAMPLES)
    }

    /// The sample nearest to the median: it stands for the others where only one can be drawn.
    pub fn median_sample(&self, figure: &Figure) -> Option<&Sample> {
        let median = figure.of(&self.row.record)?;
        let distance = |sample: &&Sample| {
            figure.of_sample(sample).map_or(f64::MAX, |value| (value - median).abs())
        };
        let samples = self.row.record.counted().filter(|sample| sample.status.completed());
        samples.min_by(|a, b| distance(a).total_cmp(&distance(b)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::summary::Options;
    use record::{Record, Sample, Timing};

    #[test]
    fn rows_of_a_panel_are_told_apart_by_the_key_that_they_are_compared_across() {
        let row = |lr: f64| {
            let mut record = Record {
                executable: "T".into(),
                model: "m".into(),
                backend: "cpu".into(),
                ..Record::default()
            };
            record.config.insert("lr".into(), lr.into());
            let timing = Timing { train_s: Some(lr), ..Timing::default() };
            record.add_sample(Sample { timing, ..Sample::default() });
            record
        };
        let options = Options { across: vec!["lr".into()], ..Options::default() };
        let summary = Summary::new(vec![row(0.5), row(2.0)].into(), &options).unwrap();
        let exhibit = Exhibit::new(&summary);
        let labels: Vec<&str> = exhibit.entries().map(|(_, entry)| entry.label.as_str()).collect();
        assert_eq!(labels, ["T, lr 0.5", "T, lr 2.0"]);
        assert_eq!(exhibit.panels[0].title, "m");
    }
}
