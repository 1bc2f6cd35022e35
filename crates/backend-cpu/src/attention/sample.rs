//! One sample through the model and back, with everything in L1 and L2.
//!
//! Tokens are reordered: those whose patch has a pixel that is not zero come first, filled up with
//! blank ones to whole tiles of seven; these are the active tokens. Attention does not depend on
//! the order. A blank token's embedding is the same in every sample of a step, and so is what its
//! left side of the scores is made of; both are computed once a step (see [`Work::blank_tokens`]),
//! and the gradients that pass through them are summed over the step before they are multiplied
//! (see [`super::fold`]). On MNIST 18.4 of 49 patches are not blank.
//!
//! Names: `embedded` (49, d) are the tokens after ReLU; `left` (49, d) is what their products with
//! the embedded tokens make the scores; `weights` (49, 49) the exponentials of the scores, and
//! `inverse_sums` what makes them sum to one; `mixed` (49, d) the weighted means of embedded
//! tokens; `wide` (49, f) the hidden units of the feed-forward layer.

use super::layout::{FoldedWeights, GradientParts, LOGITS, Widths};
use super::product::{Add, Term, Write, is_wide, product, product_by};
use super::softmax::{COLUMNS, PerToken, STRIDE, exponentials, row_dots};
use super::subsets::{AddTokenSums, Gates, SumUnits, for_columns};
use crate::buffer::Buffer;
use crate::finish::{Finish, load, store};
use crate::simd::{Kernel, Simd};
use mnist::{CLASSES, SIDE};
use nn::{PATCH, PATCHES};
use std::f32::consts::LN_2;

/// Tokens in a tile: 49 are seven of them.
const TILE: usize = 7;
/// Rows of a tile of a weight's gradient.
const GRADIENT_TILE: usize = 8;
const MEAN: f32 = 1.0 / PATCHES as f32;

/// One thread's work space.
pub struct Work {
    order: [usize; PATCHES],
    active: usize,
    blank_embedded: Buffer<f32>, // (49, d), by place in the image
    blank_left: Buffer<f32>,     // (49, d), by place in the image
    patches: Buffer<f32>,        // (49, 16)
    embedded: Buffer<f32>,       // (64, d)
    embedded_t: Buffer<f32>,     // (d, 48)
    left: Buffer<f32>,           // (64, d)
    weights: Buffer<f32>,        // (64, 64)
    mixed: Buffer<f32>,          // (64, d)
    gates: Gates,
    open_tokens: Buffer<f32>, // (f)
    wide_mean: Buffer<f32>,   // (f)
    d_wide: Buffer<f32>,      // (f): the same for every token
    d_mixed: Buffer<f32>,     // (64, d), by the inverse sums
    d_scores: Buffer<f32>,    // (49, 64)
    d_left: Buffer<f32>,      // (49, d)
    d_embedded: Buffer<f32>,  // (49, d): of the active tokens
    last: PerToken,
    inverse_sums: PerToken,
    means: PerToken,
}

impl Work {
    pub fn new(Widths { d, f, .. }: Widths) -> Work {
        let buffer = |rows: usize, columns: usize| Buffer::zeroed(rows * columns);
        Work {
            order: [0; PATCHES],
            active: 0,
            blank_embedded: buffer(PATCHES, d),
            blank_left: buffer(PATCHES, d),
            patches: buffer(PATCHES, PATCH),
            embedded: buffer(STRIDE, d),
            embedded_t: buffer(d, COLUMNS),
            left: buffer(STRIDE, d),
            weights: buffer(STRIDE, STRIDE),
            mixed: buffer(STRIDE, d),
            gates: Gates::new(f),
            open_tokens: buffer(1, f),
            wide_mean: buffer(1, f),
            d_wide: buffer(1, f),
            d_mixed: buffer(STRIDE, d),
            d_scores: buffer(PATCHES, STRIDE),
            d_left: buffer(PATCHES, d),
            d_embedded: buffer(PATCHES, d),
            last: [0.0; STRIDE],
            inverse_sums: [0.0; STRIDE],
            means: [0.0; STRIDE],
        }
    }

    /// Tokens of the last sample that were computed one by one.
    pub fn active(&self) -> usize {
        self.active
    }

    /// What blank tokens are embedded as in this step, (49, d).
    pub fn blank_embedded(&self) -> &[f32] {
        &self.blank_embedded
    }

