//! The steps on the clock, in stretches; reports, evaluations and checkpoints between them, off it.

use super::evaluation::validation_loss;
use super::setup::{Checkpoint, Setup, announce, identity, open};
use crate::checkpoint::{self, Identity};
use crate::failure::Failure;
use crate::output::{Output, counted, grouped};
use crate::weights;
use anyhow::{Context, anyhow};
use nn::gpt::{Content, Session, State, recipe};
use protocol::{Event, Metrics, exit};
use std::io::Write;
use std::time::Instant;

/// The metric's name, in the harness's tasks too.
const VAL_LOSS: &str = "val_loss";

pub(super) fn train<W: Write>(setup: &Setup<'_>, output: &mut Output<W>) -> Result<(), Failure> {
    let mut session = open(setup)?;
    let job = identity(setup, &session.description());
    // Before the first line: what cannot go on says nothing but why.
    let resumed = take_up(setup, &job, session.as_mut())?;
    announce(setup, session.as_ref(), output)?;
    let steps = setup.job.optimiser.steps;
    match resumed {
        Some(0) => output.line("resumed   from the start: there is no checkpoint yet")?,
        Some(done) => {
            output
                .line(format!("resumed   after step {done} of {steps}; times are of the rest"))?;
        }
        None => {}
    }
    let begin = resumed.unwrap_or(0);
    let mut curve = Curve::default();
    let mut done = begin;
    while done < steps {
        let next = stop_after(setup, done);
        curve.take(setup, session.as_mut(), done, next)?;
        done = next;
        let mut metrics = Metrics::new();
        // At the end it is evaluated anyway.
        if setup.eval_every.is_some_and(|every| done.is_multiple_of(every)) && done < steps {
            let loss = validation_loss(setup, session.as_mut(), None)?;
            metrics.insert(VAL_LOSS.to_owned(), loss);
        }
        if done.is_multiple_of(setup.report_every) || done == steps || !metrics.is_empty() {
            curve.report(done, metrics, output)?;
        }
        if let Some(Checkpoint { folder, every, .. }) = &setup.checkpoint
            && (done.is_multiple_of(*every) || done == steps)
        {
            let state = session.state()?.to_safetensors(Content::Whole);
            folder.write(&state.context(checkpoint::OPTION)?, done, &job)?;
        }
    }
    conclude(setup, session.as_mut(), done - begin, curve.train_s, output)
}

/// The next step at which something is due.
fn stop_after(setup: &Setup<'_>, done: u64) -> u64 {
    let checkpoint = setup.checkpoint.as_ref().map(|checkpoint| checkpoint.every);
    let every = [Some(setup.report_every), setup.eval_every, checkpoint];
    let next = every.into_iter().flatten().map(|every| (done / every + 1) * every);
    next.min().unwrap_or(u64::MAX).min(setup.job.optimiser.steps)
}

/// The learning curve since the last report.
#[derive(Default)]
struct Curve {
    train_s: f64,
    /// Sum of the losses of so many steps, and seconds, since the last report.
    sum: f64,
    count: u64,
    since_s: f64,
}

impl Curve {
    /// Takes the steps from one number to another. Drawing the windows is on the clock too.
    fn take(
        &mut self,
        setup: &Setup<'_>,
        session: &mut dyn Session,
        from: u64,
        to: u64,
    ) -> Result<(), Failure> {
        let count = (to - from) as usize; // as many as between two reports
        let batch_size = setup.job.batch_size;
        let mut starts = vec![0; count * batch_size];
        let mut losses = vec![0.0; count];
        let places = setup.job.text.len() - setup.job.shape.context;
        let clock = Instant::now();
        recipe::windows(&mut starts, setup.seed, from, batch_size, places);
        session.train(&starts, &mut losses)?;
        let seconds = clock.elapsed().as_secs_f64();
        if let Some(step) = losses.iter().position(|loss| !loss.is_finite()) {
            let error = anyhow!("loss is not finite at step {}", from + step as u64 + 1);
            return Err(Failure::new(exit::NOT_FINITE, error));
        }
        self.train_s += seconds;
        self.since_s += seconds;
        self.sum += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
        self.count += count as u64;
        Ok(())
    }

