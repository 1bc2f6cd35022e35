//! A persistent kernel, which trains all steps of a call in one launch: `Run` of
//! `kernels/exchange.cuh`, and what its launchers have in common.

use crate::driver::{Address, Buffer};
use crate::exchange::Exchange;
use crate::kernel::{Kernel, Shape};
use crate::plan::{FusedKernel, Place};
use nn::backend::TrainError;

/// `Run` of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct Run {
    images: Address,
    labels: Address,
    order: Address,
    parameters: Address,
    sample_loss: Address,
    samples: u32,
    batch: u32,
    steps: u32,
    first_tag: u32,
    learning_rate: f32,
}

/// A kernel's parameter: what every one is told, then what its model adds.
#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments<M> {
    run: Run,
    model: M,
}

/// A kernel whose blocks are all resident, and what it works on.
pub(crate) struct Persistent<M> {
    kernel: Kernel,
    shape: Shape,
    arguments: Arguments<M>,
    capacity: usize,
    exchange: Exchange,
    path: String,
    // Owned for the addresses in `arguments`.
    _buffers: Vec<Buffer<f32>>,
}

impl<M: Copy> Persistent<M> {
    /// `path` says in a few words what runs; `buffers` are kept as long as the kernel.
    ///
    /// # Safety
    /// The kernel's parameter type is `Run` and then `M`, whose first field is an address. What the
    /// addresses in `model` point to is as large as the kernel takes it to be for this shape and for
    /// any steps over the data of `place`, and lives as long as `exchange` and `buffers`.
    pub(crate) unsafe fn new(
        place: &Place<'_>,
        kernel: Kernel,
        shape: Shape,
        exchange: Exchange,
        model: M,
        buffers: Vec<Buffer<f32>>,
        path: String,
    ) -> Persistent<M> {
        let resident = place.resident;
        let run = Run {
            images: resident.images.address(),
            labels: resident.labels.address(),
            order: resident.order.address(),
            parameters: place.parameters,
            sample_loss: resident.sample_loss.address(),
            samples: 0, // with each launch
            batch: resident.batch as u32,
            steps: 0,
            first_tag: 0,
            learning_rate: resident.learning_rate,
        };
        let (arguments, capacity) = (Arguments { run, model }, resident.capacity);
        Persistent { kernel, shape, arguments, capacity, exchange, path, _buffers: buffers }
    }

    /// Of the steps over so many samples of the order.
    ///
    /// # Panics
    /// If the order is not as long.
    pub(crate) fn steps(&self, samples: usize) -> usize {
        assert!(samples <= self.capacity, "{samples} samples of {}", self.capacity);
        samples.div_ceil(self.arguments.run.batch as usize)
    }
}

impl<M: Copy> FusedKernel for Persistent<M> {
    fn enqueue(&mut self, samples: usize) -> Result<(), TrainError> {
        let steps = self.steps(samples);
        if steps == 0 {
            return Ok(());
        }
        self.arguments.run.samples = samples as u32;
        self.arguments.run.steps = steps as u32;
        self.arguments.run.first_tag = self.exchange.first_tag(steps)?;
        // SAFETY: as for `new`; the data are as `Resident` makes them, and the order's indices were
        // checked.
        unsafe { self.kernel.launch_resident(self.shape, &self.arguments) }
    }

    fn path(&self) -> &str {
        &self.path
    }
}
