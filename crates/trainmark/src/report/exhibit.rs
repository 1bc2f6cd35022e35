//! What charts and the HTML report show of a summary: panels of comparable rows, and in each panel
//! its entries. An entry is a row; in a folder of more rows than a page can show it is a combination
//! that stands for all of its rows, so that what is shown does not grow without bound.

use super::collection::Row;
use super::compare::{Basis, Reference};
use super::summary::{Identity, Summary};
use super::text::{self, count, visible};
use crate::report::old_result::{ResultFile, Sample, Status};
use crate::stats::{self, Interval, Speedup};
use indexmap::{IndexMap, IndexSet};
use record::Verdict;
use serde_json::Value;

/// Up to so many rows each is an entry, and so many entries are shown.
pub const MAX_ENTRIES: usize = 200;
/// Samples of an entry that are drawn: more would be a blot, and would make the file large.
pub const MAX_SAMPLES: usize = 100;
/// Failures of an aggregated folder whose logs are shown, one of each reason.
const MAX_FAILURES: usize = 20;
/// Characters of a name or a value in a label.
const SHOWN: usize = 40;
/// What rows of an aggregated folder may differ in and still be repeats of each other.
const SEED: &str = "seed";

/// The shown part of a summary.
#[derive(Debug)]
pub struct Exhibit<'a> {
    pub summary: &'a Summary,
    /// Names of who was measured: executable and backend, as far as they differ.
    pub contestants: Vec<String>,
    pub panels: Vec<Panel<'a>>,
    /// Entries stand for several rows each.
    pub aggregated: bool,
    /// Combinations that are not shown.
    pub left_out: usize,
    /// Rows to look at, with their files where those could be read again.
    pub failures: Vec<(&'a Row, Option<&'a ResultFile>)>,
}

/// Comparable rows: one model in one configuration on one dataset and machine.
#[derive(Debug)]
pub struct Panel<'a> {
    pub title: String,
    /// All that tells it from other panels, for example `epochs 5, hidden size 512`; may be empty.
    pub settings: String,
    pub entries: Vec<Entry<'a>>,
    /// Which seconds its charts show.
    pub basis: Option<Basis>,
    pub target_accuracy_percent: Option<f64>,
}

/// A row, or all rows of a combination.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Place among all entries: what links a row of the table with the marks in the charts.
    pub place: usize,
    /// The row, or the newest measured one of the combination.
    pub row: &'a Row,
    rows: Vec<&'a Row>,
    /// Place of its name among the contestants.
    pub contestant: usize,
    pub label: String,
    pub backend: &'a str,
    /// The row's file with its samples, where it could be read again.
    pub file: Option<&'a ResultFile>,
    /// Of the speed-up in `row`; `None` where there are too few samples.
    pub speed_up_interval: Option<Interval>,
}

/// Rows whose files an exhibit needs in full.
pub fn needed(summary: &Summary) -> Vec<usize> {
    let mut needed: Vec<usize> = Vec::new();
    for mut panel in places(summary) {
        panel.sort_by(|a, b| by_speed(summary.rows(), a).total_cmp(&by_speed(summary.rows(), b)));
        needed.extend(panel.iter().map(|rows| representative(summary.rows(), rows)));
    }
    needed.truncate(MAX_ENTRIES);
    needed.extend(failures(summary));
    needed
}

/// The rows of each entry of each panel, as places in the summary.
fn places(summary: &Summary) -> Vec<Vec<Vec<usize>>> {
    let rows = summary.rows();
    let aggregated = rows.len() > MAX_ENTRIES;
    let mut panels: IndexMap<_, IndexMap<_, Vec<usize>>> = IndexMap::new();
    let mut start = 0;
    for group in rows.chunk_by(|a, b| a.group == b.group) {
        let first = &group[0];
        // Groups are apart by their whole configuration, the seed included.
        let key = match aggregated {
            false => (first.group, None),
            true => (
                0,
                Some((
                    common_config(summary, first),
                    first.model,
                    first.dataset,
                    summary.machine_index(first),
                )),
            ),
        };
        let panel = panels.entry(key).or_default();
        for (offset, row) in group.iter().enumerate() {
            let index = start + offset;
            let apart = if aggregated { 0 } else { index };
            let combination = (row.executable, row.backend, row.compiled, apart);
            panel.entry(combination).or_default().push(index);
        }
        start += group.len();
    }
    panels.into_values().map(|panel| panel.into_values().collect()).collect()
}

