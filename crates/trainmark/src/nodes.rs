//! A row that several nodes train together: one `srun` inside the allocation that this process is in. It starts
//! `trainmark node` on each node ([`launch`]), which launches and measures its part of the trainer as one is launched
//! here, passes its lines on, and says at the end what that part cost ([`Nodes`] listens). No trainer can say that,
//! or speak for `srun`: their marks are taken out of its lines.

use anyhow::{Context, Result};
use measure::launch::{CancelToken, Exit, Job, Outcome, Stream};
use measure::meter::Meters;
use measure::surroundings::{Look, Observer};
use measure::{Attempt, machine::Machine};
use record::NodeSample;
use std::collections::BTreeMap;
use std::env;
use std::io::{self, Write};
use std::sync::Mutex;
use std::time::Duration;

/// How many nodes the allocation has, in the environment of what runs inside it.
const ALLOCATED: &str = "SLURM_JOB_NUM_NODES";
/// Which node a process of `srun` is on, from 0, and what Slurm calls it.
const NODE: &str = "SLURM_NODEID";
const NAME: &str = "SLURMD_NODENAME";
/// The address of the node where `srun` runs, which is the first.
const FIRST: &str = "SLURM_LAUNCH_NODE_IPADDR";
/// The limits of each node's part, as JSON, for its launcher.
pub const LIMITS: &str = "TRAINMARK_NODE_LIMITS";
/// Begins a line of a node's launcher: its number, its name, and a piece of its report.
const MARK: &str = ":::TRAINMARK_NODE ";
/// Begins a line of `srun` itself.
const SRUN: &str = "srun: error: ";
/// Characters of a piece: Slurm passes on lines of at most 1,024 bytes in one piece.
const PIECE: usize = 200;
/// A report is some kilobytes.
const LONGEST_REPORT: usize = 1 << 20;
/// How long a failed part stays, for the other nodes to end by themselves and for Slurm to notice that one is lost.
const GRACE: Duration = Duration::from_secs(5);

/// The words that start a trainer's words on so many nodes.
///
/// # Errors
/// If it is not known where this program is.
pub fn srun(nodes: usize, words: Vec<String>) -> Result<Vec<String>> {
    let program = env::current_exe().context("where is this program?")?;
    let mut all = vec!["srun".to_owned(), format!("--nodes={nodes}"), format!("--ntasks={nodes}")];
    // One task of a node has all of it that is allocated, and the others end when one has failed.
    let more = "--ntasks-per-node=1 --quiet --cpu-bind=none --mpi=none --input=none --export=ALL --kill-on-bad-exit=1";
    all.extend(more.split(' ').map(str::to_owned));
    all.extend([program.display().to_string(), "node".to_owned(), "--".to_owned()]);
    all.extend(words);
    Ok(all)
}

/// Why a row of so many nodes cannot be trained here, if it cannot.
pub fn unavailable(nodes: usize) -> Option<String> {
    let here = env::var(ALLOCATED).ok().and_then(|it| it.parse::<usize>().ok());
    (nodes > 1 && here.is_none_or(|here| here < nodes)).then(|| {
        format!("it needs {nodes} nodes: --executor slurm asks for them, or run this inside an allocation that has them")
    })
}

/// One node's part of a row, on that node.
///
/// # Errors
/// If this is no process of `srun`, or the part cannot be launched.
pub fn launch(mut job: Job, cancel: &CancelToken) -> Result<Exit> {
    let number = env::var(NODE)?;
    let name = env::var(NAME).ok().or_else(|| Machine::detect().hostname);
    let name = name.unwrap_or_default().replace(' ', "");
    let first = env::var(FIRST).unwrap_or_else(|_| "localhost".to_owned());
    for word in &mut job.args {
        if let Some(text) = word.to_str() {
            *word = text.replace("{node}", &number).replace("{first_node}", &first).into();
        }
    }
    let tell = |piece: &str| drop(writeln!(io::stdout(), "{MARK}{number} {name} {piece}"));
    tell("");
    let mut pass_on = |stream: Stream, line: &str| {
        let line = without_mark(line);
        // Whoever does not read any more has gone, and `srun` sees to that.
        let _ = match stream {
            Stream::Stdout => writeln!(io::stdout(), "{line}"),
            Stream::Stderr => writeln!(io::stderr(), "{line}"),
        };
    };
    let pair = Err("not looked for where several nodes train together".to_owned());
    let look = Look { pair, gpus: None, on_gpus: true };
    let attempt = measure::attempt(&job, look, &Mutex::new(Observer::new()), &mut pass_on, cancel)?;
    pieces(&attempt)?.iter().for_each(|piece| tell(piece));
    if attempt.outcome.exit != Exit::Code(0) && !cancel.is_cancelled() {
        std::thread::sleep(GRACE);
    }
    Ok(attempt.outcome.exit)
}

