//! A run: set up, train epoch by epoch on the clock, test, save.

use crate::backends;
use crate::checkpoint;
use crate::cli::Cli;
use crate::failure::{Failure, named};
use crate::gpt;
use crate::output::{Output, counted, grouped};
use crate::verify::Exchange;
use crate::weights::{self, Destination, LOAD, SAVE};
use anyhow::{Context, anyhow};
use mnist::{Dataset, PIXELS, Source};
use nn::backend::{Backend, Description, Job, Options, Session};
use nn::conformance::{Steps, Trial};
use nn::{Model, Parameters, recipe};
use protocol::{Event, Metrics, env, exit};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Everything that a run needs, checked.
struct Setup<'data> {
    model: Model,
    backend: &'static dyn Backend,
    options: Options,
    epochs: u32,
    batch_size: usize,
    learning_rate: f32,
    seed: u64,
    eval_each_epoch: bool,
    /// For the first line: where the data came from.
    source: String,
    data: &'data Dataset,
    initial: Parameters,
    save: Option<Destination>,
    checkpoint: Option<Checkpoint>,
    predictions: Option<PathBuf>,
    /// When the process began to set up.
    began: Instant,
}

/// Where checkpoints go, and when.
struct Checkpoint {
    folder: checkpoint::Folder,
    every: u32,
    resume: bool,
}

/// Does what the command line asks for.
///
/// # Errors
/// Whatever keeps it from that, with the exit code for it.
pub fn run(cli: &Cli) -> Result<(), Failure> {
    let began = Instant::now();
    let mut output = Output::new(io::stdout().lock(), std::env::var_os(env::PROTOCOL).is_some());
    if cli.what.probe {
        let probe =
            serde_json::to_string_pretty(&backends::probe(&cli.options())).context("--probe")?;
        return Ok(output.line(probe)?);
    }
    if let Some(command) = cli.gpt().unwrap_or_else(|error| error.exit()) {
        return gpt::run(cli, &command, began, &mut output);
    }
    let model = cli.model().unwrap_or_else(|error| error.exit());
    let backend = cli.backend.0.backend;
    let save = cli.what.save.as_deref();
    let save = save.map(|path| Destination::prepare(path, SAVE)).transpose()?;
    let checkpoint = match &cli.what.checkpoint {
        Some(path) => Some(Checkpoint {
            folder: checkpoint::Folder::prepare(path, "epoch")?,
            every: cli.what.checkpoint_every.unwrap_or(1),
            resume: cli.what.resume,
        }),
        None => None,
    };
    let verification = Exchange::from_environment();
    let asked = verification.as_ref().and_then(Exchange::reference_steps);
    let initial = match (&verification, &cli.what.load) {
        (Some(exchange), _) if asked.is_none() => exchange.initial(model)?,
        (None, Some(path)) => weights::load(model, path, LOAD)?,
        _ => {
            let mut initial = Parameters::zeros(model);
            recipe::initialise(&mut initial, cli.training.seed);
            initial
        }
    };
    let wrong_data = |error| Failure::new(exit::DATA, error);
    let source = Source::locate(cli.training.data.as_deref()).map_err(wrong_data)?;
    let mut data = source.load().map_err(wrong_data)?;
    if checkpoint.is_some() {
        data.identify();
    }
    if data.train.is_empty() || data.test.is_empty() {
        return Err(Failure::new(exit::DATA, anyhow!("{source}: a set without images")));
    }
    let setup = Setup {
        model,
        backend,
        options: cli.options(),
        epochs: cli.training.epochs.unwrap_or(10),
        batch_size: cli.training.batch_size.unwrap_or(64),
        learning_rate: cli.training.learning_rate.unwrap_or(0.01),
        seed: cli.training.seed,
        eval_each_epoch: cli.what.eval_each_epoch,
        source: source.to_string(),
        data: &data,
        initial,
        save,
        checkpoint,
        predictions: std::env::var_os(env::PREDICTIONS).map(PathBuf::from),
        began,
    };
    match (verification, asked) {
        _ if cli.what.check => check(setup, &mut output),
        (Some(exchange), Some(steps)) => {
            let ten = Steps::ten(setup.batch_size, setup.learning_rate);
            let all = Steps { count: ten.count.max(steps), ..ten };
            let trial = Trial::new(setup.initial, &setup.data.train, all, setup.seed);
            exchange.hand_out(|folder| trial.write(folder, steps))
        }
        (Some(exchange), None) => {
            let mut session = open(&setup)?;
            output.event(&started(&setup, session.as_ref()))?;
            exchange.run(session.as_mut(), setup.batch_size)
        }
        (None, _) => train(&setup, &mut output),
    }
}

