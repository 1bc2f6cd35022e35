//! Draws one image: a style, bent, tilted and pressed as a hand would, becomes pixels.
//!
//! The arithmetic is what IEEE 754 fixes to the last bit: + - * / and square roots of `f32`, one at
//! a time (Rust never fuses them), comparisons, and conversions of integers. No sine, no power: a
//! platform's mathematics library would decide about their last bits.
//!
//! Lengths are in pixels, the origin is the middle of the image, y points downwards.

use super::strokes::{Curve, Point, Strokes};
use crate::{PIXELS, SIDE};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

/// How much hands differ; standard deviations, unless said otherwise.
struct Hand {
    /// Of each end of a curve, on its own.
    anchor_px: f32,
    /// Of each handle of a curve, besides that of its end.
    handle_px: f32,
    /// Of the points of the grid that bends the plane.
    elastic_px: f32,
    /// Tangent of the slant; its mean leans to the right.
    slant: f32,
    mean_slant: f32,
    /// Tangent of half the angle.
    half_turn: f32,
    /// Of the logarithm, about, of width over height.
    stretch: f32,
    /// Of the place of the whole digit.
    shift_px: f32,
    /// Of the size of the whole digit, as a fraction.
    size: f32,
    /// Half the width of the line: the least, and how far above that it may be.
    radius_px: f32,
    radius_range_px: f32,
    /// Of the line's width at each end of a stroke, as a fraction.
    pressure: f32,
    /// How much of its ink a pixel may lose at most.
    noise: f32,
}

const HAND: Hand = Hand {
    anchor_px: 1.15,
    handle_px: 0.85,
    elastic_px: 1.65,
    slant: 0.21,
    mean_slant: 0.1,
    half_turn: 0.07,
    stretch: 0.15,
    shift_px: 0.35,
    size: 0.05,
    radius_px: 0.65,
    radius_range_px: 0.95,
    pressure: 0.18,
    noise: 0.3,
};

/// Straight pieces of one curve: the corners of the thickest line cannot be seen.
const PIECES: usize = 7;
/// A digit is this high before its size varies; MNIST's fit 20 x 20.
const HEIGHT_PX: f32 = 20.0;
/// What the line's own width adds to the height, about.
const LINE_PX: f32 = 2.0;
/// Ink is saturated here, so that noise leaves some of the line's core at 255.
const FULL: f32 = 1.15;
/// From full ink to none at the edge of a line.
const EDGE_PX: f32 = 1.2;

/// Random quantities from a stream of words.
struct Chance<'words>(&'words mut ChaCha8Rng);

impl Chance<'_> {
    /// One of `0..choices`.
    fn choose(&mut self, choices: usize) -> usize {
        ((u64::from(self.0.next_u32()) * choices as u64) >> 32) as usize
    }

    /// Uniform in [0, 1), 24 bits.
    fn fraction(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1 << 24) as f32
    }

    /// Bell-shaped, mean 0, variance 1, within 3.5: a word's four bytes, added up.
    fn bell(&mut self) -> f32 {
        let sum: u16 = self.0.next_u32().to_le_bytes().map(u16::from).iter().sum();
        (f32::from(sum) - 510.0) / 147.8
    }

    fn bell_point(&mut self, scale: f32) -> Point {
        [self.bell() * scale, self.bell() * scale]
    }
}

/// Draws an image from its own stream of words, and returns its label.
pub(super) fn draw(styles: &[Vec<Strokes>; 10], words: &mut ChaCha8Rng, image: &mut [u8]) -> u8 {
    let mut chance = Chance(words);
    let label = chance.choose(styles.len());
    let style = &styles[label][chance.choose(styles[label].len())];
    let mut lines = write(style, &mut chance);
    bend(&mut lines, &mut chance);
    tilt(&mut lines, &mut chance);
    place(&mut lines, &mut chance);
    let ink = press(&lines, &mut chance);
    for (pixel, ink) in image.iter_mut().zip(ink) {
        // What would be dark to the eye is zero.
        *pixel = if ink > 0.02 {
            let strength = FULL - HAND.noise * chance.fraction();
            (255.0 * (ink * strength).min(1.0) + 0.5) as u8
        } else {
            0
        };
    }
    label as u8
}

