//! What may be compared with what, and how it compares: references, speed-ups, ranks.
//!
//! Rows are comparable when they trained the same model in the same configuration on the same
//! dataset and the same hardware. Among those, only rows that were measured and reached their
//! target take part, and never those of a software imitation of a device.

use super::collection::{Collection, Id, Row, Turn};
use crate::race::RaceSpeedUp;
use crate::report::old_result::Status;
use crate::stats::{self, Interval, Speedup};
use crate::suite::{ReferenceRow, Suite};
use foldhash::fast::RandomState;
use record::Verdict;
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

/// What the specification's own scripts train on; their files do not say so.
const SPECIFICATION_DATASET: &str = "mnist";

/// Whose rows the speed-ups are against.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Reference {
    pub executable: String,
    pub backend: String,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.executable, self.backend)
    }
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Reference, String> {
        match text.rsplit_once('/') {
            Some((executable, backend)) if !executable.is_empty() && !backend.is_empty() => {
                Ok(Reference { executable: executable.to_owned(), backend: backend.to_owned() })
            }
            _ => Err("write EXECUTABLE/BACKEND, for example MNISTClassic/cpu".to_owned()),
        }
    }
}

impl From<&ReferenceRow> for Reference {
    fn from(row: &ReferenceRow) -> Reference {
        Reference { executable: row.trainer.clone(), backend: row.backend.clone() }
    }
}

/// A quotient of seconds, the reference's over the row's: above 1 is faster than the reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpeedUp {
    pub factor: f64,
    pub basis: Basis,
    /// The 95 % interval of the factor; `None` where there are too few runs for one.
    pub interval: Option<Interval>,
    /// What may be claimed: more than the noise floor, and an interval without 1.
    pub verdict: Verdict,
}

/// Which seconds. In order of preference: the first that both rows have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Basis {
    /// The trainer's own clock around its epochs.
    TrainLoop,
    /// The harness's clock around the whole process.
    Wall,
    /// User + system seconds. Not time that passed, but all that the specification's files have.
    Cpu,
}

impl Basis {
    pub const ALL: [Basis; 3] = [Basis::TrainLoop, Basis::Wall, Basis::Cpu];

    /// The figure's key in result files.
    pub fn key(self) -> &'static str {
        match self {
            Basis::TrainLoop => "timing.train_s",
            Basis::Wall => "timing.wall_s",
            Basis::Cpu => "metrics.training_time_seconds",
        }
    }

    pub fn words(self) -> &'static str {
        match self {
            Basis::TrainLoop => "the trainer's own clock around its epochs",
            Basis::Wall => "the wall clock around the whole process",
            Basis::Cpu => "user + system CPU seconds of the process tree",
        }
    }

    /// For a heading.
    pub fn seconds_of(self) -> &'static str {
        match self {
            Basis::TrainLoop => "seconds of training",
            Basis::Wall => "seconds by the wall clock",
            Basis::Cpu => "seconds of CPU time",
        }
    }

    /// Of one run.
    fn seconds_of_turn(self, turn: &Turn) -> Option<f64> {
        let seconds = match self {
            Basis::TrainLoop => turn.train_s,
            Basis::Wall => turn.wall_s,
            Basis::Cpu => turn.cpu_s,
        };
        seconds.known().filter(|&seconds| seconds > 0.0)
    }

    /// `None` where unknown or where a quotient would mean nothing.
    pub fn seconds(self, row: &Row) -> Option<f64> {
        let seconds = match self {
            Basis::TrainLoop => row.timing().train_s,
            Basis::Wall => row.timing().wall_s,
            Basis::Cpu => row.metrics().training_time_seconds,
        };
        seconds.filter(|&seconds| seconds > 0.0)
    }
}

impl Row {
    /// Whether it takes part in rankings and speed-ups.
    pub fn is_ranked(&self) -> bool {
        self.status == Status::Measured && !self.software && !self.different
    }

    /// Whether it is kept out of them by nothing but an imitation of a device.
    pub fn is_ranked_but_for_software(&self) -> bool {
        self.status == Status::Measured && self.software
    }
}

