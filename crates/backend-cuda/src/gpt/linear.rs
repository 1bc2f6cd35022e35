//! The products of a step: each linear layer forward, the gradient of its inputs, and that of its
//! weights.

use super::memory::Memory;
use super::products::GeluProducts;
use super::rows::RowKernels;
use super::weights::{self, WeightGradients};
use crate::cublaslt::{
    CublasLt, Element, Epilogue, GAIN, Operands, Product, ProductSizes, Recipe, Turn,
};
use crate::driver::{Buffer, Gpu};
use nn::backend::TrainError;
use std::ops::Range;
use std::rc::Rc;

/// Whether our own products run where there are any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnProducts {
    No,
    Faster,
    Yes,
}

/// The products, named by the layer whose they are. The `_gradient` ones go back to the inputs, those
/// with `_weight` to the weights.
pub(crate) struct Linear {
    qkv: Product,
    out: Product,
    up: Product,
    down: Product,
    logits: Product,
    qkv_gradient: Product,
    out_gradient: Product,
    up_gradient: Product,
    down_gradient: Product,
    logits_gradient: Product,
    qkv_weight: Product,
    out_weight: Product,
    up_weight: Product,
    down_weight: Product,
    logits_weight: Product,
    /// Of all chunks but the first: adds to what the first one wrote.
    logits_weight_more: Product,
    /// `up` with GELU, and `down_gradient` with its slope, as part of the product; none in float32, as the
    /// library has its own approximation of tanh, and where ours beside the product is faster.
    up_with_gelu: Option<Product>,
    down_gradient_with_slope: Option<Product>,
    /// In place of `up` and `down_gradient`, with GELU, where both together are faster.
    own: Option<GeluProducts>,
    /// In place of all those with `_weight` in a layer, where they are faster.
    own_weights: Option<WeightGradients>,
    /// What has to be gained for our own: anything, if they are asked for.
    gain: f64,
    report: String,
}

impl Linear {
    /// Describes all products.
    pub(crate) fn new(
        gpu: &Rc<Gpu>,
        library: &Rc<CublasLt>,
        memory: &Memory,
        fused_gelu: bool,
        own: OwnProducts,
    ) -> Result<Linear, TrainError> {
        let sizes = &memory.sizes;
        let (rows, width) = (sizes.rows, sizes.shape.width);
        let (chunk, vocabulary) = (sizes.chunk_rows, sizes.layout.padded_vocabulary);
        let plain = |turn, rows, columns, inner| Recipe {
            turn,
            sizes: ProductSizes { rows, columns, inner },
            operands: sizes.element,
            result: if turn == Turn::Left { Element::Float32 } else { sizes.element },
            epilogue: Epilogue::None,
            add: false,
        };
        let forward = |columns, inner| plain(Turn::Right, rows, columns, inner);
        let inputs = |columns, inner| plain(Turn::Neither, rows, columns, inner);
        let weights = |down, across| plain(Turn::Left, down, across, rows);
        let adding = |recipe| Recipe { add: true, ..recipe };
        let logits_weight = plain(Turn::Left, vocabulary, width, chunk);
        let make = |recipe| Product::new(library, recipe);
        let fused = |recipe, epilogue| match fused_gelu {
            true => make(Recipe { epilogue, ..recipe }).map(Some),
            false => Ok(None),
        };
        let (up, down_gradient) = (forward(4 * width, width), inputs(4 * width, width));
        let gain = if own == OwnProducts::Yes { f64::INFINITY } else { GAIN };
        let (own, own_weights) = match own {
            OwnProducts::No => (None, None),
            _ => (GeluProducts::new(gpu, sizes)?, WeightGradients::new(gpu, memory)?),
        };
        Ok(Linear {
            qkv: make(forward(3 * width, width))?,
            out: make(adding(forward(width, width)))?,
            up: make(up)?,
            down: make(adding(forward(width, 4 * width)))?,
            logits: make(plain(Turn::Right, chunk, vocabulary, width))?,
            qkv_gradient: make(inputs(width, 3 * width))?,
            out_gradient: make(inputs(width, width))?,
            up_gradient: make(inputs(width, 4 * width))?,
            down_gradient: make(down_gradient)?,
            logits_gradient: make(plain(Turn::Neither, chunk, width, vocabulary))?,
            qkv_weight: make(weights(3 * width, width))?,
            out_weight: make(weights(width, width))?,
            up_weight: make(weights(4 * width, width))?,
            down_weight: make(weights(width, 4 * width))?,
            logits_weight: make(logits_weight)?,
            logits_weight_more: make(adding(logits_weight))?,
            up_with_gelu: fused(up, Epilogue::Gelu)?,
            down_gradient_with_slope: fused(down_gradient, Epilogue::GeluGradient)?,
            own,
            own_weights,
            gain,
            report: String::new(),
        })
    }

