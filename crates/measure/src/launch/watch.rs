//! The launcher's watch over one trainer, from its start to the end of its process tree.
//!
//! It goes through these states, each with the time at which the next one begins by itself:
//!
//! ```text
//! running ──main process ends──> straggling ──5 s──> stopping (SIGTERM) ──3 s──> killing ──10 s──> given up
//!    └───────time-out, memory limit, stop, kill, harness gone──────┴───────────────────┘
//! ```
//!
//! It is over, in every state, when no child is left to wait for.
//!
//! A trainer's wall time reaches to the last process that worked: a main process that forks its work away
//! and ends has not finished. Whoever outlives it and ends by itself within the grace has worked until then. Of one
//! that has to be stopped, the time counts at which it was last seen to compute; if it still was, its work
//! was cut off, which the outcome says.

use super::limit::Memory;
use super::outcome::{Exit, KILL, Outcome, STOP, Signal, Stragglers};
use super::tree::Tree;
use crate::account::{Ended, wait_for_any};
use crate::meter::{TreeSampler, Wall, meters, waited_cpu_s};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

/// Processes that outlive the main one may finish their work for this long; longer, and the
/// benchmark would wait for a daemon that never ends.
const STRAGGLER_GRACE: Duration = Duration::from_secs(5);
/// Between SIGTERM and SIGKILL: enough to write a checkpoint, short for whoever pressed Ctrl-C.
pub const TERM_GRACE: Duration = Duration::from_secs(3);
/// A process that still runs so long after SIGKILL hangs in the kernel.
pub const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// Between two rounds of SIGKILL: a process that forks while it is being killed needs a second one.
pub const KILL_INTERVAL: Duration = Duration::from_millis(5);
/// Between two looks at a process group whose members are not the launcher's children.
const GROUP_INTERVAL: Duration = Duration::from_millis(20);
/// Stragglers that use more than this share of a core over this time compute: the kernel tells CPU time
/// in ticks of 10 ms, and a daemon that waits uses next to none.
const WORK_WINDOW: Duration = Duration::from_millis(100);
const WORK_SHARE: f64 = 0.15;

/// One process that was waited for.
struct Reaped {
    ended: Ended,
    at: Instant,
}

/// A thread that waits for all children, so that the main loop need not ask again and again. The
/// channel closes when there are none left.
struct Reaper {
    ended: Receiver<Reaped>,
    /// Readable at every message and at the end.
    wake: UnixStream,
}

impl Reaper {
    fn start() -> io::Result<Reaper> {
        let (wake, waker) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        let (sender, ended) = channel();
        std::thread::Builder::new()
            .stack_size(128 * 1024)
            .spawn(move || wait_for_all(&sender, waker))?;
        Ok(Reaper { ended, wake })
    }
}

