//! MLPerf's log lines, so that a program that logs for MLPerf is measured as it is.
//!
//! A line is `:::MLLOG ` and one JSON object with `time_ms` (milliseconds since 1970), `event_type`,
//! `key`, `value` and `metadata`; whatever stands before the prefix (a rank, a progress bar) is passed
//! over, as MLPerf's own checker does. Format and keys: github.com/mlcommons/logging (`mllog.py`,
//! `constants.py`, `mlp_parser`) and MLPerf's training rules. What is understood:
//!
//! | key | becomes |
//! |---|---|
//! | `init_start`, `init_stop` | set-up |
//! | `run_start`, `run_stop` | training, less the evaluations within |
//! | `epoch_start`, `epoch_stop` | an epoch, less the evaluations within |
//! | `eval_start`, `eval_stop` | evaluation, their sum |
//! | `eval_accuracy` | the claimed accuracy, from a fraction of 1; the last one counts |
//!
//! Everything else, losses among it (MLPerf's are of single steps), is passed over.

use crate::transcript::EpochRecord;
use serde::Deserialize;
use serde_json::{Map, Value};

/// What a line begins with, wherever it stands in the line.
const PREFIX: &str = ":::MLLOG ";
/// Epochs that are kept of one run.
const MOST_EPOCHS: usize = 100_000;

/// One line.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Entry {
    pub time_ms: f64,
    pub key: String,
    #[serde(default)]
    pub value: Value,
    #[serde(default)]
    pub metadata: Option<Map<String, Value>>,
}

impl Entry {
    /// Reads a line of a trainer's output: `None` if it is no line of MLPerf's.
    ///
    /// # Errors
    /// One line on what is wrong with it, if it begins like one.
    pub fn parse(line: &str) -> Option<Result<Entry, String>> {
        let (_, json) = line.rsplit_once(PREFIX)?;
        let entry: Result<Entry, _> = serde_json::from_str(json.trim());
        Some(entry.map_err(|error| format!("not a line of MLPerf's: {error}")))
    }

    /// A number, also where it is written as a text, as the logging library may do.
    fn number(&self) -> Option<f64> {
        match &self.value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        }
    }
}

/// What has been understood of a program's lines so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    /// Whether there was any line.
    pub spoke: bool,
    pub setup_s: Option<f64>,
    pub train_s: Option<f64>,
    pub eval_s: Option<f64>,
    pub epochs: Vec<EpochRecord>,
    /// In percent.
    pub accuracy_percent: Option<f64>,
    /// Why it gave its run up, if it did.
    pub aborted: Option<String>,
    init_ms: Option<f64>,
    run_ms: Option<f64>,
    epoch_ms: Option<f64>,
    eval_ms: Option<f64>,
    /// Milliseconds of evaluations within the run, and within the epoch under way.
    evaluated_ms: f64,
    evaluated_in_epoch_ms: f64,
}

impl Log {
    /// Takes one line.
    ///
    /// # Errors
    /// If it cannot be, or contradicts those before it.
    pub fn entry(&mut self, entry: &Entry) -> Result<(), String> {
        self.spoke = true;
        let now = entry.time_ms;
        match entry.key.as_str() {
            "init_start" => drop(self.init_ms.get_or_insert(now)),
            // Of several processes that log, the first to begin and the last to end.
            "init_stop" => self.setup_s = Some(since("init", self.init_ms, now)? / 1000.0),
            "run_start" => drop(self.run_ms.get_or_insert(now)),
            "run_stop" => {
                let run_ms = since("run", self.run_ms, now)? - self.evaluated_ms;
                self.train_s = Some(run_ms.max(0.0) / 1000.0);
                self.aborted = aborted(entry);
            }
            "epoch_start" => (self.epoch_ms, self.evaluated_in_epoch_ms) = (Some(now), 0.0),
            "epoch_stop" => {
                let begun = self.epoch_ms.take();
                let seconds = since("epoch", begun, now)? - self.evaluated_in_epoch_ms;
                if self.epochs.len() >= MOST_EPOCHS {
                    return Err(format!("more than {MOST_EPOCHS} epochs"));
                }
                self.epochs.push(EpochRecord {
                    epoch: self.epochs.len() as u32 + 1, // at most `MOST_EPOCHS`
                    loss: None,
                    seconds: seconds.max(0.0) / 1000.0,
                    accuracy_percent: None,
                });
            }
            "eval_start" => self.eval_ms = Some(now),
            "eval_stop" => {
                let begun = self.eval_ms.take();
                let eval_ms = since("eval", begun, now)?;
                self.eval_s = Some(self.eval_s.unwrap_or(0.0) + eval_ms / 1000.0);
                if self.run_ms.is_some() && self.train_s.is_none() {
                    self.evaluated_ms += eval_ms;
                }
                self.evaluated_in_epoch_ms += eval_ms;
            }
            "eval_accuracy" => self.accuracy(entry)?,
            _ => {}
        }
        Ok(())
    }

