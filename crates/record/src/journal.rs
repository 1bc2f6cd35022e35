//! The journal of an output folder: what was to be run there, and all that came of it. It is the
//! truth; the result files are made from it and can be made again.
//!
//! One file, `journal.jsonl`, a JSON object per line, only ever appended to, each line on the disk
//! before the next thing happens. A run writes [`Began`] with its command line, then [`Ran`] for
//! every training that ended, *before* the result file that holds it, and at last `finished`. So at
//! whatever moment the harness dies, no finished training is lost, and a result file that is missing
//! or old is written again by `--resume`. A line that was cut off by the death is cut away.
//!
//! The open journal is locked: there is one run at a time in a folder. The lock is the kernel's and
//! goes with the process, however it dies. Order in the file is what counts; the times in it are for
//! people, so a clock that jumps changes nothing. When a run begins and no older one is left to be
//! taken up again, the journal begins anew: finished runs are in their result files.

use crate::fingerprint::Fingerprint;
use crate::write::sync_directory;
use crate::{Record, RunIdentity, Status};
use measure::provenance::Moment;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, BufRead, BufReader, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The journal's name in the output folder. Not `.json`: it is no result file.
pub const NAME: &str = "journal.jsonl";
/// Of the lines. A harness that knows only older ones must not take a run up again.
const VERSION: u32 = 1;
/// The one that holds the lock may not have written its name yet: on a busy machine with a slow disk that
/// takes seconds.
const HOLDER_PATIENCE: Duration = Duration::from_secs(10);

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    /// A process has opened the journal.
    Opened(Holder),
    Began(Box<Began>),
    /// A run that had stopped is taken up again; what follows belongs to it.
    Resumed {
        run: String,
    },
    Ran(Box<Ran>),
    Noted {
        note: Value,
    },
    /// All of it is done.
    Finished(At),
    /// It ended before that, in an orderly way.
    Stopped(At),
    /// Of a newer harness.
    #[serde(other)]
    Unknown,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct At {
    utc: String,
    why: Option<String>,
}

impl At {
    fn now(why: Option<&str>) -> At {
        At { utc: Moment::now().utc, why: why.map(str::to_owned) }
    }
}

/// The process that has a journal open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Holder {
    pub pid: u32,
    pub host: String,
    pub utc: String,
}

/// For `another run is at work there: ...`.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on {:?}, since {:?}", self.pid, self.host, self.utc)
    }
}

impl Holder {
    fn own() -> Holder {
        let host = sysinfo::System::host_name().unwrap_or_default();
        Holder { pid: std::process::id(), host, utc: Moment::now().utc }
    }
}

/// The beginning of a run: all that it takes to go on with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Began {
    pub version: u32,
    pub run: RunIdentity,
    /// The words after `trainmark run`.
    pub words: Vec<String>,
    /// The suite file, `None` for the built-in one, and the folder of the data: relative words are
    /// meant from wherever the run began.
    pub suite: Option<PathBuf>,
    pub data: PathBuf,
    /// How many combinations the plan has.
    pub combinations: usize,
}

impl Began {
    pub fn new(
        run: RunIdentity,
        words: Vec<String>,
        suite: Option<PathBuf>,
        data: PathBuf,
        combinations: usize,
    ) -> Began {
        Began { version: VERSION, run, words, suite, data, combinations }
    }
}

/// What came of one training.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ran {
    pub identity: Fingerprint,
    /// The result file's name.
    pub file: String,
    /// Of one sample, or of none and a reason.
    pub result: Record,
}

/// A run that the journal tells of.
#[derive(Clone, Debug)]
pub struct PastRun {
    pub began: Began,
    pub ran: Vec<Ran>,
    pub notes: Vec<Value>,
    finished: bool,
}

impl PastRun {
    /// For people: when it began and how far it came.
    pub fn progress(&self) -> String {
        let mut done: Vec<&Fingerprint> = Vec::new();
        for ran in &self.ran {
            if ran.result.status != Status::Interrupted && !done.contains(&&ran.identity) {
                done.push(&ran.identity);
            }
        }
        let (begun, all) = (done.len(), self.began.combinations);
        format!("begun {:?}, {begun} of {all} combinations have results", self.began.run.started)
    }
}

