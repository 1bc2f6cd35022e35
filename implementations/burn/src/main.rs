//! The models in burn: its modules, its automatic differentiation and its SGD, on burn-flex. The data is
//! one tensor in memory, a batch one `select`. The GPT trains on a GPU too.

mod gpt;
mod gpu;
mod network;
mod weights;

use burn::module::Module;
use burn::optim::{GradientsParams, ModuleOptimizer, SgdConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use kit::Program;
use mnist::PIXELS;
use network::{Network, cross_entropy};
use nn::Parameters;
use nn::backend::{Backend, Description, Job, Options, Session, TrainError, Unavailable};
use protocol::DeviceProbe;
use std::process::ExitCode;

/// Images that are predicted at once.
const TEST_BATCH: usize = 500;

fn main() -> ExitCode {
    kit::main(&Program { name: "burn", version: "0.22.1", backends: &[&Burn, &gpu::Vulkan] })
}

struct Burn;

impl Backend for Burn {
    fn id(&self) -> &'static str {
        "cpu"
    }

    fn devices(&self) -> Result<Vec<DeviceProbe>, Unavailable> {
        let detail = Some("burn-flex".to_owned());
        Ok(vec![DeviceProbe { name: kit::cpu_name(), detail, software: false }])
    }

    fn models(&self) -> &'static [&'static str] {
        &["mlp", "cnn", "attention", nn::gpt::ID]
    }

    fn open_gpt<'data>(
        &self,
        job: nn::gpt::Job<'data>,
        options: &Options,
    ) -> Result<Box<dyn nn::gpt::Session + 'data>, TrainError> {
        kit::gpt::only_float32(options)?;
        let description = Description {
            device: kit::cpu_name(),
            path: "burn-flex, gemm, rayon".to_owned(),
            threads: options.threads,
            precision: "float32",
            software: false,
        };
        Ok(Box::new(gpt::Training::new(job, Device::flex(), description)?))
    }

    fn open<'data>(
        &self,
        job: Job<'data>,
        options: &Options,
    ) -> Result<Box<dyn Session + 'data>, TrainError> {
        let device = Device::flex();
        let labels: Vec<i64> = job.train.labels().iter().map(|&label| label.into()).collect();
        Ok(Box::new(Training {
            job,
            threads: options.threads,
            images: pixels(job.train.images(), &device),
            labels: Tensor::from_data(TensorData::new(labels, [job.train.len()]), &device),
            network: weights::network(&Parameters::zeros(job.model), &device.clone().autodiff()),
            optimizer: SgdConfig::new().init(),
            device,
        }))
    }
}

/// The MNIST models.
struct Training<'data> {
    job: Job<'data>,
    threads: Option<usize>,
    /// Without automatic differentiation.
    device: Device,
    images: Tensor<2>,      // (samples, 784), 0 to 1
    labels: Tensor<1, Int>, // (samples)
    network: Network,
    optimizer: ModuleOptimizer,
}

/// Images, (count, 28, 28), as (count, 784) from 0 to 1.
fn pixels(images: &[u8], device: &Device) -> Tensor<2> {
    let values: Vec<f32> = images.iter().map(|&byte| f32::from(byte) / 255.0).collect();
    Tensor::from_data(TensorData::new(values, [images.len() / PIXELS, PIXELS]), device)
}

impl Training<'_> {
    /// One step of plain SGD; returns the mean loss before it.
    fn step(&mut self, network: Network, batch: &[u32]) -> (Network, f32) {
        let batch: Vec<i64> = batch.iter().map(|&sample| sample.into()).collect();
        let shape = [batch.len()];
        let batch = Tensor::<1, Int>::from_data(TensorData::new(batch, shape), &self.device);
        let images = self.images.clone().select(0, batch.clone());
        let labels = self.labels.clone().select(0, batch);
        let loss = cross_entropy(network.forward(images), labels);
        let gradients = GradientsParams::from_grads(loss.backward(), &network);
        let rate = f64::from(self.job.learning_rate);
        (self.optimizer.step(rate, network, gradients), loss.into_scalar())
    }
}

impl Session for Training<'_> {
    fn description(&self) -> Description {
        Description {
            device: kit::cpu_name(),
            path: "burn-flex, gemm, rayon".to_owned(),
            threads: self.threads,
            precision: "float32",
            software: false,
        }
    }

    fn set_parameters(&mut self, parameters: &Parameters) -> Result<(), TrainError> {
        self.network = weights::network(parameters, &self.device.clone().autodiff());
        self.optimizer = SgdConfig::new().init(); // it knows parameters by identities, which are new
        Ok(())
    }

    fn parameters(&mut self) -> Result<Parameters, TrainError> {
        Ok(weights::parameters(self.job.model, &self.network))
    }

    fn train(&mut self, order: &[u32], step_loss: &mut [f32]) -> Result<(), TrainError> {
        self.job.check(order, step_loss)?;
        // By value, and no clone left behind: tensors that have one owner are updated in place.
        let nothing = weights::network(&Parameters::zeros(self.job.model), &self.device);
        let mut network = std::mem::replace(&mut self.network, nothing);
        for (batch, loss) in order.chunks(self.job.batch_size).zip(step_loss) {
            (network, *loss) = self.step(network, batch);
        }
        self.network = network;
        Ok(())
    }

    fn predict(&mut self, images: &[u8], labels: &mut [u8]) -> Result<(), TrainError> {
        Job::check_images(images, labels)?;
        let network = self.network.clone().valid();
        let batches = images.chunks(TEST_BATCH * PIXELS).zip(labels.chunks_mut(TEST_BATCH));
        for (images, labels) in batches {
            let logits = network.forward(pixels(images, &self.device)).into_data();
            let logits: Vec<f32> = logits.try_to_vec().map_err(|error| TrainError::Device {
                backend: "burn",
                message: format!("{error:?}"),
            })?;
            kit::first_largest(&logits, labels);
        }
        Ok(())
    }
}
