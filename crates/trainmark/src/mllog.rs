//! Reads MLPerf's log lines, so that a program that prints them needs no change.
//!
//! A line is `:::MLLOG ` and one JSON object with `time_ms` (milliseconds since 1970), `event_type`,
//! `key`, `value` and `metadata`; whatever stands before the prefix (a rank, a progress bar) is passed
//! over, as MLPerf's own checker does. Format and keys: github.com/mlcommons/logging (`mllog.py`,
//! `constants.py`, `mlp_parser`) and MLPerf's training rules. What is understood:
//!
//! | key | becomes |
//! |---|---|
//! | `init_start`, `init_stop` | set-up |
//! | `run_start`, `run_stop` | training, less the evaluations within; without `run_stop` it failed |
//! | `epoch_start`, `epoch_stop` | an epoch, less the evaluations within |
//! | `eval_start`, `eval_stop` | evaluation, their sum |
//! | a metric of the task, or what it declares as `mlperf` | that metric; the last one counts |
//! | `quality_target`, `global_batch_size`, `train_samples`, `samples_count` | recorded; the last is the work |
//!
//! Processes that print the same lines are taken together: an interval begins with the first that says
//! so and ends with the last. Losses are passed over: MLPerf's are of single steps.

use crate::task::Task;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The marker of a line; it may stand anywhere in the line.
const PREFIX: &str = ":::MLLOG ";
/// Keys whose values are recorded as the program states them.
const NOTED: [&str; 4] = ["quality_target", "global_batch_size", "train_samples", "samples_count"];
/// Intervals that are kept of one run.
const MOST_INTERVALS: usize = 200_000;

/// One line.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Entry {
    pub time_ms: f64,
    pub key: String,
    #[serde(default)]
    pub value: Value,
    pub metadata: Option<Map<String, Value>>,
}

impl Entry {
    /// Reads a line of a trainer's output: `None` if it is no line of MLPerf's.
    ///
    /// # Errors
    /// One line on what is wrong with it, if it begins like one.
    pub fn parse(line: &str) -> Option<Result<Entry, String>> {
        let (_, json) = line.rsplit_once(PREFIX)?;
        let entry = serde_json::from_str(&protocol::quote_not_finite(json.trim()));
        Some(entry.map_err(|error: serde_json::Error| format!("not a line of MLPerf's: {error}")))
    }

    /// A number, also where it is written as a text, as the logging library may do.
    fn number(&self) -> Option<f64> {
        match &self.value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// The number that distinguishes an interval from others of its kind, if the line has one.
    fn number_of_epoch(&self) -> Option<i64> {
        let metadata = self.metadata.as_ref()?;
        ["epoch_num", "step_num", "samples_count"]
            .iter()
            .find_map(|key| metadata.get(*key)?.as_i64())
    }
}

/// An interval in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Interval {
    number: Option<i64>,
    start: f64,
    stop: Option<f64>,
}

/// The state after the lines that were read so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    intervals: BTreeMap<&'static str, Vec<Interval>>,
    /// Why it gave its run up, if it did.
    pub aborted: Option<String>,
    /// Facts about its run, by key.
    pub noted: BTreeMap<&'static str, f64>,
}

/// The content of a metric's line.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluated {
    pub metric: String,
    pub value: f64,
    /// The epoch that it belongs to; of an evaluation within one, none.
    pub epoch: Option<usize>,
}

