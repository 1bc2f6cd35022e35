//! Checks that a record agrees with itself: its figures follow from its samples, and no round counts twice.

use crate::figures::{self, Figure};
use crate::result::Record;
use crate::sample::Sample;
use crate::status::Status;

impl Record {
    /// As it stands in a file, held against itself: the status is what all that it states allows.
    pub fn checked(mut self) -> Record {
        self.reconcile();
        self.judge();
        self
    }

    /// Samples are what was measured; what a file states of all of them together must follow from them.
    fn reconcile(&mut self) {
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
        if let Some(reason) = twice.or(differs) {
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
