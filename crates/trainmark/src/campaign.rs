//! A run of a suite on its way: its rows, what they have so far, and where that is kept.
//!
//! Every training that ends goes into the journal first and then into its result file, which is
//! thus complete after each. With what the journal holds of an earlier attempt the same rows go on
//! where they stopped.

use crate::execute::{Bench, Round};
use crate::executor::{Desk, Executor, Task};
use crate::file_name::FileName;
use crate::journal::{Journal, PastRun, Ran};
use crate::launch::CancelToken;
use crate::plan::Case;
use crate::progress::Progress;
use crate::schedule::Schedule;
use crate::transcript::Transcript;
use anyhow::{Context, Result};
use record::fingerprint::Fingerprint;
use record::write;
use record::{Record, Status};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

/// A combination on its way: its result so far, and the file that holds it.
pub struct Row {
    pub case: Case,
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

impl Row {
    /// Whether another run of it could tell more.
    pub fn repeatable(&self) -> bool {
        self.result.samples.iter().all(|sample| sample.status.completed())
            && !(self.known && self.result.samples.is_empty())
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
        } else {
            self.result.compiled = part.compiled;
            (self.result.sources, self.result.missing) = (part.sources, part.missing);
            self.result.trainer = part.trainer;
            self.result.meters = part.meters;
        }
        for sample in part.samples {
            self.done.insert(sample.round);
            self.result.add_sample(sample);
        }
    }
}

/// One run of a suite.
pub struct Campaign<'a> {
    pub rows: Vec<Row>,
    journal: Journal,
    notes: Vec<Value>,
    /// Where result files go.
    out: &'a Path,
    bench: &'a Bench<'a>,
    cancel: &'a CancelToken,
    progress: Progress<'a>,
}

