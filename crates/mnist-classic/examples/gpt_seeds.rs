//! How low the validation loss of a GPT gets, over many seeds: what a target loss stands on. A target lies
//! above the worst sound run and below the best of the runs that are broken on purpose: a tenth of the
//! learning rate, no attention (queries that never learn), position embeddings that never learn, and half
//! of the steps. What learns almost as well although it is wrong is not found by any target: `--check` and
//! `trainmark verify` find it.
//!
//! `cargo run --release -p mnist-classic --example gpt_seeds -- TEXT|babble`; a line for each run as it ends, and a
//! summary. `--help` names the options.

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use native::backends;
use nn::backend::Options;
use nn::gpt::{AdamW, Job, Session, Shape, State, recipe};
use std::ops::Range;
use std::path::PathBuf;
use text::{Source, Text, validation::nats};

#[derive(Parser)]
struct Args {
    /// A text, a folder that holds tinyshakespeare.txt, or `babble`
    text: Option<PathBuf>,
    /// Sound runs, with the seeds from 1 on
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// float32 or bf16; the CPU has bf16 with AMX alone
    #[arg(long)]
    precision: Option<String>,
    #[arg(long, value_enum, default_value = "small")]
    preset: Preset,
    #[arg(long, default_value = "cpu")]
    backend: String,
    /// Which broken runs, three of each kind. Those that keep a tensor as it was copy the state in each step
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = FAULTS)]
    faults: Vec<Fault>,
}

const FAULTS: [Fault; 4] = [
    Fault::TenthOfTheRate,
    Fault::QueriesAsTheyWere,
    Fault::PositionsAsTheyWere,
    Fault::HalfOfTheSteps,
];

/// Of docs/gpt.md.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Preset {
    Small,
    Char,
}

/// What all runs have in common.
struct Study {
    text: Text,
    shape: Shape,
    batch: usize,
    steps: u64,
    backend: &'static dyn nn::backend::Backend,
    options: Options,
}

const LEARNING_RATE: f64 = 1e-3;
const WARMUP: u64 = 100;
/// Of each broken kind.
const BROKEN_SEEDS: u64 = 3;

/// What is wrong with a run.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Fault {
    #[value(skip)]
    None,
    TenthOfTheRate,
    QueriesAsTheyWere,
    PositionsAsTheyWere,
    HalfOfTheSteps,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let text = Source::locate(args.text.as_deref())?.load()?;
    let entry = backends::ENTRIES.iter().find(|entry| entry.id == args.backend);
    let backend =
        entry.with_context(|| format!("--backend {}: there is none", args.backend))?.backend;
    let (shape, batch, steps) = match args.preset {
        Preset::Small => (Shape::small(text.vocabulary), 12, 2000),
        Preset::Char => (Shape::char(text.vocabulary), 64, 1000),
    };
    let options = Options { precision: args.precision, ..Options::default() };
    println!(
        "{}, {:?}, {steps} steps of {batch} windows, seeds 1 to {}",
        text.name, args.preset, args.seeds
    );
    let study = Study { text, shape, batch, steps, backend, options };
    let sound = measure(Fault::None, &study, args.seeds)?;
    let mut broken = Vec::new();
    for fault in args.faults {
        broken.push((fault, measure(fault, &study, args.seeds.min(BROKEN_SEEDS))?));
    }
    println!("{:<22} {:>8} {:>8} {:>8}", "", "lowest", "median", "highest");
    for (fault, losses) in [(Fault::None, sound)].into_iter().chain(broken) {
        let (low, high) = (losses[0], losses[losses.len() - 1]);
        let name = if fault == Fault::None { "sound".to_owned() } else { format!("{fault:?}") };
        println!("{name:<22} {low:>8.4} {:>8.4} {high:>8.4}", losses[losses.len() / 2]);
    }
    Ok(())
}

/// The validation losses, the lowest first.
fn measure(fault: Fault, study: &Study, seeds: u64) -> Result<Vec<f64>> {
    let &Study { ref text, shape, batch, steps, .. } = study;
    let learning_rate = match fault {
        Fault::TenthOfTheRate => LEARNING_RATE / 10.0,
        _ => LEARNING_RATE,
    };
    let optimiser = AdamW { learning_rate, warmup: WARMUP, steps };
    let job = Job { shape, batch_size: batch, optimiser, text: &text.train };
    let mut session = study.backend.open_gpt(job, &study.options)?;
    let mut losses = Vec::new();
    for seed in 1..=seeds {
        train(fault, study, seed, session.as_mut())?;
        let loss = validate(session.as_mut(), study)?;
        println!("{fault:?} seed {seed} val_loss {loss:.4}");
        losses.push(loss);
    }
    losses.sort_by(f64::total_cmp);
    Ok(losses)
}

/// Trains from the seed's first state.
fn train(fault: Fault, study: &Study, seed: u64, session: &mut dyn Session) -> Result<()> {
    let &Study { ref text, shape, batch, steps, .. } = study;
    let mut initial = State::zeros(shape);
    recipe::initialise(&mut initial, seed);
    session.set_state(&initial)?;

    let taken = if fault == Fault::HalfOfTheSteps { steps / 2 } else { steps };
    let mut starts = vec![0; taken as usize * batch];
    recipe::windows(&mut starts, seed, 0, batch, text.train.len() - shape.context);
    let mut losses = vec![0.0; taken as usize];
    let kept = kept(fault, shape);
    if kept.is_empty() {
        session.train(&starts, &mut losses)?;
        return Ok(());
    }
    for (starts, loss) in starts.chunks(batch).zip(losses.chunks_mut(1)) {
        session.train(starts, loss)?;
        let mut state = session.state()?;
        for range in &kept {
            state.parameters[range.clone()].copy_from_slice(&initial.parameters[range.clone()]);
        }
        session.set_state(&state)?;
    }
    Ok(())
}

/// What is put back after each step.
fn kept(fault: Fault, shape: Shape) -> Vec<Range<usize>> {
    let tensors = shape.tensors();
    let of = |end: &str| {
        let found = tensors.iter().filter(|tensor| tensor.name.ends_with(end));
        found.map(|tensor| tensor.range()).collect::<Vec<_>>()
    };
    match fault {
        Fault::PositionsAsTheyWere => of("wpe.weight"),
        Fault::QueriesAsTheyWere => {
            let query = |range: Range<usize>| range.start..range.start + shape.width * shape.width;
            of("attn.c_attn.weight").into_iter().map(query).collect()
        }
        _ => Vec::new(),
    }
}

fn validate(session: &mut dyn Session, study: &Study) -> Result<f64> {
    let &Study { ref text, shape, batch, .. } = study;
    let (inputs, targets) = (text.validation_inputs(), text.validation_targets());
    let mut sum = 0.0;
    let piece = batch * shape.context;
    let mut logits = vec![0.0; piece * shape.vocabulary];
    for (inputs, targets) in inputs.chunks(piece).zip(targets.chunks(piece)) {
        let logits = &mut logits[..inputs.len() * shape.vocabulary];
        session.predict(inputs, logits)?;
        sum += nats(logits, targets);
    }
    Ok(sum / targets.len() as f64)
}