/// The style as polylines, with each end of a curve displaced, its handles along with it.
fn write(style: &Strokes, chance: &mut Chance) -> Vec<Vec<Point>> {
    let in_pixels = |[x, y]: Point| [(x - 50.0) * 0.2, (y - 50.0) * 0.2];
    let mut polylines = Vec::with_capacity(style.len());
    for stroke in style {
        let mut shift = chance.bell_point(HAND.anchor_px);
        let mut start = add(in_pixels(stroke[0][0]), shift);
        let mut polyline = vec![start];
        for &[_, first, second, last] in stroke {
            let first = add(in_pixels(first), add(shift, chance.bell_point(HAND.handle_px)));
            shift = chance.bell_point(HAND.anchor_px);
            let second = add(in_pixels(second), add(shift, chance.bell_point(HAND.handle_px)));
            let end = add(in_pixels(last), shift);
            flatten([start, first, second, end], &mut polyline);
            start = end;
        }
        polylines.push(polyline);
    }
    polylines
}

/// Appends the curve's points after its first.
fn flatten([a, b, c, d]: Curve, polyline: &mut Vec<Point>) {
    for piece in 1..=PIECES {
        let t = piece as f32 / PIECES as f32;
        let u = 1.0 - t;
        let weights = [u * u * u, 3.0 * u * u * t, 3.0 * u * t * t, t * t * t]; // Bernstein
        polyline.push([0, 1].map(|axis| {
            weights[0] * a[axis]
                + weights[1] * b[axis]
                + weights[2] * c[axis]
                + weights[3] * d[axis]
        }));
    }
}

/// Knots of the elastic grid per axis, and the distance between them: three cells of the cubic
/// B-spline cover 27 px, and what lies outside moves like the edge.
const KNOTS: usize = 6;
const CELL_PX: f32 = 9.0;

/// Elastic distortion (Simard, Steinkraus and Platt, ICDAR 2003), with a cubic B-spline in place of
/// a blurred field: the plane is displaced by random vectors on a coarse grid.
fn bend(polylines: &mut [Vec<Point>], chance: &mut Chance) {
    let mut grid = [[[0.0; 2]; KNOTS]; KNOTS];
    for vector in grid.iter_mut().flatten() {
        *vector = chance.bell_point(HAND.elastic_px);
    }
    let cells = (KNOTS - 3) as f32;
    for point in polylines.iter_mut().flatten() {
        let [(column, across), (row, down)] = point.map(|coordinate| {
            let along = (coordinate / CELL_PX + cells / 2.0).clamp(0.0, cells - 0.001);
            let cell = along as usize; // rounds down
            (cell, spline_weights(along - cell as f32))
        });
        let mut shift = [0.0; 2];
        for (knots, down) in grid[row..row + 4].iter().zip(down) {
            for (vector, across) in knots[column..column + 4].iter().zip(across) {
                shift = add(shift, vector.map(|part| part * (across * down)));
            }
        }
        *point = add(*point, shift);
    }
}

/// Uniform cubic B-spline: the weights of four neighbouring knots at `t` in [0, 1).
fn spline_weights(t: f32) -> [f32; 4] {
    let (t2, u) = (t * t, 1.0 - t);
    let t3 = t2 * t;
    let inner = 3.0 * t3 - 6.0 * t2 + 4.0;
    let other = -3.0 * t3 + 3.0 * t2 + 3.0 * t + 1.0;
    [u * u * u, inner, other, t3].map(|weight| weight / 6.0)
}

/// Slant, rotation, and width against height.
fn tilt(polylines: &mut [Vec<Point>], chance: &mut Chance) {
    let slant = HAND.mean_slant + HAND.slant * chance.bell();
    let half_turn = HAND.half_turn * chance.bell();
    let stretch = (1.0 + HAND.stretch * chance.bell()).max(0.4);
    // From the tangent of half the angle, without a sine.
    let scale = 1.0 / (1.0 + half_turn * half_turn);
    let (cosine, sine) = ((1.0 - half_turn * half_turn) * scale, 2.0 * half_turn * scale);
    for point in polylines.iter_mut().flatten() {
        let (x, y) = (point[0] * stretch - slant * point[1], point[1]);
        *point = [cosine * x - sine * y, sine * x + cosine * y];
    }
}