    /// Computes what is the same for blank tokens of all samples, from weights that are new.
    #[inline(always)]
    pub fn blank_tokens<S: Simd>(&mut self, simd: S, widths: Widths, folded: FoldedWeights<'_>) {
        let zero = simd.splat(0.0);
        for place in (0..PATCHES * widths.d).step_by(S::LANES) {
            let value = simd.max(zero, load(simd, folded.base, place));
            store(simd, &mut self.blank_embedded, place, value);
        }
        left_side(simd, widths, folded, PATCHES, &self.blank_embedded, &mut self.blank_left);
    }

    /// The logits of an image, (28, 28).
    #[inline(always)]
    pub fn forward<S: Simd>(
        &mut self,
        simd: S,
        widths: Widths,
        folded: FoldedWeights<'_>,
        image: &[u8],
        skip_blank: bool,
    ) -> [f32; LOGITS] {
        simd.enter(Forward { work: self, widths, folded, image, skip_blank })
    }

    /// Cuts the image into patches and puts the blank ones last.
    #[inline(always)]
    fn cut<S: Simd>(&mut self, simd: S, image: &[u8], skip_blank: bool) {
        let patches = cut_bytes(image);
        let (mut seen, mut blank) = (0, 0);
        let mut blanks = [0; PATCHES];
        for (token, bytes) in patches.iter().enumerate() {
            for place in (0..PATCH).step_by(S::LANES) {
                // SAFETY: 16 bytes, a multiple of the lanes.
                let values = unsafe { simd.load_bytes(bytes.0.as_ptr().add(place)) };
                store(simd, &mut self.patches, seen * PATCH + place, values);
            }
            // Without branches: no predictor knows the next image. A blank patch is written over.
            let is_seen = usize::from(u128::from_ne_bytes(bytes.0) != 0 || !skip_blank);
            self.order[seen] = token;
            blanks[blank] = token;
            seen += is_seen;
            blank += 1 - is_seen;
        }
        self.order[seen..].copy_from_slice(&blanks[..blank]);
        self.active = seen.next_multiple_of(TILE);
        self.patches[seen * PATCH..self.active * PATCH].fill(0.0);
    }

    /// Embeds the tokens and computes their left sides of the scores.
    #[inline(always)]
    fn embed<S: Simd>(&mut self, simd: S, widths: Widths, folded: FoldedWeights<'_>) {
        let d = widths.d;
        let term = Term {
            left: &self.patches,
            left_row: PATCH,
            left_depth: 1,
            right: folded.patch,
            right_row: d,
            depth: PATCH,
        };
        let finish =
            &mut Embed { base: folded.base, order: &self.order, to: &mut self.embedded, d };
        product::<S, TILE, 1>(simd, 0..self.active, d, [term], finish);
        left_side(simd, widths, folded, self.active, &self.embedded, &mut self.left);
        for (row, &token) in self.order.iter().enumerate().skip(self.active) {
            for column in (0..d).step_by(S::LANES) {
                let (from, to) = (token * d + column, row * d + column);
                store(simd, &mut self.embedded, to, load(simd, &self.blank_embedded, from));
                store(simd, &mut self.left, to, load(simd, &self.blank_left, from));
            }
        }
        for row in (0..COLUMNS).step_by(S::LANES) {
            for column in (0..d).step_by(S::LANES) {
                let from = &self.embedded[row * d + column..][..(S::LANES - 1) * d + S::LANES];
                let to = &mut self.embedded_t[column * COLUMNS + row..];
                let to = &mut to[..(S::LANES - 1) * COLUMNS + S::LANES];
                // SAFETY: the slices end with the last rows' last elements.
                unsafe { simd.transpose(from.as_ptr(), d, to.as_mut_ptr(), COLUMNS) };
            }
        }
    }

    /// From left sides to mixed tokens.
    #[inline(always)]
    fn attend<S: Simd>(&mut self, simd: S, Widths { d, d_model, .. }: Widths) {
        let scores = Term {
            left: &self.left,
            left_row: d,
            left_depth: 1,
            right: &self.embedded_t,
            right_row: COLUMNS,
            depth: d_model,
        };
        let finish = &mut Write { to: &mut self.weights, stride: STRIDE };
        score_product(simd, scores, finish);
        let last = &self.embedded[COLUMNS * d..][..d];
        row_dots(simd, &self.left, last, 0, d, &mut self.last);
        exponentials(simd, &mut self.weights, &mut self.last, &mut self.inverse_sums);
        let mixed = Term {
            left: &self.weights,
            left_row: STRIDE,
            left_depth: 1,
            right: &self.embedded,
            right_row: d,
            depth: PATCHES,
        };
        let finish = &mut ScaleRows { factors: &self.inverse_sums, to: &mut self.mixed, stride: d };
        product::<S, TILE, 1>(simd, 0..PATCHES, d, [mixed], finish);
    }

