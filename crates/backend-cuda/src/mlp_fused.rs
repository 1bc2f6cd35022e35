//! The launcher of `kernels/mlp_fused.cu`: the MLP, an epoch in one launch.

use crate::driver::{Address, Buffer};
use crate::exchange::{BATCH_ROWS, CLASS_STRIDE, Exchange, ExchangeAddresses};
use crate::kernel::{Kernel, Ptx, Shape};
use crate::persistent::Persistent;
use crate::plan::{FusedKernel, Place};
use mnist::PIXELS;
use nn::MlpShape;
use nn::backend::TrainError;
use std::rc::Rc;

static PTX: Ptx = Ptx { name: "mlp_fused.ptx", packed: include_bytes!("../ptx/mlp_fused.ptx.gz") };

// As the kernels have them.
const UNITS: usize = 16;
const ROW_GROUPS: usize = PIXELS / 16;
const COMPUTE_WARPS: usize = 14;
const EXCHANGE_WARPS: usize = 4;
const THREADS: usize = (COMPUTE_WARPS + EXCHANGE_WARPS) * 32;
const PAIRS: usize = BATCH_ROWS / 2;
const SAMPLE_STRIDE: usize = BATCH_ROWS + 4;
const PARTIAL_STRIDE: usize = BATCH_ROWS + 8;
const GRAM_THREADS: usize = 256;
const GRAM_SHARED_BYTES: usize = 2 * BATCH_ROWS * PIXELS;

/// How the first layer is spread over the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spread {
    /// Blocks that share 16 hidden units, each with a part of the image.
    siblings: usize,
    blocks: usize,
    shared_bytes: usize,
}

impl Spread {
    /// The size of `Shared` of the kernels.
    fn shared_bytes(siblings: usize) -> usize {
        let own = UNITS / siblings;
        let pixels = 3 * BATCH_ROWS * ROW_GROUPS.div_ceil(siblings) * 16;
        let fragments = 2 * 3 * 2 * 32 * 16;
        let partial = COMPUTE_WARPS * UNITS * PARTIAL_STRIDE;
        let product = 2 * siblings * own * (BATCH_ROWS + 2);
        let gram = 2 * BATCH_ROWS * SAMPLE_STRIDE;
        let delta = 2 * own * SAMPLE_STRIDE;
        let hidden = 2 * (own + 1) * SAMPLE_STRIDE;
        let output = CLASS_STRIDE * (own + 4);
        let logit_delta = 2 * CLASS_STRIDE * SAMPLE_STRIDE;
        let sums = EXCHANGE_WARPS * 4 * 4;
        let bias1 = 2 * own;
        let images = 2 * BATCH_ROWS;
        let words = partial
            + product
            + gram
            + delta
            + hidden
            + output
            + logit_delta
            + sums
            + bias1
            + images;
        (pixels + fragments + 4 * words).next_multiple_of(16)
    }

    /// With one block on each multiprocessor at most, as they wait for each other, and as many
    /// siblings as that allows.
    fn new(
        hidden: usize,
        batch: usize,
        multiprocessors: usize,
        shared_limit: usize,
    ) -> Result<Spread, String> {
        if batch > BATCH_ROWS {
            return Err(format!("it holds up to {BATCH_ROWS} samples of a batch, not {batch}"));
        }
        let groups = hidden.div_ceil(UNITS);
        let Some(siblings) =
            [4, 2, 1].into_iter().find(|siblings| groups * siblings <= multiprocessors)
        else {
            let most = UNITS * multiprocessors;
            return Err(format!(
                "{multiprocessors} multiprocessors hold up to {most} hidden units, not {hidden}"
            ));
        };
        let shared_bytes = Spread::shared_bytes(siblings);
        if shared_bytes > shared_limit {
            return Err(format!(
                "it needs {shared_bytes} bytes of shared memory in a block, the device has \
                 {shared_limit}"
            ));
        }
        Ok(Spread { siblings, blocks: groups * siblings, shared_bytes })
    }

    fn kernel(&self) -> &'static str {
        match self.siblings {
            4 => "mlp_epoch_by_4",
            2 => "mlp_epoch_by_2",
            _ => "mlp_epoch_by_1",
        }
    }
}

/// `MlpFused` of the kernels, beyond `Run`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    gram: Address,
    exchange: ExchangeAddresses,
    sibling_deltas: Address,
    sibling_products: Address,
    hidden_units: u32,
}

/// `MlpGram` of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct GramArguments {
    images: Address,
    order: Address,
    gram: Address,
    samples: u32,
    batch: u32,
}