/// The backend, ready to train from the initial parameters.
fn open<'data>(setup: &Setup<'data>) -> Result<Box<dyn Session + 'data>, Failure> {
    let job = Job {
        model: setup.model,
        batch_size: setup.batch_size,
        learning_rate: setup.learning_rate,
        train: &setup.data.train,
    };
    let id = setup.backend.id();
    let mut session = setup.backend.open(job, &setup.options).map_err(|error| named(id, error))?;
    session.set_parameters(&setup.initial)?;
    Ok(session)
}

/// Ten steps beside the reference.
fn check<W: Write>(setup: Setup<'_>, output: &mut Output<W>) -> Result<(), Failure> {
    let steps = Steps::ten(setup.batch_size, setup.learning_rate);
    let trial = Trial::new(setup.initial, &setup.data.train, steps, setup.seed);
    let id = setup.backend.id();
    let report = trial.run(setup.backend, &setup.options).map_err(|error| named(id, error))?;
    output.line(&report)?;
    if report.passed() {
        return Ok(());
    }
    Err(anyhow!("{id} deviates from the reference").into())
}

fn train<W: Write>(setup: &Setup<'_>, output: &mut Output<W>) -> Result<(), Failure> {
    let mut session = open(setup)?;
    let job = identity(setup, &session.description());
    // Before the first line: what cannot go on says nothing but why.
    let resumed = take_up(setup, &job, session.as_mut())?;
    announce(setup, session.as_mut(), output)?;
    if let Some(done) = resumed {
        let epochs = setup.epochs;
        let from = match done {
            0 => "from the start: there is no checkpoint yet".to_owned(),
            done => format!("after epoch {done} of {epochs}; times are of the rest"),
        };
        output.line(format!("resumed   {from}"))?;
    }
    let done = resumed.unwrap_or(0);

    let samples = setup.data.train.len();
    let mut order = vec![0; samples];
    let mut step_loss = vec![0.0; samples.div_ceil(setup.batch_size)];
    let mut train_s = 0.0;
    for epoch in done + 1..=setup.epochs {
        let clock = Instant::now();
        recipe::shuffle(&mut order, setup.seed, epoch - 1);
        session.train(&order, &mut step_loss)?;
        let seconds = clock.elapsed().as_secs_f64();

        train_s += seconds;
        let loss = recipe::mean_loss(&step_loss, setup.batch_size, samples).map_err(|step| {
            let error = anyhow!("loss is not finite at epoch {epoch}, step {step}");
            Failure::new(exit::NOT_FINITE, error)
        })?;
        let accuracy_percent = match setup.eval_each_epoch {
            true => Some(setup.data.test.accuracy_percent(&predict(setup, session.as_mut())?)),
            false => None,
        };
        let width = setup.epochs.to_string().len();
        let tested =
            accuracy_percent.map_or(String::new(), |accuracy| format!("   {accuracy:.2} %"));
        let epochs = setup.epochs;
        output.line(format!(
            "epoch {epoch:width$}/{epochs}   loss {loss:.4}   {seconds:.3} s{tested}"
        ))?;
        output.event(&Event::Epoch { epoch, loss, seconds, accuracy_percent })?;
        if let Some(Checkpoint { folder, every, .. }) = &setup.checkpoint
            && (epoch.is_multiple_of(*every) || epoch == setup.epochs)
        {
            let weights = session.parameters()?.to_safetensors().context(checkpoint::OPTION)?;
            folder.write(&weights, epoch.into(), &job)?;
        }
    }
    conclude(setup, session.as_mut(), setup.epochs - done, train_s, output)
}