    /// Finds the fastest algorithms, with what a step left in memory, and where GELU is best applied. It
    /// spoils activations and gradients.
    pub(crate) fn tune(
        &mut self,
        gpu: &Rc<Gpu>,
        memory: &Memory,
        rows: &RowKernels,
    ) -> Result<(), TrainError> {
        let at = Places { memory };
        let turns = memory.sizes.shape.layers.min(TURNS);
        let each = |place: &dyn Fn(usize) -> Operands| -> Vec<Operands> {
            (0..turns).map(place).collect()
        };
        let products = [
            (&mut self.qkv, each(&|layer| at.qkv(layer))),
            (&mut self.out, each(&|layer| at.out(layer))),
            (&mut self.up, each(&|layer| at.up(layer, false))),
            (&mut self.down, each(&|layer| at.down(layer))),
            (&mut self.logits, vec![at.logits(0)]),
            (&mut self.qkv_gradient, each(&|layer| at.qkv_gradient(layer))),
            (&mut self.out_gradient, each(&|layer| at.out_gradient(layer))),
            (&mut self.up_gradient, each(&|layer| at.up_gradient(layer))),
            (&mut self.down_gradient, each(&|layer| at.down_gradient(layer))),
            (&mut self.logits_gradient, vec![at.logits_gradient(0)]),
            (&mut self.qkv_weight, each(&|layer| at.qkv_weight(layer))),
            (&mut self.out_weight, each(&|layer| at.out_weight(layer))),
            (&mut self.up_weight, each(&|layer| at.up_weight(layer))),
            (&mut self.down_weight, each(&|layer| at.down_weight(layer))),
            (&mut self.logits_weight, vec![at.logits_weight(0)]),
            (&mut self.logits_weight_more, vec![at.logits_weight(0)]),
        ];
        for (product, operands) in products {
            // SAFETY: the operands are those that the step gives to the same product.
            unsafe { product.tune(&operands) }?;
        }
        let seconds =
            |enqueue: &dyn Fn(usize) -> Result<(), TrainError>| seconds(gpu, turns, enqueue);
        let gelu_s = seconds(&|layer| rows.gelu(memory, layer))?;
        let slope_s = seconds(&|layer| rows.gelu_gradient(memory, layer))?;
        let mut up_s = 1e-6 * self.up.chosen.0 + gelu_s;
        let mut down_gradient_s = 1e-6 * self.down_gradient.chosen.0 + slope_s;
        let fused = [
            (&mut self.up_with_gelu, each(&|layer| at.up(layer, true)), &mut up_s),
            (
                &mut self.down_gradient_with_slope,
                each(&|layer| at.down_gradient(layer)),
                &mut down_gradient_s,
            ),
        ];
        for (fused, operands, beside_s) in fused {
            let Some(product) = fused else { continue };
            // SAFETY: as above.
            let fused_s = unsafe { product.tune(&operands) }?;
            if fused_s < GAIN * *beside_s {
                *beside_s = fused_s;
            } else {
                *fused = None;
            }
        }
        let library_s = [up_s, down_gradient_s];
        self.report = format!("up with GELU, down_gradient with slope: {library_s:.7?} s\n");
        let Some(own) = &self.own else { return Ok(()) };
        let own_s = [
            seconds(&|layer| own.up(memory, layer))?,
            seconds(&|layer| own.down_gradient(memory, layer))?,
        ];
        self.report += &format!("the same by our own products: {own_s:.7?} s\n");
        if own_s.iter().sum::<f64>() >= self.gain * library_s.iter().sum::<f64>() {
            self.own = None;
        }
        Ok(())
    }

