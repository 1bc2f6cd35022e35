//! How accurate each model becomes, over ten seeds: the table that the target accuracies in
//! `suites/mnist.toml` stand on. A target lies below the worst sound run and above the best of the
//! runs that are broken on purpose: a first layer that stays as it was, a tenth of the learning rate.
//! What learns almost as well although it is wrong is not found by any target: `--check` finds it.
//!
//! `cargo run --release -p mnist-classic --example seeds [-- FOLDER|digits [MODEL...]]`

use anyhow::Result;
use mnist::{Dataset, Source};
use nn::backend::{Backend, Job, Options};
use nn::{AttentionShape, MlpShape, Model, Parameters};
use std::path::PathBuf;

const SEEDS: std::ops::RangeInclusive<u64> = 1..=10;
const BROKEN_SEEDS: std::ops::RangeInclusive<u64> = 1..=3;

/// As in the default suite.
struct Recipe {
    name: &'static str,
    model: Model,
    learning_rate: f32,
    epochs: usize,
}

const RECIPES: [Recipe; 4] = [
    Recipe {
        name: "mlp, hidden 512",
        model: Model::Mlp(MlpShape { hidden: 512 }),
        learning_rate: 0.01,
        epochs: 5,
    },
    Recipe {
        name: "mlp, hidden 256",
        model: Model::Mlp(MlpShape { hidden: 256 }),
        learning_rate: 0.01,
        epochs: 5,
    },
    Recipe { name: "cnn", model: Model::Cnn, learning_rate: 0.01, epochs: 3 },
    Recipe {
        name: "attention",
        model: Model::Attention(AttentionShape { d_model: 32, ff: 64 }),
        learning_rate: 0.1,
        epochs: 5,
    },
];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map(PathBuf::from);
    let wanted: Vec<String> = arguments.collect();
    let mut data = Source::locate(folder.as_deref())?.load()?;
    data.identify();
    println!("{}, batch 32, seeds {} to {}", data.name, SEEDS.start(), SEEDS.end());
    println!("{:<40} epoch   lowest   median  highest   loss", "");
    for recipe in RECIPES {
        if wanted.is_empty() || wanted.iter().any(|model| model == recipe.model.id()) {
            measure(&recipe, &data)?;
        }
    }
    Ok(())
}

fn measure(recipe: &Recipe, data: &Dataset) -> Result<()> {
    let runs = SEEDS.map(|seed| train(recipe, data, seed, false)).collect::<Result<Vec<_>>>()?;
    for epoch in 0..recipe.epochs {
        print(recipe.name, epoch, &runs);
    }
    let slow = Recipe { learning_rate: recipe.learning_rate / 10.0, ..*recipe };
    let slow =
        BROKEN_SEEDS.map(|seed| train(&slow, data, seed, false)).collect::<Result<Vec<_>>>()?;
    let frozen =
        BROKEN_SEEDS.map(|seed| train(recipe, data, seed, true)).collect::<Result<Vec<_>>>()?;
    for epoch in [0, recipe.epochs - 1] {
        print(&format!("{}, a tenth of the rate", recipe.name), epoch, &slow);
        print(&format!("{}, first layer frozen", recipe.name), epoch, &frozen);
    }
    Ok(())
}

fn print(name: &str, epoch: usize, runs: &[Vec<(f64, f64)>]) {
    let mut accuracies: Vec<f64> = runs.iter().map(|run| run[epoch].0).collect();
    accuracies.sort_by(f64::total_cmp);
    let loss = runs.iter().map(|run| run[epoch].1).sum::<f64>() / runs.len() as f64;
    let (low, high) = (accuracies[0], accuracies[accuracies.len() - 1]);
    let median = 0.5 * (accuracies[(runs.len() - 1) / 2] + accuracies[runs.len() / 2]);
    println!("{name:<40} {:>5} {low:>8.2} {median:>8.2} {high:>8.2} {loss:>6.3}", epoch + 1);
}

/// Test accuracy in percent and mean training loss after each epoch. With `frozen`, the first
/// tensor and its bias are put back after each step.
fn train(recipe: &Recipe, data: &Dataset, seed: u64, frozen: bool) -> Result<Vec<(f64, f64)>> {
    let Recipe { model, learning_rate, epochs, .. } = *recipe;
    let job = Job { model, batch_size: 32, learning_rate, train: &data.train };
    let mut session = backend_cpu::Cpu.open(job, &Options::default())?;
    let mut initial = Parameters::zeros(model);
    nn::recipe::initialise(&mut initial, seed);
    session.set_parameters(&initial)?;

    let mut order = vec![0; data.train.len()];
    let mut step_loss = vec![0.0; data.train.len().div_ceil(job.batch_size)];
    let mut labels = vec![0; data.test.len()];
    let mut after = Vec::new();
    for epoch in 0..epochs {
        nn::recipe::shuffle(&mut order, seed, epoch as u32);
        if frozen {
            let first_layer = initial.tensors()[1].range().end;
            for (batch, loss) in order.chunks(job.batch_size).zip(step_loss.chunks_mut(1)) {
                session.train(batch, loss)?;
                let mut parameters = session.parameters()?;
                parameters.values_mut()[..first_layer]
                    .copy_from_slice(&initial.values()[..first_layer]);
                session.set_parameters(&parameters)?;
            }
        } else {
            session.train(&order, &mut step_loss)?;
        }
        session.predict(data.test.images(), &mut labels)?;
        let right = labels.iter().zip(data.test.labels()).filter(|(a, b)| a == b).count();
        let loss = step_loss.iter().map(|&loss| f64::from(loss)).sum::<f64>();
        after.push((100.0 * right as f64 / labels.len() as f64, loss / step_loss.len() as f64));
    }
    Ok(after)
}
