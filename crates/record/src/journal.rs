//! The journal of an output folder: the runs that began there, and all their results. It is the truth; the result
//! files are made from it and can be made again.
//!
//! One file, `journal.jsonl`, a JSON object per line, only ever appended to, each line on the disk
//! before the next thing happens. A run writes [`Began`] with its command line, then [`Ran`] for
//! every training that ended, *before* the result file that holds it, and at last `finished`. So at
//! whatever moment the harness dies, no finished training is lost, and a result file that is missing
//! or old is written again by `--resume`.
//!
//! Each line says of which run, row and round it is, so that no damage to one line moves another into the
//! wrong run, and begins with a checksum of the rest. A line that is damaged is named and left out; one that
//! stands there twice counts once. Nothing that was not understood is ever overwritten: before a journal begins
//! anew, one with damaged lines is copied to `journal.jsonl.damaged`. Only a last line that is
//! cut off, as by its writer's death, is named and cut away.
//!
//! The open journal is locked: there is one run at a time in a folder. The lock is the kernel's and
//! goes with the process, however it dies. Order in the file is what counts; the times in it are for
//! people, so a clock that jumps changes nothing. When a run begins and no older one is left to be
//! taken up again, the journal begins anew: finished runs are in their result files.

use crate::fingerprint::Fingerprint;
use crate::number::{count, first_few};
use crate::{Record, RunIdentity, Status};
use files::Kind;
use measure::provenance::{Moment, sha256_of_bytes};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeSet;
use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The journal's name in the output folder. Not `.json`: it is no result file.
pub const NAME: &str = "journal.jsonl";
/// The version of the lines. A run whose lines have another one is not continued.
const VERSION: u32 = 3;
/// The beginning of each line; the checksum's digits and the rest follow.
const CHECK: &str = "{\"check\":\"";
/// Digits of the checksum, of the line's SHA-256 from behind it to the end.
const DIGITS: usize = 16;
/// A longer line is none of ours.
const LONGEST_LINE: u64 = 16 << 20;
/// Damaged lines whose numbers are named.
const NAMED: usize = 5;
/// The one that holds the lock may not have written its name yet: on a busy machine with a slow disk that
/// takes seconds.
const HOLDER_PATIENCE: Duration = Duration::from_secs(10);

/// A line, behind its checksum. What an event is of is read once its name is known.
#[derive(Serialize, Deserialize)]
struct Entry {
    /// `None` of what is no run's.
    run: Option<String>,
    /// The row and round of a training.
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    round: Option<u32>,
    event: Event,
    of: Box<RawValue>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Event {
    /// A process has opened the journal: a [`Holder`].
    Opened,
    /// A [`Began`].
    Began,
    /// A run that had stopped continues.
    Resumed,
    /// A [`Ran`].
    Ran,
    /// All of it is done.
    Finished,
    /// It ended before that, in an orderly way.
    Stopped,
    /// A note of an older build's for itself.
    Noted,
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

impl Entry {
    /// With its checksum and its end.
    fn line(&self) -> io::Result<Vec<u8>> {
        let text = serde_json::to_string(self)?;
        let rest = format!("\",{}\n", &text[1..]);
        Ok(format!("{CHECK}{}{rest}", check_of(rest.trim_end().as_bytes())).into_bytes())
    }

    /// A line without its end; `None` if it is damaged, or no line of ours.
    fn parse(line: &[u8]) -> Option<Entry> {
        let (check, rest) = line.strip_prefix(CHECK.as_bytes())?.split_at_checked(DIGITS)?;
        if check_of(rest).as_bytes() != check {
            return None;
        }
        serde_json::from_slice(line).ok()
    }

    fn of<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(self.of.get()).ok()
    }
}

fn check_of(rest: &[u8]) -> String {
    sha256_of_bytes(rest)[..DIGITS].to_owned()
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
    /// The suite as it was: the file may change before the run goes on.
    #[serde(default)]
    pub suite_text: String,
    pub data: PathBuf,
    /// How many rows the plan has.
    pub rows: usize,
}

impl Began {
    pub fn new(
        run: RunIdentity,
        words: Vec<String>,
        (suite, suite_text): (Option<PathBuf>, String),
        data: PathBuf,
        rows: usize,
    ) -> Began {
        Began { version: VERSION, run, words, suite, suite_text, data, rows }
    }
}

/// The result of one training.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ran {
    /// The row, as an index into the plan, and the round; none of what could not be trained.
    #[serde(skip)]
    pub row: usize,
    #[serde(skip)]
    pub round: Option<u32>,
    pub identity: Fingerprint,
    /// The result file's name.
    pub file: String,
    /// A record with one sample, or with none and a reason.
    pub result: Record,
}

