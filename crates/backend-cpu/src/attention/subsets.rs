//! Products with a matrix of zeros and ones, by tables of the sums of all subsets of a few rows (the
//! method of the Four Russians: Arlazarov, Dinic, Kronrod and Faradzev, 1970).
//!
//! A hidden unit's gradient is the same for every token that the feed-forward layer's ReLU lets
//! through, because all that follows is linear and ends in the mean over tokens. So both products of
//! the backward pass have a matrix of zeros and ones, the gates, on their left side. Rows of the
//! right side are taken in groups, four units or four and three tokens; the sums of the sixteen
//! subsets of each group are tabled, and a group costs one addition in place of four FMAs.
//!
//! Tables hold a few columns at a time, so that they stay in L1 (32 KB for 64 units).

use crate::buffer::Buffer;
use crate::finish::{load, store};
use crate::simd::{Kernel, MAX_LANES, Simd};
use nn::PATCHES;

/// Tokens of a tile, in a group of four and one of three.
const TILE: usize = 7;
/// Groups of tokens.
const TOKEN_GROUPS: usize = 2 * PATCHES / TILE;
/// Rows of a group, at most.
const GROUP: usize = 4;
/// Units whose tokens are summed at once: enough sums for the latency of additions.
const UNIT_TILE: usize = 8;
/// Columns of a table, at most.
const WIDTH: usize = 32;
/// Subsets of a group.
const SUBSETS: usize = 1 << GROUP;

/// Where the ReLU lets through, as numbers of subsets: bit `i` stands for the `i`th of the group.
/// The units of a group are apart by the lanes, so that the numbers of a vector of groups come from
/// four vectors of units.
pub struct Gates {
    by_unit: Buffer<u8>, // (49, unit groups): the subset of a group of units, for each token
    by_token: Buffer<u8>, // (14, f): the subset of a group of tokens, for each unit
    numbers: Buffer<f32>, // (49, unit groups): `by_unit` in the making
    table: Buffer<f32>,  // (groups, 16, width)
    f: usize,
}

/// Groups of units of `f` units.
#[inline(always)]
fn unit_groups<S: Simd>(f: usize) -> usize {
    f.div_ceil(GROUP * S::LANES) * S::LANES
}

impl Gates {
    /// For `f` units, a multiple of 16.
    pub fn new(f: usize) -> Gates {
        let groups = f.next_multiple_of(GROUP * MAX_LANES) / GROUP; // any instruction set's
        let tabled = groups.max(TOKEN_GROUPS);
        Gates {
            by_unit: Buffer::zeroed(PATCHES * groups),
            by_token: Buffer::zeroed(TOKEN_GROUPS * f),
            numbers: Buffer::zeroed(PATCHES * groups),
            table: Buffer::zeroed(tabled * SUBSETS * WIDTH),
            f,
        }
    }

    /// Records a tile of `C` vectors of units: `open` says where the ReLU lets through. Tiles come
    /// with ascending units.
    #[inline(always)]
    pub fn record<S: Simd, const R: usize, const C: usize>(
        &mut self,
        simd: S,
        token: usize,
        unit: usize,
        open: &[[S::Mask; C]; R],
    ) {
        assert!(R == TILE && token.is_multiple_of(TILE));
        let groups = unit_groups::<S>(self.f);
        let zero = simd.splat(0.0);
        let mut subsets = [[zero; 2]; C]; // of the tile's two groups of tokens
        for (r, open) in open.iter().enumerate() {
            for (c, &open) in open.iter().enumerate() {
                let bit = simd.splat((1 << (r % GROUP)) as f32);
                let subset = &mut subsets[c][r / GROUP];
                *subset = simd.select(open, simd.add(*subset, bit), *subset);
                // The tile's vectors of units have different groups or different bits.
                let vector = unit / S::LANES + c;
                let place = (token + r) * groups + vector / GROUP * S::LANES;
                let bit = simd.splat((1 << (vector % GROUP)) as f32);
                let number = simd.select(open, bit, zero);
                let number = if vector.is_multiple_of(GROUP) {
                    number
                } else {
                    simd.add(load(simd, &self.numbers, place), number)
                };
                store(simd, &mut self.numbers, place, number);
            }
        }
        for (c, subsets) in subsets.iter().enumerate() {
            for (half, &subset) in subsets.iter().enumerate() {
                let place = (token / TILE * 2 + half) * self.f + unit + c * S::LANES;
                let to = &mut self.by_token[place..place + S::LANES];
                // SAFETY: a byte for each lane.
                unsafe { simd.store_bytes(to.as_mut_ptr(), subset) };
            }
        }
    }

