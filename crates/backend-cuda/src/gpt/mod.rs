//! The model `gpt` in training: its data on the device, the captured step, the session.

mod attention;
mod layout;
mod linear;
mod memory;
mod narrow;
mod others;
mod peers;
mod plain;
mod products;
mod replicas;
mod rows;
mod sdpa;
mod step;
mod weights;

use crate::cublaslt::{CublasLt, Element, WORKSPACE_BYTES};
use crate::driver::{Buffer, Event, Gpu};
use crate::graph::Graph;
use crate::scratch::Scratch;
use attention::{Attention, Choice};
use linear::{Linear, OwnProducts};
use memory::{CAPACITY, Memory, Progress, Sizes, StepRates};
use narrow::NarrowKernels;
use nn::backend::{Description, Measured, TrainError, Unavailable};
use nn::gpt::{Job, Session, State};
use peers::Seat;
use rows::{RowKernels, Source};
use std::rc::Rc;
use std::time::Instant;
use step::{Step, StepKernels};

/// Steps of the larger graph, so that small models do not wait for launches of graphs.
const GRAPH_STEPS: usize = 8;

/// Activations of a layer, rows x width, up to which two streams are faster than one. On an H200 a step with
/// 16,384 x 384 takes 3.40 ms in place of 3.42, and one with 16,384 x 768 27.0 in place of 26.7: there the
/// products fill the device by themselves.
const OVERLAPPED: usize = 8 << 20;

/// How a training is carried out; `--plan` has these words, with commas between them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) element: Element,
    /// Captured and replayed, not launched kernel by kernel.
    graph: bool,
    /// Gradients of weights beside the way back; by [`OVERLAPPED`] if nobody says.
    overlap: Option<bool>,
    /// GELU within the products, in bf16.
    fused_gelu: bool,
    attention: Choice,
    /// Our own products: `kernels/gpt_products.cu` and `gpt_weights.cu`.
    own_products: OwnProducts,
    /// None of the library's products: `kernels/gpt_plain.cu`.
    plain_products: bool,
    /// The kernels for narrow models, where the sizes are theirs.
    narrow: bool,
}

impl Plan {
    /// The plan that `words` ask for.
    pub(crate) fn parse(words: Option<&str>, element: Element) -> Result<Plan, TrainError> {
        let fused_gelu = element == Element::Bf16;
        let mut plan = Plan {
            element,
            graph: true,
            overlap: None,
            fused_gelu,
            attention: Choice::Faster,
            own_products: OwnProducts::Faster,
            plain_products: false,
            narrow: true,
        };
        for word in words.into_iter().flat_map(|words| words.split(',')) {
            match word {
                "graph" => plan.graph = true,
                "kernels" => plan.graph = false,
                "serial" => plan.overlap = Some(false),
                "beside" => plan.overlap = Some(true),
                "own-attention" => plan.attention = Choice::Own,
                "cudnn" => plan.attention = Choice::Cudnn,
                "library-products" => plan.own_products = OwnProducts::No,
                "own-products" => plan.own_products = OwnProducts::Yes,
                "plain-products" => plan.plain_products = true,
                "general" => plan.narrow = false,
                "plain-gelu" => plan.fused_gelu = false,
                _ => {
                    let reason = "for gpt, cuda has the words graph, kernels, serial, beside, general, library-products, own-products, \
                                  plain-products, plain-gelu, own-attention, cudnn";
                    return Err(TrainError::Option {
                        option: "plan",
                        value: words.unwrap_or_default().to_owned(),
                        reason: reason.to_owned(),
                    });
                }
            }
        }
        Ok(plan)
    }
}

/// Captured steps.
struct Graphs {
    /// Of [`GRAPH_STEPS`]; none of steps in pieces, of which many are as many launches.
    many: Option<Graph>,
    one: Graph,
}

/// What predictions need beside what a step has.
struct Prediction {
    text: Buffer<u16>,    // (rows + 1)
    windows: Buffer<u32>, // (batch)
    progress: Buffer<Progress>,
}

pub(crate) use replicas::Replicas;

