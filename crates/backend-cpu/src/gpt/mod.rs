//! The model `gpt`, trained whole.
//!
//! A step has three phases, with a barrier after each. Threads have groups of windows of their own, which they
//! take through the model and back by themselves, block by block, so that a block's weights stay in
//! the cache (`passes`); the weights' gradients of a block follow when all of a thread's windows have
//! passed it, summed in an order that depends on the number of windows alone (`windows`). Then threads
//! have parameters of their own: they sum what is left to sum and the squares of it, and update
//! (`update`). Instead to cut each product between the threads costs a barrier a layer, and moves
//! every activation between cores.
//!
//! All matrices lie in panels, as [`product`] says; so nothing is packed, but that the weights of
//! linear layers are kept in both orientations.

pub mod amx;
mod attention;
mod gelu;
mod layout;
mod loss;
mod norm;
mod passes;
pub mod product;
#[cfg(test)]
mod tests;
pub mod tiled;
mod update;
mod windows;

pub use amx::{Amx, Parts};

use crate::Engine;
use crate::buffer::{APART, Buffer, Shared};
use crate::simd::{Kernel, Simd};
use crate::team::Member;
use layout::{Layout, Trace};
use nn::backend::{Description, Measured, Options, TrainError};
use nn::gpt::{Job, Session, Shape, State};
use passes::{Model, Work, factors};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use update::{Gradients, Numbers, Parameters, Tiles, Unit};
use windows::Plan;

/// The model in training.
pub struct GptSession<'data> {
    engine: Engine,
    job: Job<'data>,
    layout: Layout,
    trace: Trace,
    plan: Plan,
    units: Vec<Unit>,
    /// Of `units`, each thread's.
    shares: Vec<Range<usize>>,
    steps: u64,
    weights: Buffer<f32>,
    turned: Buffer<f32>, // the linear layers' weights, transposed
    tiles: Buffer<u16>,  // both, in parts, where there is AMX
    amx: Option<(Amx, Parts)>,
    first: Buffer<f32>,
    second: Buffer<f32>,
    gradients: Buffer<f32>, // (blocks of groups, layout.len), apart
    d_norms: Buffer<f32>,   // (groups, norms)
    regions: Buffer<f32>,   // (groups, trace.len), apart
    looked_up: Buffer<f32>, // (vocabulary, width)
    losses: Buffer<f64>,    // (groups)
    squares: Buffer<f64>,   // (units)
    /// Each thread's own.
    work: Vec<Mutex<(Work, Tiles)>>,
    trained_tokens: u64,
}

/// What of the options is this model's alone: the instruction set `amx`, which is taken where it is
/// there and no other is asked for, and the precision `bf16`, which needs it. The rest is for
/// [`Engine::new`].
///
/// # Errors
/// [`TrainError::Option`] if AMX is asked for and not there.
pub fn resolve(options: &Options) -> Result<(Option<(Amx, Parts)>, Options), TrainError> {
    let mut rest = options.clone();
    let bf16 = rest.precision.take_if(|precision| precision == "bf16").is_some();
    let asked = rest.isa.take_if(|isa| isa == "amx").is_some();
    if let (false, Some(_)) = (asked, &rest.isa) {
        rest.precision = options.precision.clone(); // which the engine refuses if it is bf16
        return Ok((None, rest));
    }
    let parts = if bf16 { Parts::One } else { Parts::Three };
    let there = Amx::detect();
    let refused = |option, value: &str| {
        let (value, reason) = (value.to_owned(), "this CPU has no AMX".to_owned());
        Err(TrainError::Option { option, value, reason })
    };
    match (there, bf16, asked) {
        (None, true, _) => refused("precision", "bf16"),
        (None, false, true) => refused("isa", "amx"),
        _ => Ok((there.map(|amx| (amx, parts)), rest)),
    }
}

/// A length after which the next part does not meet this one in a page.
fn apart(len: usize) -> usize {
    const PAGE: usize = APART / size_of::<f32>();
    len.next_multiple_of(PAGE) + PAGE
}