/// The configuration without what may differ between repeats.
fn common_config(summary: &Summary, row: &Row) -> String {
    let mut config = summary.collection.config_of(row.config).clone();
    config.shift_remove(SEED);
    Value::Object(config).to_string()
}

/// The newest row that was measured, else the newest.
fn representative(rows: &[Row], of: &[usize]) -> usize {
    let measured: Vec<usize> = of.iter().copied().filter(|&it| rows[it].is_ranked()).collect();
    let candidates = if measured.is_empty() { of } else { &measured };
    // There is always a row.
    super::compare::newest(rows, candidates).unwrap_or_default()
}

/// The fastest first; then what is not ranked, in the order of the files.
fn by_speed(rows: &[Row], of: &[usize]) -> f64 {
    let ranked = of.iter().map(|&it| &rows[it]).filter(|row| row.is_ranked());
    let seconds = ranked.filter_map(|row| Basis::ALL.into_iter().find_map(|it| it.seconds(row)));
    stats::median(&seconds.collect::<Vec<_>>()).unwrap_or(f64::INFINITY)
}

/// Rows that a person should look at: all of them, or one of each reason.
fn failures(summary: &Summary) -> Vec<usize> {
    let rows = summary.rows();
    let failed = (0..rows.len()).filter(|&it| rows[it].status.failed());
    if rows.len() <= MAX_ENTRIES {
        return failed.collect();
    }
    let mut seen = IndexSet::new();
    let new = |&it: &usize| seen.insert((rows[it].executable, rows[it].backend, rows[it].reason));
    failed.filter(new).take(MAX_FAILURES).collect()
}

impl<'a> Exhibit<'a> {
    pub fn new(summary: &'a Summary) -> Exhibit<'a> {
        let rows = summary.rows();
        let aggregated = rows.len() > MAX_ENTRIES;
        let mut contestants = IndexSet::new();
        let mut panels = Vec::new();
        let (mut place, mut left_out) = (0, 0);
        let places = places(summary);
        let first_rows: Vec<&Row> = places.iter().map(|panel| &rows[panel[0][0]]).collect();
        for mut shown in places {
            shown.sort_by(|a, b| by_speed(rows, a).total_cmp(&by_speed(rows, b)));
            let room = MAX_ENTRIES - place;
            left_out += shown.len().saturating_sub(room);
            shown.truncate(room);
            if shown.is_empty() {
                continue;
            }
            let entries = shown.iter().map(|of| {
                let index = representative(rows, of);
                let row = &rows[index];
                let label = contestant(summary, row);
                let (contestant, _) = contestants.insert_full(label.clone());
                place += 1;
                Entry {
                    place: place - 1,
                    row,
                    rows: of.iter().map(|&index| &rows[index]).collect(),
                    contestant,
                    label,
                    backend: summary.backend(row),
                    file: summary.file(index),
                    speed_up_interval: None,
                }
            });
            panels.push(Panel::new(summary, entries.collect(), &first_rows, aggregated));
        }
        let failures = failures(summary).into_iter();
        Exhibit {
            failures: failures.map(|it| (&rows[it], summary.file(it))).collect(),
            contestants: contestants.into_iter().collect(),
            panels,
            aggregated,
            left_out,
            summary,
        }
    }

    pub fn entries(&self) -> impl Iterator<Item = (&Panel<'a>, &Entry<'a>)> {
        self.panels.iter().flat_map(|panel| panel.entries.iter().map(move |it| (panel, it)))
    }

    /// What a reader has to know of a folder that is too large to be shown row by row.
    pub fn aggregation_note(&self) -> Option<String> {
        if !self.aggregated {
            return None;
        }
        let mut note = format!(
            "{} are too many to show one by one: each line stands for all rows of a combination \
             (seeds apart) with the median of their figures.",
            count(self.summary.rows().len(), "row")
        );
        if self.left_out > 0 {
            note += &format!(
                " {} are not shown; the JSON report has all rows.",
                count(self.left_out, "further combination")
            );
        }
        Some(note)
    }
}

/// Executable and backend, as far as they tell rows apart.
fn contestant(summary: &Summary, row: &Row) -> String {
    let mut label = visible(summary.backend(row), SHOWN).into_owned();
    if summary.executables().len() > 1 {
        label = format!("{} {label}", visible(summary.executable(row), SHOWN));
    }
    if summary.identity.contains(&Identity::Compiled) && row.compiled {
        label += " compiled";
    }
    label
}

impl<'a> Panel<'a> {
    fn new(
        summary: &Summary,
        mut entries: Vec<Entry<'a>>,
        among: &[&Row],
        aggregated: bool,
    ) -> Panel<'a> {
        tell_apart(&mut entries);
        let first = entries[0].row; // a panel has at least one
        let mut panel = Panel {
            title: title(summary, first, among, aggregated),
            settings: settings(summary, first, aggregated, |_| true).join(", "),
            basis: None,
            target_accuracy_percent: entries.iter().find_map(|it| it.row.target_accuracy_percent),
            entries,
        };
        let with =
            |basis: &Basis| panel.charted().filter(|it| it.seconds(*basis).is_some()).count();
        let all = panel.charted().count();
        let complete = Basis::ALL.into_iter().find(|basis| all > 0 && with(basis) == all);
        panel.basis = complete.or(Basis::ALL.into_iter().find(|basis| with(basis) > 0));
        if let Some(reference) = &summary.reference {
            panel.set_intervals(summary, reference);
        }
        panel
    }

