//! Folders of result files, damaged in every way: no verdict becomes more confident when information is removed,
//! and none changes when a file is copied, renamed or read in another order.
//!
//! More than ten thousand folders (two for each case of each property, and what becomes of them) come from valid
//! records, of which figures are changed, doubled, removed, negated, zeroed and moved in time. A verdict is *known* if it claims a difference or that none is shown, and unknown
//! otherwise. Information is what was measured: samples, figures, files. What is said against a row (a failure,
//! a contradiction) is never taken away here: a row without it is another claim, not the same with less known.

use proptest::prelude::*;
use record::comparison::{self, Conclusion, Outcome};
use record::figures;
use record::folder::{Entry, Folder};
use record::history::History;
use record::summary::{Options, Summary};
use record::task::{Better, MetricRecord, TaskRecord};
use record::{Record, RunIdentity, Sample, Status, Timing, Verdict};
use std::collections::{BTreeMap, BTreeSet};

const CASES: u32 = 3_000;
const FIGURES: [&str; 4] = ["train_s", "wall_s", "peak_memory_mb", "score"];

/// One run of one row.
#[derive(Clone, Debug)]
struct Run {
    executable: &'static str,
    backend: &'static str,
    id: u8,
    samples: u32,
    level: f64,
    has_clock: bool,
    /// What the score is multiplied by: it may be 0 or below.
    score: f64,
}

/// What is done to a file before anybody reads it.
#[derive(Clone, Debug)]
struct Damage {
    file: prop::sample::Index,
    sample: prop::sample::Index,
    figure: usize,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Scaled(f64),
    Removed,
    Headline(f64),
    HeadlineRemoved,
    Moved,
    /// The sample stands there twice.
    Twice,
    /// It failed.
    Failed,
    /// A copy of the file beside it, of which a figure is another.
    Rival,
}

prop_compose! {
    fn run()(
        who in prop::sample::select(vec![("A", "cpu"), ("A", "gpu"), ("B", "cpu")]),
        id in 0..4u8,
        samples in prop_oneof![1..4u32, 3..9u32],
        level in prop::sample::select(vec![1.0, 1.005, 1.02, 1.5, 10.0]),
        has_clock in prop::bool::weighted(0.9),
        score in prop::sample::select(vec![1.0, 1.0, 0.0, -1.0]),
    ) -> Run {
        Run { executable: who.0, backend: who.1, id, samples, level, has_clock, score }
    }
}

/// Some runs of some rows, or many runs of one.
fn runs() -> impl Strategy<Value = Vec<Run>> {
    let history = (8..14u8, 1.0..1.6f64, run()).prop_map(|(number, jump, run)| {
        let one = |id| {
            let level = if id > number / 2 { jump } else { 1.0 };
            Run { id, level, samples: 1, ..run.clone() }
        };
        (0..number).map(one).collect()
    });
    prop_oneof![9 => prop::collection::vec(run(), 1..6), 1 => history]
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let kind = prop_oneof![
        prop::sample::select(vec![-1.0, 0.0, 0.5, 2.0, 1e6]).prop_map(Kind::Scaled),
        prop::sample::select(vec![-1.0, 0.0, 0.5, 2.0]).prop_map(Kind::Headline),
        Just(Kind::Removed),
        Just(Kind::HeadlineRemoved),
        Just(Kind::Moved),
        Just(Kind::Twice),
        Just(Kind::Failed),
        Just(Kind::Rival),
    ];
    let any = any::<prop::sample::Index>;
    let damage = (any(), any(), 0..FIGURES.len(), kind)
        .prop_map(|(file, sample, figure, kind)| Damage { file, sample, figure, kind });
    prop::collection::vec(damage, 0..3)
}

