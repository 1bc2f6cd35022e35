//! What the three models have in common: the data on the device, where the parameters lie, and the
//! trait by which the session asks for a model's commands.

use super::dispatch;
use super::plan::{ALIGNMENT_BYTES, Buffers, Command, Matrix};
use crate::job::Sizes;
use mnist::{CLASSES, PIXELS};
use nn::{Model, Parameters, Tensor};

pub(crate) use crate::job::PREDICTED_AT_ONCE;

/// The training data on the device, and room for what a run of steps needs and leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resident {
    pub(crate) images: Matrix,            // (samples, 784) bytes
    pub(crate) labels: Matrix,            // (samples) bytes
    pub(crate) order: Matrix,             // (order_capacity)
    pub(crate) losses: Matrix,            // (steps of order_capacity)
    pub(crate) images_to_predict: Matrix, // (PREDICTED_AT_ONCE, 784) bytes
    pub(crate) as_they_come: Matrix,      // (PREDICTED_AT_ONCE): 0, 1, 2, ...
    pub(crate) predicted: Matrix,         // (PREDICTED_AT_ONCE)
}

impl Resident {
    pub(crate) fn new(buffers: &mut Buffers, sizes: &Sizes) -> Resident {
        let images = |count: usize| count * PIXELS / 4;
        Resident {
            images: buffers.add("the training images", images(sizes.samples)),
            labels: buffers.add("the training labels", sizes.samples.div_ceil(4)),
            order: buffers.add("the order of an epoch", sizes.order_capacity),
            losses: buffers.add("the losses of an epoch", sizes.steps),
            images_to_predict: buffers.add("the images to predict", images(PREDICTED_AT_ONCE)),
            as_they_come: buffers.add("the order to predict in", PREDICTED_AT_ONCE),
            predicted: buffers.add("the predictions", PREDICTED_AT_ONCE),
        }
    }
}

/// Where the parameters lie: each tensor in canonical layout, from a place on where a device can
/// bind it, all in one buffer.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    tensors: Vec<(Tensor, Matrix)>,
    /// The whole buffer.
    pub(crate) all: Matrix,
}

impl Layout {
    pub(crate) fn new(buffers: &mut Buffers, model: Model) -> Layout {
        let mut offsets_bytes = Vec::new();
        let mut end_bytes = 0_usize;
        for tensor in model.tensors() {
            let offset_bytes = end_bytes.next_multiple_of(ALIGNMENT_BYTES);
            end_bytes = offset_bytes + 4 * tensor.len();
            offsets_bytes.push((tensor, offset_bytes));
        }
        let all = buffers.add("the parameters", end_bytes / 4);
        let place = |(tensor, offset_bytes): (Tensor, usize)| {
            let part = Matrix::row(all.buffer, offset_bytes, tensor.len());
            (tensor, part)
        };
        Layout { tensors: offsets_bytes.into_iter().map(place).collect(), all }
    }

    /// One tensor, as a vector.
    ///
    /// # Panics
    /// If the model has no tensor of that name: names are constants of the code.
    pub(crate) fn vector(&self, name: &str) -> Matrix {
        match self.tensors.iter().find(|(tensor, _)| tensor.name == name) {
            Some(&(_, part)) => part,
            None => panic!("no tensor is called {name}"),
        }
    }

    /// One tensor, as a matrix with a row for each step of its first dimension.
    ///
    /// # Panics
    /// As [`Layout::vector`].
    pub(crate) fn matrix(&self, name: &str) -> Matrix {
        let rows = self.tensors.iter().find(|(tensor, _)| tensor.name == name);
        let rows = rows.map_or(1, |(tensor, _)| tensor.shape[0]);
        let vector = self.vector(name);
        vector.shaped(rows, vector.columns / rows)
    }

    /// Canonical to device.
    pub(crate) fn pack(&self, parameters: &Parameters) -> Vec<f32> {
        let mut packed = vec![0.0; self.all.len()];
        for (tensor, part) in &self.tensors {
            let first = part.offset_bytes / 4;
            packed[first..first + part.len()].copy_from_slice(parameters.tensor(tensor.name));
        }
        packed
    }