    /// Entries that have figures worth a mark.
    pub fn charted(&self) -> impl Iterator<Item = &Entry<'a>> {
        self.entries.iter().filter(|entry| entry.row.status.completed())
    }

    /// The interval of each speed-up, from the samples of both rows. Those of the same rounds are
    /// paired, which takes out what a round has in common.
    fn set_intervals(&mut self, summary: &Summary, reference: &Reference) {
        let is_reference = |entry: &&Entry| {
            summary.executable(entry.row) == reference.executable
                && summary.backend(entry.row) == reference.backend
                && entry.row.is_ranked()
        };
        let references: Vec<(&Row, Option<&ResultFile>)> =
            self.entries.iter().filter(is_reference).map(|it| (it.row, it.file)).collect();
        let rows: Vec<Row> = references.iter().map(|(row, _)| (*row).clone()).collect();
        let all: Vec<usize> = (0..rows.len()).collect();
        let Some(newest) = super::compare::newest(&rows, &all) else { return };
        for entry in &mut self.entries {
            let same_run: Vec<usize> = all
                .iter()
                .copied()
                .filter(|&it| rows[it].run.is_some() && rows[it].run == entry.row.run)
                .collect();
            let against = super::compare::newest(&rows, &same_run).unwrap_or(newest);
            let (row, file) = references[against];
            if entry.rows.len() == 1
                && !std::ptr::eq(row, entry.row)
                && let (Some(speed_up), Some(base), Some(new)) =
                    (entry.row.speed_up, file, entry.file)
            {
                let found = speed_up_of(base, new, speed_up.basis);
                entry.speed_up_interval = found.and_then(|found| found.interval);
            }
        }
    }
}