/// A run that the journal tells of.
#[derive(Clone, Debug)]
pub struct PastRun {
    pub began: Began,
    pub ran: Vec<Ran>,
    finished: bool,
}

impl PastRun {
    /// For people: when it began and how far it came.
    pub fn progress(&self) -> String {
        let done = || self.ran.iter().filter(|ran| ran.result.status != Status::Interrupted);
        let taken = done().filter(|ran| !ran.result.samples.is_empty()).count();
        let begun = done().map(|ran| ran.row).collect::<BTreeSet<usize>>().len();
        let (taken, all, started) =
            (count(taken, "sample"), self.began.rows, &self.began.run.started);
        format!("begun {started}, {taken}, of {begun} of {all} rows")
    }

    /// Whether there is such a training already. What was interrupted or could not be trained may be tried again.
    fn has(&self, new: &Ran) -> bool {
        let counts =
            |ran: &Ran| !ran.result.samples.is_empty() && ran.result.status != Status::Interrupted;
        let same = |ran: &Ran| {
            (ran.row, ran.round) == (new.row, new.round) && ran.identity == new.identity
        };
        counts(new) && self.ran.iter().any(|ran| counts(ran) && same(ran))
    }
}

/// Why a journal cannot be used: one line, after `--out DIR: `.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("another run is at work there: {0}; wait for it, or name another folder")]
    Locked(String),
    #[error("the journal {NAME} cannot be written: {0}")]
    Unusable(io::Error),
    #[error("{NAME} has {0}, so it is not a journal of trainmark; move it away")]
    TooLarge(String),
}

impl From<io::Error> for JournalError {
    fn from(error: io::Error) -> JournalError {
        JournalError::Unusable(error)
    }
}

/// An output folder's journal, open and locked.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    /// Bytes of whole lines.
    len: u64,
    runs: Vec<PastRun>,
    /// The run that is at work.
    run: Option<String>,
    /// Whether something in it was not understood.
    damaged: bool,
    /// Warnings for people: lines that were left out, locks that are missing.
    pub warnings: Vec<String>,
}

impl Journal {
    /// Opens a folder's journal, makes it if there is none, and locks it until it is dropped.
    ///
    /// # Errors
    /// If another process has it, a link has its name, or the folder or the disk refuses.
    pub fn open(folder: &Path) -> Result<Journal, JournalError> {
        let path = folder.join(NAME);
        let is_new = !path.exists();
        let mut file = files::append(&path)?;
        let mut warnings = Vec::new();
        lock(&file, &path, &mut warnings)?;
        if is_new {
            files::sync_folder(folder)?;
        }
        let bytes = file.metadata()?.len();
        if bytes > Kind::JOURNAL.most_bytes {
            return Err(JournalError::TooLarge(files::size(bytes)));
        }
        let mut scan = Scan::default();
        scan.read(&mut file)?;
        warnings.extend(scan.warnings());
        let damaged = !(scan.damaged.is_empty() && scan.strangers == 0);
        let (len, runs) = (scan.len, scan.runs);
        let mut journal = Journal { file, path, len, runs, run: None, damaged, warnings };
        journal.cut()?;
        if scan.unended {
            journal.file.write_all(b"\n")?;
            journal.len += 1;
        }
        journal.append(Event::Opened, &Holder::own())?;
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
            if self.damaged {
                self.copy_aside()?;
            }
            (self.runs, self.len, self.damaged) = (Vec::new(), 0, false);
            self.cut()?;
            self.append(Event::Opened, &Holder::own())?;
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
        self.run = Some(run.id.clone());
        self.append(Event::Began, &began)?;
        Ok(run)
    }

