//! The models: their sizes, and the name, shape and place of each parameter tensor.

use mnist::{CLASSES, PIXELS};

/// Filters of the CNN's convolution.
pub const CONV_FILTERS: usize = 8;
/// Values that the CNN's linear layer takes: 8 filters x 14 x 14.
pub const POOLED: usize = CONV_FILTERS * 14 * 14;
/// Pixels of an attention token, a patch of 4x4.
pub const PATCH: usize = 16;
/// Tokens of an image: 7 x 7 patches, row by row.
pub const PATCHES: usize = 49;

/// 784 - hidden - 10 with ReLU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MlpShape {
    pub hidden: usize,
}

/// The attention model's widths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Width of a token.
    pub d_model: usize,
    /// Width of the feed-forward layer.
    pub ff: usize,
}

/// A model with its sizes. All end in 10 logits and softmax cross-entropy; the input is
/// `byte / 255`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// `fc1`, ReLU, `fc2`.
    Mlp(MlpShape),
    /// `conv` 3x3 with padding 1 and 8 filters, ReLU, 2x2 max-pool (ties: the first in row order
    /// takes the gradient), flatten as (filter, row, column), `fc`.
    Cnn,
    /// 4x4 patches -> `patch` + `position`, ReLU -> one head of self-attention (`query`, `key`,
    /// `value`, scores / sqrt(d_model), softmax, no mask) -> `ff1`, ReLU, `ff2` per token -> mean
    /// over tokens -> `out`. No residuals, no normalisation.
    Attention(AttentionShape),
}

/// How a tensor's initial values are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorRole {
    /// Glorot-uniform with these fans: uniform in +-sqrt(6 / (fan_in + fan_out)).
    Weight { fan_in: usize, fan_out: usize },
    /// Zero.
    Bias,
}

/// One parameter tensor within the flat buffer of all parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// As in PyTorch's `state_dict`.
    pub name: &'static str,
    /// PyTorch's shape.
    pub shape: Vec<usize>,
    /// Where it begins in the flat buffer, in elements.
    pub offset: usize,
    pub role: TensorRole,
}

impl Tensor {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Never: every tensor has elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its place in the flat buffer.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len()
    }
}

impl Model {
    /// Every model's [`Model::id`].
    pub const IDS: [&'static str; 3] = ["mlp", "cnn", "attention"];

    /// The word on the command line, in suites and in result files.
    pub fn id(&self) -> &'static str {
        match self {
            Model::Mlp(_) => "mlp",
            Model::Cnn => "cnn",
            Model::Attention(_) => "attention",
        }
    }

    /// The parameter tensors in the order of the flat buffer.
    pub fn tensors(&self) -> Vec<Tensor> {
        let mut list = TensorList::default();
        match *self {
            Model::Mlp(MlpShape { hidden }) => {
                list.linear(["fc1.weight", "fc1.bias"], hidden, PIXELS);
                list.linear(["fc2.weight", "fc2.bias"], CLASSES, hidden);
            }
            Model::Cnn => {
                let fans = TensorRole::Weight { fan_in: 9, fan_out: 9 * CONV_FILTERS };
                list.push("conv.weight", &[CONV_FILTERS, 1, 3, 3], fans);
                list.push("conv.bias", &[CONV_FILTERS], TensorRole::Bias);
                list.linear(["fc.weight", "fc.bias"], CLASSES, POOLED);
            }
            Model::Attention(AttentionShape { d_model, ff }) => {
                list.linear(["patch.weight", "patch.bias"], d_model, PATCH);
                let fans = TensorRole::Weight { fan_in: PATCHES, fan_out: d_model };
                list.push("position", &[PATCHES, d_model], fans);
                list.linear(["query.weight", "query.bias"], d_model, d_model);
                list.linear(["key.weight", "key.bias"], d_model, d_model);
                list.linear(["value.weight", "value.bias"], d_model, d_model);
                list.linear(["ff1.weight", "ff1.bias"], ff, d_model);
                list.linear(["ff2.weight", "ff2.bias"], d_model, ff);
                list.linear(["out.weight", "out.bias"], CLASSES, d_model);
            }
        }
        list.0
    }

    /// Number of trained scalars.
    pub fn parameter_count(&self) -> usize {
        self.tensors().iter().map(Tensor::len).sum()
    }
}

#[derive(Default)]
struct TensorList(Vec<Tensor>);

impl TensorList {
    fn push(&mut self, name: &'static str, shape: &[usize], role: TensorRole) {
        let offset = self.0.last().map_or(0, |last| last.range().end);
        self.0.push(Tensor { name, shape: shape.to_vec(), offset, role });
    }

    /// A weight (out, in) and its bias (out).
    fn linear(&mut self, [weight, bias]: [&'static str; 2], out: usize, input: usize) {
        let role = TensorRole::Weight { fan_in: input, fan_out: out };
        self.push(weight, &[out, input], role);
        self.push(bias, &[out], TensorRole::Bias);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_is_listed_under_its_id() {
        let ids = Model::IDS.map(|id| crate::conformance::small_model(id).id());
        assert_eq!(ids, Model::IDS);
    }

    #[test]
    fn parameter_counts_are_those_of_the_papers_arithmetic() {
        let mlp = Model::Mlp(MlpShape { hidden: 512 });
        assert_eq!(mlp.parameter_count(), 784 * 512 + 512 + 512 * 10 + 10);
        assert_eq!(Model::Cnn.parameter_count(), 72 + 8 + 15680 + 10);
        let attention = Model::Attention(AttentionShape { d_model: 32, ff: 64 });
        let expected =
            (16 * 32 + 32) + 49 * 32 + 3 * (32 * 32 + 32) + (32 * 64 + 64) + (64 * 32 + 32) + 330;
        assert_eq!(attention.parameter_count(), expected);
    }
}
