//! Children with known vices. A file, and so a process, of its own, and one test at a time:
//! `wait_for_any` takes whichever child there is.
#![cfg(unix)]

use measure::account::{Ended, wait_for_any};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

static ALONE: Mutex<()> = Mutex::new(());

#[allow(clippy::zombie_processes)] // it is `wait_for_any` that waits
fn end_of(script: &str) -> Ended {
    let child = Command::new("sh").args(["-c", script]).stdout(Stdio::null()).spawn().unwrap();
    let pid = child.id() as i32;
    let ended = loop {
        match wait_for_any() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => break other.unwrap(),
        }
    };
    assert_eq!(ended.pid, pid);
    ended
}

#[test]
fn an_exit_code_and_a_signal_are_told_apart() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(end_of("exit 3").status.code(), Some(3));
    assert_eq!(end_of("kill -9 $$").status.signal(), Some(9));
}

#[test]
fn without_a_child_there_is_nothing_to_wait_for() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(wait_for_any().unwrap_err().raw_os_error(), Some(10), "ECHILD");
}

#[test]
#[cfg(target_os = "macos")]
fn the_footprint_of_an_ended_child_and_of_this_process_are_plausible() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let footprint = end_of("exit 0").footprint_bytes.expect("known until it is buried");
    assert!((100_000..200_000_000).contains(&footprint), "{footprint} bytes for a shell");

    let own = std::process::id() as i32;
    let before = measure::account::memory(own).unwrap();
    let held = vec![1_u8; 64 << 20];
    let after = measure::account::memory(own).unwrap();
    assert!(after.footprint_bytes >= before.footprint_bytes + (held.len() as u64) / 2);
    assert!(after.peak_footprint_bytes >= after.footprint_bytes);

    let mut child = Command::new("sleep").arg("30").spawn().unwrap();
    assert!(measure::account::children(own).contains(&(child.id() as i32)));
    child.kill().unwrap();
    child.wait().unwrap();
}
