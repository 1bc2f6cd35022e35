//! Random tokens of GPT-2's vocabulary, for rows that measure speed: frequent and rare ones, so that the
//! loss falls, and nothing else to learn.
//!
//! Token `i` is `vocabulary * u^3` with `u` the `i`-th 32-bit word of ChaCha8's stream 0 under the key
//! [`SEED`] (as `nn::recipe` keys it), as a fraction of `2^32`; in integers, rounded down at each step:
//! `(vocabulary * (((word * word) >> 32) * word >> 32)) >> 32`.

use crate::tokens::{Text, hex};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// The word that chooses it.
pub const NAME: &str = "tokens";
/// GPT-2's, rounded up to a multiple of 64.
pub const VOCABULARY: usize = 50_304;
/// Tokens, of which nine tenths are trained on.
pub const LENGTH: usize = 1 << 20;
/// The seed of the generator.
pub const SEED: u64 = 50_304;

/// SHA-256 of the tokens as little-endian 16-bit numbers, in hexadecimal.
pub const SHA256: &str = "458aeea197674f27f0ae29581b44f2ceb1dd28047706f7927a690e5d0f19f3b6";

/// The tokens. Their digest is that of the little-endian 16-bit numbers.
pub fn text() -> Text {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&SEED.to_le_bytes());
    let mut words = ChaCha8Rng::from_seed(key);
    let tokens: Vec<u16> = (0..LENGTH).map(|_| token(words.next_u32())).collect();
    let mut hash = Sha256::new();
    for token in &tokens {
        hash.update(token.to_le_bytes());
    }
    let sha256 = hex(&hash.finalize());
    match Text::split(NAME.to_owned(), sha256, VOCABULARY, tokens) {
        Ok(text) => text,
        Err(reason) => unreachable!("{reason}"), // LENGTH is long enough
    }
}

fn token(word: u32) -> u16 {
    let word = u64::from(word);
    let cube = (((word * word) >> 32) * word) >> 32;
    ((VOCABULARY as u64 * cube) >> 32) as u16 // below the vocabulary
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_tokens_are_frequent_and_large_ones_occur() {
        let text = text();
        let share = |below: u16| {
            let count = text.train.iter().filter(|&&token| token < below).count();
            count as f64 / text.train.len() as f64
        };
        assert!((share(50) - 0.1).abs() < 0.01, "{}", share(50)); // (50 / 50304)^(1/3)
        assert!(text.train.iter().any(|&token| token > 50_000));
        assert_eq!(text.train.len() + text.validation.len(), LENGTH);
        assert_eq!(text.sha256, SHA256);
    }
}
