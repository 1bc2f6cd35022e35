//! Facts of one training: who stated them, and whether the statements agree. This is the only place
//! where two statements of one fact are held against each other.

pub use crate::printed::Fact;
use crate::printed::Printed;
use crate::task::Task;
use record::RankRecord;
use record::consistency::{CLOCK_TOLERANCE_S, overrun};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::mem::discriminant;

/// Beside [`CLOCK_TOLERANCE_S`]: clocks are read at different moments, and this share is no contradiction.
const CLOCK_TOLERANCE_SHARE: f64 = 0.05;
/// Sums in float32 and in float64 differ by so much.
const ROUNDING_SHARE: f64 = 1e-5;

/// The source of a statement, the most reliable first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// The harness, which scored the predictions.
    Harness,
    /// The trainer, by an event of that rank.
    Event(u32),
    /// The trainer, by a line of that rank that a rule of the suite reads.
    Rule(u32),
    /// The trainer, by a line with the metric's label.
    Line,
    Mlperf,
}

impl Who {
    /// Whose words they are: who names no rank speaks as the first.
    fn rank(&self) -> u32 {
        match self {
            Who::Event(rank) | Who::Rule(rank) => *rank,
            Who::Harness | Who::Line | Who::Mlperf => 0,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Who::Event(rank @ 1..) | Who::Rule(rank @ 1..) = self {
            return write!(f, "rank {rank} says");
        }
        f.write_str(match self {
            Who::Harness => "its predictions score",
            Who::Event(_) => "an event says",
            Who::Rule(_) => "a line that a rule reads says",
            Who::Line => "a printed line says",
            Who::Mlperf => "MLPerf's lines say",
        })
    }
}

/// Merges the statements of processes that train together: the slowest, or the sum.
fn merge(fact: &Fact, left: f64, right: f64) -> f64 {
    match fact {
        Fact::Work | Fact::DenseFlop | Fact::ExecutedFlop | Fact::DevicePeakBytes => left + right,
        _ => left.max(right),
    }
}

/// Statements by fact and by who makes them: the last one of each counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts(BTreeMap<Fact, BTreeMap<Who, Printed>>);

impl Facts {
    /// Takes a number whose own digits say how well it is known.
    pub fn state(&mut self, fact: Fact, who: Who, value: impl Into<Option<f64>>) {
        if let Some(value) = value.into() {
            self.print(fact, who, value.into());
        }
    }

    /// Takes a number as it was printed.
    pub fn print(&mut self, fact: Fact, who: Who, printed: Printed) {
        self.0.entry(fact).or_default().insert(who, printed);
    }

    /// The value that counts.
    pub fn value(&self, fact: &Fact) -> Option<f64> {
        self.merged(fact).first().map(|it| it.1.value)
    }

    /// The value that counts, and its source.
    pub fn metric(&self, name: &str) -> Option<(Who, f64)> {
        let merged = self.merged(&Fact::Metric(name.to_owned()));
        merged.into_iter().next().map(|(who, printed)| (who, printed.value))
    }

    /// Whether a metric was read behind its label.
    pub fn labelled(&self) -> bool {
        self.0.values().any(|by| by.contains_key(&Who::Line))
    }

    /// What each rank states of itself, where several do.
    pub fn ranks(&self) -> Vec<RankRecord> {
        let of = |fact: &Fact| -> BTreeMap<u32, f64> {
            let by = self.0.get(fact).into_iter().flatten();
            by.filter_map(|(who, it)| match who {
                Who::Event(rank) | Who::Rule(rank) => Some((*rank, it.value)),
                _ => None,
            })
            .collect()
        };
        let (train_s, work) = (of(&Fact::TrainS), of(&Fact::Work));
        let memory = of(&Fact::DevicePeakBytes);
        let ranks: BTreeSet<u32> =
            [&train_s, &work, &memory].into_iter().flat_map(|it| it.keys().copied()).collect();
        let record = |&rank: &u32| RankRecord {
            rank,
            train_s: train_s.get(&rank).copied(),
            work: work.get(&rank).copied(),
            device_peak_bytes: memory.get(&rank).map(|bytes| *bytes as u64),
            ..RankRecord::default()
        };
        if ranks.len() > 1 { ranks.iter().map(record).collect() } else { Vec::new() }
    }

    /// All seconds that one rank accounts for, of the rank with most, and how well those are known: the slowest
    /// set-up and the slowest training may be of two ranks, and their sum is nobody's.
    fn clocked(&self) -> (f64, f64) {
        let parts = [Fact::SetupS, Fact::CompileS, Fact::TrainS, Fact::EvalS];
        let stated = || parts.iter().filter_map(|part| self.0.get(part));
        let ranks: BTreeSet<u32> = stated().flat_map(|by| by.keys().map(Who::rank)).collect();
        let of = |rank: u32| {
            let first = stated().filter_map(|by| by.iter().find(|(who, _)| who.rank() == rank));
            first.fold((0.0, 0.0), |sum, (_, it)| (sum.0 + it.value, sum.1 + it.grain))
        };
        let most = ranks.into_iter().map(of).max_by(|one, other| one.0.total_cmp(&other.0));
        most.unwrap_or_default()
    }

