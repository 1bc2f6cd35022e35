//! What is asked of all rows together, found in one pass: of a hundred thousand rows each further pass
//! takes as long as writing a report of a few thousand.

use super::collection::{Collection, Id, Row};
use super::compare::Basis;
use crate::report::old_result::{AccuracySource, Status};
use foldhash::fast::RandomState;
use indexmap::IndexSet;
use std::collections::BTreeMap;

/// Distinct values in the order of the rows.
type Ids = IndexSet<Id, RandomState>;
type Maybe = IndexSet<Option<Id>, RandomState>;

/// Counts over all rows, and whether any row has this or that.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub executables: Ids,
    pub models: Ids,
    pub backends: Ids,
    pub configs: Ids,
    /// Also `None`, where rows have none.
    pub datasets: Maybe,
    pub runs: Maybe,
    /// Of rows that ran to their end: others may not know what they would have run on.
    pub datasets_of_completed: Maybe,
    pub machines_of_completed: Maybe,
    pub statuses: BTreeMap<Status, usize>,
    /// By place in [`Basis::ALL`].
    pub speed_ups_by: [bool; Basis::ALL.len()],
    pub speed_up_intervals: bool,
    /// Ranked rows without a speed-up.
    pub uncompared: bool,
    pub train_loops: bool,
    pub races: bool,
    pub rates: bool,
    pub shares: bool,
    pub verified: bool,
    pub different: bool,
    pub software: bool,
    /// Rows that are not ranked.
    pub exceptions: bool,
    /// Files of this project's own schemas.
    pub ours: bool,
    /// Rows that are not converged and whose file names no target.
    pub held_to_the_suites_target: bool,
    pub without_run: usize,
    /// Accuracies that the harness did not score.
    pub unscored: usize,
    pub noisy_runs: u32,
    pub repeated_runs: u32,
    pub counted_runs: u32,
    /// Of rows with several runs.
    pub turns: usize,
}

impl Tally {
    /// Of rows that have been compared.
    pub fn new(collection: &Collection) -> Tally {
        let mut it = Tally::default();
        let mut last = None;
        for row in &collection.rows {
            *it.statuses.entry(row.status).or_default() += 1;
            it.add_figures(row);
            // Neighbours mostly have the same names.
            let names = (row.executable, row.model, row.backend, row.config);
            let ids = Some((names, row.dataset, row.run, row.machine, row.status.completed()));
            if ids == last {
                continue;
            }
            last = ids;
            it.executables.insert(row.executable);
            it.models.insert(row.model);
            it.backends.insert(row.backend);
            it.configs.insert(row.config);
            it.datasets.insert(row.dataset);
            it.runs.insert(row.run);
            if row.status.completed() {
                it.datasets_of_completed.insert(row.dataset);
                it.machines_of_completed.insert(row.machine);
            }
        }
        it
    }

    fn add_figures(&mut self, row: &Row) {
        if let Some(speed_up) = row.speed_up {
            for (basis, used) in Basis::ALL.iter().zip(&mut self.speed_ups_by) {
                *used |= speed_up.basis == *basis;
            }
            self.speed_up_intervals |= speed_up.interval.is_some();
        }
        self.uncompared |= row.is_ranked() && row.speed_up.is_none();
        self.train_loops |= row.timing().train_s.is_some();
        self.races |= row.race().is_some();
        let rates = row.roofline();
        self.rates |= rates.is_some();
        self.shares |= rates.is_some_and(|rates| rates.share.is_some());
        self.verified |= row.verification.is_some();
        self.different |= row.different;
        self.software |= row.software;
        self.exceptions |= !row.is_ranked();
        self.ours |= row.schema_version > 0;
        self.held_to_the_suites_target |=
            row.status == Status::NotConverged && row.schema_version == 0;
        self.without_run += usize::from(row.run.is_none());
        let scored = row.accuracy_source == Some(AccuracySource::Scored);
        let known = row.metrics().test_accuracy_percent.is_some();
        self.unscored += usize::from(known && !scored);
        self.noisy_runs += row.noisy_runs;
        self.repeated_runs += row.repeated_runs;
        self.counted_runs += row.counted_runs;
        self.turns += row.turns.len();
    }
}
