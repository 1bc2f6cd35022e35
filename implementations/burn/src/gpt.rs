//! A GPT in burn: its tensors, automatic differentiation and AdamW, on burn-flex or a GPU. Weights are tensors of
//! our own and no module's, since burn clips each parameter's gradient by itself and not all by one norm. Linear
//! weights are (in, out), as burn's layers have them. Losses and the norm stay on the device, which is waited for
//! once a stretch of steps.

use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer};
use burn::tensor::activation::{gelu_approximate, log_softmax, softmax};
use burn::tensor::module::{embedding, layer_norm};
use burn::tensor::{Device, Int, Tensor, TensorData};
use kit::gpt::{failed, filled, windows};
use kit::transposed;
use nn::backend::{Description, TrainError};
use nn::gpt::optimiser::{BETA1, BETA2, CLIP, CLIP_EPSILON, EPSILON, WEIGHT_DECAY};
use nn::gpt::{Job, LAYER_NORM_EPSILON, Session, Shape, State};

/// A tensor and its moments, without automatic differentiation.
struct Held<const D: usize> {
    tensor: Tensor<D>,
    state: AdamWState<D>,
}

enum Learnt {
    Matrix(Held<2>),
    Vector(Held<1>),
}

/// A weight in a forward pass.
enum Weight {
    Matrix(Tensor<2>),
    Vector(Tensor<1>),
}

impl Weight {
    fn matrix(&self) -> Tensor<2> {
        match self {
            Weight::Matrix(tensor) => tensor.clone(),
            Weight::Vector(_) => unreachable!("a vector where the model has a matrix"),
        }
    }

    fn vector(&self) -> Tensor<1> {
        match self {
            Weight::Vector(tensor) => tensor.clone(),
            Weight::Matrix(_) => unreachable!("a matrix where the model has a vector"),
        }
    }
}

pub struct Training<'data> {
    job: Job<'data>,
    description: Description,
    device: Device,
    steps: u64,
    learnt: Vec<Learnt>, // in the order of the shape's tensors
    /// Of matrices and of vectors.
    optimizers: [AdamW; 2],
}

