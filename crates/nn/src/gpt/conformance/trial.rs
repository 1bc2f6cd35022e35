//! One training of the reference, and a backend's beside it.

use super::report::Report;
use crate::backend::{Backend, Options, TrainError};
use crate::conformance::little_endian;
use crate::gpt::{Content, Job, Reference, Session, Shape, State, recipe};
use protocol::verify::{FINAL, INITIAL, LOSSES, ORDER};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::path::Path;
use std::{fs, io};

/// Tokens that are predicted at the end, at most: a whole window and a part of one.
const PREDICTED: usize = 300;

/// The recipe's initial parameters, all of them moved: at nanoGPT's values attention is all but uniform
/// and a LayerNorm's weight does nothing, so that many faults in them would not show.
pub fn moved(shape: Shape, seed: u64) -> State {
    let mut state = State::zeros(shape);
    recipe::initialise(&mut state, seed);
    let mut words = ChaCha8Rng::seed_from_u64(seed);
    for value in &mut state.parameters {
        *value += 0.08 * recipe::normal(words.next_u32()) as f32;
    }
    state
}

/// A size that runs the same code as `shape` and that float64 follows in a minute: fewer layers, a
/// shorter context, fewer windows, fewer steps. Returns shape, windows in a step, and steps.
pub fn verifiable(shape: Shape, batch_size: usize) -> (Shape, usize, usize) {
    const STEPS: usize = 10;
    const OPERATIONS: f64 = 4e10; // of all steps; half a minute of the reference
    let mut shape = Shape { layers: shape.layers.min(2), ..shape };
    let mut batch_size = batch_size;
    let work = |shape: Shape, batch_size: usize| {
        shape.dense_flop_per_token() * (shape.context * batch_size * STEPS) as f64
    };
    while work(shape, batch_size) > OPERATIONS && batch_size > 2 {
        batch_size = batch_size.div_ceil(2);
    }
    while work(shape, batch_size) > OPERATIONS && shape.context > 32 {
        shape.context = shape.context.div_ceil(2);
    }
    let steps = (OPERATIONS / work(shape, batch_size) * STEPS as f64) as usize;
    (shape, batch_size, steps.clamp(2, STEPS))
}

/// The results of the reference for some steps, to compare any number of programs with.
pub struct Trial<'data> {
    pub(super) job: Job<'data>,
    pub(super) initial: State,
    starts: Vec<u32>,
    pub(super) losses: Vec<f64>,   // (count)
    pub(super) states: Vec<State>, // (count): after each step
    predicted: Vec<u16>,           // tokens whose successors are predicted at the end
    pub(super) logits: Vec<f64>,   // (predicted, vocabulary)
}

/// The results of a program for a trial's steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// One for each step.
    pub losses: Vec<f32>,
    /// At the end.
    pub state: State,
}

impl<'data> Trial<'data> {
    /// Trains the reference from `initial` on `count` batches of windows, in the seed's order.
    ///
    /// # Panics
    /// If the job is wrong ([`Job::check`]) or of another shape than the state.
    pub fn new(initial: State, job: Job<'data>, count: usize, seed: u64) -> Trial<'data> {
        if let Err(error) = job.check() {
            panic!("{error}");
        }
        let mut starts = vec![0; count * job.batch_size];
        let places = job.text.len() - job.shape.context;
        recipe::windows(&mut starts, seed, initial.steps, job.batch_size, places);
        let mut reference: Reference<f64> = Reference::new(&initial);
        let mut losses = Vec::new();
        let mut states = Vec::new();
        for batch in starts.chunks(job.batch_size) {
            losses.extend(reference.train(&job, batch));
            states.push(reference.state());
        }
        let length = (job.shape.context * 5).div_ceil(3).min(PREDICTED).min(job.text.len());
        let predicted = job.text[..length].to_vec();
        let logits = reference.logits(&predicted);
        Trial { job, initial, starts, losses, states, predicted, logits }
    }

    /// The job.
    pub fn job(&self) -> Job<'data> {
        self.job
    }

    /// Number of steps.
    pub fn count(&self) -> usize {
        self.losses.len()
    }

    /// The state to begin with.
    pub fn initial(&self) -> &State {
        &self.initial
    }

    /// Where the windows of the first so many steps start.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn starts(&self, steps: usize) -> &[u32] {
        &self.starts[..steps * self.job.batch_size]
    }

    /// Writes what a trainer hands out that is the reference of a verification.
    ///
    /// # Errors
    /// If the folder or the disk refuses.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let weights =
            |state: &State, content| state.to_safetensors(content).map_err(io::Error::other);
        let losses: Vec<f32> = self.losses.iter().map(|&loss| loss as f32).collect();
        let last = self.states.last().unwrap_or(&self.initial);
        fs::write(folder.join(INITIAL), weights(&self.initial, Content::Parameters)?)?;
        fs::write(folder.join(ORDER), little_endian(&self.starts, u32::to_le_bytes))?;
        fs::write(folder.join(LOSSES), little_endian(&losses, f32::to_le_bytes))?;
        fs::write(folder.join(FINAL), weights(last, Content::Whole)?)
    }

    /// Takes all steps on a backend in one call, again one by one, and compares.
    ///
    /// # Errors
    /// If the backend fails.
    pub fn run(&self, backend: &dyn Backend, options: &Options) -> Result<Report, TrainError> {
        let mut session = backend.open_gpt(self.job, options)?;
        let at_once = self.outcome(session.as_mut())?;
        let mut logits = vec![f32::NAN; self.logits.len()];
        session.predict(&self.predicted, &mut logits)?;
        let after = session.state()? == at_once.state;

        session.set_state(&self.initial)?;
        let mut losses = vec![f32::NAN; self.count()];
        for (batch, loss) in self.starts.chunks(self.job.batch_size).zip(losses.chunks_mut(1)) {
            session.train(batch, loss)?;
        }
        let singly = Outcome { losses, state: session.state()? };
        Ok(Report {
            backend: backend.id(),
            description: session.description(),
            shape: self.job.shape,
            batch_size: self.job.batch_size,
            comparison: self.grade(&at_once),
            logits: self.grade_logits(&logits),
            same_singly: singly == at_once,
            untouched: after,
        })
    }

    /// Takes all steps in one call.
    ///
    /// # Errors
    /// If the device fails.
    pub fn outcome(&self, session: &mut dyn Session) -> Result<Outcome, TrainError> {
        session.set_state(&self.initial)?;
        let mut losses = vec![f32::NAN; self.count()]; // a loss that is not written shows
        session.train(&self.starts, &mut losses)?;
        Ok(Outcome { losses, state: session.state()? })
    }
}
