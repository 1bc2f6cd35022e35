//! Everything that a training needs to go on: parameters, AdamW's moments and the number of steps.

use super::{ID, Shape, Tensor};
use crate::WeightsError;
use crate::backend::TrainError;
use crate::weights::{find, names};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;

/// The beginning of the names of the first moment's tensors in a file, as in PyTorch's optimiser.
pub const FIRST_MOMENT: &str = "exp_avg.";
/// The same for the second moment's.
pub const SECOND_MOMENT: &str = "exp_avg_sq.";
/// A file's number of steps: one 64-bit integer.
const STEPS: &str = "steps";

/// The content of a file of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Parameters alone, by nanoGPT's names: what other programs read.
    Parameters,
    /// Both moments of each parameter too, and the number of steps: what a training goes on from.
    Whole,
}

/// The state of a training, in flat buffers of [`Shape::tensors`]' order.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    shape: Shape,
    tensors: Vec<Tensor>,
    /// Steps that have been taken: the schedule goes on from there.
    pub steps: u64,
    /// (parameter_count)
    pub parameters: Vec<f32>,
    /// AdamW's first moment, PyTorch's `exp_avg`: (parameter_count)
    pub first_moment: Vec<f32>,
    /// AdamW's second moment, PyTorch's `exp_avg_sq`: (parameter_count)
    pub second_moment: Vec<f32>,
}

impl State {
    /// All of it zero.
    pub fn zeros(shape: Shape) -> State {
        let zeros = vec![0.0; shape.parameter_count()];
        State {
            shape,
            tensors: shape.tensors(),
            steps: 0,
            parameters: zeros.clone(),
            first_moment: zeros.clone(),
            second_moment: zeros,
        }
    }

    /// The model.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The tensors, in the order of the buffers.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Checks that it is the state of a model of this shape.
    ///
    /// # Errors
    /// [`TrainError::Mismatch`] if it is not.
    pub fn check_shape(&self, shape: Shape) -> Result<(), TrainError> {
        if self.shape == shape {
            return Ok(());
        }
        let own = self.shape;
        Err(TrainError::Mismatch(format!("the state of a {own:?} for a {shape:?}")))
    }

    /// The bytes of a safetensors file. Equal states give equal bytes.
    ///
    /// # Errors
    /// If the tensors do not fit the format.
    pub fn to_safetensors(&self, content: Content) -> Result<Vec<u8>, WeightsError> {
        let parts = match content {
            Content::Parameters => &self.parts()[..1],
            Content::Whole => &self.parts()[..],
        };
        let bytes: Vec<(String, &Tensor, Vec<u8>)> = parts
            .iter()
            .flat_map(|&(prefix, values)| self.tensors.iter().map(move |it| (prefix, values, it)))
            .map(|(prefix, values, tensor)| {
                let values = values[tensor.range()].iter();
                let bytes = values.flat_map(|value| value.to_le_bytes()).collect();
                (format!("{prefix}{}", tensor.name), tensor, bytes)
            })
            .collect();
        let steps = (self.steps as i64).to_le_bytes();
        let mut views = Vec::new();
        for (name, tensor, bytes) in &bytes {
            views.push((name.as_str(), TensorView::new(Dtype::F32, tensor.shape.clone(), bytes)?));
        }
        if content == Content::Whole {
            views.push((STEPS, TensorView::new(Dtype::I64, vec![1], &steps)?));
        }
        // What PyTorch's tools look for. One entry only: the order of more is not defined.
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        Ok(safetensors::serialize(views, Some(metadata))?)
    }

    /// A state from the bytes of a safetensors file, which must hold the model's tensors and no others.
    /// A file of parameters alone gives zero moments and no steps.
    ///
    /// # Errors
    /// [`WeightsError`] names the first tensor that is missing, superfluous or different; moments are
    /// missing where only some are there, or where the content was to be whole.
    pub fn from_safetensors(
        shape: Shape,
        bytes: &[u8],
        content: Content,
    ) -> Result<State, WeightsError> {
        let file = SafeTensors::deserialize(bytes)?;
        let mut state = State::zeros(shape);
        let has_moments = names(&file).iter().any(|name| name.starts_with(FIRST_MOMENT));
        let parts = if has_moments || content == Content::Whole { 3 } else { 1 };
        let tensors = shape.tensors();
        let mut known = vec![STEPS.to_owned()];
        for (prefix, values) in state.parts_mut().into_iter().take(parts) {
            for tensor in &tensors {
                let name = format!("{prefix}{}", tensor.name);
                let view = find(&file, &name, &tensor.shape, ID)?;
                for (value, bytes) in
                    values[tensor.range()].iter_mut().zip(view.data().as_chunks().0)
                {
                    *value = f32::from_le_bytes(*bytes);
                }
                known.push(name);
            }
        }
        if let Ok(view) = file.tensor(STEPS)
            && let Ok(bytes) = view.data().try_into()
        {
            state.steps = i64::from_le_bytes(bytes).max(0) as u64;
        }
        match names(&file).into_iter().find(|name| !known.iter().any(|known| known == name)) {
            Some(name) => Err(WeightsError::Extra { name: name.to_owned(), model: ID }),
            None => Ok(state),
        }
    }

    /// The three buffers, and what their tensors' names begin with in a file.
    pub(super) fn parts(&self) -> [(&'static str, &[f32]); 3] {
        [
            ("", &self.parameters),
            (FIRST_MOMENT, &self.first_moment),
            (SECOND_MOMENT, &self.second_moment),
        ]
    }

    fn parts_mut(&mut self) -> [(&'static str, &mut [f32]); 3] {
        [
            ("", &mut self.parameters),
            (FIRST_MOMENT, &mut self.first_moment),
            (SECOND_MOMENT, &mut self.second_moment),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { layers: 1, heads: 2, width: 4, context: 3, vocabulary: 5 };

    fn state() -> State {
        let mut state = State::zeros(SHAPE);
        crate::gpt::recipe::initialise(&mut state, 3);
        state.first_moment.fill(0.5);
        state.second_moment[7] = 0.25;
        state.steps = 17;
        state
    }

    #[test]
    fn a_whole_state_comes_back_bit_by_bit_and_parameters_alone_begin_a_training() {
        let whole = state().to_safetensors(Content::Whole).unwrap();
        assert_eq!(State::from_safetensors(SHAPE, &whole, Content::Whole).unwrap(), state());
        assert_eq!(State::from_safetensors(SHAPE, &whole, Content::Parameters).unwrap(), state());
        let alone = state().to_safetensors(Content::Parameters).unwrap();
        let loaded = State::from_safetensors(SHAPE, &alone, Content::Parameters).unwrap();
        let parameters = state().parameters;
        assert_eq!(loaded, State { parameters, ..State::zeros(SHAPE) });
    }

    #[test]
    fn a_file_that_lacks_moments_or_is_of_another_shape_is_an_error_that_names_the_tensor() {
        let alone = state().to_safetensors(Content::Parameters).unwrap();
        let error = |shape, content| {
            State::from_safetensors(shape, &alone, content).unwrap_err().to_string()
        };
        let missing = error(SHAPE, Content::Whole);
        assert!(missing.starts_with("no tensor `exp_avg.transformer.wte.weight`"), "{missing}");
        let other = error(Shape { context: 4, ..SHAPE }, Content::Parameters);
        assert_eq!(other, "`transformer.wpe.weight` is [3, 4], but [4, 4] in this gpt");
        let deeper = error(Shape { layers: 2, ..SHAPE }, Content::Parameters);
        assert!(deeper.starts_with("no tensor `transformer.h.1.ln_1.weight`"), "{deeper}");
    }
}
