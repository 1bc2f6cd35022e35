//! What a trainer said: its output lines, understood. Bounded in memory whatever it prints.

use crate::mllog::{self, Log};
use crate::result::EpochRecord;
use protocol::Event;

/// Epochs that are kept of one run; a trainer that reports more is cut off, loudly.
const MOST_EPOCHS: usize = 100_000;

/// What has been understood of a trainer's output so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transcript {
    pub version: Option<String>,
    pub device: Option<String>,
    pub path: Option<String>,
    pub threads: Option<usize>,
    pub precision: Option<String>,
    pub parameters: Option<u64>,
    pub compiled: Option<bool>,
    pub software: bool,
    pub dataset: Option<(String, Option<String>)>,
    pub setup_s: Option<f64>,
    pub compile_s: Option<f64>,
    pub epochs: Vec<EpochRecord>,
    pub train_s: Option<f64>,
    pub steps: Option<u64>,
    pub device_s: Option<f64>,
    pub dense_flop: Option<f64>,
    pub executed_flop: Option<f64>,
    pub device_peak_bytes: Option<u64>,
    pub eval_s: Option<f64>,
    /// The accuracy that the trainer claims, in percent: the last one said.
    pub claimed_percent: Option<f64>,
    /// What it said in MLPerf's words. What it says in ours counts more.
    pub mlperf: Log,
    /// Whether any line came at all.
    pub spoke: bool,
    /// The first thing that could not be understood.
    pub garbled: Option<String>,
}

impl Transcript {
    /// Takes one line of standard output, without its newline.
    pub fn line(&mut self, line: &str) {
        self.spoke |= !line.trim().is_empty();
        match Event::parse(line) {
            Some(Ok(event)) => self.event(event),
            Some(Err(error)) => self.garble(format!("{error} in the line {}", shorten(line))),
            None => match mllog::Entry::parse(line) {
                Some(entry) => self.mlperf(line, entry),
                None => self.plain(line),
            },
        }
    }

    /// A line of MLPerf's.
    fn mlperf(&mut self, line: &str, entry: Result<mllog::Entry, String>) {
        if let Err(error) = entry.and_then(|entry| self.mlperf.entry(&entry)) {
            return self.garble(format!("{error} in the line {}", shorten(line)));
        }
        let Log { setup_s, train_s, eval_s, accuracy_percent, .. } = self.mlperf;
        self.setup_s = setup_s.or(self.setup_s);
        self.train_s = train_s.or(self.train_s);
        self.eval_s = eval_s.or(self.eval_s);
        self.claimed_percent = accuracy_percent.or(self.claimed_percent);
        self.epochs.clone_from(&self.mlperf.epochs);
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Started {
                protocol,
                version,
                device,
                path,
                threads,
                precision,
                parameters,
                compiled,
                software,
                ranks: _,
            } => {
                if protocol > protocol::VERSION {
                    self.garble(format!(
                        "it speaks version {protocol} of the protocol, this harness {}",
                        protocol::VERSION
                    ));
                }
                (self.version, self.device, self.path) = (version, device, path);
                (self.threads, self.precision, self.parameters) = (threads, precision, parameters);
                self.compiled = compiled;
                self.software = software.unwrap_or(false);
            }
            Event::Dataset { name, sha256 } => self.dataset = Some((name, sha256)),
            Event::Ready { setup_s, compile_s } => {
                self.setup_s = self.seconds("setup_s", Some(setup_s));
                self.compile_s = self.seconds("compile_s", compile_s);
            }
            Event::Epoch { epoch, loss, seconds, accuracy_percent } => {
                if self.epochs.len() >= MOST_EPOCHS {
                    self.garble(format!("more than {MOST_EPOCHS} epochs"));
                } else if let Some(seconds) = self.seconds("seconds", Some(seconds)) {
                    let loss = Some(loss).filter(|loss| loss.is_finite());
                    self.epochs.push(EpochRecord { epoch, loss, seconds, accuracy_percent });
                }
            }
            Event::Trained {
                train_s,
                steps,
                device_s,
                dense_flop,
                executed_flop,
                device_peak_bytes,
                work: _,
                metrics: _,
            } => {
                self.train_s = self.seconds("train_s", Some(train_s));
                self.device_s = self.seconds("device_s", device_s);
                (self.steps, self.device_peak_bytes) = (steps, device_peak_bytes);
                (self.dense_flop, self.executed_flop) = (dense_flop, executed_flop);
            }
            Event::Evaluated { eval_s, accuracy_percent, metrics: _ } => {
                self.eval_s = self.seconds("eval_s", Some(eval_s));
                if let Some(percent) = accuracy_percent {
                    self.claim(percent);
                }
            }
            Event::Progress { .. } | Event::Unknown => {}
        }
    }

    /// `Test Accuracy: 95.67%`, anywhere in a line, upper or lower case.
    fn plain(&mut self, line: &str) {
        const WORDS: &str = "test accuracy:";
        let Some(at) = line.to_ascii_lowercase().find(WORDS) else {
            return;
        };
        let rest = line[at + WORDS.len()..].trim_start();
        let number = rest.split('%').next().unwrap_or(rest).trim();
        match number.parse::<f64>() {
            Ok(percent) if rest.contains('%') => self.claim(percent),
            Ok(_) => self.garble(format!("no percent sign in the line {}", shorten(line))),
            Err(_) => self.garble(format!("no number in the line {}", shorten(line))),
        }
    }

    fn claim(&mut self, percent: f64) {
        if (0.0..=100.0).contains(&percent) {
            self.claimed_percent = Some(percent);
        } else {
            self.garble(format!("a test accuracy of {percent} %"));
        }
    }

    fn seconds(&mut self, key: &str, seconds: Option<f64>) -> Option<f64> {
        match seconds {
            Some(value) if !(value >= 0.0 && value.is_finite()) => {
                self.garble(format!("{key} = {value}"));
                None
            }
            other => other,
        }
    }

    fn garble(&mut self, what: String) {
        self.garbled.get_or_insert(what);
    }
}

