//! A run of the model gpt: set up, train step by step on the clock, evaluate, save.

mod evaluation;
mod training;

use crate::checkpoint::{self, Folder, Identity};
use crate::cli::{Cli, GptCommand};
use crate::failure::Failure;
use crate::output::{Output, counted, grouped};
use crate::run::named;
use crate::verify::Exchange;
use crate::weights::{self, Destination, LOAD, SAVE};
use anyhow::{Context, anyhow};
use nn::backend::{Backend, Description, Options};
use nn::gpt::conformance::{Trial, moved, verifiable};
use nn::gpt::{AdamW, Content, ID, Job, Session, Shape, State, recipe};
use protocol::{Event, env, exit};
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;
use text::{Source, Text};

/// Everything that a run needs, checked.
struct Setup<'text> {
    backend: &'static dyn Backend,
    options: Options,
    job: Job<'text>,
    text: &'text Text,
    /// For the first line: where the text came from.
    source: String,
    seed: u64,
    initial: State,
    report_every: u64,
    eval_every: Option<u64>,
    save: Option<Destination>,
    checkpoint: Option<Checkpoint>,
    predictions: Option<PathBuf>,
    /// When the process began to set up.
    began: Instant,
}

/// Where checkpoints go, and when.
struct Checkpoint {
    folder: Folder,
    /// In steps.
    every: u64,
    resume: bool,
}

/// Does what the command line asks for.
///
/// # Errors
/// Whatever keeps it from that, with the exit code for it.
pub fn run<W: Write>(
    cli: &Cli,
    command: &GptCommand,
    began: Instant,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    let save = cli.what.save.as_deref();
    let save = save.map(|path| Destination::prepare(path, SAVE)).transpose()?;
    let checkpoint = match &cli.what.checkpoint {
        Some(path) => Some(Checkpoint {
            folder: Folder::prepare(path, "step")?,
            every: cli.what.checkpoint_every.unwrap_or(500).into(),
            resume: cli.what.resume,
        }),
        None => None,
    };
    let wrong_data = |error| Failure::new(exit::DATA, error);
    let source = match &cli.training.data {
        None if command.tokens => Source::tokens(),
        chosen => Source::locate(chosen.as_deref()).map_err(wrong_data)?,
    };
    let text = source.load().map_err(wrong_data)?;
    let vocabulary = match command.shape.vocabulary {
        0 => text.vocabulary,
        given => given,
    };
    let shape = Shape { vocabulary, ..command.shape };
    let job = Job {
        shape,
        batch_size: command.batch_size,
        optimiser: command.optimiser,
        text: &text.train,
    };
    job.check().with_context(|| source.to_string()).map_err(wrong_anyhow)?;
    let verification = Exchange::from_environment();
    let initial = match (&verification, &cli.what.load) {
        (Some(exchange), _) => exchange.initial_gpt(shape)?,
        (None, Some(path)) => weights::load_with(path, LOAD, |bytes| {
            // Of another training: its parameters are where this one begins.
            let mut begin = State::zeros(shape);
            begin.parameters =
                State::from_safetensors(shape, bytes, Content::Parameters)?.parameters;
            Ok(begin)
        })?,
        (None, None) => {
            let mut initial = State::zeros(shape);
            recipe::initialise(&mut initial, cli.training.seed);
            initial
        }
    };
    let setup = Setup {
        backend: cli.backend.0.backend,
        options: cli.options(),
        job,
        text: &text,
        source: source.to_string(),
        seed: cli.training.seed,
        initial,
        report_every: command.report_every,
        eval_every: command.eval_every,
        save,
        checkpoint,
        predictions: (command.predictions.clone())
            .or_else(|| std::env::var_os(env::PREDICTIONS).map(PathBuf::from)),
        began,
    };
    match verification {
        _ if cli.what.check => check(&setup, output),
        Some(exchange) => {
            let mut session = open(&setup)?;
            output.event(&started(&setup, session.as_ref()))?;
            exchange.run_gpt(session.as_mut(), setup.job.batch_size)
        }
        None => training::train(&setup, output),
    }
}

fn wrong_anyhow(error: anyhow::Error) -> Failure {
    Failure::new(exit::DATA, error)
}

/// The backend, ready to train from the initial state.
fn open<'text>(setup: &Setup<'text>) -> Result<Box<dyn Session + 'text>, Failure> {
    let id = setup.backend.id();
    let session = setup.backend.open_gpt(setup.job, &setup.options);
    let mut session = session.map_err(|error| named(id, error))?;
    session.set_state(&setup.initial)?;
    Ok(session)
}

