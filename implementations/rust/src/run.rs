//! A run: set up, warm up, train epoch by epoch on the clock, test; or the few steps of a verification.

use crate::command::Args;
use crate::{Failure, Program};
use anyhow::{Context, Result, anyhow, ensure};
use mnist::{Dataset, PIXELS, Source, Split};
use nn::backend::{Backend, Description, Job, Options, Session, TrainError};
use nn::conformance::{Steps, Trial};
use nn::{Model, Parameters, recipe};
use protocol::verify::{FINAL, INITIAL, LOSSES, ORDER};
use protocol::{BackendProbe, Event, Metrics, Probe, env, exit};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Steps before the clock starts, with weights that are thrown away; as in the Python trainers.
const WARM_UP_STEPS: usize = 20;

pub fn run(program: &Program, args: &Args) -> Result<(), Failure> {
    let began = Instant::now();
    if args.probe {
        let probe = serde_json::to_string_pretty(&probe(program));
        return line(probe.context("--probe")?);
    }
    let usage = |error| Failure { code: exit::USAGE, error };
    let backend = program.backend(args)?;
    if args.model == nn::gpt::ID {
        return crate::gpt::run(program, backend, args, began);
    }
    let model = args.model().map_err(usage)?;
    let threads = threads(args);
    // SAFETY: no other thread is running yet; rayon's come with the first product.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", threads.to_string()) };

    let exchange = std::env::var_os(env::VERIFY).filter(|it| !it.is_empty()).map(PathBuf::from);
    let wrong_data = |error: anyhow::Error| Failure { code: exit::DATA, error };
    let initial = match (&exchange, &args.load) {
        (Some(folder), _) => load(model, &folder.join(INITIAL)).map_err(wrong_data)?,
        (None, Some(path)) => load(model, path).map_err(wrong_data)?,
        (None, None) => {
            let mut initial = Parameters::zeros(model);
            recipe::initialise(&mut initial, args.seed);
            initial
        }
    };
    let source = Source::locate(args.data.as_deref()).map_err(|it| wrong_data(it.into()))?;
    let data = source.load().map_err(|it| wrong_data(it.into()))?;
    if data.train.is_empty() || data.test.is_empty() {
        return Err(wrong_data(anyhow!("{source}: a set without images")));
    }

    let options = Options { threads: Some(threads), ..Options::default() };
    let (batch_size, learning_rate) = (args.samples(), args.rate());
    if args.check {
        return check(backend, &options, initial, &data.train, args);
    }
    let parameters = model.parameter_count() as u64;
    let job = Job { model, batch_size, learning_rate, train: &data.train };
    let mut session = backend.open(job, &options)?;
    session.set_parameters(&initial)?;
    if let Some(folder) = exchange {
        event(&started(program, backend, parameters, session.description()))?;
        return Ok(steps(session.as_mut(), &folder, batch_size)?);
    }
    let setup_s = began.elapsed().as_secs_f64();
    let clock = Instant::now();
    warm_up(session.as_mut(), args, &data, &initial)?;
    let warm_s = clock.elapsed().as_secs_f64();

    let description = session.description();
    line(format!(
        "backend   {}: {}, {}, {threads} threads, {}",
        backend.id(),
        description.device,
        description.path,
        description.precision,
    ))?;
    line(format!("ready     in {setup_s:.3} s, warm in {warm_s:.3} s"))?;
    event(&started(program, backend, parameters, description))?;
    event(&Event::Dataset { name: data.name.clone(), sha256: data.sha256.clone() })?;
    event(&Event::Ready { setup_s, compile_s: Some(warm_s) })?;
    train(args, model, &data, session.as_mut())
}

/// What `--threads` says, else as many as the process may use.
pub fn threads(args: &Args) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    args.threads.map_or_else(cores, |threads| threads as usize)
}

/// Standard output that nobody reads any more is no reason to panic.
pub fn line(text: impl std::fmt::Display) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    writeln!(output, "{text}").and_then(|()| output.flush()).context("standard output")?;
    Ok(())
}

/// Only for a harness that listens.
pub fn event(event: &Event) -> Result<(), Failure> {
    match std::env::var_os(env::PROTOCOL) {
        Some(_) => line(event),
        None => Ok(()),
    }
}

fn probe(program: &Program) -> Probe {
    let probed = |backend: &&dyn Backend| {
        let devices = backend.devices();
        BackendProbe {
            backend: backend.id().to_owned(),
            unavailable: devices.as_ref().err().map(ToString::to_string),
            models: backend.models().iter().map(|&model| model.to_owned()).collect(),
            devices: devices.unwrap_or_default(),
        }
    };
    Probe {
        trainer: program.name.to_owned(),
        version: program.version.to_owned(),
        backends: program.backends.iter().map(probed).collect(),
    }
}

fn load(model: Model, path: &Path) -> Result<Parameters> {
    let name = || path.display().to_string();
    let bytes = fs::read(path).with_context(name)?;
    Parameters::from_safetensors(model, &bytes).with_context(name)
}

pub fn started(
    program: &Program,
    backend: &dyn Backend,
    parameters: u64,
    description: Description,
) -> Event {
    let Description { device, path, threads, precision, software } = description;
    Event::Started {
        protocol: protocol::VERSION,
        version: Some(program.version.to_owned()),
        device: Some(device),
        path: Some(path),
        threads,
        precision: Some(precision.to_owned()),
        parameters: Some(parameters),
        compiled: Some(backend.compiled()),
        software: Some(software),
        ranks: None,
    }
}

