//! The harness's side of a launch: feeds the launcher, reads the trainer's output, passes on a
//! request to stop, and cleans up if the launcher itself is lost.

use super::launcher::{KILL_PATIENCE, TERM_GRACE};
use super::output::Lines;
use super::tree::{self, kill_leftovers};
use super::wire::{KILL, Message, Report, Request, STOP};
use super::{CancelToken, Exit, Job, LAUNCHER_ARG, LaunchError, Outcome, Stragglers, Stream};
use crate::meter::Meters;
use nix::sys::signal::{SigSet, SigmaskHow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The launcher has the clock. Only if it is silent for so much longer than the slowest stop can
/// take does the harness act itself.
const LAUNCHER_PATIENCE: Duration =
    Duration::from_secs(TERM_GRACE.as_secs() + KILL_PATIENCE.as_secs() + 10);
/// After the first request to stop the harness looks this often whether there is a second.
const CANCEL_INTERVAL: Duration = Duration::from_millis(50);
/// More than a pipe holds: what may still be read once all writers are dead.
const LEFT_IN_PIPE: u64 = 4 * 1024 * 1024;
/// A message of the launcher is a few kilobytes; one that never ends must not fill the memory.
const LONGEST_MESSAGE: usize = 1024 * 1024;

/// Starts the trainer and returns when nothing of its tree is left. `on_line` gets every line of
/// both streams as the trainer writes them: without its end, invalid UTF-8 replaced, cut after
/// 64 KiB; a carriage return ends a line too. The trainer's standard input is empty.
///
/// When the main process has ended, other processes of the tree have 5 s left (less if the time-out
/// comes first), then SIGTERM, and 3 s later SIGKILL. At the time-out, and when `cancel` is called,
/// the whole tree gets SIGTERM at once and SIGKILL 3 s later.
///
/// # Errors
/// If the launcher cannot be started. Whatever the trainer does is an [`Outcome`].
pub fn run(
    job: &Job,
    on_line: &mut dyn FnMut(Stream, &str),
    cancel: &CancelToken,
) -> Result<Outcome, LaunchError> {
    let mut launch = Launch::start(job)?;
    let verdict = launch.watch(job, on_line, cancel);
    launch.finish(verdict, on_line, cancel)
}

/// A launcher at work.
struct Launch {
    process: Child,
    /// Tells this launch's processes from all others.
    mark: String,
    socket: UnixStream,
    /// A message of the launcher that has not come to its end yet.
    heard: Vec<u8>,
    /// The trainer's main process.
    main: Option<i32>,
    stdout: Output<ChildStdout>,
    stderr: Output<ChildStderr>,
}

/// What became of the launcher.
enum Verdict {
    Ended(Box<Report>),
    Lost(String),
}

impl Launch {
    fn start(job: &Job) -> Result<Launch, LaunchError> {
        let (socket, theirs) = UnixStream::pair().map_err(LaunchError::Channel)?;
        let mark = new_mark();
        let mut command = Command::new(&job.launcher_exe);
        command.arg(LAUNCHER_ARG).env(tree::MARK, &mark).stdin(Stdio::from(OwnedFd::from(theirs)));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let spawned = with_signals_blocked(|| command.spawn());
        // It holds the launcher's end of the socket, which must close with the launcher.
        drop(command);
        let mut process = spawned
            .map_err(|source| LaunchError::Spawn { exe: job.launcher_exe.clone(), source })?;
        let (Some(stdout), Some(stderr)) = (process.stdout.take(), process.stderr.take()) else {
            unreachable!("both were asked for as pipes");
        };
        let mut launch = Launch {
            process,
            mark,
            socket,
            heard: Vec::new(),
            main: None,
            stdout: Output::new(stdout),
            stderr: Output::new(stderr),
        };
        launch.request(job).map_err(LaunchError::Channel)?;
        Ok(launch)
    }

    /// A launcher that has died already is noticed later, with all else that is known of it.
    fn request(&mut self, job: &Job) -> io::Result<()> {
        let request = Request {
            program: from_here(&job.program)?.into_os_string(),
            args: job.args.clone(),
            env: job.env.clone(),
            cwd: job.cwd.clone().map(PathBuf::into_os_string),
            timeout: job.timeout,
            memory_limit: job.memory_limit,
            cpus: job.cpus.clone(),
        };
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        // Something that is no launcher may never read.
        self.socket.set_write_timeout(Some(LAUNCHER_PATIENCE))?;
        let _ = self.socket.write_all(&line);
        self.socket.set_nonblocking(true)?;
        rustix::io::ioctl_fionbio(&self.stdout.pipe, true)?;
        rustix::io::ioctl_fionbio(&self.stderr.pipe, true)?;
        Ok(())
    }

    fn watch(
        &mut self,
        job: &Job,
        on_line: &mut dyn FnMut(Stream, &str),
        cancel: &CancelToken,
    ) -> Verdict {
        let start = Instant::now();
        let mut silent_at = job.timeout.map(|timeout| start + timeout + LAUNCHER_PATIENCE);
        let mut requests_passed_on = 0;
        loop {
            let requests = cancel.requests().min(2);
            while requests_passed_on < requests {
                let word = if requests_passed_on == 0 { STOP } else { KILL };
                // A launcher that does not listen any more is found out below.
                let _ = self.socket.write(&[word]);
                requests_passed_on += 1;
                let silent = Instant::now() + LAUNCHER_PATIENCE;
                silent_at = Some(silent_at.map_or(silent, |at| at.min(silent)));
            }
            if let Err(error) = self.wait(silent_at, (requests_passed_on == 0).then_some(cancel)) {
                return Verdict::Lost(format!("cannot wait for the launcher: {error}"));
            }
            self.stdout.read(&mut |line| on_line(Stream::Stdout, line));
            self.stderr.read(&mut |line| on_line(Stream::Stderr, line));
            if let Some(verdict) = self.listen() {
                return verdict;
            }
            if silent_at.is_some_and(|at| Instant::now() >= at) {
                return Verdict::Lost("the launcher does not answer".to_owned());
            }
        }
    }

    /// Sleeps until there is something to read, the first request to stop, or a time.
    fn wait(&self, until: Option<Instant>, cancel: Option<&CancelToken>) -> io::Result<()> {
        let mut fds = vec![PollFd::new(&self.socket, PollFlags::IN)];
        if !self.stdout.ended {
            fds.push(PollFd::new(&self.stdout.pipe, PollFlags::IN));
        }
        if !self.stderr.ended {
            fds.push(PollFd::new(&self.stderr.pipe, PollFlags::IN));
        }
        let mut left = until.map(|until| until.saturating_duration_since(Instant::now()));
        match cancel {
            Some(cancel) => fds.push(PollFd::from_borrowed_fd(cancel.wake_fd(), PollFlags::IN)),
            None => left = Some(left.map_or(CANCEL_INTERVAL, |left| left.min(CANCEL_INTERVAL))),
        }
        let timeout = left.map(|left| Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes what the launcher says, if it says anything.
    fn listen(&mut self) -> Option<Verdict> {
        let mut chunk = [0; 4096];
        loop {
            match self.socket.read(&mut chunk) {
                Ok(0) => return Some(Verdict::Lost("the launcher has died".to_owned())),
                Ok(count) => self.heard.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) => return Some(Verdict::Lost(format!("launcher: {error}"))),
            }
            while let Some(end) = memchr::memchr(b'\n', &self.heard) {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(Message::Started { main }) => self.main = Some(main),
                    Ok(Message::Ended(report)) => return Some(Verdict::Ended(report)),
                    Err(error) => return Some(not_understood(&error.to_string())),
                }
            }
            if self.heard.len() > LONGEST_MESSAGE {
                return Some(not_understood("a message without end"));
            }
        }
    }

    fn finish(
        mut self,
        verdict: Verdict,
        on_line: &mut dyn FnMut(Stream, &str),
        cancel: &CancelToken,
    ) -> Result<Outcome, LaunchError> {
        // Its work is done, or it hangs. Waiting for it after SIGKILL takes no time.
        let _ = self.process.kill();
        self.process.wait().map_err(LaunchError::Channel)?;
        let report = match verdict {
            Verdict::Ended(report) => *report,
            Verdict::Lost(reason) => self.lost(reason, cancel),
        };
        // All writers are dead now. Should one have survived, the end never comes: only what is
        // there is read.
        self.stdout.drain(&mut |line| on_line(Stream::Stdout, line));
        self.stderr.drain(&mut |line| on_line(Stream::Stderr, line));
        Ok(Outcome {
            exit: report.exit,
            out_of_memory: report.out_of_memory,
            memory_limited_by: report.memory_limited_by,
            address_space_bytes: report.address_space_bytes,
            meters: report.meters,
            stdout_tail: self.stdout.lines.tail(),
            stderr_tail: self.stderr.lines.tail(),
            stdout_bytes: self.stdout.lines.bytes(),
            stderr_bytes: self.stderr.lines.bytes(),
            stragglers: report.stragglers,
            survivors: report.survivors,
        })
    }

    fn lost(&self, reason: String, cancel: &CancelToken) -> Report {
        let survivors = kill_leftovers(self.process.id(), &self.mark, self.main);
        let meters = Meters::absent(&reason);
        let exit = if cancel.is_cancelled() { Exit::Cancelled } else { Exit::Lost(reason) };
        Report {
            exit,
            out_of_memory: None,
            memory_limited_by: None,
            address_space_bytes: None,
            meters,
            stragglers: Stragglers::default(),
            survivors,
        }
    }
}

/// If `on_line` panics: the launcher notices that the socket closes, kills the tree and ends.
impl Drop for Launch {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let _ = self.process.wait();
    }
}