/// A line that is no launcher's and not `srun`'s, nor becomes one when a part of it is taken out or its beginning is
/// lost.
fn without_mark(line: &str) -> String {
    let mut line = line.to_owned();
    while line.contains(MARK) {
        line = line.replace(MARK, "");
    }
    line.replace(SRUN, "srun error: ")
}

/// A report, in pieces that are put together again by [`Nodes::heard`].
fn pieces(attempt: &Attempt) -> serde_json::Result<Vec<String>> {
    let report: Vec<char> = serde_json::to_string(attempt)?.chars().collect();
    Ok(report.chunks(PIECE).map(|piece| piece.iter().collect()).collect())
}

/// What the launchers of a row's nodes have said.
#[derive(Debug, Default)]
pub struct Nodes {
    count: usize,
    said: BTreeMap<usize, Said>,
    /// Errors of `srun`, which tell of a node that it has lost.
    errors: Vec<String>,
}

#[derive(Debug, Default)]
struct Said {
    name: String,
    report: String,
}

impl Nodes {
    pub fn new(count: usize) -> Nodes {
        Nodes { count, ..Nodes::default() }
    }

    /// Takes a line that is no trainer's; false if it is one.
    pub fn heard(&mut self, line: &str) -> bool {
        if line.starts_with(SRUN) {
            self.errors.push(line.to_owned());
        }
        let Some(words) = line.strip_prefix(MARK) else { return false };
        let mut words = words.splitn(3, ' ');
        let mut word = || words.next().unwrap_or_default();
        let (number, name, piece) = (word().parse::<usize>(), word(), word());
        if let Some(number) = number.ok().filter(|number| *number < self.count) {
            let said = self.said.entry(number).or_default();
            name.clone_into(&mut said.name);
            if said.report.len() < LONGEST_REPORT {
                said.report += piece;
            }
        }
        true
    }

    /// What came of all of it, once `srun` has ended: the figures of the nodes together, and each node's.
    pub fn attempt(&self, srun: Outcome) -> (Attempt, Vec<NodeSample>) {
        let report = |said: &Said| serde_json::from_str::<Attempt>(&said.report).ok();
        let parts: BTreeMap<usize, Attempt> =
            self.said.iter().filter_map(|(number, said)| Some((*number, report(said)?))).collect();
        let nodes: Vec<(&str, &Meters)> =
            parts.iter().map(|(number, it)| (self.name(*number), &it.outcome.meters)).collect();
        let silent = (0..self.count).filter(|number| !parts.contains_key(number));
        let silent: Vec<usize> = silent.collect();
        let meters = match silent.first() {
            Some(node) => Meters::absent(&format!("node {node} told nothing")),
            None => Meters::together(&nodes),
        };
        let samples = nodes.iter().map(|(name, meters)| NodeSample {
            host: (*name).to_owned(),
            meters: meters.values().map(|(name, value)| (name.to_owned(), value)).collect(),
        });
        let samples = samples.collect();
        let ended = |it: &&Attempt| !matches!(it.outcome.exit, Exit::Code(0) | Exit::Cancelled);
        let failed = parts.values().find(ended);
        let ranks = parts.values().flat_map(|it| it.outcome.ranks.clone()).collect();
        let mut outcome = Outcome { meters, ranks, ..srun };
        let stopped =
            matches!(outcome.exit, Exit::TimedOut | Exit::Cancelled | Exit::NotStarted(_));
        if let Some(it) = failed.or(parts.values().next()) {
            // `srun` adds words of its own behind those of the trainer, which are the reason only if no part has one.
            outcome.stdout_tail.clone_from(&it.outcome.stdout_tail);
            if failed.is_some() || stopped || outcome.exit == Exit::Code(0) {
                outcome.stderr_tail.clone_from(&it.outcome.stderr_tail);
            }
            outcome.out_of_memory.clone_from(&it.outcome.out_of_memory);
            outcome.memory_limited_by.clone_from(&it.outcome.memory_limited_by);
            outcome.stragglers = it.outcome.stragglers;
        }
        let told: Vec<usize> = silent.iter().copied().filter(|it| self.is_told_lost(*it)).collect();
        outcome.exit = match failed {
            // Slurm ends the job then, which is not that the user stops it.
            _ if !told.is_empty() => self.lost(&told),
            _ if stopped || self.said.is_empty() => outcome.exit,
            // Those that end because another one has failed have the time to say so.
            _ if !silent.is_empty() => self.lost(&silent),
            Some(it) => it.outcome.exit.clone(),
            None => outcome.exit,
        };
        // The first node's CPUs, and everybody's GPUs.
        let first = parts.values().next();
        let mut surroundings = first.map(|it| it.surroundings.clone()).unwrap_or_default();
        let devices = parts.values().flat_map(|it| it.surroundings.devices.clone());
        surroundings.devices = devices.collect();
        let on = |(number, it): (&usize, &Attempt)| {
            let name = self.name(*number).to_owned();
            it.disturbances.clone().into_iter().map(move |words| format!("{name}: {words}"))
        };
        let disturbances = parts.iter().flat_map(on).collect();
        (Attempt { outcome, surroundings, disturbances }, samples)
    }