/// Ten steps beside the reference.
fn check(
    backend: &dyn Backend,
    options: &Options,
    initial: Parameters,
    train: &Split,
    args: &Args,
) -> Result<(), Failure> {
    let steps = Steps::ten(args.samples(), args.rate());
    let report = Trial::new(initial, train, steps, args.seed).run(backend, options)?;
    line(&report)?;
    match report.passed() {
        true => Ok(()),
        false => Err(anyhow!("{} deviates from the reference", backend.id()).into()),
    }
}

/// The steps of a verification.
fn steps(session: &mut dyn Session, folder: &Path, batch_size: usize) -> Result<()> {
    let bytes = fs::read(folder.join(ORDER)).context(ORDER)?;
    let (words, rest) = bytes.as_chunks();
    ensure!(rest.is_empty() && !words.is_empty(), "{ORDER}: {} bytes", bytes.len());
    let order: Vec<u32> = words.iter().map(|&word| u32::from_le_bytes(word)).collect();
    let mut losses = vec![0.0; order.len().div_ceil(batch_size)];
    session.train(&order, &mut losses)?;
    let losses: Vec<u8> = losses.iter().flat_map(|loss: &f32| loss.to_le_bytes()).collect();
    fs::write(folder.join(LOSSES), losses).context(LOSSES)?;
    fs::write(folder.join(FINAL), session.parameters()?.to_safetensors()?).context(FINAL)?;
    Ok(())
}

/// Wakes the threads and touches the memory; the weights are then what they were.
fn warm_up(
    session: &mut dyn Session,
    args: &Args,
    data: &Dataset,
    initial: &Parameters,
) -> Result<(), TrainError> {
    let batch_size = args.samples();
    let mut order = vec![0; data.train.len()];
    recipe::shuffle(&mut order, args.seed, 0);
    for samples in [WARM_UP_STEPS * batch_size, order.len() % batch_size] {
        let order = &order[..samples.min(order.len())];
        session.train(order, &mut vec![0.0; order.len().div_ceil(batch_size)])?;
    }
    session.predict(&data.test.images()[..PIXELS], &mut [0])?;
    session.set_parameters(initial)
}

fn train(
    args: &Args,
    model: Model,
    data: &Dataset,
    session: &mut dyn Session,
) -> Result<(), Failure> {
    let (samples, batch_size) = (data.train.len(), args.samples());
    let mut order = vec![0; samples];
    let mut step_loss = vec![0.0; samples.div_ceil(batch_size)];
    let mut train_s = 0.0;
    for epoch in 1..=args.epochs {
        let clock = Instant::now();
        recipe::shuffle(&mut order, args.seed, epoch - 1);
        session.train(&order, &mut step_loss)?;
        let seconds = clock.elapsed().as_secs_f64();
        train_s += seconds;
        let loss = recipe::mean_loss(&step_loss, batch_size, samples).map_err(|step| {
            let error = anyhow!("loss is not finite at epoch {epoch}, step {step}");
            Failure { code: exit::NOT_FINITE, error }
        })?;
        let accuracy_percent = match args.eval_each_epoch {
            true => Some(data.test.accuracy_percent(&predict(session, &data.test)?)),
            false => None,
        };
        let tested = accuracy_percent.map_or(String::new(), |it| format!("   {it:.2} %"));
        line(format!("epoch {epoch}/{}   loss {loss:.4}   {seconds:.3} s{tested}", args.epochs))?;
        event(&Event::Epoch { epoch, loss, seconds, accuracy_percent })?;
    }
    let epochs = u64::from(args.epochs);
    let steps = epochs * step_loss.len() as u64;
    event(&Event::Trained {
        train_s,
        steps: Some(steps),
        work: Some((epochs * samples as u64) as f64),
        device_s: None,
        dense_flop: Some(model.dense_flop(epochs * samples as u64, steps)),
        executed_flop: None,
        device_peak_bytes: None,
        metrics: Metrics::new(),
    })?;

    let clock = Instant::now();
    let labels = predict(session, &data.test)?;
    let eval_s = clock.elapsed().as_secs_f64();
    if let Some(path) = std::env::var_os(env::PREDICTIONS) {
        let name = || format!("cannot write ${} {}", env::PREDICTIONS, Path::new(&path).display());
        fs::write(&path, &labels).with_context(name)?;
    }
    let accuracy_percent = data.test.accuracy_percent(&labels);
    let accuracy = Some(accuracy_percent);
    let metrics = Metrics::new();
    event(&Event::Evaluated { eval_s, accuracy_percent: accuracy, metrics })?;
    if let Some(path) = &args.save {
        let bytes = session.parameters()?.to_safetensors()?;
        fs::write(path, bytes)
            .with_context(|| format!("cannot write --save {}", path.display()))?;
    }
    let step_us = 1e6 * train_s / steps as f64;
    line(format!("trained   in {train_s:.3} s: {steps} steps, {step_us:.1} us each"))?;
    line(format!("tested    in {eval_s:.3} s"))?;
    line(format!("Test Accuracy: {accuracy_percent:.2}%"))
}

fn predict(session: &mut dyn Session, test: &Split) -> Result<Vec<u8>, TrainError> {
    let mut labels = vec![0; test.len()];
    session.predict(&test.images()[..test.len() * PIXELS], &mut labels)?;
    Ok(labels)
}
