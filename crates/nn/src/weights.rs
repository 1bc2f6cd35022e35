//! Parameters as a [safetensors](https://github.com/huggingface/safetensors) file, with PyTorch's
//! names and shapes: `load_state_dict(safetensors.torch.load_file(path))` takes it.

use crate::{Model, Parameters};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, SafeTensorError, TensorView};
use std::collections::HashMap;

/// Why a file's tensors are not a model's parameters.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The bytes are no safetensors file.
    #[error("not a safetensors file: {0}")]
    Format(SafeTensorError),
    /// The model has a tensor that the file lacks.
    #[error("no tensor `{name}`, which {model} needs: {shape:?}; the file has {found}")]
    Missing { name: String, model: &'static str, shape: Vec<usize>, found: String },
    /// The file has a tensor that the model lacks.
    #[error("a tensor `{name}`, which {model} does not have")]
    Extra { name: String, model: &'static str },
    /// A tensor has another shape than the model's.
    #[error("`{name}` is {found:?}, but {expected:?} in this {model}")]
    Shape { name: String, model: &'static str, found: Vec<usize>, expected: Vec<usize> },
    /// A tensor is not float32.
    #[error("`{name}` is {found}, not F32")]
    Type { name: String, found: Dtype },
}

// By hand: it is a part of the message and not a cause beside it, which would be printed again.
impl From<SafeTensorError> for WeightsError {
    fn from(error: SafeTensorError) -> WeightsError {
        WeightsError::Format(error)
    }
}

impl Parameters {
    /// The bytes of a safetensors file. Equal parameters give equal bytes.
    ///
    /// # Errors
    /// If the tensors do not fit the format.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, WeightsError> {
        let bytes: Vec<u8> = self.values().iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut views = Vec::new();
        for tensor in self.tensors() {
            let range = tensor.range();
            let bytes = &bytes[4 * range.start..4 * range.end];
            views.push((tensor.name, TensorView::new(Dtype::F32, tensor.shape.clone(), bytes)?));
        }
        // What PyTorch's tools look for. One entry only: the order of more is not defined.
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        Ok(safetensors::serialize(views, Some(metadata))?)
    }

    /// The parameters of a model from the bytes of a safetensors file, which must hold its tensors
    /// and no others.
    ///
    /// # Errors
    /// [`WeightsError`] names the first tensor that is missing, superfluous or different.
    pub fn from_safetensors(model: Model, bytes: &[u8]) -> Result<Parameters, WeightsError> {
        let file = SafeTensors::deserialize(bytes)?;
        let mut parameters = Parameters::zeros(model);
        for tensor in model.tensors() {
            let view = find(&file, tensor.name, &tensor.shape, model.id())?;
            let values = &mut parameters.values_mut()[tensor.range()];
            for (value, bytes) in values.iter_mut().zip(view.data().as_chunks().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
        let known = |name: &str| model.tensors().iter().any(|tensor| tensor.name == name);
        match names(&file).into_iter().find(|name| !known(name)) {
            Some(name) => Err(WeightsError::Extra { name: name.to_owned(), model: model.id() }),
            None => Ok(parameters),
        }
    }
}

/// The float32 tensor of this name and shape.
pub(crate) fn find<'data>(
    file: &SafeTensors<'data>,
    name: &str,
    shape: &[usize],
    model: &'static str,
) -> Result<TensorView<'data>, WeightsError> {
    let name = name.to_owned();
    let Ok(view) = file.tensor(&name) else {
        let (shape, found) = (shape.to_vec(), names(file).join(", "));
        return Err(WeightsError::Missing { name, model, shape, found });
    };
    if view.dtype() != Dtype::F32 {
        return Err(WeightsError::Type { name, found: view.dtype() });
    }
    if view.shape() != shape {
        let (found, expected) = (view.shape().to_vec(), shape.to_vec());
        return Err(WeightsError::Shape { name, model, found, expected });
    }
    Ok(view)
}

/// In alphabetical order: the file's is not kept.
pub(crate) fn names<'file>(file: &'file SafeTensors<'_>) -> Vec<&'file str> {
    let mut names = file.names();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AttentionShape, MlpShape, recipe};

    fn initial(model: Model) -> Parameters {
        let mut parameters = Parameters::zeros(model);
        recipe::initialise(&mut parameters, 1);
        parameters
    }

    fn error(model: Model, bytes: &[u8]) -> String {
        Parameters::from_safetensors(model, bytes).unwrap_err().to_string()
    }

    const SMALL: Model = Model::Mlp(MlpShape { hidden: 3 });

    #[test]
    fn parameters_come_back_from_the_file_bit_by_bit() {
        let attention = Model::Attention(AttentionShape { d_model: 5, ff: 7 });
        for model in [SMALL, Model::Cnn, attention] {
            let mut parameters = initial(model);
            parameters.values_mut()[0] = f32::from_bits(0x7fc0_1234); // even a NaN's payload
            let bytes = parameters.to_safetensors().unwrap();
            assert_eq!(bytes, parameters.to_safetensors().unwrap());
            let loaded = Parameters::from_safetensors(model, &bytes).unwrap();
            let bits = |parameters: &Parameters| -> Vec<u32> {
                parameters.values().iter().map(|value| value.to_bits()).collect()
            };
            assert_eq!(bits(&loaded), bits(&parameters));
        }
    }

    #[test]
    fn a_file_of_another_size_or_model_is_an_error_that_names_the_tensor() {
        let bytes = initial(Model::Mlp(MlpShape { hidden: 4 })).to_safetensors().unwrap();
        assert_eq!(error(SMALL, &bytes), "`fc1.weight` is [4, 784], but [3, 784] in this mlp");
        let bytes = initial(Model::Cnn).to_safetensors().unwrap();
        assert_eq!(
            error(SMALL, &bytes),
            "no tensor `fc1.weight`, which mlp needs: [3, 784]; \
             the file has conv.bias, conv.weight, fc.bias, fc.weight"
        );
    }

    #[test]
    fn a_tensor_too_many_or_of_another_type_is_an_error_that_names_it() {
        let parameters = initial(SMALL);
        let bytes = parameters.to_safetensors().unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors = file.tensors();
        tensors
            .push(("momentum".to_owned(), TensorView::new(Dtype::F32, vec![1], &[0; 4]).unwrap()));
        let extra = safetensors::serialize(tensors, None).unwrap();
        assert_eq!(error(SMALL, &extra), "a tensor `momentum`, which mlp does not have");

        let mut tensors = file.tensors();
        let place = tensors.iter().position(|(name, _)| name == "fc2.bias").unwrap();
        tensors[place].1 = TensorView::new(Dtype::F16, vec![10], &[0; 20]).unwrap();
        let half = safetensors::serialize(tensors, None).unwrap();
        assert_eq!(error(SMALL, &half), "`fc2.bias` is F16, not F32");
    }

    #[test]
    fn a_file_that_is_cut_short_or_lies_is_an_error() {
        let bytes = initial(SMALL).to_safetensors().unwrap();
        for length in [0, 7, 8, 100, bytes.len() - 1] {
            assert!(
                error(SMALL, &bytes[..length]).starts_with("not a safetensors file"),
                "{length}"
            );
        }
        let mut lying = bytes.clone();
        lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(error(SMALL, &lying).starts_with("not a safetensors file"));
    }
}
