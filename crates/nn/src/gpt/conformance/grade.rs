//! How equal a program's steps are to the reference's.
//!
//! AdamW divides a gradient by its own size: where a gradient is all rounding, the step is a whole
//! learning rate in a direction that rounding chose. A few elements of every tensor are like that, so the
//! largest error says nothing. Errors are therefore measured as root mean squares: of parameters and
//! moments against the change that the steps made to them, of logits against the logits. In coarse
//! arithmetic a good part of the elements are like that, and a bound that lets them pass would also let a
//! wrong learning rate pass. So the *gain* of a parameter is bounded too: the program's change projected
//! onto the reference's, which rounding hardly moves, and a rate that is off by a tenth moves by a tenth.
//!
//! The bounds are several times the largest that sound arithmetic showed:
//! `cargo run --release -p trainmark-nn --example gpt_rounding` prints it for the reference's own code in
//! float32, and with the factors of all products rounded to tf32 and to bf16.

use super::trial::{Outcome, Trial};
use crate::conformance::{Comparison, Grade, Quantity};
use std::borrow::Cow;

/// What a quantity's error may be, by grade.
struct Bounds {
    float32: f64,
    tf32: f64,
    bf16: f64,
}

/// Relative.
const LOSS: Bounds = Bounds { float32: 2e-6, tf32: 1e-3, bf16: 5e-3 };
const PARAMETER: Bounds = Bounds { float32: 4e-3, tf32: 2e-1, bf16: 4e-1 };
const MOMENT: Bounds = Bounds { float32: 2e-4, tf32: 3e-2, bf16: 2e-1 };
const LOGITS: Bounds = Bounds { float32: 2e-4, tf32: 3e-2, bf16: 2e-1 };
/// How far a parameter's gain may be from 1 in tf32 and bf16.
const GAIN: f64 = 0.05;

impl Trial<'_> {
    /// Grades what a program made of the first `outcome.losses.len()` steps: the losses, then parameter,
    /// first and second moment of each tensor.
    ///
    /// # Panics
    /// If there are no losses, more than steps, or the state is another model's.
    pub fn grade(&self, outcome: &Outcome) -> Comparison {
        let steps = outcome.losses.len();
        assert!((1..=self.count()).contains(&steps), "{steps} losses");
        assert_eq!(outcome.state.shape(), self.job.shape);
        let mut quantities = vec![self.losses(&outcome.losses)];
        let (expected, actual) = (&self.states[steps - 1], &outcome.state);
        let parts = self.initial.parts().into_iter().zip(expected.parts()).zip(actual.parts());
        let bounds = [PARAMETER, MOMENT, MOMENT];
        for ((((prefix, initial), (_, expected)), (_, actual)), bounds) in parts.zip(&bounds) {
            for tensor in self.initial.tensors() {
                let [initial, expected, actual] =
                    [initial, expected, actual].map(|values| &values[tensor.range()]);
                let difference = |(&a, &b): (&f32, &f32)| f64::from(a) - f64::from(b);
                let change: Vec<f64> = expected.iter().zip(initial).map(difference).collect();
                let made = actual.iter().zip(initial).map(difference);
                let gain = match prefix {
                    "" => gain(made, &change),
                    _ => 1.0,
                };
                let size = root_mean_square(change.into_iter());
                let expected: Vec<f64> = expected.iter().map(|&value| value.into()).collect();
                let name = format!("{prefix}{}", tensor.name);
                let mut found = quantity(name.into(), &expected, actual, size, bounds);
                if found.grade > Grade::Float32 && (gain - 1.0).abs() > GAIN {
                    found.grade = Grade::Different;
                }
                quantities.push(found);
            }
        }
        if actual.steps != expected.steps {
            quantities.push(steps_differ(expected.steps, actual.steps));
        }
        let grade = quantities.iter().map(|quantity| quantity.grade).max();
        Comparison { grade: grade.unwrap_or(Grade::Different), quantities }
    }

    /// Grades the logits at the end.
    pub(super) fn grade_logits(&self, logits: &[f32]) -> Quantity {
        let size = root_mean_square(self.logits.iter().copied());
        quantity("logits".into(), &self.logits, logits, size, &LOGITS)
    }

    fn losses(&self, losses: &[f32]) -> Quantity {
        let expected = &self.losses[..losses.len()];
        let size = root_mean_square(expected.iter().copied()).max(1.0);
        quantity("loss".into(), expected, losses, size, &LOSS)
    }
}

fn quantity(
    name: Cow<'static, str>,
    expected: &[f64],
    actual: &[f32],
    size: f64,
    bounds: &Bounds,
) -> Quantity {
    let largest = expected.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
    let (mut worst, mut place) = (0.0, 0);
    let errors: Vec<f64> =
        expected.iter().zip(actual).map(|(&e, &a)| (f64::from(a) - e).abs()).collect();
    for (index, &error) in errors.iter().enumerate() {
        // What is NaN is worst, and the first of them.
        if error > worst || (error.is_nan() && worst.is_finite()) {
            (worst, place) = (if error.is_nan() { f64::INFINITY } else { error }, index);
        }
    }
    let of_change = quotient(root_mean_square(errors.into_iter()), size);
    let bit_equal = expected.iter().zip(actual).all(|(&e, &a)| a == e as f32);
    let grade = match of_change {
        _ if bit_equal => Grade::BitEqual,
        of_change if of_change <= bounds.float32 => Grade::Float32,
        of_change if of_change <= bounds.tf32 => Grade::Tf32,
        of_change if of_change <= bounds.bf16 => Grade::Bf16,
        _ => Grade::Different,
    };
    Quantity {
        name,
        grade,
        of_magnitude: quotient(worst, largest),
        of_change,
        place,
        expected: expected[place],
        actual: actual[place].into(),
    }
}

fn steps_differ(expected: u64, actual: u64) -> Quantity {
    Quantity {
        name: "steps".into(),
        grade: Grade::Different,
        of_magnitude: f64::INFINITY,
        of_change: f64::INFINITY,
        place: 0,
        expected: expected as f64,
        actual: actual as f64,
    }
}

/// How much of the expected change was made, along it. No change at all is whole.
fn gain(made: impl Iterator<Item = f64>, expected: &[f64]) -> f64 {
    let along: f64 = made.zip(expected).map(|(made, expected)| made * expected).sum();
    let whole: f64 = expected.iter().map(|expected| expected * expected).sum();
    if along == whole { 1.0 } else { along / whole }
}

fn root_mean_square(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    (values.map(|value| value * value).sum::<f64>() / count).sqrt()
}

/// No error is none, whatever it is relative to; what is NaN is infinitely wrong.
fn quotient(error: f64, size: f64) -> f64 {
    match error {
        0.0 => 0.0,
        error if error.is_nan() => f64::INFINITY,
        error => error / size,
    }
}
