//! One training of a row, and the program that did it, as the record keeps them.

use crate::status::Status;
use measure::surroundings::Surroundings;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Seconds. Null where unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timing {
    /// The harness's clock around the trainer's process.
    pub wall_s: Option<f64>,
    pub user_s: Option<f64>,
    pub system_s: Option<f64>,
    /// The trainer's clock: loading and start-up.
    pub setup_s: Option<f64>,
    /// The trainer's clock: compilation and warm-up.
    pub compile_s: Option<f64>,
    /// The trainer's clock: the training, nothing else.
    pub train_s: Option<f64>,
    /// The trainer's clock: prediction of the test set.
    pub eval_s: Option<f64>,
    /// Device events around the same region as `train_s`.
    pub device_s: Option<f64>,
}

impl Timing {
    /// All of them, by their names.
    #[rustfmt::skip]
    pub(crate) fn each(&mut self) -> [(&'static str, &mut Option<f64>); 8] {
        let Timing { wall_s, user_s, system_s, setup_s, compile_s, train_s, eval_s, device_s } = self;
        [
            ("wall_s", wall_s), ("user_s", user_s), ("system_s", system_s), ("setup_s", setup_s),
            ("compile_s", compile_s), ("train_s", train_s), ("eval_s", eval_s), ("device_s", device_s),
        ]
    }

    /// Without values that are no measurement: a clock of 0 or below.
    #[must_use]
    pub fn measured(mut self) -> Timing {
        for (name, seconds) in self.each() {
            // A process may well take no time in the system, or none outside of it.
            let may_be_0 = matches!(name, "user_s" | "system_s");
            *seconds = seconds.filter(|it| *it > 0.0 || (may_be_0 && *it == 0.0));
        }
        self
    }

    /// User and system seconds together, to the nanosecond: the sum of two numbers of few digits has few.
    pub fn cpu_s(&self) -> Option<f64> {
        let sum = ((self.user_s? + self.system_s?) * 1e9).round() / 1e9;
        Some(sum).filter(|it| *it > 0.0)
    }
}

/// One training of a row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// Samples of different rows with the same round of the same run belong together: between them
    /// they took turns.
    pub round: u32,
    pub status: Status,
    pub reason: Option<String>,
    pub timing: Timing,
    pub peak_memory_bytes: Option<u64>,
    /// Peak of the trainer's allocations on its device, as it says.
    pub device_peak_bytes: Option<u64>,
    /// The task's metrics, those that are known.
    pub metrics: BTreeMap<String, f64>,
    /// How they and the loss developed, in the order in which the trainer said it.
    pub curve: Vec<CurvePoint>,
    /// How much work it did, in the task's unit.
    pub work: Option<f64>,
    /// Steps of the timed region.
    pub steps: Option<u64>,
    /// What each of several processes says that trained together, and what is seen of it.
    pub ranks: Vec<RankRecord>,
    /// The devices that the harness gave it, by UUID where that is known; what they are stands in `environment`.
    pub devices: Vec<String>,
    /// Along the suite's scaling curve, once the other rows are known ([`crate::scaling`]).
    #[serde(skip)]
    pub efficiency_percent: Option<f64>,
    /// Rows that ran at the same time on other devices or cores.
    pub beside: Vec<String>,
    /// Floating-point operations of the timed region as if nothing were skipped.
    pub dense_flop: Option<f64>,
    /// Those that were carried out.
    pub executed_flop: Option<f64>,
    /// Other counters of the operating system, by name.
    pub counters: BTreeMap<String, u64>,
    /// Those that do not mean what their name says, and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub invalid: BTreeMap<String, String>,
    /// Facts that a program logged for MLPerf, by MLPerf's keys.
    pub mlperf: BTreeMap<String, f64>,
    /// How many processes outlived the trainer's main process and had to be stopped; what they waited for is in no time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped_processes: Option<u64>,
    /// Notes for a reader, for example about stragglers.
    pub notes: Vec<String>,
    /// Why the sample is noisy: what else the machine did meanwhile. Empty for a quiet one.
    pub disturbances: Vec<String>,
    /// It was noisy and a later sample of the same round stands for it: no figure counts it.
    pub superseded: bool,
    pub surroundings: Option<Surroundings>,
    /// What each node cost, where several trained together.
    pub nodes: Vec<NodeSample>,
    /// Last lines of the trainer's output; kept when it did not complete.
    pub stdout_tail: Option<String>,
    pub stderr_tail: Option<String>,
}

