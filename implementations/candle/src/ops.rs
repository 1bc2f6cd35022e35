//! Operations that candle lacks: a product for inputs that need no gradient, a ReLU whose derivative at
//! 0 is 0 (candle 0.11.1's is 1, which at the blank parts of an image, where the convolution begins
//! with exact zeros, trains another network), and a step of SGD in place.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, InplaceOp2, Layout, Result, Shape, Tensor, bail,
};

/// The values of a contiguous float32 tensor.
pub fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((from, to))) => Ok(&values[from..to]),
        _ => bail!("it needs contiguous float32 values"),
    }
}

/// `max(0, input)`; NaN stays NaN.
pub struct Relu;

impl CustomOp1 for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let output = values(input, layout)?.iter().map(|&it| if it <= 0.0 { 0.0 } else { it });
        Ok((CpuStorage::F32(output.collect()), layout.shape().clone()))
    }

    fn bwd(&self, _input: &Tensor, output: &Tensor, d_output: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(d_output.contiguous()?.apply_op2_no_bwd(output, &ReluGradient)?))
    }
}

/// The gradient where the output is not 0.
struct ReluGradient;

impl CustomOp2 for ReluGradient {
    fn name(&self) -> &'static str {
        "relu-gradient"
    }

    fn cpu_fwd(
        &self,
        d_output: &CpuStorage,
        d_layout: &Layout,
        output: &CpuStorage,
        layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let pairs = values(d_output, d_layout)?.iter().zip(values(output, layout)?);
        let d_input = pairs.map(|(&d, &output)| if output == 0.0 { 0.0 } else { d });
        Ok((CpuStorage::F32(d_input.collect()), layout.shape().clone()))
    }
}

/// `input weight`, (rows, in) x (in, out), where only the weight is learnt: candle's own product would
/// compute the input's gradient too, a third of a first layer's work.
pub struct FirstProduct;

impl CustomOp2 for FirstProduct {
    fn name(&self) -> &'static str {
        "first-product"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        input_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = input_layout.shape().dims2()?;
        let (_, out) = weight_layout.shape().dims2()?;
        let sizes = (1, rows, out, width);
        let product = input.matmul(weight, sizes, input_layout, weight_layout)?;
        Ok((product, Shape::from((rows, out))))
    }

    fn bwd(
        &self,
        input: &Tensor,
        _weight: &Tensor,
        _output: &Tensor,
        d_output: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((None, Some(input.t()?.matmul(d_output)?)))
    }
}

/// `weight -= rate * gradient`, both contiguous.
pub struct Descend(pub f32);

impl InplaceOp2 for Descend {
    fn name(&self) -> &'static str {
        "descend"
    }

    fn cpu_fwd(
        &self,
        weight: &mut CpuStorage,
        weight_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<()> {
        let (CpuStorage::F32(weight), Some((from, to))) =
            (weight, weight_layout.contiguous_offsets())
        else {
            bail!("it needs contiguous float32 values")
        };
        let pairs = weight[from..to].iter_mut().zip(values(gradient, gradient_layout)?);
        pairs.for_each(|(weight, slope)| *weight -= self.0 * slope);
        Ok(())
    }
}
