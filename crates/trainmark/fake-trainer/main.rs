//! A trainer for the tests: its first argument says how it behaves, well or badly, and what it
//! costs is known beforehand. It is only built for tests (feature `fake-trainer`).
//!
//! Memory is given in MB of a million bytes and touched page by page; CPU time is given in seconds
//! of the thread's own CPU clock, so that it is the same on a busy machine.

mod behaviour;
mod cost;
mod steps;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((mode, rest)) = arguments.split_first() else {
        return usage("no mode");
    };
    let number = |index: usize| rest.get(index).and_then(|text| text.parse::<f64>().ok());
    match (mode.as_str(), number(0), number(1)) {
        ("succeed", _, _) => behaviour::succeed(),
        ("lie", _, _) => behaviour::lie(),
        ("exit", Some(code), _) => return ExitCode::from(code as u8),
        ("print", _, _) => behaviour::print(&rest.join(" ")),
        ("abort", _, _) => std::process::abort(),
        ("signal", Some(number), _) => behaviour::signal_self(number as i32),
        ("sleep", Some(seconds), _) => behaviour::sleep(seconds),
        ("ignore-term", _, _) => behaviour::ignore_term(),
        ("detach", _, _) => behaviour::detach(),
        ("detached", _, _) => behaviour::detached(),
        ("kill-parent", _, _) => behaviour::kill_parent(),
        ("fork-bomb", Some(generations), _) => behaviour::fork_bomb(generations as u32),
        ("garbage", Some(megabytes), _) => behaviour::garbage(megabytes),
        ("invalid-utf8", _, _) => behaviour::invalid_utf8(),
        ("stdout-lines", Some(megabytes), _) => behaviour::stdout_lines(megabytes),
        ("stderr-without-newline", Some(megabytes), _) => {
            behaviour::stderr_without_newline(megabytes);
        }
        ("close-output", _, _) => behaviour::close_output(),
        ("environment", _, _) => behaviour::environment(),
        ("hold", Some(megabytes), Some(seconds)) => cost::hold(megabytes, seconds),
        ("hold-twice", Some(megabytes), Some(seconds)) => cost::hold_twice(megabytes, seconds),
        ("share", Some(megabytes), Some(seconds)) => cost::share(megabytes, seconds),
        ("leak", Some(megabytes_per_s), _) => cost::leak(megabytes_per_s),
        ("burn", Some(threads), Some(seconds)) => cost::burn(threads as usize, seconds),
        ("orphan-burn", Some(seconds), _) => cost::orphan_burn(seconds),
        ("start-and-leave", Some(seconds), _) => cost::start_and_leave(seconds),
        ("unwaited-burn", Some(seconds), _) => cost::unwaited_burn(seconds),
        ("verify", _, _) => steps::verify(rest),
        ("held-then", Some(megabytes), _) => return cost::held_then(megabytes, &rest[1..]),
        _ => return usage(&format!("mode {mode:?} with {rest:?}")),
    }
    ExitCode::SUCCESS
}

fn usage(what: &str) -> ExitCode {
    eprintln!("fake-trainer: cannot do {what}; see its main.rs");
    ExitCode::from(2)
}