    /// Decides who finds the gradients of weights, after [`Linear::tune`].
    pub(crate) fn tune_weights(
        &mut self,
        gpu: &Rc<Gpu>,
        memory: &Memory,
    ) -> Result<(), TrainError> {
        let Some(own_weights) = &self.own_weights else { return Ok(()) };
        let products = [&self.qkv_weight, &self.out_weight, &self.up_weight, &self.down_weight];
        let layers = memory.sizes.shape.layers;
        let library_s =
            layers as f64 * products.iter().map(|product| 1e-6 * product.chosen.0).sum::<f64>();
        let groups: Vec<_> =
            (0..layers).filter_map(|layer| weights::group(&memory.sizes, layer)).collect();
        let all =
            |_| groups.iter().try_for_each(|group| own_weights.enqueue(memory, group.clone()));
        let own_s = seconds(gpu, 1, &all)?;
        self.report += &format!(
            "the layers' gradients of weights: {library_s:.7} s, by our own, {} layers at most at \
             once, {own_s:.7} s\n",
            groups.iter().map(Range::len).max().unwrap_or(0)
        );
        if own_s >= self.gain * library_s {
            self.own_weights = None;
        }
        Ok(())
    }

    /// Whether the gradients of weights are found by [`Linear::weights`] alone.
    pub(crate) fn groups_weights(&self) -> bool {
        self.own_weights.is_some()
    }

    /// Numbers whose sum is that of the squares of the layers' gradients of weights, if they are known.
    pub(crate) fn weight_squares(&self) -> Option<&Buffer<f32>> {
        self.own_weights.as_ref().map(WeightGradients::squares)
    }

    /// The gradients of the weights of all layers that wait for it, if `layer`, whose way back is done, is the
    /// last of them. Returns these layers.
    pub(crate) fn weights(
        &self,
        memory: &Memory,
        layer: usize,
    ) -> Result<Option<Range<usize>>, TrainError> {
        let Some(own) = &self.own_weights else { return Ok(None) };
        let group = weights::group(&memory.sizes, layer);
        group.clone().map_or(Ok(()), |layers| own.enqueue(memory, layers))?;
        Ok(group)
    }

    /// Each product's microseconds as they were measured, for whoever looks for where time goes.
    pub(crate) fn report(&self) -> String {
        let products = [
            ("qkv", &self.qkv),
            ("out", &self.out),
            ("up", &self.up),
            ("down", &self.down),
            ("logits", &self.logits),
            ("qkv_gradient", &self.qkv_gradient),
            ("out_gradient", &self.out_gradient),
            ("up_gradient", &self.up_gradient),
            ("down_gradient", &self.down_gradient),
            ("logits_gradient", &self.logits_gradient),
            ("qkv_weight", &self.qkv_weight),
            ("out_weight", &self.out_weight),
            ("up_weight", &self.up_weight),
            ("down_weight", &self.down_weight),
            ("logits_weight", &self.logits_weight),
        ];
        let line = |(name, product): (&str, &Product)| {
            let ProductSizes { rows, columns, inner } = product.recipe().sizes;
            let (microseconds, place) = product.chosen;
            let tflops = 2e-6 * (rows * columns * inner) as f64 / microseconds;
            format!(
                "{name:16} {rows:6} x {columns:6} x {inner:6} {microseconds:8.1} us {tflops:6.1} \
                 TFLOP/s, proposal {place}\n"
            )
        };
        products.into_iter().map(line).collect::<String>() + &self.report
    }

    /// Enqueues one of them.
    fn enqueue(product: &Product, operands: Operands) -> Result<(), TrainError> {
        // SAFETY: the product was made for these buffers' sizes, which are aligned to 16 bytes.
        unsafe { product.enqueue(operands) }
    }

    /// `qkv` from the layer's first `x`.
    pub(crate) fn qkv(
        &self,
        memory: &Memory,
        rows: &RowKernels,
        layer: usize,
    ) -> Result<(), TrainError> {
        if layer > 0 {
            rows.normalise(memory, 2 * layer)?; // the first one's is the embedding's
        }
        Linear::enqueue(&self.qkv, Places { memory }.qkv(layer))
    }

    /// The second `x` of a layer: its first plus the projected attention.
    pub(crate) fn out(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        Linear::enqueue(&self.out, Places { memory }.out(layer))
    }

    /// `active` from the layer's second `x`. In `up` is what goes into GELU; of our own products, its slope.
    pub(crate) fn up(
        &self,
        memory: &Memory,
        rows: &RowKernels,
        layer: usize,
    ) -> Result<(), TrainError> {
        rows.normalise(memory, 2 * layer + 1)?;
        if let Some(own) = &self.own {
            return own.up(memory, layer);
        }
        let at = Places { memory };
        if let Some(fused) = &self.up_with_gelu {
            return Linear::enqueue(fused, at.up(layer, true));
        }
        Linear::enqueue(&self.up, at.up(layer, false))?;
        rows.gelu(memory, layer)
    }

