//! What trainers cost: memory and CPU time of known size.

use crate::behaviour::ignore;
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::sys::time::TimeValLike;
use nix::unistd::{ForkResult, fork};
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

/// Memory whose every page was written to.
fn touched(megabytes: f64) -> Vec<u8> {
    let mut memory = vec![0_u8; (megabytes * 1e6) as usize];
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    std::hint::black_box(memory)
}

fn wait(seconds: f64) {
    std::thread::sleep(Duration::from_secs_f64(seconds));
}

fn start(arguments: &[&str]) -> Child {
    let own = std::env::current_exe().expect("the path of this executable");
    Command::new(own).args(arguments).spawn().expect("another process")
}

pub fn hold(megabytes: f64, seconds: f64) {
    let memory = touched(megabytes);
    wait(seconds);
    drop(memory);
}

/// Two processes, at the same time; this one itself holds nothing.
pub fn hold_twice(megabytes: f64, seconds: f64) {
    let arguments = ["hold", &megabytes.to_string(), &seconds.to_string()];
    for mut child in [start(&arguments), start(&arguments)] {
        child.wait().expect("a child of this process");
    }
}

/// Two processes that share the same pages.
pub fn share(megabytes: f64, seconds: f64) {
    let memory = touched(megabytes);
    // SAFETY: this process has one thread, so that the child's memory is in a sound state.
    match unsafe { fork() }.expect("another process") {
        ForkResult::Parent { child } => {
            wait(seconds);
            nix::sys::wait::waitpid(child, None).expect("a child of this process");
        }
        ForkResult::Child => wait(seconds),
    }
    drop(memory);
}

/// Until somebody stops it.
pub fn leak(megabytes_per_s: f64) {
    let mut leaked = Vec::new();
    loop {
        leaked.push(touched(megabytes_per_s / 100.0));
        wait(0.01);
    }
}

/// Each thread uses its CPU time; prints what the kernel says of the whole process.
pub fn burn(threads: usize, seconds: f64) {
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| burn_thread(seconds));
        }
    });
    let own = getrusage(UsageWho::RUSAGE_SELF).expect("the kernel's own account");
    println!("cpu_s {}", cpu_s(&own));
}

fn burn_thread(seconds: f64) {
    #[cfg(target_os = "linux")]
    let used = || cpu_s(&getrusage(UsageWho::RUSAGE_THREAD).expect("the kernel's own account"));
    #[cfg(not(target_os = "linux"))]
    let used = {
        let start = std::time::Instant::now();
        move || start.elapsed().as_secs_f64()
    };
    let mut state = 1_u64;
    while used() < seconds {
        for _ in 0..100_000 {
            state =
                std::hint::black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
}

fn cpu_s(usage: &Usage) -> f64 {
    (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6
}

/// The process that uses the time outlives its parent, and this one.
pub fn orphan_burn(seconds: f64) {
    start(&["start-and-leave", &seconds.to_string()]).wait().expect("a child of this process");
    println!("Test Accuracy: 95.67%");
}

/// The middle process of [`orphan_burn`].
#[expect(clippy::zombie_processes, reason = "this process ends at once, which is its purpose")]
pub fn start_and_leave(seconds: f64) {
    start(&["burn", "1", &seconds.to_string()]);
}

/// A parent that ignores SIGCHLD: the kernel drops its children's account when they end.
pub fn unwaited_burn(seconds: f64) {
    ignore(Signal::SIGCHLD);
    let mut child = start(&["burn", "1", &seconds.to_string()]);
    // Fails once the child has gone, by design.
    let _ = child.wait();
    // The sampler has the time to see that it has gone.
    wait(0.1);
}

/// Holds memory, lets it go, and then becomes the parent of another program.
pub fn held_then(megabytes: f64, program: &[String]) -> ExitCode {
    drop(touched(megabytes));
    let Some((program, arguments)) = program.split_first() else { return ExitCode::FAILURE };
    let status = Command::new(program).args(arguments).status().expect("the program exists");
    let children = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the kernel's own account");
    println!("children_maxrss {}", children.max_rss());
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
