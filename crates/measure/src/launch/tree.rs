//! Signals to all of a trainer's process tree.

pub use platform::{Tree, kill_leftovers};

/// Every process of one launch carries this variable, with the launch's own value, so that what is
/// left of a tree can be found even when its launcher was killed.
pub const MARK: &str = "TRAINMARK_LAUNCH";

#[cfg(target_os = "linux")]
mod platform {
    use crate::meter::proc::{self, Stat};
    use rustix::io::Errno;
    use rustix::process::{
        Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open, pidfd_send_signal,
    };
    use std::fs;
    use std::time::{Duration, Instant};

    /// How long [`kill_leftovers`] goes on looking.
    const LEFTOVER_PATIENCE: Duration = Duration::from_secs(5);

    /// All processes below this one, whatever group or session they have moved to: this process is
    /// a subreaper, so one that loses its parent becomes its child.
    #[derive(Debug)]
    pub struct Tree {
        root: i32,
    }

    impl Tree {
        /// Makes this process the root.
        pub fn adopt() -> std::io::Result<Tree> {
            let own = rustix::process::getpid();
            rustix::process::set_child_subreaper(Some(own))?;
            Ok(Tree { root: own.as_raw_nonzero().get() })
        }

        /// The main process is told apart on other systems only.
        pub fn set_main(&mut self, _main: i32) {}

        /// Processes that have not ended.
        pub fn alive(&self) -> u64 {
            self.stats().filter(Stat::is_alive).count() as u64
        }

        /// Asks all to end. A stopped process is woken, or it could not.
        pub fn terminate(&self) {
            for stat in self.stats().filter(Stat::is_alive) {
                send(&stat, Signal::TERM);
                send(&stat, Signal::CONT);
            }
        }

        /// Kills all that are found, and their process groups as well: a group cannot gain members
        /// between the signal to one and the signal to the next. The caller repeats it until nobody
        /// is left to wait for.
        pub fn kill(&self) {
            let own_group = rustix::process::getpgrp().as_raw_nonzero().get();
            for stat in self.stats().filter(Stat::is_alive) {
                // Groups lie within a session, and the sessions below are this tree's own.
                if stat.group != own_group
                    && let Some(group) = Pid::from_raw(stat.group)
                {
                    let _ = kill_process_group(group, Signal::KILL);
                }
                send(&stat, Signal::KILL);
            }
        }

        fn stats(&self) -> impl Iterator<Item = Stat> {
            proc::descendants(self.root).into_iter().filter_map(Stat::read)
        }
    }

    /// To this very process: should its id have passed to another one, nobody is signalled. A
    /// process that is gone is what the sender wanted.
    fn send(stat: &Stat, signal: Signal) {
        let Some(pid) = Pid::from_raw(stat.pid) else { return };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) if stat.is_still_there() => {
                let _ = pidfd_send_signal(fd, signal);
            }
            // Before Linux 5.3.
            Err(Errno::NOSYS) if stat.is_still_there() => {
                let _ = kill_process(pid, signal);
            }
            _ => {}
        }
    }

    /// Kills what a launcher that died itself has left behind: the processes of its session and
    /// those that carry its mark. Returns how many it could not end.
    pub fn kill_leftovers(session: u32, mark: &str, _main: Option<i32>) -> u64 {
        let marked = format!("{}={mark}", super::MARK);
        let belongs = |stat: &Stat| {
            stat.session as u32 == session
                || fs::read(format!("/proc/{}/environ", stat.pid)).is_ok_and(|environ| {
                    environ.split(|&byte| byte == 0).any(|entry| entry == marked.as_bytes())
                })
        };
        let give_up = Instant::now() + LEFTOVER_PATIENCE;
        loop {
            let mut left = proc::all_processes();
            left.retain(|stat| stat.is_alive() && belongs(stat));
            if left.is_empty() || Instant::now() >= give_up {
                return left.len() as u64;
            }
            for stat in &left {
                send(stat, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod platform {
    use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

    /// The main process's group. One that leaves it is out of reach: there are no subreapers here.
    #[derive(Debug)]
    pub struct Tree {
        group: Option<Pid>,
    }

    impl Tree {
        pub fn adopt() -> std::io::Result<Tree> {
            Ok(Tree { group: None })
        }

        /// The main process leads the group.
        pub fn set_main(&mut self, main: i32) {
            self.group = Pid::from_raw(main);
        }

        /// 1 if the group has members, 0 if not: they cannot be counted.
        pub fn alive(&self) -> u64 {
            u64::from(self.group.is_some_and(|group| test_kill_process_group(group).is_ok()))
        }

        pub fn terminate(&self) {
            self.send(Signal::TERM);
            self.send(Signal::CONT);
        }

        pub fn kill(&self) {
            self.send(Signal::KILL);
        }

        fn send(&self, signal: Signal) {
            if let Some(group) = self.group {
                // A group without members is what the sender wanted.
                let _ = kill_process_group(group, signal);
            }
        }
    }

    /// Kills the main process's group. Returns 1 if it still has members.
    pub fn kill_leftovers(_session: u32, _mark: &str, main: Option<i32>) -> u64 {
        let tree = Tree { group: main.and_then(Pid::from_raw) };
        tree.kill();
        tree.alive()
    }
}