    /// The next layer's first `x`.
    pub(crate) fn down(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        Linear::enqueue(&self.down, Places { memory }.down(layer))
    }

    pub(crate) fn logits(&self, memory: &Memory, chunk: usize) -> Result<(), TrainError> {
        Linear::enqueue(&self.logits, Places { memory }.logits(chunk))
    }

    /// `normal_delta` of a chunk's rows.
    pub(crate) fn logits_gradient(&self, memory: &Memory, chunk: usize) -> Result<(), TrainError> {
        Linear::enqueue(&self.logits_gradient, Places { memory }.logits_gradient(chunk))
    }

    pub(crate) fn logits_weight(&self, memory: &Memory, chunk: usize) -> Result<(), TrainError> {
        let product = if chunk == 0 { &self.logits_weight } else { &self.logits_weight_more };
        Linear::enqueue(product, Places { memory }.logits_weight(chunk))
    }

    /// `up_delta` from the gradient of the layer's result.
    pub(crate) fn down_gradient(
        &self,
        memory: &Memory,
        rows: &RowKernels,
        layer: usize,
    ) -> Result<(), TrainError> {
        if let Some(own) = &self.own {
            return own.down_gradient(memory, layer);
        }
        let operands = Places { memory }.down_gradient(layer);
        if let Some(fused) = &self.down_gradient_with_slope {
            return Linear::enqueue(fused, operands);
        }
        Linear::enqueue(&self.down_gradient, operands)?;
        rows.gelu_gradient(memory, layer)
    }

    pub(crate) fn down_weight(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        Linear::enqueue(&self.down_weight, Places { memory }.down_weight(layer))
    }

    /// `normal_delta` from `up_delta`.
    pub(crate) fn up_gradient(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        Linear::enqueue(&self.up_gradient, Places { memory }.up_gradient(layer))
    }

    pub(crate) fn up_weight(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        Linear::enqueue(&self.up_weight, Places { memory }.up_weight(layer))
    }

    /// The gradient of `attended`, in `normal_delta`.
    pub(crate) fn out_gradient(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        Linear::enqueue(&self.out_gradient, Places { memory }.out_gradient(layer))
    }

    pub(crate) fn out_weight(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        Linear::enqueue(&self.out_weight, Places { memory }.out_weight(layer))
    }

    /// `normal_delta` from `qkv_delta`.
    pub(crate) fn qkv_gradient(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        Linear::enqueue(&self.qkv_gradient, Places { memory }.qkv_gradient(layer))
    }

    pub(crate) fn qkv_weight(&self, memory: &Memory, layer: usize) -> Result<(), TrainError> {
        Linear::enqueue(&self.qkv_weight, Places { memory }.qkv_weight(layer))
    }
}

/// Layers whose products are timed one after the other: their data are more than the cache holds.
const TURNS: usize = 4;
/// How often, once more than that to load code.
const REPEATS: usize = 3;

/// Seconds of what `enqueue` enqueues for a layer.
fn seconds(
    gpu: &Rc<Gpu>,
    turns: usize,
    enqueue: &dyn Fn(usize) -> Result<(), TrainError>,
) -> Result<f64, TrainError> {
    let clock = gpu.clock()?;
    let mut fastest = f64::INFINITY;
    for _ in 0..=REPEATS {
        gpu.record(&clock[0])?;
        (0..turns).try_for_each(enqueue)?;
        gpu.record(&clock[1])?;
        gpu.synchronize()?;
        fastest = fastest.min(clock[0].seconds_until(&clock[1])? / turns as f64);
    }
    Ok(fastest)
}

/// Where the operands of each product are.
struct Places<'a> {
    memory: &'a Memory,
}