    /// A run that had stopped goes on.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn resume(&mut self, run: &str) -> io::Result<()> {
        self.run = Some(run.to_owned());
        self.append(Event::Resumed, &At::now(None))
    }

    /// A training of a row has ended. It is on the disk when this returns.
    ///
    /// # Errors
    /// If the disk refuses; the journal is as it was then.
    pub fn ran(
        &mut self,
        row: usize,
        identity: Fingerprint,
        file: &str,
        result: Record,
    ) -> io::Result<()> {
        let round = result.samples.last().map(|sample| sample.round);
        let ran = Ran { row, round, identity, file: file.to_owned(), result };
        self.write(Event::Ran, (Some(row), round), &ran)
    }

    /// The run is done.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn finish(&mut self) -> io::Result<()> {
        self.append(Event::Finished, &At::now(None))
    }

    /// The run stops here and can be continued.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn stop(&mut self, why: &str) -> io::Result<()> {
        self.append(Event::Stopped, &At::now(Some(why)))
    }

    fn append(&mut self, event: Event, of: &impl Serialize) -> io::Result<()> {
        self.write(event, (None, None), of)
    }

    fn write(
        &mut self,
        event: Event,
        (row, round): (Option<usize>, Option<u32>),
        of: &impl Serialize,
    ) -> io::Result<()> {
        let of = serde_json::value::to_raw_value(of)?;
        let line = Entry { run: self.run.clone(), row, round, event, of }.line()?;
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

    /// Keeps all that the journal has, readable or not, under another name: its lock stays with this file.
    fn copy_aside(&mut self) -> io::Result<()> {
        let aside = files::aside(&self.path);
        self.file.rewind()?;
        let mut copy = File::create_new(&aside)?;
        io::copy(&mut self.file, &mut copy)?;
        copy.sync_all()?;
        self.warnings
            .push(format!("{NAME} starts again; its old content is in {}", aside.display()));
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
                    "{NAME} cannot be locked ({error}); make sure that no other run uses this folder"
                ));
                return Ok(());
            }
        }
        let mut scan = Scan::default();
        let read = files::open(path, Kind::JOURNAL).and_then(|(mut file, _)| scan.read(&mut file));
        match scan.holder {
            Some(holder) if read.is_ok() && holder.may_be_alive() => {
                return Err(JournalError::Locked(holder.to_string()));
            }
            _ if std::time::Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(20));
            }
            _ => return Err(JournalError::Locked("an unknown process".to_owned())),
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

/// The content of a journal.
#[derive(Default)]
struct Scan {
    /// Bytes up to the end of the last whole line.
    len: u64,
    /// Whether the last line is whole but for its end.
    unended: bool,
    runs: Vec<PastRun>,
    holder: Option<Holder>,
    /// Lines so far, and the numbers of those that cannot be understood.
    lines: usize,
    damaged: Vec<usize>,
    /// The number of a last line that ends too early.
    cut_off: Option<usize>,
    /// Numbers of lines that appear twice.
    doubled: Vec<usize>,
    /// Lines of runs whose beginning is not there, or of a newer harness.
    strangers: usize,
}