impl<'data> GptSession<'data> {
    /// With all of the state zero. The job has been checked.
    pub fn new(engine: Engine, job: Job<'data>, amx: Option<(Amx, Parts)>) -> GptSession<'data> {
        let layout = Layout::new(job.shape);
        let trace = Trace::new(layout.sizes, windows::group(job.shape, job.batch_size), true);
        let (windows, threads) = (job.batch_size, engine.team.threads());
        let group = windows::group(job.shape, windows);
        let groups = windows.div_ceil(group);
        let at = |index: usize| groups * index / threads;
        let plan = Plan::new(groups, (0..threads).map(|index| at(index)..at(index + 1)));
        let units = Unit::all(&layout);
        let shares = Unit::shares(&units, &layout, windows * job.shape.context, threads);
        let own =
            || Mutex::new((Work::new(&layout, group, plan.levels, amx), Tiles::new(plan.stack)));
        GptSession {
            steps: 0,
            weights: Buffer::zeroed(layout.len),
            turned: Buffer::zeroed(layout.len),
            tiles: Buffer::zeroed(
                amx.map_or(0, |(_, parts)| layout.tiles * parts.count() * amx::TILE),
            ),
            amx,
            first: Buffer::zeroed(layout.len),
            second: Buffer::zeroed(layout.len),
            gradients: Buffer::zeroed(plan.pushes.len() * apart(layout.len)),
            d_norms: Buffer::zeroed(groups * layout.norms.len()),
            regions: Buffer::zeroed(groups * apart(trace.len)),
            looked_up: Buffer::zeroed(layout.output.range().len()),
            losses: Buffer::zeroed(groups),
            squares: Buffer::zeroed(units.len()),
            work: (0..threads).map(|_| own()).collect(),
            trained_tokens: 0,
            engine,
            job,
            layout,
            trace,
            plan,
            units,
            shares,
        }
    }
}

impl Session for GptSession<'_> {
    fn description(&self) -> Description {
        let path = "windows by thread, matrices in panels";
        let mut description = self.engine.description(path);
        match self.amx {
            None => {}
            Some((_, Parts::Three)) => {
                let products = "products of three bfloat16 parts";
                description.path = format!("amx, {products}, {path}");
            }
            Some((_, Parts::One)) => {
                description.path = format!("amx, {path}");
                description.precision = "bf16";
            }
        }
        description
    }

    fn set_state(&mut self, state: &State) -> Result<(), TrainError> {
        if state.shape() != self.job.shape {
            return Err(TrainError::Mismatch("the state of a model of other sizes".to_owned()));
        }
        let mut element = 0;
        self.layout.places(|place| {
            self.weights[place] = state.parameters[element];
            self.first[place] = state.first_moment[element];
            self.second[place] = state.second_moment[element];
            element += 1;
        });
        for linear in self.layout.linears() {
            update::turn(linear, &self.weights, &mut self.turned);
        }
        let amx = self.amx.map(|(amx, parts)| (amx, parts, self.tiles.share()));
        let parameters = Parameters {
            layout: &self.layout,
            weights: self.weights.share(),
            turned: self.turned.share(),
            first: self.first.share(),
            second: self.second.share(),
            gradient: self.gradients.share(),
            tiles: amx,
        };
        for unit in &self.units {
            // SAFETY: nobody else is here.
            unsafe { parameters.split(unit) };
        }
        self.steps = state.steps;
        Ok(())
    }

    fn state(&mut self) -> Result<State, TrainError> {
        let mut state = State::zeros(self.job.shape);
        let mut element = 0;
        self.layout.places(|place| {
            state.parameters[element] = self.weights[place];
            state.first_moment[element] = self.first[place];
            state.second_moment[element] = self.second[place];
            element += 1;
        });
        state.steps = self.steps;
        Ok(state)
    }

    fn train(&mut self, starts: &[u32], step_loss: &mut [f32]) -> Result<(), TrainError> {
        self.job.check_starts(starts, step_loss)?;
        let step = Steps {
            job: self.job,
            layout: &self.layout,
            trace: &self.trace,
            plan: &self.plan,
            units: &self.units,
            shares: &self.shares,
            first_step: self.steps,
            weights: self.weights.share(),
            turned: self.turned.share(),
            tiles: self.tiles.share(),
            amx: self.amx,
            first: self.first.share(),
            second: self.second.share(),
            gradients: self.gradients.share(),
            d_norms: self.d_norms.share(),
            regions: self.regions.share(),
            looked_up: self.looked_up.share(),
            losses: self.losses.share(),
            squares: self.squares.share(),
            work: &self.work,
            step_loss: Shared::new(step_loss),
        };
        let isa = self.engine.isa;
        self.engine.team.run(&|member| isa.run(Train { member, starts, step: &step }));
        self.steps += step_loss.len() as u64;
        self.trained_tokens += (starts.len() * self.job.shape.context) as u64;
        Ok(())
    }

