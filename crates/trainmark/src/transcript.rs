//! Reads a trainer's output lines, with limited memory whatever it prints.
//!
//! A line is tried as events of ours, as MLPerf's, by the suite's rules, and for the label of a metric
//! at the start of a statement (`Test Accuracy: 95.67%`). Colours are removed once, before all of that.

use crate::curve::Curve;
use crate::facts::{self, Fact, Facts, Surely, Who};
use crate::mllog::{self, Log};
use crate::printed::Printed;
use crate::ranks::{self, Ranks, Speakers};
use crate::rules::{Rules, plain};
use crate::score::Measure;
use crate::task::{Metric, Task};
use protocol::{Event, Said, split_rank};
use record::{CurvePoint, TrainerRecord};
use std::collections::{BTreeMap, BTreeSet};

/// A longer line arrives cut.
const LONGEST_LINE: usize = 64 * 1024;
/// Epochs that are kept, to be held against other statements: 16 bytes each.
const MOST_EPOCHS: usize = 1_000_000;
/// The beginning of the note on rules that matched nothing.
pub const NOT_READ: &str = "no line matched";
/// Remarks that are kept.
const MOST_NOTES: usize = 10;

/// The content of a trainer's output so far.
#[derive(Debug)]
pub struct Transcript<'a> {
    task: &'a Task,
    rules: Rules,
    /// Whose words count, if the suite says.
    speakers: Option<Speakers>,
    /// What it said of itself; all else of the record is the harness's.
    pub trainer: TrainerRecord,
    pub compiled: Option<bool>,
    pub ranks: Ranks,
    pub dataset: Option<(String, Option<String>)>,
    pub facts: Facts,
    pub curve: Curve,
    /// The last one that it said, finite or not.
    pub last_loss: Option<f64>,
    /// Of the events `epoch`: number and seconds, and the metrics after the last of them.
    epochs: Vec<(u32, f64)>,
    after_last: BTreeMap<String, f64>,
    /// The content of its MLPerf lines.
    pub mlperf: Log,
    /// Whether any line came at all.
    pub spoke: bool,
    /// Two of the ranks that lines were tagged with by a launcher, where no word of the suite says whose count.
    tagged: BTreeSet<u32>,
    /// The first thing that could not be understood.
    pub garbled: Option<String>,
    /// Notes for a reader.
    notes: BTreeSet<String>,
}

