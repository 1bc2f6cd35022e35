//! From the windows' gradients to the next step's weights, in two passes with a barrier between them,
//! as clipping needs the norm of the whole gradient before any weight changes.
//!
//! The flat buffers are cut into [`Unit`]s, a panel or so each, whose sums of squares are added in
//! order: what a thread takes of them does not change a bit. The first pass sums the blocks of windows
//! and scales rows by the norm before the layer; the second is AdamW, which leaves the weight of each
//! linear layer in both orientations.

use super::amx::{self, Amx, DEPTH, Parts};
use super::attention::turn_square;
use super::layout::{Layout, Linear};
use super::product::PANEL;
use super::windows::Push;
use crate::buffer::{Buffer, Shared};
use crate::finish::{load, store};
use crate::simd::{Kernel, Simd};
use nn::gpt::optimiser::{self, BETA1, BETA2, EPSILON, WEIGHT_DECAY};
use std::ops::Range;

/// 16 rows of a panel, which lie together.
const TILE: usize = PANEL * PANEL;

/// The elements that a thread takes at a time.
#[derive(Clone, Debug)]
pub enum Unit {
    /// These panels and rows of a linear layer's weight. Of the tied embedding they are all panels of a
    /// few features.
    Tiles {
        linear: Linear,
        panels: Range<usize>,
        rows: Range<usize>,
        tied: bool,
    },
    /// A panel of the position embeddings.
    Positions {
        panel: usize,
    },
    Norms,
}

impl Unit {
    /// All of a model: 32 columns of a weight, or the last 16; so many features of the embedding.
    pub fn all(layout: &Layout) -> Vec<Unit> {
        let pairs =
            |panels: usize| (0..panels).step_by(2).map(move |panel| panel..panels.min(panel + 2));
        let output = layout.output;
        let of = |linear: Linear| {
            let rows = 0..linear.inputs;
            pairs(linear.outputs / PANEL).map(move |panels| Unit::Tiles {
                linear,
                panels,
                rows: rows.clone(),
                tied: false,
            })
        };
        let features = pairs(output.inputs / PANEL).map(|panels| {
            let rows = panels.start * PANEL..panels.end * PANEL;
            Unit::Tiles { linear: output, panels: 0..output.outputs / PANEL, rows, tied: true }
        });
        layout
            .linears()
            .filter(|linear| linear.start != output.start)
            .flat_map(of)
            .chain(features)
            .chain((0..layout.sizes.width / PANEL).map(|panel| Unit::Positions { panel }))
            .chain([Unit::Norms])
            .collect()
    }

    /// How long it takes, in elements.
    fn weight(&self, layout: &Layout, tokens: usize) -> usize {
        match self {
            Unit::Tiles { panels, rows, tied, .. } => {
                (panels.len() * PANEL + usize::from(*tied) * tokens) * rows.len()
            }
            Unit::Positions { .. } => tokens * PANEL,
            Unit::Norms => layout.norms.len(),
        }
    }

    /// Where it lies, if it is not tiles.
    fn flat(&self, layout: &Layout) -> Range<usize> {
        match self {
            Unit::Positions { panel } => {
                let len = layout.sizes.shape.context * PANEL;
                let start = layout.positions.start + panel * len;
                start..start + len
            }
            _ => layout.norms.clone(),
        }
    }

    /// The units of each of so many threads, which train on so many tokens.
    pub fn shares(
        units: &[Unit],
        layout: &Layout,
        tokens: usize,
        threads: usize,
    ) -> Vec<Range<usize>> {
        let weights = units.iter().map(|unit| unit.weight(layout, tokens));
        let ends: Vec<usize> = weights
            .scan(0, |sum, weight| {
                *sum += weight;
                Some(*sum)
            })
            .collect();
        let all = ends.last().copied().unwrap_or(0);
        let at = |thread: usize| ends.partition_point(|&end| end <= all * thread / threads);
        (0..threads)
            .map(|thread| {
                at(thread)..if thread + 1 == threads { units.len() } else { at(thread + 1) }
            })
            .collect()
    }
}

/// The buffers of the first pass.
#[derive(Clone, Copy)]
pub struct Gradients<'run> {
    pub layout: &'run Layout,
    pub weights: Shared<'run, f32>,
    /// (blocks, stride): the sums of the blocks; the first becomes the gradient.
    pub blocks: Shared<'run, f32>,
    pub stride: usize,
    pub pushes: &'run [Push],
    /// (groups, norms)
    pub d_norms: Shared<'run, f32>,
    /// The regions of the groups, and where in them is the gradient of the embeddings' sum.
    pub regions: Shared<'run, f32>,
    pub region: usize,
    pub stream: &'run Range<usize>,
    /// Windows of a group, but for the last.
    pub group: usize,
    /// (vocabulary, width): what is added to the tied embedding's gradient.
    pub looked_up: Shared<'run, f32>,
    pub text: &'run [u16],
    pub starts: &'run [u32],
}

