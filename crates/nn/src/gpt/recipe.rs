//! Everything that the seed decides: initial parameters and the windows of each step.
//!
//! The generator is that of [`crate::recipe`]: ChaCha8, keyed with the seed's 64 bits. Parameters come
//! from stream 0; the windows of all steps from stream 1, one 32-bit word each.
//!
//! Everything here is made of integers and of the float64 operations that IEEE 754 fixes to the last
//! bit (`+ - * / sqrt`), in the order that the code says and without fused multiply-add. So the same
//! numbers, bit for bit, come out of a few lines of NumPy: `implementations/python/trainer/gpt.py`.

use super::State;
use crate::recipe::generator;
use rand_chacha::rand_core::Rng;

/// Fills the parameters with nanoGPT's initial values, and forgets moments and steps: matrices are
/// normal with mean 0 and the tensor's [`deviation`](super::Tensor::deviation), LayerNorm's weights 1.
/// Tensors are drawn in the order of the flat buffer, one 32-bit word per element of a matrix, in
/// row-major order: `(deviation * normal(word)) as f32`.
pub fn initialise(state: &mut State, seed: u64) {
    let mut words = generator(seed, 0);
    let zero = State::zeros(state.shape());
    *state = zero;
    for tensor in state.tensors().to_vec() {
        let values = &mut state.parameters[tensor.range()];
        match tensor.deviation {
            None => values.fill(1.0),
            Some(deviation) => {
                for value in values {
                    *value = (deviation * normal(words.next_u32())) as f32;
                }
            }
        }
    }
}

/// A standard normal number from a word: the quantile at `(word + 1/2) / 2^32`, by Wichura's rational
/// functions (algorithm AS 241, PPND7, Applied Statistics 37, 1988), right to about seven digits.
/// The farthest is 6.3, at either end; Wichura's third function, for still farther tails, is not needed.
pub fn normal(word: u32) -> f64 {
    const A: [f64; 4] = [3.387_132_717_9, 50.434_271_938, 159.291_132_02, 59.109_374_72];
    const B: [f64; 4] = [1.0, 17.895_169_469, 78.757_757_664, 67.187_563_6];
    const C: [f64; 4] = [1.423_437_277_7, 2.756_815_39, 1.306_728_481_6, 0.170_238_211_03];
    const D: [f64; 3] = [1.0, 0.737_001_642_5, 0.120_211_329_75];
    let p = (f64::from(word) + 0.5) / 4_294_967_296.0; // exact
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180_625 - q * q;
        return q * polynomial(&A, r) / polynomial(&B, r);
    }
    let r = (-logarithm(if q < 0.0 { p } else { 1.0 - p })).sqrt() - 1.6;
    let tail = polynomial(&C, r) / polynomial(&D, r);
    if q < 0.0 { -tail } else { tail }
}

/// `coefficients[0] + coefficients[1] x + ...`, from the highest power down (Horner).
fn polynomial(coefficients: &[f64], x: f64) -> f64 {
    coefficients.iter().rev().fold(0.0, |sum, &coefficient| sum * x + coefficient)
}

/// The natural logarithm of a number in (0, 1): with `p = m 2^e`, `1/2 <= m < 1`, and
/// `s = (m - 1) / (m + 1)`, it is `e ln 2 + 2 (s + s^3/3 + s^5/5 + ... + s^23/23)`. The platform's own
/// would differ in the last bit from one library to the next.
fn logarithm(p: f64) -> f64 {
    let exponent = ((p.to_bits() >> 52) as i64) - 1022;
    let mantissa = f64::from_bits((p.to_bits() & ((1 << 52) - 1)) | (1022 << 52));
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let odd: [f64; 12] = std::array::from_fn(|k| 1.0 / (2 * k + 1) as f64);
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * s * polynomial(&odd, s * s)
}

/// Writes where windows of steps start: `batch_size` for each step, the first of them of step
/// `first_step` (counted from 0). A window starts at one of `places = text.len() - context` places;
/// the word of window `i` of all (`step * batch_size + its place in the batch`), times `places`, has
/// the place in its upper 32 bits.
pub fn windows(starts: &mut [u32], seed: u64, first_step: u64, batch_size: usize, places: usize) {
    let mut words = generator(seed, 1);
    words.set_word_pos(u128::from(first_step) * batch_size as u128);
    for start in starts {
        *start = ((u64::from(words.next_u32()) * places as u64) >> 32) as u32; // places below 2^32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpt::Shape;

    #[test]
    fn quantiles_are_those_of_the_tables() {
        let at = |p: f64| normal((p * 4_294_967_296.0) as u32);
        // The last: a word is a coarse step so far out.
        for (p, quantile, near) in [
            (0.5, 0.0, 1e-6),
            (0.75, 0.674_489_75, 1e-6),
            (0.975, 1.959_963_98, 1e-6),
            (0.01, -2.326_347_87, 1e-6),
            (0.0001, -3.719_016_49, 2e-6),
            (0.999_999, 4.753_424_31, 1e-4),
        ] {
            assert!((at(p) - quantile).abs() < near, "{p}: {}", at(p));
        }
        assert!((normal(0) + normal(u32::MAX)).abs() < 1e-12);
        assert!((6.2..6.4).contains(&normal(u32::MAX)));
    }

    #[test]
    fn the_logarithm_is_the_platforms_within_rounding() {
        for p in [0.5 / 4_294_967_296.0, 1e-7, 0.003, 0.074_999, 0.5, 0.999] {
            assert!((logarithm(p) - p.ln()).abs() <= 1e-10, "{p}");
        }
    }

    #[test]
    fn initial_values_have_the_deviation_of_their_tensor() {
        let shape = Shape::small(65);
        let mut state = State::zeros(shape);
        initialise(&mut state, 7);
        for tensor in state.tensors() {
            let values = &state.parameters[tensor.range()];
            let count = values.len() as f64;
            let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
            let square = values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>() / count;
            match tensor.deviation {
                None => assert!(values.iter().all(|&value| value == 1.0)),
                Some(deviation) => {
                    assert!(mean.abs() < 5.0 * deviation / count.sqrt(), "{}", tensor.name);
                    let relative = square.sqrt() / deviation - 1.0;
                    assert!(relative.abs() < 4.0 / count.sqrt(), "{}: {relative}", tensor.name);
                }
            }
        }
    }

    /// The numbers are those of `implementations/python/trainer/gpt/recipe.py`.
    #[test]
    fn the_recipe_in_python_gives_the_same_bits() {
        let mut state = State::zeros(Shape::small(65));
        initialise(&mut state, 7);
        let weighted = state
            .parameters
            .iter()
            .zip(1_u64..)
            .map(|(value, place)| u64::from(value.to_bits()).wrapping_mul(place));
        assert_eq!(weighted.fold(0, u64::wrapping_add), 0x708f_773f_9550_dcf1);
        let mut starts = [0; 24];
        windows(&mut starts, 7, 5, 12, 1_003_854 - 64);
        assert_eq!(
            (starts[0], starts[11], starts[12], starts[23]),
            (133_630, 867_219, 841_373, 695_443)
        );
    }

    #[test]
    fn windows_of_later_steps_need_none_before_them_and_reach_every_place() {
        let mut all = vec![0; 4 * 300];
        windows(&mut all, 5, 0, 4, 10);
        let mut later = vec![0; 8];
        windows(&mut later, 5, 7, 4, 10);
        assert_eq!(later, all[28..36]);
        for place in 0..10 {
            assert!(all.contains(&place));
        }
    }
}