/// What one of several nodes cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeSample {
    pub host: String,
    /// Figures and counters by name, those that are known.
    pub meters: BTreeMap<String, f64>,
}

/// One of several processes that trained together: as it says, and as the kernel does of one that its launcher has told
/// its rank.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RankRecord {
    /// Counted from 0.
    pub rank: u32,
    pub train_s: Option<f64>,
    /// Its share.
    pub work: Option<f64>,
    pub device_peak_bytes: Option<u64>,
    /// Peak memory of it and of the processes that it started, pages that are shared counted by shares.
    pub peak_memory_bytes: Option<u64>,
    /// The logical cores that it was bound to, or all that it could have: `0-3,8`.
    pub cpus: Option<String>,
}

/// A moment of a training, as the trainer says: whatever of this it reports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CurvePoint {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// Counted from 1; a fraction within an epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<f64>,
    /// Seconds of training until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Null when it was not finite.
    pub loss: Option<f64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
}

impl Sample {
    /// Without values that are no measurement.
    #[must_use]
    pub fn measured(mut self) -> Sample {
        self.timing = self.timing.measured();
        self.peak_memory_bytes = self.peak_memory_bytes.filter(|it| *it > 0);
        self.device_peak_bytes = self.device_peak_bytes.filter(|it| *it > 0);
        self
    }

    /// Both of two statements of one training, whichever of them says less or was repeated later; `None` if
    /// they contradict each other.
    pub(crate) fn with(&self, other: &Sample) -> Option<Sample> {
        fn both<T: Clone + PartialEq>(one: &Option<T>, other: &Option<T>) -> Option<Option<T>> {
            let agree = one.is_none() || other.is_none() || one == other;
            agree.then(|| one.clone().or(other.clone()))
        }
        fn all<T: Copy + PartialEq>(
            one: &BTreeMap<String, T>,
            other: &BTreeMap<String, T>,
        ) -> Option<BTreeMap<String, T>> {
            let agree = other.iter().all(|(key, it)| one.get(key).is_none_or(|known| known == it));
            agree.then(|| other.iter().chain(one).map(|(key, it)| (key.clone(), *it)).collect())
        }
        let (mut timing, mut others) = (self.timing, other.timing);
        for ((_, one), (_, other)) in timing.each().into_iter().zip(others.each()) {
            *one = both(one, other)?;
        }
        let same = (self.round, self.status) == (other.round, other.status);
        same.then_some(Sample {
            timing,
            work: both(&self.work, &other.work)?,
            steps: both(&self.steps, &other.steps)?,
            peak_memory_bytes: both(&self.peak_memory_bytes, &other.peak_memory_bytes)?,
            device_peak_bytes: both(&self.device_peak_bytes, &other.device_peak_bytes)?,
            metrics: all(&self.metrics, &other.metrics)?,
            counters: all(&self.counters, &other.counters)?,
            superseded: self.superseded || other.superseded,
            ..self.clone()
        })
    }

    /// Work per second of training.
    pub fn throughput(&self) -> Option<f64> {
        Some(self.work? / self.timing.train_s.filter(|seconds| *seconds > 0.0)?)
    }
}

/// The trainer's program.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainerRecord {
    /// The exact command, program first.
    pub command: Vec<String>,
    /// Environment variables that the harness set.
    pub environment: BTreeMap<String, String>,
    /// SHA-256 of the program's file.
    pub sha256: Option<String>,
    /// SHA-256 over what the program was given to run: scripts, inputs, what its set-up was made from.
    pub sources_sha256: Option<String>,
    pub version: Option<String>,
    pub device: Option<String>,
    /// Which code ran, as the trainer says.
    pub path: Option<String>,
    pub threads: Option<usize>,
    pub precision: Option<String>,
    pub parameters: Option<u64>,
    /// A software imitation of a device: not ranked.
    pub software: bool,
    /// The limits that it ran under.
    pub limits: LimitsRecord,
}

/// The limits that a trainer ran under; null is no limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitsRecord {
    pub timeout_s: Option<f64>,
    pub memory_bytes: Option<u64>,
    /// The means that enforced it.
    pub memory_by: Option<String>,
    /// Of each process, be it by us or by whoever started the harness.
    pub address_space_bytes: Option<u64>,
    /// Logical cores.
    pub cpus: Option<Vec<usize>>,
}
