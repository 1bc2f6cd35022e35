//! Signals to all of a trainer's process tree.

pub use platform::{Foster, Tree};

use std::time::{Duration, Instant};

/// A process that still runs so long after SIGKILL hangs in the kernel.
pub const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// Between two rounds of SIGKILL: a process that forks while it is being killed needs a second one.
pub const KILL_INTERVAL: Duration = Duration::from_millis(5);
impl Tree {
    /// The last resort when watching itself has failed.
    pub fn kill_until_gone(&self) {
        let give_up = Instant::now() + KILL_PATIENCE;
        while self.alive() > 0 && Instant::now() < give_up {
            self.kill();
            std::thread::sleep(KILL_INTERVAL);
        }
    }
}

#[cfg(target_os = "linux")]
mod platform {
    use crate::process::{self, Stat};
    use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, waitpid};
    use std::collections::BTreeSet;
    use std::io;
    use std::process::Child;
    use std::sync::{Mutex, PoisonError};
    use std::time::{Duration, Instant};

    /// How long [`Foster::kill_leftovers`] goes on looking.
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

        pub fn pids(&self) -> Vec<i32> {
            process::descendants(self.root)
        }

        fn stats(&self) -> impl Iterator<Item = Stat> {
            self.pids().into_iter().filter_map(Stat::read)
        }
    }

    /// To this very process: should its id have passed to another one by now, nobody is signalled.
    /// A process that is gone is what the sender wanted.
    fn send(stat: &Stat, signal: Signal) {
        if let Some(pid) = Pid::from_raw(stat.pid)
            && stat.is_still_there()
        {
            let _ = kill_process(pid, signal);
        }
    }

    /// The launchers of this process that are at work.
    static AT_WORK: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

    /// A launcher's children, should it die before them: while there is one of these, this process is a
    /// subreaper too, and gets them. So one is found that has left its session, cleared its environment
    /// and killed its launcher.
    #[derive(Debug)]
    pub struct Foster {
        launcher: Stat,
    }

    impl Foster {
        /// Starts a launcher.
        pub fn start(
            start: impl FnOnce() -> io::Result<Child>,
        ) -> io::Result<(Child, Option<Foster>)> {
            let mut at_work = AT_WORK.lock().unwrap_or_else(PoisonError::into_inner);
            // Where it is refused, the launcher's session has to do.
            let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
            let child = start()?;
            let launcher = Stat::read(child.id() as i32);
            at_work.extend(launcher.map(|stat| stat.pid));
            Ok((child, launcher.map(|launcher| Foster { launcher })))
        }

        /// The children that came from a launcher: not in this process's own session, which a launcher
        /// leaves for good, and none of the launchers.
        fn adopted(&self, all: &[Stat]) -> Vec<Stat> {
            let own = rustix::process::getpid().as_raw_nonzero().get();
            let session = Stat::read(own).map(|stat| stat.session);
            let at_work = AT_WORK.lock().unwrap_or_else(PoisonError::into_inner);
            let is_adopted = |stat: &&Stat| {
                stat.parent == own
                    && Some(stat.session) != session
                    && stat.start_ticks >= self.launcher.start_ticks
                    && !at_work.contains(&stat.pid)
            };
            all.iter().filter(is_adopted).copied().collect()
        }

        /// Kills what the launcher, which has died, has left behind: the processes of its session, and those
        /// that have become this process's own with all below them.
        /// Returns how many were found, and how many of them it could not end.
        pub fn kill_leftovers(&self, _main: Option<i32>) -> (u64, u64) {
            let mut found = BTreeSet::new();
            let give_up = Instant::now() + LEFTOVER_PATIENCE;
            loop {
                let all = process::all_processes();
                let adopted = self.adopted(&all);
                let mut left: BTreeSet<i32> = adopted.iter().map(|stat| stat.pid).collect();
                for stat in &adopted {
                    match stat.is_alive() {
                        true => left.extend(process::descendants_by_parents(stat.pid, &all)),
                        // It has no children any more. There can be thousands, and nobody else buries them.
                        false => drop(waitpid(Pid::from_raw(stat.pid), WaitOptions::NOHANG)),
                    }
                }
                let mut left: Vec<&Stat> = all
                    .iter()
                    .filter(|it| left.contains(&it.pid) || it.session == self.launcher.pid)
                    .collect();
                left.retain(|stat| stat.is_alive() && stat.is_still_there());
                found.extend(left.iter().map(|stat| (stat.pid, stat.start_ticks)));
                left.iter().for_each(|stat| send(stat, Signal::KILL));
                // At least once, however long it takes to look at all processes.
                if left.is_empty() || Instant::now() >= give_up {
                    return (found.len() as u64, left.len() as u64);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    impl Drop for Foster {
        fn drop(&mut self) {
            let mut at_work = AT_WORK.lock().unwrap_or_else(PoisonError::into_inner);
            at_work.remove(&self.launcher.pid);
            if at_work.is_empty() {
                let _ = rustix::process::set_child_subreaper(None);
            }
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

        pub fn pids(&self) -> Vec<i32> {
            Vec::new()
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

    /// Orphans become the system's children, not this process's.
    #[derive(Debug)]
    pub struct Foster;

    impl Foster {
        pub fn start(
            start: impl FnOnce() -> std::io::Result<std::process::Child>,
        ) -> std::io::Result<(std::process::Child, Option<Foster>)> {
            Ok((start()?, Some(Foster)))
        }

        /// Kills the main process's group. Of a group nobody knows more than whether it has members.
        pub fn kill_leftovers(&self, main: Option<i32>) -> (u64, u64) {
            let tree = Tree { group: main.and_then(Pid::from_raw) };
            let found = tree.alive();
            tree.kill();
            (found, tree.alive())
        }
    }
}
