//! Processes that train together: which of them have spoken, which have finished, and what went wrong first.
//! When one of them fails, its launcher (torchrun, mpirun, srun) has the last word, and that says little: the
//! first error and the rank that it is of are kept here.

use protocol::Event;
use regex::Regex;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;

/// Whose words count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speakers {
    /// Rank 0 speaks for all; the others may be silent.
    First,
    /// Each of them: one that never speaks has failed.
    All,
}

/// Higher ranks are not believed: what is kept of each takes memory.
pub const MOST: u32 = 65_536;
/// Of those that say nothing fewer are listed.
const MOST_SILENT: u32 = 4096;
/// Characters of an error that are kept.
const LONGEST_ERROR: usize = 300;
/// Ranks that are listed by number.
const LISTED: usize = 8;

/// How torchrun's root cause, Open MPI's mpirun and srun name the process that ended first.
static NAMED: LazyLock<Regex> = LazyLock::new(|| {
    let words = r"^\s*rank\s+: (\d+) \(local_rank|process rank (\d+) with PID|Process name: \[.*,(\d+)\]|^srun: error: \S+ task (\d+):";
    Regex::new(words).expect("the test of this file reads lines with it")
});

/// What is known of them.
#[derive(Clone, Debug, Default)]
pub struct Ranks {
    /// How many there are, as they say.
    told: Option<u32>,
    stages: BTreeMap<u32, Stage>,
    /// The others may be silent.
    only_first: bool,
    /// The one whose end the launcher tells.
    named: Option<u32>,
    /// The first line that calls itself an error, and whose it is.
    error: Option<(Option<u32>, String)>,
    contradiction: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Spoke,
    Started,
    Trained,
}

impl Ranks {
    /// None has spoken yet.
    pub fn new(speakers: Option<Speakers>) -> Ranks {
        Ranks { only_first: speakers == Some(Speakers::First), ..Ranks::default() }
    }

    pub fn event(&mut self, rank: u32, event: &Event) {
        let stage = match event {
            Event::Started { ranks, .. } => {
                self.started(rank, *ranks);
                Stage::Started
            }
            Event::Trained { .. } => Stage::Trained,
            _ => Stage::Spoke,
        };
        let known = self.stages.entry(rank).or_insert(stage);
        *known = stage.max(*known);
    }

    fn started(&mut self, rank: u32, ranks: Option<u32>) {
        let again = self.stages.get(&rank) >= Some(&Stage::Started) && ranks > Some(1);
        let contradiction = match self.told.zip(ranks) {
            Some((told, ranks)) if told != ranks => {
                Some(format!("rank {rank} says that there are {ranks} ranks, another {told}"))
            }
            _ => again
                .then(|| format!("rank {rank} started twice: does each process say its own rank?")),
        };
        self.contradiction = self.contradiction.take().or(contradiction);
        self.told = self.told.or(ranks);
    }

    /// A line of whatever kind; `rank` is whose it is, if its launcher says.
    pub fn line(&mut self, rank: Option<u32>, line: &str) {
        let named = NAMED.captures(line);
        if let Some(named) = named.and_then(|found| (1..=4).find_map(|group| found.get(group))) {
            // torchrun tells the root cause last, the others tell it first.
            let last = line.contains("local_rank");
            self.named =
                named.as_str().parse().ok().filter(|_| last || self.named.is_none()).or(self.named);
        } else if self.error.is_none() && is_error(line) {
            self.error = Some((rank, line.trim().chars().take(LONGEST_ERROR).collect()));
        }
    }

    fn all(&self) -> u32 {
        let last = self.stages.keys().last().map_or(0, |rank| rank + 1);
        self.told.unwrap_or(0).max(last).min(MOST)
    }

    /// Whether one of that number is among those that they count.
    pub fn counts(&self, rank: u32) -> bool {
        self.told.is_none_or(|told| rank < told)
    }

    /// Those for which the first speaks.
    pub fn spoken_for(&self) -> Range<u32> {
        let told = if self.only_first { self.told.unwrap_or(0).min(MOST_SILENT) } else { 0 };
        0..if told > 1 { told } else { 0 }
    }

    /// Whether there are several.
    pub fn several(&self) -> bool {
        self.all() > 1 || self.named.is_some()
    }

    /// Two statements about them that cannot both hold.
    pub fn contradiction(&self) -> Option<String> {
        let beyond = || {
            let (told, last) = (self.told?, self.stages.keys().last()?);
            (*last >= told.max(1))
                .then(|| format!("rank {last} speaks, of {told} that are counted from 0"))
        };
        self.contradiction.clone().or_else(beyond)
    }

    /// Those that have not come as far as the others, in words. Before any has trained, only those that have
    /// not spoken are behind.
    pub fn unfinished(&self) -> Option<String> {
        let trained = self.stages.values().any(|stage| *stage == Stage::Trained);
        let those = |is: &dyn Fn(Option<&Stage>) -> bool| -> Vec<u32> {
            (0..self.all()).filter(|rank| is(self.stages.get(rank))).collect()
        };
        let silent = those(&|stage| stage.is_none());
        if self.stages.is_empty() || self.only_first || !self.several() {
            return None;
        }
        if !silent.is_empty() {
            return Some(format!("{} never spoke", self.listed(&silent)));
        }
        let late = those(&|stage| stage < Some(&Stage::Trained));
        let who = (trained && !late.is_empty()).then(|| self.listed(&late))?;
        Some(format!("{who} did not finish the training, the others did"))
    }

