//! From figures to positions, and the round figures to label.

use super::at;
use crate::text::short;
use maud::{Markup, html};

/// Beyond this ratio of the largest to the smallest figure an axis is logarithmic.
const LINEAR_UP_TO: f64 = 8.0;
/// Figures outside of these are drawn at the axis's end: nothing measured comes near.
const SMALLEST: f64 = 1e-140;
const LARGEST: f64 = 1e140;

/// One dimension of a chart.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    whole: bool,
    /// Position of `low` and of `high`.
    pub from: f64,
    pub to: f64,
}

/// Where a linear axis may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Lengths are compared.
    Zero,
    /// Only differences matter.
    Free,
    /// Counted from zero: there is nothing between whole figures.
    Whole,
}

impl Axis {
    /// An axis on which all the figures have a place. `None` if there is no figure.
    pub fn new(figures: impl IntoIterator<Item = f64>, origin: Origin) -> Option<Axis> {
        let finite = figures.into_iter().filter(|it| it.is_finite());
        let figures: Vec<f64> =
            finite.map(|it| if it.abs() < SMALLEST { 0.0 } else { it }).collect();
        let smallest = figures.iter().copied().reduce(f64::min)?.min(LARGEST);
        let largest = figures.iter().copied().reduce(f64::max)?.min(LARGEST);
        let logarithmic =
            origin != Origin::Whole && smallest > 0.0 && largest / smallest > LINEAR_UP_TO;
        let (low, high) = if logarithmic {
            let margin = (largest / smallest.max(SMALLEST)).powf(0.04);
            (smallest.max(SMALLEST) / margin, largest * margin)
        } else {
            let spread = match largest - smallest {
                0.0 if largest == 0.0 => 1.0,
                0.0 => largest.abs() * 0.1,
                spread => spread,
            };
            match origin {
                Origin::Zero | Origin::Whole => {
                    (0.0, if largest > 0.0 { largest * 1.04 } else { 1.0 })
                }
                Origin::Free => (smallest - 0.09 * spread, largest + 0.09 * spread),
            }
        };
        let whole = origin == Origin::Whole;
        Some(Axis { low, high, logarithmic, whole, from: 0.0, to: 1.0 })
    }

    /// The same axis from one position to another.
    #[must_use]
    pub fn between(self, from: f64, to: f64) -> Axis {
        Axis { from, to, ..self }
    }

    /// Position of a figure, on the axis in any case.
    pub fn at(&self, figure: f64) -> f64 {
        let share = if self.logarithmic {
            (figure.max(SMALLEST) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (figure - self.low) / (self.high - self.low)
        };
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// What stands beside it: its title, and its scale if that is no usual one.
    pub fn titled(&self, title: &str) -> String {
        format!("{title}{}", if self.logarithmic { ", logarithmic" } else { "" })
    }

    /// Round figures in its range, a handful.
    pub fn ticks(&self) -> Vec<f64> {
        if self.logarithmic { self.logarithmic_ticks() } else { self.linear_ticks() }
    }

    /// The same with their labels.
    pub fn labels(&self) -> Vec<(f64, String)> {
        self.ticks().into_iter().map(|tick| (tick, short(tick))).collect()
    }

    /// Upright lines at the ticks, the labels below them, and the title below those.
    pub fn upright(&self, top: f64, bottom: f64, title: &str) -> Markup {
        let line = |tick| format!("M{} {}V{}", at(self.at(tick)), at(top), at(bottom));
        let lines: String = self.ticks().into_iter().map(line).collect();
        html! {
            path.g stroke="currentColor" d=(lines) {}
            g.m text-anchor="middle" font-size="11" {
                @for (tick, label) in self.labels() {
                    text x=(at(self.at(tick))) y=(at(bottom + 15.0)) { (label) }
                }
                text x=(at(self.from.midpoint(self.to))) y=(at(bottom + 33.0)) { (self.titled(title)) }
            }
        }
    }

    fn linear_ticks(&self) -> Vec<f64> {
        let rough = match self.whole {
            true => ((self.high - self.low) / 8.0).max(1.0),
            false => (self.high - self.low) / 5.0,
        };
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, if self.whole { 5.0 } else { 2.5 }, 5.0, 10.0].map(|it| it * power);
        let step = step.into_iter().find(|step| *step >= rough).unwrap_or(10.0 * power);
        let first = (self.low / step).ceil();
        let count = ((self.high / step).floor() - first).clamp(0.0, 12.0) as usize;
        (0..=count).map(|it| (first + it as f64) * step).collect()
    }

    fn logarithmic_ticks(&self) -> Vec<f64> {
        let decades = (self.high / self.low).log10();
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let factors: &[f64] = match decades {
            it if it <= 1.2 => &[1.0, 2.0, 3.0, 5.0, 7.0],
            it if it <= 3.2 => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        let every = (decades / 7.0).ceil().max(1.0) as usize;
        let powers = (first..=last).step_by(every);
        let ticks = powers.flat_map(|power| factors.iter().map(move |it| it * 10f64.powi(power)));
        ticks.filter(|tick| (self.low..=self.high).contains(tick)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(figures: &[f64], origin: Origin) -> Axis {
        Axis::new(figures.iter().copied(), origin).unwrap().between(0.0, 100.0)
    }

    #[test]
    fn a_wide_range_is_logarithmic_and_a_narrow_one_begins_at_zero_or_not() {
        assert!(axis(&[0.1, 1.0], Origin::Zero).logarithmic);
        let zero = axis(&[0.5, 1.0], Origin::Zero);
        assert!(!zero.logarithmic);
        assert_eq!(zero.at(0.0), 0.0);
        let free = axis(&[90.0, 95.0], Origin::Free);
        assert!(free.at(90.0) > 0.0 && free.at(90.0) < 10.0 && free.at(95.0) > 90.0);
        assert!(Axis::new([], Origin::Free).is_none());
    }

    #[test]
    fn ticks_are_round_figures_within_the_range() {
        assert_eq!(axis(&[0.0, 1.0], Origin::Zero).ticks(), [0.0, 0.25, 0.5, 0.75, 1.0]);
        let labels = axis(&[90.882, 90.894], Origin::Free).labels();
        let labels: Vec<&str> = labels.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(labels, ["90.885", "90.89", "90.895"]);
        assert_eq!(axis(&[0.05, 0.8], Origin::Zero).ticks(), [0.05, 0.1, 0.2, 0.5]);
        assert_eq!(axis(&[0.01, 1000.0], Origin::Free).ticks().len(), 6);
    }

    #[test]
    fn epochs_are_counted() {
        assert_eq!(axis(&[1.0, 5.0], Origin::Whole).ticks(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(axis(&[1.0, 50.0], Origin::Whole).ticks()[..3], [0.0, 10.0, 20.0]);
    }

    #[test]
    fn no_figure_is_too_large_too_small_or_too_strange() {
        for figures in
            [&[1e308, 5e-324][..], &[0.0], &[f64::NAN, 1.0], &[1e308, 1e308], &[-1.0], &[5e-324]]
        {
            let axis = axis(figures, Origin::Free);
            let ticks = axis.ticks();
            assert!(ticks.len() < 20, "{ticks:?}");
            for figure in figures.iter().chain(&ticks).filter(|it| it.is_finite()) {
                assert!((0.0..=100.0).contains(&axis.at(*figure)), "{figure} in {figures:?}");
            }
        }
    }
}
