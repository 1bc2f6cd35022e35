//! A run of the model gpt: set up, warm up, train on the clock, evaluate; or the few steps of a verification.

use crate::command::Args;
use crate::run::{event, line, started, threads};
use crate::{Failure, Program};
use anyhow::{Context, Result, anyhow, ensure};
use nn::backend::{Backend, Options, TrainError};
use nn::gpt::conformance::{Trial, moved, verifiable};
use nn::gpt::{AdamW, Content, Job, Session, Shape, State, recipe};
use protocol::verify::{FINAL, INITIAL, LOSSES, ORDER};
use protocol::{Event, Metrics, env, exit};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;
use text::validation::nats;
use text::{Source, Text};

/// Steps before the clock starts, with parameters that are thrown away.
const WARM_UP_STEPS: usize = 3;
/// The metric's name.
const VAL_LOSS: &str = "val_loss";

/// What every part of a run needs.
struct Run<'text> {
    job: Job<'text>,
    text: &'text Text,
    seed: u64,
    report_every: u64,
    eval_every: Option<u64>,
}

pub(crate) fn run(
    program: &Program,
    backend: &dyn Backend,
    args: &Args,
    began: Instant,
) -> Result<(), Failure> {
    let threads = threads(args);
    // SAFETY: no other thread is running yet; rayon's come with the first product.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", threads.to_string()) };
    let wrong_data = |error: anyhow::Error| Failure { code: exit::DATA, error };
    let source = Source::locate(args.data.as_deref()).map_err(|it| wrong_data(it.into()))?;
    let text = source.load().map_err(|it| wrong_data(it.into()))?;
    let (shape, batch_size, optimiser) = args.gpt(text.vocabulary);
    let job = Job { shape, batch_size, optimiser, text: &text.train };
    job.check().with_context(|| source.to_string()).map_err(wrong_data)?;
    let steps = optimiser.steps;
    let report_every = args.report_every.unwrap_or((steps / 20).clamp(1, 100));
    let run = Run { job, text: &text, seed: args.seed, report_every, eval_every: args.eval_every };
    let precision = Some(args.precision.clone());
    let options = Options { threads: Some(threads), precision, ..Options::default() };
    if args.check {
        return check(backend, &options, &run);
    }
    let mut session = backend.open_gpt(job, &options)?;
    if let Some(folder) = std::env::var_os(env::VERIFY).filter(|it| !it.is_empty()) {
        let description = session.description();
        event(&started(program, backend, shape.parameter_count() as u64, description))?;
        return Ok(verify(session.as_mut(), &run, &PathBuf::from(folder))?);
    }
    let mut initial = State::zeros(shape);
    recipe::initialise(&mut initial, args.seed);
    session.set_state(&initial)?;
    let setup_s = began.elapsed().as_secs_f64();
    let clock = Instant::now();
    let mut losses = vec![0.0; WARM_UP_STEPS];
    session.train(&run.starts(0, WARM_UP_STEPS), &mut losses)?;
    session.set_state(&initial)?;
    let warm_s = clock.elapsed().as_secs_f64();

    let description = session.description();
    line(format!(
        "backend   {}: {}, {}, {threads} threads, {}",
        backend.id(),
        description.device,
        description.path,
        description.precision,
    ))?;
    line(format!("data      {source}: {}, SHA-256 {}", text.name, text.sha256))?;
    line(format!("ready     in {setup_s:.3} s, warm in {warm_s:.3} s"))?;
    event(&started(program, backend, shape.parameter_count() as u64, description))?;
    event(&Event::Dataset { name: text.name.clone(), sha256: Some(text.sha256.clone()) })?;
    event(&Event::Ready { setup_s, compile_s: Some(warm_s) })?;
    let train_s = run.train(session.as_mut())?;
    run.conclude(session.as_mut(), train_s, args.predictions.as_deref())
}