    /// From mixed tokens to the mean of the feed-forward layer's hidden units.
    #[inline(always)]
    fn feed_forward<S: Simd>(&mut self, simd: S, widths: Widths, folded: FoldedWeights<'_>) {
        let Widths { d_model, d, f, .. } = widths;
        self.wide_mean.fill(0.0);
        self.open_tokens.fill(0.0);
        let term = Term {
            left: &self.mixed,
            left_row: d,
            left_depth: 1,
            right: folded.wide,
            right_row: f,
            depth: d_model,
        };
        let finish = &mut FeedForward {
            bias: &folded.wide[d * f..],
            gates: &mut self.gates,
            open_tokens: &mut self.open_tokens,
            sum: &mut self.wide_mean,
        };
        product::<S, TILE, 1>(simd, 0..PATCHES, f, [term], finish);
        self.gates.close(simd);
        for column in (0..f).step_by(S::LANES) {
            let mean = simd.mul(load(simd, &self.wide_mean, column), simd.splat(MEAN));
            store(simd, &mut self.wide_mean, column, mean);
        }
    }

    #[inline(always)]
    fn logits<S: Simd>(
        &self,
        simd: S,
        Widths { ff, f, .. }: Widths,
        folded: FoldedWeights<'_>,
    ) -> [f32; LOGITS] {
        const CHAINS: usize = 4; // each addition waits for the one before in its chain
        let mut logits = [0.0; LOGITS];
        for class in (0..LOGITS).step_by(S::LANES) {
            let mut sums = [simd.splat(0.0); CHAINS];
            sums[0] = load(simd, folded.logits, f * LOGITS + class);
            for first in (0..ff).step_by(CHAINS) {
                for (chain, sum) in sums.iter_mut().enumerate() {
                    // Padded to a multiple of the chains.
                    let unit = first + chain;
                    let weight = load(simd, folded.logits, unit * LOGITS + class);
                    *sum = simd.fma(simd.splat(self.wide_mean[unit]), weight, *sum);
                }
            }
            let sum = simd.add(simd.add(sums[0], sums[1]), simd.add(sums[2], sums[3]));
            store(simd, &mut logits, class, sum);
        }
        logits
    }

    /// Adds the sample's gradient, after [`Work::forward`] of the sample. `d_logits`: 10 of 16.
    #[inline(always)]
    pub fn backward<S: Simd>(
        &mut self,
        simd: S,
        widths: Widths,
        folded: FoldedWeights<'_>,
        d_logits: &[f32; LOGITS],
        gradient: &mut GradientParts<'_>,
    ) {
        simd.enter(Backward { work: self, widths, folded, d_logits, gradient });
    }

    #[inline(always)]
    fn logits_backward<S: Simd>(
        &mut self,
        simd: S,
        Widths { ff, f, .. }: Widths,
        folded: FoldedWeights<'_>,
        d_logits: &[f32; LOGITS],
        gradient: &mut GradientParts<'_>,
    ) {
        for class in (0..LOGITS).step_by(S::LANES) {
            let d = load(simd, d_logits, class);
            for unit in 0..ff {
                let place = unit * LOGITS + class;
                let old = load(simd, gradient.logits, place);
                let sum = simd.fma(simd.splat(self.wide_mean[unit]), d, old);
                store(simd, gradient.logits, place, sum);
            }
            let place = f * LOGITS + class;
            let sum = simd.add(load(simd, gradient.logits, place), d);
            store(simd, gradient.logits, place, sum);
        }
        for column in (0..f).step_by(S::LANES) {
            let mut sum = simd.splat(0.0);
            for (class, &d_logit) in d_logits.iter().enumerate().take(CLASSES) {
                let weight = load(simd, folded.logits_t, class * f + column);
                sum = simd.fma(simd.splat(d_logit * MEAN), weight, sum);
            }
            store(simd, &mut self.d_wide, column, sum);
            let old = load(simd, gradient.wide_bias, column);
            let bias = simd.fma(sum, load(simd, &self.open_tokens, column), old);
            store(simd, gradient.wide_bias, column, bias);
        }
    }

