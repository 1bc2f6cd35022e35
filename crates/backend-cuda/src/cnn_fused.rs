//! The launcher of `kernels/cnn_fused.cu`: the CNN, an epoch in one launch.

use crate::driver::Address;
use crate::exchange::{BATCH_ROWS, CLASS_STRIDE, Exchange, ExchangeAddresses};
use crate::kernel::{Ptx, Shape};
use crate::persistent::Persistent;
use crate::plan::Place;
use nn::CONV_FILTERS;
use nn::backend::TrainError;
use std::rc::Rc;

static PTX: Ptx = Ptx { name: "cnn_fused.ptx", packed: include_bytes!("../ptx/cnn_fused.ptx.gz") };

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

/// `CnnFused` of the kernel, beyond `Run`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Arguments {
    exchange: ExchangeAddresses,
    conv_words: Address,
}

/// Why the batch size or the device rules the kernel out.
fn obstacle(batch: usize, resident_blocks: usize) -> Option<String> {
    if batch > BATCH_ROWS {
        return Some(format!("it holds up to {BATCH_ROWS} samples of a batch, not {batch}"));
    }
    (resident_blocks < BLOCKS)
        .then(|| format!("it needs {BLOCKS} blocks at a time, the device holds {resident_blocks}"))
}

/// Ready to train, or why the batch size or the device rules it out.
pub(crate) fn open(place: &Place<'_>) -> Result<Result<Persistent<Arguments>, String>, TrainError> {
    let (gpu, resident) = (place.gpu, place.resident);
    let limit = gpu.device().shared_bytes;
    if shared_bytes() > limit {
        let needed = shared_bytes();
        return Ok(Err(format!(
            "it needs {needed} bytes of shared memory in a block, the device has {limit}"
        )));
    }
    let module = Rc::new(gpu.load(&PTX)?);
    let kernel = module.kernel("cnn_epoch", shared_bytes())?;
    if let Some(reason) = obstacle(resident.batch, kernel.resident_blocks(THREADS)?) {
        return Ok(Err(reason));
    }
    let exchange = Exchange::new(gpu, BLOCKS, [2 * BLOCKS * FILTER_WORDS, 0])?;
    let [conv_words, _] = exchange.more_addresses();
    let arguments = Arguments { exchange: exchange.addresses(), conv_words };
    let path = format!("an epoch per launch, {BLOCKS} blocks, each with one row of one filter");
    let grid = Shape::row(BLOCKS, THREADS as u32);
    // SAFETY: the words are as many as the blocks take.
    let epoch =
        unsafe { Persistent::new(place, kernel, grid, exchange, arguments, Vec::new(), path) };
    Ok(Ok(epoch))
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
