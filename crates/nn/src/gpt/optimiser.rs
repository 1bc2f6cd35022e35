//! AdamW (Loshchilov and Hutter, ICLR 2019) as PyTorch's `torch.optim.AdamW` computes it, after
//! clipping by the global norm as `torch.nn.utils.clip_grad_norm_`, with nanoGPT's schedule.
//!
//! One step `t` (from 0) on parameters `p` with gradient `g`, moments `m` and `v`:
//!
//! ```text
//! g *= min(1, 1 / (norm(g) + 1e-6))           norm over all elements of all tensors
//! p *= 1 - rate(t) * 0.1                      matrices only
//! m = 0.9 m + (1 - 0.9) g
//! v = 0.99 v + (1 - 0.99) g^2
//! p -= rate(t) / (1 - 0.9^(t+1)) * m / (sqrt(v) / sqrt(1 - 0.99^(t+1)) + 1e-8)
//! ```

/// Decay of the first moment.
pub const BETA1: f64 = 0.9;
/// Decay of the second moment.
pub const BETA2: f64 = 0.99;
/// Added to the root of the second moment.
pub const EPSILON: f64 = 1e-8;
/// The weight decay of matrices, as a multiple of the learning rate.
pub const WEIGHT_DECAY: f64 = 0.1;
/// The largest norm of a gradient.
pub const CLIP: f64 = 1.0;
/// Added to the norm before the division, as PyTorch does.
pub const CLIP_EPSILON: f64 = 1e-6;
/// Where the cosine ends, as a part of the learning rate.
pub const FLOOR: f64 = 0.1;

/// The options of the optimiser.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// The highest rate.
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// Steps of the whole training, where the cosine ends.
    pub steps: u64,
}

/// The numbers of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    pub rate: f64,
    /// `1 - BETA1^(t+1)`.
    pub correction1: f64,
    /// `1 - BETA2^(t+1)`.
    pub correction2: f64,
}

impl AdamW {
    /// The learning rate of a step, counted from 0: `learning_rate * (step + 1) / (warmup + 1)` during
    /// the warm-up, then half a cosine down to [`FLOOR`] of it at `steps`, and the floor from there on.
    pub fn rate(&self, step: u64) -> f64 {
        let AdamW { learning_rate, warmup, steps } = *self;
        if step < warmup {
            return learning_rate * (step + 1) as f64 / (warmup + 1) as f64;
        }
        let floor = FLOOR * learning_rate;
        if step >= steps {
            return floor;
        }
        let part = (step - warmup) as f64 / (steps - warmup) as f64; // step < steps: not 0
        let coefficient = 0.5 * (1.0 + (std::f64::consts::PI * part).cos());
        floor + coefficient * (learning_rate - floor)
    }

    /// The numbers of a step, counted from 0.
    pub fn step(&self, step: u64) -> Step {
        let power = |beta: f64| beta.powf((step + 1) as f64);
        Step {
            rate: self.rate(step),
            correction1: 1.0 - power(BETA1),
            correction2: 1.0 - power(BETA2),
        }
    }
}

/// The factor that clips a gradient of this norm.
pub fn clip_factor(norm: f64) -> f64 {
    (CLIP / (norm + CLIP_EPSILON)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_in_a_line_falls_as_a_cosine_and_stays_at_a_tenth() {
        let adamw = AdamW { learning_rate: 1e-3, warmup: 100, steps: 2000 };
        let near = |step, expected: f64| {
            let rate = adamw.rate(step);
            assert!((rate - expected).abs() < 1e-15, "step {step}: {rate}, not {expected}");
        };
        near(0, 1e-3 / 101.0);
        near(99, 1e-3 * 100.0 / 101.0);
        near(100, 1e-3);
        near(1050, 0.5 * (1e-3 + 1e-4)); // halfway
        near(2000, 1e-4);
        near(5000, 1e-4);
        // A training that is all warm-up.
        let short = AdamW { learning_rate: 1.0, warmup: 10, steps: 5 };
        assert_eq!(short.rate(4), 5.0 / 11.0);
        assert_eq!(short.rate(10), 0.1);
    }

    #[test]
    fn the_corrections_are_those_of_the_first_steps() {
        let adamw = AdamW { learning_rate: 1e-3, warmup: 0, steps: 10 };
        let Step { correction1, correction2, .. } = adamw.step(0);
        assert!((correction1 - 0.1).abs() < 1e-15 && (correction2 - 0.01).abs() < 1e-15);
        let Step { correction1, .. } = adamw.step(1);
        assert!((correction1 - 0.19).abs() < 1e-15);
    }

    #[test]
    fn only_a_gradient_longer_than_one_is_shortened() {
        assert_eq!(clip_factor(0.5), 1.0);
        assert!((clip_factor(4.0) - 0.25).abs() < 1e-6);
    }
}
