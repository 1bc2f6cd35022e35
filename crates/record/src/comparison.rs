//! Compares two sets of result files: which rows became faster, slower, larger or worse.
//!
//! Rows are matched by trainer, model, data and configuration ([`Job`]). All samples of one job are taken
//! together. [`crate::verdict`] says what the samples show. A *regression* is a shown difference for
//! the worse whose estimate is beyond the gate, a row that no longer completes or no longer reaches its target, or one whose
//! verification grade is worse than it was. Where too little is known for any of that, the outcome is
//! *inconclusive*, which is not a pass.

use crate::figures::{self, Figure};
use crate::folder::{Folder, origin};
use crate::job::{Job, jobs, pair, settings_that_differ, then};
use crate::number::{first_few, short_digest};
use crate::stats::Interval;
use crate::verdict::{self, Verdict};
use crate::verification::{Grade, Verification};
use crate::{Record, Sample, Status, stats};
use serde::Serialize;
use std::collections::BTreeSet;

/// Things that a line of an error names.
const FEW: usize = 4;

/// The options of a comparison.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Names of figures. Without any, each row is compared by the best of [`figures::CLOCKS`] that both sides have.
    pub figures: Vec<String>,
    /// A regression below this is not one; 0.03 is 3 %.
    pub gate: f64,
    /// A ratio must differ from 1 by more than this to be claimed; `None`: by more than the noise
    /// floors that the files carry.
    pub noise_floor: Option<f64>,
    /// Compare even what was measured on different machines, or differs in dataset, precision or threads.
    pub anyway: bool,
    /// Keys in which rows that are compared may differ.
    pub across: Vec<String>,
    /// Both sides are files that somebody named: two rows are compared then whatever they are of.
    pub named: bool,
}

/// One figure of one job on both sides.
#[derive(Clone, Debug, Serialize)]
pub struct ComparedRow {
    #[serde(rename = "identity")]
    pub job: Job,
    #[serde(rename = "metric")]
    pub figure: Figure,
    pub base: Side,
    pub new: Side,
    /// New over base: 1.03 is three percent more. `None` where one of them has no sample, or there is no
    /// ratio.
    pub ratio: Option<f64>,
    /// New minus base, where a value of 0 or below has no ratio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<f64>,
    /// The 95 % interval of either; `None` where there are too few samples for one.
    pub interval: Option<Interval>,
    pub outcome: Outcome,
    /// Whether the base has something that can be lost: it was measured.
    pub held: bool,
    /// Samples on each side that are enough for an interval.
    #[serde(skip)]
    pub enough: usize,
    #[serde(skip)]
    in_turns: bool,
}

/// One side of a row.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    pub status: Status,
    /// Why it is not `measured`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub median: Option<f64>,
    pub samples: usize,
    /// Those of them that the machine disturbed.
    pub disturbed: usize,
}

/// The outcome of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Better,
    /// Worse, but within the gate.
    Worse,
    /// Shown to be worse, by an estimate beyond the gate; the interval may begin below it.
    Regression,
    /// It completed before and does not now, or misses its target.
    StatusLost,
    /// Further from the reference than before: a regression, whatever the times.
    GradeLost,
    NoDifference,
    /// The same grade.
    Same,
    /// Too few samples.
    Inconclusive,
    /// One of the sides has nothing to compare, or both have only bounds.
    NotComparable,
    /// It was verified before and was not now.
    Unknown,
}

impl Outcome {
    /// In words, for tables.
    pub fn words(self) -> &'static str {
        match self {
            Outcome::Better => "better",
            Outcome::Worse => "worse, within the gate",
            Outcome::Regression => "REGRESSION",
            Outcome::StatusLost => "STATUS LOST",
            Outcome::GradeLost => "GRADE LOST",
            Outcome::Same => "same",
            Outcome::Unknown => "not verified now",
            Outcome::NoDifference => "no difference shown",
            Outcome::Inconclusive => "inconclusive",
            Outcome::NotComparable => "not comparable",
        }
    }

    /// Whether the gate closes.
    pub fn is_regression(self) -> bool {
        matches!(self, Outcome::Regression | Outcome::StatusLost | Outcome::GradeLost)
    }
}