/// Ten steps beside the reference, of a model that it follows in a minute.
fn check<W: Write>(setup: &Setup<'_>, output: &mut Output<W>) -> Result<(), Failure> {
    let (shape, batch_size, steps) = verifiable(setup.job.shape, setup.job.batch_size);
    // The whole schedule in these steps.
    let optimiser = AdamW { warmup: 3, steps: steps as u64, ..setup.job.optimiser };
    let job = Job { shape, batch_size, optimiser, ..setup.job };
    if (shape, batch_size) != (setup.job.shape, setup.job.batch_size) {
        output.line(format!(
            "smaller than asked for, as float64 has to follow: {}, {steps} steps of {batch_size}",
            sizes(shape),
        ))?;
    }
    let trial = Trial::new(moved(shape, setup.seed), job, steps, setup.seed);
    let id = setup.backend.id();
    let report = trial.run(setup.backend, &setup.options).map_err(|error| named(id, error))?;
    output.line(&report)?;
    if report.passed() {
        return Ok(());
    }
    Err(anyhow!("{id} deviates from the reference").into())
}

/// What decides the bits of the state. The number of threads does not; the number of steps does, since
/// the schedule is made for it.
fn identity(setup: &Setup<'_>, description: &Description) -> Identity {
    let AdamW { learning_rate, warmup, steps } = setup.job.optimiser;
    let entries = [
        ("model", sizes(setup.job.shape)),
        ("batch", setup.job.batch_size.to_string()),
        ("learning rate", learning_rate.to_string()),
        ("warm-up", warmup.to_string()),
        ("steps", steps.to_string()),
        ("seed", setup.seed.to_string()),
        ("data", setup.text.sha256.clone()),
        ("weights at the start", checkpoint::digest(&setup.initial.parameters)),
        ("backend", setup.backend.id().to_owned()),
        ("code", description.path.clone()),
        ("arithmetic", description.precision.to_owned()),
    ];
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The lines before the first step.
fn announce<W: Write>(
    setup: &Setup<'_>,
    session: &dyn Session,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    let Description { device, path, threads, precision, software } = session.description();
    let Job { shape, batch_size, optimiser, .. } = setup.job;
    let AdamW { learning_rate, warmup, steps } = optimiser;
    let text = setup.text;
    let compile_s = session.compile_s();
    let setup_s = setup.began.elapsed().as_secs_f64() - compile_s.unwrap_or(0.0);

    let on_threads =
        threads.map_or(String::new(), |n| format!(", {}", counted(n as u64, "thread")));
    let imitated = if software { ", in software" } else { "" };
    let parameters = grouped(shape.parameter_count() as u64);
    output.line(format!("model     {}, {parameters} parameters", sizes(shape)))?;
    output.line(format!(
        "data      {}: {}, {} training and {} validation tokens of {}, SHA-256 {}",
        setup.source,
        text.name,
        grouped(text.train.len() as u64),
        grouped(text.validation.len() as u64),
        grouped(text.vocabulary as u64),
        text.sha256,
    ))?;
    output.line(format!(
        "backend   {}: {device}, {path}{on_threads}, {precision}{imitated}",
        setup.backend.id(),
    ))?;
    output.line(format!(
        "training  {} of {batch_size} windows of {} tokens, learning rate {learning_rate} after {}, \
         seed {}",
        counted(steps, "step"),
        shape.context,
        counted(warmup, "step"),
        setup.seed,
    ))?;
    let compiled = compile_s.map_or(String::new(), |s| format!(", compiled in {s:.3} s"));
    output.line(format!("ready     in {setup_s:.3} s{compiled}"))?;

    output.event(&started(setup, session))?;
    let sha256 = Some(text.sha256.clone());
    output.event(&Event::Dataset { name: text.name.clone(), sha256 })?;
    output.event(&Event::Ready { setup_s, compile_s })?;
    Ok(())
}

/// Who runs, on what.
fn started(setup: &Setup<'_>, session: &dyn Session) -> Event {
    let Description { device, path, threads, precision, software } = session.description();
    Event::Started {
        protocol: protocol::VERSION,
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        device: Some(device),
        path: Some(path),
        threads,
        precision: Some(precision.to_owned()),
        parameters: Some(setup.job.shape.parameter_count() as u64),
        compiled: Some(setup.backend.compiled()),
        software: Some(software),
        ranks: None,
    }
}

/// `gpt, 4 layers, 4 heads, width 128, context 64, 65 tokens`.
fn sizes(shape: Shape) -> String {
    let Shape { layers, heads, width, context, vocabulary } = shape;
    format!(
        "{ID}, {}, {}, width {width}, context {context}, {} tokens",
        counted(layers as u64, "layer"),
        counted(heads as u64, "head"),
        grouped(vocabulary as u64),
    )
}