impl Places<'_> {
    fn plain(left: u64, right: u64, result: u64) -> Operands {
        Operands { left, right, add: 0, result, aux: 0 }
    }

    fn qkv(&self, layer: usize) -> Operands {
        let m = self.memory;
        let weight = m.weight(m.sizes.layout.layers[layer].qkv);
        Places::plain(m.normal.at(2 * layer), weight, m.qkv.at(layer))
    }

    fn out(&self, layer: usize) -> Operands {
        let m = self.memory;
        let weight = m.weight(m.sizes.layout.layers[layer].out);
        let (from, to) = (m.x.at(2 * layer), m.x.at(2 * layer + 1));
        Operands { add: from, ..Places::plain(m.attended.at(layer), weight, to) }
    }

    fn up(&self, layer: usize, fused: bool) -> Operands {
        let m = self.memory;
        let weight = m.weight(m.sizes.layout.layers[layer].up);
        let (up, active) = (m.up.at(layer), m.active.at(layer));
        let result = if fused { active } else { up };
        Operands { aux: up, ..Places::plain(m.normal.at(2 * layer + 1), weight, result) }
    }

    fn down(&self, layer: usize) -> Operands {
        let m = self.memory;
        let weight = m.weight(m.sizes.layout.layers[layer].down);
        let (from, to) = (m.x.at(2 * layer + 1), m.x.at(2 * layer + 2));
        Operands { add: from, ..Places::plain(m.active.at(layer), weight, to) }
    }

    /// The last LayerNorm's rows of a chunk, or of their gradient.
    fn chunk(&self, base: u64, chunk: usize) -> u64 {
        let sizes = &self.memory.sizes;
        base + (chunk * sizes.chunk_rows * sizes.shape.width * sizes.element.bytes()) as u64
    }

    fn logits(&self, chunk: usize) -> Operands {
        let m = self.memory;
        let normal = self.chunk(m.normal.at(2 * m.sizes.shape.layers), chunk);
        Places::plain(normal, m.weight(m.sizes.layout.tokens), m.logits.at(0))
    }

    fn logits_gradient(&self, chunk: usize) -> Operands {
        let m = self.memory;
        let result = self.chunk(m.normal_delta.at(0), chunk);
        Places::plain(m.logits.at(0), m.weight(m.sizes.layout.tokens), result)
    }

    fn logits_weight(&self, chunk: usize) -> Operands {
        let m = self.memory;
        let normal = self.chunk(m.normal.at(2 * m.sizes.shape.layers), chunk);
        let result = m.gradient(m.sizes.layout.tokens);
        Operands { add: result, ..Places::plain(m.logits.at(0), normal, result) }
    }

    fn down_gradient(&self, layer: usize) -> Operands {
        let m = self.memory;
        let weight = m.weight(m.sizes.layout.layers[layer].down);
        let delta = m.up_delta(layer);
        Operands { aux: m.up.at(layer), ..Places::plain(m.x_delta(2 * layer + 2), weight, delta) }
    }

    fn down_weight(&self, layer: usize) -> Operands {
        let m = self.memory;
        let result = m.gradient(m.sizes.layout.layers[layer].down);
        Places::plain(m.x_delta(2 * layer + 2), m.active.at(layer), result)
    }

    fn up_gradient(&self, layer: usize) -> Operands {
        let m = self.memory;
        let weight = m.weight(m.sizes.layout.layers[layer].up);
        Places::plain(m.up_delta(layer), weight, m.normal_delta.at(0))
    }

    fn up_weight(&self, layer: usize) -> Operands {
        let m = self.memory;
        let result = m.gradient(m.sizes.layout.layers[layer].up);
        Places::plain(m.up_delta(layer), m.normal.at(2 * layer + 1), result)
    }

    fn out_gradient(&self, layer: usize) -> Operands {
        let m = self.memory;
        let weight = m.weight(m.sizes.layout.layers[layer].out);
        Places::plain(m.x_delta(2 * layer + 1), weight, m.normal_delta.at(0))
    }

    fn out_weight(&self, layer: usize) -> Operands {
        let m = self.memory;
        let result = m.gradient(m.sizes.layout.layers[layer].out);
        Places::plain(m.x_delta(2 * layer + 1), m.attended.at(layer), result)
    }

    fn qkv_gradient(&self, layer: usize) -> Operands {
        let m = self.memory;
        let weight = m.weight(m.sizes.layout.layers[layer].qkv);
        Places::plain(m.qkv_delta(layer), weight, m.normal_delta.at(0))
    }

    fn qkv_weight(&self, layer: usize) -> Operands {
        let m = self.memory;
        let result = m.gradient(m.sizes.layout.layers[layer].qkv);
        Places::plain(m.qkv_delta(layer), m.normal.at(2 * layer), result)
    }
}
