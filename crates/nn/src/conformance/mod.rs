//! Whether a backend trains the same thing as the float64 [`reference`](crate::reference): the same
//! initial weights and batches, ten steps, then each step's loss and each named parameter compared.
//!
//! A backend's tests are two lines, [`require`] and [`require_contract`]; they run every case of
//! [`cases`], so that a case added here is a test of every backend. `mnist-classic --check` runs a
//! [`Trial`] on the user's own model, seed and data.
//!
//! ```no_run
//! # fn backend() -> &'static dyn nn::backend::Backend { unimplemented!() }
//! use nn::{backend::Options, conformance};
//! conformance::require(backend(), &[Options::default()], |case| case.model.id() == "mlp");
//! conformance::require_contract(backend(), &Options::default(), conformance::small_model("mlp"));
//! ```

mod case;
mod contract;
mod grade;
mod plain;
mod report;
mod short;
mod steps;
mod tolerance;
mod trial;

#[cfg(test)]
mod faults;

pub use case::{Case, Images, cases, small_model};
pub use contract::{contract, require_contract};
pub(crate) use grade::little_endian;
pub use grade::{Comparison, Grade, Quantity};
pub use plain::Plain;
pub use report::{Deviation, Report};
pub use short::{Bf16, Short, Tf32, short_backends};
pub use steps::Steps;
pub use tolerance::{loss_tolerance, tolerance};
pub use trial::{KINK, Outcome, Trial};

use crate::backend::{Backend, Options};
use std::sync::OnceLock;

/// The cases that `wanted` picks, each with the reference's result, which a process computes once.
pub fn trials(
    wanted: impl Fn(&Case) -> bool,
) -> impl Iterator<Item = (Case, &'static Trial<'static>)> {
    static KNOWN: OnceLock<Vec<(Case, OnceLock<Trial<'static>>)>> = OnceLock::new();
    let known = KNOWN.get_or_init(|| cases().into_iter().map(|it| (it, OnceLock::new())).collect());
    known.iter().filter(move |(case, _)| wanted(case)).map(|(case, trial)| {
        (*case, trial.get_or_init(|| case.trial(Box::leak(Box::new(case.data())))))
    })
}

/// Runs every case that `wanted` picks, under each of these options.
///
/// # Panics
/// If the backend fails, deviates, or if no case was wanted.
pub fn require(backend: &dyn Backend, options: &[Options], wanted: impl Fn(&Case) -> bool) {
    let mut runs = 0;
    for (case, trial) in trials(wanted) {
        for options in options {
            match trial.run(backend, options) {
                Ok(report) => assert!(report.passed(), "{case}\n{options:?}\n{report}"),
                Err(error) => panic!("{case}\n{options:?}\n{error}"),
            }
            runs += 1;
        }
    }
    assert!(runs > 0, "no case was run");
}
