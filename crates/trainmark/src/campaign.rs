//! A run on its way: its rows, the samples that they have so far, and where those are kept.
//!
//! Every training that ends goes into the journal first and then into its row's result file, which is thus
//! complete after each. With what the journal holds of an earlier attempt the same rows go on where they
//! stopped. A run without a folder keeps its samples in memory.

use crate::plan::Row;
use crate::progress::Progress;
use crate::runner::{Round, Runner};
use crate::schedule::Schedule;
use crate::transcript::Transcript;
use anyhow::{Context, Result};
use measure::provenance::sha256_of_bytes;
use record::file_name::FileName;
use record::fingerprint::Fingerprint;
use record::folder::{Entry, Folder};
use record::journal::{Journal, PastRun, Ran};
use record::summary::Options;
use record::verification::VerificationFile;
use record::{Record, Reference, Status, Summary, write};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// One sample of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// As an index into the plan.
    pub row: usize,
    pub round: Round,
}

/// Runs tasks.
pub trait Executor {
    /// Runs these tasks, one after the other or many at once, and returns when no more of them
    /// will come to an end. Each is announced with [`Campaign::begin`], and left out if that says no;
    /// each that ended is handed over with [`Campaign::end`], in any order, as soon as it has ended.
    /// When the user cancels, it stops what runs and returns.
    ///
    /// # Errors
    /// If the executor itself, or the campaign, cannot go on. What a trainer does wrong is a result.
    fn run(&mut self, tasks: &[Task], campaign: &mut Campaign) -> Result<()>;

    /// Whether it wants all rounds in one call, since it runs many tasks at once. Else it is called
    /// for each round, and takes a decision that depends on the round before into account.
    fn takes_all_rounds(&self) -> bool {
        false
    }
}

/// A row on its way: its result so far, and the file that holds it.
pub struct Standing {
    pub row: Row,
    pub result: Record,
    identity: Fingerprint,
    name: FileName,
    /// The file's name, once it is settled.
    file: Option<String>,
    /// Whether the file is there, and this run's.
    written: bool,
    /// Whether anything is known of it, be it that it cannot be trained here.
    known: bool,
    /// Rounds whose sample is in the result.
    done: BTreeSet<u32>,
}

impl Standing {
    /// Whether another sample could tell more. One that told no quality has still been measured.
    pub fn repeatable(&self) -> bool {
        let goes_on = |status: Status| status.completed() || status == Status::NoQuality;
        self.result.samples.iter().all(|sample| goes_on(sample.status))
            && !(self.known && self.result.samples.is_empty())
    }

    /// The number of rounds that it has samples of.
    pub fn rounds(&self) -> usize {
        self.done.len()
    }

    /// The result file's name, once there is a result.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref().filter(|_| self.known)
    }

    /// Takes what one more training brought.
    fn absorb(&mut self, mut part: Record) {
        self.known = true;
        if part.samples.is_empty() && !self.result.samples.is_empty() {
            // Trained before, and now not even started: what was measured stays.
            return;
        }
        if self.result.samples.is_empty() {
            // All that is said of the machine and the program is said by the first; the name and the
            // run are the row's.
            let own = std::mem::take(&mut self.result);
            (part.timestamp, part.run) = (own.timestamp, own.run);
            self.result = without_samples(&part);
        } else if completed(&part) || !completed(&self.result) {
            // One that was stopped before its trainer told anything takes nothing from what others told.
            self.result.compiled = part.compiled;
            (self.result.sources, self.result.missing) = (part.sources, part.missing);
            self.result.trainer = part.trainer;
            // A meter that had no reading this time keeps its source and its validity.
            let had = std::mem::replace(&mut self.result.meters, part.meters);
            for (name, meter) in had.into_iter().filter(|(_, meter)| meter.value.is_some()) {
                let now = self.result.meters.entry(name).or_default();
                if now.value.is_none() {
                    *now = meter;
                }
            }
        }
        for sample in part.samples {
            self.done.insert(sample.round);
            self.result.add_sample(sample);
        }
    }
}

fn completed(result: &Record) -> bool {
    result.samples.iter().any(|sample| sample.status.completed())
}

/// Where a run is kept.
pub struct Keeper {
    pub journal: Journal,
    /// The folder of the result files.
    pub out: PathBuf,
}