/// Sets the target of files that name none, and the status that follows from the target.
pub(super) fn judge(collection: &mut Collection, suite: Option<&Suite>) {
    let mut rows = std::mem::take(&mut collection.rows);
    let mut targets: HashMap<(Id, Id), Option<f64>, RandomState> = HashMap::default();
    for row in &mut rows {
        if let (0, None, Some(suite)) = (row.schema_version, row.target_accuracy_percent, suite) {
            let target = targets.entry((row.model, row.config)).or_insert_with(|| {
                let epochs = collection.config_of(row.config).get("epochs");
                let epochs = epochs.and_then(serde_json::Value::as_u64).unwrap_or(0);
                suite.target(collection.text_of(row.model), SPECIFICATION_DATASET, epochs)
            });
            row.target_accuracy_percent = *target;
        }
        if row.status == Status::Measured {
            let accuracy = row.metrics().test_accuracy_percent;
            row.status = match (accuracy, row.target_accuracy_percent) {
                (None, _) => Status::NoQuality,
                (Some(accuracy), Some(target)) if accuracy < target => Status::NotConverged,
                _ => Status::Measured,
            };
        }
    }
    collection.rows = rows;
}

/// Place of the row that began last. Where all know the moment that decides, else the local time
/// in `timestamp`; of equals the last.
pub(super) fn newest(rows: &[Row], candidates: &[usize]) -> Option<usize> {
    let at = |index: &usize| &rows[*index];
    let candidates = candidates.iter();
    if candidates.clone().all(|index| at(index).started.is_some()) {
        candidates.max_by_key(|index| at(index).started).copied()
    } else {
        candidates.max_by_key(|index| at(index).timestamp()).copied()
    }
}

/// Sets ranks and speed-ups. `rows` are in the order of their groups; `reference` is the place of
/// its executable's and its backend's names.
/// `noise_floor` is that of a row.
pub(super) fn compare(
    rows: &mut [Row],
    reference: Option<(Id, Id)>,
    noise_floor: &dyn Fn(&Row) -> f64,
) {
    for group in rows.chunk_by_mut(|a, b| a.group == b.group) {
        rank(group);
        if let Some(reference) = reference {
            speed_up(group, reference, noise_floor);
        }
    }
}

/// Equals share a rank; the next one counts them all.
fn rank(group: &mut [Row]) {
    let ranked = || group.iter().filter(|row| row.is_ranked());
    let common = |basis: &Basis| ranked().all(|row| basis.seconds(row).is_some());
    let basis = Basis::ALL.into_iter().find(common).unwrap_or(Basis::Cpu);
    let mut order: Vec<(f64, usize)> = group
        .iter()
        .enumerate()
        .filter(|(_, row)| row.is_ranked())
        .filter_map(|(index, row)| Some((basis.seconds(row)?, index)))
        .collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut last = (f64::NAN, 0);
    for (place, (seconds, index)) in order.into_iter().enumerate() {
        if seconds != last.0 {
            last = (seconds, place as u32 + 1);
        }
        group[index].rank = Some(last.1);
    }
}

