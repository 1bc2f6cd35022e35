//! The one table of figures: every named number of a record, with its unit, which way it is better, how it
//! is read, and where it is shown. Reports, comparisons, history and exports read it and have no list of
//! their own, so that adding a figure is one entry here.
//!
//! The task's metrics and the throughput are figures like the others; their words come from the records.

use crate::number::MEGABYTE;
use crate::number::{decimal, digits, three_digits};
use crate::task::Better;
use crate::{Record, Sample};
use measure::text::visible;
use serde::{Serialize, Serializer};
use std::borrow::Cow;

/// Characters of a label or a unit.
const SHOWN: usize = 60;

/// Where a figure is shown when it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shown {
    /// In exports, and wherever somebody asks for it by name.
    OnRequest,
    /// In the documents too, which have room.
    Documents,
    /// On the terminal too.
    Everywhere,
}

/// One named number.
#[derive(Clone, Debug)]
pub struct Figure {
    /// The name in files, exports and options.
    pub key: Cow<'static, str>,
    /// For the head of a column.
    pub label: Cow<'static, str>,
    /// Empty for a plain number.
    pub unit: Cow<'static, str>,
    pub better: Better,
    pub shown: Shown,
    /// One sentence, for documents that describe the key.
    pub help: Cow<'static, str>,
    read: Read,
}

#[derive(Clone, Copy, Debug)]
enum Read {
    /// From a record, and from one of its samples.
    Stored(fn(&Record) -> Option<f64>, fn(&Sample) -> Option<f64>),
    /// The task's metric of the figure's name.
    Metric,
    /// The meter of the figure's name.
    Meter,
}

/// No sample has it.
const OF_RECORDS: fn(&Sample) -> Option<f64> = |_| None;

use Better::{Higher, Lower};
use Shown::{Documents, Everywhere, OnRequest};