/// One run.
pub struct Campaign<'a> {
    pub rows: Vec<Standing>,
    keeper: Option<Keeper>,
    runner: &'a Runner<'a>,
    progress: Progress,
}

impl<'a> Campaign<'a> {
    /// The rows of a plan, before their first sample.
    pub fn new(
        runner: &'a Runner<'a>,
        rows: &[Row],
        keeper: Option<Keeper>,
        progress: Progress,
    ) -> Campaign<'a> {
        let standing = |row: &Row| {
            let result = runner.blank(row);
            let name = FileName::new(&row.prefix, &row.backend, &row.tags, &result.timestamp);
            let identity = runner.identity(row);
            let (row, done) = (row.clone(), BTreeSet::new());
            Standing { row, result, identity, name, file: None, written: false, known: false, done }
        };
        let rows = rows.iter().map(standing).collect();
        Campaign { rows, keeper, runner, progress }
    }

    /// Takes what an earlier attempt has brought, and writes again what of it is not on the disk.
    /// Returns what a person should know.
    ///
    /// # Errors
    /// If a result file cannot be written.
    pub fn take_up(&mut self, past: PastRun) -> Result<Vec<String>> {
        let mut remarks = Vec::new();
        let apart = self.apart(&past.began.run.id);
        let files = self.files_of(&[&past.began.run.id, &apart]);
        // An interrupted training has brought nothing that is to stay.
        let has_samples =
            |ran: &Ran| ran.result.samples.iter().any(|it| it.status != Status::Interrupted);
        // Those of another program or other data are of a run of their own already, if these came in between.
        let is_old = |ran: &Ran, row: &Standing| {
            ran.identity != row.identity
                && ran.identity.same_row(&row.identity)
                && has_samples(ran)
                && ran.result.run.as_ref().is_none_or(|run| run.id == past.began.run.id)
        };
        let has_changed = |row: &Standing| past.ran.iter().any(|ran| is_old(ran, row));
        let changed = self.rows.iter().any(has_changed);
        for index in 0..self.rows.len() {
            let standing = &mut self.rows[index];
            let same = |ran: &&Ran| ran.identity.same_row(&standing.identity);
            let last = past.ran.iter().rfind(same);
            // An interrupted training is to be run again, and so is what could not be trained then.
            let counts = |ran: &&Ran| {
                ran.identity == standing.identity
                    && !ran.result.samples.is_empty()
                    && ran.result.status != Status::Interrupted
            };
            let parts: Vec<&Ran> = past.ran.iter().filter(counts).collect();
            if changed && let Some(run) = &mut standing.result.run {
                // Rounds of another program, or on other data, are other samples, and those that take turns with
                // them are of their run.
                run.id.clone_from(&apart);
            }
            if let Some(first) = parts.first() {
                let first = &first.result;
                (standing.result.timestamp, standing.result.run) =
                    (first.timestamp.clone(), first.run.clone());
                for part in parts {
                    standing.absorb(part.result.clone());
                }
                standing.file =
                    past.ran.iter().rfind(|ran| ran.identity == standing.identity).map(file_of);
            } else if let Some(last) = last {
                let has_brought = past.ran.iter().filter(same).any(has_samples);
                if last.identity == standing.identity || !has_brought {
                    // Its file is replaced by whatever comes of it now, of whichever run.
                    let file = file_of(last);
                    let found =
                        self.keeper.as_ref().map(|it| Record::read_back(&it.out.join(&file)));
                    standing.written = found.flatten().is_some_and(|it| it.run == last.result.run);
                    standing.file = Some(file);
                } else {
                    let other_data =
                        last.identity.dataset_sha256 != standing.identity.dataset_sha256;
                    let what = if other_data { "the data" } else { "its program or command" };
                    remarks.push(format!(
                        "{}: {what} has changed; it runs again, and {} stays",
                        standing.row.label, last.file
                    ));
                }
            }
            if standing.file.is_none() {
                // So is one of which the journal has lost all lines.
                let own = files.iter().find(|(_, found)| is_file_of(found, &standing.result));
                standing.file = own.map(|(file, _)| file.clone());
            }
            if standing.known {
                self.restore(index).with_context(|| self.cannot_write(index))?;
            }
        }
        self.rows.iter().for_each(|standing| self.progress.skip(standing.done.len()));
        self.show();
        Ok(remarks)
    }

    /// The run of rows whose program or data has changed since `run` began, with what all rows have now.
    fn apart(&self, run: &str) -> String {
        let identities: Vec<&Fingerprint> = self.rows.iter().map(|it| &it.identity).collect();
        let identities = serde_json::to_vec(&identities).unwrap_or_default();
        format!("{run}-{}", &sha256_of_bytes(&identities)[..8])
    }

    /// The result files of these runs.
    fn files_of(&self, runs: &[&str]) -> Vec<(String, Record)> {
        let Some(Keeper { out, .. }) = &self.keeper else { return Vec::new() };
        let names = out.read_dir().into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        let names = names.filter(|name| name.ends_with(".json"));
        let found = names.filter_map(|name| Some((Record::read_back(&out.join(&name))?, name)));
        let is_own = |it: &Record| it.run.as_ref().is_some_and(|run| runs.contains(&&*run.id));
        let mut files: Vec<_> = found.filter(|(it, _)| is_own(it)).map(|it| (it.1, it.0)).collect();
        files.sort_by(|one, other| one.0.cmp(&other.0));
        files
    }

    /// All that is known of the rows so far, as reports take it; `None` before anything is, and where nothing is
    /// kept.
    pub fn summary(&self) -> Option<Summary> {
        let entry = |row: &Standing| {
            Some(Entry { file: row.file()?.to_owned(), record: row.result.clone() })
        };
        let entries: Vec<Entry> = self.rows.iter().filter_map(entry).collect();
        let keeper = self.keeper.as_ref().filter(|_| !entries.is_empty())?;
        // `trainmark report` says if the file is damaged.
        let verified = VerificationFile::read(&keeper.out).ok().flatten();
        let verifications = verified.unwrap_or_default().verifications;
        let folder = Folder { entries, verifications, ..Folder::default() };
        let preferred = self.runner.loaded().suite.reference.as_ref().map(Reference::from);
        Summary::new(folder, &Options { preferred, ..Options::default() }).ok()
    }

    /// On the screen, if there is one.
    fn show(&mut self) {
        if self.progress.is_drawn()
            && let Some(summary) = self.summary()
        {
            self.progress.show(&summary);
        }
    }

    /// Takes the samples. The journal says at the end whether all of it is done.
    ///
    /// # Errors
    /// If a result cannot be kept, or the executor cannot go on.
    pub fn train(&mut self, schedule: &Schedule, executor: &mut dyn Executor) -> Result<()> {
        let rounds = self.rounds(schedule, executor);
        self.progress.finish();
        rounds?;
        let Some(Keeper { journal, .. }) = &mut self.keeper else { return Ok(()) };
        let written = match self.runner.cancel.reason() {
            None => journal.finish(),
            Some(why) => journal.stop(why),
        };
        written.with_context(|| format!("{} cannot be written", journal.path().display()))
    }

    fn rounds(&mut self, schedule: &Schedule, executor: &mut dyn Executor) -> Result<()> {
        if schedule.warm_up {
            let due = |it: &Standing| {
                schedule.until.is_some() || it.done.len() < schedule.repeats as usize
            };
            let order = schedule.order(u32::MAX, self.rows.len());
            let order = order.into_iter().filter(|&row| due(&self.rows[row]));
            let tasks: Vec<Task> = order.map(|row| Task { row, round: Round::WarmUp }).collect();
            executor.run(&tasks, self)?;
        }
        let start = Instant::now();
        let mut rounds = 0;
        while !self.runner.cancel.is_cancelled()
            && self.rows.iter().any(Standing::repeatable)
            && schedule.goes_on(
                rounds,
                start.elapsed(),
                &self.rows.iter().map(|it| &it.result).collect::<Vec<_>>(),
            )
        {
            let all = executor.takes_all_rounds() && schedule.until.is_none();
            let end = if all { schedule.repeats } else { rounds + 1 };
            let mut tasks = Vec::new();
            for number in rounds..end {
                let order = schedule.order(number, self.rows.len());
                let open = order.into_iter().filter(|&row| !self.rows[row].done.contains(&number));
                tasks.extend(open.map(|row| Task { row, round: Round::Number(number) }));
            }
            if !tasks.is_empty() {
                executor.run(&tasks, self)?;
            }
            rounds = end;
        }
        Ok(())
    }

    /// Journal first: what is in it is not lost, whatever happens to the file.
    fn keep(&mut self, index: usize, part: Record) -> Result<()> {
        let standing = &mut self.rows[index];
        let part = Record { run: standing.result.run.clone(), ..part };
        if let Some(keeper) = &mut self.keeper {
            let file =
                standing.file.clone().unwrap_or_else(|| standing.name.first_free(&keeper.out));
            keeper.journal.ran(index, standing.identity.clone(), &file, part.clone())?;
            standing.file = Some(file);
        }
        standing.absorb(part);
        self.write(index)
    }

    /// Writes a row's file if it is not as it should be.
    fn restore(&mut self, index: usize) -> Result<()> {
        let Some(keeper) = &self.keeper else { return Ok(()) };
        let standing = &mut self.rows[index];
        let path = keeper.out.join(standing.file.as_deref().unwrap_or_default());
        standing.written = Record::read_back(&path).as_ref() == Some(&standing.result);
        if standing.written { Ok(()) } else { self.write(index) }
    }

    /// Writes a row's file, whole or not at all. A file that is not of this run is never replaced,
    /// should one have got the name in between: the row gets another one.
    fn write(&mut self, index: usize) -> Result<()> {
        let Some(keeper) = &mut self.keeper else { return Ok(()) };
        let standing = &mut self.rows[index];
        loop {
            let path = keeper.out.join(standing.file.as_deref().unwrap_or_default());
            let id = |result: &Record| result.run.as_ref().map(|run| run.id.clone());
            let own = standing.written
                || Record::read_back(&path).is_some_and(|found| id(&found) == id(&standing.result));
            if own {
                write::replace(&path, &standing.result)?;
            } else if !write::write_new(&path, &standing.result)? {
                let file = standing.name.first_free(&keeper.out);
                let renamed = without_samples(&standing.result);
                keeper.journal.ran(index, standing.identity.clone(), &file, renamed)?;
                standing.file = Some(file);
                continue;
            }
            standing.written = true;
            return Ok(());
        }
    }

    /// A task is about to start. False if it is no longer wanted: the user has cancelled, or its
    /// row has failed before, which a repeat would not mend.
    pub fn begin(&mut self, task: Task) -> bool {
        let standing = &self.rows[task.row];
        if self.runner.cancel.is_cancelled() || !standing.repeatable() {
            return false;
        }
        self.progress.begin(task.row);
        true
    }

    /// Takes the trainer's statements so far, for display.
    pub fn said(&mut self, task: Task, said: &Transcript) {
        self.progress.epoch(task.row, said, self.rows[task.row].row.epochs());
    }

    /// A task has ended: its result file, of one sample or of none.
    ///
    /// # Errors
    /// If it cannot be kept.
    pub fn end(&mut self, task: Task, part: Record) -> Result<()> {
        // A warm-up that failed is worth a record, and the rounds to come are spared.
        let fine = part.samples.iter().all(|sample| sample.status.completed());
        let warm_up = task.round == Round::WarmUp && fine && !part.samples.is_empty();
        if !warm_up {
            self.keep(task.row, part).with_context(|| self.cannot_write(task.row))?;
        }
        let standing = &self.rows[task.row];
        let folder = self.keeper.as_ref().map(|keeper| keeper.out.as_path());
        let file = folder.and_then(|folder| Some(folder.join(standing.file()?)));
        self.progress.end(task.row, &standing.result, task.round, file.as_deref());
        self.show();
        Ok(())
    }

    fn cannot_write(&self, index: usize) -> String {
        let label = &self.rows[index].row.label;
        let out = self.keeper.as_ref().map(|keeper| keeper.out.display().to_string());
        format!("the result of {label} cannot be written to {}", out.unwrap_or_default())
    }
}

fn without_samples(result: &Record) -> Record {
    Record { samples: Vec::new(), ..result.clone() }
}

/// Whether a file is of the same run and row as `result`.
fn is_file_of(found: &Record, result: &Record) -> bool {
    let of = |it: &Record| {
        let run = it.run.as_ref().map(|run| run.id.clone());
        (run, it.executable.clone(), it.model.clone(), it.backend.clone(), it.config.clone())
    };
    of(found) == of(result)
}

/// The name that the journal has for a file, within its folder whatever the journal says.
fn file_of(ran: &Ran) -> String {
    Path::new(&ran.file).file_name().unwrap_or_default().to_string_lossy().into_owned()
}
