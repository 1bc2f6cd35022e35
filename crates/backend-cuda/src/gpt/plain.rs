//! Launchers of `kernels/gpt_plain.cu`: products without a library.

use crate::cublaslt::{Element, Operands, ProductSizes, Recipe, Replacement, Turn};
use crate::driver::{Address, Gpu};
use crate::kernel::{Kernel, Ptx, Shape};
use nn::backend::TrainError;
use std::rc::Rc;

static PTX: Ptx =
    Ptx { name: "gpt_plain.ptx", packed: include_bytes!("../../ptx/gpt_plain.ptx.gz") };

// As the kernels have it.
const THREADS: u32 = 256;

#[repr(C)]
#[derive(Clone, Copy)]
struct PlainProduct {
    left: Address,
    right: Address,
    add: Address,
    result: Address,
    rows: u32,
    columns: u32,
    inner: u32,
    left_row: u32,
    left_inner: u32,
    right_column: u32,
    right_inner: u32,
    unused: u32,
}

/// They take the place of the library's.
pub(crate) fn products(gpu: &Rc<Gpu>) -> Result<Replacement, TrainError> {
    let products = PlainProducts::new(gpu)?;
    // SAFETY: whoever enqueues a product of the library promises as much.
    Ok(Box::new(move |recipe, operands| unsafe { products.enqueue(recipe, operands) }))
}

/// The kernels, by what goes in and what comes out.
struct PlainProducts {
    float32: Kernel,
    bf16: Kernel,
    bf16_float32: Kernel,
}

impl PlainProducts {
    fn new(gpu: &Rc<Gpu>) -> Result<PlainProducts, TrainError> {
        let module = Rc::new(gpu.load(&PTX)?);
        Ok(PlainProducts {
            float32: module.kernel("plain_product_float32", 0)?,
            bf16: module.kernel("plain_product_bf16", 0)?,
            bf16_float32: module.kernel("plain_product_bf16_float32", 0)?,
        })
    }

    /// Enqueues the product, whose epilogue has to be none.
    ///
    /// # Safety
    /// The matrices are as large as the recipe says, and live until it is done.
    unsafe fn enqueue(&self, recipe: &Recipe, operands: Operands) -> Result<(), TrainError> {
        let ProductSizes { rows, columns, inner } = recipe.sizes;
        let (left, right) = match recipe.turn {
            Turn::Right => ([inner, 1], [inner, 1]),
            Turn::Neither => ([inner, 1], [1, columns]),
            Turn::Left => ([1, rows], [1, columns]),
        };
        let arguments = PlainProduct {
            left: operands.left,
            right: operands.right,
            add: if recipe.add { operands.add } else { 0 },
            result: operands.result,
            rows: rows as u32,
            columns: columns as u32,
            inner: inner as u32,
            left_row: left[0] as u32,
            left_inner: left[1] as u32,
            right_column: right[0] as u32,
            right_inner: right[1] as u32,
            unused: 0,
        };
        let kernel = match (recipe.operands, recipe.result) {
            (Element::Float32, _) => &self.float32,
            (Element::Bf16, Element::Bf16) => &self.bf16,
            (Element::Bf16, Element::Float32) => &self.bf16_float32,
        };
        let shape = Shape::row((rows * columns).div_ceil(THREADS as usize), THREADS);
        // SAFETY: as this function's.
        unsafe { kernel.launch(shape, &arguments) }
    }
}
