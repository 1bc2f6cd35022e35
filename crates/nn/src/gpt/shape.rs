//! How large a model is, and the name, shape and place of each parameter tensor.

use std::ops::Range;

/// The sizes of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Blocks.
    pub layers: usize,
    /// Heads of attention in each block; they divide `width`.
    pub heads: usize,
    /// Width of a token's vector.
    pub width: usize,
    /// Most tokens of a window.
    pub context: usize,
    /// Different tokens, numbered from 0.
    pub vocabulary: usize,
}

/// Why sizes are no model's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ShapeError(String);

/// Whether AdamW shrinks a tensor: matrices yes, LayerNorm's weights no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// Two dimensions.
    Matrix,
    /// One.
    Vector,
}

/// One parameter tensor within the flat buffer of all parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// As in nanoGPT's `state_dict`.
    pub name: String,
    /// PyTorch's shape; a linear layer's weight is (out, in).
    pub shape: Vec<usize>,
    /// Where it begins in the flat buffer, in elements.
    pub offset: usize,
    /// Standard deviation of its initial values; `None`: they are all 1.
    pub deviation: Option<f64>,
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
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len()
    }

    /// Whether AdamW shrinks it.
    pub fn decay(&self) -> Decay {
        if self.shape.len() < 2 { Decay::Vector } else { Decay::Matrix }
    }
}

/// Most layers, heads, width, context and vocabulary: beyond, a size is a typing error.
const MOST: [usize; 5] = [1024, 1024, 65_536, 65_536, 65_536];

impl Shape {
    /// The preset `small` but for the vocabulary: two CPU cores train it in a minute or two.
    pub fn small(vocabulary: usize) -> Shape {
        Shape { layers: 4, heads: 4, width: 128, context: 64, vocabulary }
    }

    /// The preset `char`, nanoGPT's model of characters.
    pub fn char(vocabulary: usize) -> Shape {
        Shape { layers: 6, heads: 6, width: 384, context: 256, vocabulary }
    }

    /// The preset `gpt2`: the smallest GPT-2, its vocabulary rounded up to a multiple of 64.
    pub fn gpt2() -> Shape {
        Shape { layers: 12, heads: 12, width: 768, context: 1024, vocabulary: 50_304 }
    }

    /// Whether there is a model of these sizes.
    ///
    /// # Errors
    /// The first size that is 0 or too large, or heads that do not divide the width.
    pub fn check(&self) -> Result<(), ShapeError> {
        let Shape { layers, heads, width, context, vocabulary } = *self;
        let sizes = [layers, heads, width, context, vocabulary];
        let names = ["layers", "heads", "width", "context", "vocabulary"];
        for ((name, size), most) in names.into_iter().zip(sizes).zip(MOST) {
            if !(1..=most).contains(&size) {
                return Err(ShapeError(format!("{name} {size}: must be from 1 to {most}")));
            }
        }
        if !width.is_multiple_of(heads) {
            return Err(ShapeError(format!("width {width}: no multiple of {heads} heads")));
        }
        Ok(())
    }

    /// Width of a head.
    pub fn head_width(&self) -> usize {
        self.width / self.heads
    }

    /// The parameter tensors in the order of the flat buffer, which is nanoGPT's `state_dict`'s:
    /// embeddings, blocks, final LayerNorm. `lm_head.weight` is `transformer.wte.weight`.
    pub fn tensors(&self) -> Vec<Tensor> {
        const DEVIATION: f64 = 0.02;
        let width = self.width;
        let residual = Some(DEVIATION / (2.0 * self.layers as f64).sqrt());
        let mut list = TensorList::default();
        list.push("transformer.wte.weight".into(), &[self.vocabulary, width], Some(DEVIATION));
        list.push("transformer.wpe.weight".into(), &[self.context, width], Some(DEVIATION));
        for layer in 0..self.layers {
            let mut block = |name: &str, shape: &[usize], deviation| {
                list.push(format!("transformer.h.{layer}.{name}.weight"), shape, deviation);
            };
            block("ln_1", &[width], None);
            block("attn.c_attn", &[3 * width, width], Some(DEVIATION));
            block("attn.c_proj", &[width, width], residual);
            block("ln_2", &[width], None);
            block("mlp.c_fc", &[4 * width, width], Some(DEVIATION));
            block("mlp.c_proj", &[width, 4 * width], residual);
        }
        list.push("transformer.ln_f.weight".into(), &[width], None);
        list.0
    }

    /// Number of trained scalars.
    pub fn parameter_count(&self) -> usize {
        let Shape { layers, width, context, vocabulary, .. } = *self;
        (vocabulary + context + 1) * width + layers * (12 * width * width + 2 * width)
    }

    /// Floating-point operations of training on one token: `6 N + 12 L C T` (PaLM, Chowdhery et al.
    /// 2022, appendix B, as in nanoGPT) with `N` parameters less the position embeddings, `L` layers,
    /// width `C`, context `T`. Attention counts in full, though the causal mask makes half of it
    /// superfluous.
    pub fn dense_flop_per_token(&self) -> f64 {
        let matrices = self.parameter_count() - self.context * self.width;
        6.0 * matrices as f64 + (12 * self.layers * self.width * self.context) as f64
    }
}

#[derive(Default)]
struct TensorList(Vec<Tensor>);

impl TensorList {
    fn push(&mut self, name: String, shape: &[usize], deviation: Option<f64>) {
        let offset = self.0.last().map_or(0, |last| last.range().end);
        self.0.push(Tensor { name, shape: shape.to_vec(), offset, deviation });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tensors_fill_the_flat_buffer_and_the_counts_are_the_published_ones() {
        for shape in [Shape::small(65), Shape::char(65), Shape::gpt2()] {
            let tensors = shape.tensors();
            assert_eq!(tensors.last().unwrap().range().end, shape.parameter_count());
            assert!(shape.check().is_ok());
        }
        // nanoGPT prints 123.59 M for GPT-2 without the position embeddings, with 50,257 tokens and
        // without biases.
        let gpt2 = Shape { vocabulary: 50_257, ..Shape::gpt2() };
        let counted = gpt2.parameter_count() - gpt2.context * gpt2.width;
        assert_eq!(counted, 50_257 * 768 + 12 * (12 * 768 * 768 + 2 * 768) + 768);
        let small = Shape::small(65);
        let run = small.dense_flop_per_token() * (2000 * 12 * 64) as f64;
        assert_eq!((run / 1e11).round(), 79.0);
        let step = Shape::char(65).dense_flop_per_token() * (64 * 256) as f64;
        assert_eq!((step / 1e10).round(), 116.0);
    }

    #[test]
    fn sizes_that_are_no_models_are_refused_by_name() {
        let small = Shape::small(65);
        let refusal = |shape: Shape| shape.check().unwrap_err().to_string();
        assert_eq!(refusal(Shape { heads: 3, ..small }), "width 128: no multiple of 3 heads");
        assert_eq!(refusal(Shape { layers: 0, ..small }), "layers 0: must be from 1 to 1024");
    }
}