    fn predict(&mut self, tokens: &[u16], logits: &mut [f32]) -> Result<(), TrainError> {
        self.job.check_prediction(tokens, logits)?;
        let trace = Trace::new(self.layout.sizes, 1, false);
        let model = Model {
            layout: &self.layout,
            weights: &self.weights,
            turned: &self.turned,
            tiles: self.amx.map(|(_, parts)| (parts, &*self.tiles)),
        };
        let Shape { context, vocabulary, .. } = self.job.shape;
        let (isa, work, trace) = (self.engine.isa, &self.work, &trace);
        let shared = Shared::new(logits);
        self.engine.team.run(&|member| {
            let windows = member.share(tokens.len().div_ceil(context));
            let range = windows.start * context..tokens.len().min(windows.end * context);
            if range.is_empty() {
                return;
            }
            let tokens = &tokens[range.clone()];
            // SAFETY: shares are disjoint.
            let logits =
                unsafe { shared.slice_mut(range.start * vocabulary..range.end * vocabulary) };
            isa.run(Predict { member, tokens, logits, model, trace, work });
        });
        Ok(())
    }

    fn measured(&self) -> Measured {
        Measured { executed_flop: Some(self.executed_flop()), ..Measured::default() }
    }
}

impl GptSession<'_> {
    /// Two for each multiply and add of the products, padding and masked scores left out.
    fn executed_flop(&self) -> f64 {
        let Shape { layers, width, context, vocabulary, .. } = self.job.shape;
        let weights = (layers * 12 * width * width + vocabulary * width) as f64;
        // A token sees half of the others and itself; two products forward, five back.
        let attention = (layers * 7 * width) as f64 * (context + 1) as f64 / 2.0;
        2.0 * (3.0 * weights + attention) * self.trained_tokens as f64
    }
}

/// The state that the threads share in a run of steps.
struct Steps<'run> {
    job: Job<'run>,
    layout: &'run Layout,
    trace: &'run Trace,
    plan: &'run Plan,
    units: &'run [Unit],
    shares: &'run [Range<usize>],
    first_step: u64,
    weights: Shared<'run, f32>,
    turned: Shared<'run, f32>,
    tiles: Shared<'run, u16>,
    amx: Option<(Amx, Parts)>,
    first: Shared<'run, f32>,
    second: Shared<'run, f32>,
    gradients: Shared<'run, f32>,
    d_norms: Shared<'run, f32>,
    regions: Shared<'run, f32>,
    looked_up: Shared<'run, f32>,
    losses: Shared<'run, f64>,
    squares: Shared<'run, f64>,
    work: &'run [Mutex<(Work, Tiles)>],
    step_loss: Shared<'run, f32>,
}

struct Train<'run> {
    member: &'run Member<'run>,
    starts: &'run [u32],
    step: &'run Steps<'run>,
}

impl Kernel for Train<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Train { member, starts, step } = self;
        let mut own = step.work[member.index()].lock().unwrap_or_else(PoisonError::into_inner);
        let (work, tiles) = &mut *own;
        work.begin();
        for (index, starts) in starts.chunks(step.job.batch_size).enumerate() {
            // SAFETY: the phases are these, with a barrier after each.
            unsafe {
                step.windows(simd, member, starts, work);
                member.barrier();
                step.sum(simd, member, starts, tiles);
                member.barrier();
                step.update(simd, member, index);
                member.barrier();
            }
        }
        work.end();
    }
}