impl<'a> Campaign<'a> {
    /// The rows of a plan, before their first run.
    pub fn new(
        bench: &'a Bench<'a>,
        cases: &[Case],
        journal: Journal,
        out: &'a Path,
        progress: Progress<'a>,
        cancel: &'a CancelToken,
    ) -> Campaign<'a> {
        let row = |case: &Case| {
            let result = bench.blank(case);
            let name = FileName::new(&case.prefix, &case.backend, &case.config, &result.timestamp);
            let identity = bench.identity(case);
            let (case, done) = (case.clone(), BTreeSet::new());
            Row { case, result, identity, name, file: None, written: false, known: false, done }
        };
        let rows = cases.iter().map(row).collect();
        Campaign { rows, journal, notes: Vec::new(), out, bench, cancel, progress }
    }

    /// Takes what an earlier attempt has brought, and writes again what of it is not on the disk.
    /// Returns what a person should know.
    ///
    /// # Errors
    /// If a result file cannot be written.
    pub fn take_up(&mut self, past: PastRun) -> Result<Vec<String>> {
        self.notes = past.notes;
        let mut remarks = Vec::new();
        for index in 0..self.rows.len() {
            let row = &mut self.rows[index];
            let same = |ran: &&Ran| ran.identity.same_row(&row.identity);
            let Some(last) = past.ran.iter().rfind(same) else { continue };
            // An interrupted training is to be run again, and so is what could not be trained then.
            let counts = |ran: &&Ran| {
                ran.identity == row.identity
                    && !ran.result.samples.is_empty()
                    && ran.result.status != Status::Interrupted
            };
            let parts: Vec<&Ran> = past.ran.iter().filter(counts).collect();
            if let Some(first) = parts.first() {
                let first = &first.result;
                (row.result.timestamp, row.result.run) =
                    (first.timestamp.clone(), first.run.clone());
                for part in parts {
                    row.absorb(part.result.clone());
                }
                row.file = past.ran.iter().rfind(|ran| ran.identity == row.identity).map(file_of);
                self.restore(index)?;
            } else if last.identity == row.identity || last.result.samples.is_empty() {
                // Its file is replaced by whatever comes of it now.
                row.file = Some(file_of(last));
            } else {
                let label = row.case.label(&self.bench.loaded().suite);
                remarks.push(format!(
                    "{label}: another program or command than before; it runs anew, {} stays",
                    last.file
                ));
            }
        }
        for (index, row) in self.rows.iter().enumerate() {
            self.progress.skip(index, row.done.len(), &row.result);
        }
        Ok(remarks)
    }

    /// Writes a row's file if it is not as it should be.
    fn restore(&mut self, index: usize) -> Result<()> {
        let row = &self.rows[index];
        let path = self.out.join(row.file.as_deref().unwrap_or_default());
        if read(&path).as_ref() == Some(&row.result) {
            self.rows[index].written = true;
            return Ok(());
        }
        self.write(index)
    }

    fn cannot_write(&self, row: &Row) -> String {
        let label = row.case.label(&self.bench.loaded().suite);
        format!("the result of {label} cannot be written to {}", self.out.display())
    }

    /// Runs the rounds. The journal says at the end whether all of it is done.
    ///
    /// # Errors
    /// If a result cannot be kept, or the executor cannot go on.
    pub fn train(&mut self, schedule: &Schedule, executor: &mut dyn Executor) -> Result<()> {
        let rounds = self.rounds(schedule, executor);
        self.progress.finish();
        rounds?;
        let written = match self.cancel.reason() {
            None => self.journal.finish(),
            Some(why) => self.journal.stop(why),
        };
        written.with_context(|| format!("{} cannot be written", self.journal.path().display()))
    }

    fn rounds(&mut self, schedule: &Schedule, executor: &mut dyn Executor) -> Result<()> {
        if schedule.warm_up {
            let due =
                |row: &Row| schedule.until.is_some() || row.done.len() < schedule.repeats as usize;
            let order = schedule.order(u32::MAX, self.rows.len());
            let order = order.into_iter().filter(|&row| due(&self.rows[row]));
            let tasks: Vec<Task> = order.map(|row| Task { row, round: Round::WarmUp }).collect();
            executor.run(&tasks, self)?;
        }
        let start = Instant::now();
        let mut rounds = 0;
        while !self.cancel.is_cancelled()
            && self.rows.iter().any(Row::repeatable)
            && schedule.goes_on(
                rounds,
                start.elapsed(),
                &self.rows.iter().map(|row| &row.result).collect::<Vec<_>>(),
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
        let row = &self.rows[index];
        let file = row.file.clone().unwrap_or_else(|| row.name.first_free(self.out));
        let hint = self.cannot_write(row);
        self.journal.ran(row.identity.clone(), &file, part.clone()).context(hint)?;
        let row = &mut self.rows[index];
        row.file = Some(file);
        row.absorb(part);
        self.write(index)
    }

    /// Writes a row's file, whole or not at all. A file that is not of this run is never replaced,
    /// should one have got the name in between: the row gets another one.
    fn write(&mut self, index: usize) -> Result<()> {
        loop {
            let row = &self.rows[index];
            let hint = || self.cannot_write(row);
            let path = self.out.join(row.file.as_deref().unwrap_or_default());
            let id = |result: &Record| result.run.as_ref().map(|run| run.id.clone());
            let own = row.written || read(&path).is_some_and(|found| id(&found) == id(&row.result));
            if own {
                write::replace(&path, &row.result).with_context(hint)?;
            } else if !write::write_new(&path, &row.result).with_context(hint)? {
                let file = row.name.first_free(self.out);
                let renamed = without_samples(&row.result);
                let hint = self.cannot_write(row);
                self.journal.ran(row.identity.clone(), &file, renamed).context(hint)?;
                self.rows[index].file = Some(file);
                continue;
            }
            self.rows[index].written = true;
            return Ok(());
        }
    }
}

fn without_samples(result: &Record) -> Record {
    Record { samples: Vec::new(), ..result.clone() }
}

/// The name that the journal has for a file, within its folder whatever the journal says.
fn file_of(ran: &Ran) -> String {
    Path::new(&ran.file).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A result file, if there is one.
fn read(path: &Path) -> Option<Record> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

impl Desk for Campaign<'_> {
    fn begin(&mut self, task: Task) -> bool {
        let row = &self.rows[task.row];
        if self.cancel.is_cancelled() || !row.repeatable() {
            return false;
        }
        self.progress.begin(task.row);
        true
    }

    fn said(&mut self, task: Task, said: &Transcript) {
        self.progress.epoch(task.row, said, self.rows[task.row].case.epochs());
    }

    fn end(&mut self, task: Task, part: Record) -> Result<()> {
        // A warm-up that failed is worth a record, and the rounds to come are spared.
        let fine = part.samples.iter().all(|sample| sample.status.completed());
        let warm_up = task.round == Round::WarmUp && fine && !part.samples.is_empty();
        if !warm_up {
            self.keep(task.row, part)?;
        }
        self.progress.end(task.row, &self.rows[task.row], task.round, self.out);
        Ok(())
    }

    fn note(&mut self, note: Value) -> Result<()> {
        let hint = format!("{} cannot be written", self.journal.path().display());
        self.journal.note(note.clone()).context(hint)?;
        self.notes.push(note);
        Ok(())
    }

    fn notes(&self) -> &[Value] {
        &self.notes
    }
}