/// [`Gradients::sum`], whose contract whoever makes one takes over.
struct SumUnit<'run> {
    gradients: &'run Gradients<'run>,
    unit: &'run Unit,
    tiles: &'run mut Tiles,
}

impl Kernel for SumUnit<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let SumUnit { gradients, unit, tiles } = self;
        // SAFETY: each unit's places are its own; says who made this.
        unsafe {
            if let Unit::Tiles { linear, panels, rows, tied } = unit.clone() {
                if tied {
                    rows.clone().step_by(PANEL).for_each(|first| gradients.look_up(simd, first));
                }
                let mut squares = 0.0;
                for panel in panels {
                    for row in rows.clone().step_by(PANEL) {
                        squares += gradients.tile(simd, linear, panel, row, tiles, tied);
                    }
                }
                return squares;
            }
            let flat = unit.flat(gradients.layout);
            let to = gradients.blocks.slice_mut(flat.clone());
            if let Unit::Positions { panel } = unit {
                let windows = 0..gradients.starts.len();
                sum_flat(simd, windows.map(|window| gradients.of(window, *panel)), to)
            } else {
                let groups = 0..gradients.starts.len().div_ceil(gradients.group);
                let len = flat.len();
                let part = |group| gradients.d_norms.slice(group * len..(group + 1) * len);
                sum_flat(simd, groups.map(part), to)
            }
        }
    }
}

/// A stack of tiles.
pub struct Tiles(Buffer<f32>);

impl Tiles {
    pub fn new(depth: usize) -> Tiles {
        Tiles(Buffer::zeroed(depth.max(1) * TILE))
    }
}

impl Gradients<'_> {
    /// A unit's gradient, to the first block; returns the sum of its squares.
    ///
    /// # Safety
    /// All windows' gradients are written, nobody else has this unit, and nobody writes weights.
    #[inline(always)]
    pub unsafe fn sum<S: Simd>(&self, simd: S, unit: &Unit, tiles: &mut Tiles) -> f64 {
        simd.enter(SumUnit { gradients: self, unit, tiles })
    }

    /// A window's gradient of 16 features of the embeddings' sum, (context, 16).
    ///
    /// # Safety
    /// Nobody writes to the regions while the slice lives.
    unsafe fn of(&self, window: usize, panel: usize) -> &[f32] {
        let (group, len) = (window / self.group, self.layout.sizes.shape.context * PANEL);
        let windows = self.group.min(self.starts.len() - group * self.group);
        let place = (panel * windows + window % self.group) * len;
        let start = group * self.region + self.stream.start + place;
        // SAFETY: says the caller.
        unsafe { self.regions.slice(start..start + len) }
    }

    /// 16 rows of a panel of a weight's gradient.
    ///
    /// # Safety
    /// As of [`Gradients::sum`].
    #[inline(always)]
    unsafe fn tile<S: Simd>(
        &self,
        simd: S,
        linear: Linear,
        panel: usize,
        row: usize,
        tiles: &mut Tiles,
        tied: bool,
    ) -> f64 {
        let start = linear.start + (panel * linear.inputs + row) * PANEL;
        let mut top = 0;
        for push in self.pushes {
            // SAFETY: nobody writes to the blocks but to the first, and there each to its own units.
            let block = unsafe {
                let start = push.block * self.stride + start;
                self.blocks.slice(start..start + TILE)
            };
            tiles.0[top * TILE..][..TILE].copy_from_slice(block);
            for _ in 0..push.merged {
                let (below, above) = tiles.0.split_at_mut(top * TILE);
                let below = &mut below[(top - 1) * TILE..];
                for place in (0..TILE).step_by(S::LANES) {
                    let sum = simd.add(load(simd, below, place), load(simd, above, place));
                    store(simd, below, place, sum);
                }
                top -= 1;
            }
            top += 1;
        }
        let mut extra = [0.0; TILE];
        if tied {
            // SAFETY: these features are this unit's.
            let looked_up = unsafe {
                let start = (row / PANEL * linear.outputs + panel * PANEL) * PANEL;
                self.looked_up.slice(start..start + TILE)
            };
            turn_square(simd, looked_up, &mut extra);
        }
        // SAFETY: this tile is this unit's; nobody writes weights.
        let (to, norm) = unsafe {
            let norm = linear.norm.map(|index| self.weights.slice(self.layout.norm(index)));
            (self.blocks.slice_mut(start..start + TILE), norm)
        };
        let mut squares = simd.splat(0.0);
        for r in 0..PANEL {
            let factor = simd.splat(norm.map_or(1.0, |norm| norm[row + r]));
            for place in (r * PANEL..(r + 1) * PANEL).step_by(S::LANES) {
                let mut sum = simd.mul(load(simd, &tiles.0, place), factor);
                if tied {
                    sum = simd.add(sum, load(simd, &extra, place));
                }
                store(simd, to, place, sum);
                squares = simd.fma(sum, sum, squares);
            }
        }
        f64::from(simd.sum(squares))
    }

    /// Adds the gradients of 16 features of the embeddings' sum up by token, in the order of windows
    /// and positions.
    ///
    /// # Safety
    /// As of [`Gradients::sum`].
    #[inline(always)]
    unsafe fn look_up<S: Simd>(&self, simd: S, first: usize) {
        let sizes = self.layout.sizes;
        let (context, len) = (sizes.shape.context, sizes.vocabulary * PANEL);
        let panel = first / PANEL;
        // SAFETY: these features are this unit's.
        let to = unsafe { self.looked_up.slice_mut(panel * len..(panel + 1) * len) };
        to.fill(0.0);
        for (window, &start) in self.starts.iter().enumerate() {
            let start = start as usize;
            // SAFETY: nobody writes to the regions now.
            let from = unsafe { self.of(window, panel) };
            for (position, &token) in self.text[start..start + context].iter().enumerate() {
                for lane in (0..PANEL).step_by(S::LANES) {
                    let place = usize::from(token) * PANEL + lane;
                    let d = load(simd, from, position * PANEL + lane);
                    store(simd, to, place, simd.add(load(simd, to, place), d));
                }
            }
        }
    }
}

