//! The models as burn's modules.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::Conv2d;
use burn::nn::pool::MaxPool2d;
use burn::tensor::activation::{log_softmax, relu, softmax};
use burn::tensor::{Int, Tensor};
use mnist::SIDE;
use nn::{PATCH, PATCHES, POOLED};

#[derive(Module, Debug)]
pub struct Mlp {
    pub fc1: Linear,
    pub fc2: Linear,
}

#[derive(Module, Debug)]
pub struct Cnn {
    pub conv: Conv2d,
    pub pool: MaxPool2d,
    pub fc: Linear,
}

#[derive(Module, Debug)]
pub struct Attention {
    pub patch: Linear,
    pub position: Param<Tensor<2>>,
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    pub ff1: Linear,
    pub ff2: Linear,
    pub out: Linear,
}

#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
pub enum Network {
    Mlp(Mlp),
    Cnn(Cnn),
    Attention(Attention),
}

impl Network {
    /// The logits, (batch, 10), of pixels, (batch, 784).
    pub fn forward(&self, pixels: Tensor<2>) -> Tensor<2> {
        match self {
            Network::Mlp(mlp) => mlp.forward(pixels),
            Network::Cnn(cnn) => cnn.forward(pixels),
            Network::Attention(attention) => attention.forward(pixels),
        }
    }
}

impl Mlp {
    fn forward(&self, pixels: Tensor<2>) -> Tensor<2> {
        self.fc2.forward(relu(self.fc1.forward(pixels)))
    }
}

impl Cnn {
    fn forward(&self, pixels: Tensor<2>) -> Tensor<2> {
        let [batch, _] = pixels.dims();
        let maps = self.conv.forward(pixels.reshape([batch, 1, SIDE, SIDE]));
        let pooled = relu(self.pool.forward(maps)); // (batch, 8, 14, 14)
        self.fc.forward(pooled.reshape([batch, POOLED]))
    }
}

impl Attention {
    fn forward(&self, pixels: Tensor<2>) -> Tensor<2> {
        let [batch, _] = pixels.dims();
        let rows = pixels.reshape([batch, 7, 4, 7, 4]).swap_dims(2, 3);
        let patches = rows.reshape([batch, PATCHES, PATCH]);
        let tokens = relu(self.patch.forward(patches) + self.position.val().unsqueeze());
        let query = self.query.forward(tokens.clone()); // (batch, 49, d_model)
        let key = self.key.forward(tokens.clone());
        let value = self.value.forward(tokens);
        let [_, _, d_model] = query.dims();
        let scores = query.matmul(key.swap_dims(1, 2)) / (d_model as f64).sqrt();
        let mixed = softmax(scores, 2).matmul(value);
        let tokens = self.ff2.forward(relu(self.ff1.forward(mixed)));
        self.out.forward(tokens.mean_dim(1).squeeze_dim(1))
    }
}

/// The mean of the softmax cross-entropies of the logits, (batch, 10), and the labels, (batch).
pub fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    log_softmax(logits, 1).gather(1, labels.unsqueeze_dim(1)).mean().neg()
}

/// The convolution's padding: the output is as large as the input.
pub fn one_pixel() -> PaddingConfig2d {
    PaddingConfig2d::Explicit(1, 1, 1, 1)
}
