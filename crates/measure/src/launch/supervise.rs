//! The harness's side of a launch: feeds the launcher, reads the trainer's output, passes on a
//! request to stop, and cleans up if the launcher itself is lost.

use super::cancel::CancelToken;
use super::job::{Job, LaunchError, Stream, withhold};
use super::outcome::{Exit, KILL, Message, Outcome, STOP};
use super::output::Lines;
use super::tree::{Foster, KILL_PATIENCE};
use super::watch::TERM_GRACE;
use crate::group;
use crate::process::LAUNCHER_ARG;
use nix::sys::signal::{SigSet, SigmaskHow};
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// The launcher has the clock. Only if it is silent for so much longer than the slowest stop can
/// take does the harness act itself.
const LAUNCHER_PATIENCE: Duration =
    Duration::from_secs(TERM_GRACE.as_secs() + KILL_PATIENCE.as_secs() + 10);
/// Between two looks whether there is a request to stop.
const CANCEL_INTERVAL: Duration = Duration::from_millis(50);
/// The size of a read from a stream: as much as a pipe holds by default.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks that wait to be taken. A trainer that writes faster than its lines are understood has to wait.
const CHUNKS: usize = 4;
/// Once all writers are dead the end of a stream comes at once, unless one has survived.
const END_PATIENCE: Duration = Duration::from_secs(1);
/// A message of the launcher is a few kilobytes; one that never ends must not fill the memory.
const LONGEST_MESSAGE: u64 = 1024 * 1024;

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
    static FIRST: Once = Once::new();
    FIRST.call_once(group::sweep);
    let mut launch = Launch::start(job)?;
    let told = launch.watch(job, on_line, cancel);
    launch.finish(told, on_line, cancel)
}

/// A launcher at work.
struct Launch {
    process: Child,
    foster: Option<Foster>,
    socket: UnixStream,
    heard: Receiver<Heard>,
    /// The trainer's main process.
    main: Option<i32>,
    /// By the [`Stream`].
    lines: [Lines; 2],
}

/// The messages of the reading threads.
enum Heard {
    Output(Stream, Vec<u8>),
    Launcher(Message),
    /// The launcher says no more, and why.
    Lost(String),
}

/// The last message of the launcher, or its end.
type Told = Result<Box<Outcome>, String>;

impl Launch {
    fn start(job: &Job) -> Result<Launch, LaunchError> {
        let (socket, theirs) = UnixStream::pair().map_err(LaunchError::Channel)?;
        let mut command = Command::new(&job.launcher_exe);
        command.arg(LAUNCHER_ARG).stdin(Stdio::from(OwnedFd::from(theirs)));
        withhold(&mut command).stdout(Stdio::piped()).stderr(Stdio::piped());
        let spawned = with_signals_blocked(|| Foster::start(|| command.spawn()));
        // It holds the launcher's end of the socket, which must close with the launcher.
        drop(command);
        let (mut process, foster) =
            spawned.map_err(|error| LaunchError::Spawn { exe: job.launcher_exe.clone(), error })?;
        let (Some(stdout), Some(stderr)) = (process.stdout.take(), process.stderr.take()) else {
            unreachable!("both were asked for as pipes");
        };
        let (sender, heard) = sync_channel(CHUNKS);
        let lines = Default::default();
        let mut launch = Launch { process, foster, socket, heard, main: None, lines };
        let begin = || {
            launch.request(job)?;
            let socket = launch.socket.try_clone()?;
            in_thread(&sender, move |sender| listen(socket, sender))?;
            in_thread(&sender, move |sender| read(stdout, Stream::Stdout, sender))?;
            in_thread(&sender, move |sender| read(stderr, Stream::Stderr, sender))
        };
        begin().map_err(LaunchError::Channel)?;
        Ok(launch)
    }

    /// A launcher that has died already is noticed later, with all else that is known of it.
    fn request(&mut self, job: &Job) -> io::Result<()> {
        let job = Job { program: from_here(&job.program)?, ..job.clone() };
        let mut line = serde_json::to_vec(&job)?;
        line.push(b'\n');
        // Something that is no launcher may never read.
        self.socket.set_write_timeout(Some(LAUNCHER_PATIENCE))?;
        let _ = self.socket.write_all(&line);
        Ok(())
    }