/// Why a journal cannot be used: one line, after `--out DIR: `.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("another run is at work there: {0}; wait for it, or name another folder")]
    Locked(String),
    #[error("the journal {NAME} cannot be written: {0}")]
    Unusable(#[from] io::Error),
}

/// An output folder's journal, open and locked.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    /// Bytes of whole lines.
    len: u64,
    runs: Vec<PastRun>,
    /// What had to be left out or done without, for people.
    pub warnings: Vec<String>,
}

impl Journal {
    /// Opens a folder's journal, makes it if there is none, and locks it until it is dropped.
    ///
    /// # Errors
    /// If another process has it, or the folder or the disk refuses.
    pub fn open(folder: &Path) -> Result<Journal, JournalError> {
        let path = folder.join(NAME);
        let is_new = !path.exists();
        let mut file = File::options().read(true).append(true).create(true).open(&path)?;
        let mut warnings = Vec::new();
        lock(&file, &path, &mut warnings)?;
        if is_new {
            sync_directory(folder)?;
        }
        let mut scan = Scan::default();
        scan.read(&mut file)?;
        if scan.damaged > 0 {
            let lines = scan.damaged;
            warnings.push(format!("{NAME}: {lines} lines cannot be understood and are left out"));
        }
        let mut journal = Journal { file, path, len: scan.len, runs: scan.runs, warnings };
        journal.cut()?;
        journal.append(&Line::Opened(Holder::own()))?;
        Ok(journal)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The latest run that was not finished.
    pub fn unfinished(&self) -> Option<&PastRun> {
        self.runs.iter().rev().find(|run| !run.finished)
    }

    /// A new run begins. If no older one is left to be taken up again, so does the journal.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn begin(&mut self, mut began: Began) -> io::Result<RunIdentity> {
        if self.unfinished().is_none() && self.len > 0 {
            (self.runs, self.len) = (Vec::new(), 0);
            self.cut()?;
            self.append(&Line::Opened(Holder::own()))?;
        }
        // Two processes of one id in one second: clocks jump, and ids come again.
        let taken = |id: &str| self.runs.iter().any(|run| run.began.run.id == id);
        let first = began.run.id.clone();
        let mut number = 2;
        while taken(&began.run.id) {
            began.run.id = format!("{first}-{number}");
            number += 1;
        }
        let run = began.run.clone();
        self.append(&Line::Began(Box::new(began)))?;
        Ok(run)
    }

    /// A run that had stopped goes on.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn resume(&mut self, run: &str) -> io::Result<()> {
        self.append(&Line::Resumed { run: run.to_owned() })
    }

    /// A training has ended. It is on the disk when this returns.
    ///
    /// # Errors
    /// If the disk refuses; the journal is as it was then.
    pub fn ran(&mut self, identity: Fingerprint, file: &str, result: Record) -> io::Result<()> {
        let file = file.to_owned();
        self.append(&Line::Ran(Box::new(Ran { identity, file, result })))
    }

    /// Keeps an executor's note.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn note(&mut self, note: Value) -> io::Result<()> {
        self.append(&Line::Noted { note })
    }

    /// The run is done.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn finish(&mut self) -> io::Result<()> {
        self.append(&Line::Finished(At::now(None)))
    }

    /// The run stops here and can be taken up again.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn stop(&mut self, why: &str) -> io::Result<()> {
        self.append(&Line::Stopped(At::now(Some(why))))
    }

    fn append(&mut self, record: &Line) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        match self.file.write_all(&line).and_then(|()| self.file.sync_data()) {
            Ok(()) => {
                self.len += line.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Half a line would be cut away at the next opening; better at once.
                let _ = self.cut();
                Err(error)
            }
        }
    }

    /// Removes whatever stands behind the last whole line.
    fn cut(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() > self.len {
            self.file.set_len(self.len)?;
            self.file.sync_data()?;
        }
        Ok(())
    }
}

