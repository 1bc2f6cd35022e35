//! Checks that a record agrees with itself: its figures follow from its samples, and no round counts twice.

use crate::figures::{self, Figure};
use crate::number::{decimal, grain};
use crate::result::Record;
use crate::roofline::implausible;
use crate::sample::{Sample, Timing};
use crate::status::Status;

/// Clocks are read at different moments: so many seconds are no contradiction.
pub const CLOCK_TOLERANCE_S: f64 = 0.05;

/// Why a clock of a process cannot have counted so many seconds, known to `grain_s`, if it cannot: the process did not
/// run for as long.
pub fn overrun(whose: &str, clocked_s: f64, grain_s: f64, wall_s: f64) -> Option<String> {
    let shown = |seconds| decimal(Some(seconds));
    (clocked_s > wall_s + CLOCK_TOLERANCE_S + grain_s).then(|| {
        let (clocked, wall) = (shown(clocked_s), shown(wall_s));
        format!("{whose} clock says {clocked} s, but its process ran for only {wall} s")
    })
}

impl Timing {
    /// The same of what a file states. The times of several processes, or of several trainings, are not one clock's: then
    /// the longest alone counts.
    fn overrun(&self, is_one_clock: bool) -> Option<String> {
        let Timing { wall_s, setup_s, compile_s, train_s, eval_s, .. } = self.measured();
        let parts = [setup_s, compile_s, train_s, eval_s];
        let parts = parts.into_iter().flatten().map(|part| (part, grain(part)));
        let (clocked_s, grain_s) = match is_one_clock {
            true => parts.fold((0.0, 0.0), |sum, it| (sum.0 + it.0, sum.1 + it.1)),
            false => parts.max_by(|one, other| one.0.total_cmp(&other.0))?,
        };
        overrun("its", clocked_s, grain_s, wall_s?)
    }
}

impl Record {
    /// As it stands in a file, held against itself: the status is what all that it states allows.
    pub fn checked(mut self) -> Record {
        let judged = self.hold_to_rules();
        self.reconcile(judged);
        self.judge();
        self
    }

    /// A sample in a file is judged by the rules that judge one while it runs, as far as the file has what they judge.
    /// Returns whether one that counts breaks them.
    fn hold_to_rules(&mut self) -> bool {
        let Record { trainer, capability, backend, .. } = &*self;
        let judged = |sample: &Sample| {
            let misreported = sample.timing.overrun(sample.ranks.len() < 2);
            let rate = |it| implausible(sample, it, backend, capability.as_deref());
            let rate = || trainer.as_deref().and_then(rate);
            misreported
                .map(|it| (Status::Misreported, it))
                .or_else(|| Some((Status::Implausible, rate()?)))
        };
        let judged: Vec<_> = self.samples.iter().map(judged).collect();
        let mut breaks = false;
        for (sample, judged) in self.samples.iter_mut().zip(judged) {
            if let Some((status, reason)) = judged.filter(|_| sample.status.completed()) {
                (sample.status, sample.reason) = (status, Some(reason));
                breaks |= !sample.superseded;
            }
        }
        if let Some(reason) = self.timing.overrun(false).filter(|_| self.samples.is_empty())
            && self.status.completed()
        {
            (self.status, self.reason) = (Status::Misreported, Some(reason));
        }
        breaks
    }

    /// Samples are what was measured; what a file states of all of them together must follow from them, unless one
    /// was judged anew.
    fn reconcile(&mut self, judged: bool) {
        if self.samples.is_empty() {
            return;
        }
        let figures = figures::of([&*self]);
        let stated: Vec<Option<f64>> = figures.iter().map(|figure| figure.of(self)).collect();
        let said = (self.status, self.reason.take());
        let samples = std::mem::take(&mut self.samples);
        let twice = samples.into_iter().filter_map(|it| self.take(it.measured()).err()).last();
        self.conclude();
        if said.0 != Status::Measured {
            (self.status, self.reason) = said;
        }
        let differs = figures.iter().zip(stated).find_map(|(figure, stated)| {
            let (stated, found) = (stated?, figure.of(self)?);
            let differs = (stated - found).abs() > 1e-6 * stated.abs().max(found.abs());
            differs.then(|| {
                let (stated, found) = (exact(figure, stated), exact(figure, found));
                format!("{}: the file states {stated}, its samples {found}", figure.key)
            })
        });
        if let Some(reason) = twice.or(differs.filter(|_| !judged)) {
            (self.status, self.reason) = (Status::Misreported, Some(reason));
        }
    }

