//! The GPT on an NVIDIA GPU, by candle's own operations and their gradients: the operations of `gpt_ops.rs` are for
//! CPUs alone. Losses and the gradient's norm stay on the device, which the host waits for once a stretch of steps.
//! AdamW goes over all parameters at once, as one vector: a launch costs more than most tensors' work.
//!
//! In bf16 the operands of products are bfloat16; parameters, moments and everything between products are float32.

use crate::graph::{cross_entropy, softmax};
use candle_core::{D, DType, Device, Error, Result, Tensor, Var};
use kit::gpt::{failed, filled, windows};
use nn::backend::{Backend, Description, Options, TrainError, Unavailable};
use nn::gpt::optimiser::{BETA1, BETA2, CLIP, CLIP_EPSILON, EPSILON, WEIGHT_DECAY};
use nn::gpt::{self, Decay, Job, LAYER_NORM_EPSILON, Session, Shape, State};
use protocol::DeviceProbe;

/// candle on an NVIDIA GPU, where it is built with the feature `cuda`.
pub struct Cuda;

impl Cuda {
    fn device() -> std::result::Result<Device, Unavailable> {
        if !cfg!(feature = "cuda") {
            let reason = "candle is built without CUDA: its feature `cuda` needs nvcc";
            return Err(Unavailable(reason.to_owned()));
        }
        Device::new_cuda(0).map_err(|error| Unavailable(error.to_string()))
    }
}

#[cfg(feature = "cuda")]
fn name(device: &Device) -> Option<String> {
    device.as_cuda_device().ok()?.cuda_stream().context().name().ok()
}

#[cfg(not(feature = "cuda"))]
fn name(_: &Device) -> Option<String> {
    None
}

fn device_name(device: &Device) -> String {
    name(device).unwrap_or_else(|| "CUDA device 0".to_owned())
}

impl Backend for Cuda {
    fn id(&self) -> &'static str {
        "cuda"
    }

    fn devices(&self) -> std::result::Result<Vec<DeviceProbe>, Unavailable> {
        let name = device_name(&Cuda::device()?);
        Ok(vec![DeviceProbe { name, detail: Some("cuBLAS".to_owned()), software: false }])
    }

    fn models(&self) -> &'static [&'static str] {
        &[gpt::ID]
    }

    fn open_gpt<'data>(
        &self,
        job: Job<'data>,
        options: &Options,
    ) -> std::result::Result<Box<dyn Session + 'data>, TrainError> {
        let precision = match options.precision.as_deref().unwrap_or("float32") {
            "float32" => "float32",
            "tf32" => "tf32",
            "bf16" => "bf16",
            other => {
                let reason = "it computes in float32, tf32 or bf16".to_owned();
                let value = other.to_owned();
                return Err(TrainError::Option { option: "precision", value, reason });
            }
        };
        candle_core::cuda::set_gemm_reduced_precision_f32(precision == "tf32");
        Ok(Box::new(Training::new(job, Cuda::device()?, precision)?))
    }

    fn open<'data>(
        &self,
        _job: nn::backend::Job<'data>,
        _options: &Options,
    ) -> std::result::Result<Box<dyn nn::backend::Session + 'data>, TrainError> {
        Err(Unavailable("candle trains the model gpt alone on a GPU".to_owned()).into())
    }
}

/// All parameters one after the other, as in a [`State`], and what AdamW keeps of them.
struct Flat {
    parameters: Tensor,
    moments: [Tensor; 2],
    /// 1 where a parameter decays, else 0.
    decays: Tensor,
}

struct Training<'data> {
    job: Job<'data>,
    device: Device,
    precision: &'static str,
    steps: u64,
    flat: Flat,
    /// The parameters in their shapes, which are differentiated.
    learnt: Vec<Var>,
}