impl Scan {
    fn read(&mut self, file: &mut File) -> io::Result<()> {
        file.rewind()?;
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let mut line = Vec::new();
        loop {
            let mut bytes = 0;
            // A line that is too long comes in pieces, of which the last is no line of ours.
            loop {
                line.clear();
                let piece = reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)? as u64;
                bytes += piece;
                if line.ends_with(b"\n") || piece < LONGEST_LINE {
                    break;
                }
            }
            let ended = line.ends_with(b"\n");
            let entry = Entry::parse(line.strip_suffix(b"\n").unwrap_or(&line));
            if bytes == 0 {
                return Ok(());
            }
            if !ended && entry.is_none() {
                self.cut_off = Some(self.lines + 1);
                return Ok(());
            }
            (self.lines, self.len, self.unended) = (self.lines + 1, self.len + bytes, !ended);
            if entry.and_then(|entry| self.take(&entry)).is_none() {
                self.damaged.push(self.lines);
            }
        }
    }

    /// `None` of what is not understood.
    fn take(&mut self, entry: &Entry) -> Option<()> {
        let run = entry.run.as_ref();
        let known = self.runs.iter_mut().rfind(|known| Some(&known.began.run.id) == run);
        match (entry.event, known) {
            (Event::Opened, _) => self.holder = Some(entry.of()?),
            (Event::Began, None) => {
                let began: Began = entry.of()?;
                let other = began.version != VERSION;
                self.strangers += usize::from(other);
                // A run that this harness does not understand cannot be continued.
                self.runs.push(PastRun { began, ran: Vec::new(), finished: other });
            }
            (Event::Ran, Some(run)) => {
                let ran: Ran = entry.of()?;
                let ran = Ran { row: entry.row.unwrap_or_default(), round: entry.round, ..ran };
                match run.has(&ran) {
                    true => self.doubled.push(self.lines),
                    false => run.ran.push(ran),
                }
            }
            (Event::Finished, Some(run)) => {
                run.finished = true;
                // They are in their result files.
                run.ran = Vec::new();
            }
            (Event::Began, Some(_)) => self.doubled.push(self.lines),
            (Event::Resumed | Event::Stopped | Event::Noted, Some(_)) => {}
            (_, None) => self.strangers += 1,
        }
        Some(())
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let cut_off: Vec<usize> = self.cut_off.into_iter().collect();
        for (numbers, what) in [
            (&self.damaged, "damaged and left out"),
            (&cut_off, "cut off and left out"),
            (&self.doubled, "there twice and counted once"),
        ] {
            let word = if numbers.len() == 1 { "line" } else { "lines" };
            let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
            let named = first_few(&numbers, NAMED, ", ");
            warnings
                .extend((!numbers.is_empty()).then(|| format!("{NAME}: {word} {named}: {what}")));
        }
        if self.strangers > 0 {
            let number = self.strangers;
            warnings.push(format!("{NAME}: {number} lines are of runs that cannot be continued"));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn began(id: &str, started: &str) -> Began {
        let run = RunIdentity { id: id.into(), started: started.into(), ..RunIdentity::default() };
        Began::new(run, vec!["--quick".into()], (None, String::new()), "data".into(), 3)
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
        journal.ran(0, identity("mlp"), "x.json", sample(0)).unwrap();
        drop(journal);
        let mut journal = Journal::open(folder.path()).unwrap();
        let run = journal.unfinished().unwrap();
        assert_eq!((run.ran.len(), run.ran[0].file.as_str()), (1, "x.json"));
        assert_eq!(run.began.words.len(), 1);
        assert_eq!(run.progress(), "begun 2026, 1 sample, of 1 of 3 rows");
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
        for (row, model) in ["mlp", "cnn", "attention"].into_iter().enumerate() {
            journal.ran(row, identity(model), "x.json", sample(0)).unwrap();
        }
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        // Each line's last bytes and first ones, and some in the middle: each opening waits for the disk.
        let near_an_end =
            |cut: &usize| whole[cut.saturating_sub(2)..(cut + 2).min(whole.len())].contains(&b'\n');
        for cut in (0..=whole.len()).filter(|cut| cut % 97 == 0 || near_an_end(cut)) {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut lines = whole[..cut].iter().filter(|&&byte| byte == b'\n').count();
            // Only its end is missing.
            lines += usize::from(whole.get(cut) == Some(&b'\n'));
            let mut journal = Journal::open(folder.path()).unwrap();
            let partial = !matches!(whole[..cut].last(), None | Some(b'\n'))
                && whole.get(cut) != Some(&b'\n');
            let named = format!("{NAME}: line {}: cut off and left out", lines + 1);
            let expected: Vec<String> = partial.then_some(named).into_iter().collect();
            assert_eq!(journal.warnings, expected, "cut after {cut} bytes");
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
        assert!(journal.warnings[0].contains("line 3: damaged"), "{:?}", journal.warnings);
        assert!(journal.unfinished().is_some());
        let text = std::fs::read(journal.path()).unwrap();
        assert!(!text.contains(&0));
    }

    /// A record of one sample.
    fn sample(round: u32) -> Record {
        let mut record = Record::default();
        record.add_sample(crate::Sample { round, ..Default::default() });
        record
    }

    /// A journal of two runs that stopped, the second with two rounds of two rows.
    fn two_runs(folder: &Path) -> Vec<u8> {
        let mut journal = Journal::open(folder).unwrap();
        journal.begin(began("first", "2026")).unwrap();
        journal.ran(0, identity("mlp"), "x.json", sample(0)).unwrap();
        journal.stop("stopped").unwrap();
        drop(journal);
        let mut journal = Journal::open(folder).unwrap();
        journal.begin(began("second", "2026")).unwrap();
        for round in 0..2 {
            for (row, model) in ["mlp", "cnn"].into_iter().enumerate() {
                journal.ran(row, identity(model), "y.json", sample(round)).unwrap();
            }
        }
        std::fs::read(journal.path()).unwrap()
    }

    fn counts(journal: &Journal) -> Vec<(String, usize)> {
        journal.runs.iter().map(|run| (run.began.run.id.clone(), run.ran.len())).collect()
    }

    #[test]
    fn whatever_line_is_damaged_doubled_or_gone_the_others_stay_in_their_run_and_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let whole = two_runs(folder.path());
        let lines: Vec<&[u8]> = whole.split_inclusive(|&byte| byte == b'\n').collect();
        let path = folder.path().join(NAME);
        for (at, line) in lines.iter().enumerate() {
            let others = |replaced: Vec<u8>| {
                [lines[..at].concat(), replaced, lines[at + 1..].concat()].concat()
            };
            // One byte, in the middle and behind the checksum.
            for byte in [line.len() / 2, 30] {
                let mut damaged = line.to_vec();
                damaged[byte] ^= 1;
                std::fs::write(&path, others(damaged)).unwrap();
                let journal = Journal::open(folder.path()).unwrap();
                let said = journal.warnings.join("; ");
                assert!(said.contains(&format!("line {}: damaged", at + 1)), "{at}: {said}");
                let found = counts(&journal);
                match at {
                    1 => assert_eq!(found, [("second".to_owned(), 4)]),
                    5 => assert_eq!(found, [("first".to_owned(), 1)]),
                    _ => {
                        let lost = |range: std::ops::Range<usize>| usize::from(range.contains(&at));
                        let first = ("first".to_owned(), 1 - lost(2..3));
                        assert_eq!(found, [first, ("second".to_owned(), 4 - lost(6..10))], "{at}");
                    }
                }
            }
            std::fs::write(&path, others([*line, *line].concat())).unwrap();
            let journal = Journal::open(folder.path()).unwrap();
            assert_eq!(counts(&journal), [("first".to_owned(), 1), ("second".to_owned(), 4)]);
            let said = journal.warnings.join("; ");
            let twice = said.contains(&format!("line {}: there twice", at + 2));
            assert_eq!(twice, matches!(at, 1 | 2 | 5..=9), "{at}: {said}");
        }
    }

    #[test]
    fn a_journal_that_is_not_understood_is_kept_under_another_name() {
        let folder = tempfile::tempdir().unwrap();
        let whole = two_runs(folder.path());
        let path = folder.path().join(NAME);
        let text = String::from_utf8(whole).unwrap().replace("\"began\"", "\"bagan\"");
        std::fs::write(&path, &text).unwrap();
        let mut journal = Journal::open(folder.path()).unwrap();
        assert!(journal.unfinished().is_none());
        journal.begin(began("new", "2026")).unwrap();
        let kept = std::fs::read_to_string(folder.path().join("journal.jsonl.damaged")).unwrap();
        assert!(kept.starts_with(&text));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
    }

    #[test]
    fn a_link_a_pipe_and_a_huge_file_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let target = folder.path().join("target");
        std::fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        let error = Journal::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("is a link, which"), "{error}");
        assert_eq!(std::fs::read(&target).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(Journal::open(folder.path()).is_err());
        std::fs::remove_file(&path).unwrap();
        File::create(&path).unwrap().set_len(6 << 30).unwrap();
        let error = Journal::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("6.44 GB"), "{error}");
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
