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

/// A contestant's mark around a point, filled or as its outline.
pub fn mark(contestant: usize, x: f64, y: f64, radius: f64, filled: bool) -> Markup {
    let outline = outline(shape(contestant), x, y, radius);
    html! {
        @if filled {
            path d=(outline) fill="currentColor" fill-opacity=".8" {}
        } @else {
            path d=(outline) fill="none" stroke="currentColor" stroke-width="1.5" {}
        }
    }
}

/// Of about the same area whatever the shape.
fn outline(shape: usize, x: f64, y: f64, r: f64) -> String {
    let polygon = |points: &[(f64, f64)]| {
        let points: Vec<String> = points
            .iter()
            .map(|(dx, dy)| format!("{} {}", at(x + dx * r), at(y + dy * r)))
            .collect();
        format!("M{}z", points.join("L"))
    };
    match shape {
        0 => {
            let (start, r, d) = (at(x - r), at(r), at(2.0 * r));
            format!("M{start} {}a{r} {r} 0 1 0 {d} 0a{r} {r} 0 1 0 -{d} 0z", at(y))
        }
        1 => polygon(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
        2 => polygon(&[(0.0, -1.25), (1.2, 0.85), (-1.2, 0.85)]),
        3 => polygon(&[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)]),
        4 => polygon(&[(0.0, 1.25), (1.2, -0.85), (-1.2, -0.85)]),
        5 => polygon(&[
            (-1.15, 0.0),
            (-0.6, -1.0),
            (0.6, -1.0),
            (1.15, 0.0),
            (0.6, 1.0),
            (-0.6, 1.0),
        ]),
        _ => polygon(&[
            (-0.4, -1.2),
            (0.4, -1.2),
            (0.4, -0.4),
            (1.2, -0.4),
            (1.2, 0.4),
            (0.4, 0.4),
            (0.4, 1.2),
            (-0.4, 1.2),
            (-0.4, 0.4),
            (-1.2, 0.4),
            (-1.2, -0.4),
            (-0.4, -0.4),
        ]),
    }
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