    /// One statement of each kind of speaker: ranks are taken together.
    fn merged(&self, fact: &Fact) -> Vec<(Who, Printed)> {
        let mut merged: Vec<(Who, Printed)> = Vec::new();
        for (who, printed) in self.0.get(fact).into_iter().flatten() {
            match merged.last_mut() {
                Some((last, sum)) if discriminant(last) == discriminant(who) => {
                    sum.value = merge(fact, sum.value, printed.value);
                    sum.grain = sum.grain.max(printed.grain);
                }
                _ => merged.push((who.clone(), *printed)),
            }
        }
        merged
    }

    /// Two statements that cannot both hold.
    fn disagreement(&self, task: &Task) -> Option<String> {
        self.0.iter().find_map(|(fact, by)| {
            let Fact::Metric(name) = fact else {
                let merged = self.merged(fact);
                let ((first, a), (last, b)) = (merged.first()?, merged.last()?);
                let (name, unit) = (fact.name(), if fact.is_seconds() { " s" } else { "" });
                return (!agree(fact, *a, *b)).then(|| {
                    format!("{name}: {first} {:.4}{unit}, {last} {:.4}{unit}", a.value, b.value)
                });
            };
            let (first, a) = by.iter().next()?;
            let (other, b) = by.iter().find(|(_, b)| !agree(fact, *a, **b))?;
            let metric = task.metrics.get(name);
            let shown = |it: f64| metric.map_or(it.to_string(), |metric| metric.shown(it));
            let label = metric.map_or(name.as_str(), |metric| metric.label(name));
            let (known, claimed) = (shown(a.value), shown(b.value));
            Some(match first {
                Who::Harness => format!("{label}: it claims {claimed}, but {first} {known}"),
                _ => format!("{label}: {first} {known}, {other} {claimed}"),
            })
        })
    }
}

fn agree(fact: &Fact, a: Printed, b: Printed) -> bool {
    let largest = a.value.abs().max(b.value.abs());
    let allowed = match fact.is_seconds() {
        true => CLOCK_TOLERANCE_S + CLOCK_TOLERANCE_SHARE * largest,
        false => ROUNDING_SHARE * largest,
    };
    let both_lost = a.value.is_nan() && b.value.is_nan();
    both_lost || a.value == b.value || (a.value - b.value).abs() <= allowed + a.grain.max(b.grain)
}

/// Other facts about a training, to compare the statements with.
#[derive(Clone, Copy, Debug)]
pub struct Surely<'a> {
    /// The epochs that it reported by that event: number and seconds.
    pub epochs: &'a [(u32, f64)],
    /// Metrics after the last of them.
    pub after_last: &'a BTreeMap<String, f64>,
    /// The number of epochs in its command, unless it decides itself.
    pub told_epochs: Option<u64>,
    pub wall_s: Option<f64>,
    /// The data that it says it read.
    pub dataset: Option<&'a (String, Option<String>)>,
    /// The data that it was given: name and digest.
    pub given: Option<(&'a str, &'a str)>,
}