    fn accuracy(&mut self, entry: &Entry) -> Result<(), String> {
        let fraction = entry.number().filter(|fraction| (0.0..=1.0).contains(fraction));
        let fraction = fraction
            .ok_or_else(|| format!("eval_accuracy = {} is no fraction of 1", entry.value))?;
        self.accuracy_percent = Some(100.0 * fraction);
        // It belongs to the epoch that has just ended; of an evaluation within one, to none.
        if self.epoch_ms.is_none()
            && let Some(last) = self.epochs.last_mut()
        {
            last.accuracy_percent = self.accuracy_percent;
        }
        Ok(())
    }
}

/// Milliseconds of an interval that ends now.
fn since(what: &str, begun: Option<f64>, now: f64) -> Result<f64, String> {
    let begun = begun.ok_or_else(|| format!("{what}_stop without {what}_start"))?;
    match now - begun {
        elapsed if elapsed >= 0.0 && elapsed.is_finite() => Ok(elapsed),
        elapsed => Err(format!("{what}_stop {} ms before {what}_start", -elapsed)),
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

    fn log(lines: &[String]) -> Result<Log, String> {
        let mut log = Log::default();
        for line in lines {
            if let Some(entry) = Entry::parse(line) {
                log.entry(&entry?)?;
            }
        }
        Ok(log)
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

    #[test]
    fn a_run_becomes_set_up_training_epochs_evaluation_and_accuracy() {
        let log = log(&run()).unwrap();
        assert_eq!((log.setup_s, log.train_s, log.eval_s), (Some(2.5), Some(3.7), Some(0.5)));
        let epochs: Vec<_> =
            log.epochs.iter().map(|it| (it.epoch, it.seconds, it.accuracy_percent)).collect();
        assert_eq!(epochs, [(1, 2.0, Some(91.0)), (2, 1.5, Some(93.45))]);
        assert_eq!((log.accuracy_percent, log.aborted), (Some(93.45), None));
    }

    #[test]
    fn an_evaluation_within_an_epoch_is_not_training() {
        let at = |ms: u64, key: &str| line(ms, "INTERVAL_START", key, "null", "");
        let keys =
            ["run_start", "epoch_start", "eval_start", "eval_stop", "epoch_stop", "run_stop"];
        let times = [0, 0, 1000, 1600, 2000, 2000];
        let lines: Vec<String> = keys.iter().zip(times).map(|(key, ms)| at(ms, key)).collect();
        let log = log(&lines).unwrap();
        assert_eq!((log.train_s, log.eval_s), (Some(1.4), Some(0.6)));
        assert_eq!(log.epochs[0].seconds, 1.4);
    }

    #[test]
    fn what_stands_before_the_prefix_is_passed_over_and_texts_are_numbers() {
        let line = format!("3: 100%|####| 9/9 {}", point("eval_accuracy", r#"" 0.5 ""#));
        assert_eq!(log(&[line]).unwrap().accuracy_percent, Some(50.0));
        assert_eq!(Entry::parse("Test Accuracy: 95.67%"), None);
        assert_eq!(Entry::parse(":::MLLOGGER {}"), None);
    }

    #[test]
    fn a_run_that_was_given_up_says_so() {
        let mut lines = run();
        let last = lines.pop().unwrap().replace("success", "aborted");
        lines.push(last);
        assert!(log(&lines).unwrap().aborted.unwrap().contains("aborted"));
    }

    #[test]
    fn what_cannot_be_is_an_error_that_names_the_key() {
        let stop = line(0, "INTERVAL_END", "run_stop", "null", "");
        assert_eq!(log(&[stop]).unwrap_err(), "run_stop without run_start");
        let backwards = [(5, "eval_start"), (2, "eval_stop")];
        let lines = backwards.map(|(ms, key)| line(ms, "INTERVAL_START", key, "null", ""));
        assert_eq!(log(&lines).unwrap_err(), "eval_stop 3 ms before eval_start");
        for value in ["3.3", "-0.1", "null", r#""high""#] {
            let error = log(&[point("eval_accuracy", value)]).unwrap_err();
            assert!(error.contains("no fraction of 1"), "{error}");
        }
        assert!(log(&[":::MLLOG [convert-error: x]".to_owned()]).is_err());
        assert!(log(&[r#":::MLLOG {"key": "run_start"}"#.to_owned()]).is_err());
    }
}
