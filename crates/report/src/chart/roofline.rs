//! How near a training came to the limits of the machine: operations per second over operations for each byte of
//! weights, below the machine's measured roofs.
//!
//! No trainer counts its bytes. It is known only that a step reads and writes each weight at least once, so the operations for each byte are at most those drawn: a row is as far right as it can
//! be, and the slanted roof over it as high as it can be.

use super::Chart;
use super::axis::Origin;
use super::plot::{self, Line, Series};
use crate::exhibit::{Entry, Panel};
use crate::text::{three_digits, visible};
use machine::{Access, Capability, Level};
use record::figures::Figure;
use std::collections::BTreeMap;

pub const LEAD: &str = "The line is the limit of this machine: the flat part is the measured rate of multiply-adds in \
    float32, and the slanted part follows from the measured bandwidth of the memory. A dashed line is the limit of rows in \
    another precision. The nearer a mark is to the line, the \
    more of the machine the training used. A filled mark counts the operations that were carried out. A hollow \
    mark also counts the products with zero that were skipped.";

/// Bytes of a weight that a step moves at least: four read, four written.
const WEIGHT_BYTES: f64 = 8.0;
/// Rates are shown in thousand millions.
const GIGA: f64 = 1e9;

/// The limits of a device: the rate is that of float32.
struct Roofs {
    device: String,
    flop_per_s: f64,
    bytes_per_s: f64,
}

/// A chart for each device that the panel's rows ran on and whose limits are known.
pub fn draw(panel: &Panel) -> Vec<Chart> {
    let Some(clock) = panel.clock else { return Vec::new() };
    let Some(capability) = panel.entries.iter().find_map(|it| it.row.record.capability.as_deref())
    else {
        return Vec::new();
    };
    let device = |entry: &Entry| entry.row.record.trainer.as_ref()?.device.clone();
    let mut charts = Vec::new();
    if let Some(roofs) = cpu_roofs(panel, capability) {
        charts.extend(chart(panel, clock, &roofs, |entry| entry.row.record.backend == "cpu"));
    }
    for gpu in &capability.gpus {
        if let (Some(flop), Some(copy)) = (gpu.fp32_flop_per_s, gpu.copy_bytes_per_s) {
            let (flop_per_s, bytes_per_s) = (flop as f64, copy as f64);
            let roofs = Roofs { device: gpu.name.clone(), flop_per_s, bytes_per_s };
            // A row on several is under several roofs.
            let alone =
                |entry: &Entry| entry.row.record.samples.iter().all(|it| it.devices.len() < 2);
            let is_on = |entry: &Entry| device(entry).as_ref() == Some(&gpu.name) && alone(entry);
            charts.extend(chart(panel, clock, &roofs, is_on));
        }
    }
    charts
}

/// At as many threads as the panel's rows used at most, or the nearest that was measured.
fn cpu_roofs(panel: &Panel, capability: &Capability) -> Option<Roofs> {
    let used =
        panel.entries.iter().filter_map(|entry| entry.row.record.trainer.as_ref()?.threads).max();
    let cpu = &capability.cpu;
    let wanted = used.unwrap_or(cpu.threads);
    let threads = cpu.fma.iter().map(|it| it.threads).min_by_key(|it| it.abs_diff(wanted))?;
    let flop_per_s = capability.flop_per_s(threads)? as f64;
    let bytes_per_s = capability.bytes_per_s(Level::Memory, Access::Copy, threads)? as f64;
    Some(Roofs { device: format!("{threads} threads"), flop_per_s, bytes_per_s })
}

fn chart(
    panel: &Panel,
    clock: &Figure,
    roofs: &Roofs,
    is_on: impl Fn(&Entry) -> bool,
) -> Option<Chart> {
    let entries: Vec<&Entry> = panel.charted().filter(|entry| is_on(entry)).collect();
    let series: Vec<Series> = entries.iter().filter_map(|it| marks(it, clock)).flatten().collect();
    let others: BTreeMap<String, f64> = entries.iter().filter_map(|it| own_peak(it)).collect();
    // Room for the ridge, where the memory would meet the peak.
    let ridge = roofs.flop_per_s / roofs.bytes_per_s;
    let xs = series.iter().map(|it| it.points[0].0).chain([ridge]);
    let (from, to) = xs.fold((f64::INFINITY, 0.0f64), |(low, high), x| (low.min(x), high.max(x)));
    let (from, to) = (from / 2.0, to * 3.0);
    let peak = roofs.flop_per_s / GIGA;
    let (slope, device) = (roofs.bytes_per_s / GIGA, visible(&roofs.device, 40));
    let roof = Line {
        points: vec![(from, from * slope), (ridge, peak), (to, peak)],
        dashes: None,
        class: "a",
        name: Some(format!(
            "{} GFLOP/s, {} GB/s: {device}",
            three_digits(peak),
            three_digits(slope)
        )),
    };
    let other = |(name, peak): (&String, &f64)| Line {
        points: vec![((peak / slope).clamp(from, to), *peak), (to, *peak)],
        dashes: Some("6 3"),
        class: "a",
        name: Some(format!("{name}: {} GFLOP/s", three_digits(*peak))),
    };
    let lines: Vec<Line> = [roof].into_iter().chain(others.iter().map(other)).collect();
    let axes = (("FLOP for each byte of weights", Origin::Free), ("GFLOP/s", Origin::Free));
    plot::chart(panel.titled("Roofline"), axes, &series, &lines)
}

/// The peak that a row in another precision than plain float32 is held against, in GFLOP/s, by the name of that.
fn own_peak(entry: &Entry) -> Option<(String, f64)> {
    let record = &entry.row.record;
    let trainer = record.trainer.as_ref()?;
    let stated = trainer.precision.as_deref().unwrap_or("float32");
    let amx = trainer.path.as_deref().is_some_and(|path| path.contains("amx"));
    let name = format!("{}{}", visible(stated, 20), if amx { " on AMX" } else { "" });
    let peak = record.roofline.as_ref()?.peak_flop_per_s? / GIGA;
    (!matches!(&*name, "float32" | "f32" | "fp32")).then_some((name, peak))
}

/// The row's operations by its median sample: those carried out, and as if nothing had been skipped.
fn marks(entry: &Entry, clock: &Figure) -> Option<Vec<Series>> {
    let sample = entry.median_sample(clock)?;
    let train_s = sample.timing.train_s.filter(|it| *it > 0.0)?;
    let parameters = entry.row.record.trainer.as_ref()?.parameters.filter(|it| *it > 0)? as f64;
    let bytes = WEIGHT_BYTES * parameters * sample.steps.filter(|it| *it > 0)? as f64;
    let flop = sample.executed_flop.or(sample.dense_flop).filter(|it| *it > 0.0)?;
    let mark = |rate: f64, filled| {
        Series::of(entry, vec![(flop / bytes, rate / train_s / GIGA)], 5.0, filled)
    };
    let dense = sample.dense_flop.filter(|it| *it > flop).map(|it| mark(it, false));
    Some([mark(flop, true)].into_iter().chain(dense).collect())
}
