//! Two axes, marks, lines between them, and a legend: what all charts with an x and a y share.

use super::axis::{Axis, Origin};
use super::{Chart, Table, WIDTH, at, fitted, mark};
use crate::exhibit::Entry;
use crate::text::{self, short, three_digits};
use maud::{Markup, html};

const LEFT: f64 = 54.0;
const RIGHT: f64 = WIDTH - 10.0;
pub const TOP: f64 = 28.0;
pub const BOTTOM: f64 = 226.0;
/// From the x axis to the legend.
const FOOT: f64 = 44.0;
const LEGEND_LINE: f64 = 18.0;
/// Width of a column of the legend's font.
const COLUMN: f64 = 7.0;
/// Entries of a legend; the others stand in the table.
const MAX_LEGEND: usize = 30;
/// Points of a line up to which each has a mark.
const MARKED: usize = 30;

/// The data of one entry.
#[derive(Debug)]
pub struct Series {
    pub place: usize,
    pub contestant: usize,
    pub label: String,
    pub points: Vec<(f64, f64)>,
    /// Radius of the marks.
    pub radius: f64,
    pub filled: bool,
    pub weak: bool,
}

impl Series {
    /// The series of an entry; it is faint if the entry is not ranked.
    pub fn of(entry: &Entry, points: Vec<(f64, f64)>, radius: f64, filled: bool) -> Series {
        let (place, contestant) = (entry.place, entry.contestant);
        let (label, weak) = (entry.label.clone(), !entry.row.is_ranked());
        Series { place, contestant, label, points, radius, filled, weak }
    }
}

/// The title of an axis, and where the axis may begin.
pub type Measure<'a> = (&'a str, Origin);

/// A line behind the series; what is infinite of it is at the end of an axis.
pub struct Line {
    pub points: Vec<(f64, f64)>,
    pub dashes: Option<&'static str>,
    /// Of its colour.
    pub class: &'static str,
    /// In the legend, where it lies on no mark.
    pub name: Option<String>,
}

/// A dashed line across at the target, or none.
pub fn target(target: Option<f64>) -> Vec<Line> {
    let line = |at: f64| Line {
        points: vec![(f64::NEG_INFINITY, at), (f64::INFINITY, at)],
        dashes: Some("3 3"),
        class: "a",
        name: Some(format!("target {}", short(at))),
    };
    target.map(line).into_iter().collect()
}

/// Of the element that holds all that is a series'.
fn class(series: &Series) -> String {
    let weak = if series.weak { " weak" } else { "" };
    mark::color(series.contestant) + weak
}

/// The chart of some series with its text and its table; `None` of nothing.
pub fn chart(
    title: String,
    (x, y): (Measure, Measure),
    series: &[Series],
    lines: &[Line],
) -> Option<Chart> {
    let plot = Plot::new(x, y, series, lines).filter(|_| !series.is_empty())?;
    let mut seen = std::collections::HashSet::new();
    let mut named: Vec<&Series> = series.iter().filter(|it| seen.insert(it.place)).collect();
    named.sort_by_key(|series| series.place);
    // A single series is what the title says.
    if named.len() == 1 {
        named.clear();
    }
    let (legend, height) = plot.legend(&named, lines);
    let drawing = html! { (plot.frame()) (plot.behind(lines)) (plot.lines(series)) (legend) };
    let mut chart = Chart::new(title, height, drawing);
    let ends = series.iter().take(12).filter_map(|series| {
        let (x, y) = series.points.last()?;
        Some(format!("{} at {}, {}", series.label, three_digits(*x), three_digits(*y)))
    });
    let ends = ends.collect::<Vec<_>>().join("; ");
    chart.description = format!("{} over {}: {ends}.", y.0, x.0);
    let rows = series.iter().map(|series| {
        let points = series.points.iter().map(|(x, y)| format!("{}: {y:.4}", three_digits(*x)));
        (series.place, vec![series.label.clone(), points.collect::<Vec<_>>().join("  ")])
    });
    let head = vec!["Row".to_owned(), format!("{}: {}", x.0, y.0)];
    chart.table = Table { head, rows: rows.collect() };
    Some(chart)
}

/// Two axes.
#[derive(Debug)]
pub struct Plot {
    x: Axis,
    y: Axis,
    titles: (String, String),
}

