//! How trainers end, and what they print.

use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::unistd::{getppid, setsid};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The least that a trainer must do.
pub fn succeed() {
    println!("Epoch 1/1  loss 0.61");
    println!("Test Accuracy: 95.67%");
}

/// Claims everything, and predicts nothing.
pub fn lie() {
    if let Some(path) = std::env::var_os("TRAINMARK_PREDICTIONS") {
        std::fs::write(path, vec![0; 10_000])
            .expect("the harness named a file that can be written");
    }
    println!("Test Accuracy: 100.00%");
}

pub fn print(line: &str) {
    println!("{line}");
}

/// Also signals that have no name, such as the real-time ones. Twice: Rust's own handler of SIGSEGV
/// lets the first one pass if no memory was touched.
pub fn signal_self(number: i32) {
    let own = std::process::id().to_string();
    for _ in 0..2 {
        let status = Command::new("/bin/kill").args([&format!("-{number}"), &own]).status();
        status.expect("every system has /bin/kill");
    }
    panic!("signal {number} did not end this process");
}

pub fn sleep(seconds: f64) {
    println!("sleeping");
    std::thread::sleep(Duration::from_secs_f64(seconds));
}

/// Only SIGKILL ends it.
pub fn ignore_term() {
    ignore(Signal::SIGTERM);
    sleep(300.0);
}

pub fn ignore(which: Signal) {
    // SAFETY: ignoring a signal installs no handler, so no code runs in a signal's context.
    unsafe { signal(which, SigHandler::SigIgn) }.expect("this signal may be ignored");
}

/// Forks twice and leaves its session, as daemons do, so that neither its parent nor its process
/// group knows it any more. The daemon ignores SIGTERM and spins.
pub fn detach() {
    let own = std::env::current_exe().expect("the path of this executable");
    let mut middle = Command::new(own);
    middle.args(["detached", "first"]).stdout(Stdio::inherit());
    middle.spawn().expect("a second process").wait().expect("it ends at once");
    println!("Test Accuracy: 95.67%");
}

/// The other two processes of [`detach`].
pub fn detached() {
    let first = std::env::args().nth(2).is_some_and(|which| which == "first");
    setsid().expect("it leads no group yet");
    if first {
        let own = std::env::current_exe().expect("the path of this executable");
        let daemon = Command::new(own).args(["detached", "second"]).spawn();
        println!("daemon {}", daemon.expect("a third process").id());
    } else {
        ignore(Signal::SIGTERM);
        loop {
            std::hint::spin_loop();
        }
    }
}

/// Kills what started it, and goes on.
pub fn kill_parent() {
    println!("main {}", std::process::id());
    kill(getppid(), Signal::SIGKILL).expect("the same user");
    std::thread::sleep(Duration::from_secs(300));
}

/// Doubles, so many times, and every process ignores SIGTERM and stays.
pub fn fork_bomb(generations: u32) {
    ignore(Signal::SIGTERM);
    let own = std::env::current_exe().expect("the path of this executable");
    for left in (0..generations).rev() {
        let _ = Command::new(&own).args(["fork-bomb", &left.to_string()]).spawn();
    }
    std::thread::sleep(Duration::from_secs(300));
}

/// Bytes that no encoding knows, from a fixed sequence.
pub fn garbage(megabytes: f64) {
    let mut state = 1_u32;
    let mut block = vec![0_u8; 1_000_000];
    for _ in 0..megabytes as usize {
        for byte in &mut block {
            // The generator of Numerical Recipes; its high bits are good enough for garbage.
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        write(std::io::stdout(), &block);
    }
}

pub fn invalid_utf8() {
    write(std::io::stdout(), b"loss \xff\xfe\x80 nan\nTest Accuracy: 12.50%\n");
}

pub fn stdout_lines(megabytes: f64) {
    let line = [&[b'x'; 99][..], b"\n"].concat();
    let block = line.repeat(10_000);
    for _ in 0..megabytes as usize {
        write(std::io::stdout(), &block);
    }
    println!("Test Accuracy: 50.00%");
}

pub fn stderr_without_newline(megabytes: f64) {
    let block = vec![b'e'; 1_000_000];
    for _ in 0..megabytes as usize {
        write(std::io::stderr(), &block);
    }
    println!("Test Accuracy: 50.00%");
}

/// Closes both streams and works on for a moment.
pub fn close_output() {
    println!("Test Accuracy: 50.00%");
    nix::unistd::close(1).expect("it was open");
    nix::unistd::close(2).expect("it was open");
    std::thread::sleep(Duration::from_millis(300));
}

/// What it was started with.
pub fn environment() {
    println!("cwd {}", std::env::current_dir().expect("a working directory").display());
    for name in ["FAKE_VARIABLE", "PATH"] {
        println!("{name} {}", std::env::var(name).unwrap_or_default());
    }
    let mut input = String::new();
    let read = std::io::stdin().read_line(&mut input).expect("standard input is open");
    println!("stdin {read} bytes");
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        for line in status.lines().filter(|line| line.starts_with("SigBlk")) {
            println!("{line}");
        }
        for line in status.lines().filter(|line| line.starts_with("Cpus_allowed_list")) {
            println!("{line}");
        }
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        // One more for the folder that is being read.
        println!("descriptors {}", open.count() - 1);
    }
}

fn write(mut stream: impl Write, bytes: &[u8]) {
    stream.write_all(bytes).expect("the harness reads");
}
