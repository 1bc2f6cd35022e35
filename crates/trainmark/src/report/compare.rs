//! What may be compared with what, and how it compares: references, speed-ups, ranks.
//!
//! Rows are comparable when they trained the same model in the same configuration on the same
//! dataset and the same hardware. Among those, only rows that were measured and reached their
//! target take part, and never those of a software imitation of a device.

use super::collection::{Collection, Id, Row};
use crate::result::Status;
use crate::suite::{ReferenceRow, Suite};
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

    /// `None` where unknown or where a quotient would mean nothing.
    pub fn seconds(self, row: &Row) -> Option<f64> {
        let seconds = match self {
            Basis::TrainLoop => row.timing.train_s,
            Basis::Wall => row.timing.wall_s,
            Basis::Cpu => row.metrics.training_time_seconds,
        };
        seconds.filter(|&seconds| seconds > 0.0)
    }
}

impl Row {
    /// Whether it takes part in rankings and speed-ups.
    pub fn is_ranked(&self) -> bool {
        self.status == Status::Measured && !self.software
    }

    /// Whether it is kept out of them by nothing but an imitation of a device.
    pub fn is_ranked_but_for_software(&self) -> bool {
        self.status == Status::Measured && self.software
    }
}

/// Sets the target of files that name none, and the status that follows from the target.
pub(super) fn judge(collection: &mut Collection, suite: Option<&Suite>) {
    let mut rows = std::mem::take(&mut collection.rows);
    for row in &mut rows {
        if let (0, None, Some(suite)) = (row.schema_version, row.target_accuracy_percent, suite) {
            let epochs = collection.config_of(row.config).get("epochs");
            let epochs = epochs.and_then(serde_json::Value::as_u64).unwrap_or(0);
            row.target_accuracy_percent =
                suite.target(collection.text_of(row.model), SPECIFICATION_DATASET, epochs);
        }
        if row.status == Status::Measured {
            row.status = match (row.metrics.test_accuracy_percent, row.target_accuracy_percent) {
                (None, _) => Status::NoAccuracy,
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
        candidates.max_by_key(|index| &at(index).timestamp).copied()
    }
}

/// Sets ranks and speed-ups. `rows` are in the order of their groups; `reference` is the place of
/// its executable's and its backend's names.
pub(super) fn compare(rows: &mut [Row], reference: Option<(Id, Id)>) {
    for group in rows.chunk_by_mut(|a, b| a.group == b.group) {
        rank(group);
        if let Some(reference) = reference {
            speed_up(group, reference);
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
fn speed_up(group: &mut [Row], reference: (Id, Id)) {
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
        let quotient = |basis: Basis| {
            let factor = basis.seconds(against)? / basis.seconds(row)?;
            Some(SpeedUp { factor, basis })
        };
        group[index].speed_up = Basis::ALL.into_iter().find_map(quotient);
    }
}