pub(crate) struct MlpFused {
    epoch: Persistent<Arguments>,
    gram: Kernel,
    gram_arguments: GramArguments,
}

impl MlpFused {
    /// Ready to train, or why the sizes or the device rule it out.
    pub(crate) fn new(
        place: &Place<'_>,
        shape: MlpShape,
    ) -> Result<Result<MlpFused, String>, TrainError> {
        let (gpu, resident) = (place.gpu, place.resident);
        let device = gpu.device();
        let spread =
            Spread::new(shape.hidden, resident.batch, device.multiprocessors, device.shared_bytes);
        let spread = match spread {
            Ok(spread) => spread,
            Err(reason) => return Ok(Err(reason)),
        };
        let module = Rc::new(gpu.load(&PTX)?);
        let steps = resident.capacity / resident.batch;
        let gram: Buffer<f32> =
            gpu.allocate("inner products of images", steps * BATCH_ROWS * BATCH_ROWS)?;
        // Deltas: (2, blocks, own units, pairs); products: (2, blocks, siblings, own units, pairs).
        let delta_words = 2 * spread.blocks * UNITS / spread.siblings * PAIRS;
        let product_words = 2 * spread.blocks * UNITS * PAIRS;
        let exchange = Exchange::new(gpu, spread.blocks, [delta_words, product_words])?;
        let [sibling_deltas, sibling_products] = exchange.more_addresses();
        let arguments = Arguments {
            gram: gram.address(),
            exchange: exchange.addresses(),
            sibling_deltas,
            sibling_products,
            hidden_units: shape.hidden as u32,
        };
        let gram_arguments = GramArguments {
            images: resident.images.address(),
            order: resident.order.address(),
            gram: gram.address(),
            samples: 0, // with each launch
            batch: resident.batch as u32,
        };
        let kernel = module.kernel(spread.kernel(), spread.shared_bytes)?;
        let grid = Shape::row(spread.blocks, THREADS as u32);
        let path = format!(
            "an epoch per launch, {} blocks, each with 16 hidden units and 1/{} of the image; \
             float32 as three exact bf16 on tensor cores",
            spread.blocks, spread.siblings
        );
        // SAFETY: the words are as many as the blocks take, and `gram` has room for every step.
        let epoch =
            unsafe { Persistent::new(place, kernel, grid, exchange, arguments, vec![gram], path) };
        let gram = module.kernel("mlp_gram", GRAM_SHARED_BYTES)?;
        Ok(Ok(MlpFused { epoch, gram, gram_arguments }))
    }
}

impl FusedKernel for MlpFused {
    fn enqueue(&mut self, samples: usize) -> Result<(), TrainError> {
        let steps = self.epoch.steps(samples);
        self.gram_arguments.samples = samples as u32;
        if steps > 1 {
            let shape = Shape::row(steps - 1, GRAM_THREADS as u32);
            // SAFETY: `gram` has room for every step of the order, checked.
            unsafe { self.gram.launch(shape, &self.gram_arguments)? };
        }
        self.epoch.enqueue(samples)
    }

    fn path(&self) -> &str {
        self.epoch.path()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_split_as_often_as_the_multiprocessors_allow() {
        let h100 = |hidden| Spread::new(hidden, 32, 132, 227 * 1024);
        let split = |hidden| h100(hidden).map(|spread| (spread.siblings, spread.blocks)).unwrap();
        assert_eq!(split(512), (4, 128));
        assert_eq!(split(528), (4, 132));
        assert_eq!(split(529), (2, 68));
        assert_eq!(split(1057), (1, 67));
        assert_eq!(split(1), (4, 4));
        assert_eq!(
            h100(2113).unwrap_err(),
            "132 multiprocessors hold up to 2112 hidden units, not 2113"
        );
    }

    #[test]
    fn consumer_devices_have_the_shared_memory_for_an_image_in_four_parts() {
        let bytes = Spread::shared_bytes(4);
        assert!(bytes <= 99 * 1024, "{bytes}");
    }

    #[test]
    fn a_device_with_too_little_shared_memory_is_refused() {
        let reason = Spread::new(512, 32, 132, 48 * 1024).unwrap_err();
        assert!(reason.contains("bytes of shared memory in a block, the device has 49152"));
    }

    #[test]
    fn batches_beyond_a_warp_of_samples_are_refused() {
        assert!(Spread::new(512, 33, 132, 227 * 1024).unwrap_err().contains("32 samples"));
    }
}
