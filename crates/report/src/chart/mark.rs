//! Marks: the colour and the shape of a contestant, the same in every chart.

use super::at;
use maud::{Markup, html};

/// Colours in `chart.css`.
const COLORS: usize = 7;
const SHAPES: usize = 7;

/// The class of a contestant's colour.
pub fn color(contestant: usize) -> String {
    format!("c{}", contestant % COLORS)
}

/// Beyond the last colour the shapes go with others, so that only the fiftieth looks like the first.
fn shape(contestant: usize) -> usize {
    (contestant + contestant / COLORS) % SHAPES
}

/// The pattern of a contestant's lines.
pub fn dashes(contestant: usize) -> Option<&'static str> {
    [None, Some("6 3"), Some("2 2"), Some("8 3 2 3")][contestant % 4]
}

/// A contestant's marks around points, filled or as their outlines: one path for all.
pub fn marks(
    contestant: usize,
    points: impl IntoIterator<Item = (f64, f64)>,
    radius: f64,
    filled: bool,
) -> Markup {
    let outline = outline(shape(contestant), radius);
    let marks = points.into_iter().map(|(x, y)| {
        let (dx, dy) = outline.0;
        format!("M{} {}{}", at(x + dx), at(y + dy), outline.1)
    });
    let path: String = marks.collect();
    html! {
        @if filled {
            path.f d=(path) {}
        } @else {
            path.l d=(path) fill="none" {}
        }
    }
}

/// Corners around the middle, all of about the same area; the first shape, which has none, is a circle.
#[rustfmt::skip]
const CORNERS: [&[(f64, f64)]; SHAPES] = [
    &[],
    &[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    &[(0.0, -1.25), (1.2, 0.85), (-1.2, 0.85)],
    &[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)],
    &[(0.0, 1.25), (1.2, -0.85), (-1.2, -0.85)],
    &[(-1.15, 0.0), (-0.6, -1.0), (0.6, -1.0), (1.15, 0.0), (0.6, 1.0), (-0.6, 1.0)],
    &[(-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4), (0.4, 1.2), (-0.4, 1.2),
      (-0.4, 0.4), (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4)],
];

/// Where the outline of a mark begins, from its middle, and how it goes on from there.
fn outline(shape: usize, r: f64) -> ((f64, f64), String) {
    let corners = CORNERS[shape];
    let Some(first) = corners.first() else {
        let (r_, d) = (at(r), at(2.0 * r));
        return ((-r, 0.0), format!("a{r_} {r_} 0 1 0 {d} 0a{r_} {r_} 0 1 0 -{d} 0z"));
    };
    let step = |pair: &[(f64, f64)]| {
        format!("l{} {}", at((pair[1].0 - pair[0].0) * r), at((pair[1].1 - pair[0].1) * r))
    };
    ((first.0 * r, first.1 * r), corners.windows(2).map(step).collect::<String>() + "z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn forty_nine_contestants_look_different() {
        let looks: HashSet<_> = (0..49).map(|it| (color(it), shape(it))).collect();
        assert_eq!(looks.len(), 49);
    }
}