/// Gives the lock back for all copies of the descriptor: a child that another thread is just starting has
/// one until it executes its program, and closing ours alone would leave the folder locked for that long.
impl Drop for Journal {
    fn drop(&mut self) {
        // Closing it does the rest.
        let _ = self.file.unlock();
    }
}

/// Locks the journal. One whose holder is gone is waited for: a child that was just being started
/// may hold on to it for a moment longer.
fn lock(file: &File, path: &Path, warnings: &mut Vec<String>) -> Result<(), JournalError> {
    let give_up = std::time::Instant::now() + HOLDER_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => {}
            // Some network file systems have no locks.
            Err(TryLockError::Error(error)) => {
                warnings.push(format!(
                    "{NAME} cannot be locked ({error}): see to it that no other run uses this folder"
                ));
                return Ok(());
            }
        }
        let mut scan = Scan::default();
        let read = File::open(path).and_then(|mut file| scan.read(&mut file));
        match scan.holder {
            Some(holder) if read.is_ok() && holder.may_be_alive() => {
                return Err(JournalError::Locked(holder.to_string()));
            }
            _ if std::time::Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(20));
            }
            _ => return Err(JournalError::Locked("a process that has not said which".to_owned())),
        }
    }
}

impl Holder {
    /// Not so if it ran on this machine and is gone: then it is the one before.
    fn may_be_alive(&self) -> bool {
        let here = sysinfo::System::host_name().unwrap_or_default() == self.host;
        !here || !cfg!(target_os = "linux") || Path::new(&format!("/proc/{}", self.pid)).exists()
    }
}

/// What a journal says.
#[derive(Default)]
struct Scan {
    /// Bytes up to the end of the last whole line.
    len: u64,
    runs: Vec<PastRun>,
    /// The run that lines belong to, as an index into `runs`.
    current: Option<usize>,
    holder: Option<Holder>,
    damaged: usize,
}

impl Scan {
    fn read(&mut self, file: &mut File) -> io::Result<()> {
        file.rewind()?;
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let mut line = Vec::new();
        loop {
            line.clear();
            reader.read_until(b'\n', &mut line)?;
            if line.pop() != Some(b'\n') {
                // The end, or a line that was cut off by the death of its writer.
                return Ok(());
            }
            self.len += line.len() as u64 + 1;
            match serde_json::from_slice(&line) {
                Ok(record) => self.take(record),
                Err(_) => self.damaged += 1,
            }
        }
    }