const fn figure(
    (key, label, unit): (&'static str, &'static str, &'static str),
    (better, shown): (Better, Shown),
    help: &'static str,
    record: fn(&Record) -> Option<f64>,
    sample: fn(&Sample) -> Option<f64>,
) -> Figure {
    Figure {
        key: Cow::Borrowed(key),
        label: Cow::Borrowed(label),
        unit: Cow::Borrowed(unit),
        better,
        shown,
        help: Cow::Borrowed(help),
        read: Read::Stored(record, sample),
    }
}

/// In the order of their columns. The task's metrics follow the first two, as in the specification.
#[rustfmt::skip]
static FIGURES: [Figure; 18] = [
    figure(("training_time_seconds", "Training Time", "s"), (Lower, Everywhere),
        "user + system CPU seconds of the trainer's whole process tree",
        |it| it.metrics.training_time_seconds, |it| it.timing.cpu_s()),
    figure(("peak_memory_mb", "Peak Memory", "MB"), (Lower, Everywhere),
        "peak resident memory of the process tree",
        |it| it.metrics.peak_memory_mb, |it| Some(it.peak_memory_bytes? as f64 / MEGABYTE)),
    figure(("train_s", "Train Loop", "s"), (Lower, Everywhere),
        "the trainer's own clock around its training",
        |it| it.timing.train_s, |it| it.timing.train_s),
    figure(("throughput", "Throughput", "work/s"), (Higher, Everywhere),
        "work per second of training",
        |it| it.throughput.as_ref()?.value, Sample::throughput),
    figure(("step_ms", "Step", "ms"), (Lower, Documents),
        "milliseconds of the train loop per step",
        |it| Some(1e3 * it.timing.train_s? / it.samples.last()?.steps.filter(|it| *it > 0)? as f64),
        |it| Some(1e3 * it.timing.train_s? / it.steps.filter(|it| *it > 0)? as f64)),
    figure(("wall_s", "Wall Time", "s"), (Lower, OnRequest),
        "the wall clock around the whole process",
        |it| it.timing.wall_s, |it| it.timing.wall_s),
    figure(("setup_s", "Set-up", "s"), (Lower, Documents),
        "the trainer's own clock around start-up and loading",
        |it| it.timing.setup_s, |it| it.timing.setup_s),
    figure(("compile_s", "Compile", "s"), (Lower, Documents),
        "the trainer's own clock around compilation and warm-up",
        |it| it.timing.compile_s, |it| it.timing.compile_s),
    figure(("eval_s", "Evaluation", "s"), (Lower, OnRequest),
        "the trainer's own clock around the prediction of the test set",
        |it| it.timing.eval_s, |it| it.timing.eval_s),
    figure(("device_s", "Device Time", "s"), (Lower, OnRequest),
        "device events around the same region as the train loop",
        |it| it.timing.device_s, |it| it.timing.device_s),
    figure(("device_peak_mb", "Device Memory", "MB"), (Lower, Everywhere),
        "peak of the trainer's allocations on its device, as the trainer reports it",
        |it| Some(it.device_peak_bytes? as f64 / MEGABYTE),
        |it| Some(it.device_peak_bytes? as f64 / MEGABYTE)),
    figure(("target_s", "To Target", "s"), (Lower, Everywhere),
        "training time until the target was reached",
        |it| it.race.as_ref()?.seconds, OF_RECORDS),
    figure(("cold_target_s", "Cold To Target", "s"), (Lower, Documents),
        "set-up, compilation and training until the target was reached",
        |it| it.race.as_ref()?.cold_seconds, OF_RECORDS),
    figure(("target_epochs", "Epochs To Target", ""), (Lower, Documents),
        "epochs until the target was reached",
        |it| it.race.as_ref()?.epochs, OF_RECORDS),
    figure(("achieved_gflop_per_s", "GFLOP/s", ""), (Higher, Documents),
        "10^9 floating-point operations per second of training, as carried out",
        |it| Some(it.roofline.as_ref()?.achieved_flop_per_s / 1e9), OF_RECORDS),
    figure(("peak_share_percent", "Of Peak FLOP/s", "%"), (Higher, Everywhere),
        "operations per second that were carried out (the model's, where the trainer does not count), as a share of the \
         machine's measured peak",
        |it| Some(it.roofline.as_ref()?.share? * 100.0), OF_RECORDS),
    figure(("data_sheet_share_percent", "Of Data Sheet", "%"), (Higher, Documents),
        "the model's operations per second, as a share of the data sheet's peak for the row's precision",
        |it| Some(it.roofline.as_ref()?.of_data_sheet? * 100.0), OF_RECORDS),
    figure(("efficiency", "Efficiency", "%"), (Higher, OnRequest),
        "speed-up along the suite's scaling curve, of the perfect one",
        |it| it.efficiency_percent, |it| it.efficiency_percent),
];

/// Those that say how long it took, the best first: seconds of training mean more than seconds in which
/// the process also started up, and those more than CPU seconds, which are not time that passed.
pub const CLOCKS: [&str; 3] = ["train_s", "wall_s", "training_time_seconds"];

/// Every figure that any of the records may have, in the order of columns.
pub fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<Figure> {
    let mut metrics: Vec<Figure> = Vec::new();
    let mut unit: Option<&str> = None;
    for record in records {
        let task = record.task();
        unit = unit.or(task.throughput.as_ref().map(|work| work.unit.as_str()));
        for (name, metric) in &task.metrics {
            if !metrics.iter().any(|known| known.key == *name) {
                let label = if metric.label.is_empty() { name } else { &metric.label };
                let is_quality = task.quality.as_deref() == Some(name);
                metrics.push(Figure {
                    key: name.clone().into(),
                    // Words of a suite, which may hold anything.
                    label: visible(label, SHOWN).into_owned().into(),
                    unit: visible(&metric.unit, SHOWN).into_owned().into(),
                    better: metric.better,
                    shown: if is_quality { Everywhere } else { Documents },
                    help: "a metric of the task".into(),
                    read: Read::Metric,
                });
            }
        }
    }
    let mut figures = FIGURES.to_vec();
    if let Some(unit) = unit
        && let Some(throughput) = figures.iter_mut().find(|figure| figure.key == "throughput")
    {
        throughput.unit = format!("{}/s", visible(unit, SHOWN)).into();
    }
    figures.splice(2..2, metrics);
    figures
}

/// The figure of that name, whatever its case, a hyphen for an underscore: of these records, or a meter of theirs.
pub fn named<'a>(
    name: &str,
    records: impl IntoIterator<Item = &'a Record> + Clone,
) -> Option<Figure> {
    let name = name.replace('-', "_");
    let known = of(records.clone());
    let keys: Vec<&str> = known.iter().map(|figure| &*figure.key).collect();
    let name = crate::name::meant(&name, &keys).map_or(name.to_lowercase(), str::to_owned);
    let mut qualities = records.clone().into_iter().filter_map(|it| it.task().quality());
    let key = if name == "quality" { qualities.next()?.0 } else { &*name };
    if let Some(figure) = known.iter().find(|figure| figure.key == key) {
        return Some(figure.clone());
    }
    records.into_iter().any(|record| record.meters.contains_key(key)).then(|| Figure {
        key: key.to_owned().into(),
        label: key.replace('_', " ").into(),
        unit: Cow::Borrowed(""),
        better: if key == "device_busy_least_percent" { Higher } else { Lower },
        shown: OnRequest,
        help: "a meter of the operating system or of a device".into(),
        read: Read::Meter,
    })
}

