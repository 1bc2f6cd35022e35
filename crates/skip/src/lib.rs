//! Tests that cannot run on this machine, for want of a device, a program or data.
//!
//! Rust's test runner decides whether a test is ignored before it runs, and a test that returns early
//! reads `ok`. So such a test calls [`skipped`] and returns. The line `SKIPPED name: reason` then stands
//! among the test results, and in the file that `$TRAINMARK_SKIPS` names, if it names one. `.ci/run`
//! counts and lists the lines of that file at its end. Where a machine is known to have what a test
//! needs, the test is told to fail instead: see [`skipped_unless`].
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;

/// The variable that names the file to which each skipped test adds a line.
pub const SKIPS: &str = "TRAINMARK_SKIPS";

/// Says that the running test, or a part of it, is skipped.
///
/// # Panics
/// If the file that `$TRAINMARK_SKIPS` names cannot be written: a skipped test would go uncounted.
pub fn skipped(reason: impl Display) {
    let thread = std::thread::current(); // the test runner names it after the test
    let package = std::env::var("CARGO_PKG_NAME").unwrap_or_default();
    let reason = reason.to_string();
    let reason = reason.lines().next().unwrap_or("no reason given");
    let line = format!("SKIPPED {package} {}: {reason}\n", thread.name().unwrap_or("a test"));
    // Not by `eprint!`, which the test runner keeps to itself. In one piece, as others write too.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(file) = std::env::var_os(SKIPS) {
        let added = OpenOptions::new().append(true).create(true).open(&file);
        added
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .unwrap_or_else(|error| panic!("${SKIPS}, {}: {error}", file.display()));
    }
}

/// The same, but fails where a variable of this name is set, unless to `0` or nothing.
///
/// # Panics
/// If it is, and as [`skipped`].
pub fn skipped_unless(required: &str, reason: impl Display) {
    let value = std::env::var_os(required).unwrap_or_default();
    assert!(value.is_empty() || value == "0", "{required} is set, but {reason}");
    skipped(reason);
}