    /// To be called when all tiles of a sample are recorded.
    #[inline(always)]
    pub fn close<S: Simd>(&mut self, simd: S) {
        let len = PATCHES * unit_groups::<S>(self.f);
        let (numbers, by_unit) = (&self.numbers[..len], &mut self.by_unit[..len]);
        for place in (0..len).step_by(S::LANES) {
            // SAFETY: both have `len` elements, a multiple of the lanes.
            unsafe {
                let number = simd.load(numbers.as_ptr().add(place));
                simd.store_bytes(by_unit.as_mut_ptr().add(place), number);
            }
        }
    }
}

/// `to[token] = factors[token] * sum over open units of unit_factors[unit] * rows[unit]`.
pub struct SumUnits<'data> {
    pub gates: &'data mut Gates,
    pub rows: &'data [f32], // (f, d)
    pub unit_factors: &'data [f32],
    pub factors: &'data [f32],
    pub to: &'data mut [f32], // (tokens, d)
    pub d: usize,
}

impl Columns for SumUnits<'_> {
    #[inline(always)]
    fn compute<S: Simd, const V: usize>(&mut self, simd: S, column: usize) {
        let Gates { by_unit, table, f, .. } = &mut *self.gates;
        let groups = unit_groups::<S>(*f);
        for (group, table) in
            table.chunks_exact_mut(SUBSETS * V * S::LANES).take(groups).enumerate()
        {
            let first = group / S::LANES * GROUP * S::LANES + group % S::LANES;
            let mut rows = [[simd.splat(0.0); V]; GROUP];
            for (i, row) in rows.iter_mut().enumerate() {
                let unit = first + i * S::LANES;
                if unit < *f {
                    let factor = simd.splat(self.unit_factors[unit]);
                    for (v, vector) in row.iter_mut().enumerate() {
                        let place = unit * self.d + column + v * S::LANES;
                        *vector = simd.mul(factor, load(simd, self.rows, place));
                    }
                }
            }
            tabulate::<S, V, SUBSETS>(simd, &rows, table);
        }
        for token in (0..PATCHES).step_by(TILE) {
            let subsets = &by_unit[token * groups..];
            let sums = look_up::<S, V, TILE>(simd, table, groups, subsets, 1, groups);
            for (r, sums) in sums.iter().enumerate() {
                let factor = simd.splat(self.factors[token + r]);
                for (v, &sum) in sums.iter().enumerate() {
                    let place = (token + r) * self.d + column + v * S::LANES;
                    store(simd, self.to, place, simd.mul(factor, sum));
                }
            }
        }
    }
}

/// `to[unit] += factors[unit] * sum over the tokens for which the unit is open of rows[token]`.
pub struct AddTokenSums<'data> {
    pub gates: &'data mut Gates,
    pub rows: &'data [f32], // (tokens, d)
    pub factors: &'data [f32],
    pub to: &'data mut [f32], // (f, d)
    pub d: usize,
}

