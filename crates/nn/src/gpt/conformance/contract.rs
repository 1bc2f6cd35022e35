//! The contract of a session besides right arithmetic.

use super::case::Case;
use crate::backend::{Backend, Options, TrainError};
use crate::gpt::{Shape, State};

/// Of no particular size.
const SHAPE: Shape = Shape { layers: 2, heads: 2, width: 32, context: 12, vocabulary: 29 };

/// Tries every promise of [`Session`](crate::gpt::Session) and names those that are broken: a state comes
/// back bit by bit, NaN in any tensor reaches a loss, arguments that do not fit are errors, nothing at
/// all is trained on no windows, and a prediction is the same alone and among many.
///
/// # Errors
/// If the backend fails where it should not.
pub fn contract(backend: &dyn Backend, options: &Options) -> Result<Vec<String>, TrainError> {
    let case = Case { shape: SHAPE, batch_size: 2, count: 2, done: 7, seed: 3 };
    let text = case.text();
    let mut session = backend.open_gpt(case.job(&text), options)?;
    let mut broken = Vec::new();
    let mut hold = |promise: &str, held: bool| {
        if !held {
            broken.push(promise.to_owned());
        }
    };

    hold("the state is zero at first", session.state()? == State::zeros(SHAPE));
    let initial = case.initial();
    session.set_state(&initial)?;
    hold("a state comes back bit by bit", session.state()? == initial);
    session.train(&[], &mut [])?;
    hold("no windows change nothing", session.state()? == initial);
    let whole = logits(session.as_mut(), &text[..3 * SHAPE.context + 5])?;
    hold("predicting changes nothing", session.state()? == initial);
    hold("predicting nothing is nothing", logits(session.as_mut(), &[])?.is_empty());
    let second = &text[SHAPE.context..2 * SHAPE.context];
    let size = SHAPE.context * SHAPE.vocabulary;
    hold(
        "a window is predicted as among many",
        logits(session.as_mut(), second)? == whole[size..2 * size],
    );

    let last = (text.len() - SHAPE.context - 1) as u32;
    let mut loss = [0.0; 2];
    hold("the last window can be trained on", session.train(&[0, last], &mut loss[..1]).is_ok());
    hold(
        "a window beyond the text is an error",
        session.train(&[0, last + 1], &mut loss[..1]).is_err(),
    );
    hold("too many losses are an error", session.train(&[0, 1], &mut loss).is_err());
    hold("half a batch is an error", session.train(&[0], &mut loss[..1]).is_err());
    hold("too few logits are an error", session.predict(&[0, 1], &mut [0.0; 29]).is_err());
    let beyond = SHAPE.vocabulary as u16;
    hold("an unknown token is an error", session.predict(&[beyond], &mut [0.0; 29]).is_err());
    let other = State::zeros(Shape { layers: 1, ..SHAPE });
    hold("a state of another shape is an error", session.set_state(&other).is_err());

    for tensor in SHAPE.tensors() {
        let mut poisoned = initial.clone();
        poisoned.parameters[tensor.range()].fill(f32::NAN);
        session.set_state(&poisoned)?;
        session.train(&[0, 9, 3, 4], &mut loss)?;
        let promise = format!("NaN in {} reaches the loss", tensor.name);
        hold(&promise, loss.iter().any(|loss| !loss.is_finite()));
    }
    Ok(broken)
}

fn logits(session: &mut dyn crate::gpt::Session, tokens: &[u16]) -> Result<Vec<f32>, TrainError> {
    let mut logits = vec![f32::NAN; tokens.len() * SHAPE.vocabulary];
    session.predict(tokens, &mut logits)?;
    Ok(logits)
}

/// [`contract`], for a backend's tests.
///
/// # Panics
/// If the backend fails or breaks a promise.
pub fn require_contract(backend: &dyn Backend, options: &Options) {
    match contract(backend, options) {
        Ok(broken) => assert!(broken.is_empty(), "{options:?}: not so: {broken:#?}"),
        Err(error) => panic!("{options:?}: {error}"),
    }
}