impl Log {
    /// Takes one line; returns the metric that it tells.
    ///
    /// # Errors
    /// If it cannot be, or contradicts those before it.
    pub fn entry(&mut self, entry: &Entry, task: &Task) -> Result<Option<Evaluated>, String> {
        for name in ["init", "run", "epoch", "eval"] {
            match entry.key.strip_prefix(name) {
                Some("_start") => self.start(name, entry)?,
                Some("_stop") => self.stop(name, entry)?,
                _ => {}
            }
        }
        if entry.key == "run_stop" {
            self.aborted = aborted(entry);
        }
        if let (Some(key), Some(number)) =
            (NOTED.into_iter().find(|key| *key == entry.key), entry.number())
            && number.is_finite()
        {
            self.noted.insert(key, number);
        }
        let by_key = |(name, metric): (&String, &crate::task::Metric)| match &metric.mlperf {
            Some(mlperf) => (mlperf.key == entry.key).then(|| (name.clone(), mlperf.times)),
            None => (*name == entry.key).then(|| (name.clone(), 1.0)),
        };
        let Some((metric, times)) = task.metrics.iter().find_map(by_key) else { return Ok(None) };
        let number = entry
            .number()
            .ok_or_else(|| format!("{} = {} is not a number", entry.key, entry.value))?;
        let epochs = self.intervals.get("epoch").map_or(&[][..], Vec::as_slice);
        let ended = epochs.last().is_some_and(|last| last.stop.is_some());
        let epoch = ended.then_some(epochs.len());
        // A fraction of 1 that is shown in percent has no more digits than it had.
        let value = if times == 1.0 { number } else { (number * times * 1e9).round() / 1e9 };
        Ok(Some(Evaluated { metric, value, epoch }))
    }

    fn start(&mut self, name: &'static str, entry: &Entry) -> Result<(), String> {
        let intervals = self.intervals.entry(name).or_default();
        if intervals.len() >= MOST_INTERVALS {
            return Err(format!("more than {MOST_INTERVALS} times {name}_start"));
        }
        let number = entry.number_of_epoch();
        // Another process says the same: the interval is still open, or began before it ended, or has
        // that epoch's number.
        let same = |it: &&mut Interval| {
            let overlaps = it.stop.is_none_or(|stop| entry.time_ms < stop);
            it.number == number && (overlaps || (number.is_some() && name == "epoch"))
        };
        match intervals.iter_mut().rev().take(2).find(same) {
            Some(open) => open.start = open.start.min(entry.time_ms),
            None => intervals.push(Interval { number, start: entry.time_ms, stop: None }),
        }
        Ok(())
    }

    fn stop(&mut self, name: &'static str, entry: &Entry) -> Result<(), String> {
        let intervals = self.intervals.entry(name).or_default();
        let number = entry.number_of_epoch();
        let own =
            intervals.iter().rposition(|it| it.number == number).or(intervals.len().checked_sub(1));
        let own = own.ok_or_else(|| format!("{name}_stop without {name}_start"))?;
        let last = &mut intervals[own];
        match entry.time_ms - last.start {
            elapsed if elapsed >= 0.0 && elapsed.is_finite() => {
                last.stop = Some(last.stop.map_or(entry.time_ms, |stop| stop.max(entry.time_ms)));
                Ok(())
            }
            elapsed => Err(format!("{name}_stop {} ms before {name}_start", -elapsed)),
        }
    }

    /// Whether there was any line.
    pub fn spoke(&self) -> bool {
        !self.intervals.is_empty() || !self.noted.is_empty()
    }

    /// Whether it began its run and said nothing of its end.
    pub fn was_cut(&self) -> bool {
        self.intervals.get("run").is_some_and(|runs| runs.iter().any(|run| run.stop.is_none()))
    }

    pub fn setup_s(&self) -> Option<f64> {
        self.seconds("init", None)
    }

    /// Without the evaluations within.
    pub fn train_s(&self) -> Option<f64> {
        let run_s = self.seconds("run", None)?;
        let run = self.intervals.get("run")?.last().copied();
        Some((run_s - self.seconds("eval", run).unwrap_or(0.0)).max(0.0))
    }

    pub fn eval_s(&self) -> Option<f64> {
        self.seconds("eval", None)
    }

    /// Seconds of each epoch that has ended, without the evaluations within.
    pub fn epochs(&self) -> Vec<f64> {
        let ended = |epoch: &Interval| {
            let evaluated_s = self.seconds("eval", Some(*epoch)).unwrap_or(0.0);
            Some(((epoch.stop? - epoch.start) / 1000.0 - evaluated_s).max(0.0))
        };
        self.intervals.get("epoch").into_iter().flatten().filter_map(ended).collect()
    }