impl Plot {
    /// Axes that hold all points; `None` of none.
    fn new(x: Measure, y: Measure, series: &[Series], lines: &[Line]) -> Option<Plot> {
        let points = || {
            let points =
                series.iter().map(|it| &it.points).chain(lines.iter().map(|it| &it.points));
            points.flatten()
        };
        let x_axis = Axis::new(points().map(|it| it.0), x.1)?.between(LEFT, RIGHT);
        let y_axis = Axis::new(points().map(|it| it.1), y.1)?.between(BOTTOM, TOP);
        let titles = (x.0.to_owned(), y_axis.titled(y.0));
        Some(Plot { x: x_axis, y: y_axis, titles })
    }

    /// Position of a point.
    fn at(&self, point: (f64, f64)) -> (f64, f64) {
        (self.x.at(point.0), self.y.at(point.1))
    }

    /// The grid with its figures and titles.
    fn frame(&self) -> Markup {
        let line = |tick| format!("M{LEFT} {}H{RIGHT}", at(self.y.at(tick)));
        let across: String = self.y.ticks().into_iter().map(line).collect();
        html! {
            (self.x.upright(TOP, BOTTOM, &self.titles.0))
            path.g stroke="currentColor" d=(across) {}
            path.a d={ "M" (LEFT) " " (BOTTOM) "H" (RIGHT) } stroke="currentColor" {}
            g.m font-size="11" {
                text x="2" y="12" { (self.titles.1) }
                g text-anchor="end" {
                    @for (tick, label) in self.y.labels() {
                        text x=(LEFT - 6.0) y=(at(self.y.at(tick) + 4.0)) { (label) }
                    }
                }
            }
        }
    }

    fn behind(&self, lines: &[Line]) -> Markup {
        html! {
            @for line in lines {
                path.(line.class) d=(self.path(&line.points)) fill="none" stroke="currentColor"
                    stroke-width="1.6" stroke-dasharray=[line.dashes] {}
            }
        }
    }

    /// Lines through each series' points, and a mark at each.
    fn lines(&self, series: &[Series]) -> Markup {
        html! {
            @for series in series {
                g class=(class(series)) data-r=(series.place) {
                    title { (series.label) }
                    @if series.points.len() > 1 {
                        path.l d=(self.path(&series.points)) fill="none"
                            stroke-dasharray=[mark::dashes(series.contestant)] {}
                    }
                    (mark::marks(series.contestant, self.marked(series), series.radius, series.filled))
                }
            }
        }
    }

    /// The points that have a mark: all, or of very many the last.
    fn marked(&self, series: &Series) -> impl Iterator<Item = (f64, f64)> {
        let count = series.points.len();
        let first = if count <= MARKED { 0 } else { count - 1 };
        series.points[first..].iter().map(|point| self.at(*point))
    }

    fn path(&self, points: &[(f64, f64)]) -> String {
        let points = points.iter().map(|point| {
            let (x, y) = self.at(*point);
            format!("{} {}", at(x), at(y))
        });
        format!("M{}", points.collect::<Vec<_>>().join("L"))
    }

    /// The names of the series and of the lines behind them under the plot, and the height of all.
    fn legend(&self, series: &[&Series], lines: &[Line]) -> (Markup, f64) {
        let mut placed = Vec::new();
        let (mut x, mut y) = (LEFT, BOTTOM + FOOT + 10.0);
        for series in series.iter().take(MAX_LEGEND) {
            let label = fitted(&series.label, 52);
            let width = 28.0 + COLUMN * text::width(&label) as f64;
            if x > LEFT && x + width > RIGHT {
                (x, y) = (LEFT, y + LEGEND_LINE);
            }
            placed.push((x, y, series, label));
            x += width;
        }
        let more = series.len().saturating_sub(MAX_LEGEND);
        let more = (more > 0).then(|| (format!("and {more} more"), None));
        let named = lines.iter().filter_map(|it| Some((it.name.clone()?, Some(it.dashes))));
        let below: Vec<_> = more.into_iter().chain(named).collect();
        let drawing = html! {
            @for (x, y, series, label) in &placed {
                g class=(class(series)) data-r=(series.place) {
                    (mark::marks(series.contestant, [(x + 5.0, *y)], 4.0, series.filled))
                    text.t x=(at(x + 14.0)) y=(at(y + 4.0)) { (label) }
                }
            }
            @for (index, (name, stroke)) in below.iter().enumerate() {
                @let y = y + LEGEND_LINE * (index + 1) as f64;
                @if let Some(dashes) = stroke {
                    path.a d={ "M" (LEFT) " " (at(y)) "h22" } stroke="currentColor" stroke-dasharray=[*dashes] {}
                }
                text.m x=(LEFT + 28.0) y=(at(y + 4.0)) { (fitted(name, 52)) }
            }
        };
        (drawing, y + LEGEND_LINE * below.len() as f64 + 14.0)
    }
}