pub(crate) struct GptSession<'data> {
    // Dropped in this order: graphs before the buffers and events that they use.
    graphs: Option<Graphs>,
    step: Step,
    prediction: Option<Prediction>,
    clock: [Event; 2],
    job: Job<'data>,
    plan: Plan,
    steps: u64,
    device_s: f64,
    compile_s: f64,
    library: String,
    gpu: Rc<Gpu>,
}

impl<'data> GptSession<'data> {
    pub(crate) fn open(
        gpu: &Rc<Gpu>,
        job: Job<'data>,
        plan: Plan,
        seat: Option<&Seat>,
    ) -> Result<GptSession<'data>, TrainError> {
        job.check()?;
        let element = plan.element;
        let devices = seat.map_or(1, |seat| seat.count);
        let rows = job.batch_size * job.shape.context;
        let rows_and_width = rows * job.shape.width;
        let narrow = plan.narrow && narrow::fits(gpu.device(), job.shape, element);
        let multiprocessors = gpu.device().multiprocessors;
        let sizes = Sizes::new(&job, element, multiprocessors, devices, narrow);
        let refusal = rows::refusal(job.shape, sizes.rows, element)
            .or_else(|| attention::refusal(element, job.shape.head_width()));
        if let Some(reason) = refusal {
            return Err(Unavailable(reason).into());
        }
        gpu.keep_little_stack()?;
        gpu.tell_memory("the device is started");
        let scratch = Scratch::new(gpu);
        // An algorithm that wants scratch has a counter there set to zero before it, which takes as long in a step as it
        // gains, but for gradients of weights: a step of `char` takes 2.92 ms without such algorithms and 3.00 with
        // them, in float32 36.5 and 29.8. Of narrow models only predictions have such products.
        let scratches = !narrow && !weights::fits(gpu.device(), &sizes);
        let workspace_bytes = if scratches { WORKSPACE_BYTES } else { 0 };
        let plain = plan.plain_products.then(|| plain::products(gpu)).transpose()?;
        let library = CublasLt::open(gpu, &scratch, workspace_bytes, plain)?;
        gpu.tell_memory("cuBLASLt is loaded");
        let memory = Memory::new(gpu, sizes, job.text, scratch)?;
        gpu.synchronize()?;
        let compiling = Instant::now();
        let rows = RowKernels::new(gpu, job.shape, element)?;
        let attention = Attention::new(gpu, &memory)?;
        let own = match plan.fused_gelu && !narrow {
            true => plan.own_products,
            false => OwnProducts::No,
        };
        let fused_gelu = plan.fused_gelu && !plan.plain_products;
        let linear = Linear::new(gpu, &library, &memory, fused_gelu, own)?;
        let narrow = match narrow {
            true => Some(NarrowKernels::new(gpu, &memory)?),
            false => None,
        };
        let kernels = StepKernels { rows, attention, linear, narrow };
        let is_narrow = kernels.narrow.is_some();
        let mut step = Step::new(gpu, memory, kernels, seat)?;
        gpu.tell_memory("kernels are compiled");
        step.tune(plan.attention)?;
        gpu.tell_memory("kernels are chosen");
        let pays = || rows_and_width <= OVERLAPPED && !step.groups_weights();
        if !is_narrow && plan.overlap.unwrap_or_else(pays) {
            step.overlap(workspace_bytes)?;
        }
        if std::env::var_os("TRAINMARK_CUDA_PRODUCTS").is_some() {
            eprint!("{}", step.kernels.linear.report());
        }
        let mut session = GptSession {
            graphs: None,
            step,
            prediction: None,
            clock: gpu.clock()?,
            job,
            plan,
            steps: 0,
            device_s: 0.0,
            compile_s: 0.0,
            library: format!("cuBLASLt {}", library.version()),
            gpu: Rc::clone(gpu),
        };
        session.warm_up()?;
        session.compile_s = compiling.elapsed().as_secs_f64();
        gpu.tell_memory("steps were taken");
        Ok(session)
    }

    /// Takes steps from a state of zeros, first launched and then replayed, and forgets them. The driver
    /// loads code at its first launch.
    fn warm_up(&mut self) -> Result<(), TrainError> {
        let starts = vec![0; self.job.batch_size * (GRAPH_STEPS + 1)];
        let mut losses = [0.0; GRAPH_STEPS + 1];
        self.train(&starts[..self.job.batch_size], &mut losses[..1])?;
        if self.plan.graph {
            let enqueue = |steps| (0..steps).try_for_each(|_| self.step.enqueue());
            self.graphs = Some(match self.step.is_captured_in_pieces() {
                true => Graphs { many: None, one: self.gpu.capture_in_pieces(|| enqueue(1))? },
                false => Graphs {
                    many: Some(self.gpu.capture(|| enqueue(GRAPH_STEPS))?),
                    one: self.gpu.capture(|| enqueue(1))?,
                },
            });
            self.train(&starts, &mut losses)?;
        }
        self.set_state(&State::zeros(self.job.shape))?;
        self.device_s = 0.0;
        self.gpu.synchronize()
    }

    fn enqueue(&self, steps: usize) -> Result<(), TrainError> {
        match &self.graphs {
            None => (0..steps).try_for_each(|_| self.step.enqueue()),
            Some(Graphs { many: None, one }) => (0..steps).try_for_each(|_| one.launch()),
            Some(Graphs { many: Some(many), one }) => {
                (0..steps / GRAPH_STEPS).try_for_each(|_| many.launch())?;
                (0..steps % GRAPH_STEPS).try_for_each(|_| one.launch())
            }
        }
    }
}