impl Steps<'_> {
    /// The windows of a group.
    fn windows_of(&self, group: usize) -> Range<usize> {
        let each = windows::group(self.job.shape, self.job.batch_size);
        group * each..self.job.batch_size.min((group + 1) * each)
    }

    fn model(&self) -> Model<'_> {
        // SAFETY: of the caller: weights are written in the phase `update` only.
        let (weights, turned) = unsafe {
            (self.weights.slice(0..self.layout.len), self.turned.slice(0..self.layout.len))
        };
        let tiles = self.amx.map(|(_, parts)| {
            let len = self.layout.tiles * parts.count() * amx::TILE;
            // SAFETY: as above.
            (parts, unsafe { self.tiles.slice(0..len) })
        });
        Model { layout: self.layout, weights, turned, tiles }
    }

    /// A group's region and its gradients of norms.
    ///
    /// # Safety
    /// The group is this thread's.
    #[allow(clippy::mut_from_ref)] // a copy of a pointer: the contract is the caller's
    unsafe fn group(&self, group: usize) -> (&mut [f32], &mut [f32]) {
        let (region, norms) = (group * apart(self.trace.len), self.layout.norms.len());
        // SAFETY: each group has its own.
        unsafe {
            (
                self.regions.slice_mut(region..region + self.trace.len),
                self.d_norms.slice_mut(group * norms..(group + 1) * norms),
            )
        }
    }

    /// This thread's windows forward and back, and their weights' gradients.
    ///
    /// # Safety
    /// All threads are in this phase, each with its own `work`.
    #[inline(always)]
    unsafe fn windows<S: Simd>(
        &self,
        simd: S,
        member: &Member<'_>,
        starts: &[u32],
        work: &mut Work,
    ) {
        let (model, trace, layers) = (self.model(), self.trace, self.layout.blocks.len());
        let context = self.job.shape.context;
        let text = |window: usize, ahead: usize| {
            let start = starts[window] as usize + ahead;
            &self.job.text[start..start + context]
        };
        let share = member.share(starts.len().div_ceil(self.windows_of(0).len()));
        for group in share.clone() {
            // SAFETY: in its own share.
            let (region, d_norms) = unsafe { self.group(group) };
            d_norms.fill(0.0);
            work.windows = self.windows_of(group).len();
            for (index, window) in self.windows_of(group).enumerate() {
                passes::embed(simd, model, trace, (index, text(window, 0)), region, work);
            }
        }
        for layer in 0..layers {
            for group in share.clone() {
                // SAFETY: in its own share.
                let (region, _) = unsafe { self.group(group) };
                work.windows = self.windows_of(group).len();
                passes::forward(simd, model, trace, layer, region, work);
            }
        }
        let scale = 1.0 / (starts.len() * context) as f32;
        for group in share.clone() {
            // SAFETY: in its own share.
            let ((region, d_norms), loss) =
                unsafe { (self.group(group), self.losses.slice_mut(group..group + 1)) };
            work.windows = self.windows_of(group).len();
            let targets = self.windows_of(group).map(|window| text(window, 1));
            loss[0] = passes::output(simd, model, trace, targets, scale, region, d_norms, work);
        }
        // SAFETY: as this function.
        unsafe { self.weight_gradients(simd, member, layers, work) };
        for layer in (0..layers).rev() {
            for group in share.clone() {
                // SAFETY: in its own share.
                let (region, d_norms) = unsafe { self.group(group) };
                work.windows = self.windows_of(group).len();
                passes::backward(simd, model, trace, layer, region, d_norms, work);
            }
            // SAFETY: as this function.
            unsafe { self.weight_gradients(simd, member, layer, work) };
        }
    }

    /// The gradients of a block's weights, or of the output's, in this thread's windows.
    ///
    /// # Safety
    /// As of [`Steps::windows`].
    #[inline(always)]
    unsafe fn weight_gradients<S: Simd>(
        &self,
        simd: S,
        member: &Member<'_>,
        layer: usize,
        work: &mut Work,
    ) {
        for factors in factors(self.layout, self.trace, layer).iter().flatten() {
            let range = factors.linear.range();
            for &leaf in &self.plan.leaves[member.index()] {
                let start = leaf.block * apart(self.layout.len);
                // SAFETY: windows and blocks of its own share.
                let (region, gradient) = unsafe {
                    let gradient = start + range.start..start + range.end;
                    (self.group(leaf.group).0, self.gradients.slice_mut(gradient))
                };
                work.windows = self.windows_of(leaf.group).len();
                passes::weight_gradient(simd, factors, leaf, region, gradient, work);
            }
        }
    }

    /// The gradient of this thread's units.
    ///
    /// # Safety
    /// All threads are in this phase, each with its own `tiles`.
    #[inline(always)]
    unsafe fn sum<S: Simd>(&self, simd: S, member: &Member<'_>, starts: &[u32], tiles: &mut Tiles) {
        let [.., stream] = passes::streams(self.layout.blocks.len(), 0);
        let gradients = Gradients {
            layout: self.layout,
            weights: self.weights,
            blocks: self.gradients,
            stride: apart(self.layout.len),
            pushes: &self.plan.pushes,
            d_norms: self.d_norms,
            regions: self.regions,
            region: apart(self.trace.len),
            group: windows::group(self.job.shape, self.job.batch_size),
            stream: &self.trace.stream[stream],
            looked_up: self.looked_up,
            text: self.job.text,
            starts,
        };
        let share = self.shares[member.index()].clone();
        for unit in share {
            // SAFETY: the unit is its own.
            unsafe {
                let squares = gradients.sum(simd, &self.units[unit], tiles);
                self.squares.slice_mut(unit..unit + 1)[0] = squares;
            }
        }
    }

    /// AdamW on this thread's units, and the loss of the step.
    ///
    /// # Safety
    /// All threads are in this phase.
    #[inline(always)]
    unsafe fn update<S: Simd>(&self, simd: S, member: &Member<'_>, index: usize) {
        // SAFETY: written in the phase before.
        let squares = unsafe { self.squares.slice(0..self.units.len()) };
        let norm = squares.iter().sum::<f64>().sqrt();
        let step = self.job.optimiser.step(self.first_step + index as u64);
        let numbers = Numbers::new(step, norm);
        let parameters = Parameters {
            layout: self.layout,
            weights: self.weights,
            turned: self.turned,
            first: self.first,
            second: self.second,
            gradient: self.gradients,
            tiles: self.amx.map(|(amx, parts)| (amx, parts, self.tiles)),
        };
        for unit in self.shares[member.index()].clone() {
            // SAFETY: the unit is its own.
            unsafe { parameters.update(simd, &self.units[unit], numbers) };
        }
        if member.index() == 0 {
            let windows = self.job.batch_size;
            // SAFETY: only this thread touches the step's loss; the windows' are written.
            unsafe {
                let groups = windows.div_ceil(windows::group(self.job.shape, windows));
                let sum: f64 = self.losses.slice(0..groups).iter().sum();
                let mean = sum / (windows * self.job.shape.context) as f64;
                self.step_loss.slice_mut(index..index + 1)[0] = mean as f32;
            }
        }
    }
}