fn record(run: &Run, side: &str) -> Record {
    let metric = MetricRecord { better: Better::Higher, ..MetricRecord::default() };
    let task =
        TaskRecord { metrics: [("score".to_owned(), metric)].into(), ..TaskRecord::default() };
    let identity = RunIdentity {
        id: format!("{side}{}", run.id),
        started: format!("2026-01-{:02}T00:00:00Z", run.id + 1),
        ..RunIdentity::default()
    };
    let samples = (0..run.samples).map(|round| {
        let noise = f64::from((u32::from(run.id) * 7 + round * 5) % 11) / 1000.0;
        let seconds = run.level * (1.0 + noise);
        let timing = Timing {
            train_s: run.has_clock.then_some(seconds),
            wall_s: Some(seconds + 0.5),
            ..Timing::default()
        };
        Sample {
            round,
            timing,
            peak_memory_bytes: Some((1e8 * seconds) as u64),
            metrics: [("score".to_owned(), run.score / seconds)].into(),
            ..Sample::default()
        }
    });
    Record {
        executable: run.executable.into(),
        model: "m".into(),
        backend: run.backend.into(),
        schema_version: 2,
        task: Some(Box::new(task)),
        run: Some(Box::new(identity)),
        samples: samples.collect(),
        ..Record::default()
    }
    .checked()
}

/// The files of a folder: each row of each run once, before anything happens to it.
fn folder(runs: &[Run], side: &str) -> Vec<Entry> {
    let mut files: BTreeMap<String, Record> = BTreeMap::new();
    for run in runs {
        let name = format!("{}_{}_{}{}.json", run.executable, run.backend, side, run.id);
        files.entry(name).or_insert_with(|| record(run, side));
    }
    files.into_iter().map(|(file, record)| Entry { file, record }).collect()
}

fn change(sample: &mut Sample, figure: usize, of: impl Fn(f64) -> Option<f64>) {
    let timing = &mut sample.timing;
    match FIGURES[figure] {
        "train_s" => timing.train_s = timing.train_s.and_then(of),
        "wall_s" => timing.wall_s = timing.wall_s.and_then(of),
        "peak_memory_mb" => {
            let bytes = sample.peak_memory_bytes.and_then(|bytes| of(bytes as f64));
            sample.peak_memory_bytes = bytes.map(|bytes| bytes as u64);
        }
        name => {
            if let Some(value) = sample.metrics.remove(name).and_then(of) {
                sample.metrics.insert(name.to_owned(), value);
            }
        }
    }
}

fn change_headline(record: &mut Record, figure: usize, of: impl Fn(f64) -> Option<f64>) {
    match FIGURES[figure] {
        "train_s" => record.timing.train_s = record.timing.train_s.and_then(of),
        "wall_s" => record.timing.wall_s = record.timing.wall_s.and_then(of),
        "peak_memory_mb" => {
            record.metrics.peak_memory_mb = record.metrics.peak_memory_mb.and_then(of);
        }
        name => {
            let value = record.metrics.of_task.get(name).copied().flatten().and_then(of);
            record.metrics.of_task.insert(name.to_owned(), value);
        }
    }
}

/// The headline of a file whose samples somebody changed is written anew, unless it is what was changed.
fn rewrite(record: &mut Record) {
    record.metrics = Default::default();
    *record.timing = Timing::default();
    record.peak_memory_bytes = None;
}

fn damage(files: &mut Vec<Entry>, damages: &[Damage]) {
    for it in damages {
        if files.is_empty() {
            return;
        }
        let at = it.file.index(files.len());
        let mut entry = files[at].clone();
        let record = &mut entry.record;
        if record.samples.is_empty() {
            continue;
        }
        let round = it.sample.index(record.samples.len());
        match it.kind {
            Kind::Scaled(by) => change(&mut record.samples[round], it.figure, |it| Some(it * by)),
            Kind::Removed => change(&mut record.samples[round], it.figure, |_| None),
            Kind::Headline(by) => change_headline(record, it.figure, |it| Some(it * by)),
            Kind::HeadlineRemoved => change_headline(record, it.figure, |_| None),
            Kind::Moved => {
                if let Some(run) = &mut record.run {
                    run.started = "2025-06-01T00:00:00Z".into();
                }
            }
            Kind::Twice => record.samples.push(record.samples[round].clone()),
            Kind::Failed => record.samples[round].status = Status::Failed,
            Kind::Rival => {
                change(&mut record.samples[round], it.figure, |it| Some(it * 1.5));
                entry.file = format!("rival_{}", entry.file);
            }
        }
        if !matches!(it.kind, Kind::Headline(_) | Kind::HeadlineRemoved) {
            rewrite(&mut entry.record);
        }
        match it.kind {
            Kind::Rival => files.push(entry),
            _ => files[at] = entry,
        }
    }
}