fn flat(state: &State, device: &Device) -> Result<Flat> {
    let vector = |values: &[f32]| Tensor::new(values, device);
    let decays = state.tensors().iter().flat_map(|tensor| {
        let decays = if tensor.decay() == Decay::Matrix { 1.0_f32 } else { 0.0 };
        std::iter::repeat_n(decays, tensor.len())
    });
    Ok(Flat {
        parameters: vector(&state.parameters)?,
        moments: [vector(&state.first_moment)?, vector(&state.second_moment)?],
        decays: vector(&decays.collect::<Vec<f32>>())?,
    })
}

fn learnt(state: &State, flat: &Flat) -> Result<Vec<Var>> {
    let tensors = state.tensors().iter();
    tensors
        .map(|tensor| {
            let part = flat.parameters.narrow(0, tensor.offset, tensor.len())?;
            Var::from_tensor(&part.reshape(tensor.shape.as_slice())?)
        })
        .collect()
}

/// `(x - mean) / sqrt(variance + epsilon) * weight` of each row.
fn layer_norm(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normal = centred.broadcast_div(&(variance + LAYER_NORM_EPSILON)?.sqrt()?)?;
    normal.broadcast_mul(weight)
}

impl<'data> Training<'data> {
    fn new(
        job: Job<'data>,
        device: Device,
        precision: &'static str,
    ) -> std::result::Result<Training<'data>, TrainError> {
        job.check()?;
        let state = State::zeros(job.shape);
        let placed = flat(&state, &device).and_then(|flat| {
            let learnt = learnt(&state, &flat)?;
            Ok((flat, learnt))
        });
        let (flat, learnt) = placed.map_err(|it| failed("candle", it))?;
        Ok(Training { job, device, precision, steps: 0, flat, learnt })
    }

    /// `x weight^T`, in float32 if its operands are.
    fn linear(&self, x: &Tensor, weight: &Var) -> Result<Tensor> {
        self.coarse(x)?.matmul(&self.coarse(weight)?.t()?)
    }

    /// As an operand of a product.
    fn coarse(&self, x: &Tensor) -> Result<Tensor> {
        x.to_dtype(if self.precision == "bf16" { DType::BF16 } else { DType::F32 })
    }

    /// The rows of the token embeddings, as a product: the gradient of `index_select` adds one row after the other.
    fn embedding(&self, tokens: Vec<u32>) -> Result<Tensor> {
        let rows = tokens.len();
        let tokens = Tensor::from_vec(tokens, (rows, 1), &self.device)?;
        let all = Tensor::arange(0, self.job.shape.vocabulary as u32, &self.device)?;
        let chosen = tokens.broadcast_eq(&all.unsqueeze(0)?)?.to_dtype(DType::F32)?;
        chosen.matmul(&self.learnt[0])
    }

    /// 0 up to the diagonal, minus infinity after it: (context, context).
    fn mask(&self) -> Result<Tensor> {
        let context = self.job.shape.context;
        let hidden = |at: usize| if at % context > at / context { f32::NEG_INFINITY } else { 0.0 };
        let mask: Vec<f32> = (0..context * context).map(hidden).collect();
        Tensor::from_vec(mask, (context, context), &self.device)
    }

    /// The logits, (batch * context, vocabulary), of tokens, (batch * context).
    fn logits(&self, tokens: Vec<u32>, mask: &Tensor) -> Result<Tensor> {
        let Shape { layers, heads, width, context, .. } = self.job.shape;
        let rows = tokens.len();
        let batch = rows / context;
        let x = self.embedding(tokens)?.reshape((batch, context, width))?;
        let mut x = x.broadcast_add(&self.learnt[1])?.reshape((rows, width))?;
        let scale = 1.0 / ((width / heads) as f64).sqrt();
        for layer in 0..layers {
            let of = |place: usize| &self.learnt[2 + 6 * layer + place];
            let qkv = self.linear(&layer_norm(&x, of(0))?, of(1))?;
            let qkv = qkv.reshape((batch, context, 3, heads, width / heads))?;
            let part = |index: usize| -> Result<Tensor> {
                let part = qkv.narrow(2, index, 1)?.squeeze(2)?; // (batch, context, heads, ...)
                part.transpose(1, 2)?.contiguous()
            };
            let (query, key, value) = (part(0)?, part(1)?, part(2)?);
            let scores = (query.matmul(&key.t()?)?.to_dtype(DType::F32)? * scale)?;
            let weights = softmax(&scores.broadcast_add(mask)?)?;
            let mixed = self.coarse(&weights)?.matmul(&value)?;
            let mixed = mixed.transpose(1, 2)?.contiguous()?.reshape((rows, width))?;
            x = (x + self.linear(&mixed, of(2))?.to_dtype(DType::F32)?)?;
            let hidden = self.linear(&layer_norm(&x, of(3))?, of(4))?.to_dtype(DType::F32)?;
            x = (x + self.linear(&hidden.gelu()?, of(5))?.to_dtype(DType::F32)?)?;
        }
        let last = &self.learnt[self.learnt.len() - 1];
        self.linear(&layer_norm(&x, last)?, &self.learnt[0])?.to_dtype(DType::F32)
    }

    /// One step; returns the mean loss before it, on the device.
    fn step(&mut self, starts: &[u32], mask: &Tensor) -> Result<Tensor> {
        let [inputs, targets] = windows(&self.job, starts);
        let rows = targets.len();
        let targets = Tensor::from_vec(targets, rows, &self.device)?;
        let loss = cross_entropy(&self.logits(inputs, mask)?, &targets)?;
        let mut store = loss.backward()?;
        let mut gradients = Vec::with_capacity(self.learnt.len());
        for variable in &self.learnt {
            let gradient = store.remove(variable);
            let gradient =
                gradient.ok_or_else(|| Error::Msg("a parameter without a gradient".to_owned()))?;
            gradients.push(gradient.flatten_all()?);
        }
        self.descend(Tensor::cat(&gradients, 0)?)?;
        self.steps += 1;
        Ok(loss.detach())
    }

    /// Clips the gradient of all parameters, and takes a step of AdamW.
    fn descend(&mut self, gradient: Tensor) -> Result<()> {
        let Flat { parameters, moments: [first, second], decays } = &self.flat;
        let norm = gradient.sqr()?.sum_all()?.sqrt()?;
        let shortened = ((norm + CLIP_EPSILON)?.recip()? * CLIP)?.minimum(1.0)?;
        let gradient = gradient.broadcast_mul(&shortened)?;
        let numbers = self.job.optimiser.step(self.steps);
        let first = ((first * BETA1)? + (&gradient * (1.0 - BETA1))?)?;
        let second = ((second * BETA2)? + (gradient.sqr()? * (1.0 - BETA2))?)?;
        let root = (second.sqrt()? * (1.0 / numbers.correction2.sqrt()))?;
        let moved = ((&first * (numbers.rate / numbers.correction1))? / (root + EPSILON)?)?;
        let kept = decays.affine(-numbers.rate * WEIGHT_DECAY, 1.0)?;
        let parameters = ((parameters * kept)? - moved)?;
        for (variable, tensor) in self.learnt.iter().zip(self.job.shape.tensors()) {
            variable.set(
                &parameters
                    .narrow(0, tensor.offset, tensor.len())?
                    .reshape(tensor.shape.as_slice())?,
            )?;
        }
        let decays = decays.clone();
        self.flat = Flat { parameters, moments: [first, second], decays };
        Ok(())
    }

    fn train_all(&mut self, starts: &[u32]) -> Result<Vec<f32>> {
        let mask = self.mask()?;
        let batches = starts.chunks(self.job.batch_size);
        let losses: Result<Vec<Tensor>> = batches.map(|batch| self.step(batch, &mask)).collect();
        let losses = Tensor::stack(&losses?, 0)?.to_vec1()?;
        self.device.synchronize()?; // the last step's update too
        Ok(losses)
    }
}

