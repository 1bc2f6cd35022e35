//! The models in candle, as fast as its own means allow on a CPU: the data as one tensor in memory,
//! a batch by one `index_select`, weights stored (in, out) so that no product needs a transposition,
//! biases of the first layers as one more row of the weights, a product that computes no gradient of
//! its input where nobody needs it, and an update in place. The GPT trains on an NVIDIA GPU too.

mod convolution;
mod gpt;
mod gpt_cuda;
mod gpt_ops;
mod graph;
mod layout;
mod ops;

use candle_core::{Device, Tensor, Var};
use kit::Program;
use mnist::PIXELS;
use nn::Parameters;
use nn::backend::{Backend, Description, Job, Options, Session, TrainError, Unavailable};
use protocol::DeviceProbe;
use std::process::ExitCode;

/// Images that are predicted at once.
const TEST_BATCH: usize = 500;

fn main() -> ExitCode {
    kit::main(&Program { name: "candle", version: "0.11.1", backends: &[&Candle, &gpt_cuda::Cuda] })
}

struct Candle;

impl Backend for Candle {
    fn id(&self) -> &'static str {
        "cpu"
    }

    fn devices(&self) -> Result<Vec<DeviceProbe>, Unavailable> {
        let detail = Some("gemm".to_owned());
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
        let threads = options.threads.unwrap_or_else(candle_core::utils::get_num_threads);
        Ok(Box::new(gpt::Training::new(job, threads)?))
    }

    fn open<'data>(
        &self,
        job: Job<'data>,
        options: &Options,
    ) -> Result<Box<dyn Session + 'data>, TrainError> {
        // candle's products take as many threads of rayon's as RAYON_NUM_THREADS says, which the kit sets.
        let threads = options.threads.unwrap_or_else(candle_core::utils::get_num_threads);
        let inputs = layout::inputs(job.model, job.train.images()).map_err(failed)?;
        let labels: Vec<u32> = job.train.labels().iter().map(|&label| label.into()).collect();
        let labels = Tensor::from_vec(labels, job.train.len(), &Device::Cpu).map_err(failed)?;
        let variables = layout::variables(&Parameters::zeros(job.model)).map_err(failed)?;
        Ok(Box::new(Training { job, threads, inputs, labels, variables }))
    }
}

/// The MNIST models.
struct Training<'data> {
    job: Job<'data>,
    threads: usize,
    inputs: Tensor, // (samples, width), see layout.rs
    labels: Tensor, // (samples), u32
    variables: Vec<Var>,
}

fn failed(error: candle_core::Error) -> TrainError {
    TrainError::Device { backend: "candle", message: error.to_string() }
}

impl Training<'_> {
    /// One step of plain SGD; returns the mean loss before it.
    fn step(&self, batch: &[u32]) -> candle_core::Result<f32> {
        let batch = Tensor::new(batch, &Device::Cpu)?;
        let inputs = self.inputs.index_select(&batch, 0)?;
        let labels = self.labels.index_select(&batch, 0)?;
        let logits = graph::logits(self.job.model, &self.variables, &inputs)?;
        let loss = graph::cross_entropy(&logits, &labels)?;
        let gradients = loss.backward()?;
        for variable in &self.variables {
            let gradient = gradients.get(variable).ok_or_else(|| {
                candle_core::Error::Msg("a parameter without a gradient".to_owned())
            })?;
            variable.inplace_op2(&gradient.contiguous()?, &ops::Descend(self.job.learning_rate))?;
        }
        loss.to_scalar()
    }
}

impl Session for Training<'_> {
    fn description(&self) -> Description {
        Description {
            device: kit::cpu_name(),
            path: "gemm, rayon".to_owned(),
            threads: Some(self.threads),
            precision: "float32",
            software: false,
        }
    }

    fn set_parameters(&mut self, parameters: &Parameters) -> Result<(), TrainError> {
        self.variables = layout::variables(parameters).map_err(failed)?;
        Ok(())
    }

    fn parameters(&mut self) -> Result<Parameters, TrainError> {
        layout::parameters(self.job.model, &self.variables).map_err(failed)
    }

    fn train(&mut self, order: &[u32], step_loss: &mut [f32]) -> Result<(), TrainError> {
        self.job.check(order, step_loss)?;
        // On one of rayon's own threads: from any other each product would wait to be taken over.
        rayon::scope(|_| {
            for (batch, loss) in order.chunks(self.job.batch_size).zip(step_loss) {
                *loss = self.step(batch).map_err(failed)?;
            }
            Ok(())
        })
    }

    fn predict(&mut self, images: &[u8], labels: &mut [u8]) -> Result<(), TrainError> {
        Job::check_images(images, labels)?;
        let batches = images.chunks(TEST_BATCH * PIXELS).zip(labels.chunks_mut(TEST_BATCH));
        for (images, labels) in batches {
            let predict = || -> candle_core::Result<Vec<f32>> {
                let inputs = layout::inputs(self.job.model, images)?;
                let logits = graph::logits(self.job.model, &self.variables, &inputs)?;
                logits.flatten_all()?.to_vec1()
            };
            let logits = predict().map_err(failed)?;
            kit::first_largest(&logits, labels);
        }
        Ok(())
    }
}
