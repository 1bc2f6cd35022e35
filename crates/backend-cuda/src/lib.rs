//! The models on NVIDIA GPUs, through the CUDA driver alone: it is loaded at run time, so that the
//! same program runs on a machine without it, where the backends are unavailable.
//!
//! [`Cuda`] has two plans. `kernels` launches a few fused kernels per step, a general path for all
//! sizes. `fused` trains all steps of a call in one launch of a persistent kernel whose blocks keep
//! their weights on the chip and exchange no more than they must; it is the default where the
//! model's sizes allow it. [`CudaGraph`] captures the steps of `kernels` once and replays them.
//!
//! The kernels are CUDA C++ in `kernels/`, compiled to PTX by NVRTC ahead of time (`ptx/`, compressed;
//! kept equal by `tests/kernels.rs`): whoever has the driver needs nothing else.
#![deny(unsafe_op_in_unsafe_fn)]

mod attention;
mod attention_fused;
mod capture;
mod cnn;
mod cnn_fused;
mod cublaslt;
mod cudnn;
mod device;
mod driver;
mod epoch;
mod exchange;
mod gpt;
mod graph;
mod kernel;
mod mlp;
mod mlp_fused;
mod persistent;
mod plan;
mod scratch;
mod session;

use cublaslt::Element;
use nn::backend::{Backend, Job, Options, Session, TrainError, Unavailable};
use plan::Plan;
use protocol::DeviceProbe;
use session::CudaSession;
use std::collections::HashSet;
use std::rc::Rc;

/// Launches kernels.
pub struct Cuda;

/// Replays captured graphs of launches.
pub struct CudaGraph;

impl Backend for Cuda {
    fn id(&self) -> &'static str {
        "cuda"
    }

    fn models(&self) -> &'static [&'static str] {
        &["mlp", "cnn", "attention", nn::gpt::ID]
    }

    fn devices(&self) -> Result<Vec<DeviceProbe>, Unavailable> {
        probe()
    }

    fn open_gpt<'data>(
        &self,
        job: nn::gpt::Job<'data>,
        options: &Options,
    ) -> Result<Box<dyn nn::gpt::Session + 'data>, TrainError> {
        let element = match options.precision.as_deref() {
            None | Some("float32") => Element::Float32,
            Some("bf16") => Element::Bf16,
            Some(other) => {
                return Err(wrong("precision", other, "cuda trains gpt in float32 and in bf16"));
            }
        };
        let plan = gpt::Plan::parse(options.plan.as_deref(), element)?;
        if let Some(several) = options.device.as_deref().filter(|names| names.contains(',')) {
            let all = device::devices()?;
            let chosen = several.split(',').map(|name| device::choose(&all, Some(name.trim())));
            let devices = chosen.collect::<Result<Vec<_>, _>>()?;
            let named: HashSet<_> = devices.iter().map(|device| device.handle).collect();
            if named.len() < devices.len() {
                return Err(wrong("device", several, "a GPU is named twice"));
            }
            return Ok(Box::new(gpt::Replicas::open(devices, job, plan)?));
        }
        let gpu = start(self.id(), options)?;
        Ok(Box::new(gpt::GptSession::open(&gpu, job, plan, None)?))
    }

    fn open<'data>(
        &self,
        job: Job<'data>,
        options: &Options,
    ) -> Result<Box<dyn Session + 'data>, TrainError> {
        let plan = match options.plan.as_deref() {
            None => Plan::Best,
            Some("fused") => Plan::Fused,
            Some("kernels") => Plan::Kernels,
            Some(other) => {
                return Err(wrong("plan", other, "cuda has the plans fused and kernels"));
            }
        };
        open(self.id(), job, options, plan)
    }
}

impl Backend for CudaGraph {
    fn id(&self) -> &'static str {
        "cudagraph"
    }

    fn compiled(&self) -> bool {
        true
    }

    fn devices(&self) -> Result<Vec<DeviceProbe>, Unavailable> {
        probe()
    }

    fn open<'data>(
        &self,
        job: Job<'data>,
        options: &Options,
    ) -> Result<Box<dyn Session + 'data>, TrainError> {
        match options.plan.as_deref() {
            None | Some("kernels") => open(self.id(), job, options, Plan::Graph),
            Some(other) => {
                Err(wrong("plan", other, "cudagraph replays the plan kernels; fused is cuda's"))
            }
        }
    }
}

fn probe() -> Result<Vec<DeviceProbe>, Unavailable> {
    Ok(device::devices()?.iter().map(device::Device::probe).collect())
}