/// A child inherits what is blocked: until the launcher has left the terminal's session and caught
/// the signals that end programs, a Ctrl-C would end it with its work half done.
fn with_signals_blocked<T>(start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let started = start();
    before.thread_set_mask()?;
    started
}

fn not_understood(what: &str) -> Verdict {
    Verdict::Lost(format!("the launcher's answer is not understood: {what}"))
}

/// A value of its own for each launch of each harness on this machine.
fn new_mark() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let nanoseconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{}.{nanoseconds}.{count}", std::process::id())
}

/// A path with a folder in it is meant from here; a bare name is searched for in `PATH`.
fn from_here(program: &Path) -> io::Result<PathBuf> {
    if program.components().count() > 1 || program.as_os_str().as_encoded_bytes().contains(&b'/') {
        std::path::absolute(program)
    } else {
        Ok(program.to_owned())
    }
}

/// One of the two streams.
struct Output<P> {
    pipe: P,
    lines: Lines,
    ended: bool,
}

impl<P: Read + AsFd> Output<P> {
    fn new(pipe: P) -> Self {
        Output { pipe, lines: Lines::default(), ended: false }
    }

    /// Reads once, so that one stream cannot starve the other or a request to stop. Returns the
    /// number of bytes.
    fn read(&mut self, on_line: &mut dyn FnMut(&str)) -> usize {
        if self.ended {
            return 0;
        }
        // A pipe holds 64 KiB by default.
        let mut chunk = [0; 64 * 1024];
        match self.pipe.read(&mut chunk) {
            Ok(0) => self.ended = true,
            Ok(count) => {
                self.lines.feed(&chunk[..count], on_line);
                return count;
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(_) => self.ended = true,
        }
        0
    }

    fn drain(&mut self, on_line: &mut dyn FnMut(&str)) {
        let mut total = 0;
        while total < LEFT_IN_PIPE {
            match self.read(on_line) {
                0 => break,
                count => total += count as u64,
            }
        }
        self.lines.finish(on_line);
    }
}