    /// The mean loss since the last report, and what was evaluated.
    fn report<W: Write>(
        &mut self,
        step: u64,
        metrics: Metrics,
        output: &mut Output<W>,
    ) -> Result<(), Failure> {
        let loss = self.sum / self.count as f64;
        let evaluated = metrics.get(VAL_LOSS);
        let evaluated = evaluated.map_or(String::new(), |loss| format!("   {VAL_LOSS} {loss:.4}"));
        output.line(format!("step {step} loss {loss:.4}   {:.3} s{evaluated}", self.since_s))?;
        output.event(&Event::Progress {
            step: Some(step),
            epoch: None,
            seconds: Some(self.train_s),
            loss: Some(loss),
            metrics,
        })?;
        (self.sum, self.count, self.since_s) = (0.0, 0, 0.0);
        Ok(())
    }
}

/// Goes on from a checkpoint, if that is wanted. Returns how many steps are done then.
fn take_up(
    setup: &Setup<'_>,
    job: &Identity,
    session: &mut dyn Session,
) -> Result<Option<u64>, Failure> {
    let Some(Checkpoint { folder, resume, .. }) = &setup.checkpoint else { return Ok(None) };
    if !resume {
        folder.refuse_old()?;
        return Ok(None);
    }
    let Some((path, done)) = folder.resume(job)? else { return Ok(Some(0)) };
    let state = weights::load_with(&path, checkpoint::OPTION, |bytes| {
        State::from_safetensors(setup.job.shape, bytes, Content::Whole)
    })?;
    if state.steps != done {
        let file = path.display();
        let error = anyhow!("{file}: after step {}, where {done} was to be", state.steps);
        return Err(Failure::new(exit::DATA, error));
    }
    session.set_state(&state)?;
    Ok(Some(done))
}

/// The lines after the last step: summary of so many steps, validation, weights.
fn conclude<W: Write>(
    setup: &Setup<'_>,
    session: &mut dyn Session,
    steps: u64,
    train_s: f64,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    let shape = setup.job.shape;
    let tokens = steps * (setup.job.batch_size * shape.context) as u64;
    let dense_flop = shape.dense_flop_per_token() * tokens as f64;
    let measured = session.measured();
    output.event(&Event::Trained {
        train_s,
        steps: Some(steps),
        work: Some(tokens as f64),
        device_s: measured.device_s,
        dense_flop: Some(dense_flop),
        executed_flop: measured.executed_flop,
        device_peak_bytes: measured.device_peak_bytes,
        metrics: Metrics::new(),
    })?;

    let clock = Instant::now();
    let loss = validation_loss(setup, session, setup.predictions.as_deref())?;
    let eval_s = clock.elapsed().as_secs_f64();
    let metrics = Metrics::from([(VAL_LOSS.to_owned(), loss)]);
    output.event(&Event::Evaluated { eval_s, accuracy_percent: None, metrics })?;
    if let Some(destination) = &setup.save {
        let bytes = session.state()?.to_safetensors(Content::Parameters).context(weights::SAVE)?;
        destination.write_bytes(&bytes)?;
    }
    if steps > 0 {
        output.line(format!(
            "trained   in {train_s:.3} s: {}, {:.3} ms each, {} tokens/s, {:.1} GFLOP/s",
            counted(steps, "step"),
            1e3 * train_s / steps as f64,
            grouped((tokens as f64 / train_s) as u64),
            1e-9 * dense_flop / train_s,
        ))?;
    }
    let positions = grouped(setup.text.validation_inputs().len() as u64);
    output.line(format!("evaluated in {eval_s:.3} s: {positions} positions, each once"))?;
    output.line(format!("{VAL_LOSS} {loss:.4}"))?;
    Ok(())
}
