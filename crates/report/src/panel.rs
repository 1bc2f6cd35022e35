//! Small tables beside the one of results: a scaling curve each, and what each row's devices and ranks did.

use crate::table;
use crate::text::{digits, visible};
use measure::surroundings::Device;
use record::number::{MEGABYTE, count};
use record::scaling::{Curve, Point, curves};
use record::stats::Interval;
use record::summary::{Row, Summary};
use record::task::ScalingKind;
use record::{RankRecord, Record, Sample};
use std::collections::BTreeSet;

/// Cells of a bar.
const BAR: usize = 20;
/// Characters of the cores of all ranks.
const CORES: usize = 80;

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
    curves
        .iter()
        .map(|it| scaling(it, bars))
        .chain(devices(summary))
        .chain(ranks(summary))
        .collect()
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

/// Of a short run, or beside others, the boards' counters tell nothing: then the record says why.
const ENERGY: &str = "Energy (J)";

/// A figure of a device, whether several are averaged and not added up, and whether the least is the worst.
type Figure = (&'static str, fn(&Device) -> Option<f64>, bool, bool);

const FIGURES: [Figure; 4] = [
    ("Memory (MB)", |it| Some(it.peak_bytes? as f64 / MEGABYTE), false, false),
    (ENERGY, |it| Some(it.energy_uj? as f64 / 1e6), false, false),
    ("Busy (%)", |it| it.busy_percent, true, true),
    ("Lowest clock (MHz)", |it| it.sm_mhz_low.map(f64::from), true, true),
];

/// One table of all rows whose ranks' memory is known, of each rank.
fn ranks(summary: &Summary) -> Option<Panel> {
    let heads = ["Row", "Ranks", "Host memory (MB)", "Cores"].map(str::to_owned).to_vec();
    let rows: Vec<_> = summary.rows.iter().filter_map(|it| of_ranks(summary, it)).collect();
    let title = "of each row's last sample: the memory of all its processes, then that of the rank with most, and the \
                 cores that the ranks were allowed";
    (!rows.is_empty()).then(|| Panel { heading: "Ranks", title: title.to_owned(), heads, rows })
}

fn of_ranks(summary: &Summary, row: &Row) -> Option<Vec<String>> {
    let sample = last(row)?;
    let memory = |it: &RankRecord| Some((it.peak_memory_bytes?, it.rank));
    let most = sample.ranks.iter().map(memory).collect::<Option<Vec<_>>>()?.into_iter().max()?;
    let shown = |bytes: u64| digits(bytes as f64 / MEGABYTE);
    let cores = sample.ranks.iter().filter_map(|it| it.cpus.as_deref());
    let different: BTreeSet<&str> = cores.clone().collect();
    let cores: Vec<&str> =
        if different.len() > 1 { cores.collect() } else { different.into_iter().collect() };
    Some(vec![
        table::label(summary, row, false),
        count(sample.ranks.len(), "rank"),
        format!("{}; {} (rank {})", shown(sample.peak_memory_bytes?), shown(most.0), most.1),
        visible(&cores.join(" | "), CORES).into_owned(),
    ])
}

/// The row's last sample that counts.
fn last(row: &Row) -> Option<&Sample> {
    row.record.counted().filter(|sample| sample.status.completed()).last()
}

/// One table of all rows on two devices or more.
fn devices(summary: &Summary) -> Option<Panel> {
    let heads = ["Row", "Devices", "Links"].into_iter().chain(FIGURES.iter().map(|it| it.0));
    let heads = heads.chain(["Throttled"]).map(str::to_owned).collect();
    let rows: Vec<_> = summary.rows.iter().filter_map(|it| of_devices(summary, it)).collect();
    let title = "of each row's last sample: all its devices (clocks and busy time: their mean), then the worst one";
    (!rows.is_empty()).then(|| Panel { heading: "Devices", title: title.to_owned(), heads, rows })
}

fn of_devices(summary: &Summary, row: &Row) -> Option<Vec<String>> {
    let sample = last(row)?;
    let given = |it: &Device| it.uuid.as_ref().is_some_and(|it| sample.devices.contains(it));
    let known = sample.surroundings.iter().flat_map(|it| &it.devices);
    let devices: Vec<&Device> = known.filter(|it| it.used || given(it)).collect();
    let number = devices.len().max(sample.devices.len());
    if number < 2 {
        return None;
    }
    let mut cells = vec![
        table::label(summary, row, false),
        count(number, "device"),
        links(&row.record, sample),
    ];
    let energy = "device_energy_uj";
    let of_row = row.record.meters.get(energy);
    let invalid = sample.invalid.contains_key(energy)
        || of_row.is_some_and(|it| it.value.is_some() && !it.valid);
    cells.extend(FIGURES.iter().map(|figure| match figure.0 == ENERGY && invalid {
        true => "not valid".to_owned(),
        false => told(&devices, number, figure),
    }));
    cells.push(throttled(&devices, number));
    Some(cells)
}

/// A figure of so many devices together, and the worst; unknown if one of them does not tell it.
fn told(devices: &[&Device], number: usize, (_, figure, mean, least): &Figure) -> String {
    let known = || devices.iter().filter_map(|it| Some((figure(it)?, it.index)));
    let sum: f64 = known().map(|it| it.0).sum();
    let total = if *mean { sum / number as f64 } else { sum };
    let worst = known().reduce(|one, other| if (other.0 < one.0) == *least { other } else { one });
    match worst.filter(|_| known().count() == number) {
        Some((worst, gpu)) => format!("{}; {} (GPU {gpu})", digits(total), digits(worst)),
        None => "?".to_owned(),
    }
}

/// Of so many devices those whose clocks were held down; one that was not seen at work has not said no.
fn throttled(devices: &[&Device], number: usize) -> String {
    let those = devices.iter().filter(|it| !it.throttled.is_empty());
    let those: Vec<String> = those.map(|it| format!("GPU {}", it.index)).collect();
    match devices.iter().filter(|it| it.used).count() == number {
        _ if !those.is_empty() => those.join(", "),
        true => "none".to_owned(),
        false => "?".to_owned(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_device_that_tells_nothing_nothing_is_known() {
        let device =
            |index, peak_bytes| Device { index, peak_bytes, used: true, ..Device::default() };
        let (one, other) = (device(0, Some(1_000_000)), device(1, Some(3_000_000)));
        assert_eq!(told(&[&one, &other], 2, &FIGURES[0]), "4.000; 3.000 (GPU 1)");
        assert_eq!(throttled(&[&one, &other], 2), "none");
        let silent = Device { used: false, ..device(1, None) };
        assert_eq!(told(&[&one, &silent], 2, &FIGURES[0]), "?");
        assert_eq!(throttled(&[&one, &silent], 2), "?");
        assert_eq!((told(&[], 2, &FIGURES[0]), throttled(&[], 2)), ("?".into(), "?".into()));
        let hot = Device { throttled: ["hw_slowdown".to_owned()].into(), ..one.clone() };
        assert_eq!(throttled(&[&hot, &silent], 2), "GPU 0");
    }
}