/// The verification of one job on both sides.
#[derive(Clone, Debug, Serialize)]
pub struct GradeRow {
    #[serde(rename = "identity")]
    pub job: Job,
    pub base: Grade,
    /// `None` if it was not verified: then nothing is known, and nothing lost.
    pub new: Option<Grade>,
    /// Why the new one is what it is, if it is worse.
    pub reason: Option<String>,
    pub outcome: Outcome,
}

/// The conclusion of a comparison, for a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    Regression,
    Inconclusive,
    Pass,
}

/// The whole comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub conclusion: Conclusion,
    /// Inconclusive ones first.
    pub rows: Vec<ComparedRow>,
    /// The grade then and now of each job that was verified on the base's side.
    pub grades: Vec<GradeRow>,
    /// Differences besides the figures: datasets, machines, programs, versions.
    pub differences: Vec<String>,
    /// Jobs that only one side has, and which side.
    pub unmatched: Vec<(String, &'static str)>,
    /// How many of those leave something unknown: they were measured, or should have been.
    pub unmatched_held: usize,
    /// The gate, as a share.
    pub gate: f64,
    /// Whether all that was compared and depends on the machine took turns in one run: otherwise the
    /// machine's drift counts as a difference.
    pub in_turns: bool,
    /// The noise floor, as a share.
    pub noise_floor: f64,
}

impl Comparison {
    /// Settings that all rows have: said once, they leave room in a table.
    pub fn shared_settings(&self) -> Vec<String> {
        let mut rows = self.rows.iter().map(|row| &row.job.config);
        let first = rows.next().cloned().unwrap_or_default();
        rows.fold(first, |mut shared, settings| {
            shared.retain(|it| settings.contains(it));
            shared
        })
    }

    /// Rows with this outcome.
    pub fn count(&self, is: impl Fn(Outcome) -> bool) -> usize {
        self.rows.iter().filter(|row| is(row.outcome)).count()
    }

    /// The number of rows that were measured on the base and cannot be judged now.
    pub fn unknown(&self) -> usize {
        let is_unknown = |row: &&ComparedRow| match row.outcome {
            Outcome::Inconclusive => true,
            Outcome::NotComparable => row.held,
            _ => false,
        };
        let grades = self.grades.iter().filter(|row| row.outcome == Outcome::Unknown);
        self.rows.iter().filter(is_unknown).count() + grades.count() + self.unmatched_held
    }

    fn conclude(&self) -> Conclusion {
        match self.unknown() {
            _ if self.count(Outcome::is_regression) + self.grades_lost() > 0 => {
                Conclusion::Regression
            }
            0 if self.count(|it| it != Outcome::NotComparable) > 0 => Conclusion::Pass,
            _ => Conclusion::Inconclusive,
        }
    }

    /// Grades on which the gate closes.
    pub fn grades_lost(&self) -> usize {
        self.grades.iter().filter(|row| row.outcome == Outcome::GradeLost).count()
    }
}

/// Why two sets are not compared: one line.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error(
        "the two sides have no row in common: {0}; --across KEY compares rows that differ in a key, and two single files are always compared"
    )]
    NothingInCommon(String),
    #[error(
        "the trainings differ ({0}), so their figures cannot be compared; --anyway compares them all the same"
    )]
    Trainings(String),
    #[error(
        "the machines differ ({0}), so the times cannot be compared; --anyway compares them all the same"
    )]
    Machines(String),
    #[error("{0}")]
    NoSuchFigure(String),
}

