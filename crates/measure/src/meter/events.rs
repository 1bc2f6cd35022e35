//! Counters of the CPU and of the scheduler, by perf events.
//!
//! They are opened in the launcher on its own thread, disabled and inherited: the child that it forks
//! gets copies, which begin to count when it executes the trainer, and so do all that it starts. The
//! launcher itself counts nothing. Each is asked for on its own, so that one which the hardware, a
//! virtual machine or `perf_event_paranoid` refuses is absent with that reason and costs nothing.

use super::{EventCounts, Reading};
use perf_event::events::{Hardware, Software};
use perf_event::{Builder, Counter};
use std::io;

/// What has been opened, or why not.
pub(crate) struct Events {
    instructions: io::Result<Counter>,
    cycles: io::Result<Counter>,
    cache_misses: io::Result<Counter>,
    branch_misses: io::Result<Counter>,
    cpu_migrations: io::Result<Counter>,
    task_clock: io::Result<Counter>,
}

impl Events {
    /// Before the trainer is started, on the thread that will start it.
    pub fn open() -> Events {
        let hardware = |event: Hardware| {
            let mut builder = Builder::new(event);
            builder.inherit(true).enable_on_exec(true);
            builder.build()
        };
        // The kernel counts these itself, so its own part must not be left out.
        let software = |event: Software| {
            let mut builder = Builder::new(event);
            builder.inherit(true).enable_on_exec(true).include_kernel();
            builder.build()
        };
        Events {
            instructions: hardware(Hardware::INSTRUCTIONS),
            cycles: hardware(Hardware::CPU_CYCLES),
            cache_misses: hardware(Hardware::CACHE_MISSES),
            branch_misses: hardware(Hardware::BRANCH_MISSES),
            cpu_migrations: software(Software::CPU_MIGRATIONS),
            task_clock: software(Software::TASK_CLOCK),
        }
    }

    /// When the tree has been waited for: a process adds its counts to its parent's when it ends.
    pub fn read(self) -> EventCounts {
        let user = "perf events, user space of the whole process tree";
        let all = "perf events of the whole process tree, kernel included";
        EventCounts {
            instructions: reading(self.instructions, user),
            cycles: reading(self.cycles, user),
            cache_misses: reading(self.cache_misses, user),
            branch_misses: reading(self.branch_misses, user),
            cpu_migrations: reading(self.cpu_migrations, all),
            task_clock_ns: reading(self.task_clock, all),
        }
    }
}

fn reading(counter: io::Result<Counter>, source: &str) -> Reading<u64> {
    let data = counter.and_then(|mut counter| counter.read_full());
    let data = match data {
        Ok(data) => data,
        Err(error) => return Reading::absent(refusal(&error)),
    };
    let (Some(enabled), Some(running)) = (data.time_enabled(), data.time_running()) else {
        return Reading::absent("the kernel does not say how long it counted");
    };
    if running.is_zero() {
        return Reading::absent("all of the CPU's counters were in use");
    }
    let share = running.as_secs_f64() / enabled.as_secs_f64();
    let count = (data.count() as f64 / share).round() as u64;
    match share < 0.999 {
        true => {
            let percent = share * 100.0;
            Reading::measured(
                count,
                format!("{source}; extrapolated from {percent:.0} % of the time"),
            )
        }
        false => Reading::measured(data.count(), source),
    }
}

/// Why the kernel refuses, in a user's words.
fn refusal(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "not allowed here: see /proc/sys/kernel/perf_event_paranoid".to_owned()
        }
        io::ErrorKind::NotFound | io::ErrorKind::Unsupported => {
            "the CPU, or the virtual machine, does not have this counter".to_owned()
        }
        _ => format!("perf_event_open: {error}"),
    }
}