/// As if the files were read from a disk: by their names, and each held against itself.
fn read(files: &[Entry]) -> Folder {
    let mut files = files.to_vec();
    files.sort_by(|a, b| a.file.cmp(&b.file));
    files.iter_mut().for_each(|it| it.record = std::mem::take(&mut it.record).checked());
    Folder::new(files)
}

/// What is said of some folders, by names that have nothing to do with files.
#[derive(Debug, PartialEq)]
struct Said {
    gate: Option<Conclusion>,
    compared: BTreeMap<String, Outcome>,
    ranked: BTreeMap<String, (Option<Verdict>, Option<u32>, bool)>,
    changes: BTreeMap<String, Vec<(String, bool)>>,
}

fn said(base: &[Entry], new: &[Entry], options: &Options) -> Said {
    let (base, new) = (read(base), read(new));
    let wanted = comparison::Options {
        figures: FIGURES.map(str::to_owned).into(),
        gate: 0.03,
        ..comparison::Options::default()
    };
    let compared = comparison::compare(&base, &new, &wanted);
    let gate = compared.as_ref().ok().map(|it| it.conclusion);
    let rows = compared.into_iter().flat_map(|it| it.rows);
    let compared = rows.map(|it| (format!("{} {}", it.job, it.figure.key), it.outcome)).collect();
    let all = Folder::new([base.entries, new.entries].concat());
    let Ok(summary) = Summary::new(all, options) else {
        return Said { gate, compared, ranked: BTreeMap::new(), changes: BTreeMap::new() };
    };
    let name = |row: &record::summary::Row| {
        let run = row.record.run.as_ref().map_or("", |run| &run.id);
        format!("{} {} {run}", row.record.executable, row.record.backend)
    };
    let verdict = |row: &record::summary::Row| row.speed_up.map(|it| it.verdict);
    let ranked =
        summary.rows.iter().map(|it| (name(it), (verdict(it), it.rank, it.is_reference))).collect();
    let mut changes = BTreeMap::new();
    for figure in FIGURES {
        let figure = figures::named(figure, summary.rows.iter().map(|it| &it.record)).unwrap();
        let label = |row: &record::summary::Row| {
            format!("{} {} {}", row.record.executable, row.record.backend, figure.key)
        };
        for series in History::new(&summary, &figure, 0.01, label).series {
            let found = series.changes.iter().map(|it| {
                assert!(it.interval.is_some() && it.at >= 4, "{it:?}");
                (it.when.clone(), it.worse)
            });
            changes.insert(series.label, found.collect());
        }
    }
    Said { gate, compared, ranked, changes }
}

fn is_known(outcome: Outcome) -> bool {
    !matches!(outcome, Outcome::Inconclusive | Outcome::NotComparable)
}

/// Takes something away from a row that was measured. False if there is nothing to take.
fn remove(files: &mut Vec<Entry>, at: &Damage, how: usize) -> bool {
    let sound: Vec<String> = read(files)
        .entries
        .into_iter()
        .filter(|it| it.record.status == Status::Measured)
        .map(|it| row_of(&it.record))
        .collect();
    let places: Vec<usize> =
        (0..files.len()).filter(|it| sound.contains(&row_of(&files[*it].record))).collect();
    if places.is_empty() {
        return false;
    }
    let place = places[at.file.index(places.len())];
    let record = &mut files[place].record;
    if how == 0 || record.samples.is_empty() {
        files.remove(place);
        return true;
    }
    let round = at.sample.index(record.samples.len());
    match how {
        1 => drop(record.samples.remove(round)),
        2 => change(&mut record.samples[round], at.figure, |_| None),
        // A time or a size of 0 or below is none; a score may be either.
        3 if at.figure < 3 => change(&mut record.samples[round], at.figure, |_| Some(0.0)),
        4 if at.figure < 2 => change(&mut record.samples[round], at.figure, |it| Some(-it)),
        _ => return false,
    }
    rewrite(record);
    if files[place].record.samples.is_empty() {
        files.remove(place);
    }
    true
}

fn row_of(record: &Record) -> String {
    let run = record.run.as_ref().map_or("", |run| &run.id);
    format!("{} {} {run}", record.executable, record.backend)
}

/// Rows of which there is a sound measurement on either side.
fn rows(base: &[Entry], new: &[Entry]) -> BTreeSet<String> {
    let name = |it: &Entry| format!("{} {}", it.record.executable, it.record.backend);
    let all = [read(base).entries, read(new).entries].concat();
    all.iter().filter(|it| it.record.status == Status::Measured).map(name).collect()
}

fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_verdict_does_not_depend_on_the_names_the_copies_or_the_order_of_files(
        (base, new) in (runs(), runs()),
        (of_base, of_new) in (damages(), damages()),
        copied in any::<prop::sample::Index>(),
        from_base in any::<bool>(),
    ) {
        let (mut base, mut new) = (folder(&base, "b"), folder(&new, "n"));
        damage(&mut base, &of_base);
        damage(&mut new, &of_new);
        let options = Options::default();
        let before = said(&base, &new, &options);
        let renamed = |files: &[Entry], names: fn(usize) -> usize| -> Vec<Entry> {
            let name = |(place, it): (usize, &Entry)| {
                Entry { file: format!("{:03}.json", names(place)), record: it.record.clone() }
            };
            files.iter().enumerate().map(name).collect()
        };
        let turned = |files: &[Entry]| renamed(files, |place| 900 - place);
        prop_assert_eq!(&said(&turned(&base), &turned(&new), &options), &before);
        let from = if from_base { &base } else { &new };
        let mut copy = from[copied.index(from.len())].clone();
        copy.file = format!("0_copy_of_{}", copy.file);
        // Beside itself, and in the other folder too.
        let own = if from_base { &mut base } else { &mut new };
        own.push(copy.clone());
        prop_assert_eq!(&said(&base, &new, &options), &before);
        let (own, other) = if from_base { (base.len(), &mut new) } else { (new.len(), &mut base) };
        if own > 1 {
            other.push(copy);
            let elsewhere = said(&base, &new, &options);
            prop_assert_eq!(&elsewhere.ranked, &before.ranked);
            prop_assert_eq!(&elsewhere.changes, &before.changes);
        }
    }

    #[test]
    fn no_verdict_becomes_more_confident_when_information_is_removed(
        (base, new) in (runs(), runs()),
        (of_base, of_new) in (damages(), damages()),
        (at, how, from_base) in (damages(), 0..5usize, any::<bool>()),
    ) {
        let (mut base, mut new) = (folder(&base, "b"), folder(&new, "n"));
        // One run of the reference: against another one is another question.
        let is_reference = |it: &Entry| it.record.executable == "A" && it.record.backend == "cpu";
        let first = base.iter().chain(&new).find(|it| is_reference(it)).map(|it| it.file.clone());
        for files in [&mut base, &mut new] {
            files.retain(|it| !is_reference(it) || Some(&it.file) == first.as_ref());
        }
        prop_assume!(!base.is_empty() && !new.is_empty());
        damage(&mut base, &of_base);
        damage(&mut new, &of_new);
        let reference = Some("A/cpu".parse().unwrap());
        let options = Options { reference, ..Options::default() };
        let before = said(&base, &new, &options);
        let rows_before = rows(&base, &new);
        let Some(at) = at.first() else { return Ok(()) };
        if !remove(if from_base { &mut base } else { &mut new }, at, how) {
            return Ok(());
        }
        let after = said(&base, &new, &options);
        for (row, outcome) in &after.compared {
            let was = before.compared.get(row).copied();
            prop_assert!(
                !is_known(*outcome) || was.is_some_and(is_known),
                "{}: {:?}, then {:?}", row, was, outcome
            );
        }
        // A row of which no measurement is left on either side is a row that nobody asks for.
        if rows(&base, &new) == rows_before {
            // A regression is one of a row, which is looked at above.
            let passes = after.gate == Some(Conclusion::Pass);
            let knew = matches!(before.gate, Some(Conclusion::Pass | Conclusion::Regression));
            prop_assert!(!passes || knew, "{:?} {:?}", before, after);
            let gone = before.compared.keys().any(|row| !after.compared.contains_key(row));
            prop_assert!(!(gone && passes), "{:?} {:?}", before, after);
        }
        let is_known = |verdict: Option<Verdict>| {
            matches!(verdict, Some(Verdict::Faster | Verdict::Slower | Verdict::NoDifference))
        };
        for (row, (verdict, _, is_reference)) in &after.ranked {
            let was = before.ranked.get(row).and_then(|it| it.0);
            prop_assert!(
                *is_reference || !is_known(*verdict) || is_known(was),
                "{}: {:?}, then {:?}", row, was, verdict
            );
        }
    }
}