/// Brings the digit to its size and the middle of its line to the middle of the image, both with
/// some deviation, as far as it stays within the image.
fn place(polylines: &mut [Vec<Point>], chance: &mut Chance) {
    let bounds = |polylines: &[Vec<Point>]| {
        let mut bounds = ([f32::MAX; 2], [f32::MIN; 2]);
        for point in polylines.iter().flatten() {
            for axis in [0, 1] {
                bounds.0[axis] = bounds.0[axis].min(point[axis]);
                bounds.1[axis] = bounds.1[axis].max(point[axis]);
            }
        }
        bounds
    };
    let (low, high) = bounds(polylines);
    let extent = (high[0] - low[0]).max(high[1] - low[1]).max(1.0);
    let size = (HEIGHT_PX * (1.0 + HAND.size * chance.bell())).clamp(14.0, 22.0);
    let scale = (size - LINE_PX) / extent;

    let (mut sum, mut length) = ([0.0; 2], 0.0);
    for polyline in &*polylines {
        for (a, b) in polyline.iter().zip(&polyline[1..]) {
            let piece = ((b[0] - a[0]) * (b[0] - a[0]) + (b[1] - a[1]) * (b[1] - a[1])).sqrt();
            sum = add(sum, add(*a, *b).map(|part| 0.5 * part * piece));
            length += piece;
        }
    }
    let middle = sum.map(|part| part / length);
    let shift = chance.bell_point(HAND.shift_px);
    let margin = SIDE as f32 / 2.0 - LINE_PX / 2.0 - 1.0;
    let shift: Point = std::array::from_fn(|axis| {
        let (low, high) = ((low[axis] - middle[axis]) * scale, (high[axis] - middle[axis]) * scale);
        shift[axis].min(margin - high).max(-margin - low)
    });
    for point in polylines.iter_mut().flatten() {
        *point = std::array::from_fn(|axis| (point[axis] - middle[axis]) * scale + shift[axis]);
    }
}

/// The ink of each pixel, from 0 to 1. Along each stroke the line grows thicker or thinner.
fn press(polylines: &[Vec<Point>], chance: &mut Chance) -> [f32; PIXELS] {
    let mut ink = [0.0; PIXELS];
    let radius = HAND.radius_px + HAND.radius_range_px * chance.fraction();
    for polyline in polylines {
        let (start, end) =
            (1.0 + HAND.pressure * chance.bell(), 1.0 + HAND.pressure * chance.bell());
        let step = (end - start) / polyline.len() as f32;
        for (index, (a, b)) in polyline.iter().zip(&polyline[1..]).enumerate() {
            let pressure = start + step * index as f32;
            stamp(*a, *b, (radius * pressure).max(0.5), &mut ink);
        }
    }
    ink
}

/// Inks all that is within `radius` of the straight piece from `a` to `b`, with a soft edge.
fn stamp(a: Point, b: Point, radius: f32, ink: &mut [f32; PIXELS]) {
    let reach = radius + 0.5 * EDGE_PX;
    // Pixel `i` covers the interval from `i - 14` to `i - 13`; its centre is at `i - 13.5`.
    let middle = SIDE as f32 / 2.0 - 0.5;
    let [columns, rows] = [0, 1].map(|axis| {
        let low = (a[axis].min(b[axis]) - reach + middle).max(0.0) as usize;
        let high = (a[axis].max(b[axis]) + reach + middle).max(-1.0) + 1.0;
        low..(high as usize).min(SIDE)
    });
    let along = [b[0] - a[0], b[1] - a[1]];
    let inverse = 1.0 / (along[0] * along[0] + along[1] * along[1]).max(1e-6);
    for row in rows {
        let y = row as f32 - middle - a[1];
        let line = &mut ink[row * SIDE..][columns.clone()];
        for (column, ink) in columns.clone().zip(line) {
            let x = column as f32 - middle - a[0];
            let t = ((x * along[0] + y * along[1]) * inverse).clamp(0.0, 1.0);
            let (dx, dy) = (x - t * along[0], y - t * along[1]);
            let distance = (dx * dx + dy * dy).sqrt();
            *ink = ink.max(((reach - distance) / EDGE_PX).min(1.0));
        }
    }
}

fn add(a: Point, b: Point) -> Point {
    [a[0] + b[0], a[1] + b[1]]
}
