//! Counters of the CPU and of the scheduler, by perf events, which only Linux has.
//!
//! They are opened in the launcher on its own thread, disabled and inherited: the child that it forks
//! gets copies, which begin to count when it executes the trainer, and so do all that it starts. The
//! launcher itself counts nothing. Each is asked for on its own, so that one which the hardware, a
//! virtual machine or `perf_event_paranoid` refuses is absent with that reason and costs nothing.

use super::reading::Reading;

#[cfg(not(target_os = "linux"))]
pub struct Events;

#[cfg(not(target_os = "linux"))]
impl Events {
    pub fn open() -> Events {
        Events
    }

    pub fn read(self) -> Vec<(&'static str, Reading)> {
        Vec::new()
    }
}

#[cfg(target_os = "linux")]
pub use linux::Events;

#[cfg(target_os = "linux")]
mod linux {
    use super::Reading;
    use perf_event::events::{Hardware, Software};
    use perf_event::{Builder, Counter};
    use std::io;

    const USER: &str = "perf events, user space of the whole process tree";
    const ALL: &str = "perf events of the whole process tree, kernel included";

    /// The open counters, or the reason why there are none.
    pub struct Events(Vec<(&'static str, &'static str, io::Result<Counter>)>);

    impl Events {
        /// Before the trainer is started, on the thread that will start it.
        pub fn open() -> Events {
            let hardware = |name, event: Hardware| {
                let mut builder = Builder::new(event);
                (name, USER, builder.inherit(true).enable_on_exec(true).build())
            };
            // The kernel counts these itself, so its own part must not be left out.
            let software = |name, event: Software| {
                let mut builder = Builder::new(event);
                (name, ALL, builder.inherit(true).enable_on_exec(true).include_kernel().build())
            };
            Events(vec![
                hardware("instructions", Hardware::INSTRUCTIONS),
                hardware("cycles", Hardware::CPU_CYCLES),
                hardware("cache_misses", Hardware::CACHE_MISSES),
                hardware("branch_misses", Hardware::BRANCH_MISSES),
                software("cpu_migrations", Software::CPU_MIGRATIONS),
                software("task_clock_ns", Software::TASK_CLOCK),
            ])
        }

        /// When the tree has been waited for: a process adds its counts to its parent's when it ends.
        pub fn read(self) -> Vec<(&'static str, Reading)> {
            self.0.into_iter().map(|(name, source, it)| (name, reading(it, source))).collect()
        }
    }

    fn reading(counter: io::Result<Counter>, source: &str) -> Reading {
        let data = match counter.and_then(|mut counter| counter.read_full()) {
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
        if share >= 0.999 {
            return Reading::measured(data.count() as f64, source);
        }
        let words = format!("{source}; extrapolated from {:.0} % of the time", share * 100.0);
        Reading::measured((data.count() as f64 / share).round(), words)
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
}
