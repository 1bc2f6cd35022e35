//! Trains a model on MNIST and prints one JSON line per repeat: host and device seconds of the
//! training, mean loss of the last epoch, test accuracy. `bench/compare.py` runs it beside PyTorch
//! and JAX.
//!
//! ```text
//! epochs --backend cuda --plan fused --model mlp --epochs 5 --repeats 5 --data DIR
//! ```

use anyhow::{Context, Result, bail};
use backend_cuda::{Cuda, CudaGraph};
use clap::Parser;
use mnist::Source;
use nn::backend::{Backend, Job, Options, Session};
use nn::{AttentionShape, MlpShape, Model, Parameters, recipe};
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Parser)]
struct Args {
    #[arg(long, default_value = "cuda")]
    backend: String,
    #[arg(long)]
    plan: Option<String>,
    #[arg(long, default_value = "mlp")]
    model: String,
    #[arg(long, default_value_t = 512)]
    hidden: usize,
    #[arg(long, default_value_t = 32)]
    d_model: usize,
    #[arg(long, default_value_t = 64)]
    ff: usize,
    #[arg(long, default_value_t = 32)]
    batch: usize,
    #[arg(long, default_value_t = 0.01)]
    lr: f32,
    #[arg(long, default_value_t = 5)]
    epochs: u32,
    #[arg(long, default_value_t = 1)]
    repeats: usize,
    #[arg(long, default_value_t = 42)]
    seed: u64,
    #[arg(long)]
    data: Option<PathBuf>,
    /// Instead of `--repeats`: one for each line of standard input
    #[arg(long)]
    serve: bool,
    /// Folder for the initial weights and the order of all epochs, for the Python programs; nothing
    /// is trained.
    #[arg(long)]
    export: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let backend: &dyn Backend = match args.backend.as_str() {
        "cuda" => &Cuda,
        "cudagraph" => &CudaGraph,
        other => bail!("no backend {other} here"),
    };
    let model = match args.model.as_str() {
        "mlp" => Model::Mlp(MlpShape { hidden: args.hidden }),
        "cnn" => Model::Cnn,
        "attention" => Model::Attention(AttentionShape { d_model: args.d_model, ff: args.ff }),
        other => bail!("no model {other}"),
    };
    let data = Source::locate(args.data.as_deref())?.load().context("reading the data")?;
    let job = Job { model, batch_size: args.batch, learning_rate: args.lr, train: &data.train };
    let options = Options { plan: args.plan.clone(), ..Options::default() };
    let mut initial = Parameters::zeros(model);
    recipe::initialise(&mut initial, args.seed);
    if let Some(folder) = &args.export {
        return export(folder, &args, &initial, data.train.len());
    }
    let opening = Instant::now();
    let mut session = backend.open(job, &options)?;
    let open_s = opening.elapsed().as_secs_f64();
    eprintln!("{:?}, opened in {open_s:.3} s", session.description());

    // Before the clock begins, as for the Python programs.
    let orders: Vec<Vec<u32>> = (0..args.epochs)
        .map(|epoch| {
            let mut order = vec![0; data.train.len()];
            recipe::shuffle(&mut order, args.seed, epoch);
            order
        })
        .collect();
    let mut repeat = || -> Result<()> {
        session.set_parameters(&initial)?;
        let mut losses = vec![0.0; data.train.len().div_ceil(args.batch)];
        let device_before = session.measured().device_s.unwrap_or(f64::NAN);
        let clock = Instant::now();
        for order in &orders {
            session.train(order, &mut losses)?;
        }
        let train_s = clock.elapsed().as_secs_f64();
        let device_s = session.measured().device_s.unwrap_or(f64::NAN) - device_before;
        let loss = losses.iter().sum::<f32>() / losses.len() as f32;
        let accuracy = accuracy(session.as_mut(), &data.test)?;
        println!(
            "{{\"framework\": \"{}\", \"variant\": \"{}\", \"model\": \"{}\", \"train_s\": {train_s:.6}, \
             \"device_s\": {device_s:.6}, \"loss\": {loss:.5}, \"accuracy_percent\": {accuracy:.2}, \
             \"device_peak_bytes\": {}}}",
            args.backend,
            args.plan.as_deref().unwrap_or("default"),
            args.model,
            session.measured().device_peak_bytes.unwrap_or(0),
        );
        Ok(())
    };
    if !args.serve {
        return (0..args.repeats).try_for_each(|_| repeat());
    }
    println!("{{\"ready\": true}}"); // standard output ends lines as they come
    for line in std::io::stdin().lines() {
        line?;
        repeat()?;
    }
    Ok(())
}

/// `MODEL.f32`: all parameters, canonical; `order.u32`: (epochs, samples). Little-endian.
fn export(folder: &Path, args: &Args, initial: &Parameters, samples: usize) -> Result<()> {
    let weights: Vec<u8> = initial.values().iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut orders = Vec::new();
    let mut order = vec![0; samples];
    for epoch in 0..args.epochs {
        recipe::shuffle(&mut order, args.seed, epoch);
        orders.extend(order.iter().flat_map(|index| index.to_le_bytes()));
    }
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    for (name, bytes) in [(format!("{}.f32", args.model), weights), ("order.u32".into(), orders)] {
        let path = folder.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn accuracy(session: &mut dyn Session, test: &mnist::Split) -> Result<f64> {
    let mut labels = vec![0; test.len()];
    session.predict(test.images(), &mut labels)?;
    let right = labels.iter().zip(test.labels()).filter(|(predicted, label)| predicted == label);
    Ok(100.0 * right.count() as f64 / test.len() as f64)
}
