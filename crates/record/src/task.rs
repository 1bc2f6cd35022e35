//! The task in a record: the metrics with their directions, which of them is the quality, the
//! unit of work, and the configuration keys that the suite declared.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which way a figure is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    #[default]
    Lower,
    Higher,
}

impl Better {
    /// Whether `value` is at the target or beyond it.
    pub fn reaches(self, value: f64, target: f64) -> bool {
        match self {
            Better::Lower => value <= target,
            Better::Higher => value >= target,
        }
    }

    /// Where a value that misses its target is: `above its target`.
    pub fn missed(self) -> &'static str {
        match self {
            Better::Lower => "above",
            Better::Higher => "below",
        }
    }
}

/// The source of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The harness computed it from the trainer's predictions.
    Scored,
    /// The trainer says so.
    Claimed,
}

/// A metric of a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MetricRecord {
    /// For the head of a column; the metric's name where it is empty.
    pub label: String,
    /// Empty for a plain number.
    pub unit: String,
    pub better: Better,
    /// Its source; null if it was not measured.
    pub source: Option<Source>,
}

/// The work of a training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkRecord {
    /// In the plural, for example `tokens`.
    pub unit: String,
}

/// The task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskRecord {
    pub name: String,
    /// The metric that decides convergence; null for a task that only measures time.
    pub quality: Option<String>,
    pub metrics: BTreeMap<String, MetricRecord>,
    pub throughput: Option<WorkRecord>,
    /// The reference trainer of `trainmark verify`; null if there is none.
    pub verify: Option<String>,
    /// The suite's scaling curve, if it declares one.
    pub scaling: Option<ScalingRecord>,
}

/// Rows that differ in one configuration key only are a scaling curve.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScalingRecord {
    /// The key: processes, devices, threads.
    pub over: String,
    pub kind: ScalingKind,
}

/// The kind of a scaling curve: what stays constant along it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScalingKind {
    /// All the work together.
    #[default]
    Strong,
    /// The work of each.
    Weak,
}

impl TaskRecord {
    /// The metric that decides convergence, with its name.
    pub fn quality(&self) -> Option<(&str, &MetricRecord)> {
        let name = self.quality.as_deref()?;
        Some((name, self.metrics.get(name)?))
    }
}

/// A configuration key as the suite declares it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyRecord {
    /// In tables; the key itself where it is empty.
    pub label: String,
    /// Whether another value of it changes the steps: those are compared by `trainmark verify`.
    pub changes_steps: bool,
}

impl Default for KeyRecord {
    fn default() -> KeyRecord {
        KeyRecord { label: String::new(), changes_steps: true }
    }
}
