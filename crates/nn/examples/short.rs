//! Measures how far sound arithmetic in tf32 and bf16 strays from the float64 reference, relative to
//! what ten steps change: the table of reduced precision in `src/conformance/tolerance.rs`. Takes some
//! minutes. With a folder of MNIST's files as its argument, on those images and on the recipe's
//! weights, else on the conformance cases.

use nn::backend::Options;
use nn::conformance::{Steps, Trial, cases, short_backends};
use nn::{AttentionShape, MlpShape, Model, Parameters, recipe};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

const SEEDS: u64 = 4;

/// Of each model and quantity, the errors in tf32 and in bf16.
type Rows = BTreeMap<(&'static str, String), [Vec<f64>; 2]>;

fn main() -> Result<(), Box<dyn Error>> {
    let mut rows = Rows::new();
    match std::env::args_os().nth(1) {
        Some(folder) => on_a_dataset(&mut rows, Path::new(&folder))?,
        None => on_the_cases(&mut rows)?,
    }
    println!("{:<10} {:<13} {:>8} {:>8}  {:>8} {:>8}", "", "", "tf32", "", "bf16", "");
    println!(
        "{:<10} {:<13} {:>8} {:>8}  {:>8} {:>8}",
        "model", "", "median", "largest", "median", "largest"
    );
    for ((model, name), mut both) in rows {
        print!("{model:<10} {name:<13}");
        for errors in &mut both {
            errors.sort_by(f64::total_cmp);
            print!(" {:>8.1e} {:>8.1e} ", errors[errors.len() / 2], errors[errors.len() - 1]);
        }
        println!();
    }
    Ok(())
}

fn on_the_cases(rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    for seed in 0..SEEDS {
        for mut case in cases() {
            case.seed += 1000 * seed;
            let data = case.data();
            note(rows, &case.trial(&data))?;
        }
    }
    Ok(())
}

fn on_a_dataset(rows: &mut Rows, folder: &Path) -> Result<(), Box<dyn Error>> {
    let data = mnist::Source::open(folder)?.load()?.train;
    let models = [
        (Model::Mlp(MlpShape { hidden: 512 }), 0.01),
        (Model::Mlp(MlpShape { hidden: 64 }), 0.1),
        (Model::Cnn, 0.01),
        (Model::Attention(AttentionShape { d_model: 32, ff: 64 }), 0.1),
        (Model::Attention(AttentionShape { d_model: 16, ff: 24 }), 0.01),
    ];
    for (model, rate) in models {
        for seed in 0..SEEDS {
            let mut initial = Parameters::zeros(model);
            recipe::initialise(&mut initial, seed);
            note(rows, &Trial::new(initial, &data, Steps::ten(32, rate), seed))?;
        }
    }
    Ok(())
}

fn note(rows: &mut Rows, trial: &Trial) -> Result<(), Box<dyn Error>> {
    for (place, backend) in short_backends().into_iter().enumerate() {
        let outcome = trial.outcome(backend, &Options::default())?;
        for quantity in trial.grade(&outcome).quantities {
            let key = (trial.initial().model().id(), quantity.name.into_owned());
            rows.entry(key).or_default()[place].push(quantity.of_change);
        }
    }
    Ok(())
}