/// Why what was stated cannot be true, with both values.
pub fn contradiction(facts: &Facts, task: &Task, surely: &Surely) -> Option<String> {
    if let Some(reason) = facts.disagreement(task) {
        return Some(reason);
    }
    let after_last = surely.after_last.iter().find_map(|(name, &claimed)| {
        let (Who::Harness, scored) = facts.metric(name)? else { return None };
        let claimed = claimed.to_string().parse().ok()?;
        let known = Printed { value: scored, grain: 0.0 };
        let metric = task.metrics.get(name)?;
        let agree = agree(&Fact::Metric(name.clone()), claimed, known);
        (!agree).then(|| (metric.shown(claimed.value), metric.shown(scored)))
    });
    if let Some((claimed, scored)) = after_last {
        return Some(format!(
            "it claims {claimed} after its last epoch, but its predictions score {scored}"
        ));
    }
    let mut seen = BTreeSet::new();
    if let Some((number, _)) = surely.epochs.iter().find(|epoch| !seen.insert(epoch.0)) {
        return Some(format!("it reports epoch {number} twice"));
    }
    let train_s = facts.value(&Fact::TrainS);
    if train_s == Some(0.0) {
        return Some("it says that the training took 0 s".to_owned());
    }
    let (clocked_s, grain) = facts.clocked();
    if let Some(wall_s) = surely.wall_s {
        let beyond = facts.ranks().into_iter().find(|it| it.train_s > Some(wall_s));
        let whose = beyond.map_or("its".to_owned(), |it| format!("rank {}'s", it.rank));
        if let Some(reason) = overrun(&whose, clocked_s, grain, wall_s) {
            return Some(reason);
        }
    }
    let epochs_s: f64 = surely.epochs.iter().map(|epoch| epoch.1).sum();
    if let Some(train_s) = train_s
        && epochs_s > train_s + CLOCK_TOLERANCE_S
    {
        return Some(format!(
            "its epochs took {epochs_s:.2} s, but its training only {train_s:.2} s"
        ));
    }
    if let Some(told) = surely.told_epochs
        && !surely.epochs.is_empty()
        && surely.epochs.len() as u64 != told
    {
        return Some(format!("it reports {} of {told} epochs", surely.epochs.len()));
    }
    let ((name, sha256), (given, given_sha256)) = surely.dataset.zip(surely.given)?;
    let other = sha256.as_ref().is_some_and(|sha256| sha256 != given_sha256);
    let short = |sha256: &str| sha256.chars().take(12).collect::<String>();
    other.then(|| {
        let sha256 = sha256.as_deref().unwrap_or_default();
        format!(
            "it trained on the dataset {name:?} ({}), but was given {given:?} ({})",
            short(sha256),
            short(given_sha256)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> Surely<'static> {
        Surely {
            epochs: &[],
            after_last: const { &BTreeMap::new() },
            told_epochs: None,
            wall_s: None,
            dataset: None,
            given: None,
        }
    }

    fn metric() -> Fact {
        Fact::Metric("m".to_owned())
    }

    #[test]
    fn ranks_are_taken_together_the_slowest_time_and_all_the_work() {
        let mut facts = Facts::default();
        for (rank, train_s) in [(0, 1.0), (1, 3.0)] {
            facts.state(Fact::TrainS, Who::Event(rank), train_s);
            facts.state(Fact::Work, Who::Event(rank), 50.0);
        }
        assert_eq!(facts.value(&Fact::TrainS), Some(3.0));
        assert_eq!(facts.value(&Fact::Work), Some(100.0));
        assert_eq!(contradiction(&facts, &Task::default(), &none()), None);
    }

    #[test]
    fn the_clock_of_each_rank_and_not_the_slowest_parts_of_several_must_fit_into_the_wall() {
        let mut facts = Facts::default();
        for (rank, setup_s, train_s) in [(0, 1.0, 9.0), (1, 9.0, 1.0)] {
            facts.state(Fact::SetupS, Who::Event(rank), setup_s);
            facts.state(Fact::TrainS, Who::Event(rank), train_s);
        }
        let within = |wall_s| {
            let surely = Surely { wall_s: Some(wall_s), ..none() };
            contradiction(&facts, &Task::default(), &surely)
        };
        assert_eq!(within(10.5), None);
        assert!(within(9.5).unwrap().contains("10.00 s"));
    }

    #[test]
    fn statements_agree_within_what_their_digits_say() {
        let said = |printed: &str, scored: f64| {
            let mut facts = Facts::default();
            facts.print(metric(), Who::Line, printed.parse().unwrap());
            facts.state(metric(), Who::Harness, scored);
            contradiction(&facts, &Task::default(), &none())
        };
        assert_eq!(said("95.67", 95.671), None);
        assert_eq!(said("95", 95.4), None);
        assert_eq!(said("0.52", 0.5234), None);
        assert!(said("0.52", 0.54).is_some());
        assert_eq!(said("100", 95.0).unwrap(), "m: it claims 100, but its predictions score 95");
        assert!(said("nan", 95.0).is_some());
    }

    #[test]
    fn a_trainer_that_contradicts_itself_is_told_with_both_values() {
        let mut facts = Facts::default();
        facts.state(metric(), Who::Event(0), 50.0);
        facts.print(metric(), Who::Line, "95.00".parse().unwrap());
        let said = contradiction(&facts, &Task::default(), &none()).unwrap();
        assert!(
            said.contains("an event says 50") && said.contains("a printed line says 95"),
            "{said}"
        );

        let mut facts = Facts::default();
        facts.state(Fact::TrainS, Who::Event(0), 1.0);
        let with = |surely: Surely| contradiction(&facts, &Task::default(), &surely);
        assert!(
            with(Surely { epochs: &[(1, 0.4), (1, 0.4)], ..none() })
                .unwrap()
                .contains("epoch 1 twice")
        );
        assert!(with(Surely { epochs: &[(1, 2.0)], ..none() }).unwrap().contains("only 1.00 s"));
        assert!(with(Surely { wall_s: Some(0.5), ..none() }).unwrap().contains("only 0.50 s"));
        let epochs = Surely { epochs: &[(1, 0.5)], told_epochs: Some(2), ..none() };
        assert!(with(epochs).unwrap().contains("1 of 2 epochs"));
        let read = ("x".to_owned(), Some("bb".to_owned()));
        let given = Surely { dataset: Some(&read), given: Some(("x", "aa")), ..none() };
        assert!(with(given).unwrap().contains("but was given"));

        facts.state(Fact::TrainS, Who::Event(0), 0.0);
        assert!(contradiction(&facts, &Task::default(), &none()).unwrap().contains("took 0 s"));
        let mut facts = Facts::default();
        facts.state(Fact::TrainS, Who::Event(0), 1.0);
        facts.state(Fact::TrainS, Who::Mlperf, 3.0);
        assert!(contradiction(&facts, &Task::default(), &none()).unwrap().starts_with("train_s:"));
    }
}