    #[inline(always)]
    fn feed_forward_backward<S: Simd>(
        &mut self,
        simd: S,
        Widths { d, .. }: Widths,
        folded: FoldedWeights<'_>,
        gradient: &mut GradientParts<'_>,
    ) {
        let weights = &mut AddTokenSums {
            gates: &mut self.gates,
            rows: &self.mixed,
            factors: &self.d_wide,
            to: gradient.wide_t,
            d,
        };
        for_columns(simd, d, weights);
        let input = &mut SumUnits {
            gates: &mut self.gates,
            rows: folded.wide_t,
            unit_factors: &self.d_wide,
            factors: &self.inverse_sums,
            to: &mut self.d_mixed,
            d,
        };
        for_columns(simd, d, input);
    }

    /// From the gradient of mixed tokens to that of the scores: weight * (d_weight - mean), where
    /// the mean of a row's `d_weight` is the dot product of `d_mixed` and `mixed`.
    #[inline(always)]
    fn attend_backward<S: Simd>(&mut self, simd: S, Widths { d, d_model, .. }: Widths) {
        row_dots(simd, &self.d_mixed, &self.mixed, d, d, &mut self.means);
        let d_weights = Term {
            left: &self.d_mixed,
            left_row: d,
            left_depth: 1,
            right: &self.embedded_t,
            right_row: COLUMNS,
            depth: d_model,
        };
        let finish = &mut ScoreGradient {
            weights: &self.weights,
            means: &self.means,
            to: &mut self.d_scores,
        };
        score_product(simd, d_weights, finish);
        let mut last = [0.0; STRIDE];
        row_dots(simd, &self.d_mixed, &self.embedded[COLUMNS * d..][..d], 0, d, &mut last);
        for (token, &d_weight) in last.iter().enumerate().take(PATCHES) {
            self.d_scores[token * STRIDE + COLUMNS] =
                self.last[token] * (d_weight - self.means[token]) * LN_2;
        }
    }

    /// The gradient of the left sides and of the weights that they are made with.
    #[inline(always)]
    fn left_backward<S: Simd>(
        &mut self,
        simd: S,
        Widths { d, .. }: Widths,
        gradient: &mut GradientParts<'_>,
    ) {
        let left = Term {
            left: &self.d_scores,
            left_row: STRIDE,
            left_depth: 1,
            right: &self.embedded,
            right_row: d,
            depth: PATCHES,
        };
        let finish = &mut Write { to: &mut self.d_left, stride: d };
        product::<S, TILE, 1>(simd, 0..PATCHES, d, [left], finish);
        for (row, &token) in self.order.iter().enumerate().skip(self.active) {
            for column in (0..d).step_by(S::LANES) {
                let place = token * d + column;
                let old = load(simd, gradient.blank, place);
                let sum = simd.add(old, load(simd, &self.d_left, row * d + column));
                store(simd, gradient.blank, place, sum);
            }
        }
        for column in (0..d).step_by(S::LANES) {
            let mut sum = load(simd, gradient.scores, d * d + column);
            for row in 0..self.active {
                sum = simd.add(sum, load(simd, &self.d_left, row * d + column));
            }
            store(simd, gradient.scores, d * d + column, sum);
        }
        let weights = Term {
            left: &self.embedded,
            left_row: 1,
            left_depth: d,
            right: &self.d_left,
            right_row: d,
            depth: self.active,
        };
        let finish = &mut Add { to: gradient.scores, stride: d };
        product::<S, GRADIENT_TILE, 1>(simd, 0..d, d, [weights], finish);
    }

    /// The gradient of the embedded tokens, through the mixed tokens, the scores' right side and,
    /// for the active ones, the left side; then that of patch weights and positions.
    #[inline(always)]
    fn embed_backward<S: Simd>(
        &mut self,
        simd: S,
        Widths { d, d_model, .. }: Widths,
        folded: FoldedWeights<'_>,
        gradient: &mut GradientParts<'_>,
    ) {
        let mixed = Term {
            left: &self.weights,
            left_row: 1,
            left_depth: STRIDE,
            right: &self.d_mixed,
            right_row: d,
            depth: PATCHES,
        };
        let right = Term { left: &self.d_scores, right: &self.left, ..mixed };
        let left = Term {
            left: &self.d_left,
            left_row: d,
            left_depth: 1,
            right: folded.scores_t,
            right_row: d,
            depth: d_model,
        };
        let finish = &mut EmbedGradient {
            embedded: &self.embedded,
            order: &self.order,
            active: self.active,
            d_embedded: &mut self.d_embedded,
            base: gradient.base,
            d,
        };
        let active = self.active;
        product::<S, TILE, 3>(simd, 0..active, d, [mixed, right, left], finish);
        product::<S, TILE, 2>(simd, active..PATCHES, d, [mixed, right], finish);

        let patch = Term {
            left: &self.patches,
            left_row: 1,
            left_depth: PATCH,
            right: &self.d_embedded,
            right_row: d,
            depth: active,
        };
        let finish = &mut Add { to: gradient.patch, stride: d };
        product::<S, GRADIENT_TILE, 1>(simd, 0..PATCH, d, [patch], finish);
    }
}