/// Ends when there is no child left; the two ends it holds close with it.
fn wait_for_all(sender: &Sender<Reaped>, mut waker: UnixStream) {
    loop {
        match wait_for_any() {
            Ok(ended) => {
                if sender.send(Reaped { ended, at: Instant::now() }).is_err() {
                    return;
                }
                // A full buffer is readable enough.
                let _ = waker.write(&[0]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    Running,
    Straggling { until: Instant },
    Stopping { until: Instant },
    Killing { next: Instant, give_up: Instant },
    Over { survivors: u64 },
}

/// Why a trainer was stopped while its main process still ran.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stopped {
    TimedOut,
    Cancelled,
    /// With the evidence.
    OverMemoryLimit(String),
}

/// Whether the processes that outlive the main one compute, window by window.
#[derive(Clone, Copy, Debug)]
struct Work {
    /// Of the window: its beginning, and the CPU seconds of the tree until then.
    since: Instant,
    cpu_s: f64,
    /// Whether they computed in the window before.
    goes_on: bool,
    /// Until when they were seen to.
    until: Instant,
}

/// One trainer between its start and its outcome.
pub struct Watch<'a> {
    main: i32,
    start: Instant,
    deadline: Option<Instant>,
    memory: &'a Memory,
    sampler: TreeSampler,
    tree: &'a Tree,
    state: State,
    stopped: Option<Stopped>,
    /// The main process's end.
    ended: Option<(ExitStatus, Instant)>,
    last_reaped: Instant,
    stragglers: Stragglers,
    work: Option<Work>,
    harness_gone: bool,
    /// There is no child left to wait for.
    children_gone: bool,
}

impl<'a> Watch<'a> {
    pub fn new(
        main: i32,
        start: Instant,
        timeout: Option<Duration>,
        memory: &'a Memory,
        tree: &'a Tree,
    ) -> Self {
        Watch {
            main,
            start,
            deadline: timeout.map(|timeout| start + timeout),
            memory,
            sampler: TreeSampler::new(rustix::process::getpid().as_raw_nonzero().get()),
            tree,
            state: State::Running,
            stopped: None,
            ended: None,
            last_reaped: start,
            stragglers: Stragglers::default(),
            work: None,
            harness_gone: false,
            children_gone: false,
        }
    }

    /// Until the tree is gone. False if the harness has gone too.
    pub fn until_over(&mut self, harness: &UnixStream) -> io::Result<bool> {
        let reaper = Reaper::start()?;
        while !matches!(self.state, State::Over { .. }) {
            self.wait(harness, &reaper.wake)?;
            self.reap(&reaper.ended);
            self.listen(harness)?;
            self.advance(Instant::now());
        }
        Ok(!self.harness_gone)
    }

    /// Sleeps until a child ends, the harness speaks, or something is due.
    fn wait(&self, harness: &UnixStream, wake: &UnixStream) -> io::Result<()> {
        let mut due = self.sampler.next();
        if self.children_gone {
            due = due.min(Instant::now() + GROUP_INTERVAL);
        }
        due = match self.state {
            State::Running => self.deadline.map_or(due, |deadline| due.min(deadline)),
            State::Straggling { until } | State::Stopping { until } => due.min(until),
            State::Killing { next, .. } => due.min(next),
            State::Over { .. } => return Ok(()),
        };
        let left = due.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        // A closed socket is always readable: it must not keep the launcher busy.
        let mut fds = Vec::with_capacity(2);
        if !self.children_gone {
            fds.push(PollFd::new(wake, PollFlags::IN));
        }
        if !self.harness_gone {
            fds.push(PollFd::new(harness, PollFlags::IN));
        }
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut sink = [0; 64];
        while matches!((&*wake).read(&mut sink), Ok(n) if n > 0) {}
        Ok(())
    }

    /// Takes note of the processes that have ended.
    fn reap(&mut self, ended: &Receiver<Reaped>) {
        loop {
            match ended.try_recv() {
                Ok(reaped) => {
                    self.last_reaped = reaped.at;
                    self.sampler.ended(&reaped.ended);
                    if reaped.ended.pid == self.main && self.ended.is_none() {
                        self.ended = Some((reaped.ended.status, reaped.at));
                        self.main_ended();
                    }
                }
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.children_gone = true;
                    // Where there are no subreapers, members of the main process's group may still run.
                    if cfg!(target_os = "linux") || self.tree.alive() == 0 {
                        self.state = State::Over { survivors: 0 };
                    }
                    return;
                }
            }
        }
    }

    fn main_ended(&mut self) {
        if matches!(self.state, State::Running) {
            let now = Instant::now();
            let grace_end = now + STRAGGLER_GRACE;
            let until = self.deadline.map_or(grace_end, |deadline| deadline.min(grace_end));
            self.stragglers.count = self.tree.alive();
            self.work = self.cpu_s().map(|cpu_s| Work {
                since: now,
                cpu_s,
                goes_on: self.stragglers.count > 0,
                until: now,
            });
            self.state = State::Straggling { until };
        }
    }

    /// CPU seconds of the whole tree so far.
    fn cpu_s(&self) -> Option<f64> {
        Some(self.sampler.running_cpu_s()? + waited_cpu_s())
    }

    /// Whether stragglers compute, once a window is over.
    fn see_work(&mut self, now: Instant) {
        let Some(Work { since, cpu_s: before_s, .. }) = self.work else { return };
        let window = now - since;
        if window < WORK_WINDOW || !matches!(self.state, State::Straggling { .. }) {
            return;
        }
        let (Some(cpu_s), Some(work)) = (self.cpu_s(), &mut self.work) else { return };
        (work.since, work.cpu_s) = (now, cpu_s);
        work.goes_on = cpu_s - before_s > WORK_SHARE * window.as_secs_f64();
        if work.goes_on {
            work.until = now;
        }
    }

    /// What the harness says.
    fn listen(&mut self, mut harness: &UnixStream) -> io::Result<()> {
        if self.harness_gone {
            return Ok(());
        }
        let mut words = [0; 16];
        harness.set_nonblocking(true)?;
        let heard = harness.read(&mut words);
        harness.set_nonblocking(false)?;
        let now = Instant::now();
        match heard {
            Ok(count @ 1..) => self.hear(&words[..count], now),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Ok(0) | Err(_) => {
                self.harness_gone = true;
                self.kill(now);
            }
        }
        Ok(())
    }

    pub fn hear(&mut self, words: &[u8], now: Instant) {
        for word in words.iter().filter(|word| matches!(**word, STOP | KILL)) {
            self.stop(Stopped::Cancelled, now);
            if *word == KILL {
                self.kill(now);
            }
        }
    }

    /// Does what is due.
    fn advance(&mut self, now: Instant) {
        if now >= self.sampler.next() && !matches!(self.state, State::Over { .. }) {
            let resident = self.sampler.look(self.memory.is_watched());
            if let Some(evidence) = self.memory.is_over(resident, || self.tree.pids()) {
                // No grace: it would go on growing.
                self.stop(Stopped::OverMemoryLimit(evidence), now);
                self.kill(now);
            }
            self.see_work(now);
        }
        match self.state {
            State::Running if self.deadline.is_some_and(|deadline| now >= deadline) => {
                self.stop(Stopped::TimedOut, now);
            }
            State::Straggling { until } if now >= until => self.stop(Stopped::TimedOut, now),
            State::Stopping { until } if now >= until => self.kill(now),
            State::Killing { give_up, .. } if now >= give_up => {
                self.state = State::Over { survivors: self.tree.alive().max(1) };
            }
            State::Killing { next, give_up } if now >= next => {
                self.tree.kill();
                self.state = State::Killing { next: now + KILL_INTERVAL, give_up };
            }
            _ => {}
        }
    }

    /// Asks the tree to end, if nobody has yet. The reason is that of a main process that still runs.
    fn stop(&mut self, why: Stopped, now: Instant) {
        match self.state {
            State::Running => self.stopped = Some(why),
            State::Straggling { .. } => {
                self.stragglers.stopped = true;
                if let Some(work) = &mut self.work {
                    self.stragglers.cut_off = work.goes_on;
                    work.until = work.until.max(self.last_reaped);
                }
            }
            _ => return,
        }
        self.tree.terminate();
        self.state = State::Stopping { until: now + TERM_GRACE };
    }

    fn kill(&mut self, now: Instant) {
        if !matches!(self.state, State::Killing { .. } | State::Over { .. }) {
            self.tree.kill();
            self.state = State::Killing { next: now + KILL_INTERVAL, give_up: now + KILL_PATIENCE };
        }
    }

    /// Without the control group's peak and the events.
    pub fn outcome(self) -> Outcome {
        let survivors = match self.state {
            State::Over { survivors } => survivors,
            _ => 0,
        };
        let main_end = self.ended.map_or(self.last_reaped, |(_, at)| at);
        let work_end = match self.stragglers {
            Stragglers { count: 0, .. } => main_end,
            Stragglers { stopped: true, .. } => self.work.map_or(main_end, |work| work.until),
            Stragglers { .. } => self.last_reaped,
        };
        let exit = match (&self.stopped, self.ended) {
            (Some(Stopped::TimedOut), _) => Exit::TimedOut,
            (Some(Stopped::Cancelled), _) => Exit::Cancelled,
            (Some(Stopped::OverMemoryLimit(_)), _) => Exit::OverMemoryLimit,
            (None, Some((status, _))) => exit_of(status),
            (None, None) => Exit::Lost("its end was never seen".to_owned()),
        };
        let out_of_memory = match self.stopped {
            Some(Stopped::OverMemoryLimit(evidence)) => Some(evidence),
            _ => {
                let sigkill = nix::libc::SIGKILL;
                let foreign = matches!(&exit, Exit::Signal(signal) if signal.number == sigkill);
                self.memory.evidence(foreign)
            }
        };
        let wall = Wall { main: main_end - self.start, work: work_end - self.start };
        Outcome {
            out_of_memory,
            memory_limited_by: self.memory.limited_by(),
            address_space_bytes: self.memory.address_space_bytes(),
            meters: meters(wall, &self.sampler.finish(), survivors),
            stragglers: self.stragglers,
            survivors,
            ..Outcome::unmeasured(exit, "")
        }
    }
}

fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(number)) => Exit::Signal(Signal {
            number,
            name: nix::sys::signal::Signal::try_from(number)
                .map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned()),
            core_dumped: status.core_dumped(),
        }),
        (None, None) => Exit::Lost(format!("an exit status that means nothing: {status:?}")),
    }
}
