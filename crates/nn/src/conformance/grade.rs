//! How equal a program's steps are to the reference's: the grades of `trainmark verify`.
//!
//! In float32, errors are measured as in a [`Report`](super::Report): against the largest magnitude
//! of a tensor, since its weights are rounded to float32 at every step. Coarser units round the
//! factors of their products, not the weights: their errors are a part of the *change* that training
//! makes to a tensor, and are measured against it, root mean square against root mean square. Against
//! the weights themselves, a bound wide enough for bf16 would let a wrong learning rate pass; and the
//! largest single error says little, since in coarse arithmetic a few samples always fall on the other
//! side of a ReLU's kink.

use super::tolerance::{batch_factor, loss_tolerance, scale_tensor, tolerance};
use super::trial::{Outcome, Trial};
use std::borrow::Cow;
use std::fmt;

/// How equal, from the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grade {
    /// Every loss and every parameter is the float32 that is nearest to the float64 reference's.
    BitEqual,
    /// Within the rounding of sound float32 arithmetic, in any order of summation.
    Float32,
    /// Within the rounding of products of tf32 factors (10 bits of mantissa).
    Tf32,
    /// Within the rounding of products of bf16 factors (7 bits of mantissa).
    Bf16,
    /// Beyond all of that: it computes something else.
    Different,
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Grade::BitEqual => "bit-equal",
            Grade::Float32 => "equal within float32 rounding",
            Grade::Tf32 => "equal within tf32 precision",
            Grade::Bf16 => "equal within bf16 precision",
            Grade::Different => "different",
        })
    }
}

/// The losses or one parameter tensor, compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantity {
    /// `loss`, or the tensor's name.
    pub name: Cow<'static, str>,
    pub grade: Grade,
    /// The largest error: of a loss relative or, below 1 nat, absolute; of a tensor relative to its
    /// largest magnitude so far. Infinite where a value is NaN.
    pub of_magnitude: f64,
    /// Of a tensor: the root mean square of its errors relative to that of the change that the steps
    /// made to it. Of the loss the same as `of_magnitude`.
    pub of_change: f64,
    /// Of the loss: the step (from 0) of the largest error. Of a tensor: the element, row-major.
    pub place: usize,
    /// There: the reference's value.
    pub expected: f64,
    /// There: the program's.
    pub actual: f64,
}

/// A program's outcome, compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The worst of the quantities'.
    pub grade: Grade,
    /// The losses, then each parameter tensor in the order of the flat buffer.
    pub quantities: Vec<Quantity>,
}

/// A value beside the reference's.
#[derive(Clone, Copy)]
struct Pair {
    expected: f64,
    actual: f32,
}

/// Of a quantity in a precision coarser than float32: of a tensor the root mean square of its errors
/// relative to that of its change, of the loss as [`loss_tolerance`].
///
/// Measured by `cargo run -p trainmark-nn --example short -- FOLDER_OF_MNIST`, four seeds: tf32 up to
/// 4.4e-2 (fc1.bias of an mlp with rate 0.1, where ReLUs fall on the other side; else up to 1.1e-2),
/// bf16 up to 6.0e-2; losses up to 2.7e-3. A rate that is off by a tenth is 1e-1. The tiny models on
/// made images of the conformance cases, where one such ReLU is a good part of the model, mostly stay
/// below these too, but not all: the worst reach 0.6. A bound that lets them pass would let anything.
fn short_tolerance(name: &str, precision: Grade) -> f64 {
    match (name, precision) {
        ("loss", _) => 5e-3,
        (_, Grade::Tf32) => 5e-2,
        _ => 8e-2,
    }
}

impl Trial<'_> {
    /// Grades what a program made of the first `outcome.losses.len()` steps.
    ///
    /// # Panics
    /// If there are no losses, more than steps, or the parameters are another model's.
    pub fn grade(&self, outcome: &Outcome) -> Comparison {
        let steps = outcome.losses.len();
        assert!((1..=self.losses.len()).contains(&steps), "{steps} losses");
        assert_eq!(outcome.parameters.model(), self.job.model);
        let mut quantities = vec![self.losses(&outcome.losses)];
        let tensors = self.initial.tensors();
        for (index, tensor) in tensors.iter().enumerate() {
            let pairs = tensor.range().map(|place| Pair {
                expected: self.parameters[steps - 1][place],
                actual: outcome.parameters.values()[place],
            });
            let sibling = scale_tensor(tensors, index);
            let magnitude = self.scales[steps - 1][sibling];
            let change = self.changes[steps - 1][sibling];
            let exact = tolerance(self.job.model, tensor.name) * batch_factor(self.job.batch_size);
            let grades =
                Grades { exact, short: |precision| short_tolerance(tensor.name, precision) };
            quantities.push(grades.quantity(tensor.name, pairs, |_| magnitude, Some(change)));
        }
        let grade = quantities.iter().map(|quantity| quantity.grade).max();
        Comparison { grade: grade.unwrap_or(Grade::Different), quantities }
    }

    fn losses(&self, losses: &[f32]) -> Quantity {
        let pairs = losses.iter().zip(&self.losses);
        let pairs = pairs.map(|(&actual, &expected)| Pair { expected, actual });
        let exact = loss_tolerance(self.job.model);
        let grades = Grades { exact, short: |precision| short_tolerance("loss", precision) };
        grades.quantity("loss", pairs, |expected| expected.max(1.0), None)
    }
}

/// The bounds of a quantity.
struct Grades<S> {
    /// Relative to the magnitude, in float32.
    exact: f64,
    /// Relative to the change, of a coarser precision.
    short: S,
}

impl<S: Fn(Grade) -> f64> Grades<S> {
    /// `magnitude`: of an expected value, what its error is relative to. `change`: the root mean
    /// square of a tensor's.
    fn quantity(
        &self,
        name: &'static str,
        pairs: impl Iterator<Item = Pair>,
        magnitude: impl Fn(f64) -> f64,
        change: Option<f64>,
    ) -> Quantity {
        let mut quantity = Quantity {
            name: name.into(),
            grade: Grade::BitEqual,
            of_magnitude: 0.0,
            of_change: 0.0,
            place: 0,
            expected: 0.0,
            actual: 0.0,
        };
        let mut bit_equal = true;
        let (mut squares, mut count) = (0.0, 0);
        for (place, Pair { expected, actual }) in pairs.enumerate() {
            bit_equal &= actual == expected as f32;
            let error = (f64::from(actual) - expected).abs();
            let of_magnitude = quotient(error, magnitude(expected));
            (squares, count) = (squares + error * error, count + 1);
            if of_magnitude > quantity.of_magnitude {
                quantity.of_magnitude = of_magnitude;
                (quantity.place, quantity.expected) = (place, expected);
                quantity.actual = actual.into();
            }
        }
        let mean_square: f64 = squares / f64::from(count.max(1));
        quantity.of_change = match change {
            Some(change) => quotient(mean_square.sqrt(), change),
            None => quantity.of_magnitude,
        };
        quantity.grade = match quantity.of_change {
            _ if bit_equal => Grade::BitEqual,
            _ if quantity.of_magnitude <= self.exact => Grade::Float32,
            of_change if of_change <= (self.short)(Grade::Tf32) => Grade::Tf32,
            of_change if of_change <= (self.short)(Grade::Bf16) => Grade::Bf16,
            _ => Grade::Different,
        };
        quantity
    }
}

/// No error is none, whatever it is relative to; what is NaN is infinitely wrong.
fn quotient(error: f64, scale: f64) -> f64 {
    match error {
        0.0 => 0.0,
        error if error.is_nan() => f64::INFINITY,
        error => error / scale,
    }
}
