//! Whole training runs: the accuracy that each model ends with lies in the band of sound runs.
//!
//! The bands are those of a hundred seeds each, made by `examples/seeds.rs`. The float64 reference
//! trained in full ends in them too (cnn, seed 1: 92.11 %, the same as the CPU backend).

use std::path::Path;
use std::process::Command;

struct Run {
    arguments: &'static str,
    /// The lowest and the highest test accuracy of sound runs, in percent.
    mnist: [f64; 2],
    digits: [f64; 2],
}

const RUNS: [Run; 4] = [
    Run { arguments: "-m mlp -n 512 -e 5", mnist: [93.93, 94.42], digits: [94.83, 95.42] },
    Run { arguments: "-m mlp -n 256 -e 5", mnist: [93.72, 94.39], digits: [94.72, 95.21] },
    Run { arguments: "-m cnn -e 3", mnist: [91.45, 93.28], digits: [92.21, 94.32] },
    Run { arguments: "-m attention -l 0.1 -e 5", mnist: [88.04, 93.79], digits: [86.59, 94.81] },
];

/// In percent: for a seed or a rounding that is none of the hundred.
const MARGIN: f64 = 0.2;

fn accuracy_percent(arguments: &str, data: &Path) -> f64 {
    let output = Command::new(env!("CARGO_BIN_EXE_mnist-classic"))
        .args(arguments.split_whitespace())
        .args(["--batch", "32", "--seed", "42", "--data"])
        .arg(data)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8(output.stdout).unwrap();
    let line = stdout.lines().find_map(|line| line.strip_prefix("Test Accuracy: ")).unwrap();
    line.strip_suffix('%').unwrap().parse().unwrap()
}

fn in_band(arguments: &str, accuracy: f64, [low, high]: [f64; 2]) {
    let band = low - MARGIN..=high + MARGIN;
    assert!(band.contains(&accuracy), "{arguments}: {accuracy} is not in {band:?}");
}

#[test]
fn every_model_ends_in_the_band_of_sound_runs_on_the_embedded_digits() {
    for Run { arguments, digits, .. } in RUNS {
        in_band(arguments, accuracy_percent(arguments, Path::new("digits")), digits);
    }
}

#[test]
fn every_model_ends_in_the_band_of_sound_runs_on_mnist() {
    let Some(folder) = std::env::var_os(protocol::env::DATA) else {
        return skip::skipped("TRAINMARK_DATA does not name the folder of MNIST");
    };
    for Run { arguments, mnist, .. } in RUNS {
        in_band(arguments, accuracy_percent(arguments, Path::new(&folder)), mnist);
    }
}
