//! A run of the model gpt: set up, train step by step on the clock, evaluate, save.

mod evaluation;
mod setup;
mod training;

use crate::checkpoint::Folder;
use crate::cli::{Cli, GptCommand};
use crate::failure::{Failure, named};
use crate::output::Output;
use crate::verify::Exchange;
use crate::weights::{self, Destination, LOAD, SAVE};
use anyhow::{Context, anyhow};
use nn::gpt::conformance::{Trial, moved, verifiable};
use nn::gpt::{AdamW, Content, Job, Shape, State, recipe};
use protocol::{env, exit};
use setup::{Checkpoint, Setup, open, sizes, started};
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;
use text::Source;

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
    let asked = verification.as_ref().and_then(Exchange::reference_steps);
    let initial = match (&verification, &cli.what.load) {
        (Some(_), _) if asked.is_some() => moved(shape, cli.training.seed),
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
    match (verification, asked) {
        _ if cli.what.check => check(&setup, output),
        (Some(exchange), Some(steps)) => {
            let trial = Trial::new(setup.initial, setup.job, steps, setup.seed);
            exchange.hand_out(|folder| trial.write(folder))
        }
        (Some(exchange), None) => {
            let mut session = open(&setup)?;
            output.event(&started(&setup, session.as_ref()))?;
            exchange.run_gpt(session.as_mut(), setup.job.batch_size)
        }
        (None, _) => training::train(&setup, output),
    }
}

fn wrong_anyhow(error: anyhow::Error) -> Failure {
    Failure::new(exit::DATA, error)
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
