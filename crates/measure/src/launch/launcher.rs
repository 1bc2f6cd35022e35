//! The launcher: the process between the harness and one trainer.
//!
//! It stays small, since its own peak memory is the least that can be measured of its child, and it
//! has no other children, so that what the kernel adds up for its children is the trainer's tree.

use super::job::Job;
use super::limit::Memory;
use super::outcome::{Exit, Message, Outcome};
use super::start::start_trainer;
use super::tree::Tree;
use super::watch::Watch;
use crate::meter::Events;
use nix::sys::signal::SigSet;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

/// The main function of the launcher: the harness's binary calls it if its first argument is
/// [`super::LAUNCHER_ARG`]. Only [`super::run`] starts it, with a socket as its standard input.
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
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::default())?;
    }
    SigSet::empty().thread_set_mask()?;
    let tree = Tree::adopt()?;
    let harness = UnixStream::from(rustix::stdio::stdin().try_clone_to_owned()?);
    let mut words = BufReader::new(harness.try_clone()?);
    let mut line = String::new();
    words.read_line(&mut line)?;
    let job: Job = serde_json::from_str(&line)?;
    if let Some(outcome) = supervise(&job, words, tree, &harness)? {
        send(&harness, &Message::Ended(Box::new(outcome)))?;
    }
    Ok(())
}

fn send(mut harness: &UnixStream, message: &Message) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    harness.write_all(&line)
}

/// `None` if the harness has gone. The control group goes even when nobody wants its figure any more.
fn supervise(
    job: &Job,
    words: BufReader<UnixStream>,
    mut tree: Tree,
    harness: &UnixStream,
) -> io::Result<Option<Outcome>> {
    let not_started = |reason| {
        let why = "the trainer was not started";
        Ok(Some(Outcome::unmeasured(Exit::NotStarted(reason), why)))
    };
    let mut memory = match Memory::prepare(job.memory_limit) {
        Ok(memory) => memory,
        Err(reason) => return not_started(reason),
    };
    let events = Events::open();
    let start = Instant::now();
    let main = match start_trainer(job, &mut memory) {
        Ok(main) => main,
        Err(reason) => return not_started(reason),
    };
    tree.set_main(main);
    // From here on there is no way out but through the end of the tree.
    let mut watch = Watch::new(main, start, job.timeout, &memory, &tree);
    // A harness that has died since is noticed by listening.
    let _ = send(harness, &Message::Started { main });
    let wanted = watch.until_over(words).inspect_err(|_| tree.kill_until_gone())?;
    if !wanted {
        return Ok(None);
    }
    let mut outcome = watch.outcome();
    outcome.meters.set("cgroup_peak_bytes", memory.peak());
    events.read().into_iter().for_each(|(name, reading)| outcome.meters.set(name, reading));
    Ok(Some(outcome))
}
