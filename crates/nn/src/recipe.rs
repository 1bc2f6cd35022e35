//! Everything that the seed decides: initial weights and the order of the samples. Also the loss of an epoch.
//!
//! One generator for everything: ChaCha8, a published stream cipher, through `rand_chacha`, keyed
//! with the seed's 64 bits. Weights come from stream 0, the order of epoch `e` (from 0) from stream
//! `e + 1`, so that any epoch's order can be had without those before it. The same seed gives the
//! same weights and order on every platform, for every backend and at any thread count.

use crate::{Parameters, TensorRole};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

pub(crate) fn generator(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut generator = ChaCha8Rng::from_seed(key);
    generator.set_stream(stream);
    generator
}

/// Fills the parameters with their initial values: Glorot-uniform weights (Glorot and Bengio,
/// AISTATS 2010, equation 16), zero biases. Tensors are drawn in the order of the flat buffer, one
/// 32-bit word per element, of which the upper 24 bits make the fraction.
pub fn initialise(parameters: &mut Parameters, seed: u64) {
    let mut words = generator(seed, 0);
    for tensor in parameters.tensors().to_vec() {
        let values = &mut parameters.values_mut()[tensor.range()];
        match tensor.role {
            TensorRole::Bias => values.fill(0.0),
            TensorRole::Weight { fan_in, fan_out } => {
                let limit = (6.0 / (fan_in + fan_out) as f64).sqrt();
                for value in values {
                    let fraction = f64::from(words.next_u32() >> 8) / f64::from(1 << 24); // [0, 1)
                    *value = ((2.0 * fraction - 1.0) * limit) as f32;
                }
            }
        }
    }
}

/// Writes the order of the samples in one epoch (counted from 0): a permutation of
/// `0..order.len()` by Fisher and Yates (Knuth, TAOCP 2, algorithm P), from the last element down,
/// each index by multiplying a 32-bit word with the number of choices.
pub fn shuffle(order: &mut [u32], seed: u64, epoch: u32) {
    let mut words = generator(seed, u64::from(epoch) + 1);
    for (index, slot) in order.iter_mut().enumerate() {
        *slot = index as u32; // datasets have fewer than 2^32 samples
    }
    for last in (1..order.len()).rev() {
        let choices = last as u64 + 1;
        let chosen = (u64::from(words.next_u32()) * choices) >> 32;
        order.swap(last, chosen as usize);
    }
}

/// The mean over the samples of an epoch, each at its own step.
///
/// # Errors
/// The first step (from 1) whose loss is not finite.
pub fn mean_loss(step_loss: &[f32], batch_size: usize, samples: usize) -> Result<f64, usize> {
    let mut sum = 0.0;
    for (step, &loss) in step_loss.iter().enumerate() {
        if !loss.is_finite() {
            return Err(step + 1);
        }
        sum += f64::from(loss) * batch_size.min(samples - step * batch_size) as f64;
    }
    Ok(sum / samples as f64)
}

#[cfg(test)]
mod tests {
    use super::mean_loss;

    #[test]
    fn the_epochs_loss_weighs_the_last_batch_by_its_samples() {
        assert_eq!(mean_loss(&[1.0, 1.0, 4.0], 10, 21), Ok((20.0 + 4.0) / 21.0));
        assert_eq!(mean_loss(&[1.0, f32::NAN, f32::INFINITY], 10, 30), Err(2));
    }
}