/// The speed-up with its interval, by the samples that completed.
fn speed_up_of(base: &ResultFile, new: &ResultFile, basis: Basis) -> Option<Speedup> {
    let (base_s, new_s) = (completed(base, basis), completed(new, basis));
    let run = |file: &ResultFile| file.run.as_ref().map(|run| run.id.clone());
    if run(base).is_some() && run(base) == run(new) {
        let pairs = base_s.iter().filter_map(|(round, base)| {
            let (_, new) = new_s.iter().find(|(other, _)| other == round)?;
            Some((*base, *new))
        });
        let (paired_base, paired_new): (Vec<f64>, Vec<f64>) = pairs.unzip();
        let paired = stats::paired_speedup(&paired_base, &paired_new);
        if let Some(Speedup { interval: Some(_), .. }) = paired {
            return paired;
        }
    }
    let seconds = |of: &[(u32, f64)]| of.iter().map(|(_, seconds)| *seconds).collect::<Vec<_>>();
    stats::unpaired_speedup(&seconds(&base_s), &seconds(&new_s))
}

fn completed(file: &ResultFile, basis: Basis) -> Vec<(u32, f64)> {
    let samples = file.counted().filter(|sample| sample.status.completed());
    let seconds = samples.filter_map(|it| Some((it.round, sample_seconds(it, basis)?)));
    seconds.collect()
}

fn sample_seconds(sample: &Sample, basis: Basis) -> Option<f64> {
    let timing = &sample.timing;
    let seconds = match basis {
        Basis::TrainLoop => timing.train_s,
        Basis::Wall => timing.wall_s,
        Basis::Cpu => Some(timing.user_s? + timing.system_s?),
    };
    seconds.filter(|seconds| *seconds > 0.0 && seconds.is_finite())
}

/// Repeats of one contestant are told apart by when they ran.
fn tell_apart(entries: &mut [Entry]) {
    let mut times: IndexMap<usize, usize> = IndexMap::new();
    for entry in entries.iter() {
        *times.entry(entry.contestant).or_default() += 1;
    }
    for entry in entries {
        if times[&entry.contestant] > 1 {
            entry.label = format!("{}, {}", entry.label, visible(entry.row.timestamp(), SHOWN));
        }
    }
}

/// `mlp, hidden 512`: the model, and in what panels of this model differ.
fn title(summary: &Summary, row: &Row, among: &[&Row], aggregated: bool) -> String {
    let same_model = || among.iter().filter(|other| other.model == row.model);
    let differs = |identity: &Identity| {
        let own = summary.identity_of(row, identity);
        same_model().any(|other| summary.identity_of(other, identity) != own)
    };
    let mut parts = vec![visible(summary.model(row), SHOWN).into_owned()];
    parts.extend(settings(summary, row, aggregated, differs));
    parts.join(", ")
}

/// What a panel has in common that not all panels have: its configuration, dataset and machine.
fn settings(
    summary: &Summary,
    row: &Row,
    aggregated: bool,
    wanted: impl Fn(&Identity) -> bool,
) -> Vec<String> {
    let setting = |identity: &Identity| {
        let value = summary.identity_of(row, identity);
        let value = visible(&value, SHOWN);
        match identity {
            Identity::Config(key) if aggregated && key == SEED => None,
            _ if value == text::UNKNOWN => None,
            Identity::Config(_) => {
                let title = identity.title().to_lowercase();
                Some(format!("{} {value}", visible(&title, SHOWN)))
            }
            Identity::Dataset => Some(value.into_owned()),
            Identity::Machine => Some(format!("machine {value}")),
            _ => None,
        }
    };
    summary.identity.iter().filter(|it| wanted(it)).filter_map(setting).collect()
}

