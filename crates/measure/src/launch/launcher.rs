//! The launcher: the process between the harness and one trainer.
//!
//! It stays small, since its own peak memory is the least that can be measured of its child, and it
//! has no other children, so that what the kernel adds up for its children is the trainer's tree.
//!
//! A run goes through these states, each with the time at which the next one begins by itself:
//!
//! ```text
//! running ──main process ends──> straggling ──5 s──> stopping (SIGTERM) ──3 s──> killing ──10 s──> given up
//!    └───────time-out, memory limit, stop, kill, harness gone──────┴───────────────────┘
//! ```
//!
//! It is over, in every state, when no child is left to wait for.

use super::memory::{Enforced, address_space_bytes};
use super::outcome::{Exit, Signal, Stragglers};
use super::start::start_trainer;
use super::tree::Tree;
use super::wire::{KILL, Message, Report, Request, STOP};
use crate::meter::{EventCounts, Events, Group, Meters, OomKills, Reading, Span, TreeSampler};
use nix::sys::signal::SigSet;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Processes that outlive the main one may finish their work for this long; longer, and the
/// benchmark would wait for a daemon that never ends.
const STRAGGLER_GRACE: Duration = Duration::from_secs(5);
/// Between SIGTERM and SIGKILL: enough to write a checkpoint, short for whoever pressed Ctrl-C.
pub const TERM_GRACE: Duration = Duration::from_secs(3);
/// A process that still runs so long after SIGKILL hangs in the kernel.
pub const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// Between two rounds of SIGKILL: a process that forks while it is being killed needs a second one.
const KILL_INTERVAL: Duration = Duration::from_millis(5);
/// Between two looks at a process group whose members are not the launcher's children.
const GROUP_INTERVAL: Duration = Duration::from_millis(20);

/// What the harness's binary does when its first argument is [`super::LAUNCHER_ARG`]. It is meant to
/// be started by [`super::run`] only, with a socket as its standard input.
pub fn launcher_main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Among the trainer's own last lines, if the harness is still there to read them.
            let _ = writeln!(io::stderr(), "trainmark launcher: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    // Out of the terminal's reach: Ctrl-C is the harness's business.
    rustix::process::setsid()?;
    // Polite signals to everything called trainmark must not orphan the trainer; the launcher goes
    // when its tree has gone. They are caught and not blocked or ignored: a handler is all that the
    // trainer does not inherit. The harness has blocked them until here.
    ctrlc::set_handler(|| {}).map_err(io::Error::other)?;
    SigSet::empty().thread_set_mask()?;
    let tree = Tree::adopt()?;
    let harness = UnixStream::from(rustix::stdio::stdin().try_clone_to_owned()?);
    let mut reader = BufReader::new(&harness);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let request: Request = serde_json::from_str(&line)?;
    // A request to stop may have come along with it.
    let heard = reader.buffer().to_vec();
    if let Some(report) = supervise(&request, &heard, tree, &harness)? {
        send(&harness, &Message::Ended(Box::new(report)))?;
    }
    Ok(())
}

fn send(mut harness: &UnixStream, message: &Message) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    harness.write_all(&line)
}

/// `None` if the harness has gone.
fn supervise(
    request: &Request,
    heard: &[u8],
    mut tree: Tree,
    harness: &UnixStream,
) -> io::Result<Option<Report>> {
    let oom_before = OomKills::read();
    let start = Instant::now();
    // Made before and dropped after everything else of the run.
    let limit = match Enforced::prepare(request.memory_limit) {
        Ok(limit) => limit,
        Err(reason) => return Ok(Some(not_started(reason))),
    };
    // A limit may have made a group already: one is enough.
    let mut group = match request.memory_limit {
        None => Group::make(),
        Some(_) => Group::without("a memory limit is set, which has control groups of its own"),
    };
    let events = Events::open();
    let main = match group.with(|| start_trainer(request, &limit)) {
        Ok(main) => main,
        Err(reason) => {
            group.finish();
            return Ok(Some(not_started(reason)));
        }
    };
    tree.set_main(main);
    // From here on there is no way out but through the end of the tree.
    let mut run = Run::new(request, &limit, main, start, &tree);
    run.hear(heard, Instant::now());
    watch(run, harness, oom_before, group, events).inspect_err(|_| kill_all_that_is_left(&tree))
}

/// Until the tree is gone. `None` if the harness has gone.
fn watch(
    mut run: Run,
    harness: &UnixStream,
    oom_before: OomKills,
    group: Group,
    events: Events,
) -> io::Result<Option<Report>> {
    // A harness that has died since is noticed by listening.
    let _ = send(harness, &Message::Started { main: run.main });
    let (reaper, wake) = Reaper::start()?;
    while !run.is_over() {
        run.wait(harness, &wake)?;
        run.reap(&reaper);
        run.listen(harness)?;
        run.advance(Instant::now());
    }
    // The group goes even when nobody wants its figure any more.
    let cgroup_peak = group.finish();
    Ok((!run.harness_gone).then(|| run.report(oom_before, cgroup_peak, events.read())))
}

/// The last resort when watching itself has failed.
fn kill_all_that_is_left(tree: &Tree) {
    let give_up = Instant::now() + KILL_PATIENCE;
    while tree.alive() > 0 && Instant::now() < give_up {
        tree.kill();
        std::thread::sleep(KILL_INTERVAL);
    }
}

fn not_started(reason: String) -> Report {
    let meters = Meters::absent("the trainer was not started");
    let stragglers = Stragglers::default();
    Report {
        exit: Exit::NotStarted(reason),
        out_of_memory: None,
        memory_limited_by: None,
        address_space_bytes: None,
        meters,
        stragglers,
        survivors: 0,
    }
}