    /// Device to canonical.
    pub(crate) fn unpack(&self, packed: &[f32], parameters: &mut Parameters) {
        for (tensor, part) in &self.tensors {
            let first = part.offset_bytes / 4;
            let values = &packed[first..first + part.len()];
            parameters.tensor_mut(tensor.name).copy_from_slice(values);
        }
    }
}

/// A model's commands.
pub(crate) trait Network {
    /// One step over the next `count` samples of the order: forward, loss, backward, update.
    fn step(&self, resident: &Resident, count: usize, learning_rate: f32) -> Vec<Command>;

    /// The labels of the [`PREDICTED_AT_ONCE`] images that were uploaded.
    fn predict(&self, resident: &Resident) -> Vec<Command>;
}

/// Where the batch comes from: the training data, or what is to be predicted.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    pub(crate) images: Matrix,
    pub(crate) order: Matrix,
}

impl Resident {
    pub(crate) fn training(&self) -> Source {
        Source { images: self.images, order: self.order }
    }

    pub(crate) fn prediction(&self) -> Source {
        Source { images: self.images_to_predict, order: self.as_they_come }
    }

    /// What every model ends with: `logits` (count, 10) without their bias become the gradient by
    /// them, and the step's loss is left.
    pub(crate) fn loss(&self, logits: Matrix, bias: Matrix, sample_losses: Matrix) -> [Command; 2] {
        let sample_losses = sample_losses.shaped(1, logits.rows);
        let known = [self.labels, self.order];
        [
            dispatch::cross_entropy(logits, bias, known, sample_losses).into(),
            dispatch::mean_loss(sample_losses, self.losses).into(),
        ]
    }

    /// What every prediction ends with.
    pub(crate) fn labels_of(&self, logits: Matrix, bias: Matrix) -> Command {
        let predicted = self.predicted.shaped(1, logits.rows);
        dispatch::predict(logits.shaped(logits.rows, CLASSES), bias, predicted).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nn::conformance::small_model;

    #[test]
    fn every_tensor_begins_where_a_device_can_bind_it_and_none_overlap() {
        for id in Model::IDS {
            let mut buffers = Buffers::default();
            let layout = Layout::new(&mut buffers, small_model(id));
            let parts: Vec<Matrix> = layout.tensors.iter().map(|&(_, part)| part).collect();
            for (index, part) in parts.iter().enumerate() {
                assert!(part.offset_bytes.is_multiple_of(ALIGNMENT_BYTES));
                assert!(part.range().end <= layout.all.bytes());
                assert!(!parts[..index].iter().any(|other| other.overlaps(part)), "{part:?}");
            }
        }
    }

    #[test]
    fn what_was_packed_comes_back() {
        for id in Model::IDS {
            let mut parameters = Parameters::zeros(small_model(id));
            for (index, value) in parameters.values_mut().iter_mut().enumerate() {
                *value = 1.0 + index as f32;
            }
            let layout = Layout::new(&mut Buffers::default(), parameters.model());
            let packed = layout.pack(&parameters);
            let set = packed.iter().filter(|&&value| value != 0.0).count();
            assert_eq!(set, parameters.values().len());
            let mut unpacked = Parameters::zeros(parameters.model());
            layout.unpack(&packed, &mut unpacked);
            assert_eq!(unpacked, parameters);
        }
    }

    #[test]
    fn a_weight_is_a_matrix_with_a_row_for_each_output() {
        let layout = Layout::new(&mut Buffers::default(), small_model("mlp"));
        let weight = layout.matrix("fc1.weight");
        assert_eq!([weight.rows, weight.columns], [24, 784]);
        let layout = Layout::new(&mut Buffers::default(), small_model("cnn"));
        let weight = layout.matrix("conv.weight");
        assert_eq!([weight.rows, weight.columns], [8, 9]);
    }
}