/// Sums flat slices in order; returns the sum of the squares.
#[inline(always)]
fn sum_flat<'data, S: Simd>(
    simd: S,
    parts: impl Iterator<Item = &'data [f32]>,
    to: &mut [f32],
) -> f64 {
    to.fill(0.0);
    for part in parts {
        for place in (0..to.len()).step_by(S::LANES) {
            let sum = simd.add(load(simd, to, place), load(simd, part, place));
            store(simd, to, place, sum);
        }
    }
    let mut all = 0.0;
    for some in to.chunks(TILE) {
        let mut squares = simd.splat(0.0);
        for place in (0..some.len()).step_by(S::LANES) {
            let value = load(simd, some, place);
            squares = simd.fma(value, value, squares);
        }
        all += f64::from(simd.sum(squares));
    }
    all
}

/// The parameters and their moments.
#[derive(Clone, Copy)]
pub struct Parameters<'run> {
    pub layout: &'run Layout,
    pub weights: Shared<'run, f32>,
    pub turned: Shared<'run, f32>,
    pub first: Shared<'run, f32>,
    pub second: Shared<'run, f32>,
    pub gradient: Shared<'run, f32>,
    /// The weights as tiles.
    pub tiles: Option<(Amx, Parts, Shared<'run, u16>)>,
}

/// AdamW's numbers of one step, with the gradient's factor.
#[derive(Clone, Copy)]
pub struct Numbers {
    clip: f32,
    decay: f32,
    step: f32,
    /// One over the root of the second correction.
    inverse_root: f32,
}

impl Numbers {
    pub fn new(step: optimiser::Step, norm: f64) -> Numbers {
        Numbers {
            clip: optimiser::clip_factor(norm) as f32,
            decay: (1.0 - step.rate * WEIGHT_DECAY) as f32,
            step: (step.rate / step.correction1) as f32,
            inverse_root: (1.0 / step.correction2.sqrt()) as f32,
        }
    }
}