impl Columns for AddTokenSums<'_> {
    #[inline(always)]
    fn compute<S: Simd, const V: usize>(&mut self, simd: S, column: usize) {
        let Gates { by_token, table, f, .. } = &mut *self.gates;
        let tables = table.chunks_exact_mut(SUBSETS * V * S::LANES).take(TOKEN_GROUPS);
        for (group, table) in tables.enumerate() {
            let first = group / 2 * TILE + group % 2 * GROUP;
            let mut rows = [[simd.splat(0.0); V]; GROUP];
            for (i, row) in rows.iter_mut().enumerate() {
                for (v, vector) in row.iter_mut().enumerate() {
                    // Of a group of three the fourth is the next tile's, and not tabled.
                    let token = (first + i).min(PATCHES - 1);
                    *vector = load(simd, self.rows, token * self.d + column + v * S::LANES);
                }
            }
            if group % 2 == 0 {
                tabulate::<S, V, SUBSETS>(simd, &rows, table);
            } else {
                tabulate::<S, V, { SUBSETS / 2 }>(simd, &rows, table);
            }
        }
        for unit in (0..*f).step_by(UNIT_TILE) {
            let subsets = &by_token[unit..];
            let sums = look_up::<S, V, UNIT_TILE>(simd, table, TOKEN_GROUPS, subsets, *f, 1);
            for (r, sums) in sums.iter().enumerate() {
                let factor = simd.splat(self.factors[unit + r]);
                for (v, &sum) in sums.iter().enumerate() {
                    let place = (unit + r) * self.d + column + v * S::LANES;
                    let sum = simd.fma(factor, sum, load(simd, self.to, place));
                    store(simd, self.to, place, sum);
                }
            }
        }
    }
}

/// What is computed a few columns at a time.
pub trait Columns {
    /// Computes `V` vectors of columns from `column` on. Marked `#[inline(always)]`.
    fn compute<S: Simd, const V: usize>(&mut self, simd: S, column: usize);
}

/// Computes all columns, a multiple of 16, by as many as go into a table.
#[inline(always)]
pub fn for_columns<S: Simd>(simd: S, columns: usize, work: &mut impl Columns) {
    simd.enter(AllColumns { columns, work });
}

struct AllColumns<'run, T> {
    columns: usize,
    work: &'run mut T,
}

impl<T: Columns> Kernel for AllColumns<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let AllColumns { columns, work } = self;
        let mut column = 0;
        while column < columns {
            column += match S::LANES {
                16 if column + 32 > columns => {
                    work.compute::<S, 1>(simd, column);
                    16
                }
                8 | 16 => {
                    work.compute::<S, 2>(simd, column);
                    2 * S::LANES
                }
                _ => {
                    work.compute::<S, 4>(simd, column);
                    4 * S::LANES
                }
            };
        }
    }
}

/// Writes the sums of the first `N` subsets of four rows of `V` vectors. `table`: (16, V vectors).
#[inline(always)]
fn tabulate<S: Simd, const V: usize, const N: usize>(
    simd: S,
    rows: &[[S::F32; V]; GROUP],
    table: &mut [f32],
) {
    assert!(table.len() == SUBSETS * V * S::LANES && N <= SUBSETS);
    let mut sums = [[simd.splat(0.0); V]; SUBSETS];
    for (i, row) in rows.iter().enumerate() {
        let (without, with) = sums.split_at_mut(1 << i);
        for (without, with) in without.iter().zip(with) {
            for ((without, with), &element) in without.iter().zip(with).zip(row) {
                *with = simd.add(*without, element);
            }
        }
    }
    for (subset, sums) in sums.iter().enumerate().take(N) {
        for (v, &sum) in sums.iter().enumerate() {
            store(simd, table, (subset * V + v) * S::LANES, sum);
        }
    }
}

/// For `R` rows the sum over groups of the tabled subsets: that of row `r` and group `g` is
/// `subsets[r * row + g * group]`.
#[inline(always)]
fn look_up<S: Simd, const V: usize, const R: usize>(
    simd: S,
    table: &[f32],
    groups: usize,
    subsets: &[u8],
    group: usize,
    row: usize,
) -> [[S::F32; V]; R] {
    let width = V * S::LANES;
    assert!(table.len() >= groups * SUBSETS * width);
    assert!(subsets.len() > (groups - 1) * group + (R - 1) * row);
    let (mut table, mut subsets) = (table.as_ptr(), subsets.as_ptr());
    let mut sums = [[simd.splat(0.0); V]; R];
    for _ in 0..groups {
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: `groups` tables with a row for each subset, and as many numbers of subsets
            // for each row, as asserted.
            unsafe {
                let subset = usize::from(*subsets.add(r * row)) % SUBSETS;
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = simd.add(*sum, simd.load(table.add(subset * width + v * S::LANES)));
                }
            }
        }
        table = table.wrapping_add(SUBSETS * width);
        subsets = subsets.wrapping_add(group);
    }
    sums
}