/// [`Work::forward`].
struct Forward<'run> {
    work: &'run mut Work,
    widths: Widths,
    folded: FoldedWeights<'run>,
    image: &'run [u8],
    skip_blank: bool,
}

impl Kernel for Forward<'_> {
    type Output = [f32; LOGITS];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [f32; LOGITS] {
        let Forward { work, widths, folded, image, skip_blank } = self;
        work.cut(simd, image, skip_blank);
        work.embed(simd, widths, folded);
        work.attend(simd, widths);
        work.feed_forward(simd, widths, folded);
        work.logits(simd, widths, folded)
    }
}

/// [`Work::backward`].
struct Backward<'run, 'data> {
    work: &'run mut Work,
    widths: Widths,
    folded: FoldedWeights<'run>,
    d_logits: &'run [f32; LOGITS],
    gradient: &'run mut GradientParts<'data>,
}

impl Kernel for Backward<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Backward { work, widths, folded, d_logits, gradient } = self;
        work.logits_backward(simd, widths, folded, d_logits, gradient);
        work.feed_forward_backward(simd, widths, folded, gradient);
        work.attend_backward(simd, widths);
        work.left_backward(simd, widths, gradient);
        work.embed_backward(simd, widths, folded, gradient);
    }
}

/// A patch's pixels, row by row.
#[derive(Clone, Copy)]
#[repr(align(16))]
struct Patch([u8; PATCH]);

/// Cuts an image, (28, 28), into its patches. All of them before any is read: a load that spans
/// several stores waits until they have left the store queue.
#[inline(always)]
fn cut_bytes(image: &[u8]) -> [Patch; PATCHES] {
    const SIDE_PATCHES: usize = SIDE / 4;
    let image: &[u8; SIDE * SIDE] = image.try_into().expect("an image");
    let mut patches = [Patch([0; PATCH]); PATCHES];
    for down in 0..SIDE_PATCHES {
        for row in 0..4 {
            let pixels = &image[(down * 4 + row) * SIDE..][..SIDE];
            for across in 0..SIDE_PATCHES {
                let patch = &mut patches[down * SIDE_PATCHES + across].0;
                patch[row * 4..][..4].copy_from_slice(&pixels[across * 4..][..4]);
            }
        }
    }
    patches
}

/// The left sides of the scores of the first `rows` tokens.
#[inline(always)]
fn left_side<S: Simd>(
    simd: S,
    Widths { d, d_model, .. }: Widths,
    folded: FoldedWeights<'_>,
    rows: usize,
    embedded: &[f32],
    to: &mut [f32],
) {
    let term = Term {
        left: embedded,
        left_row: d,
        left_depth: 1,
        right: folded.scores,
        right_row: d,
        depth: d_model,
    };
    let finish = &mut AddBias { bias: &folded.scores[d * d..], to, stride: d };
    product::<S, TILE, 1>(simd, 0..rows, d, [term], finish);
}

/// A product with 48 columns: three vectors of 16 at once, where there are registers for that.
#[inline(always)]
fn score_product<S: Simd>(simd: S, term: Term<'_>, finish: &mut impl Finish) {
    if is_wide::<S>() {
        product_by::<S, TILE, 3, 1>(simd, 0..PATCHES, COLUMNS, [term], finish);
    } else {
        product_by::<S, TILE, 1, 1>(simd, 0..PATCHES, COLUMNS, [term], finish);
    }
}

/// ReLU of the sums and their token's base.
struct Embed<'data> {
    base: &'data [f32],
    order: &'data [usize; PATCHES],
    to: &'data mut [f32],
    d: usize,
}

