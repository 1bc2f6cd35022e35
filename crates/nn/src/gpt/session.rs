//! The request to a backend: a training of the model, in runs of steps.

use super::{AdamW, Shape, State};
use crate::backend::{Description, Measured, TrainError};

/// A training job.
#[derive(Clone, Copy, Debug)]
pub struct Job<'data> {
    pub shape: Shape,
    /// Windows in a step. Every step has as many.
    pub batch_size: usize,
    pub optimiser: AdamW,
    /// The training text, tokens below `shape.vocabulary`. A window that starts at `s` has the inputs
    /// `text[s..s + context]` and the targets `text[s + 1..s + context + 1]`.
    pub text: &'data [u16],
}

impl Job<'_> {
    /// Whether there is anything to train. For every backend to call when it opens a session.
    ///
    /// # Errors
    /// [`TrainError::Mismatch`] if sizes are wrong, the text is shorter than a window and its target,
    /// or a token is beyond the vocabulary.
    pub fn check(&self) -> Result<(), TrainError> {
        let wrong = |message: String| Err(TrainError::Mismatch(message));
        if let Err(error) = self.shape.check() {
            return wrong(error.to_string());
        }
        if self.batch_size == 0 {
            return wrong("a step has at least one window".to_owned());
        }
        let (length, context) = (self.text.len(), self.shape.context);
        if length <= context || u32::try_from(length).is_err() {
            return wrong(format!(
                "a text of {length} tokens for windows of {context} and a target"
            ));
        }
        check_tokens(self.text, self.shape.vocabulary)
    }

    /// Whether the arguments of [`Session::train`] fit each other and the text.
    ///
    /// # Errors
    /// [`TrainError::Mismatch`] if they do not.
    pub fn check_starts(&self, starts: &[u32], step_loss: &[f32]) -> Result<(), TrainError> {
        let (given, room) = (starts.len(), step_loss.len());
        if given != room * self.batch_size {
            return Err(TrainError::Mismatch(format!(
                "room for {room} losses, but {given} windows in batches of {}",
                self.batch_size
            )));
        }
        let places = self.text.len() - self.shape.context;
        match starts.iter().max() {
            Some(&start) if start as usize >= places => Err(TrainError::Mismatch(format!(
                "a window at {start}: the last of {} tokens can start at {}",
                self.text.len(),
                places - 1,
            ))),
            _ => Ok(()),
        }
    }

    /// Whether the arguments of [`Session::predict`] fit each other and the model.
    ///
    /// # Errors
    /// [`TrainError::Mismatch`] if they do not.
    pub fn check_prediction(&self, tokens: &[u16], logits: &[f32]) -> Result<(), TrainError> {
        let (inputs, room, vocabulary) = (tokens.len(), logits.len(), self.shape.vocabulary);
        if room != inputs * vocabulary {
            return Err(TrainError::Mismatch(format!(
                "room for {room} logits: {inputs} tokens have {vocabulary} each"
            )));
        }
        check_tokens(tokens, vocabulary)
    }
}

fn check_tokens(tokens: &[u16], vocabulary: usize) -> Result<(), TrainError> {
    match tokens.iter().max() {
        Some(&token) if usize::from(token) >= vocabulary => Err(TrainError::Mismatch(format!(
            "token {token} of a vocabulary of {vocabulary}, counted from 0"
        ))),
        _ => Ok(()),
    }
}

/// A model in training on a device. When it is opened, its state is [`State::zeros`].
pub trait Session {
    /// A description of the session, for the record.
    fn description(&self) -> Description;

    /// Seconds that making it ready spent on compiling or capturing steps, and on warming up, if
    /// there was any of that.
    fn compile_s(&self) -> Option<f64> {
        None
    }

    /// Replaces parameters, moments and the number of steps. Not part of any timed region.
    ///
    /// # Errors
    /// [`TrainError::Mismatch`] if it is the state of another shape; others if the device fails.
    fn set_state(&mut self, state: &State) -> Result<(), TrainError>;

    /// Copies all of it out, in the canonical layout.
    ///
    /// # Errors
    /// If the device fails.
    fn state(&mut self) -> Result<State, TrainError>;

    /// Takes one step of AdamW for each `batch_size` starts of windows, and writes each step's mean loss
    /// over all its positions, in nats, before its update. The first of these steps has the number
    /// `State::steps`, which grows by one with each: [`AdamW::step`] has its numbers. All the work is
    /// done when it returns: devices are synchronised. `starts.len() == step_loss.len() * batch_size`;
    /// [`Job::check_starts`] is called once, not per step. Host code does not allocate per step.
    ///
    /// # Errors
    /// If the device fails. A loss that is not finite is no error here: the caller looks.
    fn train(&mut self, starts: &[u32], step_loss: &mut [f32]) -> Result<(), TrainError>;

    /// Predicts the token after each of `tokens`, which are cut into windows of `context`, each by
    /// itself from position 0; the last may be shorter. Writes the logits, (tokens.len(), vocabulary).
    /// The caller passes a few windows at a time; any number is allowed, 0 too.
    ///
    /// # Errors
    /// If the arguments do not fit ([`Job::check_prediction`]), or the device fails.
    fn predict(&mut self, tokens: &[u16], logits: &mut [f32]) -> Result<(), TrainError>;

    /// The time that the device measured for all `train` calls so far.
    fn measured(&self) -> Measured {
        Measured::default()
    }
}
