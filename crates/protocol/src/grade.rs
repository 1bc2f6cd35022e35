//! The grades of `trainmark verify`: how nearly a program's steps equal a reference's. They are defined once for the
//! harness and for the tests of our own backends.
//!
//! A quantity is the losses, a parameter tensor, or a tensor of the optimiser. Its error is measured in two
//! ways: the largest one relative to a magnitude, and the root mean square relative to that of the *change*
//! that the steps made. Float32 rounds the weights themselves; coarser arithmetic rounds the factors of
//! products, so that its errors are a part of the change. Against the weights, a bound wide enough for bf16
//! would let a wrong learning rate pass.

use crate::verify::Bounds;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

/// How equal, from the best, or why nobody knows.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Every loss and every parameter is the reference's, rounded to float32.
    BitEqual,
    /// Within the rounding of sound float32 arithmetic, in any order of summation.
    Float32,
    /// Within the rounding of products of tf32 factors (10 bits of mantissa).
    Tf32,
    /// Within the rounding of products of bf16 factors (7 bits of mantissa).
    Bf16,
    /// Beyond all of that: it computes something else.
    Different,
    /// It was tried and broke down.
    Failed,
    /// The trainer does not take part, or the model has no reference.
    #[default]
    NotVerified,
    /// This machine lacks what the backend needs.
    Unavailable,
}

impl Grade {
    /// In a word or two, for tables.
    pub fn words(self) -> &'static str {
        match self {
            Grade::BitEqual => "bit-equal",
            Grade::Float32 => "float32",
            Grade::Tf32 => "tf32",
            Grade::Bf16 => "bf16",
            Grade::Different => "DIFFERENT",
            Grade::Failed => "failed",
            Grade::NotVerified => "not verified",
            Grade::Unavailable => "unavailable",
        }
    }

    /// Whether it was found to train the same thing as the reference.
    pub fn is_equal(self) -> bool {
        self < Grade::Different
    }
}

/// In a sentence.
impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Grade::Float32 => f.pad("equal within float32 rounding"),
            Grade::Tf32 | Grade::Bf16 => write!(f, "equal within {} precision", self.words()),
            Grade::Different => f.pad("different"),
            Grade::Failed => f.pad("the verification failed"),
            other => f.pad(other.words()),
        }
    }
}

/// The losses or one tensor, compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantity {
    /// `loss`, or the tensor's name.
    pub name: Cow<'static, str>,
    pub grade: Grade,
    /// The largest error relative to [`Bounds::magnitude`]. Infinite where a value is NaN.
    pub of_magnitude: f64,
    /// The root mean square of the errors relative to [`Bounds::change`]; without that, `of_magnitude`.
    pub of_change: f64,
    /// The place of the largest error: for the loss the step (from 0), for a tensor the element, row-major.
    pub place: usize,
    /// The reference's value at that place.
    pub expected: f64,
    /// The program's value at that place.
    pub actual: f64,
}

/// A program's outcome, compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The worst grade of the quantities.
    pub grade: Grade,
    /// The losses, then each tensor.
    pub quantities: Vec<Quantity>,
}

impl Comparison {
    /// The comparison of these quantities.
    pub fn of(quantities: Vec<Quantity>) -> Comparison {
        let grade = quantities.iter().map(|quantity| quantity.grade).max();
        Comparison { grade: grade.unwrap_or(Grade::Different), quantities }
    }
}

/// A quantity's bounds if its reference gives none. They come from errors of sound arithmetic with AdamW
/// (`crates/nn/src/gpt/conformance/grade.rs`), whose steps amplify rounding more than plain SGD's.
impl Bounds {
    /// The bounds of losses.
    pub fn of_losses(expected: &[f64]) -> Bounds {
        let magnitude = largest(expected).max(1.0);
        Bounds { magnitude, change: None, float32: 2e-6, tf32: 1e-3, bf16: 5e-3, ..Bounds::NONE }
    }

    /// The bounds of a tensor: a parameter with its values before the first step, or a part of the optimiser's state.
    pub fn of_tensor(expected: &[f64], initial: Option<&[f32]>) -> Bounds {
        let magnitude = largest(expected);
        let Some(initial) = initial else {
            let change = Some(root_mean_square(expected.iter().copied()));
            return Bounds {
                magnitude,
                change,
                float32: 2e-4,
                tf32: 3e-2,
                bf16: 2e-1,
                ..Bounds::NONE
            };
        };
        let change =
            expected.iter().zip(initial).map(|(&after, &before)| after - f64::from(before));
        let change = Some(root_mean_square(change));
        let gain = Some(0.05);
        Bounds { magnitude, change, float32: 4e-3, tf32: 2e-1, bf16: 4e-1, gain, ..Bounds::NONE }
    }

    const NONE: Bounds = Bounds {
        magnitude: 0.0,
        change: None,
        largest_error: false,
        float32: 0.0,
        tf32: 0.0,
        bf16: 0.0,
        gain: None,
    };
}

