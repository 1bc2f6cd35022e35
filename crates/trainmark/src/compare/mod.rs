//! Two sets of result files against each other: what became faster, slower, larger, worse.
//!
//! Rows are matched by what was trained, by whom, on what, and how ([`Identity`]); all samples of one
//! identity are taken together. A difference is claimed only where the interval of the ratio excludes
//! 1 and the effect is above the noise floor ([`crate::stats`]); a *regression* is such a claim beyond
//! the gate, a row that no longer completes or no longer reaches its target accuracy, or one whose
//! verification grade is worse than it was ([`GradeRow`]).

mod grade;
pub mod json;
pub mod junit;
pub mod markdown;
mod side;
pub mod table;

pub use grade::{GradeOutcome, GradeRow};
pub use side::{Identity, Side};

use crate::machine::Machine;
use crate::report::old_result::{ResultFile, Sample, Status};
use crate::stats::{self, Speedup};
use crate::verify::Verification;
use record::Verdict;
use serde::Serialize;

/// What is compared. Each has a direction in which it is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Seconds on the trainer's own clock around its epochs.
    #[value(alias = "train_s")] // as result files call it
    TrainS,
    /// Seconds on the harness's clock around the process.
    Wall,
    /// User and system seconds of the process tree.
    Cpu,
    /// Peak resident memory of the process tree.
    Memory,
    /// Test accuracy.
    Accuracy,
}

impl Metric {
    /// In words, with its unit.
    pub fn title(self) -> &'static str {
        match self {
            Metric::TrainS => "train time (s)",
            Metric::Wall => "wall time (s)",
            Metric::Cpu => "CPU time (s)",
            Metric::Memory => "peak memory (MB)",
            Metric::Accuracy => "accuracy (%)",
        }
    }

    fn of(self, sample: &Sample) -> Option<f64> {
        let timing = &sample.timing;
        let value = match self {
            Metric::TrainS => timing.train_s,
            Metric::Wall => timing.wall_s,
            Metric::Cpu => Some(timing.user_s? + timing.system_s?),
            Metric::Memory => {
                Some(sample.peak_memory_bytes? as f64 / crate::report::old_result::MEGABYTE)
            }
            Metric::Accuracy => sample.test_accuracy_percent,
        };
        value.filter(|value| *value > 0.0) // a ratio needs one
    }

    /// The same of a whole result file.
    pub(crate) fn of_row(self, row: &crate::report::collection::Row) -> Option<f64> {
        let value = match self {
            Metric::TrainS => row.timing().train_s,
            Metric::Wall => row.timing().wall_s,
            Metric::Cpu => row.metrics().training_time_seconds,
            Metric::Memory => row.metrics().peak_memory_mb,
            Metric::Accuracy => row.metrics().test_accuracy_percent,
        };
        value.filter(|value| *value > 0.0)
    }

    pub(crate) fn more_is_worse(self) -> bool {
        self != Metric::Accuracy
    }

    /// What more of it is, and what less.
    pub(crate) fn directions(self) -> (&'static str, &'static str) {
        match self {
            Metric::Memory => ("larger", "smaller"),
            Metric::Accuracy => ("better", "worse"),
            Metric::TrainS | Metric::Wall | Metric::Cpu => ("slower", "faster"),
        }
    }

    fn is_time(self) -> bool {
        matches!(self, Metric::TrainS | Metric::Wall | Metric::Cpu)
    }
}

/// What is known of one side.
#[derive(Clone, Debug, Default)]
pub struct Set {
    pub results: Vec<ResultFile>,
    pub verifications: Vec<Verification>,
}

impl From<Vec<ResultFile>> for Set {
    fn from(results: Vec<ResultFile>) -> Set {
        Set { results, verifications: Vec::new() }
    }
}

/// What the user decides.
#[derive(Clone, Debug)]
pub struct Options {
    pub metrics: Vec<Metric>,
    /// A regression below this is not one; 0.03 is 3 %.
    pub gate: f64,
    /// A ratio must differ from 1 by more than this to be claimed; `None`: by more than the noise
    /// floors that the files carry.
    pub noise_floor: Option<f64>,
    /// Compare even what was measured on different machines, or differs in dataset, precision or threads.
    pub anyway: bool,
}

/// One metric of one identity on both sides.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub identity: Identity,
    pub metric: Metric,
    pub base: Figures,
    pub new: Figures,
    /// New over base: 1.03 is three percent more. `None` where one of them has no sample.
    pub ratio: Option<f64>,
    /// The 95 % interval of the ratio; `None` where there are too few samples for one.
    pub interval: Option<stats::Interval>,
    pub outcome: Outcome,
}

