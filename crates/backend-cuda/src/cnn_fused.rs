//! The launcher of `kernels/cnn_fused.cu`: the CNN, an epoch in one launch.

use crate::driver::{Address, Kernel, Ptx, Shape};
use crate::exchange::{BATCH_ROWS, CLASS_STRIDE, Exchange, ExchangeAddresses};
use crate::session::{FusedKernel, Place};
use nn::CONV_FILTERS;
use nn::backend::TrainError;
use std::rc::Rc;

static PTX: Ptx = Ptx { name: "cnn_fused.ptx", text: include_str!("../ptx/cnn_fused.ptx") };

// As the kernel has them.
const HALF: usize = 14;
const BLOCKS: usize = CONV_FILTERS * HALF;
const THREADS: usize = HALF * 32;
const STRIDE: usize = BATCH_ROWS + 1;
const FEATURES: usize = HALF + 1;
/// Words of a filter's gradient: nine weights and a bias.
const FILTER_WORDS: usize = 4;

/// The size of `Shared` of the kernel.
const fn shared_bytes() -> usize {
    let image = 2 * 4 * 30 * STRIDE;
    let pooled = FEATURES * STRIDE;
    let logit_delta = CLASS_STRIDE * STRIDE;
    let partial = 10 * THREADS;
    let fc = CLASS_STRIDE * 16;
    let sums = 4 * 4 * 4;
    // `sums` begins at a multiple of 16 bytes.
    let before_sums = (image + pooled + logit_delta + partial + fc).next_multiple_of(4);
    (before_sums + sums + 2 * CLASS_STRIDE).next_multiple_of(4) * 4
}

/// `CnnFused` of the kernel.
#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    images: Address,
    labels: Address,
    order: Address,
    parameters: Address,
    exchange: ExchangeAddresses,
    conv_words: Address,
    sample_loss: Address,
    samples: u32,
    batch: u32,
    steps: u32,
    first_tag: u32,
    learning_rate: f32,
}

pub(crate) struct CnnFused {
    epoch: Kernel,
    arguments: Arguments,
    capacity: usize,
    exchange: Exchange,
}

/// Why the batch size or the device rules the kernel out.
fn obstacle(batch: usize, resident_blocks: usize) -> Option<String> {
    if batch > BATCH_ROWS {
        return Some(format!("it holds up to {BATCH_ROWS} samples of a batch, not {batch}"));
    }
    (resident_blocks < BLOCKS)
        .then(|| format!("it needs {BLOCKS} blocks at a time, the device holds {resident_blocks}"))
}

impl CnnFused {
    /// Ready to train, or why the batch size or the device rules it out.
    pub(crate) fn new(place: &Place<'_>) -> Result<Result<CnnFused, String>, TrainError> {
        let (gpu, resident) = (place.gpu, place.resident);
        let limit = gpu.device().shared_bytes;
        if shared_bytes() > limit {
            let needed = shared_bytes();
            return Ok(Err(format!(
                "it needs {needed} bytes of shared memory in a block, the device has {limit}"
            )));
        }
        let module = Rc::new(gpu.load(&PTX)?);
        let epoch = module.kernel("cnn_epoch", shared_bytes())?;
        if let Some(reason) = obstacle(resident.batch, epoch.resident_blocks(THREADS)?) {
            return Ok(Err(reason));
        }
        let conv_words = 2 * BLOCKS * FILTER_WORDS;
        let exchange = Exchange::new(gpu, BLOCKS, [conv_words, 0])?;
        let arguments = Arguments {
            images: resident.images.address(),
            labels: resident.labels.address(),
            order: resident.order.address(),
            parameters: place.parameters,
            exchange: exchange.addresses(),
            conv_words: exchange.more_addresses()[0],
            sample_loss: resident.sample_loss.address(),
            samples: 0,
            batch: resident.batch as u32,
            steps: 0,
            first_tag: 0, // with each launch
            learning_rate: resident.learning_rate,
        };
        Ok(Ok(CnnFused { epoch, arguments, capacity: resident.capacity, exchange }))
    }
}

impl FusedKernel for CnnFused {
    fn enqueue(&mut self, samples: usize) -> Result<(), TrainError> {
        assert!(samples <= self.capacity);
        let steps = samples.div_ceil(self.arguments.batch as usize);
        if steps == 0 {
            return Ok(());
        }
        self.arguments.samples = samples as u32;
        self.arguments.steps = steps as u32;
        self.arguments.first_tag = self.exchange.first_tag(steps)?;
        // SAFETY: the words are as many as the blocks take, the data as `Resident` makes it, and the
        // order's indices were checked.
        unsafe { self.epoch.launch_resident(Shape::row(BLOCKS, THREADS as u32), &self.arguments) }
    }

    fn path(&self) -> String {
        format!("an epoch per launch, {BLOCKS} blocks, each with one row of one filter")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_needs_a_small_batch_and_all_its_blocks_resident() {
        assert_eq!(obstacle(32, 112), None);
        assert!(obstacle(33, 112).unwrap().contains("32 samples"));
        assert_eq!(obstacle(32, 68).unwrap(), "it needs 112 blocks at a time, the device holds 68");
    }

    #[test]
    fn two_blocks_fit_on_a_multiprocessor_with_a_hundred_kilobytes_and_more() {
        assert!(2 * (shared_bytes() + 1024) <= 163 * 1024);
    }
}