struct Predict<'run> {
    member: &'run Member<'run>,
    tokens: &'run [u16],
    logits: &'run mut [f32],
    model: Model<'run>,
    trace: &'run Trace,
    work: &'run [Mutex<(Work, Tiles)>],
}

impl Kernel for Predict<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Predict { member, tokens, logits, model, trace, work } = self;
        let mut own = work[member.index()].lock().unwrap_or_else(PoisonError::into_inner);
        let (work, _) = &mut *own;
        work.begin();
        work.windows = 1;
        let Shape { layers, context, vocabulary, .. } = model.layout.sizes.shape;
        let mut region = Buffer::zeroed(trace.len);
        let windows = tokens.chunks(context).zip(logits.chunks_mut(context * vocabulary));
        for (tokens, logits) in windows {
            // Positions after the last keep what they had: nobody before them sees it.
            passes::embed(simd, model, trace, (0, tokens), &mut region, work);
            for layer in 0..layers {
                passes::forward(simd, model, trace, layer, &mut region, work);
            }
            passes::logits(simd, model, trace, &mut region, work);
            let from = &region[trace.logits.clone()];
            for (position, logits) in logits.chunks_mut(vocabulary).enumerate() {
                for (token, logit) in logits.iter_mut().enumerate() {
                    let row = token / product::PANEL * context + position;
                    *logit = from[row * product::PANEL + token % product::PANEL];
                }
            }
        }
        work.end();
    }
}