    fn take(&mut self, record: Line) {
        let current = self.current.and_then(|index| self.runs.get_mut(index));
        match (record, current) {
            (Line::Opened(holder), _) => self.holder = Some(holder),
            (Line::Began(began), _) => {
                let newer = began.version > VERSION;
                self.damaged += usize::from(newer);
                let run = PastRun {
                    began: *began,
                    ran: Vec::new(),
                    notes: Vec::new(),
                    // What this harness does not understand it cannot take up again.
                    finished: newer,
                };
                self.runs.push(run);
                self.current = Some(self.runs.len() - 1);
            }
            (Line::Resumed { run }, _) => {
                self.current = self.runs.iter().position(|known| known.began.run.id == run);
            }
            (Line::Ran(ran), Some(run)) => run.ran.push(*ran),
            (Line::Noted { note }, Some(run)) => run.notes.push(note),
            (Line::Finished(_), Some(run)) => run.finished = true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn began(id: &str, started: &str) -> Began {
        let run = RunIdentity { id: id.into(), started: started.into(), ..RunIdentity::default() };
        Began::new(run, vec!["--quick".into()], None, "data".into(), 3)
    }

    fn identity(model: &str) -> Fingerprint {
        Fingerprint { model: model.into(), ..Fingerprint::default() }
    }

    #[test]
    fn what_was_written_is_read_again_and_a_finished_run_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path()).unwrap();
        assert!(journal.unfinished().is_none());
        journal.begin(began("a", "2026")).unwrap();
        journal.ran(identity("mlp"), "x.json", Record::default()).unwrap();
        journal.note(Value::from(7)).unwrap();
        drop(journal);
        let mut journal = Journal::open(folder.path()).unwrap();
        let run = journal.unfinished().unwrap();
        assert_eq!((run.ran.len(), run.ran[0].file.as_str()), (1, "x.json"));
        assert_eq!((run.began.words.len(), &run.notes), (1, &vec![Value::from(7)]));
        assert_eq!(run.progress(), "begun \"2026\", 1 of 3 combinations have results");
        journal.resume("a").unwrap();
        journal.finish().unwrap();
        drop(journal);
        let mut journal = Journal::open(folder.path()).unwrap();
        assert!(journal.unfinished().is_none());
        journal.begin(began("b", "2026")).unwrap();
        let text = std::fs::read_to_string(journal.path()).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn a_journal_cut_at_any_byte_keeps_its_whole_lines_and_takes_new_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let mut journal = Journal::open(folder.path()).unwrap();
        journal.begin(began("a", "2026")).unwrap();
        for model in ["mlp", "cnn", "attention"] {
            journal.ran(identity(model), "x.json", Record::default()).unwrap();
        }
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        // Each line's last bytes and first ones, and some in the middle: each opening waits for the disk.
        let near_an_end =
            |cut: &usize| whole[cut.saturating_sub(2)..(cut + 2).min(whole.len())].contains(&b'\n');
        for cut in (0..=whole.len()).filter(|cut| cut % 97 == 0 || near_an_end(cut)) {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let lines = whole[..cut].iter().filter(|&&byte| byte == b'\n').count();
            let mut journal = Journal::open(folder.path()).unwrap();
            assert_eq!(journal.warnings, Vec::<String>::new());
            let found = journal.unfinished().map(|run| run.ran.len());
            assert_eq!(found, lines.checked_sub(2), "cut after {cut} bytes");
            journal.begin(began("b", "2026")).unwrap();
            drop(journal);
            let journal = Journal::open(folder.path()).unwrap();
            assert_eq!(journal.unfinished().unwrap().began.run.id, "b");
        }
    }

    #[test]
    fn a_damaged_line_is_left_out_loudly_and_zeros_at_the_end_are_cut() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path()).unwrap();
        journal.begin(began("a", "2026")).unwrap();
        journal.file.write_all(b"garbage \xff\n\0\0\0\0").unwrap();
        drop(journal);
        let journal = Journal::open(folder.path()).unwrap();
        assert!(journal.warnings[0].contains("1 lines"), "{:?}", journal.warnings);
        assert!(journal.unfinished().is_some());
        let text = std::fs::read(journal.path()).unwrap();
        assert!(!text.contains(&0));
    }

    #[test]
    fn a_dropped_journal_is_free_though_a_child_still_has_a_copy_of_its_descriptor() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let _of_a_child_before_its_exec = journal.file.try_clone().unwrap();
        drop(journal);
        assert!(Journal::open(folder.path()).is_ok());
    }

    #[test]
    fn a_second_process_is_told_who_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let _journal = Journal::open(folder.path()).unwrap();
        let error = Journal::open(folder.path()).unwrap_err().to_string();
        let own = format!("another run is at work there: process {} on ", std::process::id());
        assert!(error.starts_with(&own), "{error}");
    }

    #[test]
    fn a_clock_that_jumps_changes_neither_the_order_nor_the_identity_of_runs() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path()).unwrap();
        journal.begin(began("same", "2099-01-01T00:00:00Z")).unwrap();
        drop(journal);
        let mut journal = Journal::open(folder.path()).unwrap();
        // Years earlier, and yet the latest; by chance of the same second and process id.
        let run = journal.begin(began("same", "1970-01-01T00:00:00Z")).unwrap();
        assert_eq!(run.id, "same-2");
        drop(journal);
        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!(journal.unfinished().unwrap().began.run.id, "same-2");
    }
}