impl Entry<'_> {
    /// Rows that it stands for.
    pub fn row_count(&self) -> usize {
        self.rows.len()
    }

    /// Statuses of its rows, the most frequent first.
    pub fn statuses(&self) -> Vec<(Status, usize)> {
        let mut statuses: IndexMap<Status, usize> = IndexMap::new();
        for row in &self.rows {
            *statuses.entry(row.status).or_default() += 1;
        }
        statuses.sort_by(|_, a, _, b| b.cmp(a));
        statuses.into_iter().collect()
    }

    /// A figure of the row, or the median over its rows.
    pub fn figure(&self, get: impl Fn(&Row) -> Option<f64>) -> Option<f64> {
        if let [row] = &self.rows[..] {
            return get(row);
        }
        let completed = self.rows.iter().filter(|row| row.status.completed());
        stats::median(&completed.filter_map(|row| get(row)).collect::<Vec<_>>())
    }

    pub fn seconds(&self, basis: Basis) -> Option<f64> {
        self.figure(|row| basis.seconds(row))
    }

    pub fn memory_mb(&self) -> Option<f64> {
        self.figure(|row| row.metrics().peak_memory_mb)
    }

    pub fn accuracy_percent(&self) -> Option<f64> {
        self.figure(|row| row.metrics().test_accuracy_percent)
    }

    pub fn speed_up(&self) -> Option<f64> {
        self.figure(|row| row.speed_up.map(|it| it.factor))
    }

    /// What the samples show of it beside the reference. `None` where there are too few for any
    /// claim.
    pub fn verdict(&self) -> Option<Verdict> {
        let speed_up =
            Speedup { ratio: self.row.speed_up?.factor, interval: Some(self.speed_up_interval?) };
        let floor = self.file.and_then(|file| file.noise_floor.as_ref()).map_or(0.0, |it| it.share);
        Some(speed_up.verdict(floor))
    }

    /// Whether that is a difference.
    pub fn difference_is_shown(&self) -> Option<bool> {
        self.verdict().map(|it| it != Verdict::NoDifference)
    }

    /// Of its runs, how many were disturbed, how many of those were repeated, and by what.
    pub fn disturbances(&self) -> (usize, usize, IndexSet<&str>) {
        let disturbed = |sample: &&Sample| !sample.disturbances.is_empty();
        let samples = || self.file.iter().flat_map(|file| &file.samples).filter(disturbed);
        let repeated = samples().filter(|sample| sample.superseded).count();
        let by = samples().flat_map(|sample| sample.disturbances.iter().map(String::as_str));
        (samples().count(), repeated, by.collect())
    }

    /// The interval of the median of these seconds.
    pub fn interval(&self, basis: Basis) -> Option<Interval> {
        let key = basis.key();
        let key = key.rsplit_once('.').map_or(key, |(_, key)| key);
        match &self.rows[..] {
            [_] => self.file?.intervals.get(key).copied(),
            rows => {
                let completed = rows.iter().filter(|row| row.status.completed());
                let seconds: Vec<f64> = completed.filter_map(|row| basis.seconds(row)).collect();
                stats::median_interval(&seconds, stats::CONFIDENCE)
            }
        }
    }

    /// How many runs its figures are medians of.
    pub fn sample_count(&self) -> usize {
        match (&self.rows[..], self.file) {
            ([_], Some(file)) => file.counted().count(),
            (rows, _) => rows.len(),
        }
    }

    /// The seconds of every run that completed, in their order; of very many, evenly spaced ones of
    /// all sizes.
    pub fn samples(&self, basis: Basis) -> Vec<f64> {
        let mut samples: Vec<f64> = match (&self.rows[..], self.file) {
            ([_], Some(file)) if !file.samples.is_empty() => {
                completed(file, basis).into_iter().map(|(_, seconds)| seconds).collect()
            }
            (rows, _) => {
                let completed = rows.iter().filter(|row| row.status.completed());
                completed.filter_map(|row| basis.seconds(row)).collect()
            }
        };
        if samples.len() > MAX_SAMPLES {
            samples.sort_by(f64::total_cmp);
            let last = samples.len() - 1;
            samples = (0..MAX_SAMPLES).map(|it| samples[it * last / (MAX_SAMPLES - 1)]).collect();
        }
        samples
    }

    /// The run whose seconds are nearest to the median: it stands for the others where only one can
    /// be drawn.
    pub fn median_sample(&self, basis: Basis) -> Option<&Sample> {
        let median = basis.seconds(self.row)?;
        let samples = self.file?.counted().filter(|sample| sample.status.completed());
        let distance = |sample: &&Sample| {
            sample_seconds(sample, basis).map_or(f64::MAX, |seconds| (seconds - median).abs())
        };
        samples.min_by(|a, b| distance(a).total_cmp(&distance(b)))
    }
}