/// Compares `new` with `base`.
///
/// # Errors
/// If no row is in both, if rows differ in what makes figures comparable (dataset, precision, threads), or
/// if times of different machines would be compared.
pub fn compare(base: &Folder, new: &Folder, options: &Options) -> Result<Comparison, CompareError> {
    let records = || base.entries.iter().chain(&new.entries).map(|entry| &entry.record);
    let figure =
        |name: &String| figures::required(name, records()).map_err(CompareError::NoSuchFigure);
    let clock = [figures::CLOCKS[0].to_owned()];
    let names = if options.figures.is_empty() { &clock[..] } else { &options.figures[..] };
    let figures = names.iter().map(figure).collect::<Result<Vec<Figure>, _>>()?;
    let floor = |in_turns| options.noise_floor.unwrap_or(verdict::floor(records(), in_turns));
    let known = (&base.verifications[..], &new.verifications[..]);
    let (base_jobs, new_jobs) = (jobs(base, &options.across), jobs(new, &options.across));
    let named = options.named || options.anyway;
    let pairing = pair(&base_jobs, &new_jobs, named);
    let pairs = || pairing.equal.iter().chain(&pairing.unlike);
    let sides = |(job, other): &(&Job, &Job)| (&base_jobs[*job][..], &new_jobs[*other][..]);
    let mut machines: Vec<String> =
        pairs().flat_map(|it| machines_that_differ(sides(it))).collect();
    machines.sort_unstable();
    machines.dedup();
    if figures.iter().any(Figure::is_of_machine) && !options.anyway && !machines.is_empty() {
        return Err(CompareError::Machines(machines.join("; ")));
    }
    let mut differences: Vec<String> =
        pairing.unlike.iter().flat_map(|(one, other)| one.unlike(other)).collect();
    differences.dedup(); // sizes of one model differ in the same
    if !options.anyway && !differences.is_empty() {
        return Err(CompareError::Trainings(first_few(&differences, FEW, "; ")));
    }
    let different = |it: &Record| {
        let known = base.verifications.iter().chain(&new.verifications);
        Verification::newest(&[it], known).is_some_and(|it| it.grade == Grade::Different)
    };
    let takes_part = |it: &Record| it.takes_part() && !different(it);
    let (mut rows, mut grades) = (Vec::new(), Vec::new());
    for (job, other) in pairs() {
        let (of_base, of_new) = sides(&(job, other));
        let (base, new, shared) = apart(of_base, of_new);
        let pair = Pair { job, base: &base, new: &new, takes_part: &takes_part };
        let clock = pair.clock().filter(|_| options.figures.is_empty()).map(|it| vec![it]);
        let figures = clock.as_ref().unwrap_or(&figures);
        rows.extend(figures.iter().map(|it| pair.compare(it, options.gate, &floor)));
        grades.extend(grade_row(job, (of_base, known.0), (of_new, known.1)));
        differences.extend(settings_that_differ(job, other));
        differences.extend(shared);
        let all = || of_base.iter().chain(of_new).copied();
        let unlike = figures.iter().filter(|figure| !figure.is_one(all()));
        differences
            .extend(unlike.map(|it| format!("{job}: the unit or the direction of {}", it.key)));
        let bounds = figures.iter().filter(|it| pair.has_bounds(it));
        differences
            .extend(bounds.map(|it| format!("{job}: of {} both sides know only a bound", it.key)));
    }
    let only =
        |jobs: &[&Job], side| jobs.iter().map(|job| (job.to_string(), side)).collect::<Vec<_>>();
    let mut unmatched = only(&pairing.only_base, "base");
    unmatched.extend(only(&pairing.only_new, "new"));
    if rows.is_empty() {
        let shown: Vec<String> =
            unmatched.iter().map(|(row, side)| format!("{row} ({side})")).collect();
        return Err(CompareError::NothingInCommon(first_few(&shown, FEW, ", ")));
    }
    let lost =
        pairing.only_base.iter().filter(|it| base_jobs[**it].iter().any(|it| takes_part(it)));
    let is_there = |it: &&Record| it.status != Status::Unavailable;
    let added = pairing.only_new.iter().filter(|it| new_jobs[**it].iter().any(is_there));
    let unmatched_held = lost.count() + added.count();
    let both = (base, new);
    let setting =
        |key: &String| changed(key, both, &|it: &Record| Some(it.config.get(key)?.to_string()));
    differences.extend(options.across.iter().filter_map(setting));
    differences.extend(machines);
    differences.extend(PROGRAM_FACTS.iter().filter_map(|(name, get)| changed(name, both, get)));
    differences.dedup();
    rows.sort_by_key(|row: &ComparedRow| row.outcome != Outcome::Inconclusive);
    let (gate, conclusion) = (options.gate, Conclusion::Pass);
    let is_drifting = |it: &ComparedRow| {
        !it.in_turns && it.figure.is_of_machine() && (it.ratio.or(it.difference)).is_some()
    };
    let in_turns = !rows.iter().any(is_drifting);
    let mut found = Comparison {
        conclusion,
        rows,
        grades,
        differences,
        unmatched,
        unmatched_held,
        gate,
        in_turns,
        noise_floor: floor(in_turns),
    };
    found.conclusion = found.conclude();
    Ok(found)
}