impl Run<'_> {
    fn starts(&self, first_step: u64, steps: usize) -> Vec<u32> {
        let mut starts = vec![0; steps * self.job.batch_size];
        let places = self.job.text.len() - self.job.shape.context;
        recipe::windows(&mut starts, self.seed, first_step, self.job.batch_size, places);
        starts
    }

    /// Returns the seconds that the steps took.
    fn train(&self, session: &mut dyn Session) -> Result<f64, Failure> {
        let steps = self.job.optimiser.steps;
        let (mut done, mut train_s) = (0, 0.0);
        while done < steps {
            let every = [Some(self.report_every), self.eval_every].into_iter().flatten();
            let next =
                every.map(|every| (done / every + 1) * every).min().unwrap_or(steps).min(steps);
            let mut losses = vec![0.0; (next - done) as usize];
            let clock = Instant::now();
            let starts = self.starts(done, losses.len());
            session.train(&starts, &mut losses)?;
            let seconds = clock.elapsed().as_secs_f64();
            train_s += seconds;
            if let Some(step) = losses.iter().position(|loss| !loss.is_finite()) {
                let error = anyhow!("loss is not finite at step {}", done + step as u64 + 1);
                return Err(Failure { code: exit::NOT_FINITE, error });
            }
            done = next;
            let loss =
                losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64;
            let mut metrics = Metrics::new();
            if self.eval_every.is_some_and(|every| done.is_multiple_of(every)) && done < steps {
                metrics.insert(VAL_LOSS.to_owned(), self.validation_loss(session, None)?);
            }
            line(format!("step {done} loss {loss:.4}   {seconds:.3} s"))?;
            let (step, seconds, loss) = (Some(done), Some(train_s), Some(loss));
            event(&Event::Progress { step, epoch: None, seconds, loss, metrics })?;
        }
        Ok(train_s)
    }

    fn conclude(
        &self,
        session: &mut dyn Session,
        train_s: f64,
        predictions: Option<&Path>,
    ) -> Result<(), Failure> {
        let (shape, steps) = (self.job.shape, self.job.optimiser.steps);
        let tokens = (steps * (self.job.batch_size * shape.context) as u64) as f64;
        event(&Event::Trained {
            train_s,
            steps: Some(steps),
            work: Some(tokens),
            device_s: None,
            dense_flop: Some(shape.dense_flop_per_token() * tokens),
            executed_flop: None,
            device_peak_bytes: None,
            metrics: Metrics::new(),
        })?;
        let clock = Instant::now();
        let variable = std::env::var_os(env::PREDICTIONS).map(PathBuf::from);
        let loss = self.validation_loss(session, predictions.or(variable.as_deref()))?;
        let eval_s = clock.elapsed().as_secs_f64();
        let metrics = Metrics::from([(VAL_LOSS.to_owned(), loss)]);
        event(&Event::Evaluated { eval_s, accuracy_percent: None, metrics })?;
        let step_ms = 1e3 * train_s / steps as f64;
        line(format!("trained   in {train_s:.3} s: {steps} steps, {step_ms:.3} ms each"))?;
        line(format!("evaluated in {eval_s:.3} s"))?;
        line(format!("{VAL_LOSS} {loss:.4}"))
    }

    /// Over every validation token but the first; the logits go to a file too, if one is named.
    fn validation_loss(&self, session: &mut dyn Session, file: Option<&Path>) -> Result<f64> {
        let Shape { context, vocabulary, .. } = self.job.shape;
        let piece = self.job.batch_size * context;
        let (inputs, targets) = (self.text.validation_inputs(), self.text.validation_targets());
        let mut logits = vec![0.0; piece * vocabulary];
        let mut file =
            file.map(File::create).transpose().context("--predictions")?.map(BufWriter::new);
        let mut sum = 0.0;
        for (inputs, targets) in inputs.chunks(piece).zip(targets.chunks(piece)) {
            let logits = &mut logits[..inputs.len() * vocabulary];
            session.predict(inputs, logits)?;
            sum += nats(logits, targets);
            if let Some(file) = &mut file {
                let bytes: Vec<u8> = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
                file.write_all(&bytes).context("--predictions")?;
            }
        }
        if let Some(mut file) = file {
            file.flush().context("--predictions")?;
        }
        Ok(sum / targets.len() as f64)
    }
}

/// Ten steps beside the reference, of a model that it follows in a minute.
fn check(backend: &dyn Backend, options: &Options, run: &Run<'_>) -> Result<(), Failure> {
    let (shape, batch_size, steps) = verifiable(run.job.shape, run.job.batch_size);
    let optimiser = AdamW { warmup: 3, steps: steps as u64, ..run.job.optimiser };
    let job = Job { shape, batch_size, optimiser, ..run.job };
    let trial = Trial::new(moved(shape, run.seed), job, steps, run.seed);
    let report = trial.run(backend, options)?;
    line(&report)?;
    match report.passed() {
        true => Ok(()),
        false => Err(anyhow!("{} deviates from the reference", backend.id()).into()),
    }
}

/// The steps of a verification.
fn verify(session: &mut dyn Session, run: &Run<'_>, folder: &Path) -> Result<()> {
    let bytes = fs::read(folder.join(INITIAL)).context(INITIAL)?;
    let initial = State::from_safetensors(run.job.shape, &bytes, Content::Parameters)?;
    session.set_state(&initial)?;
    let bytes = fs::read(folder.join(ORDER)).context(ORDER)?;
    let (words, rest) = bytes.as_chunks();
    ensure!(rest.is_empty() && !words.is_empty(), "{ORDER}: {} bytes", bytes.len());
    let starts: Vec<u32> = words.iter().map(|&word| u32::from_le_bytes(word)).collect();
    let mut losses = vec![0.0; starts.len().div_ceil(run.job.batch_size)];
    session.train(&starts, &mut losses)?;
    let losses: Vec<u8> = losses.iter().flat_map(|loss: &f32| loss.to_le_bytes()).collect();
    fs::write(folder.join(LOSSES), losses).context(LOSSES)?;
    fs::write(folder.join(FINAL), session.state()?.to_safetensors(Content::Whole)?)
        .context(FINAL)?;
    Ok(())
}

/// Windows as a framework takes them: for each start `context` inputs, and as many targets.
pub fn windows(job: &Job<'_>, starts: &[u32]) -> [Vec<u32>; 2] {
    let context = job.shape.context;
    [0, 1].map(|shift| {
        let rows = starts.iter().map(|&start| &job.text[start as usize + shift..][..context]);
        rows.flatten().map(|&token| token.into()).collect()
    })
}

/// The tokens of [`Session::predict`] as whole windows: the last is filled up. Returns them and how many
/// there are.
pub fn filled(shape: &Shape, tokens: &[u16]) -> (Vec<u32>, usize) {
    let windows = tokens.len().div_ceil(shape.context);
    let mut all: Vec<u32> = tokens.iter().map(|&token| token.into()).collect();
    all.resize(windows * shape.context, 0);
    (all, windows)
}

/// What a backend that computes in float32 alone says to another precision.
///
/// # Errors
/// If that is asked for.
pub fn only_float32(options: &Options) -> Result<(), TrainError> {
    let other = options.precision.clone().filter(|it| it != "float32");
    other.map_or(Ok(()), |value| {
        let reason = "it computes in float32".to_owned();
        Err(TrainError::Option { option: "precision", value, reason })
    })
}

/// An error of a framework.
pub fn failed(backend: &'static str, error: impl std::fmt::Display) -> TrainError {
    TrainError::Device { backend, message: error.to_string() }
}