/// The same, for an option `--metric`.
///
/// # Errors
/// If there is none: a line with the nearest and all others.
pub fn required<'a>(
    name: &str,
    records: impl IntoIterator<Item = &'a Record> + Clone,
) -> Result<Figure, String> {
    named(name, records.clone()).ok_or_else(|| {
        let known = of(records);
        let known: Vec<&str> = known.iter().map(|figure| &*figure.key).collect();
        crate::name::unknown("--metric", "figure", name, &known, "")
    })
}

/// In files it is its key.
impl Serialize for Figure {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.key)
    }
}

impl Figure {
    /// `Training Time (s)`.
    pub fn title(&self) -> String {
        match self.unit.is_empty() {
            true => self.label.to_string(),
            false => format!("{} ({})", self.label, self.unit),
        }
    }

    /// A value for a table: the specification's figures and percentages with two decimals, as it prints
    /// them, other times with three digits.
    pub fn printed(&self, value: f64) -> String {
        match &*self.key {
            "training_time_seconds" | "peak_memory_mb" => decimal(Some(value)),
            _ if self.unit == "%" => decimal(Some(value)),
            _ if self.is_time() => three_digits(value),
            _ => digits(value),
        }
    }

    /// A value with its unit, for a sentence.
    pub fn said(&self, value: f64) -> String {
        format!("{} {}", self.printed(value), self.unit).trim_end().to_owned()
    }

    /// Whether it says how long something took.
    pub fn is_time(&self) -> bool {
        self.unit == "s"
    }

    /// Whether it depends on the machine; a metric of the task does not.
    pub fn is_of_machine(&self) -> bool {
        !matches!(self.read, Read::Metric)
    }

    /// The record's own value: the median over its samples.
    pub fn of(&self, record: &Record) -> Option<f64> {
        match self.read {
            Read::Stored(of, _) => of(record),
            Read::Metric => record.metrics.of_task.get(&*self.key).copied()?,
            Read::Meter => record.meters.get(&*self.key).filter(|it| it.valid)?.value,
        }
        .filter(|value| self.is_measured(*value))
    }

    /// A time, a size or a rate of 0 or below is none that anybody measured; a metric of the task may be
    /// anything, and a counter may stand at 0.
    fn is_measured(&self, value: f64) -> bool {
        value.is_finite() && (value > 0.0 || !matches!(self.read, Read::Stored(..)))
    }

    /// One sample's value.
    pub fn of_sample(&self, sample: &Sample) -> Option<f64> {
        match self.read {
            Read::Stored(_, of) => of(sample),
            Read::Metric => sample.metrics.get(&*self.key).copied(),
            Read::Meter if sample.invalid.contains_key(&*self.key) => None,
            Read::Meter => sample.counters.get(&*self.key).map(|&count| count as f64),
        }
        .filter(|value| self.is_measured(*value))
    }

    /// The values of the samples that count, with their rounds. A record without samples, such as the
    /// specification's, is one sample of round 0.
    pub fn samples(&self, record: &Record) -> Vec<(u32, f64)> {
        if record.samples.is_empty() {
            return self
                .of(record)
                .filter(|_| record.status.completed())
                .map(|it| (0, it))
                .into_iter()
                .collect();
        }
        // Older files say of the row alone whether a meter is valid.
        if matches!(self.read, Read::Meter) && self.of(record).is_none() {
            return Vec::new();
        }
        let completed = record.counted().filter(|sample| sample.status.completed());
        completed.filter_map(|sample| Some((sample.round, self.of_sample(sample)?))).collect()
    }