/// The records of one job on both sides.
struct Pair<'a> {
    job: &'a Job,
    base: &'a [&'a Record],
    new: &'a [&'a Record],
    takes_part: &'a dyn Fn(&Record) -> bool,
}

impl<'a> Pair<'a> {
    /// The best clock that both sides have.
    fn clock(&self) -> Option<Figure> {
        let all = || self.base.iter().chain(self.new).copied();
        let mut clocks = figures::CLOCKS.iter().filter_map(|clock| figures::named(clock, all()));
        let has = |figure: &Figure, records: &[&Record]| {
            records.iter().any(|it| (self.takes_part)(it) && figure.of(it).is_some())
        };
        clocks.find(|figure| has(figure, self.base) && has(figure, self.new))
    }

    /// Whether nobody knows more of both sides than a bound.
    fn has_bounds(&self, figure: &Figure) -> bool {
        [self.base, self.new].iter().all(|side| side.iter().any(|it| figure.is_bound(it)))
    }

    fn compare(&self, figure: &Figure, gate: f64, floor: &dyn Fn(bool) -> f64) -> ComparedRow {
        let all = || self.base.iter().chain(self.new).copied();
        // Its unit and its direction are those of these records, not of any others.
        let own = figures::named(&figure.key, all()).unwrap_or_else(|| figure.clone());
        let ranked = |records: &[&'a Record]| -> Vec<&'a Record> {
            records.iter().copied().filter(|it| (self.takes_part)(it)).collect()
        };
        let (base, new) = (ranked(self.base), ranked(self.new));
        let in_turns = verdict::took_turns(&base, &new);
        let change = verdict::compare(&own, &base, &new, floor(in_turns || !own.is_of_machine()));
        let change = change.filter(|_| own.is_one(all()) && !self.has_bounds(figure));
        let bad = |it: &&Record| !matches!(it.status, Status::Measured | Status::Unavailable);
        let measured = |records: &[&Record]| records.iter().any(|it| it.status == Status::Measured);
        // Where the base failed at times, nobody knows whether the new one fails more often.
        let sound = measured(self.base) && !self.base.iter().any(bad);
        let lost = sound && self.new.iter().any(bad);
        let outcome = match change {
            _ if lost => Outcome::StatusLost,
            None => Outcome::NotComparable,
            Some(change) => match change.verdict {
                Verdict::Faster => Outcome::Better,
                Verdict::Slower if change.loss > gate => Outcome::Regression,
                Verdict::Slower => Outcome::Worse,
                Verdict::NoDifference => Outcome::NoDifference,
                Verdict::Inconclusive => Outcome::Inconclusive,
            },
        };
        let of_new = change.map(|it| it.of_new(own.better));
        let (ratio, difference, interval) = of_new.unwrap_or_default();
        ComparedRow {
            job: self.job.clone(),
            base: Side::of(&own, self.base),
            new: Side::of(&own, self.new),
            ratio,
            difference,
            interval,
            figure: own,
            outcome,
            held: !base.is_empty(),
            enough: verdict::enough(&base, &new),
            in_turns,
        }
    }
}

impl Side {
    fn of(figure: &Figure, records: &[&Record]) -> Side {
        let values = records.iter().flat_map(|record| figure.samples(record));
        let values: Vec<f64> = values.map(|(_, value)| value).collect();
        // The worst status of several files.
        let worst = records.iter().max_by_key(|it| (it.status.failed(), it.status));
        let (status, reason) = worst.map(|it| (it.status, it.reason.clone())).unwrap_or_default();
        let has = |record: &&&Record| figure.of(record).is_some();
        let counted = records.iter().filter(has).flat_map(|it| it.counted());
        let is_disturbed = |it: &&Sample| {
            it.status.completed() && !it.disturbances.is_empty() && figure.of_sample(it).is_some()
        };
        let disturbed = counted.filter(is_disturbed).count();
        Side { status, reason, median: stats::median(&values), samples: values.len(), disturbed }
    }
}

/// The records of both sides without those of one run that both have, which would hold a measurement against
/// itself; a side that has no others keeps them, unless neither has.
fn apart<'a>(
    base: &[&'a Record],
    new: &[&'a Record],
) -> (Vec<&'a Record>, Vec<&'a Record>, Option<String>) {
    let own = |records: &[&'a Record], others: &[&Record]| -> Vec<&'a Record> {
        let is_shared = |it: &Record| {
            it.run.is_some() && others.iter().any(|other| origin(other) == origin(it))
        };
        records.iter().copied().filter(|it| !is_shared(it)).collect()
    };
    let (own_base, own_new) = (own(base, new), own(new, base));
    if own_base.len() == base.len() {
        return (own_base, own_new, None);
    }
    let said = "both sides have samples of the same run, which are not compared with themselves";
    let (base, new) = match (own_base.is_empty(), own_new.is_empty()) {
        (true, false) => (base.to_vec(), own_new),
        (false, true) => (own_base, new.to_vec()),
        _ => (own_base, own_new),
    };
    (base, new, Some(said.to_owned()))
}

/// `None` if the base was never verified.
fn grade_row(
    job: &Job,
    base: (&[&Record], &[Verification]),
    new: (&[&Record], &[Verification]),
) -> Option<GradeRow> {
    // A grade that says nothing cannot be lost.
    let told = |grade: Grade| !matches!(grade, Grade::Unavailable | Grade::NotVerified);
    let base = Verification::newest(base.0, base.1).filter(|it| told(it.grade))?.grade;
    // A trainer that no longer takes part has lost its grade; a machine without the device has not.
    let found = Verification::newest(new.0, new.1).filter(|it| it.grade != Grade::Unavailable);
    let outcome = match found.map(|it| it.grade) {
        None => Outcome::Unknown,
        Some(grade) if grade == base => Outcome::Same,
        // In the order of the grades: from bit-equal to failed, and not verified at all.
        Some(grade) if grade < base => Outcome::Better,
        Some(_) => Outcome::GradeLost,
    };
    let is_lost = outcome == Outcome::GradeLost;
    let reason = found
        .filter(|_| is_lost)
        .map(|it| it.reason.clone().unwrap_or_else(|| it.grade.to_string()));
    Some(GradeRow { job: job.clone(), base, new: found.map(|it| it.grade), reason, outcome })
}

type Fact = (&'static str, fn(&Record) -> Option<String>);

/// Without these being equal, times are incomparable.
const MACHINE_FACTS: [Fact; 5] = [
    ("CPU", |it| it.machine.as_ref()?.cpu.clone()),
    ("cores", |it| Some(it.machine.as_ref()?.cores?.to_string())),
    ("threads", |it| Some(it.machine.as_ref()?.threads?.to_string())),
    ("architecture", |it| it.machine.as_ref()?.architecture.clone()),
    ("GPUs", |it| Some(it.machine.as_ref()?.gpus.join(", ")).filter(|gpus| !gpus.is_empty())),
];

/// Of the records of one job: also one side alone may be of several machines, or of one that is not known.
fn machines_that_differ((base, new): (&[&Record], &[&Record])) -> Vec<String> {
    let differs = |(name, get): &Fact| {
        let of = |records: &[&Record]| -> BTreeSet<String> {
            records.iter().map(|it| get(it).unwrap_or_else(|| "unknown".to_owned())).collect()
        };
        let (base, new) = (of(base), of(new));
        let differs = base.union(&new).count() > 1;
        differs.then(|| then(name, list(&base), list(&new)))
    };
    MACHINE_FACTS.iter().filter_map(differs).collect()
}

/// These may explain a difference.
const PROGRAM_FACTS: [Fact; 9] = [
    ("GPU driver", |it| it.environment.as_ref()?.gpu_driver.clone()),
    ("compilers", |it| {
        let compilers = &it.environment.as_ref()?.compilers;
        let shown = compilers.values().cloned().collect::<Vec<_>>().join(", ");
        (!shown.is_empty()).then_some(shown)
    }),
    ("governor", |it| it.environment.as_ref()?.governor.clone()),
    ("commit", |it| it.run.as_ref()?.git_commit.clone()),
    ("harness", |it| Some(it.run.as_ref()?.harness.clone())),
    ("trainer program", |it| it.trainer.as_ref()?.sha256.clone()),
    ("what it runs", |it| it.trainer.as_ref()?.sources_sha256.clone()),
    ("kernel", |it| it.machine.as_ref()?.kernel.clone()),
    ("operating system", |it| it.machine.as_ref()?.os.clone()),
];

/// A fact that differs.
fn changed(
    name: &str,
    (base, new): (&Folder, &Folder),
    get: &dyn Fn(&Record) -> Option<String>,
) -> Option<String> {
    let values = |folder: &Folder| -> BTreeSet<String> {
        folder.entries.iter().filter_map(|entry| get(&entry.record)).collect()
    };
    let (base, new) = (values(base), values(new));
    (base != new).then(|| then(name, list(&base), list(&new)))
}

fn list(values: &BTreeSet<String>) -> String {
    match values.is_empty() {
        true => "unknown".to_owned(),
        false => values.iter().map(|it| short_digest(it)).collect::<Vec<_>>().join(" and "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::NoiseFloor;
    use crate::task::{Better, MetricRecord, TaskRecord};
    use crate::{DatasetRecord, RunIdentity, Timing};
    use measure::machine::Machine;

    /// A row with these train times, and a metric that falls with them.
    fn record(backend: &str, times: &[f64]) -> Record {
        let metric = MetricRecord { better: Better::Higher, ..MetricRecord::default() };
        let task = TaskRecord {
            quality: Some("score".into()),
            metrics: [("score".to_owned(), metric)].into(),
            ..TaskRecord::default()
        };
        let machine = Machine { cpu: Some("A".into()), ..Machine::default() };
        let mut record = Record {
            executable: "T".into(),
            model: "m".into(),
            backend: backend.into(),
            schema_version: 2,
            task: Some(Box::new(task)),
            machine: Some(Box::new(machine)),
            ..Record::default()
        };
        for &time in times {
            let timing = Timing { train_s: Some(time), ..Timing::default() };
            let metrics = [("score".to_owned(), 100.0 / time)].into();
            record.add_sample(Sample { timing, metrics, ..Sample::default() });
        }
        record
    }

    #[test]
    fn commits_that_differ_have_twelve_digits() {
        let commits = ["0579ddec2319080a6076bc04c84744c954a54ae3", "v1"].map(str::to_owned);
        assert_eq!(list(&BTreeSet::from(commits)), "0579ddec2319 and v1");
    }

    fn options(figure: &str) -> Options {
        Options { figures: vec![figure.to_owned()], gate: 0.03, ..Options::default() }
    }

    fn compared(base: Record, new: Record, options: &Options) -> Result<Comparison, CompareError> {
        compare(&vec![base].into(), &vec![new].into(), options)
    }

    const BASE: [f64; 5] = [1.0, 1.01, 0.99, 1.005, 0.995];

    fn scaled(by: f64) -> Vec<f64> {
        BASE.iter().map(|time| time * by).collect()
    }

    #[test]
    fn a_figure_is_compared_in_its_direction() {
        for (figure, by, outcome) in [
            ("train_s", 1.5, Outcome::Regression),
            ("train_s", 0.5, Outcome::Better),
            ("train_s", 1.025, Outcome::Worse),
            ("train-s", 1.0, Outcome::NoDifference),
            ("score", 1.5, Outcome::Regression),
            ("quality", 0.5, Outcome::Better),
        ] {
            let (base, new) = (record("cpu", &BASE), record("cpu", &scaled(by)));
            let found = compared(base, new, &options(figure)).unwrap();
            assert_eq!(found.rows[0].outcome, outcome, "{figure} {by}");
            let regression = outcome == Outcome::Regression;
            assert_eq!(found.conclusion == Conclusion::Regression, regression, "{figure} {by}");
        }
    }

    #[test]
    fn the_floor_of_runs_one_after_the_other_is_that_of_sides_that_did_not_take_turns() {
        let of = |share_apart, by, run: Option<&str>| {
            let mut record = record("cpu", &scaled(by));
            record.noise_floor =
                Some(Box::new(NoiseFloor { share: 0.01, share_apart, ..NoiseFloor::default() }));
            record.run =
                run.map(|id| Box::new(RunIdentity { id: id.into(), ..RunIdentity::default() }));
            record
        };
        let found = |share_apart, runs: [Option<&str>; 2]| {
            let sides = (of(share_apart, 1.0, runs[0]), of(share_apart, 1.04, runs[1]));
            let found = compared(sides.0, sides.1, &options("train_s")).unwrap();
            (found.rows[0].outcome, found.in_turns, found.noise_floor)
        };
        let apart = [Some("a"), Some("b")];
        assert_eq!(found(Some(0.05), apart), (Outcome::NoDifference, false, 0.05));
        assert_eq!(found(None, apart), (Outcome::Regression, false, 0.01), "an older file");
        let turns = |by| {
            let mut record = of(Some(0.05), by, Some("a"));
            record.executable = format!("T{by}");
            Folder::from(vec![record])
        };
        let named = Options { named: true, ..options("train_s") };
        let found = compare(&turns(1.0), &turns(1.04), &named).unwrap();
        assert_eq!((found.in_turns, found.noise_floor), (true, 0.01));
    }

    #[test]
    fn a_metric_that_the_sides_define_differently_is_not_compared() {
        let mut fraction = record("cpu", &BASE);
        let task = fraction.task.as_mut().unwrap();
        task.metrics.get_mut("score").unwrap().unit = "%".into();
        let found = compared(record("cpu", &BASE), fraction, &options("score")).unwrap();
        assert_eq!(found.rows[0].outcome, Outcome::NotComparable);
        assert_eq!(found.conclusion, Conclusion::Inconclusive);
        let told =
            found.differences.iter().any(|it| it.contains("the unit or the direction of score"));
        assert!(told, "{:?}", found.differences);
    }

    #[test]
    fn what_is_only_bounded_on_both_sides_passes_no_gate() {
        let of = |source: &str| {
            let mut record = record("cpu", &BASE);
            record.sources.insert("train_s".into(), source.into());
            record
        };
        let bound = || of("a clock; at most this much: something hides less");
        let found = compared(bound(), bound(), &options("train_s")).unwrap();
        assert_eq!(found.rows[0].outcome, Outcome::NotComparable);
        assert_eq!(found.conclusion, Conclusion::Inconclusive);
        let told = found.differences.iter().any(|it| it.ends_with("both sides know only a bound"));
        assert!(told, "{:?}", found.differences);
        let found = compared(bound(), of("a clock"), &options("train_s")).unwrap();
        assert_eq!(found.rows[0].outcome, Outcome::NoDifference);
        let mut cpu = record("cpu", &BASE);
        cpu.metrics.training_time_seconds = Some(1.0);
        cpu.sources.insert("user_s".into(), "sampled: at least this much".into());
        let figure = figures::named("training_time_seconds", [&cpu]).unwrap();
        assert!(figure.is_bound(&cpu));
    }

    #[test]
    fn one_sample_a_side_is_inconclusive_however_much_slower_the_new_one_is() {
        let found = compared(record("cpu", &[1.0]), record("cpu", &[10.0]), &options("train_s"));
        let found = found.unwrap();
        assert_eq!(found.rows[0].outcome, Outcome::Inconclusive);
        assert_eq!(found.conclusion, Conclusion::Inconclusive);
        assert_eq!(found.rows[0].interval, None);
    }

    #[test]
    fn where_nothing_can_be_compared_the_conclusion_is_inconclusive_and_a_lost_status_is_not() {
        let failed = |status| {
            let mut record = record("cpu", &[]);
            record.status = status;
            record
        };
        let both = compared(failed(Status::Failed), failed(Status::Failed), &options("train_s"));
        assert_eq!(both.unwrap().conclusion, Conclusion::Inconclusive);
        let lost = compared(record("cpu", &BASE), failed(Status::Crashed), &options("train_s"));
        assert_eq!(lost.unwrap().rows[0].outcome, Outcome::StatusLost);
        let gone = compared(record("cpu", &BASE), failed(Status::Unavailable), &options("train_s"));
        assert_eq!(gone.unwrap().rows[0].outcome, Outcome::NotComparable);
    }

    #[test]
    fn another_machine_or_another_dataset_is_refused_unless_somebody_insists() {
        let mut elsewhere = record("cpu", &BASE);
        elsewhere.machine.as_mut().unwrap().cpu = Some("B".into());
        let mut other = record("cpu", &BASE);
        other.dataset = Some(Box::new(DatasetRecord { name: "d".into(), sha256: None }));
        for (new, named) in [(elsewhere, "CPU: A, then B"), (other, "dataset: none, then d")] {
            let refused = compared(record("cpu", &BASE), new.clone(), &options("train_s"));
            let error = refused.unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("--anyway"), "{error}");
            let anyway = Options { anyway: true, ..options("train_s") };
            let found = compared(record("cpu", &BASE), new, &anyway).unwrap();
            assert!(found.differences.iter().any(|it| it.contains(named)), "{found:?}");
        }
    }

    #[test]
    fn rows_that_differ_in_a_key_are_compared_across_it() {
        let with = |precision: &str, times: &[f64]| {
            let mut record = record("cpu", times);
            record.config.insert("precision".into(), precision.into());
            record
        };
        let sides = || -> (Folder, Folder) {
            let other = record("gpu", &BASE);
            let base = vec![with("fp32", &BASE), other.clone()].into();
            (base, vec![with("bf16", &scaled(0.5)), other].into())
        };
        let (base, new) = sides();
        let apart = compare(&base, &new, &options("train_s")).unwrap();
        assert_eq!((apart.rows.len(), apart.unmatched.len()), (1, 2));
        let across = Options { across: vec!["precision".into()], ..options("train_s") };
        let found = compare(&base, &new, &across).unwrap();
        assert_eq!((found.rows.len(), found.rows[0].outcome), (2, Outcome::Better));
        let named = "precision: \"fp32\", then \"bf16\"";
        assert!(found.differences.iter().any(|it| it == named), "{:?}", found.differences);
        // Two files that somebody named are compared without being asked for.
        let two = |options: &Options| compared(with("fp32", &BASE), with("bf16", &BASE), options);
        assert!(two(&options("train_s")).is_err(), "two folders of one row each");
        let two = two(&Options { named: true, ..options("train_s") }).unwrap();
        assert!(two.differences[0].contains("precision"), "{:?}", two.differences);
    }

    #[test]
    fn a_worse_grade_is_a_regression_though_the_times_are_the_same() {
        let side = |grade: Option<Grade>| {
            let verification = grade.map(|grade| {
                let text = serde_json::json!({
                    "executable": "T", "model": "m", "backend": "cpu", "grade": grade,
                    "reason": "W1 differs from step 1",
                });
                serde_json::from_value(text).unwrap()
            });
            let mut folder = Folder::from(vec![record("cpu", &BASE)]);
            folder.verifications.extend(verification);
            folder
        };
        let found = |base, new| compare(&side(base), &side(new), &options("train_s")).unwrap();
        for (base, new, lost) in [
            (Grade::BitEqual, Some(Grade::Float32), true),
            (Grade::Float32, Some(Grade::Different), true),
            (Grade::Tf32, Some(Grade::Failed), true),
            (Grade::Float32, Some(Grade::BitEqual), false),
            (Grade::Float32, Some(Grade::Unavailable), false),
            (Grade::Float32, None, false),
        ] {
            let compared = found(Some(base), new);
            assert_eq!(compared.conclusion == Conclusion::Regression, lost, "{base} {new:?}");
        }
        assert!(found(None, Some(Grade::Different)).grades.is_empty());
    }
}
