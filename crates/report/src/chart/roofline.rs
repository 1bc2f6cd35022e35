//! How near a training came to what the machine can do: operations a second against operations for
//! each byte of weights, under the machine's measured roofs.
//!
//! No trainer counts its bytes. What is known of every one is that a step of plain SGD reads and
//! writes each weight at least once, so the operations for each byte are at most those drawn: a row
//! is as far right as it can be, and the slanted roof over it as high as it can be.

use super::axis::Origin;
use super::plot::{Measure, Plot, Series};
use super::{Chart, Table, at};
use crate::exhibit::{Entry, Panel};
use crate::text::three_digits;
use machine::{Access, Capability, Level};
use maud::{Markup, html};
use record::figures::Figure;

pub const LEAD: &str = "Filled: operations that were carried out; hollow: as if nothing had been skipped, where a \
    trainer skips work that has no effect (products with zero pixels). A hollow mark may lie above the flat roof, a \
    filled one may not; above a slanted one it may, where weights stay in a nearer cache. The roofs are what \
    trainmark machine measured here: multiply-adds from registers, and copies within each level of the memory. \
    Operations for each byte count the weights alone, read and written once a step: an upper bound.";

/// Bytes of a weight that a step moves at least: four read, four written.
const WEIGHT_BYTES: f64 = 8.0;

/// Rates are shown in thousand millions.
const GIGA: f64 = 1e9;

/// What a row did.
struct Work<'a> {
    entry: &'a Entry<'a>,
    flop_per_byte: f64,
    executed_flop_per_s: Option<f64>,
    dense_flop_per_s: Option<f64>,
}

/// The limits of a device.
struct Roofs {
    device: String,
    flop_per_s: f64,
    /// Bytes a second by the level's name.
    levels: Vec<(&'static str, f64)>,
}

/// A chart for each kind of device that the panel's rows ran on and whose limits are known.
pub fn draw(panel: &Panel) -> Vec<Chart> {
    let Some(capability) = panel.entries.iter().find_map(|it| it.record.capability.as_deref())
    else {
        return Vec::new();
    };
    let mut charts = Vec::new();
    let on_cpu = |entry: &Entry| entry.record.backend == "cpu";
    charts.extend(cpu_roofs(panel, capability).and_then(|roofs| chart(panel, &roofs, on_cpu)));
    for gpu in &capability.gpus {
        let (Some(flop), Some(copy)) = (gpu.fp32_flop_per_s, gpu.copy_bytes_per_s) else {
            continue;
        };
        let roofs = Roofs {
            device: gpu.name.clone(),
            flop_per_s: flop as f64,
            levels: vec![("memory", copy as f64)],
        };
        let on_gpu = |entry: &Entry| device(entry) == Some(&gpu.name);
        charts.extend(chart(panel, &roofs, on_gpu));
    }
    charts
}

fn device<'a>(entry: &Entry<'a>) -> Option<&'a String> {
    entry.record.trainer.as_ref()?.device.as_ref()
}

/// At as many threads as the panel's rows used at most, or the nearest that was measured.
fn cpu_roofs(panel: &Panel, capability: &Capability) -> Option<Roofs> {
    let used =
        panel.entries.iter().filter_map(|entry| entry.record.trainer.as_ref()?.threads).max();
    let cpu = &capability.cpu;
    let wanted = used.unwrap_or(cpu.threads);
    let threads = cpu.fma.iter().map(|it| it.threads).min_by_key(|it| it.abs_diff(wanted))?;
    let at_threads = cpu.fma.iter().filter(|it| it.threads == threads);
    let levels =
        [("L1", Level::L1), ("L2", Level::L2), ("L3", Level::L3), ("memory", Level::Memory)];
    let levels = levels.into_iter().filter_map(|(name, level)| {
        let of_level = cpu
            .bandwidth
            .iter()
            .filter(|it| it.level == level && it.access == Access::Copy && it.threads == threads);
        Some((name, of_level.map(|it| it.bytes_per_s).max()? as f64))
    });
    Some(Roofs {
        device: format!("{} threads", threads),
        flop_per_s: at_threads.map(|it| it.flop_per_s).max()? as f64,
        levels: levels.collect(),
    })
}

fn chart(panel: &Panel, roofs: &Roofs, is_on: impl Fn(&Entry) -> bool) -> Option<Chart> {
    let works: Vec<Work> = panel
        .charted()
        .filter(|entry| is_on(entry))
        .filter_map(|it| work(it, panel.clock?))
        .collect();
    let series: Vec<Series> = works.iter().flat_map(marks).collect();
    if series.is_empty() || roofs.levels.is_empty() {
        return None;
    }
    let x = Measure { title: "FLOP for each byte of weights", origin: Origin::Free };
    let y = Measure { title: "GFLOP/s", origin: Origin::Free };
    // Room for all ridges, where a level of the memory would meet the peak.
    let of_levels = || roofs.levels.iter().map(|it| roofs.flop_per_s / it.1);
    let rows = works.iter().map(|it| it.flop_per_byte);
    let from = of_levels().chain(rows.clone()).fold(f64::INFINITY, f64::min) / 2.0;
    let to = of_levels().chain(rows).fold(0.0, f64::max) * 3.0;
    let slowest = roofs.levels.iter().map(|it| it.1).fold(f64::INFINITY, f64::min);
    let corners = [roofs.flop_per_s * 1.6 / GIGA, from * slowest / GIGA];
    let plot = Plot::wide(x, y, &series, &[from, to], &corners)?;
    let legend_of: Vec<&Series> = {
        let mut seen = std::collections::HashSet::new();
        series.iter().filter(|it| seen.insert(it.place)).collect()
    };
    let (legend, height) = plot.legend(&legend_of);
    let drawing = html! {
        (plot.frame())
        (roof_lines(&plot, roofs, from, to))
        (plot.lines(&series))
        (legend)
    };
    let mut chart = Chart::new("Roofline", panel, height, drawing);
    chart.description = describe(&works, roofs);
    chart.table = table(&works, roofs);
    Some(chart)
}

