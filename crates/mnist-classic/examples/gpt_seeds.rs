//! How low the validation loss of a GPT gets, over many seeds: what a target loss stands on. A target lies
//! above the worst sound run and below the best of the runs that are broken on purpose: a tenth of the
//! learning rate, no attention (queries that never learn), position embeddings that never learn, and half
//! of the steps. What learns almost as well although it is wrong is not found by any target: `--check` and
//! `trainmark verify` find it.
//!
//! `cargo run --release -p mnist-classic --example gpt_seeds -- TEXT|babble [SEEDS] [PRECISION]`; a line for
//! each run as it ends, and a summary. PRECISION is `float32` unless it says `bf16`, which needs AMX.

use anyhow::Result;
use nn::backend::{Backend, Options};
use nn::gpt::{AdamW, Job, Session, Shape, State, recipe};
use std::ops::Range;
use std::path::PathBuf;
use text::{Source, Text, validation::nats};

const BATCH: usize = 12;
const LEARNING_RATE: f64 = 1e-3;
const WARMUP: u64 = 100;
const STEPS: u64 = 2000;
/// Of each broken kind.
const BROKEN_SEEDS: u64 = 3;

/// What is wrong with a run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    TenthOfTheRate,
    QueriesAsTheyWere,
    PositionsAsTheyWere,
    HalfOfTheSteps,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let place = arguments.next().map(PathBuf::from);
    let seeds: u64 = arguments.next().map_or(Ok(10), |count| count.parse())?;
    let options = Options { precision: arguments.next(), ..Options::default() };
    let text = Source::locate(place.as_deref())?.load()?;
    println!("{}, small, {STEPS} steps of {BATCH} windows, seeds 1 to {seeds}", text.name);
    let sound = measure(Fault::None, &text, seeds, &options)?;
    let mut broken = Vec::new();
    for fault in [
        Fault::TenthOfTheRate,
        Fault::QueriesAsTheyWere,
        Fault::PositionsAsTheyWere,
        Fault::HalfOfTheSteps,
    ] {
        broken.push((fault, measure(fault, &text, seeds.min(BROKEN_SEEDS), &options)?));
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
fn measure(fault: Fault, text: &Text, seeds: u64, options: &Options) -> Result<Vec<f64>> {
    let mut losses = Vec::new();
    for seed in 1..=seeds {
        let loss = train(fault, text, seed, options)?;
        println!("{fault:?} seed {seed} val_loss {loss:.4}");
        losses.push(loss);
    }
    losses.sort_by(f64::total_cmp);
    Ok(losses)
}

fn train(fault: Fault, text: &Text, seed: u64, options: &Options) -> Result<f64> {
    let shape = Shape::small(text.vocabulary);
    let learning_rate = match fault {
        Fault::TenthOfTheRate => LEARNING_RATE / 10.0,
        _ => LEARNING_RATE,
    };
    let optimiser = AdamW { learning_rate, warmup: WARMUP, steps: STEPS };
    let job = Job { shape, batch_size: BATCH, optimiser, text: &text.train };
    let mut session = backend_cpu::Cpu.open_gpt(job, options)?;
    let mut initial = State::zeros(shape);
    recipe::initialise(&mut initial, seed);
    session.set_state(&initial)?;

    let taken = if fault == Fault::HalfOfTheSteps { STEPS / 2 } else { STEPS };
    let mut starts = vec![0; taken as usize * BATCH];
    recipe::windows(&mut starts, seed, 0, BATCH, text.train.len() - shape.context);
    let mut losses = vec![0.0; taken as usize];
    let kept = kept(fault, shape);
    if kept.is_empty() {
        session.train(&starts, &mut losses)?;
    } else {
        for (batch, loss) in starts.chunks(BATCH).zip(losses.chunks_mut(1)) {
            session.train(batch, loss)?;
            let mut state = session.state()?;
            for range in &kept {
                state.parameters[range.clone()].copy_from_slice(&initial.parameters[range.clone()]);
            }
            session.set_state(&state)?;
        }
    }
    validate(session.as_mut(), text, shape)
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

fn validate(session: &mut dyn Session, text: &Text, shape: Shape) -> Result<f64> {
    let (inputs, targets) = (text.validation_inputs(), text.validation_targets());
    let mut sum = 0.0;
    let piece = BATCH * shape.context;
    let mut logits = vec![0.0; piece * shape.vocabulary];
    for (inputs, targets) in inputs.chunks(piece).zip(targets.chunks(piece)) {
        let logits = &mut logits[..inputs.len() * shape.vocabulary];
        session.predict(inputs, logits)?;
        sum += nats(logits, targets);
    }
    Ok(sum / targets.len() as f64)
}