impl<'a> Transcript<'a> {
    /// An empty transcript of a trainer with these rules.
    pub fn new(task: &'a Task, rules: Rules, speakers: Option<Speakers>) -> Transcript<'a> {
        Transcript {
            task,
            rules,
            speakers,
            trainer: TrainerRecord::default(),
            compiled: None,
            ranks: Ranks::new(speakers),
            dataset: None,
            facts: Facts::default(),
            curve: Curve::default(),
            last_loss: None,
            epochs: Vec::new(),
            after_last: BTreeMap::new(),
            mlperf: Log::default(),
            spoke: false,
            tagged: BTreeSet::new(),
            garbled: None,
            notes: BTreeSet::new(),
        }
    }

    /// Takes one line of its output, without its newline.
    pub fn line(&mut self, line: &str) {
        self.spoke |= !line.trim().is_empty();
        let shown = plain(line);
        let mut ours = false;
        for said in Said::all(&shown) {
            ours = true;
            match said {
                Ok(said) => self.event(said.event, said.rank),
                Err(error) => self.not_understood(error.to_string(), line),
            }
        }
        if ours {
            return;
        }
        let tagged = split_rank(&shown).filter(|(rank, _)| *rank < ranks::MOST);
        let (tag, words) = tagged.map_or((None, &*shown), |(rank, words)| (Some(rank), words));
        self.ranks.line(tag, words);
        let by_launcher = ["[default", "[rank"].iter().any(|it| shown.starts_with(it))
            || shown.starts_with('[') && shown.contains("]<std");
        if self.speakers.is_none() && by_launcher && self.tagged.len() < 2 {
            self.tagged.extend(tag);
        }
        // Without a word of the suite a number before a line may be anything.
        let (rank, shown) = match self.speakers {
            Some(_) => (tag.unwrap_or(0), words),
            None => (0, &*shown),
        };
        if !self.hears(rank) {
            return;
        }
        if let Some(entry) = mllog::Entry::parse(shown) {
            return self.mlperf(line, entry);
        }
        match self.rules.line(shown) {
            Ok(found) => self.found(found, rank),
            Err(reason) => self.garble(reason),
        }
        let task = self.task;
        for (name, metric) in task.metrics.iter().filter(|_| rank == 0) {
            if let Some(label) = metric.label.as_ref().filter(|_| !self.rules.read(name)) {
                self.labelled(name, metric, label, shown);
            }
        }
    }

    fn not_understood(&mut self, error: String, line: &str) {
        let long = match line.len() >= LONGEST_LINE {
            true => ", which is longer than 65,536 bytes and was cut",
            false => "",
        };
        self.garble(format!("{error} in the line {}{long}", shorten(line)));
    }

    /// A line of MLPerf's.
    fn mlperf(&mut self, line: &str, entry: Result<mllog::Entry, String>) {
        let evaluated = match entry.and_then(|entry| self.mlperf.entry(&entry, self.task)) {
            Ok(evaluated) => evaluated,
            Err(error) => return self.not_understood(error, line),
        };
        let log = &self.mlperf;
        let said = [
            (Fact::SetupS, log.setup_s()),
            (Fact::TrainS, log.train_s()),
            (Fact::EvalS, log.eval_s()),
            (Fact::Work, log.noted.get("samples_count").copied()),
        ];
        let epochs = log.epochs();
        self.state(&Who::Mlperf, said);
        // The curve has some of them.
        let known = self.curve.points().iter().rev().find_map(|point| point.epoch).unwrap_or(0.0);
        for (index, seconds) in epochs.iter().enumerate().skip(known as usize) {
            self.curve.seconds += seconds;
            let (epoch, seconds) = (Some((index + 1) as f64), Some(self.curve.seconds));
            self.curve.add(CurvePoint { epoch, seconds, ..CurvePoint::default() });
        }
        if let Some(mllog::Evaluated { metric, value, epoch }) = evaluated {
            self.facts.state(Fact::Metric(metric.clone()), Who::Mlperf, value);
            let epoch = epoch.map(|epoch| epoch as f64);
            let metrics = finite(BTreeMap::from([(metric, value)]));
            self.curve.add(CurvePoint { epoch, metrics, ..CurvePoint::default() });
        }
    }

    /// Whether what that rank says counts.
    fn hears(&self, rank: u32) -> bool {
        rank == 0 || self.speakers != Some(Speakers::First)
    }

    fn event(&mut self, event: Event, rank: u32) {
        if rank >= ranks::MOST {
            return self.garble(format!("a rank {rank}: there are {} at most", ranks::MOST));
        }
        if !self.hears(rank) {
            return;
        }
        self.ranks.event(rank, &event);
        let who = Who::Event(rank);
        // The first of several processes speaks for all.
        let first = rank == 0;
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
                        "it uses version {protocol} of the protocol, but this harness knows only version {}",
                        protocol::VERSION
                    ));
                }
                let own = &mut self.trainer;
                own.software |= software.unwrap_or(false);
                if first {
                    (own.version, own.device, own.path) = (version, device, path);
                    (own.threads, own.precision, own.parameters) = (threads, precision, parameters);
                    self.compiled = compiled;
                }
            }
            Event::Dataset { name, sha256 } => self.dataset = Some((name, sha256)),
            Event::Ready { setup_s, compile_s } => {
                self.state(&who, [(Fact::SetupS, Some(setup_s)), (Fact::CompileS, compile_s)]);
            }
            Event::Epoch { epoch, loss, seconds, accuracy_percent } if first => {
                if !is_amount(seconds) {
                    return self.garble(format!("seconds = {seconds}"));
                }
                if self.epochs.len() == MOST_EPOCHS {
                    return self.garble(format!("more than {MOST_EPOCHS} epochs"));
                }
                self.epochs.push((epoch, seconds));
                self.curve.seconds += seconds;
                self.after_last = self.of_quality(accuracy_percent);
                let metrics = self.after_last.clone();
                let (epoch, seconds) = (Some(f64::from(epoch)), Some(self.curve.seconds));
                self.point(CurvePoint { step: None, epoch, seconds, loss: Some(loss), metrics });
            }
            Event::Progress { step, epoch, seconds, loss, metrics } if first => {
                if let Some(seconds) = seconds.filter(|it| !is_amount(*it)) {
                    return self.garble(format!("seconds = {seconds}"));
                }
                let metrics = self.known(metrics);
                self.point(CurvePoint { step, epoch, seconds, loss, metrics });
            }
            Event::Trained {
                train_s,
                steps,
                work,
                device_s,
                dense_flop,
                executed_flop,
                device_peak_bytes,
                metrics,
            } => {
                let numbers = [
                    (Fact::TrainS, Some(train_s)),
                    (Fact::DeviceS, device_s),
                    (Fact::Steps, steps.map(|steps| steps as f64)),
                    (Fact::Work, work),
                    (Fact::DenseFlop, dense_flop),
                    (Fact::ExecutedFlop, executed_flop),
                    (Fact::DevicePeakBytes, device_peak_bytes.map(|bytes| bytes as f64)),
                ];
                self.state(&who, numbers);
                self.claim(metrics, &who);
            }
            Event::Evaluated { eval_s, accuracy_percent, metrics } => {
                self.state(&who, [(Fact::EvalS, Some(eval_s))]);
                let accuracy = self.of_quality(accuracy_percent);
                self.claim(accuracy, &who);
                self.claim(metrics, &who);
            }
            Event::Epoch { .. } | Event::Progress { .. } | Event::Unknown => {}
        }
    }

    /// Protocol 1 has one metric, the quality of the task that there was then.
    fn of_quality(&mut self, percent: Option<f64>) -> BTreeMap<String, f64> {
        let quality = self.task.quality().filter(|(_, metric)| metric.unit == "%");
        match (percent, quality) {
            (Some(percent), Some((name, _))) => BTreeMap::from([(name.to_owned(), percent)]),
            (Some(_), None) => {
                self.note("its `accuracy_percent` is not a metric of the task".to_owned());
                BTreeMap::new()
            }
            (None, _) => BTreeMap::new(),
        }
    }

    /// The task's metrics among those that were said.
    fn known(&mut self, mut metrics: BTreeMap<String, f64>) -> BTreeMap<String, f64> {
        metrics.retain(|name, _| {
            let known = self.task.metrics.contains_key(name);
            if !known {
                self.note(format!("it reports {name:?}, which is not a metric of the task"));
            }
            known
        });
        metrics
    }

    fn claim(&mut self, metrics: BTreeMap<String, f64>, who: &Who) {
        for (name, value) in self.known(metrics) {
            self.metric(&name, who.clone(), value.into());
        }
    }

    fn metric(&mut self, name: &str, who: Who, printed: Printed) {
        let Some(metric) = self.task.metrics.get(name) else { return };
        let percent = metric.unit == "%";
        let by = metric.score.as_ref().map(|score| score.by);
        let share = percent && matches!(by, Some(Measure::Accuracy | Measure::TopK));
        if share && !printed.value.is_nan() && !(0.0..=100.0).contains(&printed.value) {
            return self.garble(format!("a {} of {} %", metric.label(name), printed.value));
        }
        if percent && printed.value > 0.0 && printed.value < 1.0 {
            self.note(format!(
                "it says {} = {} %: this may be a fraction of 1, but it is read as a percentage",
                metric.label(name),
                printed.value
            ));
        }
        self.facts.print(Fact::Metric(name.to_owned()), who, printed);
    }

    /// Takes in what the rules found in one line of a rank. Loss, place and metrics are those of the first.
    fn found(&mut self, found: Vec<(Fact, Printed)>, rank: u32) {
        let last = self.curve.points().last();
        // A line that does not say where it stands belongs to the last place that was named.
        let mut point = CurvePoint {
            step: last.and_then(|last| last.step),
            epoch: last.and_then(|last| last.epoch),
            ..CurvePoint::default()
        };
        let (mut placed, mut tells) = (false, false);
        for (what, printed) in found {
            match what {
                Fact::Metric(_) | Fact::Loss | Fact::Step | Fact::Epoch | Fact::EpochS
                    if rank > 0 =>
                {
                    continue;
                }
                Fact::Loss => point.loss = Some(printed.value),
                Fact::Step => (point.step, placed) = (Some(printed.value as u64), true),
                Fact::Epoch => (point.epoch, placed) = (Some(printed.value), true),
                Fact::EpochS if is_amount(printed.value) => {
                    self.curve.seconds += printed.value;
                    point.seconds = Some(self.curve.seconds);
                }
                Fact::Metric(name) => {
                    point.metrics.insert(name.clone(), printed.value);
                    self.metric(&name, Who::Rule(rank), printed);
                    continue;
                }
                fact => {
                    match is_amount(printed.value) {
                        true => self.facts.print(fact, Who::Rule(rank), printed),
                        false => self.garble(format!("{} = {}", fact.name(), printed.value)),
                    }
                    continue;
                }
            }
            tells = true;
        }
        if tells || placed || !point.metrics.is_empty() {
            self.point(point);
        }
    }

    /// A point of the curve, of finite numbers.
    fn point(&mut self, mut point: CurvePoint) {
        self.last_loss = point.loss.or(self.last_loss);
        if let Some(loss) = point.loss.take_if(|loss| !loss.is_finite()) {
            let place = [
                point.step.map(|step| format!(" at step {step}")),
                point.epoch.map(|it| format!(" at epoch {it}")),
            ];
            let place = place.into_iter().flatten().next().unwrap_or_default();
            if !self.notes.iter().any(|note| note.starts_with("its loss is")) {
                self.note(format!("its loss is {loss}{place}, which is not finite"));
            }
        }
        point.seconds = point.seconds.filter(|seconds| seconds.is_finite());
        point.epoch = point.epoch.filter(|epoch| epoch.is_finite());
        point.metrics = finite(point.metrics);
        // A point without step, epoch and seconds has no place on the curve.
        if point.step.is_some() || point.epoch.is_some() || point.seconds.is_some() {
            self.curve.add(point);
        }
    }

    /// `Test Accuracy: 95.67%` at the start of a statement, upper or lower case; the last one counts.
    fn labelled(&mut self, name: &str, metric: &Metric, label: &str, line: &str) {
        let lower = line.to_ascii_lowercase();
        for (at, _) in lower.match_indices(&label.to_ascii_lowercase()) {
            let Some(rest) = line[at + label.len()..].trim_start().strip_prefix(':') else {
                continue;
            };
            let before =
                line[..at].trim_end().rsplit(char::is_whitespace).next().unwrap_or_default();
            let number =
                rest.trim_start().split([' ', '%', '|', ';', '\t']).next().unwrap_or_default();
            if !starts_statement(before) {
                let value = number.trim();
                self.note(format!(
                    "a line says `{before} {label}: {value}`, which is not read as `{label}`"
                ));
                continue;
            }
            match number.parse::<Printed>() {
                Ok(_) if metric.unit == "%" && !rest.contains('%') => {
                    self.garble(format!("no percent sign in the line {}", shorten(line)));
                }
                Ok(printed) if printed.value.is_nan() => {
                    self.garble(format!("{label} is not finite in the line {}", shorten(line)));
                }
                Ok(printed) => self.metric(name, Who::Line, printed),
                Err(_) => self.garble(format!("no number in the line {}", shorten(line))),
            }
        }
    }

    fn state<const N: usize>(&mut self, who: &Who, said: [(Fact, Option<f64>); N]) {
        for (fact, number) in said {
            match number {
                Some(value) if !is_amount(value) => {
                    self.garble(format!("{} = {value}", fact.name()));
                }
                number => self.facts.state(fact, who.clone(), number),
            }
        }
    }

    fn garble(&mut self, what: String) {
        self.garbled.get_or_insert(what);
    }

    fn note(&mut self, what: String) {
        if self.notes.len() < MOST_NOTES {
            self.notes.insert(what);
        }
    }

    /// A metric's value and who says so: scored, stated, or the last of the curve.
    pub fn value(&self, metric: &str) -> Option<(Who, f64)> {
        self.facts.metric(metric).or_else(|| Some((Who::Event(0), self.curve.last(metric)?)))
    }

    /// What a reader should know; of one that ended well, also which rules found nothing in its lines,
    /// of which the last are `tail`.
    pub fn notes(&self, ended_well: bool, tail: &str) -> Vec<String> {
        let mut notes: Vec<String> = self.notes.iter().cloned().collect();
        let idle: Vec<String> = self.rules.idle().map(|rule| format!("`{rule}`")).collect();
        if ended_well && !idle.is_empty() {
            let last: Vec<&str> =
                tail.lines().rev().filter(|line| !line.trim().is_empty()).take(3).collect();
            let last: Vec<String> = last.into_iter().rev().map(shorten).collect();
            let seen = match last.is_empty() {
                true => "it printed no line".to_owned(),
                false => format!("the last lines were {}", last.join(", ")),
            };
            notes.push(format!("{NOT_READ} {}; {seen}", idle.join(" and ")));
        }
        if self.tagged.len() > 1 && (self.rules.any() || self.facts.labelled()) {
            notes.push(
                "its lines have the tags of several ranks, and the last of any rank counts: `ranks = \"first\"` or \
                 `ranks = \"all\"` in the suite says whose lines are read"
                    .to_owned(),
            );
        }
        notes.extend(self.curve.thinned());
        notes
    }

    /// Why what it says cannot be true, if it cannot: beside the number of epochs in its command, the seconds that
    /// its process ran, and the name and digest of the data that it was given.
    pub fn contradiction(
        &self,
        told_epochs: Option<u64>,
        wall_s: Option<f64>,
        given: Option<(&str, &str)>,
    ) -> Option<String> {
        // Those that log in MLPerf's words train until they reach a target.
        let told_epochs = told_epochs.filter(|_| !self.mlperf.spoke());
        let (epochs, after_last) = (&self.epochs, &self.after_last);
        let dataset = self.dataset.as_ref();
        let surely = Surely { epochs, after_last, told_epochs, wall_s, dataset, given };
        facts::contradiction(&self.facts, self.task, &surely)
    }
}