/// The beginning of a line, quoted, with everything unprintable escaped.
fn shorten(line: &str) -> String {
    let beginning: String = line.chars().take(80).collect();
    let more = if beginning.len() < line.len() { "..." } else { "" };
    format!("{beginning:?}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript(lines: &[&str]) -> Transcript {
        let mut transcript = Transcript::default();
        lines.iter().for_each(|line| transcript.line(line));
        transcript
    }

    #[test]
    fn the_plain_line_is_enough_and_the_last_one_counts() {
        let said = transcript(&["Epoch 1: Test Accuracy: 91.20%", "Final test accuracy: 95.67 %"]);
        assert_eq!(said.claimed_percent, Some(95.67));
        assert_eq!(said.garbled, None);
    }

    #[test]
    fn an_accuracy_that_cannot_be_read_is_garbled_and_not_a_guess() {
        for line in [
            "Test Accuracy: 0.9567",
            "Test Accuracy: nan%",
            "Test Accuracy: 9567%",
            "Test Accuracy: -1%",
            "Test Accuracy: high%",
        ] {
            let said = transcript(&[line]);
            assert_eq!(said.claimed_percent, None, "{line}");
            assert!(said.garbled.is_some(), "{line}");
        }
    }

    #[test]
    fn events_fill_the_record() {
        let said = transcript(&[
            r#":::TRAINMARK {"event":"started","protocol":1,"threads":2}"#,
            r#":::TRAINMARK {"event":"ready","setup_s":0.5}"#,
            r#":::TRAINMARK {"event":"epoch","epoch":1,"loss":0.6,"seconds":0.25}"#,
            r#":::TRAINMARK {"event":"trained","train_s":0.26,"steps":1875}"#,
            r#":::TRAINMARK {"event":"evaluated","eval_s":0.01,"accuracy_percent":93.5}"#,
        ]);
        assert_eq!((said.threads, said.setup_s, said.train_s), (Some(2), Some(0.5), Some(0.26)));
        assert_eq!((said.epochs[0].loss, said.steps), (Some(0.6), Some(1875)));
        assert_eq!((said.claimed_percent, said.garbled), (Some(93.5), None));
    }

    #[test]
    fn broken_events_and_impossible_times_are_garbled() {
        assert!(transcript(&[":::TRAINMARK {"]).garbled.is_some());
        let negative = r#":::TRAINMARK {"event":"trained","train_s":-1.0}"#;
        assert_eq!(transcript(&[negative]).garbled.as_deref(), Some("train_s = -1"));
        let future = r#":::TRAINMARK {"event":"started","protocol":99}"#;
        assert!(transcript(&[future]).garbled.unwrap().contains("version 99"));
    }

    #[test]
    fn mlperfs_lines_fill_the_record_too() {
        let line = |ms: u32, key: &str, value: &str| {
            format!(r#":::MLLOG {{"time_ms": {ms}, "key": "{key}", "value": {value}}}"#)
        };
        let lines = [
            line(0, "run_start", "null"),
            line(0, "epoch_start", "null"),
            line(1500, "epoch_stop", "null"),
            line(1600, "eval_accuracy", "0.95"),
            line(2000, "run_stop", "null"),
        ];
        let said = transcript(&lines.each_ref().map(String::as_str));
        assert_eq!((said.train_s, said.claimed_percent), (Some(2.0), Some(95.0)));
        assert_eq!((said.epochs.len(), said.epochs[0].seconds), (1, 1.5));
        let said = transcript(&[":::MLLOG {"]);
        assert!(said.garbled.unwrap().contains("MLPerf"));
    }

    #[test]
    fn silence_is_told_from_speech() {
        assert!(!transcript(&["", "  "]).spoke);
        assert!(transcript(&["hello"]).spoke);
    }
}
