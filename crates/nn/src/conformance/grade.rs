//! How equal a program's steps are to the reference's: the grades of `trainmark verify`
//! ([`protocol::grade`]), with bounds that were measured for each tensor of each model.
//!
//! In float32, errors are measured as in a [`Report`](super::Report): against the largest magnitude
//! of a tensor, since its weights are rounded to float32 at every step. In coarser arithmetic they are measured
//! against the change that the steps made. The largest single error says little there: a few samples always
//! fall on the other side of a ReLU's kink.

use super::tolerance::{batch_factor, loss_tolerance, scale_tensor, tolerance};
use super::trial::{Outcome, Trial};
use crate::Parameters;
use protocol::grade::quantity;
pub use protocol::grade::{Comparison, Grade, Quantity};
use protocol::verify::{BOUNDS, Bounds, BoundsFile, FINAL, INITIAL, LOSSES, ORDER};
use std::path::Path;
use std::{fs, io};

/// The error of a quantity in a precision coarser than float32: of a tensor the root mean square of its errors
/// relative to that of its change, of the loss as [`loss_tolerance`].
///
/// Measured by `cargo run -p trainmark-nn --example short -- FOLDER_OF_MNIST`, four seeds: tf32 up to
/// 4.4e-2 (fc1.bias of an mlp with rate 0.1, where ReLUs fall on the other side; else up to 1.1e-2),
/// bf16 up to 6.0e-2; losses up to 2.7e-3. A rate that is off by a tenth is 1e-1. The tiny models on
/// made images of the conformance cases, where one such ReLU is a good part of the model, mostly stay
/// below these too, but not all: the worst reach 0.6. A bound that lets them pass would let anything.
const SHORT_LOSS: f64 = 5e-3;
const TF32: f64 = 5e-2;
const BF16: f64 = 8e-2;

impl Trial<'_> {
    /// The losses of the first so many steps, and the parameters after them.
    ///
    /// # Panics
    /// If there are not so many steps, or none.
    pub fn after(&self, steps: usize) -> Outcome {
        let mut parameters = self.initial.clone();
        let values = parameters.values_mut().iter_mut().zip(&self.parameters[steps - 1]);
        values.for_each(|(value, &exact)| *value = exact as f32);
        Outcome {
            losses: self.losses[..steps].iter().map(|&loss| loss as f32).collect(),
            parameters,
        }
    }

    /// Writes what a trainer hands out that is the reference of a verification, of the first so many steps.
    ///
    /// # Errors
    /// If the folder or the disk refuses.
    ///
    /// # Panics
    /// If there are not so many steps, or none.
    pub fn write(&self, folder: &Path, steps: usize) -> io::Result<()> {
        let Outcome { losses, parameters } = self.after(steps);
        let weights = |it: &Parameters| it.to_safetensors().map_err(io::Error::other);
        fs::write(folder.join(INITIAL), weights(self.initial())?)?;
        fs::write(folder.join(ORDER), little_endian(self.order(steps), u32::to_le_bytes))?;
        fs::write(folder.join(LOSSES), little_endian(&losses, f32::to_le_bytes))?;
        fs::write(folder.join(FINAL), weights(&parameters)?)?;
        fs::write(folder.join(BOUNDS), serde_json::to_vec_pretty(&self.bounds(steps))?)
    }

    /// How far sound arithmetic may be from it after so many steps, by the name of a tensor, and `loss`.
    ///
    /// # Panics
    /// If there are not so many steps, or none.
    pub fn bounds(&self, steps: usize) -> BoundsFile {
        let model = self.job.model;
        let largest = self.losses[..steps].iter().copied().fold(1.0, f64::max);
        let losses = Bounds {
            magnitude: largest,
            change: None,
            largest_error: true,
            float32: loss_tolerance(model),
            tf32: SHORT_LOSS,
            bf16: SHORT_LOSS,
            gain: None,
        };
        let tensors = self.initial.tensors();
        let of = |(index, tensor): (usize, &crate::Tensor)| {
            let sibling = scale_tensor(tensors, index);
            let bounds = Bounds {
                magnitude: self.scales[steps - 1][sibling],
                change: Some(self.changes[steps - 1][sibling]),
                float32: tolerance(model, tensor.name) * batch_factor(self.job.batch_size),
                tf32: TF32,
                bf16: BF16,
                ..losses
            };
            (tensor.name.to_owned(), bounds)
        };
        let mut all: BoundsFile = tensors.iter().enumerate().map(of).collect();
        all.insert("loss".to_owned(), losses);
        all
    }

    /// Grades what a program made of the first `outcome.losses.len()` steps.
    ///
    /// # Panics
    /// If there are no losses, more than steps, or the parameters are another model's.
    pub fn grade(&self, outcome: &Outcome) -> Comparison {
        let steps = outcome.losses.len();
        assert!((1..=self.losses.len()).contains(&steps), "{steps} losses");
        assert_eq!(outcome.parameters.model(), self.job.model);
        let bounds = self.bounds(steps);
        let losses =
            quantity("loss", &self.losses[..steps], &outcome.losses, None, &bounds["loss"]);
        let tensors = self.initial.tensors().iter().map(|tensor| {
            let expected = &self.parameters[steps - 1][tensor.range()];
            let actual = &outcome.parameters.values()[tensor.range()];
            quantity(tensor.name, expected, actual, None, &bounds[tensor.name])
        });
        Comparison::of([losses].into_iter().chain(tensors).collect())
    }
}

/// As the files of a verification have numbers.
pub(crate) fn little_endian<T: Copy>(values: &[T], bytes: fn(T) -> [u8; 4]) -> Vec<u8> {
    values.iter().flat_map(|&value| bytes(value)).collect()
}