/// Against the reference's row of the same run, else against its newest.
fn speed_up(group: &mut [Row], reference: (Id, Id), noise_floor: &dyn Fn(&Row) -> f64) {
    let is_reference = |row: &Row| (row.executable, row.backend) == reference && row.is_ranked();
    let all: Vec<usize> = (0..group.len()).filter(|&index| is_reference(&group[index])).collect();
    let Some(newest_of_all) = newest(group, &all) else { return };
    let mut by_run: HashMap<Id, Vec<usize>> = HashMap::new();
    for &index in &all {
        if let Some(run) = group[index].run {
            by_run.entry(run).or_default().push(index);
        }
    }
    let newest_by_run: HashMap<Id, usize> = by_run
        .into_iter()
        .filter_map(|(run, candidates)| Some((run, newest(group, &candidates)?)))
        .collect();
    for index in 0..group.len() {
        let row = &group[index];
        if !row.is_ranked() {
            continue;
        }
        let same_run = row.run.and_then(|run| newest_by_run.get(&run));
        let against = &group[*same_run.unwrap_or(&newest_of_all)];
        let floor = noise_floor(against).max(noise_floor(row));
        let quotient = |basis: Basis| {
            let factor = basis.seconds(against)? / basis.seconds(row)?;
            let same_row = std::ptr::eq(against, row);
            let found = if same_row { None } else { by_turns(against, row, basis) };
            let interval = found.and_then(|found| found.interval);
            // What is printed and what is claimed are of one piece.
            let factor = interval.map_or(factor, |_| found.map_or(factor, |it| it.ratio));
            let verdict = found.map_or(Verdict::NoDifference, |it| it.verdict(floor));
            Some(SpeedUp { factor, basis, interval, verdict })
        };
        let race = against.race().zip(row.race());
        let race_speed_up = race.and_then(|(base, new)| RaceSpeedUp::new(&base, &new));
        group[index].speed_up = Basis::ALL.into_iter().find_map(quotient);
        group[index].set_race_speed_up(race_speed_up);
    }
}