    /// Adds a sample unless it is there already: a sample is known by its run, its row and its round.
    ///
    /// # Errors
    /// If another of its round says something else, the contradiction.
    pub(crate) fn take(&mut self, sample: Sample) -> Result<bool, String> {
        for known in self.samples.iter_mut().filter(|it| it.round == sample.round) {
            if let Some(both) = known.with(&sample) {
                *known = both;
                return Ok(false);
            }
        }
        let counts = |it: &Sample| it.status.completed() && !it.superseded;
        let rival = |it: &&Sample| it.round == sample.round && counts(it) && counts(&sample);
        let contradiction = self.samples.iter().find(rival).map(|rival| {
            let figures = figures::of([&*self]);
            let both = |it: &Figure| Some((it.of_sample(rival)?, it.of_sample(&sample)?));
            let differs =
                figures.iter().find_map(|it| Some((it, both(it).filter(|(a, b)| a != b)?)));
            let told = differs.map_or("the measurements".to_owned(), |(figure, (one, other))| {
                format!("{}, {} and {}", figure.key, exact(figure, one), exact(figure, other))
            });
            format!("round {} appears twice with different figures: {told}", sample.round + 1)
        });
        self.samples.push(sample);
        contradiction.map_or(Ok(true), Err)
    }
}

/// All digits: a difference is to be seen.
fn exact(figure: &Figure, value: f64) -> String {
    format!("{value} {}", figure.unit).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RankRecord, TrainerRecord};
    use machine::{Capability, Cpu, FmaRate};

    /// Of a task without a quality.
    fn blank() -> Record {
        Record { schema_version: 2, task: Some(Box::default()), ..Record::default() }
    }

    /// Of a file with these seconds of set-up, training and the process, and so many ranks.
    fn read(setup_s: f64, train_s: f64, wall_s: f64, ranks: usize) -> Record {
        let timing = Timing {
            setup_s: Some(setup_s),
            train_s: Some(train_s),
            wall_s: Some(wall_s),
            ..Timing::default()
        };
        let ranks = vec![RankRecord::default(); ranks];
        let mut record = blank();
        record.add_sample(Sample { timing, ranks, ..Sample::default() });
        Record::parse(&serde_json::to_vec(&record).unwrap()).unwrap()
    }

    #[test]
    fn a_file_whose_clock_is_longer_than_its_process_is_misreported() {
        let edited = read(0.05, 50.0, 0.2, 0);
        assert_eq!(edited.status, Status::Misreported);
        assert_eq!(
            edited.reason.as_deref(),
            Some("its clock says 50.05 s, but its process ran for only 0.20 s")
        );
        let mut one_of_two = read(0.05, 0.1, 0.2, 0);
        one_of_two.add_sample(Sample { round: 1, ..edited.samples[0].clone() });
        one_of_two.samples[1].status = Status::Measured;
        let reason = one_of_two.checked().reason.unwrap();
        assert!(reason.starts_with("1 of 2 samples: misreported: its clock says"), "{reason}");
        let huge = read(0.05, 1e308, 0.2, 0);
        assert!(huge.reason.unwrap().starts_with("its clock says 1.00e308 s, but"));
        assert_eq!(read(0.05, 0.1, 0.2, 0).status, Status::Measured);
        assert_eq!(read(0.5, 12.0, 11.8, 0).status, Status::Measured, "printed without decimals");
        // The slowest set-up and the slowest training may be of two ranks.
        assert_eq!(read(1.5, 1.5, 2.0, 2).status, Status::Measured);
        assert_eq!(read(1.5, 1.5, 2.0, 1).status, Status::Misreported);
        assert_eq!(read(0.5, 2.5, 2.0, 2).status, Status::Misreported);
        assert_eq!(read(0.05, 0.1, -0.2, 0).status, Status::Measured, "no wall time is known");
        let mut head = blank();
        head.timing.train_s = Some(50.0);
        head.timing.wall_s = Some(0.2);
        assert_eq!(head.checked().status, Status::Misreported, "without any sample");
    }

    #[test]
    fn a_file_that_claims_more_than_its_machine_can_do_is_implausible() {
        let rate = FmaRate {
            isa: "avx2".into(),
            threads: 1,
            flop_per_s: 100_000_000_000,
            highest_flop_per_s: 110_000_000_000,
        };
        let cpu = Cpu { threads: 1, fma: vec![rate], ..Cpu::default() };
        let mut record = read(0.05, 0.1, 0.2, 0);
        record.backend = "cpu".into();
        record.capability = Some(Box::new(Capability { cpu, ..Capability::default() }));
        record.trainer = Some(Box::new(TrainerRecord::default()));
        record.samples[0].executed_flop = Some(1e30);
        assert_eq!(record.clone().checked().status, Status::Implausible);
        record.samples[0].executed_flop = Some(1.0);
        assert_eq!(record.checked().status, Status::Measured);
    }
}
