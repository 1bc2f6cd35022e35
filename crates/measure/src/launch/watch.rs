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
use super::tree::{KILL_INTERVAL, KILL_PATIENCE, Tree};
use crate::account::{Ended, wait_for_any};
use crate::meter::{TreeSampler, cpu_s, meters};
use nix::sys::resource::UsageWho;
use std::io::{self, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// Processes that outlive the main one may finish their work for this long; longer, and the
/// benchmark would wait for a daemon that never ends.
const STRAGGLER_GRACE: Duration = Duration::from_secs(5);
/// Between SIGTERM and SIGKILL: enough to write a checkpoint, short for whoever pressed Ctrl-C.
pub const TERM_GRACE: Duration = Duration::from_secs(3);
/// Between two looks at a process group whose members are not the launcher's children.
const GROUP_INTERVAL: Duration = Duration::from_millis(20);
/// Stragglers that use more than this share of a core over this time compute. A daemon that waits uses
/// next to none; one that computes gets more, however busy the machine is. The kernel tells CPU time in
/// ticks of 10 ms.
const WORK_WINDOW: Duration = Duration::from_millis(500);
const WORK_SHARE: f64 = 0.05;

/// The observations of the launcher's two other threads.
enum Event {
    /// A process was waited for.
    Reaped(Ended, Instant),
    /// There is no child left to wait for.
    NoChildLeft,
    /// The harness has said this.
    Word(u8),
    HarnessGone,
}

/// Waits for all children, so that nobody need ask again and again.
fn reap(sender: &Sender<Event>) {
    loop {
        let event = match wait_for_any() {
            Ok(ended) => Event::Reaped(ended, Instant::now()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => Event::NoChildLeft,
        };
        let last = matches!(event, Event::NoChildLeft);
        if sender.send(event).is_err() || last {
            return;
        }
    }
}

fn listen(harness: BufReader<UnixStream>, sender: &Sender<Event>) {
    let words = harness.bytes().map_while(Result::ok).map(Event::Word);
    for event in words.chain([Event::HarnessGone]) {
        let _ = sender.send(event);
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    Running,
    Straggling,
    Stopping,
    Killing { give_up: Instant },
    Over { survivors: u64 },
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
    /// When the state changes by itself, or the next round of SIGKILL is due.
    until: Option<Instant>,
    memory: &'a Memory,
    sampler: TreeSampler,
    tree: &'a Tree,
    state: State,
    /// Why a trainer was stopped while its main process, or what it left behind, still ran.
    stopped: Option<Exit>,
    /// Evidence that it exceeded its memory limit.
    evidence: Option<String>,
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
        let deadline = timeout.map(|timeout| start + timeout);
        Watch {
            main,
            start,
            deadline,
            until: deadline,
            memory,
            sampler: TreeSampler::new(rustix::process::getpid().as_raw_nonzero().get()),
            tree,
            state: State::Running,
            stopped: None,
            evidence: None,
            ended: None,
            last_reaped: start,
            stragglers: Stragglers::default(),
            work: None,
            harness_gone: false,
            children_gone: false,
        }
    }

    /// Until the tree is gone. False if the harness has gone too.
    pub fn until_over(&mut self, harness: BufReader<UnixStream>) -> io::Result<bool> {
        // This end stays open, so that waiting for events never fails at once.
        let (sender, events) = channel();
        let (to_reap, to_listen) = (sender.clone(), sender);
        let thread = || std::thread::Builder::new().stack_size(128 * 1024);
        let keep_open = to_reap.clone();
        thread().spawn(move || reap(&to_reap))?;
        thread().spawn(move || listen(harness, &to_listen))?;
        while !matches!(self.state, State::Over { .. }) {
            let mut due = self.until.map_or(self.sampler.next(), |it| it.min(self.sampler.next()));
            if self.children_gone {
                due = due.min(Instant::now() + GROUP_INTERVAL);
            }
            let left = due.saturating_duration_since(Instant::now());
            let first = events.recv_timeout(left).ok();
            first.into_iter().chain(events.try_iter()).for_each(|event| self.take(event));
            self.advance(Instant::now());
        }
        drop(keep_open);
        Ok(!self.harness_gone)
    }

    fn take(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Reaped(ended, at) => {
                self.last_reaped = at;
                self.sampler.ended(&ended);
                if ended.pid == self.main && self.ended.is_none() {
                    self.ended = Some((ended.status, at));
                    self.main_ended(now);
                }
            }
            Event::NoChildLeft => self.children_gone = true,
            Event::Word(word @ (STOP | KILL)) => {
                self.stop(Some(Exit::Cancelled), now);
                if word == KILL {
                    self.kill(now);
                }
            }
            Event::Word(_) => {}
            Event::HarnessGone => {
                self.harness_gone = true;
                self.kill(now);
            }
        }
    }

    fn main_ended(&mut self, now: Instant) {
        if matches!(self.state, State::Running) {
            let grace_end = now + STRAGGLER_GRACE;
            self.until = Some(self.deadline.map_or(grace_end, |it| it.min(grace_end)));
            self.state = State::Straggling;
            let count = self.tree.alive();
            self.stragglers.count = count;
            let cpu_s = self.cpu_s();
            self.work =
                cpu_s.map(|cpu_s| Work { since: now, cpu_s, goes_on: count > 0, until: now });
        }
    }

    /// CPU seconds of the whole tree so far.
    fn cpu_s(&self) -> Option<f64> {
        Some(self.sampler.running_cpu_s()? + cpu_s(UsageWho::RUSAGE_CHILDREN))
    }

    /// Whether stragglers compute, once a window is over.
    fn see_work(&mut self, now: Instant) {
        let Some(Work { since, cpu_s: before_s, .. }) = self.work else { return };
        let window = now - since;
        if window < WORK_WINDOW || !matches!(self.state, State::Straggling) {
            return;
        }
        let (Some(cpu_s), Some(work)) = (self.cpu_s(), &mut self.work) else { return };
        (work.since, work.cpu_s) = (now, cpu_s);
        work.goes_on = cpu_s - before_s > WORK_SHARE * window.as_secs_f64();
        if work.goes_on {
            work.until = now;
        }
    }

    /// Does what is due.
    fn advance(&mut self, now: Instant) {
        // Where there are no subreapers, members of the main process's group may still run.
        if self.children_gone && (cfg!(target_os = "linux") || self.tree.alive() == 0) {
            self.state = State::Over { survivors: 0 };
            return;
        }
        if now >= self.sampler.next() {
            let resident = self.sampler.look(self.memory.is_watched());
            if let Some(evidence) = self.memory.is_over(resident, || self.tree.pids()) {
                // No grace: it would go on growing.
                self.stop(Some(Exit::OverMemoryLimit), now);
                self.evidence.get_or_insert(evidence);
                self.kill(now);
            }
            self.see_work(now);
        }
        if self.until.is_none_or(|until| now < until) {
            return;
        }
        match self.state {
            State::Running => self.stop(Some(Exit::TimedOut), now),
            State::Straggling => {
                let is_late = self.deadline.is_some_and(|deadline| now >= deadline);
                self.stop(is_late.then_some(Exit::TimedOut), now);
            }
            State::Stopping => self.kill(now),
            State::Killing { give_up } if now >= give_up => {
                self.state = State::Over { survivors: self.tree.alive().max(1) };
            }
            State::Killing { .. } => {
                self.tree.kill();
                self.until = Some(now + KILL_INTERVAL);
            }
            State::Over { .. } => {}
        }
    }

    /// Asks the tree to end, if nobody has yet; without a reason if the grace of those that outlive the main process
    /// is over. A training whose main process ended well ends for that reason only if it still went on.
    fn stop(&mut self, why: Option<Exit>, now: Instant) {
        match self.state {
            State::Running => self.stopped = why,
            State::Straggling => {
                self.stragglers.stopped = true;
                if let Some(work) = &mut self.work {
                    self.stragglers.cut_off = work.goes_on;
                    work.until = work.until.max(self.last_reaped);
                }
                let ended_well = self.ended.is_some_and(|(status, _)| status.success());
                let goes_on = self.stragglers.cut_off || why == Some(Exit::OverMemoryLimit);
                self.stopped = why.filter(|_| ended_well && goes_on);
            }
            _ => return,
        }
        self.tree.terminate();
        (self.state, self.until) = (State::Stopping, Some(now + TERM_GRACE));
    }

    fn kill(&mut self, now: Instant) {
        if !matches!(self.state, State::Killing { .. } | State::Over { .. }) {
            self.tree.kill();
            self.state = State::Killing { give_up: now + KILL_PATIENCE };
            self.until = Some(now + KILL_INTERVAL);
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
        let ended = self.ended.map(|(status, _)| exit_of(status));
        let exit = self.stopped.or(ended);
        let exit = exit.unwrap_or_else(|| Exit::Lost("its end was not seen".to_owned()));
        let out_of_memory = self.evidence.filter(|_| exit == Exit::OverMemoryLimit);
        let sigkill = nix::libc::SIGKILL;
        let foreign = matches!(&exit, Exit::Signal(signal) if signal.number == sigkill);
        let out_of_memory = out_of_memory.or_else(|| self.memory.evidence(foreign));
        let wall = (main_end - self.start, work_end - self.start);
        let sample = self.sampler.finish();
        Outcome {
            out_of_memory,
            memory_limited_by: self.memory.limited_by(),
            address_space_bytes: self.memory.address_space_bytes(),
            meters: meters(wall, &sample, survivors),
            ranks: sample.ranks,
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