/// Compares a quantity. `initial`: of a parameter, its values before the first step.
pub fn quantity(
    name: impl Into<Cow<'static, str>>,
    expected: &[f64],
    actual: &[f32],
    initial: Option<&[f32]>,
    bounds: &Bounds,
) -> Quantity {
    let (mut worst, mut place) = (0.0, 0);
    let pairs = || expected.iter().zip(actual);
    let error = |(&expected, &actual): (&f64, &f32)| (f64::from(actual) - expected).abs();
    for (index, error) in pairs().map(error).enumerate() {
        // The first NaN is the worst.
        if error > worst || (error.is_nan() && worst.is_finite()) {
            (worst, place) = (if error.is_nan() { f64::INFINITY } else { error }, index);
        }
    }
    let of_magnitude = quotient(worst, bounds.magnitude);
    let of_change = match bounds.change {
        Some(change) => quotient(root_mean_square(pairs().map(error)), change),
        None => of_magnitude,
    };
    let bit_equal = pairs().all(|(&expected, &actual)| actual == expected as f32);
    let single = if bounds.largest_error { of_magnitude } else { of_change };
    let strays = || match (bounds.gain, initial) {
        (Some(most), Some(initial)) => {
            let distance = (gain(expected, actual, initial) - 1.0).abs();
            distance > most || distance.is_nan()
        }
        _ => false,
    };
    let grade = match of_change {
        _ if bit_equal => Grade::BitEqual,
        _ if single <= bounds.float32 => Grade::Float32,
        _ if strays() => Grade::Different,
        of_change if of_change <= bounds.tf32 => Grade::Tf32,
        of_change if of_change <= bounds.bf16 => Grade::Bf16,
        _ => Grade::Different,
    };
    let at = |values: &[f64]| values.get(place).copied().unwrap_or_default();
    Quantity {
        name: name.into(),
        grade,
        of_magnitude,
        of_change,
        place,
        expected: at(expected),
        actual: actual.get(place).copied().unwrap_or_default().into(),
    }
}

/// The share of the expected change that was made, along that change; 1 if there is no change. Rounding hardly moves
/// it. A learning rate that is wrong by a tenth moves it by a tenth.
fn gain(expected: &[f64], actual: &[f32], initial: &[f32]) -> f64 {
    let (mut along, mut whole) = (0.0, 0.0);
    for ((&expected, &actual), &initial) in expected.iter().zip(actual).zip(initial) {
        let change = expected - f64::from(initial);
        along += (f64::from(actual) - f64::from(initial)) * change;
        whole += change * change;
    }
    if along == whole { 1.0 } else { along / whole }
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most, value| most.max(value.abs()))
}

fn root_mean_square(values: impl Iterator<Item = f64>) -> f64 {
    let (squares, count) =
        values.fold((0.0, 0.0), |(sum, count), value| (sum + value * value, count + 1.0));
    (squares / f64::max(count, 1.0)).sqrt()
}

/// An error relative to a magnitude: 0 stays 0 whatever the magnitude, and NaN is infinite.
fn quotient(error: f64, scale: f64) -> f64 {
    match error {
        0.0 => 0.0,
        error if error.is_nan() => f64::INFINITY,
        error => error / scale,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INITIAL: [f32; 4] = [1.0, -1.0, 0.5, 0.25];
    const EXPECTED: [f64; 4] = [1.1, -0.9, 0.45, 0.3];

    fn graded(change: impl Fn(f64) -> f64) -> Grade {
        let made = EXPECTED.iter().zip(INITIAL);
        let actual: Vec<f32> = made
            .map(|(after, before)| (f64::from(before) + change(after - f64::from(before))) as f32)
            .collect();
        let bounds = Bounds::of_tensor(&EXPECTED, Some(&INITIAL));
        quantity("w", &EXPECTED, &actual, Some(&INITIAL), &bounds).grade
    }

    #[test]
    fn a_change_is_graded_by_how_much_of_it_was_made_and_along_which_way() {
        assert_eq!(graded(|change| change), Grade::BitEqual);
        assert_eq!(graded(|change| change * 1.003), Grade::Float32);
        assert_eq!(graded(|change| change * 0.96), Grade::Tf32);
        assert_eq!(
            graded(|change| change * 0.9),
            Grade::Different,
            "a rate that is off by a tenth"
        );
        assert_eq!(graded(|_| f64::NAN), Grade::Different);
    }

    #[test]
    fn a_loss_is_graded_by_its_largest_error() {
        let expected = [2.0, 1.0];
        let bounds = Bounds::of_losses(&expected);
        let grade = |actual: [f32; 2]| quantity("loss", &expected, &actual, None, &bounds);
        assert_eq!(grade([2.0, 1.0]).grade, Grade::BitEqual);
        assert_eq!(grade([2.0, 1.000_001]).grade, Grade::Float32);
        let wrong = grade([2.0, 1.1]);
        assert_eq!((wrong.grade, wrong.place), (Grade::Different, 1));
        assert_eq!(grade([f32::NAN, 1.0]).of_change, f64::INFINITY);
    }
}