/// The speed-up by the runs of both rows: paired where they took turns, which takes out what a round
/// has in common.
fn by_turns(base: &Row, new: &Row, basis: Basis) -> Option<Speedup> {
    if base.turns.is_empty() || new.turns.is_empty() {
        return None;
    }
    let seconds = |row: &Row| -> Vec<(u32, f64)> {
        let turns = row.turns.iter();
        turns.filter_map(|turn| Some((turn.round, basis.seconds_of_turn(turn)?))).collect()
    };
    let (base_s, new_s) = (seconds(base), seconds(new));
    if base.run.is_some() && base.run == new.run {
        let rounds: HashMap<u32, f64> = new_s.iter().copied().collect();
        let pairs = base_s.iter().filter_map(|(round, base)| Some((*base, *rounds.get(round)?)));
        let (base, new): (Vec<f64>, Vec<f64>) = pairs.unzip();
        let paired = stats::paired_speedup(&base, &new);
        if paired.is_some_and(|paired| paired.interval.is_some()) {
            return paired;
        }
    }
    let only = |of: Vec<(u32, f64)>| of.into_iter().map(|(_, it)| it).collect::<Vec<f64>>();
    stats::unpaired_speedup(&only(base_s), &only(new_s))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::collection::{collection_of, result_with};
    use crate::report::summary::{Options, Summary};
    use serde_json::{Value, json};

    fn summary(results: &[Value]) -> Summary {
        Summary::new(collection_of(results), &Options::default()).unwrap()
    }

    /// Rank and speed-up of each row, in the order of the results.
    fn compared(results: &[Value]) -> Vec<(Option<u32>, Option<f64>)> {
        let summary = summary(results);
        let mut rows: Vec<&Row> = summary.rows().iter().collect();
        rows.sort_by_key(|row| row.file().trim_end_matches(".json").parse::<usize>().unwrap());
        rows.iter().map(|row| (row.rank, row.speed_up.map(|it| it.factor))).collect()
    }

    fn trained(backend: &str, train_s: f64, keys: Value) -> Value {
        let mut result = result_with(json!({"backend": backend, "timing": {"train_s": train_s}}));
        result.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        result
    }

    #[test]
    fn a_reference_is_an_executable_and_a_backend() {
        let reference: Reference = "a/b/cpu".parse().unwrap();
        assert_eq!((&*reference.executable, &*reference.backend), ("a/b", "cpu"));
        assert!(["", "cpu", "/cpu", "a/"].iter().all(|text| text.parse::<Reference>().is_err()));
    }

    #[test]
    fn the_fastest_is_first_and_equals_share_their_rank() {
        let rows = [("cpu", 4.0), ("a", 1.0), ("b", 2.0), ("c", 2.0)];
        let rows = rows.map(|(backend, train_s)| trained(backend, train_s, json!({})));
        let expected = [(4, 1.0), (1, 4.0), (2, 2.0), (2, 2.0)];
        assert_eq!(compared(&rows), expected.map(|(rank, factor)| (Some(rank), Some(factor))));
    }

    #[test]
    fn rows_of_another_model_configuration_dataset_or_machine_are_not_compared() {
        for keys in [
            json!({"model": "cnn"}),
            json!({"config": {"epochs": 1}}),
            json!({"dataset": {"name": "digits"}}),
            json!({"dataset": {"name": "mnist", "sha256": "0b"}}),
            json!({"dataset": null}),
            json!({"machine": {"cpu": "other"}}),
        ] {
            let rows = [trained("cpu", 4.0, json!({})), trained("gpu", 1.0, keys.clone())];
            let alone = (Some(1), None);
            assert_eq!(compared(&rows), [(Some(1), Some(1.0)), alone], "{keys}");
        }
        // A machine by another name, or with a newer kernel, is the same machine.
        let machine =
            |name: &str| json!({"machine": {"cpu": "c", "hostname": name, "kernel": name}});
        let rows = [trained("cpu", 4.0, machine("a")), trained("gpu", 1.0, machine("b"))];
        assert_eq!(compared(&rows)[1], (Some(1), Some(4.0)));
    }

    #[test]
    fn what_did_not_converge_or_ran_on_software_takes_no_part() {
        for keys in [
            json!({"target_accuracy_percent": 95.5}),
            json!({"status": "not_converged"}),
            json!({"status": "misreported"}),
            json!({"trainer": {"software": true}}),
            json!({"metrics": {"training_time_seconds": 1.0}}),
        ] {
            let rows = [trained("cpu", 4.0, json!({})), trained("gpu", 1.0, keys.clone())];
            assert_eq!(compared(&rows), [(Some(1), Some(1.0)), (None, None)], "{keys}");
            // Nor is it a reference: the other row is the only one left.
            let rows = [trained("cpu", 4.0, keys), trained("gpu", 1.0, json!({}))];
            assert_eq!(compared(&rows), [(None, None), (Some(1), Some(1.0))]);
        }
        let rows = [trained("cpu", 4.0, json!({"target_accuracy_percent": 95.0}))];
        assert_eq!(summary(&rows).rows()[0].status, Status::Measured);
    }

    #[test]
    fn the_best_clock_that_both_rows_have_is_used_and_named() {
        let timing = |backend: &str, timing: Value| {
            result_with(json!({"backend": backend, "timing": timing}))
        };
        let rows = [
            timing("cpu", json!({"train_s": 4.0, "wall_s": 6.0})),
            timing("a", json!({"train_s": 1.0, "wall_s": 6.0})),
            timing("b", json!({"wall_s": 3.0})),
            timing("c", json!({})),
            timing("d", json!({"train_s": 0.0, "wall_s": 0.0})),
        ];
        let summary = summary(&rows);
        let bases = summary.rows().iter().map(|row| row.speed_up.unwrap());
        let bases: Vec<_> = bases.map(|it| (it.factor, it.basis)).collect();
        let expected = [
            (1.0, Basis::TrainLoop),
            (4.0, Basis::TrainLoop),
            (2.0, Basis::Wall),
            (1.0, Basis::Cpu),
            (1.0, Basis::Cpu),
        ];
        assert_eq!(bases, expected);
        let texts: Vec<_> = summary.rows().iter().map(|row| summary.speed_up_text(row)).collect();
        assert_eq!(texts, ["1.00x", "4.00x", "2.00x (wall)", "1.00x (CPU)", "1.00x (CPU)"]);
        let note = summary.speed_up_note.as_ref().unwrap();
        assert!(Basis::ALL.iter().all(|basis| note.contains(basis.words())), "{note}");
    }

    #[test]
    fn a_row_is_held_against_the_reference_of_its_own_run_else_against_the_newest() {
        let run = |id: &str, day: u32| json!({"run": {"id": id, "started": format!("2026-01-{day:02}T00:00:00Z")}});
        let rows = [
            trained("cpu", 8.0, run("a", 3)),
            trained("gpu", 1.0, run("a", 3)),
            trained("cpu", 4.0, run("b", 1)),
            trained("gpu", 1.0, run("b", 1)),
            trained("gpu", 1.0, run("c", 2)),
        ];
        let factors: Vec<_> = compared(&rows).iter().map(|(_, factor)| factor.unwrap()).collect();
        assert_eq!(factors, [1.0, 8.0, 1.0, 4.0, 8.0]);
    }

    /// A row of one run of the suite, with these seconds in its rounds.
    fn repeated(backend: &str, times: &[f64], keys: Value) -> Value {
        let sample =
            |(round, time): (usize, &f64)| json!({"round": round, "timing": {"train_s": time}});
        let samples: Vec<Value> = times.iter().enumerate().map(sample).collect();
        let median = stats::median(times).unwrap();
        let mut row = trained(backend, median, json!({"samples": samples, "run": {"id": "r"}}));
        row.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        row
    }

    #[test]
    fn a_speed_up_is_paired_by_round_and_claimed_only_if_it_is_shown() {
        // The machine drifts by half; within each round the other row is 4 to 6 % faster.
        let base = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5];
        let new = [0.95, 1.05, 1.13, 1.24, 1.33, 1.42];
        let verdict = |new: &[f64], keys: Value| {
            let rows = [repeated("cpu", &base, json!({})), repeated("gpu", new, keys)];
            let summary = summary(&rows);
            (
                summary.rows()[1].speed_up.unwrap(),
                summary.speed_up_text(&summary.rows()[1]).into_owned(),
            )
        };
        let (shown, text) = verdict(&new, json!({}));
        assert_eq!((shown.verdict, text.as_str()), (Verdict::Faster, "1.05x"));
        let interval = shown.interval.unwrap();
        assert!(1.04 < interval.low && interval.high < 1.07, "{interval:?}");
        // Of another run there is nothing to pair: the drift hides it.
        let (hidden, text) = verdict(&new, json!({"run": {"id": "s"}}));
        assert_eq!((hidden.verdict, text.as_str()), (Verdict::NoDifference, "1.05x ~"));
        // Nor is it claimed where the machine's noise is larger.
        let floor = json!({"noise_floor": {"share": 0.08, "measured": "t", "row": "r"}});
        assert_eq!(verdict(&new, floor).0.verdict, Verdict::NoDifference);
        // Too few rounds: the number without a claim.
        let (few, text) = verdict(&new[..1], json!({}));
        assert_eq!((few.interval, few.verdict), (None, Verdict::NoDifference), "{text}");
    }

    #[test]
    fn a_run_that_was_repeated_for_its_noise_is_in_no_comparison() {
        let base = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        let mut new = repeated("gpu", &[0.5; 6], json!({}));
        let noisy = json!({"round": 0, "superseded": true, "timing": {"train_s": 9.0},
                           "disturbances": ["load"]});
        new["samples"].as_array_mut().unwrap().insert(0, noisy);
        let rows = [repeated("cpu", &base, json!({})), new];
        let summary = summary(&rows);
        let row = &summary.rows()[1];
        assert_eq!((row.noisy_runs, row.repeated_runs, row.counted_runs), (1, 1, 6));
        assert_eq!(row.speed_up.unwrap().factor, 2.0);
        assert!(
            summary.notes.iter().any(|note| note.contains("1 of 13 runs was disturbed")),
            "{:?}",
            summary.notes
        );
    }

    #[test]
    fn files_without_a_target_are_held_to_the_suites() {
        let suite = Suite::parse(crate::suite::BUILT_IN, "built in").unwrap();
        let status = |version: u32, accuracy: f64| {
            let metrics = json!({"training_time_seconds": 1.0, "test_accuracy_percent": accuracy});
            let keys = json!({"schema_version": version, "model": "mlp", "metrics": metrics});
            let options = Options { suite: Some(&suite), ..Options::default() };
            let collection = collection_of(&[result_with(keys)]);
            Summary::new(collection, &options).unwrap().rows()[0].status
        };
        assert_eq!(status(0, 5.69), Status::NotConverged);
        assert_eq!(status(0, 95.67), Status::Measured);
        // A file of ours would say if there were one.
        assert_eq!(status(1, 5.69), Status::Measured);
    }
}
