//! The contract of a session besides right arithmetic.

use super::{Case, Images};
use crate::backend::{Backend, Job, Options, Session, TrainError};
use crate::{Model, Parameters, TensorRole};
use mnist::{PIXELS, Split};

/// Tries every promise of [`Session`] and names those that are broken: parameters come back bit by
/// bit, ties of logits go to the first, NaN in any tensor reaches a loss, arguments that do not fit
/// are errors, and nothing at all is trained on an empty order.
///
/// # Errors
/// If the backend fails where it should not.
pub fn contract(
    backend: &dyn Backend,
    options: &Options,
    model: Model,
) -> Result<Vec<String>, TrainError> {
    let images = Images::Sparse;
    let (batch_size, learning_rate) = (8, 0.02);
    let case = Case { model, images, batch_size, last_batch: 8, count: 1, learning_rate, seed: 3 };
    let data = case.data();
    let job = Job { model, batch_size, learning_rate, train: &data };
    let mut session = backend.open(job, options)?;
    let mut broken = Vec::new();
    let mut hold = |promise: &str, held: bool| {
        if !held {
            broken.push(promise.to_owned());
        }
    };

    hold("parameters are zero at first", session.parameters()? == Parameters::zeros(model));
    let labels = predict(session.as_mut(), &data, 33)?;
    hold("of equal logits the first is predicted", labels.iter().all(|&label| label == 0));

    let initial = case.initial();
    session.set_parameters(&initial)?;
    hold("parameters come back bit by bit", session.parameters()? == initial);
    session.train(&[], &mut [])?;
    hold("an empty order changes nothing", session.parameters()? == initial);
    predict(session.as_mut(), &data, 0)?;
    hold("predicting changes nothing", session.parameters()? == initial);
    hold("one image is predicted as among many", {
        predict(session.as_mut(), &data, 1)?[0] == predict(session.as_mut(), &data, 33)?[0]
    });

    let mut loss = [0.0; 2];
    let beyond = data.len() as u32;
    hold(
        "an index beyond the data is an error",
        session.train(&[0, beyond], &mut loss[..1]).is_err(),
    );
    hold("too many losses are an error", session.train(&[0], &mut loss).is_err());
    hold("too few losses are an error", session.train(&[0; 9], &mut loss[..1]).is_err());
    let image = &data.images()[..PIXELS];
    hold("fewer images than labels are an error", session.predict(image, &mut [0; 2]).is_err());

    for tensor in model.tensors() {
        let mut poisoned = initial.clone();
        let values = &mut poisoned.values_mut()[tensor.range()];
        match tensor.role {
            TensorRole::Bias => values[0] = f32::NAN,
            // The whole tensor: one element may meet nothing but zero pixels.
            TensorRole::Weight { .. } => values.fill(f32::NAN),
        }
        session.set_parameters(&poisoned)?;
        let mut losses = [0.0; 2];
        session.train(&std::array::from_fn::<u32, 16, _>(|index| index as u32), &mut losses)?;
        let promise = format!("NaN in {} reaches the loss", tensor.name);
        hold(&promise, losses.iter().any(|loss| !loss.is_finite()));
    }
    Ok(broken)
}

fn predict(session: &mut dyn Session, data: &Split, count: usize) -> Result<Vec<u8>, TrainError> {
    let mut labels = vec![u8::MAX; count];
    session.predict(&data.images()[..count * PIXELS], &mut labels)?;
    Ok(labels)
}

/// [`contract`], for a backend's tests.
///
/// # Panics
/// If the backend fails or breaks a promise.
pub fn require_contract(backend: &dyn Backend, options: &Options, model: Model) {
    match contract(backend, options, model) {
        Ok(broken) => assert!(broken.is_empty(), "{model:?}, {options:?}: not so: {broken:#?}"),
        Err(error) => panic!("{model:?}, {options:?}: {error}"),
    }
}