    /// Of several that ended badly: who was the first, and what it said.
    pub fn culprit(&self) -> Option<String> {
        if !self.several() {
            return None;
        }
        let (tag, error) = self.error.clone().map_or((None, None), |(tag, line)| (tag, Some(line)));
        let who = tag.or(self.named).map(|rank| self.listed(&[rank]));
        match (who, error) {
            (Some(who), Some(error)) => Some(format!("{who}: {error}")),
            (Some(who), None) => Some(format!("{who} ended first")),
            (None, Some(error)) => {
                let who =
                    self.unfinished().unwrap_or_else(|| format!("one of {} ranks", self.all()));
                Some(format!("{who}: {error}"))
            }
            (None, None) => self.unfinished(),
        }
    }

    /// `rank 3 of 8`, `ranks 1, 2 of 8`.
    fn listed(&self, ranks: &[u32]) -> String {
        let mut list: Vec<String> = ranks.iter().take(LISTED).map(u32::to_string).collect();
        list.extend((ranks.len() > LISTED).then(|| "...".to_owned()));
        let of = if self.all() > 1 { format!(" of {}", self.all()) } else { String::new() };
        format!("rank{} {}{of}", if ranks.len() > 1 { "s" } else { "" }, list.join(", "))
    }
}

/// Whether a line calls itself an error: `ValueError: ...`, `error: ...`, `main: error: ...`.
pub fn is_error(line: &str) -> bool {
    let heads = line.split(':').take(3).filter(|head| head.len() < 60);
    let mut words = heads.filter_map(|head| head.split_whitespace().last());
    line.contains(':')
        && words.any(|word| {
            word.eq_ignore_ascii_case("error")
                || word.ends_with("Error")
                || word.ends_with("Exception")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(told: u32, trained: &[u32], started: &[u32]) -> Ranks {
        let mut ranks = Ranks::default();
        let event = |text: String| -> Event { serde_json::from_str(&text).unwrap() };
        for &rank in started {
            let text = format!(r#"{{"event":"started","protocol":2,"ranks":{told}}}"#);
            ranks.event(rank, &event(text));
        }
        for &rank in trained {
            ranks.event(rank, &event(r#"{"event":"trained","train_s":1.0}"#.into()));
        }
        ranks
    }

    #[test]
    fn who_is_behind_the_others_is_told_by_number() {
        let unfinished = |ranks: Ranks| ranks.unfinished().unwrap_or_default();
        assert_eq!(unfinished(of(3, &[0, 1, 2], &[0, 1, 2])), "");
        assert_eq!(unfinished(of(3, &[0, 2], &[0, 2])), "rank 1 of 3 never spoke");
        let late = "rank 1 of 3 did not finish the training, the others did";
        assert_eq!(unfinished(of(3, &[0, 2], &[0, 1, 2])), late);
        // Before any has trained, nobody is late; and one process is not several.
        assert_eq!(unfinished(of(3, &[], &[0, 1, 2])), "");
        assert_eq!(unfinished(of(1, &[], &[0])), "");
        let many = unfinished(of(64, &[0], &[0]));
        assert_eq!(many, "ranks 1, 2, 3, 4, 5, 6, 7, 8, ... of 64 never spoke");
    }

    #[test]
    fn the_first_error_counts_and_the_launchers_word_for_who_it_was() {
        let mut ranks = of(8, &[], &[0, 1]);
        let lines = [
            "W0101 warning: slow",
            "RuntimeError: boom",
            "ConnectionResetError: peer went away",
            "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ",
            "  rank      : 5 (local_rank: 5)",
            "Root Cause (first observed failure):",
            "  rank      : 3 (local_rank: 3)",
        ];
        lines.iter().for_each(|line| ranks.line(None, line));
        assert_eq!(ranks.culprit().unwrap(), "rank 3 of 8: RuntimeError: boom");
        ranks.error = Some((Some(5), "ValueError: own".into()));
        assert_eq!(ranks.culprit().unwrap(), "rank 5 of 8: ValueError: own");
        let said = |line: &str| {
            let mut ranks = Ranks::default();
            ranks.line(None, line);
            ranks.named
        };
        let mpirun =
            "mpirun noticed that process rank 2 with PID 0 on node h exited on signal 9 (Killed).";
        assert_eq!(said(mpirun), Some(2));
        assert_eq!(said("  Process name: [[53456,1],3]"), Some(3));
        assert_eq!(said("srun: error: node1: task 4: Exited with exit code 1"), Some(4));
        assert_eq!(said("rank 3 is well"), None);
        // A program of one process is judged by its own last words.
        let mut alone = of(1, &[], &[0]);
        alone.line(None, "RuntimeError: boom");
        assert_eq!(alone.culprit(), None);
    }

    #[test]
    fn ranks_that_contradict_each_other_are_found_out() {
        let mut ranks = of(2, &[], &[0]);
        ranks.started(1, Some(4));
        assert_eq!(ranks.contradiction().unwrap(), "rank 1 says that there are 4 ranks, another 2");
        assert!(of(2, &[], &[0, 0]).contradiction().unwrap().contains("rank 0 started twice"));
        assert!(of(2, &[], &[0, 2]).contradiction().unwrap().contains("rank 2 speaks, of 2"));
        assert_eq!(of(2, &[], &[0, 1]).contradiction(), None);
        assert_eq!(of(1, &[], &[0, 0]).contradiction(), None);
    }
}
