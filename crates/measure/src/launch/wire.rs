//! What the harness and its launcher say to each other over their socket.
//!
//! The harness sends a [`Request`] as one line of JSON, then perhaps [`STOP`] and [`KILL`]. The
//! launcher answers with [`Message`]s, a line of JSON each: that the trainer has started, and, when its
//! tree is gone, a [`Report`]. If the socket closes before that, the other side has died: the launcher then kills the tree, the harness
//! records the trainer as lost.

use super::{Exit, MemoryLimit, Stragglers};
use crate::meter::Meters;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::time::Duration;

/// Ask the tree to end, and kill it after a grace.
pub const STOP: u8 = b's';
/// Kill the tree now.
pub const KILL: u8 = b'k';

/// Strings are as the system has them, not necessarily UTF-8.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    pub program: OsString,
    pub args: Vec<OsString>,
    pub env: Vec<(OsString, OsString)>,
    pub cwd: Option<OsString>,
    pub timeout: Option<Duration>,
    pub memory_limit: Option<MemoryLimit>,
    pub cpus: Option<Vec<usize>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The id of the trainer's main process, which leads its own process group.
    Started {
        main: i32,
    },
    Ended(Box<Report>),
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    pub exit: Exit,
    pub out_of_memory: Option<String>,
    pub memory_limited_by: Option<String>,
    pub address_space_bytes: Option<u64>,
    pub meters: Meters,
    pub stragglers: Stragglers,
    pub survivors: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn arguments_that_are_not_utf8_survive_the_wire() {
        let odd = OsString::from_vec(b"caf\xe9\n\"\0x"[..7].to_vec());
        let request = Request {
            program: odd.clone(),
            args: vec![odd.clone()],
            env: vec![("A".into(), odd.clone())],
            cwd: Some(odd.clone()),
            timeout: Some(Duration::from_millis(1500)),
            memory_limit: Some(MemoryLimit { bytes: u64::MAX, by: None }),
            cpus: Some(vec![0, 3]),
        };
        let line = serde_json::to_string(&request).unwrap();
        assert!(!line.contains('\n'));
        let back: Request = serde_json::from_str(&line).unwrap();
        assert_eq!(back.program, odd);
        assert_eq!(back.env[0].1, odd);
        assert_eq!(back.timeout, request.timeout);
        assert_eq!(back.memory_limit, request.memory_limit);
    }
}