/// One side of a row.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub status: Status,
    pub median: Option<f64>,
    pub samples: usize,
}

/// What a row shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Better,
    /// Worse, but within the gate.
    Worse,
    /// Worse beyond the gate.
    Regression,
    /// It completed before and does not now, or fell below its target accuracy.
    StatusLost,
    NoDifference,
    /// One of the sides has nothing to compare.
    NotComparable,
}

impl Outcome {
    /// In words, for tables.
    pub fn words(self) -> &'static str {
        match self {
            Outcome::Better => "better",
            Outcome::Worse => "worse, within the gate",
            Outcome::Regression => "REGRESSION",
            Outcome::StatusLost => "STATUS LOST",
            Outcome::NoDifference => "no difference shown",
            Outcome::NotComparable => "not comparable",
        }
    }

    /// Whether the gate closes.
    pub fn is_regression(self) -> bool {
        matches!(self, Outcome::Regression | Outcome::StatusLost)
    }
}

/// The whole comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub rows: Vec<Row>,
    /// Of each identity that was verified on the base's side, what was found then and now.
    pub grades: Vec<GradeRow>,
    /// What differs besides the figures: datasets, machines, programs, versions.
    pub differences: Vec<String>,
    /// Identities that only one side has, and which side.
    pub unmatched: Vec<(String, &'static str)>,
    /// The gate, as a share.
    pub gate: f64,
    /// The noise floor, as a share.
    pub noise_floor: f64,
}

impl Comparison {
    /// Whether the gate closes.
    pub fn has_regression(&self) -> bool {
        self.regressions() > 0
    }

    /// Settings that all rows have: said once, they leave room in a table.
    pub fn shared_settings(&self) -> Vec<String> {
        let mut rows = self.rows.iter().map(|row| row.identity.settings());
        let first = rows.next().unwrap_or_default().to_vec();
        rows.fold(first, |mut shared, settings| {
            shared.retain(|it| settings.contains(it));
            shared
        })
    }

    /// Rows and grades on which the gate closes.
    pub fn regressions(&self) -> usize {
        let rows = self.rows.iter().filter(|row| row.outcome.is_regression()).count();
        rows + self.grades.iter().filter(|row| row.outcome.is_regression()).count()
    }
}

/// Why two sets are not compared: one line.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error("no row of the one is in the other: {0}")]
    NothingInCommon(String),
    #[error("what was trained differs ({0}): such figures cannot be compared; --anyway does it")]
    Trainings(String),
    #[error(
        "they were measured on different machines ({0}): times cannot be compared; --anyway does it"
    )]
    Machines(String),
}

/// Compares `new` with `base`.
///
/// # Errors
/// If no row is in both, if rows differ in what makes figures comparable (dataset, precision, threads), or
/// if times of different machines would be compared.
pub fn compare(base: &Set, new: &Set, options: &Options) -> Result<Comparison, CompareError> {
    let results = base.results.iter().chain(&new.results);
    let floors = results.filter_map(|result| Some(result.noise_floor.as_ref()?.share));
    let noise_floor = options.noise_floor.unwrap_or(floors.fold(0.0, f64::max));
    let options = &Options { noise_floor: Some(noise_floor), ..options.clone() };
    let known = (&base.verifications[..], &new.verifications[..]);
    let (base, new) = (Side::new(&base.results), Side::new(&new.results));
    let machines = machine_differences(&base, &new);
    let times = options.metrics.iter().any(|metric| metric.is_time());
    if times && !options.anyway && !machines.is_empty() {
        return Err(CompareError::Machines(machines.join("; ")));
    }
    let pairing = side::pair(&base, &new);
    let mut differences = Vec::new();
    for (one, other) in &pairing.unlike {
        differences.extend(one.unlike(other));
    }
    differences.dedup(); // sizes of one model differ in the same
    if !options.anyway && !differences.is_empty() {
        return Err(CompareError::Trainings(first_few(&differences, "; ")));
    }
    let (mut rows, mut grades) = (Vec::new(), Vec::new());
    for (identity, other) in pairing.equal.iter().chain(&pairing.unlike) {
        let (results, others) = (&base.rows[*identity], &new.rows[*other]);
        let row = |metric: &Metric| compare_row(identity, *metric, results, others, options);
        rows.extend(options.metrics.iter().map(row));
        grades.extend(GradeRow::new(identity, (results, known.0), (others, known.1)));
    }
    let only = |rows: &[&Identity], side| {
        rows.iter().map(|identity| (identity.to_string(), side)).collect::<Vec<_>>()
    };
    let mut unmatched = only(&pairing.only_base, "base");
    unmatched.extend(only(&pairing.only_new, "new"));
    if rows.is_empty() {
        let shown: Vec<String> =
            unmatched.iter().map(|(row, side)| format!("{row} ({side})")).collect();
        return Err(CompareError::NothingInCommon(first_few(&shown, ", ")));
    }
    differences.extend(machines);
    differences.extend(program_differences(&base, &new));
    let gate = options.gate;
    Ok(Comparison { rows, grades, differences, unmatched, gate, noise_floor })
}