    fn name(&self, number: usize) -> &str {
        self.said.get(&number).map_or("", |said| &said.name)
    }

    /// By its number or by its name: `io error with slurmstepd on node 1`, `Node failure on node4`.
    fn is_told_lost(&self, number: usize) -> bool {
        let name = self.name(number);
        self.errors.iter().filter_map(|line| line.rsplit_once(" on ")).any(|(_, node)| {
            let node = node.trim().trim_start_matches("node ");
            node == number.to_string() || (!name.is_empty() && node == name)
        })
    }

    fn lost(&self, nodes: &[usize]) -> Exit {
        let shown = |number: &usize| match self.name(*number) {
            "" => number.to_string(),
            name => format!("{number} ({name})"),
        };
        Exit::NodeLost(nodes.iter().map(shown).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use measure::meter::Reading;

    fn part(exit: Exit, bytes: f64, words: &str) -> Attempt {
        let mut outcome = Outcome::unmeasured(exit, "not measured");
        outcome.meters.set("peak_memory_bytes", Reading::measured(bytes, "VmHWM"));
        outcome.meters.set("wall_s", Reading::measured(bytes / 100.0, "clock"));
        outcome.stderr_tail = words.to_owned();
        let surroundings = Default::default();
        Attempt { outcome, surroundings, disturbances: vec!["busy".to_owned()] }
    }

    /// Two nodes of which each says it is there, and those with a part what it cost.
    fn nodes(parts: [Option<Attempt>; 2]) -> Nodes {
        let mut nodes = Nodes::new(2);
        let mut waiting = Vec::new();
        for (number, part) in parts.iter().enumerate() {
            assert!(nodes.heard(&format!("{MARK}{number} n{number} ")));
            let pieces = part.as_ref().map(|part| pieces(part).unwrap());
            let line = |piece| format!("{MARK}{number} n{number} {piece}");
            waiting.push(pieces.unwrap_or_default().into_iter().map(line).collect::<Vec<_>>());
        }
        // Both write at once.
        for place in 0..waiting.iter().map(Vec::len).max().unwrap() {
            for line in waiting.iter().filter_map(|lines| lines.get(place)) {
                assert!(line.len() < 1024 && nodes.heard(line));
            }
        }
        nodes
    }

    fn ended(nodes: &Nodes, code: i32) -> Exit {
        nodes.attempt(Outcome::unmeasured(Exit::Code(code), "srun")).0.outcome.exit
    }

    #[test]
    fn figures_are_sums_or_the_largest_and_each_node_keeps_its_own() {
        let nodes =
            nodes([Some(part(Exit::Code(0), 300.0, "")), Some(part(Exit::Code(0), 500.0, ""))]);
        let (attempt, samples) = nodes.attempt(Outcome::unmeasured(Exit::Code(0), "srun"));
        let meters = &attempt.outcome.meters;
        assert_eq!(meters["peak_memory_bytes"].value, Some(800.0));
        let source = meters["peak_memory_bytes"].source().unwrap();
        assert_eq!(source, "sum of 2 nodes, most on n1: 500; on each: VmHWM");
        assert_eq!(meters["wall_s"].value, Some(5.0));
        assert_eq!(meters["user_s"].reason(), Some("n0: not measured"));
        assert_eq!(attempt.outcome.exit, Exit::Code(0));
        assert_eq!(attempt.disturbances, ["n0: busy", "n1: busy"]);
        let own = |at: usize| (samples[at].host.as_str(), samples[at].meters["peak_memory_bytes"]);
        assert_eq!((own(0), own(1)), (("n0", 300.0), ("n1", 500.0)));
    }

    #[test]
    fn a_share_of_time_is_the_least_nodes_and_no_sum() {
        let part = |busy: f64, most: f64| {
            let mut part = part(Exit::Code(0), 1.0, "");
            let meters = &mut part.outcome.meters;
            meters.set("device_busy_least_percent", Reading::measured(busy, "NVML"));
            meters.set("device_memory_largest_bytes", Reading::measured(most, "NVML"));
            Some(part)
        };
        let nodes = nodes([part(90.0, 5e9), part(80.0, 4e9)]);
        let (attempt, _) = nodes.attempt(Outcome::unmeasured(Exit::Code(0), "srun"));
        let meters = &attempt.outcome.meters;
        assert_eq!(meters["device_busy_least_percent"].value, Some(80.0));
        let source = meters["device_busy_least_percent"].source().unwrap();
        assert_eq!(source, "the least of 2 nodes, n1's; on each: NVML");
        assert_eq!(meters["device_memory_largest_bytes"].value, Some(5e9));
    }

    #[test]
    fn no_trainer_can_speak_for_its_launcher() {
        assert_eq!(without_mark(&format!("a {MARK}0 n0 b")), "a 0 n0 b");
        let (head, tail) = MARK.split_at(5);
        let nested = format!("{head}{MARK}{tail}0 n0 forged");
        assert!(!without_mark(&nested).contains(MARK));
        let mut nodes =
            nodes([Some(part(Exit::Code(3), 1.0, "")), Some(part(Exit::Code(3), 1.0, ""))]);
        nodes.heard(&without_mark(&format!("{SRUN}Node failure on n1")));
        assert_eq!(ended(&nodes, 3), Exit::Code(3), "srun has lost no node");
    }

    #[test]
    fn srun_that_ends_badly_is_no_success_whatever_its_parts_say() {
        let well = || Some(part(Exit::Code(0), 1.0, "done"));
        let srun = Outcome {
            stderr_tail: "srun: error: credential expired".to_owned(),
            ..Outcome::unmeasured(Exit::Code(1), "srun")
        };
        let (attempt, _) = nodes([well(), well()]).attempt(srun);
        assert_eq!(attempt.outcome.exit, Exit::Code(1));
        assert_eq!(attempt.outcome.stderr_tail, "srun: error: credential expired");
        assert_eq!(ended(&nodes([well(), well()]), 0), Exit::Code(0));
    }

    #[test]
    fn the_node_that_failed_by_itself_gives_the_reason() {
        let stopped = part(Exit::Cancelled, 1.0, "stopped");
        let failed = part(Exit::Code(3), 1.0, "error: no disk");
        let nodes = nodes([Some(stopped), Some(failed)]);
        let (attempt, _) = nodes.attempt(Outcome::unmeasured(Exit::Code(1), "srun"));
        assert_eq!(attempt.outcome.exit, Exit::Code(3));
        assert_eq!(attempt.outcome.stderr_tail, "error: no disk");
    }

    #[test]
    fn a_node_that_slurm_has_lost_comes_before_what_it_made_of_the_others() {
        let reset = || Some(part(Exit::Code(1), 1.0, "error: connection reset"));
        let mut lost = nodes([reset(), None]);
        assert_eq!(ended(&lost, 1).to_string(), "lost node 1 (n1)");
        let cancelled = |nodes: &Nodes| {
            nodes.attempt(Outcome::unmeasured(Exit::Cancelled, "srun")).0.outcome.exit
        };
        assert_eq!(cancelled(&lost), Exit::Cancelled, "the user may not have waited for it");
        for words in ["io error with slurmstepd on node 1", "Node failure on n1"] {
            let mut lost = nodes([reset(), None]);
            assert!(!lost.heard(&format!("srun: error: {words}")), "a line for everybody");
            assert_eq!(cancelled(&lost).to_string(), "lost node 1 (n1)", "{words}");
        }
        lost.heard("srun: error: Node failure on n7");
        assert_eq!(cancelled(&lost), Exit::Cancelled, "of another job");
        let (attempt, _) = lost.attempt(Outcome::unmeasured(Exit::Code(1), "srun"));
        let reason = attempt.outcome.meters["peak_memory_bytes"].reason().unwrap().to_owned();
        assert_eq!(reason, "node 1 told nothing");
        assert_eq!(ended(&nodes([None, None]), 1).to_string(), "lost node 0 (n0), 1 (n1)");
        assert_eq!(ended(&Nodes::new(2), 1), Exit::Code(1), "srun started nothing");
    }
}