/// Of a tensor by its name: whether it is a linear layer's, which is stored transposed.
fn is_linear(name: &str) -> bool {
    name.contains(".c_")
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn values<const D: usize>(tensor: &Tensor<D>) -> Result<Vec<f32>, TrainError> {
    tensor.to_data().try_to_vec().map_err(|error| failed("burn", format!("{error:?}")))
}

fn learnt(state: &State, device: &Device) -> Vec<Learnt> {
    let time = state.steps as usize;
    let tensors = state.tensors().iter();
    tensors
        .map(|it| {
            let parts = [&state.parameters, &state.first_moment, &state.second_moment];
            let parts = parts.map(|values| values[it.range()].to_vec());
            match it.shape[..] {
                [out, inner] if is_linear(&it.name) => {
                    let parts = parts.map(|values| transposed(&values, inner));
                    Learnt::Matrix(held(parts, [inner, out], time, device))
                }
                [rows, columns] => Learnt::Matrix(held(parts, [rows, columns], time, device)),
                _ => Learnt::Vector(held(parts, [it.len()], time, device)),
            }
        })
        .collect()
}

fn held<const D: usize>(
    parts: [Vec<f32>; 3],
    shape: [usize; D],
    time: usize,
    device: &Device,
) -> Held<D> {
    let [own, first, second] = parts.map(|values| tensor(values, shape, device));
    Held { tensor: own, state: AdamWState::new(AdaptiveMomentumState::new(time, first, second)) }
}

impl<'data> Training<'data> {
    pub fn new(
        job: Job<'data>,
        device: Device,
        description: Description,
    ) -> Result<Training<'data>, TrainError> {
        job.check()?;
        let adamw = |decay: f64| {
            let config = AdamWConfig::new().with_beta_1(BETA1 as f32).with_beta_2(BETA2 as f32);
            config.with_epsilon(EPSILON as f32).with_weight_decay(decay as f32).build()
        };
        let learnt = learnt(&State::zeros(job.shape), &device);
        let optimizers = [adamw(WEIGHT_DECAY), adamw(0.0)];
        Ok(Training { job, description, device, steps: 0, learnt, optimizers })
    }

    fn indices<const D: usize>(&self, tokens: &[u32], shape: [usize; D]) -> Tensor<D, Int> {
        let tokens: Vec<i64> = tokens.iter().map(|&token| token.into()).collect();
        Tensor::from_data(TensorData::new(tokens, shape), &self.device)
    }

    /// 0 up to the diagonal, minus infinity after it: (context, context).
    fn mask(&self) -> Tensor<2> {
        let context = self.job.shape.context;
        let hidden = |at: usize| if at % context > at / context { f32::NEG_INFINITY } else { 0.0 };
        tensor((0..context * context).map(hidden).collect(), [context, context], &self.device)
    }

    /// The logits, (batch * context, vocabulary), of tokens, (batch * context).
    fn logits(&self, weights: &[Weight], tokens: &[u32]) -> Tensor<2> {
        let mask = self.mask();
        let Shape { layers, heads, width, context, .. } = self.job.shape;
        let (rows, batch) = (tokens.len(), tokens.len() / context);
        let norm = |x: &Tensor<2>, weight: &Weight| {
            layer_norm(x.clone(), weight.vector(), None, LAYER_NORM_EPSILON)
        };
        let tokens = self.indices(tokens, [batch, context]);
        let x = embedding(weights[0].matrix(), tokens) + weights[1].matrix().unsqueeze();
        let mut x: Tensor<2> = x.reshape([rows, width]);
        for layer in 0..layers {
            let of = |place: usize| &weights[2 + 6 * layer + place];
            let qkv = norm(&x, of(0)).matmul(of(1).matrix());
            let mut parts = qkv
                .chunk(3, 1)
                .into_iter()
                .map(|part| part.reshape([batch, context, heads, width / heads]).swap_dims(1, 2));
            let mut next = || parts.next().expect("three chunks of three widths");
            let (query, key, value) = (next(), next(), next());
            let scale = 1.0 / ((width / heads) as f64).sqrt();
            let scores = query.matmul(key.swap_dims(2, 3)) * scale + mask.clone().unsqueeze();
            let mixed = softmax(scores, 3).matmul(value).swap_dims(1, 2).reshape([rows, width]);
            x = x + mixed.matmul(of(2).matrix());
            let hidden = norm(&x, of(3)).matmul(of(4).matrix());
            x = x + gelu_approximate(hidden).matmul(of(5).matrix());
        }
        norm(&x, &weights[weights.len() - 1]).matmul(weights[0].matrix().transpose())
    }

    /// One step; returns the mean loss before it, on the device.
    fn step(&mut self, starts: &[u32]) -> Tensor<1> {
        let [inputs, targets] = windows(&self.job, starts);
        let weights: Vec<Weight> = self
            .learnt
            .iter()
            .map(|learnt| match learnt {
                Learnt::Matrix(it) => {
                    Weight::Matrix(Tensor::from_inner(it.tensor.clone()).require_grad())
                }
                Learnt::Vector(it) => {
                    Weight::Vector(Tensor::from_inner(it.tensor.clone()).require_grad())
                }
            })
            .collect();
        let targets = self.indices(&targets, [targets.len()]);
        let logits = self.logits(&weights, &inputs);
        let right = log_softmax(logits, 1).gather(1, targets.unsqueeze_dim(1));
        let loss = right.mean().neg();
        let gradients = loss.backward();
        let gradients: Vec<Weight> = weights
            .iter()
            .map(|weight| match weight {
                Weight::Matrix(it) => {
                    Weight::Matrix(it.grad(&gradients).expect("every weight is used"))
                }
                Weight::Vector(it) => {
                    Weight::Vector(it.grad(&gradients).expect("every weight is used"))
                }
            })
            .collect();
        let squares = gradients.iter().map(|gradient| match gradient {
            Weight::Matrix(it) => it.clone().square().sum(),
            Weight::Vector(it) => it.clone().square().sum(),
        });
        let norm = Tensor::cat(squares.collect(), 0).sum().sqrt();
        let clip = (norm + CLIP_EPSILON).recip().mul_scalar(CLIP).clamp_max(1.0);
        let rate = self.job.optimiser.rate(self.steps);
        let [of_matrices, of_vectors] = &self.optimizers;
        for (learnt, gradient) in self.learnt.iter_mut().zip(gradients) {
            match (learnt, gradient) {
                (Learnt::Matrix(held), Weight::Matrix(it)) => {
                    held.step(of_matrices, rate, it * clip.clone().unsqueeze())
                }
                (Learnt::Vector(held), Weight::Vector(it)) => {
                    held.step(of_vectors, rate, it * clip.clone())
                }
                _ => unreachable!("a gradient has its weight's shape"),
            }
        }
        self.steps += 1;
        loss.inner()
    }
}