/// For a line of an error.
fn first_few(all: &[String], between: &str) -> String {
    const FEW: usize = 4;
    let mut text = all[..all.len().min(FEW)].join(between);
    if all.len() > FEW {
        text += &format!("{between}and {} more", all.len() - FEW);
    }
    text
}

fn compare_row(
    identity: &Identity,
    metric: Metric,
    base: &[&ResultFile],
    new: &[&ResultFile],
    options: &Options,
) -> Row {
    let values = |results: &[&ResultFile]| -> Vec<f64> {
        let samples = results.iter().flat_map(|result| side::samples(result));
        samples.filter(|sample| sample.status.completed()).filter_map(|it| metric.of(&it)).collect()
    };
    let (base_values, new_values) = (values(base), values(new));
    let figures = |results: &[&ResultFile], values: &[f64]| Figures {
        status: side::status(results),
        median: stats::median(values),
        samples: values.len(),
    };
    // Above 1 the new one is better, whichever way the metric points.
    let gain = match metric {
        Metric::Accuracy => stats::unpaired_speedup(&new_values, &base_values),
        _ => stats::unpaired_speedup(&base_values, &new_values),
    };
    let (base, new) = (figures(base, &base_values), figures(new, &new_values));
    let outcome = outcome(base.status, new.status, gain, options);
    let points_up = metric == Metric::Accuracy;
    let ratio = gain.map(|gain| if points_up { gain.ratio } else { 1.0 / gain.ratio });
    let interval = gain.and_then(|gain| gain.interval).map(|interval| match points_up {
        true => interval,
        false => stats::Interval { low: 1.0 / interval.high, high: 1.0 / interval.low, ..interval },
    });
    Row { identity: identity.clone(), metric, base, new, ratio, interval, outcome }
}

fn outcome(base: Status, new: Status, gain: Option<Speedup>, options: &Options) -> Outcome {
    if base == Status::Measured && new != Status::Measured && new != Status::Unavailable {
        return Outcome::StatusLost;
    }
    let Some(gain) = gain else {
        return Outcome::NotComparable;
    };
    match gain.verdict(options.noise_floor.unwrap_or(0.0)) {
        Verdict::Faster => Outcome::Better,
        Verdict::Slower if gain.ratio.recip() > 1.0 + options.gate => Outcome::Regression,
        Verdict::Slower => Outcome::Worse,
        _ => Outcome::NoDifference,
    }
}

/// What makes times of the two sides incomparable.
fn machine_differences(base: &Side, new: &Side) -> Vec<String> {
    type Fact = fn(&Machine) -> Option<String>;
    let facts: [(&str, Fact); 5] = [
        ("CPU", |machine| machine.cpu.clone()),
        ("cores", |machine| machine.cores.map(|cores| cores.to_string())),
        ("threads", |machine| machine.threads.map(|threads| threads.to_string())),
        ("architecture", |machine| machine.architecture.clone()),
        ("GPUs", |machine| (!machine.gpus.is_empty()).then(|| machine.gpus.join(", "))),
    ];
    let fact = |(name, get): &(&str, Fact)| {
        side::difference(name, &base.of_machines(get), &new.of_machines(get))
    };
    facts.iter().filter_map(fact).collect()
}

/// What may explain a difference.
fn program_differences(base: &Side, new: &Side) -> Vec<String> {
    type Fact = fn(&ResultFile) -> Option<String>;
    let facts: [(&str, Fact); 9] = [
        ("GPU driver", |result| result.environment.as_ref()?.gpu_driver.clone()),
        ("compilers", |result| {
            let compilers = &result.environment.as_ref()?.compilers;
            let shown = compilers.values().cloned().collect::<Vec<_>>().join(", ");
            (!shown.is_empty()).then_some(shown)
        }),
        ("governor", |result| result.environment.as_ref()?.governor.clone()),
        ("commit", |result| result.run.as_ref()?.git_commit.clone()),
        ("harness", |result| Some(result.run.as_ref()?.harness.clone())),
        ("trainer program", |result| result.trainer.as_ref()?.sha256.clone()),
        ("what it runs", |result| result.trainer.as_ref()?.sources_sha256.clone()),
        ("kernel", |result| result.machine.as_ref()?.kernel.clone()),
        ("operating system", |result| result.machine.as_ref()?.os.clone()),
    ];
    let fact = |(name, get): &(&str, Fact)| {
        side::difference(name, &base.of_results(get), &new.of_results(get))
    };
    facts.iter().filter_map(fact).collect()
}

