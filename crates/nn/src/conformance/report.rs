//! The result of a comparison.

use super::steps::Steps;
use crate::Model;
use crate::backend::Description;
use std::fmt;

/// The largest deviation of one quantity: the loss, or a parameter tensor.
#[derive(Clone, Debug)]
pub struct Deviation {
    /// `loss`, or the tensor's name.
    pub name: &'static str,
    /// The error of the loss is relative, or in nats if the loss is below 1. That of a tensor is relative to the tensor's
    /// largest magnitude. Infinite where the value is NaN.
    pub largest: f64,
    /// The bound for sound arithmetic of the backend's precision.
    pub tolerance: f64,
    /// Step (from 0) of the first deviation beyond the tolerance.
    pub first_step: Option<usize>,
    /// Where the largest deviation is: the element within the tensor, row-major.
    pub element: usize,
    /// There: the reference's value.
    pub expected: f64,
    /// There: the backend's.
    pub actual: f64,
}

impl Deviation {
    pub(super) fn new(name: &'static str, tolerance: f64) -> Deviation {
        Deviation {
            name,
            largest: 0.0,
            tolerance,
            first_step: None,
            element: 0,
            expected: 0.0,
            actual: 0.0,
        }
    }

    /// Whether it stays within the tolerance.
    pub fn passed(&self) -> bool {
        self.first_step.is_none()
    }

    pub(super) fn note(
        &mut self,
        error: f64,
        step: usize,
        element: usize,
        expected: f64,
        actual: f64,
    ) {
        let error = if error.is_nan() { f64::INFINITY } else { error };
        if error > self.largest {
            (self.largest, self.element) = (error, element);
            (self.expected, self.actual) = (expected, actual);
        }
        if error > self.tolerance && self.first_step.is_none_or(|first| step < first) {
            self.first_step = Some(step);
        }
    }
}

/// The result of a comparison. Its `Display` is the table that `mnist-classic --check` prints.
#[derive(Clone, Debug)]
pub struct Report {
    pub backend: &'static str,
    pub description: Description,
    pub model: Model,
    pub steps: Steps,
    /// The loss, then each parameter tensor in the order of the flat buffer.
    pub deviations: Vec<Deviation>,
    /// Images of which the backend predicts another label though the reference is sure.
    pub wrong_predictions: usize,
    /// How near a sample came to a kink of the loss.
    pub kink_distance: f64,
}

impl Report {
    pub(super) fn new(
        backend: &'static str,
        description: Description,
        model: Model,
        steps: Steps,
    ) -> Report {
        Report {
            backend,
            description,
            model,
            steps,
            deviations: Vec::new(),
            wrong_predictions: 0,
            kink_distance: f64::INFINITY,
        }
    }

    /// Whether everything stays within its tolerance.
    pub fn passed(&self) -> bool {
        self.deviations.iter().all(Deviation::passed) && self.wrong_predictions == 0
    }

    /// The first step (from 0) at which anything deviates.
    pub fn first_step(&self) -> Option<usize> {
        self.deviations.iter().filter_map(|deviation| deviation.first_step).min()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Steps { count, batch_size, last_batch, learning_rate } = self.steps;
        writeln!(
            f,
            "{} ({}) beside the float64 reference: {}, {count} steps of {batch_size}, the last of \
             {last_batch}, learning rate {learning_rate}",
            self.backend,
            self.description.path,
            self.model.id(),
        )?;
        writeln!(f, "{:<14}{:>18}{:>12}", "", "largest deviation", "tolerance")?;
        for deviation in &self.deviations {
            let Deviation { name, largest, tolerance, element, expected, actual, .. } = deviation;
            write!(f, "{name:<14}{largest:>18.1e}{tolerance:>12.1e}")?;
            if let Some(step) = deviation.first_step {
                let step = step + 1;
                write!(f, "  beyond it from step {step}: element {element} is {actual:e}, ")?;
                write!(f, "should be {expected:e}")?;
            }
            writeln!(f)?;
        }
        if self.wrong_predictions > 0 {
            writeln!(f, "{} clear predictions are wrong", self.wrong_predictions)?;
        }
        match (self.passed(), self.first_step()) {
            (true, _) => write!(f, "equal within {} rounding", self.description.precision),
            (false, Some(step)) => write!(f, "DIFFERENT from step {} on", step + 1),
            (false, None) => write!(f, "DIFFERENT in its predictions"),
        }
    }
}