    /// Whether each sample of the record that counts has it.
    pub fn is_complete(&self, record: &Record) -> bool {
        let completed = record.counted().filter(|sample| sample.status.completed()).count();
        self.of(record).is_some() && self.samples(record).len() == completed.max(1)
    }

    /// Whether its unit and its direction are the same in all of the records.
    pub fn is_one<'a>(&self, records: impl Iterator<Item = &'a Record>) -> bool {
        let defined = |record: &'a Record| match (self.read, &*self.key) {
            (Read::Metric, key) => {
                record.task().metrics.get(key).map(|it| (it.unit.as_str(), it.better))
            }
            (_, "throughput") => {
                record.task().throughput.as_ref().map(|it| (it.unit.as_str(), self.better))
            }
            _ => None,
        };
        let mut defined = records.filter_map(defined);
        let first = defined.next();
        defined.all(|it| Some(it) == first)
    }

    /// Whether the source of the record's value says that the true one lies below it, or above it, nobody knows how far.
    pub fn is_bound(&self, record: &Record) -> bool {
        let says = |it: &String| {
            ["at most this much", "at least this much"].iter().any(|bound| it.contains(bound))
        };
        let parts: &[&str] = match &*self.key {
            "training_time_seconds" => &["user_s", "system_s"],
            key => &[key],
        };
        let mut sources = parts.iter().filter_map(|key| record.sources.get(*key));
        self.of(record).is_some() && sources.any(says)
    }

    /// Whether only the trainer states the record's value of this metric.
    pub fn is_claimed(&self, record: &Record) -> bool {
        matches!(self.read, Read::Metric)
            && self.of(record).is_some()
            && record.schema_version > 0
            && record.task().metrics.get(&*self.key).and_then(|metric| metric.source)
                != Some(crate::task::Source::Scored)
    }

    /// More of it, less of it, in words.
    pub fn directions(&self) -> (&'static str, &'static str) {
        match (self.is_time(), self.better) {
            (true, _) => ("slower", "faster"),
            (false, Better::Higher) => ("better", "worse"),
            (false, Better::Lower) if self.unit == "MB" => ("larger", "smaller"),
            (false, Better::Lower) => ("worse", "better"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{MetricRecord, TaskRecord, WorkRecord};

    #[test]
    fn a_figure_is_read_from_a_record_and_from_each_of_its_samples() {
        let task = Some(Box::new(TaskRecord {
            quality: Some("bpc".into()),
            metrics: [("bpc".to_owned(), MetricRecord::default())].into(),
            throughput: Some(WorkRecord { unit: "tokens".into() }),
            ..TaskRecord::default()
        }));
        let mut record = Record { task, ..Record::default() };
        let timing = crate::Timing { train_s: Some(2.0), ..Default::default() };
        record.add_sample(Sample {
            timing,
            work: Some(10.0),
            metrics: [("bpc".to_owned(), 3.2)].into(),
            ..Sample::default()
        });
        let figures = of([&record]);
        let names: Vec<&str> = figures.iter().map(|it| &*it.key).collect();
        assert_eq!(names[..4], ["training_time_seconds", "peak_memory_mb", "bpc", "train_s"]);
        for (name, value, unit) in
            [("train-s", 2.0, "s"), ("bpc", 3.2, ""), ("throughput", 5.0, "tokens/s")]
        {
            let figure = named(name, [&record]).unwrap();
            assert_eq!((figure.of(&record), &*figure.unit), (Some(value), unit), "{name}");
            assert_eq!(figure.samples(&record), [(0, value)], "{name}");
        }
        assert!(named("top5", [&record]).is_none());
    }

    #[test]
    fn keys_are_unique_and_every_clock_is_a_figure() {
        let figures = of([&Record::default()]);
        let mut keys: Vec<&str> = figures.iter().map(|it| &*it.key).collect();
        assert!(CLOCKS.iter().all(|clock| keys.contains(clock)));
        keys.sort_unstable();
        assert!(keys.windows(2).all(|pair| pair[0] != pair[1]), "{keys:?}");
    }
}