impl Parameters<'_> {
    /// AdamW on a unit.
    ///
    /// # Safety
    /// Nobody else uses this unit's weights and moments, and its gradient is written.
    #[inline(always)]
    pub unsafe fn update<S: Simd>(&self, simd: S, unit: &Unit, numbers: Numbers) {
        simd.enter(UpdateUnit { parameters: self, unit, numbers });
    }

    /// Writes a unit's weights as tiles, in both orientations, where there is AMX.
    ///
    /// # Safety
    /// Nobody else uses this unit's weights, and those of linear layers are written in both
    /// orientations.
    pub unsafe fn split(&self, unit: &Unit) {
        let Some((amx, parts, tiles)) = self.tiles else { return };
        // Up to 32 rows of a panel are a right matrix's tile: (inputs, panels) says which.
        let split = |linear: Linear, values: Shared<'_, f32>, rows: Range<usize>, panel: usize| {
            let start = linear.start + panel * linear.inputs * PANEL;
            let blocks = linear.inputs.div_ceil(DEPTH);
            let tile = linear.tiles + panel * blocks + rows.start / DEPTH;
            let len = parts.count() * amx::TILE;
            // SAFETY: these weights and their tiles are this unit's.
            let (from, to) = unsafe {
                let from = start + rows.start * PANEL..start + rows.end * PANEL;
                (values.slice(from), tiles.slice_mut(tile * len..(tile + 1) * len))
            };
            amx.split_right(parts, from, to);
        };
        let Unit::Tiles { linear, panels, rows, .. } = unit.clone() else { return };
        let blocks = |rows: Range<usize>| {
            rows.clone().step_by(DEPTH).map(move |row| row..rows.end.min(row + DEPTH))
        };
        let columns = panels.start * PANEL..panels.end * PANEL;
        for panel in panels {
            blocks(rows.clone()).for_each(|rows| split(linear, self.weights, rows, panel));
        }
        for panel in rows.start / PANEL..rows.end / PANEL {
            let turned = linear.turned();
            blocks(columns.clone()).for_each(|rows| split(turned, self.turned, rows, panel));
        }
    }

    /// # Safety
    /// As of [`Parameters::update`].
    #[inline(always)]
    unsafe fn tile<S: Simd>(
        &self,
        simd: S,
        linear: Linear,
        panel: usize,
        row: usize,
        numbers: Numbers,
    ) {
        let start = linear.start + (panel * linear.inputs + row) * PANEL;
        let turned = linear.start + (row / PANEL * linear.outputs + panel * PANEL) * PANEL;
        // SAFETY: the tile is this unit's, in both orientations.
        unsafe {
            self.flat(simd, start..start + TILE, numbers);
            let weights = self.weights.slice(start..start + TILE);
            turn_square(simd, weights, self.turned.slice_mut(turned..turned + TILE));
        }
    }

    /// # Safety
    /// As of [`Parameters::update`].
    #[inline(always)]
    unsafe fn flat<S: Simd>(&self, simd: S, range: Range<usize>, numbers: Numbers) {
        // SAFETY: the range is this unit's.
        let (weights, first, second, gradient) = unsafe {
            (
                self.weights.slice_mut(range.clone()),
                self.first.slice_mut(range.clone()),
                self.second.slice_mut(range.clone()),
                self.gradient.slice(range),
            )
        };
        let clip = simd.splat(numbers.clip);
        let (keep1, new1) = (simd.splat(BETA1 as f32), simd.splat((1.0 - BETA1) as f32));
        let (keep2, new2) = (simd.splat(BETA2 as f32), simd.splat((1.0 - BETA2) as f32));
        let (step, decay) = (simd.splat(numbers.step), simd.splat(numbers.decay));
        let (root, epsilon) = (simd.splat(numbers.inverse_root), simd.splat(EPSILON as f32));
        for place in (0..weights.len()).step_by(S::LANES) {
            let g = simd.mul(load(simd, gradient, place), clip);
            let m = simd.fma(load(simd, first, place), keep1, simd.mul(g, new1));
            let v = simd.fma(load(simd, second, place), keep2, simd.mul(simd.mul(g, g), new2));
            store(simd, first, place, m);
            store(simd, second, place, v);
            let divisor = simd.fma(simd.sqrt(v), root, epsilon);
            let weight = simd.mul(load(simd, weights, place), decay);
            store(simd, weights, place, simd.fnma(step, simd.div(m, divisor), weight));
        }
    }
}

/// [`Parameters::update`], whose contract whoever makes one takes over.
struct UpdateUnit<'run> {
    parameters: &'run Parameters<'run>,
    unit: &'run Unit,
    numbers: Numbers,
}

impl Kernel for UpdateUnit<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let UpdateUnit { parameters, unit, mut numbers } = self;
        // SAFETY: each unit's places are its own; says who made this.
        unsafe {
            if let Unit::Tiles { linear, panels, rows, .. } = unit.clone() {
                for panel in panels {
                    for row in rows.clone().step_by(PANEL) {
                        parameters.tile(simd, linear, panel, row, numbers);
                    }
                }
                return parameters.split(unit);
            }
            if let Unit::Norms = unit {
                numbers.decay = 1.0;
            }
            parameters.flat(simd, unit.flat(parameters.layout), numbers);
        }
    }
}

/// Writes the transposed weights of a linear layer.
pub fn turn(linear: Linear, weights: &[f32], turned: &mut [f32]) {
    let Linear { inputs, outputs, .. } = linear;
    let (weights, turned) = (&weights[linear.range()], &mut turned[linear.range()]);
    for output in 0..outputs {
        for input in 0..inputs {
            turned[(input / PANEL * outputs + output) * PANEL + input % PANEL] =
                weights[(output / PANEL * inputs + input) * PANEL + output % PANEL];
        }
    }
}