fn open<'data>(
    backend: &'static str,
    job: Job<'data>,
    options: &Options,
    plan: Plan,
) -> Result<Box<dyn Session + 'data>, TrainError> {
    match options.precision.as_deref() {
        None | Some("float32") => {}
        Some(other) => {
            return Err(wrong("precision", other, "the CUDA kernels compute in float32"));
        }
    }
    let gpu = start(backend, options)?;
    Ok(Box::new(CudaSession::open(&gpu, job, plan)?))
}

/// The device that the options choose.
fn start(backend: &'static str, options: &Options) -> Result<Rc<driver::Gpu>, TrainError> {
    if let Some(isa) = &options.isa {
        return Err(wrong("isa", isa, "a GPU has none to choose from"));
    }
    if let Some(threads) = options.threads {
        return Err(wrong("threads", &threads.to_string(), "a GPU's are not chosen"));
    }
    let devices = device::devices()?;
    let device = device::choose(&devices, options.device.as_deref())?;
    driver::Gpu::open(backend, device)
}

fn wrong(option: &'static str, value: &str, reason: &str) -> TrainError {
    TrainError::Option { option, value: value.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mnist::Split;
    use nn::{MlpShape, Model};

    /// The first device; if there is none, the test is skipped, or fails where one is required.
    pub(crate) fn device() -> Option<device::Device> {
        let devices = device::devices();
        let skip = |reason: &Unavailable| skip::skipped_unless("TRAINMARK_REQUIRE_CUDA", reason);
        let devices = devices.inspect_err(skip).ok()?;
        Some(device::choose(&devices, None).unwrap())
    }

    fn refusal(backend: &dyn Backend, options: &Options) -> String {
        let train = Split::new(vec![0; mnist::PIXELS], vec![0]).unwrap();
        let model = Model::Mlp(MlpShape { hidden: 4 });
        let job = Job { model, batch_size: 1, learning_rate: 0.1, train: &train };
        match backend.open(job, options) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{options:?} was accepted"),
        }
    }

    #[test]
    fn options_that_cannot_be_honoured_are_errors_before_any_device_is_touched() {
        let plan = Options { plan: Some("eager".to_owned()), ..Options::default() };
        assert_eq!(refusal(&Cuda, &plan), "--plan eager: cuda has the plans fused and kernels");
        let plan = Options { plan: Some("fused".to_owned()), ..Options::default() };
        assert_eq!(
            refusal(&CudaGraph, &plan),
            "--plan fused: cudagraph replays the plan kernels; fused is cuda's"
        );
        let precision = Options { precision: Some("tf32".to_owned()), ..Options::default() };
        assert_eq!(
            refusal(&Cuda, &precision),
            "--precision tf32: the CUDA kernels compute in float32"
        );
        let threads = Options { threads: Some(2), ..Options::default() };
        assert_eq!(refusal(&Cuda, &threads), "--threads 2: a GPU's are not chosen");
        let isa = Options { isa: Some("avx2".to_owned()), ..Options::default() };
        assert_eq!(refusal(&CudaGraph, &isa), "--isa avx2: a GPU has none to choose from");
    }

    #[test]
    fn of_gpt_too_options_that_cannot_be_honoured_are_errors_before_any_device_is_touched() {
        let text = [0; 80];
        let optimiser = nn::gpt::AdamW { learning_rate: 1e-3, warmup: 1, steps: 2 };
        let shape = nn::gpt::Shape::small(65);
        let job = nn::gpt::Job { shape, batch_size: 2, optimiser, text: &text };
        let refusal = |options: Options| match Cuda.open_gpt(job, &options) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{options:?} was accepted"),
        };
        let precision = Options { precision: Some("tf32".to_owned()), ..Options::default() };
        assert_eq!(refusal(precision), "--precision tf32: cuda trains gpt in float32 and in bf16");
        let plan = Options { plan: Some("graph,fast".to_owned()), ..Options::default() };
        assert!(
            refusal(plan).starts_with("--plan graph,fast: for gpt, cuda has the words graph, ")
        );
    }

    #[test]
    fn only_the_graph_backend_is_compiled() {
        assert!(!Cuda.compiled());
        assert!(CudaGraph.compiled());
    }

    #[test]
    fn without_a_driver_both_backends_are_unavailable_and_say_so() {
        // With a driver there is a device instead; on CI there is none.
        match Cuda.devices() {
            Ok(devices) => assert!(!devices.is_empty()),
            Err(Unavailable(reason)) => {
                assert!(reason.contains("CUDA"), "{reason}");
                assert_eq!(CudaGraph.devices().unwrap_err().0, reason);
                assert_eq!(refusal(&Cuda, &Options::default()), format!("unavailable: {reason}"));
            }
        }
    }
}
