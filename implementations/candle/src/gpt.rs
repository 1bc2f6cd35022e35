//! A GPT in candle: its products, indexing and automatic differentiation; LayerNorm, GELU and the causal
//! softmax as operations of our own (candle-nn's have no gradient), and AdamW in place. Linear weights are
//! stored (in, out), so that no product needs a transposition.

use crate::gpt_ops::{AdamW, CausalSoftmax, Gelu, LayerNorm};
use crate::graph::cross_entropy;
use candle_core::{Device, Error, Result, Tensor, Var};
use kit::gpt::{failed, filled, windows};
use kit::transposed;
use nn::backend::{Description, TrainError};
use nn::gpt::{self, Decay, Job, Session, Shape, State};

/// A parameter, its moments, and how it lies in memory.
struct Learnt {
    variable: Var,
    /// First and second.
    moments: [Vec<f32>; 2],
    decay: Decay,
    /// A linear layer's (out, in), which is stored (in, out).
    linear: Option<(usize, usize)>,
}

pub struct Training<'data> {
    job: Job<'data>,
    threads: usize,
    steps: u64,
    learnt: Vec<Learnt>, // in the order of the shape's tensors
}

/// As they lie in memory.
fn learnt(state: &State) -> Result<Vec<Learnt>> {
    let tensors = state.tensors().iter();
    tensors
        .map(|tensor| {
            let embedding = tensor.name.contains(".wte.") || tensor.name.contains(".wpe.");
            let linear = match tensor.shape[..] {
                [out, inner] if !embedding => Some((out, inner)),
                _ => None,
            };
            let stored = |values: &[f32]| match linear {
                Some((_, inner)) => transposed(&values[tensor.range()], inner),
                None => values[tensor.range()].to_vec(),
            };
            let shape = match linear {
                Some((out, inner)) => vec![inner, out],
                None => tensor.shape.clone(),
            };
            Ok(Learnt {
                variable: Var::from_vec(stored(&state.parameters), shape, &Device::Cpu)?,
                moments: [stored(&state.first_moment), stored(&state.second_moment)],
                decay: tensor.decay(),
                linear,
            })
        })
        .collect()
}

impl<'data> Training<'data> {
    pub fn new(
        job: Job<'data>,
        threads: usize,
    ) -> std::result::Result<Training<'data>, TrainError> {
        job.check()?;
        let learnt = learnt(&State::zeros(job.shape)).map_err(|it| failed("candle", it))?;
        Ok(Training { job, threads, steps: 0, learnt })
    }

    /// The logits, (batch * context, vocabulary), of tokens, (batch * context).
    fn logits(&self, tokens: Vec<u32>) -> Result<Tensor> {
        let Shape { heads, width, context, .. } = self.job.shape;
        let parameter = |place: usize| self.learnt[place].variable.as_tensor();
        let rows = tokens.len();
        let batch = rows / context;
        let tokens = Tensor::from_vec(tokens, rows, &Device::Cpu)?;
        let x = parameter(0).index_select(&tokens, 0)?.reshape((batch, context, width))?;
        let mut x = x.broadcast_add(parameter(1))?.reshape((rows, width))?;
        for layer in 0..self.job.shape.layers {
            let of = |place: usize| parameter(2 + 6 * layer + place);
            let normal = x.apply_op2(of(0), LayerNorm)?;
            let qkv = normal.matmul(of(1))?.reshape((batch, context, 3, heads, width / heads))?;
            let part = |index: usize| -> Result<Tensor> {
                let part = qkv.narrow(2, index, 1)?.squeeze(2)?; // (batch, context, heads, ...)
                part.transpose(1, 2)?.contiguous()
            };
            let (query, key, value) = (part(0)?, part(1)?, part(2)?);
            let scores = query.matmul(&key.t()?)?;
            let scale = 1.0 / ((width / heads) as f32).sqrt();
            let mixed = scores.apply_op1(CausalSoftmax { scale })?.matmul(&value)?;
            let mixed = mixed.transpose(1, 2)?.contiguous()?.reshape((rows, width))?;
            x = (x + mixed.matmul(of(2))?)?;
            let hidden = x.apply_op2(of(3), LayerNorm)?.matmul(of(4))?;
            x = (x + hidden.apply_op1(Gelu)?.matmul(of(5))?)?;
        }
        let last = parameter(self.learnt.len() - 1);
        x.apply_op2(last, LayerNorm)?.matmul(&parameter(0).t()?)
    }

    /// One step; returns the mean loss before it.
    fn step(&mut self, starts: &[u32]) -> Result<f32> {
        let [inputs, targets] = windows(&self.job, starts);
        let rows = targets.len();
        let targets = Tensor::from_vec(targets, rows, &Device::Cpu)?;
        let loss = cross_entropy(&self.logits(inputs)?, &targets)?;
        let store = loss.backward()?;
        let mut gradients = Vec::with_capacity(self.learnt.len());
        let mut squares = 0.0;
        for learnt in &self.learnt {
            let gradient = store.get(&learnt.variable);
            let gradient =
                gradient.ok_or_else(|| Error::Msg("a parameter without a gradient".to_owned()))?;
            let gradient = gradient.contiguous()?;
            squares += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
            gradients.push(gradient);
        }
        let clip = gpt::optimiser::clip_factor(squares.sqrt());
        let numbers = self.job.optimiser.step(self.steps);
        for (learnt, gradient) in self.learnt.iter_mut().zip(&gradients) {
            let Learnt { variable, moments, decay, .. } = learnt;
            variable.inplace_op2(gradient, &AdamW::new(numbers, clip, *decay, moments))?;
        }
        self.steps += 1;
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

    fn set_state(&mut self, state: &State) -> std::result::Result<(), TrainError> {
        state.check_shape(self.job.shape)?;
        self.learnt = learnt(state).map_err(|it| failed("candle", it))?;
        self.steps = state.steps;
        Ok(())
    }

    fn state(&mut self) -> std::result::Result<State, TrainError> {
        let mut state = State::zeros(self.job.shape);
        state.steps = self.steps;
        for (learnt, tensor) in self.learnt.iter().zip(self.job.shape.tensors()) {
            let values = learnt.variable.flatten_all().and_then(|it| it.to_vec1::<f32>());
            let values = values.map_err(|it| failed("candle", it))?;
            let [first, second] = &learnt.moments;
            let parts = [
                (&mut state.parameters, &values),
                (&mut state.first_moment, first),
                (&mut state.second_moment, second),
            ];
            for (to, stored) in parts {
                let to = &mut to[tensor.range()];
                match learnt.linear {
                    Some((out, _)) => to.copy_from_slice(&transposed(stored, out)),
                    None => to.copy_from_slice(stored),
                }
            }
        }
        Ok(state)
    }

    fn train(
        &mut self,
        starts: &[u32],
        step_loss: &mut [f32],
    ) -> std::result::Result<(), TrainError> {
        self.job.check_starts(starts, step_loss)?;
        // On one of rayon's own threads: from any other each product would wait to be taken over.
        rayon::scope(|_| {
            for (batch, loss) in starts.chunks(self.job.batch_size).zip(step_loss) {
                *loss = self.step(batch).map_err(|it| failed("candle", it))?;
            }
            Ok(())
        })
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
        let found = self.logits(all).and_then(|it| it.flatten_all()?.to_vec1::<f32>());
        let found = found.map_err(|it| failed("candle", it))?;
        logits.copy_from_slice(&found[..logits.len()]);
        Ok(())
    }
}
