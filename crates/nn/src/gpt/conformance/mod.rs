//! Whether a program trains the same GPT as the float64 [`Reference`](super::Reference): the same initial
//! parameters and windows, ten steps of AdamW, then each step's loss, each named parameter and both of
//! its moments compared.
//!
//! A backend's tests are two lines, [`require`] and [`require_contract`]. A program of its own is graded
//! through files: [`Trial::grade`].
//!
//! ```no_run
//! # fn backend() -> &'static dyn nn::backend::Backend { unimplemented!() }
//! use nn::{backend::Options, gpt::conformance};
//! conformance::require(backend(), &[Options::default()], |_| true);
//! conformance::require_contract(backend(), &Options::default());
//! ```

mod case;
mod contract;
mod grade;
mod plain;
mod report;
mod trial;

#[cfg(test)]
mod faults;

pub use case::{Case, cases};
pub use contract::{contract, require_contract};
pub use plain::{Plain, bf16_backend, tf32_backend};
pub use report::Report;
pub use trial::{Outcome, Trial, moved, verifiable};

use crate::backend::{Backend, Options};

/// Runs every case that `wanted` picks, under each of these options.
///
/// # Panics
/// If the backend fails, deviates, or if no case was wanted.
pub fn require(backend: &dyn Backend, options: &[Options], wanted: impl Fn(&Case) -> bool) {
    let mut runs = 0;
    for case in cases().into_iter().filter(wanted) {
        let text = case.text();
        let trial = case.trial(&text);
        for options in options {
            match trial.run(backend, options) {
                Ok(report) => assert!(report.passed(), "{case:?}\n{options:?}\n{report}"),
                Err(error) => panic!("{case:?}\n{options:?}\n{error}"),
            }
            runs += 1;
        }
    }
    assert!(runs > 0, "no case was run");
}
