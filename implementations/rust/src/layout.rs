//! Small things that every framework's program needs around its tensors.

use mnist::CLASSES;

/// The weight of a linear layer, (out, in), as (in, out); or the other way round, with `width` the
/// number of outputs.
pub fn transposed(weight: &[f32], width: usize) -> Vec<f32> {
    let height = weight.len() / width;
    (0..weight.len()).map(|to| weight[to % height * width + to / height]).collect()
}

/// Of each row of logits, (labels.len(), 10), the first of the largest.
pub fn first_largest(logits: &[f32], labels: &mut [u8]) {
    for (label, logits) in labels.iter_mut().zip(logits.chunks(CLASSES)) {
        let mut best = 0;
        for class in 1..CLASSES {
            if logits[class] > logits[best] {
                best = class;
            }
        }
        *label = best as u8; // below 10
    }
}

/// The CPU by its model's name.
pub fn cpu_name() -> String {
    let name = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_twice_gives_the_weight_back() {
        let weight = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]; // (2, 3)
        assert_eq!(transposed(&weight, 3), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(transposed(&transposed(&weight, 3), 2), weight);
    }

    #[test]
    fn of_equal_logits_the_first_is_predicted() {
        let mut logits = [0.0; 2 * CLASSES];
        (logits[3], logits[7], logits[CLASSES + 9]) = (1.0, 1.0, 0.5);
        let mut labels = [0; 2];
        first_largest(&logits, &mut labels);
        assert_eq!(labels, [3, 9]);
    }
}
