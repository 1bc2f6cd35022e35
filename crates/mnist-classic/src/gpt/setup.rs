//! Everything that a run of the model gpt needs, and what it says of itself before its first step.

use crate::checkpoint::{self, Folder, Identity};
use crate::failure::{Failure, named};
use crate::output::{Output, counted, grouped};
use crate::weights::Destination;
use nn::backend::{Backend, Description, Options};
use nn::gpt::{AdamW, ID, Job, Session, Shape, State};
use protocol::Event;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;
use text::Text;

/// Everything that a run needs, checked.
pub struct Setup<'text> {
    pub backend: &'static dyn Backend,
    pub options: Options,
    pub job: Job<'text>,
    pub text: &'text Text,
    /// For the first line: where the text came from.
    pub source: String,
    pub seed: u64,
    pub initial: State,
    pub report_every: u64,
    pub eval_every: Option<u64>,
    pub save: Option<Destination>,
    pub checkpoint: Option<Checkpoint>,
    pub predictions: Option<PathBuf>,
    /// When the process began to set up.
    pub began: Instant,
}

/// Where checkpoints go, and when.
pub struct Checkpoint {
    pub folder: Folder,
    /// In steps.
    pub every: u64,
    pub resume: bool,
}

/// The backend, ready to train from the initial state.
pub fn open<'text>(setup: &Setup<'text>) -> Result<Box<dyn Session + 'text>, Failure> {
    let id = setup.backend.id();
    let session = setup.backend.open_gpt(setup.job, &setup.options);
    let mut session = session.map_err(|error| named(id, error))?;
    session.set_state(&setup.initial)?;
    Ok(session)
}

/// What decides the bits of the state. The number of threads does not; the number of steps does, since
/// the schedule is made for it.
pub fn identity(setup: &Setup<'_>, description: &Description) -> Identity {
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
pub fn announce<W: Write>(
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

/// The program and its device.
pub fn started(setup: &Setup<'_>, session: &dyn Session) -> Event {
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
pub fn sizes(shape: Shape) -> String {
    let Shape { layers, heads, width, context, vocabulary } = shape;
    format!(
        "{ID}, {}, {}, width {width}, context {context}, {} tokens",
        counted(layers as u64, "layer"),
        counted(heads as u64, "head"),
        grouped(vocabulary as u64),
    )
}