#[cfg(any())]
pub(crate) mod tests {
    use super::*;
    use crate::report::old_result::Timing;

    /// A row with these train times.
    pub(crate) fn result(backend: &str, times: &[f64]) -> ResultFile {
        let mut result = ResultFile {
            executable: "MNISTClassic".into(),
            model: "mlp".into(),
            backend: backend.into(),
            schema_version: 1,
            machine: Some(Machine { cpu: Some("A".into()), ..Machine::default() }),
            ..ResultFile::default()
        };
        for &time in times {
            let timing = Timing { train_s: Some(time), ..Timing::default() };
            let sample = Sample { timing, test_accuracy_percent: Some(95.0), ..Sample::default() };
            result.add_sample(sample);
        }
        result
    }

    pub(crate) fn options() -> Options {
        Options { metrics: vec![Metric::TrainS], gate: 0.03, noise_floor: Some(0.0), anyway: false }
    }

    /// Of results that nobody has verified.
    pub(crate) fn compare_results(
        base: &[ResultFile],
        new: &[ResultFile],
        options: &Options,
    ) -> Result<Comparison, CompareError> {
        compare(&base.to_vec().into(), &new.to_vec().into(), options)
    }

    fn outcome_of(base: &[f64], new: &[f64]) -> Outcome {
        let compared = compare_results(&[result("cpu", base)], &[result("cpu", new)], &options());
        compared.unwrap().rows[0].outcome
    }

    const BASE: [f64; 5] = [1.0, 1.01, 0.99, 1.005, 0.995];

    #[test]
    fn a_shown_slowdown_beyond_the_gate_is_a_regression_and_within_it_is_not() {
        let scaled = |factor: f64| BASE.map(|time| time * factor);
        assert_eq!(outcome_of(&BASE, &scaled(1.10)), Outcome::Regression);
        assert_eq!(outcome_of(&BASE, &scaled(1.025)), Outcome::Worse);
        assert_eq!(outcome_of(&BASE, &scaled(0.9)), Outcome::Better);
        assert_eq!(outcome_of(&BASE, &scaled(1.0)), Outcome::NoDifference);
    }

    #[test]
    fn the_floor_that_the_files_carry_holds_unless_another_is_given() {
        let new = BASE.map(|time| time * 1.10);
        let mut noisy = result("cpu", &new);
        noisy.noise_floor = Some(crate::noise::NoiseFloor { share: 0.2, ..Default::default() });
        let outcome = |noise_floor| {
            let options = Options { noise_floor, ..options() };
            let compared =
                compare_results(&[result("cpu", &BASE)], std::slice::from_ref(&noisy), &options);
            compared.unwrap().rows[0].outcome
        };
        assert_eq!(outcome(None), Outcome::NoDifference);
        assert_eq!(outcome(Some(0.01)), Outcome::Regression);
    }

    #[test]
    fn a_run_that_was_repeated_for_its_noise_is_not_compared() {
        let mut new = result("cpu", &BASE);
        let timing = Timing { train_s: Some(99.0), ..Timing::default() };
        new.add_sample(Sample { timing, superseded: true, ..Sample::default() });
        let compared = compare_results(&[result("cpu", &BASE)], &[new], &options()).unwrap();
        assert_eq!(compared.rows[0].new.samples, 5);
    }

    #[test]
    fn too_few_samples_show_nothing_however_large_the_difference() {
        assert_eq!(outcome_of(&[1.0], &[9.0]), Outcome::NoDifference);
    }

    #[test]
    fn a_lost_target_and_a_crash_are_regressions_whatever_the_times() {
        let base = result("cpu", &BASE);
        for status in [Status::NotConverged, Status::Crashed] {
            let mut new = result("cpu", &[0.1; 5]);
            new.samples[2].status = status;
            new.status = status;
            let compared =
                compare_results(std::slice::from_ref(&base), &[new], &options()).unwrap();
            assert_eq!(compared.rows[0].outcome, Outcome::StatusLost);
            assert!(compared.has_regression());
        }
    }