impl<const D: usize> Held<D> {
    fn step(&mut self, optimizer: &AdamW, rate: f64, gradient: Tensor<D>) {
        let state = Some(self.state.clone());
        let (tensor, state) = optimizer.step(rate, self.tensor.clone(), gradient, state);
        self.tensor = tensor;
        if let Some(state) = state {
            self.state = state;
        }
    }

    fn parts(&self) -> Result<[Vec<f32>; 3], TrainError> {
        let momentum = &self.state.momentum;
        Ok([values(&self.tensor)?, values(&momentum.moment_1)?, values(&momentum.moment_2)?])
    }
}

impl Session for Training<'_> {
    fn description(&self) -> Description {
        self.description.clone()
    }

    fn set_state(&mut self, state: &State) -> Result<(), TrainError> {
        state.check_shape(self.job.shape)?;
        self.learnt = learnt(state, &self.device);
        self.steps = state.steps;
        Ok(())
    }

    fn state(&mut self) -> Result<State, TrainError> {
        let mut state = State::zeros(self.job.shape);
        state.steps = self.steps;
        for (learnt, tensor) in self.learnt.iter().zip(self.job.shape.tensors()) {
            let mut parts = match learnt {
                Learnt::Matrix(held) => held.parts()?,
                Learnt::Vector(held) => held.parts()?,
            };
            if is_linear(&tensor.name) {
                parts = parts.map(|values| transposed(&values, tensor.shape[0]));
            }
            let [own, first, second] = parts;
            state.parameters[tensor.range()].copy_from_slice(&own);
            state.first_moment[tensor.range()].copy_from_slice(&first);
            state.second_moment[tensor.range()].copy_from_slice(&second);
        }
        Ok(state)
    }

    fn train(&mut self, starts: &[u32], step_loss: &mut [f32]) -> Result<(), TrainError> {
        self.job.check_starts(starts, step_loss)?;
        let batches = starts.chunks(self.job.batch_size);
        let losses: Vec<Tensor<1>> = batches.map(|batch| self.step(batch)).collect();
        if !losses.is_empty() {
            step_loss.copy_from_slice(&values(&Tensor::cat(losses, 0))?);
        }
        // The last step's update too.
        self.device.sync().map_err(|error| failed("burn", format!("{error:?}")))
    }

    fn predict(&mut self, tokens: &[u16], logits: &mut [f32]) -> Result<(), TrainError> {
        self.job.check_prediction(tokens, logits)?;
        if tokens.is_empty() {
            return Ok(());
        }
        let weights: Vec<Weight> = self
            .learnt
            .iter()
            .map(|learnt| match learnt {
                Learnt::Matrix(held) => Weight::Matrix(held.tensor.clone()),
                Learnt::Vector(held) => Weight::Vector(held.tensor.clone()),
            })
            .collect();
        let (all, _) = filled(&self.job.shape, tokens);
        let found = values(&self.logits(&weights, &all))?;
        logits.copy_from_slice(&found[..logits.len()]);
        Ok(())
    }
}