    fn watch(
        &mut self,
        job: &Job,
        on_line: &mut dyn FnMut(Stream, &str),
        cancel: &CancelToken,
    ) -> Told {
        let mut silent_at = job.timeout.map(|timeout| Instant::now() + timeout + LAUNCHER_PATIENCE);
        let mut requests_passed_on = 0;
        loop {
            while requests_passed_on < cancel.requests().min(2) {
                let word = if requests_passed_on == 0 { STOP } else { KILL };
                // A launcher that does not listen any more is found out below.
                let _ = self.socket.write(&[word]);
                requests_passed_on += 1;
                let silent = Instant::now() + LAUNCHER_PATIENCE;
                silent_at = Some(silent_at.map_or(silent, |at| at.min(silent)));
            }
            match self.heard.recv_timeout(CANCEL_INTERVAL) {
                Ok(Heard::Output(stream, chunk)) => self.feed(stream, &chunk, on_line),
                Ok(Heard::Launcher(Message::Started { main })) => self.main = Some(main),
                Ok(Heard::Launcher(Message::Ended(outcome))) => return Ok(outcome),
                Ok(Heard::Lost(reason)) => return Err(reason),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err("nobody listens".to_owned()),
            }
            if silent_at.is_some_and(|at| Instant::now() >= at) {
                return Err("the launcher does not answer".to_owned());
            }
        }
    }

    fn feed(&mut self, stream: Stream, chunk: &[u8], on_line: &mut dyn FnMut(Stream, &str)) {
        self.lines[stream as usize].feed(chunk, &mut |line| on_line(stream, line));
    }

    fn finish(
        mut self,
        told: Told,
        on_line: &mut dyn FnMut(Stream, &str),
        cancel: &CancelToken,
    ) -> Result<Outcome, LaunchError> {
        // Its work is done, or it hangs. Waiting for it after SIGKILL takes no time.
        let _ = self.process.kill();
        self.process.wait().map_err(LaunchError::Channel)?;
        let outcome = told.map_or_else(|reason| self.lost(reason, cancel), |outcome| *outcome);
        let give_up = Instant::now() + END_PATIENCE;
        while let left = give_up.saturating_duration_since(Instant::now())
            && let Ok(heard) = self.heard.recv_timeout(left)
        {
            if let Heard::Output(stream, chunk) = heard {
                self.feed(stream, &chunk, on_line);
            }
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.lines[stream as usize].finish(&mut |line| on_line(stream, line));
        }
        let [stdout, stderr] = &self.lines;
        Ok(Outcome { stdout_tail: stdout.tail(), stderr_tail: stderr.tail(), ..outcome })
    }

    fn lost(&self, reason: String, cancel: &CancelToken) -> Outcome {
        let leftovers = |foster: &Foster| foster.kill_leftovers(self.main);
        let (found, survivors) = self.foster.as_ref().map_or((0, 0), leftovers);
        group::sweep();
        let reason = match found {
            0 => reason,
            _ => format!("{reason}; {found} processes that it left were found and killed"),
        };
        let exit = if cancel.is_cancelled() { Exit::Cancelled } else { Exit::Lost(reason.clone()) };
        Outcome { survivors, ..Outcome::unmeasured(exit, &reason) }
    }
}

/// If `on_line` panics: the launcher notices that the socket closes, kills the tree and ends.
impl Drop for Launch {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let _ = self.process.wait();
    }
}

/// A thread that reads and sends. It ends with what it reads, or when nobody takes what it sends.
fn in_thread(
    sender: &SyncSender<Heard>,
    work: impl FnOnce(&SyncSender<Heard>) + Send + 'static,
) -> io::Result<()> {
    let sender = sender.clone();
    std::thread::Builder::new().stack_size(256 * 1024).spawn(move || work(&sender)).map(drop)
}

fn read(mut pipe: impl Read, stream: Stream, sender: &SyncSender<Heard>) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match pipe.read(&mut chunk) {
            Ok(count @ 1..)
                if sender.send(Heard::Output(stream, chunk[..count].into())).is_ok() => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

/// Takes what the launcher says, a line each.
fn listen(socket: UnixStream, sender: &SyncSender<Heard>) {
    let mut reader = BufReader::new(socket);
    loop {
        let mut line = Vec::new();
        let heard = match (&mut reader).take(LONGEST_MESSAGE).read_until(b'\n', &mut line) {
            Ok(0) => Heard::Lost("the launcher has died".to_owned()),
            Ok(_) => serde_json::from_slice(&line).map_or_else(
                |error| Heard::Lost(format!("the launcher's answer is not understood: {error}")),
                Heard::Launcher,
            ),
            Err(error) => Heard::Lost(format!("launcher: {error}")),
        };
        let last = matches!(heard, Heard::Lost(_) | Heard::Launcher(Message::Ended(_)));
        if sender.send(heard).is_err() || last {
            return;
        }
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

/// A path with a folder in it is meant from here; a bare name is searched for in `PATH`.
fn from_here(program: &OsString) -> io::Result<OsString> {
    match program.as_encoded_bytes().contains(&b'/') {
        true => std::path::absolute(Path::new(program)).map(Into::into),
        false => Ok(program.clone()),
    }
}