/// The row's operations by its median sample.
fn work<'a>(entry: &'a Entry<'a>, clock: &Figure) -> Option<Work<'a>> {
    let sample = entry.median_sample(clock)?;
    let train_s = sample.timing.train_s.filter(|it| *it > 0.0)?;
    let parameters = entry.record.trainer.as_ref()?.parameters.filter(|it| *it > 0)? as f64;
    let bytes = WEIGHT_BYTES * parameters * sample.steps.filter(|it| *it > 0)? as f64;
    let flop = sample.executed_flop.or(sample.dense_flop).filter(|it| *it > 0.0)?;
    Some(Work {
        entry,
        flop_per_byte: flop / bytes,
        executed_flop_per_s: Some(flop / train_s),
        dense_flop_per_s: sample.dense_flop.filter(|it| *it > flop).map(|it| it / train_s),
    })
}

fn marks(work: &Work) -> Vec<Series> {
    let mark = |rate: Option<f64>, filled: bool| {
        Some(Series {
            place: work.entry.place,
            contestant: work.entry.contestant,
            label: work.entry.label.clone(),
            points: vec![(work.flop_per_byte, rate? / GIGA)],
            radius: 5.0,
            filled,
            weak: !work.entry.row.is_ranked(),
        })
    };
    let marks = [mark(work.executed_flop_per_s, true), mark(work.dense_flop_per_s, false)];
    marks.into_iter().flatten().collect()
}

fn roof_lines(plot: &Plot, roofs: &Roofs, from: f64, to: f64) -> Markup {
    let line = |(_, bytes_per_s): &(&str, f64)| {
        let ridge = roofs.flop_per_s / bytes_per_s;
        let start = plot.at((from, (from * bytes_per_s).min(roofs.flop_per_s) / GIGA));
        let end = plot.at((ridge.max(from), roofs.flop_per_s / GIGA));
        format!("M{} {}L{} {}", at(start.0), at(start.1), at(end.0), at(end.1))
    };
    // Caches are often so near to each other that names beside the lines would cover one another.
    let names = roofs.levels.iter();
    let names = names.map(|(name, rate)| format!("{name} {}", three_digits(rate / GIGA)));
    let names = names.collect::<Vec<_>>().join(", ");
    let corner = plot.at((from, 0.0));
    let ridges = roofs.levels.iter().map(|it| roofs.flop_per_s / it.1);
    let peak = roofs.flop_per_s / GIGA;
    let (start, end) = (plot.at((ridges.fold(to, f64::min).max(from), peak)), plot.at((to, peak)));
    html! {
        g.a {
            path.l d=(roofs.levels.iter().map(line).collect::<String>()) fill="none" {}
            text x=(at(corner.0)) y=(at(corner.1 - 8.0)) font-size="11" {
                "slanted, from the left: " (names) " GB/s"
            }
            path d={ "M" (at(start.0)) " " (at(start.1)) "H" (at(end.0)) } stroke="currentColor"
                stroke-width="1.6" {}
            text x=(at(end.0 - 2.0)) y=(at(end.1 - 6.0)) text-anchor="end" font-size="11" {
                (three_digits(roofs.flop_per_s / GIGA)) " GFLOP/s, " (roofs.device)
            }
        }
    }
}

/// The roof over a row at main memory's bandwidth, the lowest one.
fn roof(work: &Work, roofs: &Roofs) -> f64 {
    let slowest = roofs.levels.iter().map(|it| it.1).fold(f64::INFINITY, f64::min);
    roofs.flop_per_s.min(work.flop_per_byte * slowest)
}

fn describe(works: &[Work], roofs: &Roofs) -> String {
    let listed = works.iter().take(12).filter_map(|work| {
        let rate = work.executed_flop_per_s?;
        Some(format!(
            "{} {} GFLOP/s, {:.1} % of the peak",
            work.entry.label,
            three_digits(rate / GIGA),
            100.0 * rate / roofs.flop_per_s
        ))
    });
    format!(
        "Operations a second under the roofs of {}: peak {} GFLOP/s. {}.",
        roofs.device,
        three_digits(roofs.flop_per_s / GIGA),
        listed.collect::<Vec<_>>().join("; ")
    )
}

fn table(works: &[Work], roofs: &Roofs) -> Table {
    let head = [
        "Row",
        "FLOP for each byte of weights",
        "Executed (GFLOP/s)",
        "As if dense (GFLOP/s)",
        "Share of the peak (%)",
        "Share of the roof at main memory (%)",
    ];
    let giga = |it: Option<f64>| it.map_or("n/a".to_owned(), |it| three_digits(it / GIGA));
    let share = |it: Option<f64>, of: f64| {
        it.map_or("n/a".to_owned(), |it| format!("{:.1}", 100.0 * it / of))
    };
    let rows = works.iter().map(|work| {
        let rate = work.executed_flop_per_s;
        let cells = vec![
            work.entry.label.clone(),
            three_digits(work.flop_per_byte),
            giga(rate),
            giga(work.dense_flop_per_s),
            share(rate, roofs.flop_per_s),
            share(rate, roof(work, roofs)),
        ];
        (work.entry.place, cells)
    });
    Table { head: head.map(str::to_owned).to_vec(), rows: rows.collect() }
}
