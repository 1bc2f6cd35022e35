//! Small tables beside the one of results: a scaling curve each, and what each row's devices did.

use crate::table;
use crate::text::digits;
use measure::surroundings::Device;
use record::number::{MEGABYTE, count};
use record::scaling::{Curve, Point, curves};
use record::stats::Interval;
use record::summary::{Row, Summary};
use record::task::ScalingKind;
use record::{Record, Sample};
use std::collections::BTreeSet;

/// Cells of a bar.
const BAR: usize = 20;

/// A small table: its heading, its title, the heads of its columns, and its rows.
pub struct Panel {
    pub heading: &'static str,
    pub title: String,
    pub heads: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// All that there is something to say in; `bars` draws what a page has a chart for.
pub fn panels(summary: &Summary, bars: bool) -> Vec<Panel> {
    let curves = curves(summary.rows.iter().map(|row| &row.record));
    curves.iter().map(|it| scaling(it, bars)).chain(devices(summary)).collect()
}

fn scaling(curve: &Curve, bars: bool) -> Panel {
    let kind = match curve.kind {
        ScalingKind::Strong => "strong scaling, the same work together",
        ScalingKind::Weak => "weak scaling, the same work for each",
    };
    let has_throughput = curve.points.iter().any(|point| point.throughput.is_some());
    let mut heads = vec![curve.over.clone(), "Train (s)".to_owned()];
    heads.extend(has_throughput.then(|| "Work/s".to_owned()));
    heads.extend(["Speed-up", "Efficiency"].map(str::to_owned));
    heads.extend(bars.then(|| "Of the ideal".to_owned()));
    let first = curve.points.first().map(|point| point.number);
    let with =
        |shown: String, interval: Option<Interval>, factor: f64, point: &Point| match interval {
            Some(it) => format!("{shown} [{:.2}, {:.2}]", it.low * factor, it.high * factor),
            None if first == Some(point.number) => shown,
            None => format!("~{shown}"),
        };
    let row = |point: &Point| {
        let mut row = vec![point.number.to_string(), digits(point.train_s)];
        if has_throughput {
            row.push(point.throughput.map_or(String::new(), digits));
        }
        row.push(with(format!("{:.2}x", point.speed_up), point.interval, 1.0, point));
        let efficiency = format!("{:.1} %", 100.0 * point.efficiency);
        row.push(with(efficiency, point.efficiency_interval, 100.0, point));
        let full = ((point.efficiency * BAR as f64).round() as usize).min(BAR);
        row.extend(bars.then(|| "█".repeat(full) + &"·".repeat(BAR - full)));
        row
    };
    let title = format!("{} over {} ({kind})", curve.row, curve.over);
    Panel { heading: "Scaling", title, heads, rows: curve.points.iter().map(row).collect() }
}

/// One table of all rows on two devices or more.
fn devices(summary: &Summary) -> Option<Panel> {
    let rows: Vec<Vec<String>> =
        summary.rows.iter().filter_map(|it| of_devices(summary, it)).collect();
    let heads = [
        "Row",
        "Devices",
        "Links",
        "Memory (MB)",
        "Largest",
        "Energy (J)",
        "Busy (%)",
        "Least",
        "Lowest clock (MHz)",
        "Throttled",
    ];
    (!rows.is_empty()).then(|| Panel {
        heading: "Devices",
        title:
            "the sum or the mean of each row's devices, and the worst of them, in its last sample"
                .to_owned(),
        heads: heads.map(str::to_owned).to_vec(),
        rows,
    })
}

fn of_devices(summary: &Summary, row: &Row) -> Option<Vec<String>> {
    let record = &row.record;
    let sample = record.counted().filter(|sample| sample.status.completed()).last()?;
    let known = sample.surroundings.iter().flat_map(|it| &it.devices);
    let its =
        |it: &&Device| it.used || it.uuid.as_ref().is_some_and(|it| sample.devices.contains(it));
    let devices: Vec<&Device> = known.filter(its).collect();
    let number = devices.len().max(sample.devices.len());
    if number < 2 {
        return None;
    }
    let of = |figure: fn(&Device) -> Option<f64>| -> Vec<(f64, u32)> {
        devices.iter().filter_map(|it| Some((figure(it)?, it.index))).collect()
    };
    let sum = |figures: &[(f64, u32)]| figures.iter().map(|it| it.0).sum::<f64>();
    let shown = |value: Option<f64>| value.map_or("?".to_owned(), digits);
    let one = |it: Option<(f64, u32)>| {
        it.map_or("?".to_owned(), |(value, gpu)| format!("{} (GPU {gpu})", digits(value)))
    };
    let largest = |it: Vec<(f64, u32)>| it.into_iter().reduce(|a, b| if b.0 > a.0 { b } else { a });
    let least = |it: Vec<(f64, u32)>| it.into_iter().reduce(|a, b| if b.0 < a.0 { b } else { a });
    let all = |it: &[(f64, u32)]| Some(sum(it)).filter(|_| !it.is_empty());
    let memory = of(|it| Some(it.peak_bytes? as f64 / MEGABYTE));
    let energy = of(|it| Some(it.energy_uj? as f64 / 1e6));
    let busy = of(|it| it.busy_percent);
    let clocks = of(|it| it.sm_mhz_low.map(f64::from));
    let throttled = devices.iter().filter(|it| !it.throttled.is_empty());
    let throttled: Vec<String> = throttled.map(|it| format!("GPU {}", it.index)).collect();
    Some(vec![
        table::label(summary, row, false),
        count(number, "device"),
        links(record, sample),
        shown(all(&memory)),
        one(largest(memory)),
        shown(all(&energy)),
        shown(all(&busy).map(|sum| sum / busy.len() as f64)),
        one(least(busy)),
        one(least(clocks)),
        if devices.is_empty() {
            "?".to_owned()
        } else if throttled.is_empty() {
            "none".to_owned()
        } else {
            throttled.join(", ")
        },
    ])
}

/// How the devices that it was given reach each other.
fn links(record: &Record, sample: &Sample) -> String {
    let given = |uuid: &String| sample.devices.contains(uuid);
    let gpus = record.environment.iter().flat_map(|it| &it.gpus);
    let gpus = gpus.filter(|gpu| gpu.uuid.as_ref().is_some_and(given));
    let links =
        gpus.flat_map(|gpu| gpu.links.iter().filter(|it| given(it.0)).map(|it| it.1.as_str()));
    let links: BTreeSet<&str> = links.collect();
    if links.is_empty() { "?".to_owned() } else { links.into_iter().collect::<Vec<_>>().join(", ") }
}