    #[test]
    fn accuracy_points_the_other_way() {
        let mut worse = result("cpu", &BASE);
        worse.samples.iter_mut().for_each(|sample| sample.test_accuracy_percent = Some(80.0));
        let options = Options { metrics: vec![Metric::Accuracy], ..options() };
        let compared = compare_results(&[result("cpu", &BASE)], &[worse], &options).unwrap();
        assert_eq!(compared.rows[0].outcome, Outcome::Regression);
        assert!(compared.rows[0].ratio.unwrap() < 0.9);
    }

    #[test]
    fn times_of_different_machines_are_refused_unless_anyway() {
        let mut new = result("cpu", &BASE);
        new.machine.as_mut().unwrap().cpu = Some("B".into());
        let base = [result("cpu", &BASE)];
        let refused = compare_results(&base, std::slice::from_ref(&new), &options()).unwrap_err();
        assert!(refused.to_string().contains("CPU: A, then B"), "{refused}");
        let anyway = Options { anyway: true, ..options() };
        let compared = compare_results(&base, &[new], &anyway).unwrap();
        assert_eq!(compared.differences, ["CPU: A, then B"]);
    }

    #[test]
    fn rows_are_matched_by_identity_and_the_others_are_listed() {
        let base = [result("cpu", &BASE), result("cuda", &BASE)];
        let new = [result("cpu", &BASE), result("wgpu", &BASE)];
        let compared = compare_results(&base, &new, &options()).unwrap();
        assert_eq!(compared.rows.len(), 1);
        let unmatched: Vec<_> = compared.unmatched.iter().map(|(_, side)| *side).collect();
        assert_eq!(unmatched, ["base", "new"]);
        assert!(compare_results(&base[1..], &new, &options()).is_err());
    }

    /// A row that was trained on this data, in this precision, by so many threads.
    fn trained(dataset: &str, precision: &str, threads: usize) -> ResultFile {
        let mut row = result("cpu", &BASE);
        let (name, sha256) = (dataset.to_owned(), Some(format!("{dataset:-<64}")));
        row.dataset = Some(crate::report::old_result::DatasetRecord { name, sha256 });
        row.trainer = Some(crate::report::old_result::TrainerRecord {
            precision: Some(precision.into()),
            threads: Some(threads),
            ..Default::default()
        });
        row
    }

    #[test]
    fn another_dataset_precision_or_thread_count_is_named_and_refused_unless_anyway() {
        let base = [trained("mnist", "float32", 2)];
        for (new, named) in [
            (trained("digits", "float32", 2), "dataset: mnist, then digits"),
            (trained("mnist", "bf16", 2), "precision: float32, then bf16"),
            (trained("mnist", "float32", 4), "threads: 2, then 4"),
        ] {
            let new = [new];
            for metric in [Metric::TrainS, Metric::Memory, Metric::Accuracy] {
                let options = Options { metrics: vec![metric], ..options() };
                let refused = compare_results(&base, &new, &options).unwrap_err().to_string();
                assert!(refused.contains(named) && refused.contains("--anyway"), "{refused}");
            }
            let anyway = Options { anyway: true, ..options() };
            let compared = compare_results(&base, &new, &anyway).unwrap();
            assert_eq!(compared.rows.len(), 1, "matched without it");
            assert!(compared.differences[0].contains(named), "{:?}", compared.differences);
            assert!(compared.unmatched.is_empty());
        }
    }

    #[test]
    fn data_of_the_same_name_and_other_bytes_is_another_dataset() {
        let mut new = trained("mnist", "float32", 2);
        new.dataset.as_mut().unwrap().sha256 = Some("f".repeat(64));
        let refused = compare_results(&[trained("mnist", "float32", 2)], &[new], &options());
        let refused = refused.unwrap_err().to_string();
        assert!(
            refused.contains("dataset: mnist (mnist-------), then mnist (ffffffffffff)"),
            "{refused}"
        );
    }

    #[test]
    fn a_row_that_has_its_equal_is_not_matched_with_another_dataset() {
        let base = [trained("mnist", "float32", 2), trained("digits", "float32", 2)];
        let compared = compare_results(&base, &base[..1], &options()).unwrap();
        assert_eq!(compared.rows.len(), 1);
        assert_eq!(compared.unmatched.len(), 1);
    }

    #[test]
    fn all_samples_of_one_identity_count_together() {
        let halves = [result("cpu", &BASE[..2]), result("cpu", &BASE[2..])];
        let compared = compare_results(&halves, &[result("cpu", &BASE)], &options()).unwrap();
        assert_eq!(compared.rows[0].base.samples, 5);
    }
}
