//! Runs every kernel, each for a few steps that are compared with the float64 reference: short enough
//! for NVIDIA's compute-sanitizer.
//!
//! ```text
//! compute-sanitizer --tool racecheck every_kernel --model mlp --plan fused
//! ```

use anyhow::{Result, ensure};
use backend_cuda::{Cuda, CudaGraph};
use clap::Parser;
use nn::backend::{Backend, Options};
use nn::conformance::{Case, Images};
use nn::{AttentionShape, MlpShape, Model};
use std::time::Instant;

#[derive(Parser)]
struct Args {
    /// mlp, cnn or attention; all of them without it
    #[arg(long)]
    model: Option<String>,
    /// fused, kernels or graph; all of them without it
    #[arg(long)]
    plan: Option<String>,
    /// Only an MLP, with so many hidden units: with 16 it is in four blocks, which is soon done
    #[arg(long)]
    hidden: Option<usize>,
    /// Steps of each; after three, every buffer that takes turns is at its first place again
    #[arg(long, default_value_t = 6)]
    steps: usize,
}

/// On an H100 the fused MLP splits an image in four, two and one parts for these widths.
const HIDDEN: [usize; 3] = [512, 600, 1100];

fn main() -> Result<()> {
    let args = Args::parse();
    let mlp = |hidden| Model::Mlp(MlpShape { hidden });
    let mut models = match args.hidden {
        Some(hidden) => vec![mlp(hidden)],
        None => HIDDEN.map(mlp).to_vec(),
    };
    if args.hidden.is_none() {
        models.extend([Model::Cnn, Model::Attention(AttentionShape { d_model: 32, ff: 64 })]);
    }
    models.retain(|model| args.model.as_ref().is_none_or(|wanted| model.id() == wanted));
    let plans: [(&str, &dyn Backend, Option<&str>); 3] = [
        ("fused", &Cuda, Some("fused")),
        ("kernels", &Cuda, Some("kernels")),
        ("graph", &CudaGraph, None),
    ];
    let mut runs = 0;
    for model in models {
        let images = Images::Sparse;
        let (batch_size, last_batch, count, learning_rate, seed) = (32, 5, args.steps, 0.02, 7);
        let case = Case { model, images, batch_size, last_batch, count, learning_rate, seed };
        let data = case.data();
        let trial = case.trial(&data);
        for (name, backend, plan) in plans {
            if args.plan.as_ref().is_some_and(|wanted| wanted != name) {
                continue;
            }
            let clock = Instant::now();
            let options = Options { plan: plan.map(str::to_owned), ..Options::default() };
            let report = trial.run(backend, &options)?;
            ensure!(report.passed(), "{model:?}, {name}:\n{report}");
            println!("{model:?}, {name}: as the reference, in {:.1?}", clock.elapsed());
            runs += 1;
        }
    }
    ensure!(runs > 0, "no such model or plan");
    Ok(())
}
