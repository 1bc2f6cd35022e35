//! Measures how far sound arithmetic strays from the float64 reference of the GPT: the bounds in
//! `src/gpt/conformance/grade.rs`. Of each kind of quantity the largest error over all cases and some
//! seeds, in float32, and with the factors of all products rounded to tf32 and to bf16.

use nn::backend::TrainError;
use nn::gpt::conformance::{Plain, cases};
use nn::gpt::reference::Factors;
use nn::gpt::{FIRST_MOMENT, SECOND_MOMENT};
use std::collections::BTreeMap;

const SEEDS: u64 = 4;

fn main() -> Result<(), TrainError> {
    let mut rows: BTreeMap<(String, String), [f64; 3]> = BTreeMap::new();
    for mut case in cases() {
        for seed in 0..SEEDS {
            case.seed += 100 * seed;
            let text = case.text();
            let trial = case.trial(&text);
            for (column, factors) in
                [Factors::Exact, Factors::Tf32, Factors::Bf16].into_iter().enumerate()
            {
                let mut session = Plain::<f32>::open(trial.job(), factors)?;
                let outcome = trial.outcome(&mut session)?;
                for quantity in trial.grade(&outcome).quantities {
                    let key = kind(&quantity.name);
                    let row = rows.entry(key).or_default();
                    row[column] = row[column].max(quantity.of_change);
                }
            }
        }
    }
    println!("{:<14} {:<20} {:>9} {:>9} {:>9}", "", "", "float32", "tf32", "bf16");
    for ((part, tensor), [float32, tf32, bf16]) in rows {
        println!("{part:<14} {tensor:<20} {float32:>9.1e} {tf32:>9.1e} {bf16:>9.1e}");
    }
    Ok(())
}

/// What it is, and of which tensor, whatever the layer.
fn kind(name: &str) -> (String, String) {
    let (part, tensor) = if let Some(tensor) = name.strip_prefix(SECOND_MOMENT) {
        ("second moment", tensor)
    } else if let Some(tensor) = name.strip_prefix(FIRST_MOMENT) {
        ("first moment", tensor)
    } else {
        ("parameter", name)
    };
    let tensor = tensor.trim_start_matches("transformer.").trim_end_matches(".weight");
    let tensor = tensor.trim_start_matches("h.").trim_start_matches(|c: char| c.is_ascii_digit());
    (part.to_owned(), tensor.trim_start_matches('.').to_owned())
}