    /// All ended intervals of a name, those that begin within another one.
    fn seconds(&self, name: &str, within: Option<Interval>) -> Option<f64> {
        let inside = |it: &&Interval| {
            within.is_none_or(|outer| {
                it.start >= outer.start && outer.stop.is_none_or(|stop| it.start < stop)
            })
        };
        let ended = self.intervals.get(name)?.iter().filter(inside);
        let lengths: Vec<f64> = ended.filter_map(|it| Some(it.stop? - it.start)).collect();
        (!lengths.is_empty()).then(|| lengths.iter().sum::<f64>() / 1000.0)
    }
}

fn aborted(entry: &Entry) -> Option<String> {
    let status = entry.metadata.as_ref()?.get("status")?.as_str()?;
    (status != "success").then(|| format!("its run_stop has the status {status:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `mllog` writes it: `file` and `lineno` of the caller in every line.
    fn line(time_ms: u64, kind: &str, key: &str, value: &str, metadata: &str) -> String {
        format!(
            r#":::MLLOG {{"namespace": "", "time_ms": {time_ms}, "event_type": "{kind}", "key": "{key}", "value": {value}, "metadata": {{"file": "train.py", "lineno": 81{metadata}}}}}"#
        )
    }

    fn point(key: &str, value: &str) -> String {
        line(1_700_000_000_000, "POINT_IN_TIME", key, value, "")
    }

    fn task() -> Task {
        toml::from_str(
            "name = 't'\n[metrics.accuracy]\nbetter = 'higher'\nmlperf = { key = 'eval_accuracy', times = 100 }\n\
             [metrics.log_perplexity]\nbetter = 'lower'",
        )
        .unwrap()
    }

    fn log(lines: &[String]) -> Result<(Log, Vec<Evaluated>), String> {
        let (mut log, mut metrics) = (Log::default(), Vec::new());
        for line in lines {
            if let Some(entry) = Entry::parse(line) {
                metrics.extend(log.entry(&entry?, &task())?);
            }
        }
        Ok((log, metrics))
    }

    /// A run of two epochs with an evaluation after each.
    fn run() -> Vec<String> {
        let at = 1_700_000_000_000;
        let epoch = |number: u32| format!(r#", "epoch_num": {number}"#);
        let begin = |ms, key, more: &str| line(at + ms, "INTERVAL_START", key, "null", more);
        let end = |ms, key, more: &str| line(at + ms, "INTERVAL_END", key, "null", more);
        vec![
            point("submission_benchmark", r#""resnet""#),
            point("global_batch_size", "32"),
            begin(0, "init_start", ""),
            end(2500, "init_stop", ""),
            begin(3000, "run_start", ""),
            begin(3000, "epoch_start", &epoch(1)),
            point("tracked_stats", r#"{"train_loss": 2.3, "throughput": 812.5}"#),
            end(5000, "epoch_stop", &epoch(1)),
            begin(5000, "eval_start", &epoch(1)),
            end(5400, "eval_stop", &epoch(1)),
            line(at + 5400, "POINT_IN_TIME", "eval_accuracy", "0.91", &epoch(1)),
            begin(5500, "epoch_start", &epoch(2)),
            end(7000, "epoch_stop", &epoch(2)),
            begin(7000, "eval_start", &epoch(2)),
            end(7100, "eval_stop", &epoch(2)),
            line(at + 7100, "POINT_IN_TIME", "eval_accuracy", "0.9345", &epoch(2)),
            end(7200, "run_stop", r#", "status": "success""#),
        ]
    }

    fn evaluated(value: f64, epoch: usize) -> Evaluated {
        Evaluated { metric: "accuracy".into(), value, epoch: Some(epoch) }
    }

    #[test]
    fn a_run_becomes_set_up_training_epochs_evaluation_and_metrics() {
        let (log, metrics) = log(&run()).unwrap();
        assert_eq!((log.setup_s(), log.train_s(), log.eval_s()), (Some(2.5), Some(3.7), Some(0.5)));
        assert_eq!(log.epochs(), [2.0, 1.5]);
        assert_eq!(metrics, [evaluated(91.0, 1), evaluated(93.45, 2)]);
        assert_eq!((log.noted["global_batch_size"], log.aborted.is_none()), (32.0, true));
    }

    #[test]
    fn processes_that_print_the_same_lines_are_one_run() {
        let twice: Vec<String> =
            run().iter().flat_map(|line| [line.clone(), format!("1: {line}")]).collect();
        let (log, _) = log(&twice).unwrap();
        assert_eq!((log.setup_s(), log.train_s(), log.eval_s()), (Some(2.5), Some(3.7), Some(0.5)));
        assert_eq!(log.epochs(), [2.0, 1.5]);
    }

    #[test]
    fn an_evaluation_within_an_epoch_is_not_training() {
        let at = |ms: u64, key: &str| line(ms, "INTERVAL_START", key, "null", "");
        let keys =
            ["run_start", "epoch_start", "eval_start", "eval_stop", "epoch_stop", "run_stop"];
        let times = [0, 0, 1000, 1600, 2000, 2000];
        let lines: Vec<String> = keys.iter().zip(times).map(|(key, ms)| at(ms, key)).collect();
        let (log, _) = log(&lines).unwrap();
        assert_eq!((log.train_s(), log.eval_s()), (Some(1.4), Some(0.6)));
        assert_eq!(log.epochs(), [1.4]);
    }

    #[test]
    fn what_stands_before_the_prefix_is_passed_over_and_texts_are_numbers() {
        let line = format!("3: 100%|####| 9/9 {}", point("eval_accuracy", r#"" 0.5 ""#));
        assert_eq!(log(&[line]).unwrap().1[0].value, 50.0);
        assert_eq!(Entry::parse("Test Accuracy: 95.67%"), None);
        assert_eq!(Entry::parse(":::MLLOGGER {}"), None);
    }

    #[test]
    fn metrics_that_are_no_fraction_of_1_have_their_own_names() {
        let (_, metrics) =
            log(&[point("log_perplexity", "2.69"), point("log_perplexity", "NaN")]).unwrap();
        assert_eq!((metrics[0].metric.as_str(), metrics[0].value), ("log_perplexity", 2.69));
        assert!(metrics[1].value.is_nan());
        assert!(log(&[point("eval_error", "125.9")]).unwrap().1.is_empty());
    }

    #[test]
    fn a_run_that_was_given_up_or_cut_says_so() {
        let mut lines = run();
        let last = lines.pop().unwrap();
        let (cut, _) = log(&lines).unwrap();
        assert!(cut.was_cut() && cut.train_s().is_none());
        lines.push(last.replace("success", "aborted"));
        assert!(log(&lines).unwrap().0.aborted.unwrap().contains("aborted"));
    }

    #[test]
    fn what_cannot_be_is_an_error_that_names_the_key() {
        let stop = line(0, "INTERVAL_END", "run_stop", "null", "");
        assert_eq!(log(&[stop]).unwrap_err(), "run_stop without run_start");
        let backwards = [(5, "eval_start"), (2, "eval_stop")];
        let lines = backwards.map(|(ms, key)| line(ms, "INTERVAL_START", key, "null", ""));
        assert_eq!(log(&lines).unwrap_err(), "eval_stop 3 ms before eval_start");
        for value in ["null", r#""high""#] {
            let error = log(&[point("eval_accuracy", value)]).unwrap_err();
            assert!(error.contains("is not a number"), "{error}");
        }
        assert!(log(&[":::MLLOG [convert-error: x]".to_owned()]).is_err());
        assert!(log(&[r#":::MLLOG {"key": "run_start"}"#.to_owned()]).is_err());
    }
}