/// What decides the bits of the weights. The number of threads does not, and neither does how many
/// epochs are still to come.
fn identity(setup: &Setup<'_>, description: &Description) -> checkpoint::Identity {
    let sha256 = setup.data.sha256.clone().unwrap_or_default();
    let entries = [
        ("model", sizes(setup.model)),
        ("batch", setup.batch_size.to_string()),
        ("learning rate", setup.learning_rate.to_string()),
        ("seed", setup.seed.to_string()),
        ("data", sha256),
        ("weights at the start", checkpoint::digest(setup.initial.values())),
        ("backend", setup.backend.id().to_owned()),
        ("code", description.path.clone()),
        ("arithmetic", description.precision.to_owned()),
    ];
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Goes on from a checkpoint, if that is wanted. Returns how many epochs are done then.
fn take_up(
    setup: &Setup<'_>,
    job: &checkpoint::Identity,
    session: &mut dyn Session,
) -> Result<Option<u32>, Failure> {
    let Some(Checkpoint { folder, resume, .. }) = &setup.checkpoint else { return Ok(None) };
    if !resume {
        folder.refuse_old()?;
        return Ok(None);
    }
    let Some((path, done)) = folder.resume(job)? else { return Ok(Some(0)) };
    let parameters = weights::load(setup.model, &path, checkpoint::OPTION)?;
    let epochs = setup.epochs;
    let done = u32::try_from(done).unwrap_or(u32::MAX);
    if done > epochs {
        let error = anyhow!("--resume: the checkpoint is after epoch {done}, of {epochs} wanted");
        return Err(Failure::new(exit::DATA, error));
    }
    session.set_parameters(&parameters)?;
    Ok(Some(done))
}

/// The lines before the first epoch.
fn announce<W: Write>(
    setup: &Setup<'_>,
    session: &mut dyn Session,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    let Description { device, path, threads, precision, software } = session.description();
    let data = setup.data;
    let steps = data.train.len().div_ceil(setup.batch_size);
    let parameters = setup.model.parameter_count() as u64;
    let compile_s = session.compile_s();
    let setup_s = setup.began.elapsed().as_secs_f64() - compile_s.unwrap_or(0.0);

    let on_threads =
        threads.map_or(String::new(), |n| format!(", {}", counted(n as u64, "thread")));
    let imitated = if software { ", in software" } else { "" };
    output.line(format!("model     {}, {} parameters", sizes(setup.model), grouped(parameters)))?;
    output.line(format!(
        "data      {}: {} training and {} test images",
        setup.source,
        grouped(data.train.len() as u64),
        grouped(data.test.len() as u64),
    ))?;
    output.line(format!(
        "backend   {}: {device}, {path}{on_threads}, {precision}{imitated}",
        setup.backend.id(),
    ))?;
    output.line(format!(
        "training  {} of {}, batch {}, learning rate {}, seed {}",
        counted(setup.epochs.into(), "epoch"),
        counted(steps as u64, "step"),
        setup.batch_size,
        setup.learning_rate,
        setup.seed,
    ))?;
    let compiled = compile_s.map_or(String::new(), |s| format!(", compiled in {s:.3} s"));
    output.line(format!("ready     in {setup_s:.3} s{compiled}"))?;

    output.event(&started(setup, session))?;
    output.event(&Event::Dataset { name: data.name.clone(), sha256: data.sha256.clone() })?;
    output.event(&Event::Ready { setup_s, compile_s })?;
    Ok(())
}

/// The program and its device.
fn started(setup: &Setup<'_>, session: &dyn Session) -> Event {
    let Description { device, path, threads, precision, software } = session.description();
    Event::Started {
        protocol: protocol::VERSION,
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        device: Some(device),
        path: Some(path),
        threads,
        precision: Some(precision.to_owned()),
        parameters: Some(setup.model.parameter_count() as u64),
        compiled: Some(setup.backend.compiled()),
        software: Some(software),
        ranks: None,
    }
}

/// The lines after the last epoch: summary of so many epochs, test, weights.
fn conclude<W: Write>(
    setup: &Setup<'_>,
    session: &mut dyn Session,
    epochs: u32,
    train_s: f64,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    let samples = setup.data.train.len();
    let steps = u64::from(epochs) * samples.div_ceil(setup.batch_size) as u64;
    let seen = u64::from(epochs) * samples as u64;
    let dense_flop = setup.model.dense_flop(seen, steps);
    let measured = session.measured();
    output.event(&Event::Trained {
        train_s,
        steps: Some(steps),
        work: Some(seen as f64),
        device_s: measured.device_s,
        dense_flop: Some(dense_flop),
        executed_flop: measured.executed_flop,
        device_peak_bytes: measured.device_peak_bytes,
        metrics: Metrics::new(),
    })?;

    let clock = Instant::now();
    let labels = predict(setup, session)?;
    let eval_s = clock.elapsed().as_secs_f64();
    let accuracy_percent = setup.data.test.accuracy_percent(&labels);
    if let Some(path) = &setup.predictions {
        write_predictions(path, &labels)?;
    }
    let accuracy = Some(accuracy_percent);
    output.event(&Event::Evaluated {
        eval_s,
        accuracy_percent: accuracy,
        metrics: Metrics::new(),
    })?;
    if let Some(destination) = &setup.save {
        destination.write(&session.parameters()?)?;
    }
    if steps > 0 {
        output.line(format!(
            "trained   in {train_s:.3} s: {}, {:.1} us each, {:.1} GFLOP/s if nothing were skipped",
            counted(steps, "step"),
            1e6 * train_s / steps as f64,
            1e-9 * dense_flop / train_s,
        ))?;
    }
    output.line(format!("tested    in {eval_s:.3} s"))?;
    output.line(format!("Test Accuracy: {accuracy_percent:.2}%"))?;
    Ok(())
}

fn predict(setup: &Setup<'_>, session: &mut dyn Session) -> Result<Vec<u8>, Failure> {
    let test = &setup.data.test;
    let mut labels = vec![0; test.len()];
    session.predict(&test.images()[..test.len() * PIXELS], &mut labels)?;
    Ok(labels)
}

fn write_predictions(path: &Path, labels: &[u8]) -> anyhow::Result<()> {
    let variable = env::PREDICTIONS;
    std::fs::write(path, labels)
        .with_context(|| format!("cannot write ${variable} {}", path.display()))
}

/// `mlp 784-512-10`, `cnn`, `attention d_model 32, ff 64`.
fn sizes(model: Model) -> String {
    match model {
        Model::Mlp(shape) => format!("mlp 784-{}-10", shape.hidden),
        Model::Cnn => "cnn".to_owned(),
        Model::Attention(shape) => {
            format!("attention, d_model {}, ff {}", shape.d_model, shape.ff)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mnist::Split;
    use nn::conformance::{Plain, small_model};

    static PLAIN: Plain<f32> = Plain::new();

    fn data() -> Dataset {
        // A bright bar per class: learnt in a few steps.
        let split = |count: usize| {
            let labels: Vec<u8> = (0..count).map(|index| (index % 10) as u8).collect();
            let mut images = vec![0; count * PIXELS];
            for (image, &label) in images.chunks_mut(PIXELS).zip(&labels) {
                image[usize::from(label) * 56..][..56].fill(255);
            }
            Split::new(images, labels).unwrap()
        };
        Dataset { name: "bars".to_owned(), sha256: None, train: split(103), test: split(50) }
    }

    fn setup(data: &Dataset) -> Setup<'_> {
        let model = small_model("mlp");
        let mut initial = Parameters::zeros(model);
        recipe::initialise(&mut initial, 1);
        Setup {
            model,
            backend: &PLAIN,
            options: Options::default(),
            epochs: 12,
            batch_size: 10,
            learning_rate: 0.05,
            seed: 1,
            eval_each_epoch: false,
            source: "bars (made here)".to_owned(),
            data,
            initial,
            save: None,
            checkpoint: None,
            predictions: None,
            began: Instant::now(),
        }
    }

    fn lines(setup: &Setup<'_>, events: bool) -> Vec<String> {
        let mut written = Vec::new();
        train(setup, &mut Output::new(&mut written, events)).unwrap();
        String::from_utf8(written).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_run_prints_set_up_epochs_summary_and_the_accuracy_line() {
        let data = data();
        let lines = lines(&setup(&data), false);
        assert_eq!(lines[0], "model     mlp 784-24-10, 19,090 parameters");
        assert_eq!(lines[1], "data      bars (made here): 103 training and 50 test images");
        assert_eq!(lines[2], "backend   plain: one thread, plain loops, 1 thread, float32");
        let training = "training  12 epochs of 11 steps, batch 10, learning rate 0.05, seed 1";
        assert_eq!(lines[3], training);
        assert!(lines[5].starts_with("epoch  1/12   loss 1."), "{}", lines[5]);
        assert!(lines[16].starts_with("epoch 12/12   loss 0."), "{}", lines[16]);
        assert_eq!(lines.last().unwrap(), "Test Accuracy: 100.00%");
    }

    #[test]
    fn events_tell_a_harness_everything_once_and_agree_with_the_predictions() {
        let data = data();
        let folder = tempfile::tempdir().unwrap();
        let predictions = folder.path().join("labels");
        let setup = Setup {
            predictions: Some(predictions.clone()),
            eval_each_epoch: true,
            epochs: 2,
            ..setup(&data)
        };
        let events: Vec<Event> = lines(&setup, true)
            .iter()
            .filter_map(|line| Event::parse(line))
            .map(Result::unwrap)
            .collect();
        assert!(matches!(&events[0], Event::Started { parameters: Some(19_090), .. }));
        assert!(matches!(&events[1], Event::Dataset { name, .. } if name == "bars"));
        assert!(matches!(&events[2], Event::Ready { compile_s: None, .. }));
        let Event::Epoch { seconds: first, .. } = events[3] else { panic!("{events:?}") };
        let Event::Epoch { seconds: second, accuracy_percent: Some(last), .. } = events[4] else {
            panic!("{events:?}")
        };
        let Event::Trained { train_s, steps: Some(22), .. } = events[5] else {
            panic!("{events:?}")
        };
        assert_eq!(train_s, first + second);
        let Event::Evaluated { accuracy_percent, .. } = events[6] else { panic!("{events:?}") };
        let accuracy_percent = accuracy_percent.unwrap();
        assert_eq!(accuracy_percent, last);
        let labels = std::fs::read(predictions).unwrap();
        assert_eq!(data.test.accuracy_percent(&labels), accuracy_percent);
        assert_eq!(events.len(), 7);
    }

    #[test]
    fn a_loss_that_is_not_finite_ends_the_run_and_names_the_step() {
        let data = data();
        let mut setup = setup(&data);
        setup.learning_rate = 1e20;
        let mut written = Vec::new();
        let failure = train(&setup, &mut Output::new(&mut written, false)).unwrap_err();
        assert_eq!(failure.code, exit::NOT_FINITE);
        let message = failure.error.to_string();
        assert!(message.starts_with("loss is not finite at epoch 1, step "), "{message}");
        assert!(!String::from_utf8(written).unwrap().contains("Accuracy"));
    }

    #[test]
    fn a_check_passes_a_sound_backend_and_prints_each_tensor() {
        let data = data();
        let mut written = Vec::new();
        check(setup(&data), &mut Output::new(&mut written, false)).unwrap();
        let text = String::from_utf8(written).unwrap();
        for name in ["loss", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"] {
            assert!(text.lines().any(|line| line.starts_with(name)), "{text}");
        }
        assert!(text.trim_end().ends_with("equal within float32 rounding"), "{text}");
    }

    #[test]
    fn weights_that_were_saved_are_those_that_predicted() {
        let data = data();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let mut setup = setup(&data);
        setup.save = Some(Destination::prepare(&path, SAVE).unwrap());
        let lines_before = lines(&setup, false);
        setup.initial = weights::load(setup.model, &path, LOAD).unwrap();
        setup.save = None;
        setup.learning_rate = 1e-30; // no step changes anything
        assert_eq!(lines(&setup, false).last(), lines_before.last());
    }
}