/// One process that was waited for.
struct Reaped {
    ended: crate::account::Ended,
    at: Instant,
}

/// A thread that waits for all children, so that the main loop need not ask again and again. The
/// channel closes when there are none left.
struct Reaper(Receiver<Reaped>);

impl Reaper {
    /// Also returns a socket that becomes readable at every message and at the end.
    fn start() -> io::Result<(Reaper, UnixStream)> {
        let (wake, waker) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        let (sender, receiver) = channel();
        std::thread::Builder::new()
            .stack_size(128 * 1024)
            .spawn(move || wait_for_all(&sender, waker))?;
        Ok((Reaper(receiver), wake))
    }
}

/// Ends when there is no child left; the two ends it holds close with it.
fn wait_for_all(sender: &Sender<Reaped>, mut waker: UnixStream) {
    loop {
        match crate::account::wait_for_any() {
            Ok(ended) => {
                let reaped = Reaped { ended, at: Instant::now() };
                if sender.send(reaped).is_err() {
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

/// One trainer between its start and its report.
struct Run<'a> {
    main: i32,
    start: Instant,
    deadline: Option<Instant>,
    limit: &'a Enforced,
    sampler: TreeSampler,
    tree: &'a Tree,
    state: State,
    stopped: Option<Stopped>,
    /// The main process's end.
    ended: Option<(ExitStatus, Instant)>,
    last_reaped: Instant,
    stragglers: Stragglers,
    harness_gone: bool,
    /// There is no child left to wait for.
    children_gone: bool,
}

impl<'a> Run<'a> {
    fn new(
        request: &Request,
        limit: &'a Enforced,
        main: i32,
        start: Instant,
        tree: &'a Tree,
    ) -> Self {
        Run {
            main,
            start,
            deadline: request.timeout.map(|timeout| start + timeout),
            limit,
            sampler: TreeSampler::new(rustix::process::getpid().as_raw_nonzero().get()),
            tree,
            state: State::Running,
            stopped: None,
            ended: None,
            last_reaped: start,
            stragglers: Stragglers::default(),
            harness_gone: false,
            children_gone: false,
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.state, State::Over { .. })
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
    fn reap(&mut self, reaper: &Reaper) {
        loop {
            match reaper.0.try_recv() {
                Ok(reaped) => {
                    self.last_reaped = reaped.at;
                    self.sampler.ended(&reaped.ended);
                    if reaped.ended.pid == self.main && self.ended.is_none() {
                        self.ended = Some((reaped.ended.status, reaped.at));
                        self.main_ended();
                    }
                }
                Err(std::sync::mpsc::TryRecvError::Empty) => return,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => {
                    self.no_child_left();
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
            self.state = State::Straggling { until };
        }
    }

    /// Where there are no subreapers, members of the main process's group may still run.
    fn no_child_left(&mut self) {
        self.children_gone = true;
        if cfg!(target_os = "linux") || self.tree.alive() == 0 {
            self.state = State::Over { survivors: 0 };
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
            Ok(0) => {
                self.harness_gone = true;
                self.kill(now);
            }
            Ok(count) => self.hear(&words[..count], now),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(_) => {
                self.harness_gone = true;
                self.kill(now);
            }
        }
        Ok(())
    }

    fn hear(&mut self, words: &[u8], now: Instant) {
        for word in words {
            match *word {
                STOP => self.stop(Stopped::Cancelled, now),
                KILL => {
                    self.stop(Stopped::Cancelled, now);
                    self.kill(now);
                }
                _ => {}
            }
        }
    }

    /// Does what is due.
    fn advance(&mut self, now: Instant) {
        if self.is_over() {
            return;
        }
        if now >= self.sampler.next() {
            let watched = self.limit.watched_bytes();
            let resident = self.sampler.look(watched.is_some());
            let over = match (resident, watched) {
                (Some(resident), Some(limit)) if resident > limit => {
                    Some(format!("its processes held {resident} bytes, the limit is {limit}"))
                }
                // The kernel may have killed only one process of the tree.
                _ => self.limit.evidence(),
            };
            if let Some(evidence) = over {
                // No grace: it would go on growing.
                self.stop(Stopped::OverMemoryLimit(evidence), now);
                self.kill(now);
            }
        }
        match self.state {
            State::Running if self.deadline.is_some_and(|deadline| now >= deadline) => {
                self.stop(Stopped::TimedOut, now);
            }
            State::Straggling { until } if now >= until => {
                self.stragglers.stopped = true;
                self.tree.terminate();
                self.state = State::Stopping { until: now + TERM_GRACE };
            }
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

    /// Asks the tree to end, if nobody has yet.
    fn stop(&mut self, why: Stopped, now: Instant) {
        match self.state {
            State::Running => self.stopped = Some(why),
            State::Straggling { .. } => self.stragglers.stopped = true,
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

    fn report(
        self,
        oom_before: OomKills,
        cgroup_peak: Reading<u64>,
        events: EventCounts,
    ) -> Report {
        let survivors = match self.state {
            State::Over { survivors } => survivors,
            _ => 0,
        };
        let ended_at = self.ended.map_or(self.last_reaped, |(_, at)| at);
        let span = Span { main: ended_at - self.start, tree: self.last_reaped - self.start };
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
                let own = self.limit.evidence();
                own.or_else(|| oom_before.evidence(OomKills::read(), foreign))
            }
        };
        let seen = self.sampler.finish();
        let meters = Meters::of_children(span, &seen, survivors, cgroup_peak, events);
        let limited = !matches!(self.limit, Enforced::Nothing);
        Report {
            exit,
            out_of_memory,
            memory_limited_by: limited.then(|| self.limit.to_string()),
            address_space_bytes: address_space_bytes(self.limit),
            meters,
            stragglers: self.stragglers,
            survivors,
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