impl Session for GptSession<'_> {
    fn description(&self) -> Description {
        let way = if self.plan.graph { "graph" } else { "kernels" };
        let kernels = if self.step.memory.sizes.narrow { "narrow kernels, " } else { "" };
        let order = if self.step.overlaps() { "two streams" } else { "one stream" };
        Description {
            device: self.gpu.device().name.clone(),
            path: format!(
                "{way}, {kernels}{order}, {}, {}",
                self.library,
                self.step.kernels.attention.name()
            ),
            threads: None,
            precision: match self.plan.element {
                Element::Float32 => "float32",
                Element::Bf16 => "bf16",
            },
            software: false,
        }
    }

    fn compile_s(&self) -> Option<f64> {
        Some(self.compile_s)
    }

    fn set_state(&mut self, state: &State) -> Result<(), TrainError> {
        if state.shape() != self.job.shape {
            return Err(TrainError::Mismatch(format!(
                "the state of {:?} for a session of {:?}",
                state.shape(),
                self.job.shape
            )));
        }
        let memory = &self.step.memory;
        let layout = &memory.sizes.layout;
        memory.state.parameters.write(&layout.spread(&state.parameters))?;
        memory.state.first_moment.write(&layout.spread(&state.first_moment))?;
        memory.state.second_moment.write(&layout.spread(&state.second_moment))?;
        self.step.after_parameters()?;
        self.steps = state.steps;
        self.gpu.synchronize()
    }

    fn state(&mut self) -> Result<State, TrainError> {
        self.step.fetch_state()?;
        let memory = &self.step.memory;
        let layout = &memory.sizes.layout;
        let mut spread = vec![0.0; layout.len];
        let mut state = State::zeros(self.job.shape);
        state.steps = self.steps;
        memory.state.parameters.read(&mut spread)?;
        layout.gather(&spread, &mut state.parameters);
        memory.state.first_moment.read(&mut spread)?;
        layout.gather(&spread, &mut state.first_moment);
        memory.state.second_moment.read(&mut spread)?;
        layout.gather(&spread, &mut state.second_moment);
        Ok(state)
    }

    fn train(&mut self, starts: &[u32], step_loss: &mut [f32]) -> Result<(), TrainError> {
        self.job.check_starts(starts, step_loss)?;
        let batch = self.job.batch_size;
        let mut rates = [StepRates::default(); CAPACITY];
        for (starts, step_loss) in
            starts.chunks(CAPACITY * batch).zip(step_loss.chunks_mut(CAPACITY))
        {
            let steps = step_loss.len();
            for (rates, step) in rates.iter_mut().zip(self.steps..).take(steps) {
                *rates = self.job.optimiser.step(step).into();
            }
            let memory = &self.step.memory;
            memory.windows.write(starts)?;
            memory.rates.write(&rates[..steps])?;
            memory.progress.write(&[Progress::default()])?;
            self.step.assemble()?;
            self.gpu.record(&self.clock[0])?;
            self.enqueue(steps)?;
            self.gpu.record(&self.clock[1])?;
            memory.step_loss.read(step_loss)?;
            self.device_s += self.clock[0].seconds_until(&self.clock[1])?;
            self.steps += steps as u64;
        }
        Ok(())
    }

    fn predict(&mut self, tokens: &[u16], logits: &mut [f32]) -> Result<(), TrainError> {
        self.job.check_prediction(tokens, logits)?;
        let sizes = self.step.memory.sizes.clone();
        if self.prediction.is_none() {
            let starts: Vec<u32> =
                (0..sizes.batch).map(|window| (window * sizes.shape.context) as u32).collect();
            self.prediction = Some(Prediction {
                text: self.gpu.allocate("tokens to predict from", sizes.rows + 1)?,
                windows: self.gpu.upload("windows to predict from", &starts)?,
                progress: self.gpu.allocate("the progress", 1)?,
            });
        }
        let Some(prediction) = &self.prediction else { unreachable!("it was just made") };
        let vocabulary = sizes.shape.vocabulary;
        let stride = sizes.layout.padded_vocabulary * sizes.element.bytes();
        let mut bytes = vec![0; sizes.chunk_rows * stride];
        for (tokens, logits) in
            tokens.chunks(sizes.rows).zip(logits.chunks_mut(sizes.rows * vocabulary))
        {
            // What a shorter window has behind it is of no influence on what is before.
            prediction.text.clear()?;
            prediction.text.write(tokens)?;
            let (text, windows) = (&prediction.text, &prediction.windows);
            let progress = prediction.progress.address();
            self.step.forward(&Source { text, windows, progress })?;
            for (chunk, logits) in logits.chunks_mut(sizes.chunk_rows * vocabulary).enumerate() {
                self.step.read_logits(chunk, &mut bytes)?;
                for (row, logits) in bytes.chunks(stride).zip(logits.chunks_mut(vocabulary)) {
                    widen(row, logits, sizes.element);
                }
            }
        }
        Ok(())
    }

    fn measured(&self) -> Measured {
        Measured {
            device_s: Some(self.device_s),
            device_peak_bytes: Some(self.gpu.peak_bytes()),
            executed_flop: None,
        }
    }
}