impl Finish for Embed<'_> {
    #[inline(always)]
    fn vector<S: Simd>(&mut self, simd: S, row: usize, vector: usize, sum: S::F32) {
        let column = vector * S::LANES;
        let base = load(simd, self.base, self.order[row] * self.d + column);
        let value = simd.max(simd.splat(0.0), simd.add(sum, base));
        store(simd, self.to, row * self.d + column, value);
    }
}

/// The sums and a bias.
struct AddBias<'data> {
    bias: &'data [f32],
    to: &'data mut [f32],
    stride: usize,
}

impl Finish for AddBias<'_> {
    #[inline(always)]
    fn vector<S: Simd>(&mut self, simd: S, row: usize, vector: usize, sum: S::F32) {
        let column = vector * S::LANES;
        let value = simd.add(sum, load(simd, self.bias, column));
        store(simd, self.to, row * self.stride + column, value);
    }
}

/// The sums, each row by its factor.
struct ScaleRows<'data> {
    factors: &'data PerToken,
    to: &'data mut [f32],
    stride: usize,
}

impl Finish for ScaleRows<'_> {
    #[inline(always)]
    fn vector<S: Simd>(&mut self, simd: S, row: usize, vector: usize, sum: S::F32) {
        let value = simd.mul(simd.splat(self.factors[row]), sum);
        store(simd, self.to, row * self.stride + vector * S::LANES, value);
    }
}

/// Where the ReLU lets through, for how many tokens, and the sum over tokens of what it lets through.
struct FeedForward<'data> {
    bias: &'data [f32],
    gates: &'data mut Gates,
    open_tokens: &'data mut [f32],
    sum: &'data mut [f32],
}

impl Finish for FeedForward<'_> {
    #[inline(always)]
    fn vector<S: Simd>(&mut self, simd: S, row: usize, vector: usize, sum: S::F32) {
        self.tile(simd, row, vector, &[[sum]]);
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const C: usize>(
        &mut self,
        simd: S,
        row: usize,
        vector: usize,
        sums: &[[S::F32; C]; R],
    ) {
        let (zero, one) = (simd.splat(0.0), simd.splat(1.0));
        let mut open = [[simd.gt(zero, zero); C]; R];
        for c in 0..C {
            let place = (vector + c) * S::LANES;
            let bias = load(simd, self.bias, place);
            let mut total = load(simd, self.sum, place);
            let mut count = load(simd, self.open_tokens, place);
            for (sums, open) in sums.iter().zip(&mut open) {
                let value = simd.add(sums[c], bias);
                open[c] = simd.gt(value, zero);
                total = simd.add(total, simd.max(zero, value));
                count = simd.select(open[c], simd.add(count, one), count);
            }
            store(simd, self.sum, place, total);
            store(simd, self.open_tokens, place, count);
        }
        self.gates.record(simd, row, vector * S::LANES, &open);
    }
}

/// weight * (sum - mean of the row), for scores in units of log2(e).
struct ScoreGradient<'data> {
    weights: &'data [f32],
    means: &'data PerToken,
    to: &'data mut [f32],
}

impl Finish for ScoreGradient<'_> {
    #[inline(always)]
    fn vector<S: Simd>(&mut self, simd: S, row: usize, vector: usize, sum: S::F32) {
        let place = row * STRIDE + vector * S::LANES;
        let less = simd.fma(sum, simd.splat(LN_2), simd.splat(-self.means[row] * LN_2));
        store(simd, self.to, place, simd.mul(load(simd, self.weights, place), less));
    }
}

/// The sums where the embedding's ReLU lets through: added to the gradient of the token's base and,
/// for active tokens, kept.
struct EmbedGradient<'data> {
    embedded: &'data [f32],
    order: &'data [usize; PATCHES],
    active: usize,
    d_embedded: &'data mut [f32],
    base: &'data mut [f32],
    d: usize,
}

impl Finish for EmbedGradient<'_> {
    #[inline(always)]
    fn vector<S: Simd>(&mut self, simd: S, row: usize, vector: usize, sum: S::F32) {
        let column = vector * S::LANES;
        let (place, base) = (row * self.d + column, self.order[row] * self.d + column);
        let zero = simd.splat(0.0);
        let d = simd.select(simd.gt(load(simd, self.embedded, place), zero), sum, zero);
        if row < self.active {
            store(simd, self.d_embedded, place, d);
        }
        store(simd, self.base, base, simd.add(load(simd, self.base, base), d));
    }
}