fn finite(mut metrics: BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    metrics.retain(|_, value| value.is_finite());
    metrics
}

/// Whether there can be so many seconds, so much work.
fn is_amount(value: f64) -> bool {
    value >= 0.0 && value.is_finite()
}

/// Whether what stands before a label leaves it as it is: nothing, a number, a separator, a log level.
fn starts_statement(before: &str) -> bool {
    let bare = before.trim_matches(|c: char| !c.is_alphanumeric());
    before.ends_with([':', '|', ',', ';', '.', ']', ')', '-', '>', '='])
        || !bare.contains(char::is_alphabetic)
        || ["final", "info"].iter().any(|word| bare.eq_ignore_ascii_case(word))
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
    use crate::suite::Suite;
    use std::sync::LazyLock;

    static SUITE: LazyLock<Suite> = LazyLock::new(|| {
        let text = r#"
            name = "s"
            [task]
            name = "t"
            like = "mnist"
            metrics.bpc = { better = "lower" }
            [[trainers]]
            name = "T"
            program = "p"
            command = ["p"]
            backends = ["cpu"]
            models.m = { prefix = "m" }
            read = ['step (?<step>\d+) loss (?<loss>\S+)', 'bpc (?<bpc>\S+)', '(?<epoch_s>\d+)s/epoch (?<epoch>\d+)']
        "#;
        Suite::parse(text, "s.toml").unwrap()
    });

    fn transcript(lines: &[&str]) -> Transcript<'static> {
        let rules = SUITE.rules(&SUITE.trainers[0]).unwrap();
        let mut transcript = Transcript::new(SUITE.task(), rules, None);
        lines.iter().for_each(|line| transcript.line(line));
        transcript
    }

    fn accuracy(lines: &[&str]) -> Option<f64> {
        transcript(lines).value("test_accuracy_percent").map(|it| it.1)
    }

    #[test]
    fn the_label_at_the_start_of_a_statement_is_enough_and_the_last_one_counts() {
        assert_eq!(
            accuracy(&["Epoch 1: Test Accuracy: 91.20%", "Final test accuracy: 95.67 %"]),
            Some(95.67)
        );
        assert_eq!(accuracy(&["Test Accuracy: 11.00% | final Test Accuracy: 95.00%"]), Some(95.0));
        assert_eq!(accuracy(&["\x1b[1mINFO\x1b[0m Epoch 3/5 Test Accuracy: 95.00%"]), Some(95.0));
    }

    #[test]
    fn another_label_is_not_taken_and_said() {
        for line in ["Best Test Accuracy: 97.00%", "Top-5 Test Accuracy: 99.00%"] {
            let said = transcript(&["Test Accuracy: 95.00%", line]);
            assert_eq!(said.value("test_accuracy_percent").unwrap().1, 95.0);
            let notes = said.notes(false, "");
            assert!(
                notes[0].contains("Test Accuracy: 9") && notes[0].contains("not read"),
                "{notes:?}"
            );
        }
    }

    #[test]
    fn a_fraction_with_a_percent_sign_is_suspicious() {
        let said = transcript(&["Test Accuracy: 0.9567%"]);
        assert_eq!(said.value("test_accuracy_percent").unwrap().1, 0.9567);
        assert!(said.notes(false, "")[0].contains("fraction of 1"));
    }

    #[test]
    fn an_accuracy_that_cannot_be_read_is_garbled_and_not_a_guess() {
        for line in [
            "Test Accuracy: 0.9567",
            "Test Accuracy: 9567%",
            "Test Accuracy: -1%",
            "Test Accuracy: high%",
        ] {
            let said = transcript(&[line]);
            assert_eq!(said.value("test_accuracy_percent"), None, "{line}");
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
        let fact = |fact| said.facts.value(&fact);
        assert_eq!(
            (said.trainer.threads, fact(Fact::SetupS), fact(Fact::TrainS)),
            (Some(2), Some(0.5), Some(0.26))
        );
        assert_eq!((said.curve.points()[0].loss, fact(Fact::Steps)), (Some(0.6), Some(1875.0)));
        assert_eq!(
            (
                accuracy(&[
                    r#":::TRAINMARK {"event":"evaluated","eval_s":0,"accuracy_percent":93.5}"#
                ]),
                &said.garbled
            ),
            (Some(93.5), &None)
        );
    }

    #[test]
    fn curves_are_by_step_and_the_last_value_counts() {
        let said = transcript(&[
            r#":::TRAINMARK {"event":"progress","step":10,"loss":2.5}"#,
            r#":::TRAINMARK {"event":"progress","step":10,"metrics":{"bpc":3.5}}"#,
            r#":::TRAINMARK {"event":"progress","step":20,"loss":NaN,"metrics":{"bpc":3.25,"bleu":1}}"#,
        ]);
        assert_eq!(said.value("bpc").unwrap().1, 3.25);
        let [first, second] = said.curve.points() else { panic!("{:?}", said.curve) };
        assert_eq!((first.step, first.loss, first.metrics["bpc"]), (Some(10), Some(2.5), 3.5));
        assert_eq!((second.loss, second.metrics["bpc"]), (None, 3.25));
        let notes = said.notes(false, "").join("\n");
        assert!(
            notes.contains("its loss is NaN at step 20") && notes.contains("\"bleu\""),
            "{notes}"
        );
        assert_eq!(said.garbled, None);
    }

    #[test]
    fn rules_make_a_curve_and_say_when_they_found_nothing() {
        let said = transcript(&["step 1 loss 4.0", "step 2 loss 3.0", "bpc 5.5", "2s/epoch 1"]);
        let [first, second, third] = said.curve.points() else { panic!("{:?}", said.curve) };
        assert_eq!((first.step, second.step, second.metrics["bpc"]), (Some(1), Some(2), 5.5));
        assert_eq!((third.epoch, third.seconds), (Some(1.0), Some(2.0)));
        assert_eq!(said.value("bpc"), Some((Who::Rule(0), 5.5)));
        let idle = transcript(&["step 1 loss 4.0"]).notes(true, "step 1 loss 4.0\ndone\n");
        assert!(idle[0].contains("`bpc (?<bpc>") && idle[0].contains("\"done\""), "{idle:?}");
        let idle = transcript(&[]).notes(true, "");
        assert!(idle[0].ends_with("; it printed no line"), "{idle:?}");
    }

    #[test]
    fn broken_events_and_impossible_times_are_garbled() {
        assert!(transcript(&[":::TRAINMARK {"]).garbled.is_some());
        let negative = r#":::TRAINMARK {"event":"trained","train_s":-1.0}"#;
        assert_eq!(transcript(&[negative]).garbled.as_deref(), Some("train_s = -1"));
        let future = r#":::TRAINMARK {"event":"started","protocol":99}"#;
        assert!(transcript(&[future]).garbled.unwrap().contains("version 99"));
        let long = format!(":::TRAINMARK {{\"event\":\"{}", "x".repeat(LONGEST_LINE));
        assert!(transcript(&[&long]).garbled.unwrap().contains("longer than 65,536 bytes"));
    }

    #[test]
    fn an_amount_that_cannot_be_is_garbled_by_its_name_whoever_says_it() {
        for (keys, expected) in [
            ("\"work\":-5", "work = -5"),
            ("\"work\":NaN", "work = NaN"),
            ("\"dense_flop\":-Infinity", "dense_flop = -inf"),
            ("\"executed_flop\":-1", "executed_flop = -1"),
            ("\"device_s\":NaN", "device_s = NaN"),
        ] {
            let line = format!(r#":::TRAINMARK {{"event":"trained","train_s":1,{keys}}}"#);
            assert_eq!(transcript(&[&line]).garbled.as_deref(), Some(expected));
        }
        let mlperf = r#":::MLLOG {"time_ms": 1, "key": "samples_count", "value": -5}"#;
        let rules = Rules::new(&[r"work (?<work>\S+)".into()], &BTreeMap::new(), SUITE.task());
        let mut by_rule = Transcript::new(SUITE.task(), rules.unwrap(), None);
        by_rule.line("work -5");
        for said in [transcript(&[mlperf]), by_rule] {
            assert!(said.garbled.as_deref().is_some_and(|it| it.contains("-5")), "{said:?}");
            assert_eq!(said.facts.value(&Fact::Work), None);
        }
    }

    #[test]
    fn a_rule_whose_line_is_garbled_has_matched_it() {
        let said = transcript(&["step 1 loss 2", "bpc 1,4", "2s/epoch 1"]);
        assert!(said.garbled.as_deref().is_some_and(|it| it.contains("\"1,4\" is not a number")));
        assert_eq!(said.notes(true, "bpc 1,4"), [""; 0]);
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
            line(1700, "samples_count", "640"),
            line(2000, "run_stop", "null"),
        ];
        let said = transcript(&lines.each_ref().map(String::as_str));
        let fact = |fact| said.facts.value(&fact);
        assert_eq!((fact(Fact::TrainS), fact(Fact::Work)), (Some(2.0), Some(640.0)));
        assert_eq!(said.value("test_accuracy_percent"), Some((Who::Mlperf, 95.0)));
        let [point] = said.curve.points() else { panic!("{:?}", said.curve) };
        assert_eq!((point.seconds, point.metrics["test_accuracy_percent"]), (Some(1.5), 95.0));
        assert!(transcript(&[":::MLLOG {"]).garbled.unwrap().contains("MLPerf"));
    }

    #[test]
    fn of_several_ranks_the_suite_says_whose_lines_count() {
        let lines =
            ["[rank0]: bpc 5.5", "[rank1]: bpc 9.5", "[rank1]: train 3", "[default0]:train 2"];
        let of = |speakers: Option<Speakers>| {
            let rules = Rules::new(
                &[r"^bpc (?<bpc>\S+)".into(), r"^train (?<train_s>\d+)".into()],
                &BTreeMap::new(),
                SUITE.task(),
            );
            let mut transcript = Transcript::new(SUITE.task(), rules.unwrap(), speakers);
            lines.iter().for_each(|line| transcript.line(line));
            let hint = transcript.notes(true, "").iter().any(|note| note.contains("`ranks = "));
            assert_eq!(hint, speakers.is_none());
            (
                transcript.value("bpc").map(|it| it.1),
                transcript.facts.value(&Fact::TrainS),
                transcript.facts.ranks().len(),
            )
        };
        assert_eq!(of(Some(Speakers::First)), (Some(5.5), Some(2.0), 0));
        assert_eq!(of(Some(Speakers::All)), (Some(5.5), Some(3.0), 2));
        // Nobody said that these are ranks: the lines do not begin as the rules want it.
        assert_eq!(of(None), (None, None, 0));
    }

    #[test]
    fn silence_is_told_from_speech() {
        assert!(!transcript(&["", "  "]).spoke);
        assert!(transcript(&["hello"]).spoke);
    }
}
