//! The launcher of `kernels/attention_fused.cu`: the attention model, an epoch in one launch.

use crate::attention::{THREADS, arena_len, gradient_len};
use crate::driver::{Address, Buffer};
use crate::exchange::{BATCH_ROWS, Exchange};
use crate::kernel::{Ptx, Shape};
use crate::persistent::Persistent;
use crate::plan::Place;
use nn::backend::TrainError;
use nn::{AttentionShape, Model};
use std::rc::Rc;

static PTX: Ptx =
    Ptx { name: "attention_fused.ptx", packed: include_bytes!("../ptx/attention_fused.ptx.gz") };

// As the kernel has them.
const PEERS: usize = 3;
const BLOCKS: usize = BATCH_ROWS * PEERS;
const SHAPE: AttentionShape = AttentionShape { d_model: 32, ff: 64 };
const D_STRIDE: usize = 36;
const OWN_TOKENS: usize = 13_usize.div_ceil(PEERS) * 4;
const PARTS: usize = BLOCKS / 16;
const WORD_VALUES: usize = 3;
/// Elements behind the arena for what is to be dropped.
const NOWHERE_LEN: usize = 4;
/// The oldest compute capability with clusters.
const CLUSTERS: [i32; 2] = [9, 0];

/// Words of a block's slice of the parameters.
fn slice_words() -> usize {
    Model::Attention(SHAPE).parameter_count().div_ceil(BLOCKS * WORD_VALUES)
}

/// The size of `Shared` of the kernel.
fn shared_bytes() -> usize {
    let slice = slice_words() * WORD_VALUES;
    let received = 2 * PEERS * OWN_TOKENS * D_STRIDE;
    let floats = arena_len(SHAPE) + NOWHERE_LEN + received + PARTS * slice + slice;
    floats * size_of::<f32>() + slice * BLOCKS * size_of::<u16>()
}

/// `AttentionFused` of the kernel, beyond `Run`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Arguments {
    gradients: Address,
    arrived: Address,
    words: Address,
}

/// Why the sizes or the device rule the kernel out.
fn obstacle(
    shape: AttentionShape,
    batch: usize,
    capability: [i32; 2],
    shared_limit: usize,
) -> Option<String> {
    let AttentionShape { d_model, ff } = SHAPE;
    if shape != SHAPE {
        return Some(format!(
            "it is made for d_model {d_model} and ff {ff}, not {} and {}",
            shape.d_model, shape.ff
        ));
    }
    if batch > BATCH_ROWS {
        return Some(format!("it holds up to {BATCH_ROWS} samples of a batch, not {batch}"));
    }
    if capability < CLUSTERS {
        let [major, minor] = capability;
        return Some(format!("it needs compute capability 9.0, the device has {major}.{minor}"));
    }
    (shared_bytes() > shared_limit).then(|| {
        let needed = shared_bytes();
        format!(
            "it needs {needed} bytes of shared memory in a block, the device has {shared_limit}"
        )
    })
}

/// Ready to train, or why the sizes or the device rule it out.
pub(crate) fn open(
    place: &Place<'_>,
    shape: AttentionShape,
) -> Result<Result<Persistent<Arguments>, String>, TrainError> {
    let (gpu, resident) = (place.gpu, place.resident);
    let device = gpu.device();
    if let Some(reason) = obstacle(shape, resident.batch, device.capability, device.shared_bytes) {
        return Ok(Err(reason));
    }
    let module = Rc::new(gpu.load(&PTX)?);
    let kernel = module.kernel("attention_epoch", shared_bytes())?;
    let holds = kernel.resident_in_clusters(PEERS as u32, THREADS)?;
    if holds < BLOCKS {
        return Ok(Err(format!(
            "it needs {BLOCKS} blocks in clusters of {PEERS} at a time, the device holds {holds}"
        )));
    }
    let gradients: Buffer<f32> = gpu.allocate("gradients", BLOCKS * gradient_len(shape))?; // of zeros
    let exchange = Exchange::new(gpu, 0, [1, 2 * slice_words() * BLOCKS])?;
    let [arrived, words] = exchange.more_addresses();
    let arguments = Arguments { gradients: gradients.address(), arrived, words };
    let path =
        format!("an epoch per launch, {BLOCKS} blocks, {PEERS} in a cluster for each sample");
    let grid = Shape::row(BLOCKS, THREADS as u32);
    let buffers = vec![gradients];
    // SAFETY: gradients and words are as many as the blocks take.
    let epoch = unsafe { Persistent::new(place, kernel, grid, exchange, arguments, buffers, path) };
    Ok(Ok(epoch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_for_one_pair_of_widths_small_batches_and_much_shared_memory() {
        let large = 227 * 1024;
        let obstacle = |shape, batch, shared| obstacle(shape, batch, [9, 0], shared);
        assert_eq!(obstacle(SHAPE, 32, large), None);
        let other = AttentionShape { d_model: 64, ff: 100 };
        assert_eq!(
            obstacle(other, 32, large).unwrap(),
            "it is made for d_model 32 and ff 64, not 64 and 100"
        );
        assert!(obstacle(SHAPE, 33, large).unwrap().contains("32 samples"));
        assert!(obstacle(SHAPE, 32, 99 * 1024).unwrap().contains("bytes of shared memory"));
        assert_eq!(
            super::obstacle(SHAPE, 32, [8, 0], large).unwrap(),
            "it needs compute capability 9.0, the device has 8.0"
        );
    }
}
