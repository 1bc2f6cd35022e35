//! One training as it is measured: a launch, and what else the machine did meanwhile.

use crate::launch::{self, CancelToken, Job, LaunchError, Outcome, Stream};
use crate::surroundings::{Look, Observer, Surroundings};
use serde::{Deserialize, Serialize};
use std::sync::{Mutex, PoisonError};

/// The result of a [`Job`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attempt {
    /// With the figures that come from the surroundings among its meters.
    pub outcome: Outcome,
    pub surroundings: Surroundings,
    /// Why the sample is noisy, in words; nothing if it is not.
    pub disturbances: Vec<String>,
}

/// Runs a job ([`launch::run`]) while an observer looks at the machine.
///
/// # Errors
/// If the launcher cannot be started.
pub fn attempt(
    job: &Job,
    look: Look,
    observer: &Mutex<Observer>,
    on_line: &mut dyn FnMut(Stream, &str),
    cancel: &CancelToken,
) -> Result<Attempt, LaunchError> {
    // Whoever panicked while holding it has at worst left out a look.
    let observer = || observer.lock().unwrap_or_else(PoisonError::into_inner);
    let beside = look.gpus.is_some();
    let window = observer().open(look);
    let mut outcome = launch::run(job, on_line, cancel)?;
    let mut observer = observer();
    let mut surroundings = observer.close(window);
    if beside {
        surroundings.forget_others();
    }
    let disturbances = surroundings.disturbances(observer.usual());
    for (name, reading) in surroundings.readings(beside) {
        outcome.meters.set(name, reading);
    }
    Ok(Attempt { outcome, surroundings, disturbances })
}
