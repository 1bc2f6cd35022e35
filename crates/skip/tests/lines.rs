//! A skipped test is seen, counted, and fails where it must run. Each test is about another one, which
//! it starts in a process of its own.

use std::process::{Command, Output};

const NEEDED: &str = "SKIP_TEST_NEEDED";

/// For the others.
#[test]
#[ignore = "not a test of its own: others start it"]
fn a_test_that_cannot_run_here() {
    skip::skipped_unless(NEEDED, "there is no abacus\nof that size");
}

fn start(variable: &str, value: &str) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["a_test_that_cannot_run_here", "--exact", "--ignored"]);
    command.env_remove(skip::SKIPS).env_remove(NEEDED).env(variable, value);
    command.env("CARGO_PKG_NAME", "a-crate").output().unwrap()
}

const LINE: &str = "SKIPPED a-crate a_test_that_cannot_run_here: there is no abacus\n";

#[test]
fn a_skipped_test_is_seen_though_its_output_is_kept() {
    for value in ["0", ""] {
        let output = start(NEEDED, value);
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stderr), LINE);
    }
}

#[test]
fn a_skipped_test_adds_a_line_to_the_file_that_is_asked_for() {
    let file = std::env::temp_dir().join(format!("skips-{}", std::process::id()));
    for _ in 0..2 {
        assert!(start(skip::SKIPS, file.to_str().unwrap()).status.success());
    }
    let lines = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(lines, LINE.repeat(2));
    let lost = start(skip::SKIPS, "/no/such/folder/file");
    assert!(!lost.status.success(), "a skipped test that nobody counts");
}

#[test]
fn a_test_that_must_run_fails_instead() {
    let output = start(NEEDED, "1");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("SKIP_TEST_NEEDED is set, but there is no abacus"), "{said}");
}