impl Session for Training<'_> {
    fn description(&self) -> Description {
        Description {
            device: device_name(&self.device),
            path: "candle's operations, cuBLAS".to_owned(),
            threads: None,
            precision: self.precision,
            software: false,
        }
    }

    fn set_state(&mut self, state: &State) -> std::result::Result<(), TrainError> {
        state.check_shape(self.job.shape)?;
        self.flat = flat(state, &self.device).map_err(|it| failed("candle", it))?;
        self.learnt = learnt(state, &self.flat).map_err(|it| failed("candle", it))?;
        self.steps = state.steps;
        Ok(())
    }

    fn state(&mut self) -> std::result::Result<State, TrainError> {
        let values = |tensor: &Tensor| tensor.to_vec1().map_err(|it| failed("candle", it));
        let mut state = State::zeros(self.job.shape);
        state.steps = self.steps;
        state.parameters = values(&self.flat.parameters)?;
        state.first_moment = values(&self.flat.moments[0])?;
        state.second_moment = values(&self.flat.moments[1])?;
        Ok(state)
    }

    fn train(
        &mut self,
        starts: &[u32],
        step_loss: &mut [f32],
    ) -> std::result::Result<(), TrainError> {
        self.job.check_starts(starts, step_loss)?;
        let losses = self.train_all(starts).map_err(|it| failed("candle", it))?;
        step_loss.copy_from_slice(&losses);
        Ok(())
    }

    fn predict(
        &mut self,
        tokens: &[u16],
        logits: &mut [f32],
    ) -> std::result::Result<(), TrainError> {
        self.job.check_prediction(tokens, logits)?;
        if tokens.is_empty() {
            return Ok(());
        }
        let (all, _) = filled(&self.job.shape, tokens);
        let found = self.mask().and_then(|mask| self.logits(all, &mask)?.flatten_all()?.to_vec1());
        let found: Vec<f32> = found.map_err(|it| failed("candle", it))?;
        logits.copy_from_slice(&found[..logits.len()]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nn::gpt::{AdamW, recipe};

    #[test]
    fn on_a_cpu_they_take_the_same_steps_as_the_operations_for_cpus() {
        let text: Vec<u16> = (0..400_u32).map(|at| (at * at % 11) as u16).collect();
        let shape = Shape { layers: 2, heads: 2, width: 16, context: 8, vocabulary: 11 };
        let optimiser = AdamW { learning_rate: 1e-3, warmup: 3, steps: 10 };
        let job = Job { shape, batch_size: 4, optimiser, text: &text };
        let mut initial = State::zeros(shape);
        recipe::initialise(&mut initial, 1);
        let mut starts = vec![0; 40];
        recipe::windows(&mut starts, 1, 0, 4, text.len() - shape.context);
        let trained = |session: &mut dyn Session| {
            let mut losses = [0.0; 10];
            session.set_state(&initial).unwrap();
            session.train(&starts, &mut losses).unwrap();
            (losses, session.state().unwrap())
        };
        let (expected, of_cpu) = trained(&mut crate::gpt::Training::new(job, 1).unwrap());
        for (precision, tolerance) in [("float32", 2e-3), ("bf16", 0.3)] {
            let mut session = Training::new(job, Device::Cpu, precision).unwrap();
            let (losses, state) = trained(&mut session);
            for (loss, expected) in losses.iter().zip(expected) {
                assert!(
                    f64::from(loss - expected).abs() < tolerance * 0.01,
                    "{precision}: {loss} {expected}"
                );
            }
            let distance = |a: &[f32], b: &[f32]| -> f64 {
                a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
            };
            for (found, expected, from) in [
                (&state.parameters, &of_cpu.parameters, &initial.parameters),
                (&state.first_moment, &of_cpu.first_moment, &initial.first_moment),
                (&state.second_moment, &of_cpu.second_moment, &initial.second_moment),
            ] {
                let error = distance(found, expected) / distance(expected, from);
                assert!(error < tolerance, "{precision}: {error}");
            }
        }
    }
}