/// The first `values.len()` elements that `bytes` hold.
fn widen(bytes: &[u8], values: &mut [f32], element: Element) {
    match element {
        Element::Float32 => {
            for (four, value) in bytes.chunks_exact(4).zip(values) {
                *value = f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
            }
        }
        Element::Bf16 => {
            for (two, value) in bytes.chunks_exact(2).zip(values) {
                *value = f32::from_le_bytes([0, 0, two[0], two[1]]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounded_logits_are_widened_to_the_same_numbers() {
        let mut values = [0.0; 2];
        widen(&[0x80, 0x3f, 0x20, 0xc0, 1, 1], &mut values, Element::Bf16);
        assert_eq!(values, [1.0, -2.5]);
        let bytes: Vec<u8> = [0.1_f32, -3.0].iter().flat_map(|it| it.to_le_bytes()).collect();
        widen(&bytes, &mut values, Element::Float32);
        assert_eq!(values, [0.1, -3.0]);
    }

    #[test]
    fn a_plan_is_words_and_an_unknown_one_is_named() {
        let plan = Plan::parse(Some("kernels,serial"), Element::Bf16).unwrap();
        assert!(!plan.graph && plan.overlap == Some(false) && plan.fused_gelu);
        let error = Plan::parse(Some("fused"), Element::Float32).unwrap_err().to_string();
        assert!(error.starts_with("--plan fused: "), "{error}");
    }
}
