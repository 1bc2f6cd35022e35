//! How a trainer ended.

use crate::meter::{Meters, RankUse};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// All that the harness knows of one trainer when nothing of it is left.
/// The launcher tells it but for the output, which the harness itself reads.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub exit: Exit,
    /// The evidence, in words, that the trainer ran out of memory: the kernel's out-of-memory
    /// killer was at work, or the tree outgrew [`super::Job::memory_limit`]. An allocation that
    /// failed inside the trainer leaves no such trace; its last lines may tell.
    pub out_of_memory: Option<String>,
    /// The means that enforced the memory limit, if there was one.
    pub memory_limited_by: Option<String>,
    /// The address space that each of its processes could have, if that was limited.
    pub address_space_bytes: Option<u64>,
    pub meters: Meters,
    /// What each rank used, where processes were told theirs; one alone is no rank of several.
    #[serde(default)]
    pub ranks: BTreeMap<u32, RankUse>,
    /// The last lines of standard output, at most 20 lines and 8 KiB, invalid UTF-8 replaced.
    /// Control characters are left in: whoever shows it escapes it.
    pub stdout_tail: String,
    /// The same of standard error.
    pub stderr_tail: String,
    pub stragglers: Stragglers,
    /// Processes of the tree that not even SIGKILL ended (a hung driver or network file system).
    pub survivors: u64,
}

impl Outcome {
    /// An outcome without measurements, for this reason.
    pub fn unmeasured(exit: Exit, reason: &str) -> Outcome {
        Outcome { exit, meters: Meters::absent(reason), ..Outcome::default() }
    }
}

/// The launcher's messages to the harness, a line of JSON each. If its socket closes before the second one,
/// it has died. The harness sends it a [`super::Job`], then perhaps [`STOP`] and [`KILL`]; if the
/// socket closes, the launcher kills the tree.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The id of the trainer's main process, which leads its own process group.
    Started { main: i32 },
    /// Nothing of its tree is left.
    Ended(Box<Outcome>),
}

/// Ask the tree to end, and kill it after a grace.
pub const STOP: u8 = b's';
/// Kill the tree now.
pub const KILL: u8 = b'k';

/// How the trainer ended: its main process, or what that left behind, if it was still at work when it was stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    Code(i32),
    Signal(Signal),
    /// It was stopped at [`super::Job::timeout`].
    TimedOut,
    /// It was stopped by a [`super::CancelToken`].
    Cancelled,
    /// It outgrew [`super::Job::memory_limit`] and was stopped.
    OverMemoryLimit,
    /// It was never started, for example because there is no such program.
    NotStarted(String),
    /// The launcher was killed or hung, so that nobody knows how the trainer ended; what could be
    /// found of it was killed.
    Lost(String),
    /// Of several nodes that trained together, one told no end: its name.
    NodeLost(String),
}

/// The signal that ended a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    pub number: i32,
    /// `SIGSEGV`, or `signal 40` for those without a name.
    pub name: String,
    pub core_dumped: bool,
}

/// Nobody has seen it.
impl Default for Exit {
    fn default() -> Exit {
        Exit::Lost(String::new())
    }
}

/// For one line of a table or a message.
impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(signal) => {
                let core = if signal.core_dumped { ", core dumped" } else { "" };
                write!(f, "killed by {}{core}", signal.name)
            }
            Exit::TimedOut => f.write_str("timed out"),
            Exit::Cancelled => f.write_str("cancelled"),
            Exit::OverMemoryLimit => f.write_str("over the memory limit"),
            Exit::NotStarted(reason) => write!(f, "not started: {reason}"),
            Exit::Lost(reason) => write!(f, "lost: {reason}"),
            Exit::NodeLost(node) => write!(f, "lost node {node}"),
        }
    }
}

/// Processes of the tree that were still alive when the main process had ended by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stragglers {
    pub count: u64,
    /// Whether some did not end within the grace and had to be stopped.
    pub stopped: bool,
    /// Whether they were computing when they were stopped: their work was not done.
    pub cut_off: bool,
}
