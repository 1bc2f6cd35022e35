//! The launcher of `kernels/mlp_fused.cu`: the MLP, an epoch in one launch.

use crate::driver::{Address, Buffer, Kernel, Ptx, Shape};
use crate::exchange::{BATCH_ROWS, CLASS_STRIDE, Exchange, ExchangeAddresses};
use crate::session::{FusedKernel, Place};
use mnist::{CLASSES, PIXELS};
use nn::MlpShape;
use nn::backend::TrainError;
use std::rc::Rc;

static PTX: Ptx = Ptx { name: "mlp_fused.ptx", text: include_str!("../ptx/mlp_fused.ptx") };

// As the kernels have them.
const UNITS: usize = 4;
const COMPUTE_WARPS: usize = 7;
const EXCHANGE_WARPS: usize = 8;
const THREADS: usize = (COMPUTE_WARPS + EXCHANGE_WARPS) * 32;
const GRAM_THREADS: usize = 256;
const GRAM_SHARED_BYTES: usize = 2 * BATCH_ROWS * PIXELS;

/// How the hidden units are spread over the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spread {
    /// Sets of four units that a block owns: 1 or 2.
    sets: usize,
    blocks: usize,
    shared_bytes: usize,
}

impl Spread {
    /// `Shared` of the kernels.
    fn shared_bytes(sets: usize) -> usize {
        let units = sets * UNITS;
        let pixels = 3 * BATCH_ROWS * PIXELS;
        let gram = 2 * BATCH_ROWS * (BATCH_ROWS + 4);
        let product = 2 * COMPUTE_WARPS * units * BATCH_ROWS;
        let delta = 2 * units * BATCH_ROWS;
        let hidden = 2 * BATCH_ROWS * units;
        let logit_delta = 2 * BATCH_ROWS * CLASS_STRIDE;
        let weight2 = CLASSES * units;
        let biases = 2 * units + CLASS_STRIDE;
        let sums = EXCHANGE_WARPS * CLASS_STRIDE;
        let floats = gram + product + delta + hidden + logit_delta + weight2 + biases + sums;
        pixels + 4 * floats
    }

    /// One block on each multiprocessor at most: they wait for each other.
    fn new(
        hidden: usize,
        batch: usize,
        multiprocessors: usize,
        shared_limit: usize,
    ) -> Result<Spread, String> {
        if batch > BATCH_ROWS {
            return Err(format!("it holds up to {BATCH_ROWS} samples of a batch, not {batch}"));
        }
        let sets = hidden.div_ceil(UNITS * multiprocessors).max(1);
        if sets > 2 {
            let most = 2 * UNITS * multiprocessors;
            return Err(format!(
                "{multiprocessors} multiprocessors hold up to {most} hidden units, not {hidden}"
            ));
        }
        let shared_bytes = Spread::shared_bytes(sets);
        if shared_bytes > shared_limit {
            return Err(format!(
                "it needs {shared_bytes} bytes of shared memory in a block, the device has \
                 {shared_limit}"
            ));
        }
        Ok(Spread { sets, blocks: hidden.div_ceil(UNITS * sets), shared_bytes })
    }
}

/// `MlpFused` of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    images: Address,
    labels: Address,
    order: Address,
    parameters: Address,
    gram: Address,
    exchange: ExchangeAddresses,
    sample_loss: Address,
    samples: u32,
    batch: u32,
    hidden_units: u32,
    steps: u32,
    first_tag: u32,
    learning_rate: f32,
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
    epoch: Kernel,
    gram: Kernel,
    arguments: Arguments,
    spread: Spread,
    capacity: usize,
    // Owned for the addresses in `arguments`.
    _gram: Buffer<f32>,
    exchange: Exchange,
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
        let exchange = Exchange::new(gpu, spread.blocks)?;
        let arguments = Arguments {
            images: resident.images.address(),
            labels: resident.labels.address(),
            order: resident.order.address(),
            parameters: place.parameters,
            gram: gram.address(),
            exchange: exchange.addresses(),
            sample_loss: resident.sample_loss.address(),
            samples: 0,
            batch: resident.batch as u32,
            hidden_units: shape.hidden as u32,
            steps: 0,
            first_tag: 0, // with each launch
            learning_rate: resident.learning_rate,
        };
        let name = if spread.sets == 1 { "mlp_epoch_4" } else { "mlp_epoch_8" };
        Ok(Ok(MlpFused {
            epoch: module.kernel(name, spread.shared_bytes)?,
            gram: module.kernel("mlp_gram", GRAM_SHARED_BYTES)?,
            arguments,
            spread,
            capacity: resident.capacity,
            _gram: gram,
            exchange,
        }))
    }
}

impl FusedKernel for MlpFused {
    fn enqueue(&mut self, samples: usize) -> Result<(), TrainError> {
        assert!(samples <= self.capacity);
        let steps = samples.div_ceil(self.arguments.batch as usize);
        if steps == 0 {
            return Ok(());
        }
        self.arguments.samples = samples as u32;
        self.arguments.steps = steps as u32;
        self.arguments.first_tag = self.exchange.first_tag(steps)?;
        let Arguments { images, order, gram, samples, batch, .. } = self.arguments;
        if steps > 1 {
            let arguments = GramArguments { images, order, gram, samples, batch };
            let shape = Shape::row(steps - 1, GRAM_THREADS as u32);
            // SAFETY: `gram` has room for every step of `capacity` samples, checked.
            unsafe { self.gram.launch(shape, &arguments)? };
        }
        let shape = Shape::row(self.spread.blocks, THREADS as u32);
        // SAFETY: the words are as many as the blocks take, the data as `Resident` makes it, and the
        // order's indices were checked.
        unsafe { self.epoch.launch_resident(shape, &self.arguments)? };
        Ok(())
    }

    fn path(&self) -> String {
        format!(
            "an epoch per launch, {} blocks of {} hidden units, float32 as three exact bf16 on \
             tensor cores",
            self.spread.blocks,
            self.spread.sets * UNITS
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_units_are_spread_over_all_multiprocessors_before_a_block_gets_more() {
        let h100 = |hidden| Spread::new(hidden, 32, 132, 227 * 1024);
        let spread = h100(512).unwrap();
        assert_eq!((spread.sets, spread.blocks), (1, 128));
        let spread = h100(529).unwrap();
        assert_eq!((spread.sets, spread.blocks), (2, 67));
        let spread = h100(1).unwrap();
        assert_eq!((spread.sets, spread.blocks), (1, 1));
        assert_eq!(
            h100(1057).unwrap_err(),
            "132 multiprocessors hold up to 1056 hidden units, not 1057"
        );
    }

    #[test]
    fn shared_memory_of_four_units_fits_consumer_devices_and_of_eight_does_not() {
        assert!(Spread::shared_bytes(1) <= 99 * 1024);
        let reason = Spread::new(512, 32, 84, 99 * 1024).unwrap_err();
        assert!(reason.contains("bytes of shared memory in a block, the device has 101376"));
    }

    #[test]
    fn batches_beyond_a_warp_of_samples_are_refused() {
        assert!(Spread::new(512, 33, 132, 227 * 1024).unwrap_err().contains("32 samples"));
    }
}
