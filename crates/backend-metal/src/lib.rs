//! The models on Apple's GPUs: [`Mps`] with the products of Metal Performance Shaders and own
//! kernels for the rest, [`MpsGraph`] with a whole training step as one compiled graph.
//!
//! On any other system both are unavailable. What can be told without a Mac is told there all the
//! same: the plan of a step is data (buffers, shapes, the order of commands; nodes of a graph), and
//! the tests carry it out on what there is and hold it to the float64 reference. For `mps` that is
//! any Vulkan device, software ones among them, which runs the same kernels; for `mpsgraph` an
//! evaluator with its own derivatives. Only `apple`, a thin layer, hands the plans to Metal.
//!
//! `docs/metal.md` says how to prove and measure it on a Mac.
#![deny(unsafe_code)]

#[cfg(any(test, target_os = "macos"))]
mod graph;
#[cfg(any(test, target_os = "macos"))]
mod job;
#[cfg(any(test, target_os = "macos"))]
mod mps;
#[cfg(any(test, target_os = "macos"))]
mod seen;

#[cfg(target_os = "macos")]
mod apple;
#[cfg(all(test, target_os = "macos"))]
mod device_tests;

use nn::backend::{Backend, Job, Options, Session, TrainError, Unavailable};
use protocol::DeviceProbe;

/// The products of Metal Performance Shaders, and own kernels.
pub struct Mps;

/// A whole step as one compiled graph.
pub struct MpsGraph;

impl Backend for Mps {
    fn id(&self) -> &'static str {
        "mps"
    }

    fn devices(&self) -> Result<Vec<DeviceProbe>, Unavailable> {
        devices()
    }

    #[cfg(target_os = "macos")]
    fn open<'data>(
        &self,
        job: Job<'data>,
        options: &Options,
    ) -> Result<Box<dyn Session + 'data>, TrainError> {
        job::check(&job, options)?;
        let make = |buffers: &mps::plan::Buffers| apple::mps::Metal::open(options, buffers);
        Ok(Box::new(mps::session::MpsSession::open(job, make)?))
    }

    #[cfg(not(target_os = "macos"))]
    fn open<'data>(
        &self,
        _job: Job<'data>,
        _options: &Options,
    ) -> Result<Box<dyn Session + 'data>, TrainError> {
        Err(elsewhere().into())
    }
}

impl Backend for MpsGraph {
    fn id(&self) -> &'static str {
        "mpsgraph"
    }

    fn compiled(&self) -> bool {
        true
    }

    fn devices(&self) -> Result<Vec<DeviceProbe>, Unavailable> {
        new_enough()?;
        devices()
    }

    #[cfg(target_os = "macos")]
    fn open<'data>(
        &self,
        job: Job<'data>,
        options: &Options,
    ) -> Result<Box<dyn Session + 'data>, TrainError> {
        job::check(&job, options)?;
        new_enough()?;
        let device = apple::graph::Metal::open(options)?;
        Ok(Box::new(graph::session::GraphSession::open(job, device)?))
    }

    #[cfg(not(target_os = "macos"))]
    fn open<'data>(
        &self,
        _job: Job<'data>,
        _options: &Options,
    ) -> Result<Box<dyn Session + 'data>, TrainError> {
        Err(elsewhere().into())
    }
}

#[cfg(target_os = "macos")]
fn devices() -> Result<Vec<DeviceProbe>, Unavailable> {
    use objc2_metal::MTLDevice;
    let probe = |device: apple::gpu::DeviceObject| DeviceProbe {
        name: device.name().to_string(),
        detail: Some("Metal".to_owned()),
        software: false,
    };
    Ok(apple::gpu::devices()?.into_iter().map(probe).collect())
}

/// Whether the system's `MPSGraph` has all that is called: what it lacks would end the process.
#[cfg(target_os = "macos")]
fn new_enough() -> Result<(), Unavailable> {
    if objc2::available!(macos = 13.0) {
        return Ok(());
    }
    Err(Unavailable("needs macOS 13 or later".to_owned()))
}

#[cfg(not(target_os = "macos"))]
fn new_enough() -> Result<(), Unavailable> {
    Err(elsewhere())
}

#[cfg(not(target_os = "macos"))]
fn devices() -> Result<Vec<DeviceProbe>, Unavailable> {
    Err(elsewhere())
}

#[cfg(not(target_os = "macos"))]
fn elsewhere() -> Unavailable {
    Unavailable("needs macOS with Metal".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_graph_backend_is_compiled() {
        assert!(!Mps.compiled());
        assert!(MpsGraph.compiled());
    }

    #[test]
    #[cfg(not(target_os = "macos"))]
    fn on_other_systems_both_are_unavailable_and_say_what_they_need() {
        let train = mnist::Split::new(vec![0; mnist::PIXELS], vec![0]).unwrap();
        let model = nn::Model::Cnn;
        let job = Job { model, batch_size: 1, learning_rate: 0.1, train: &train };
        let backends: [&dyn Backend; 2] = [&Mps, &MpsGraph];
        for backend in backends {
            assert_eq!(backend.devices().unwrap_err().0, "needs macOS with Metal");
            match backend.open(job, &Options::default()) {
                Err(error) => assert_eq!(error.to_string(), "unavailable: needs macOS with Metal"),
                Ok(_) => panic!("{} was opened", backend.id()),
            }
        }
    }
}
