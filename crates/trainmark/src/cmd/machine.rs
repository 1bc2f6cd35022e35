//! `trainmark machine`: measures the speed of this machine, prints it, and keeps it for result files.

use crate::cmd::report::print;
use ::machine::{Access, Capability, FACTOR, Level};
use anyhow::{Context, Result};

/// Measure the speed of this machine.
///
/// The command measures these rates:
/// single-precision multiply-adds for each instruction set, and bfloat16 multiply-adds if the CPU has AMX or
/// AVX-512 BF16; reading, writing and copying in each cache and in main memory, on one thread and on all;
/// the round trip of a cache line between the first core and each other core; multiply-adds and the bandwidth
/// of a copy on each NVIDIA GPU.
///
/// It takes some seconds, and nothing else should run meanwhile. The result is kept in the user's cache, and
/// `trainmark run` copies it into its result files.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the result as JSON (schema/machine.schema.json)
    #[arg(long)]
    json: bool,
    /// Print the kept result and measure nothing
    #[arg(long)]
    stored: bool,
}

/// A larger spread of the multiply-adds means that something else was running.
const BUSY: f64 = 0.15;

/// Runs the verb.
///
/// # Errors
/// If nothing is stored and `--stored` asks for it, or the cache cannot be written to.
pub fn run(args: &Args) -> Result<()> {
    let none = "--stored: this machine was not measured yet; `trainmark machine` measures it";
    let capability = match args.stored {
        true => ::machine::kept()?.context(none)?,
        false => measure()?,
    };
    match args.json {
        true => print(&format!("{}\n", serde_json::to_string_pretty(&capability)?)),
        false => print(&text(&capability)),
    }
}

fn measure() -> Result<Capability> {
    let capability = ::machine::measure();
    let cache = files::cache_directory()
        .context("there is no home directory to keep the result in; set XDG_CACHE_HOME")?;
    eprintln!("Kept in {}", ::machine::save(&cache, &capability)?.display());
    if capability.spread() > BUSY {
        eprintln!(
            "warning: rates varied by {:.0} %: something else is running; measure again when the machine is idle",
            100.0 * capability.spread()
        );
    }
    Ok(capability)
}

/// The figures as text.
fn text(capability: &Capability) -> String {
    let cpu = &capability.cpu;
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64);
    let mut text = format!(
        "{}, {}, {} cores, {} threads",
        cpu.name.as_deref().unwrap_or("unknown CPU"),
        cpu.architecture,
        cpu.cores.map_or("?".to_owned(), |cores| cores.to_string()),
        cpu.threads
    );
    for cache in &cpu.caches {
        let kib = cache.bytes >> 10;
        let size = if kib < 10240 { format!("{kib} KiB") } else { format!("{} MiB", kib >> 10) };
        text += &format!(", L{} {size}", cache.level);
    }
    let memory = capability.memory_bytes.map(gib);
    text += &memory.map_or("\n".to_owned(), |memory| format!(", memory {memory}\n"));
    text += &format!(
        "Measured {}, medians of {} rounds (highest in brackets)\n",
        capability.measured, capability.rounds
    );
    let giga = |median: u64, highest: u64| {
        format!("{:9.1} ({:.1})", median as f64 / 1e9, highest as f64 / 1e9)
    };
    for (precision, rates) in [("float32", &cpu.fma), ("bfloat16", &cpu.bf16)] {
        if !rates.is_empty() {
            let title = format!("Multiply-adds, {precision}");
            text += &format!("\n{title:<28} threads    GFLOP/s\n");
        }
        for rate in rates {
            let figure = giga(rate.flop_per_s, rate.highest_flop_per_s);
            text += &format!("{:<28} {:>7}  {figure}\n", rate.isa, rate.threads);
        }
    }
    text += "\nBandwidth, set per thread    threads       GB/s\n";
    for rate in &cpu.bandwidth {
        let level = match rate.level {
            Level::L1 => "L1",
            Level::L2 => "L2",
            Level::L3 => "L3",
            Level::Memory => "memory",
        };
        let access = match rate.access {
            Access::Read => "read",
            Access::Write => "write",
            Access::Copy => "copy",
        };
        let name = format!("{level} {access}, {} KiB", rate.working_set_bytes >> 10);
        let figure = giga(rate.bytes_per_s, rate.highest_bytes_per_s);
        text += &format!("{name:<28} {:>7}  {figure}\n", rate.threads);
    }
    text += "The bytes of a copy count twice: once read, once written.\n";
    text += &between_cores(capability);
    for gpu in &capability.gpus {
        let rate = |value: Option<u64>| match value {
            Some(value) => format!("{:.1}", value as f64 / 1e9),
            None => "unmeasured".to_owned(),
        };
        let memory = gpu.memory_bytes.map_or(String::new(), |it| format!(", {}", gib(it)));
        let driver = gpu.driver.as_ref().map_or(String::new(), |it| format!(", driver {it}"));
        let (flop, copy) = (rate(gpu.fp32_flop_per_s), rate(gpu.copy_bytes_per_s));
        text += &format!("\n{}{memory}{driver}: {flop} GFLOP/s, copy {copy} GB/s\n", gpu.name);
        text += &match &gpu.products_missing {
            Some(reason) => format!("Products in tf32, bf16 and fp16: not measured: {reason}\n"),
            None => format!(
                "Products, GFLOP/s: tf32 {}, bf16 {}, fp16 {}\n",
                rate(gpu.tf32_flop_per_s),
                rate(gpu.bf16_flop_per_s),
                rate(gpu.fp16_flop_per_s)
            ),
        };
    }
    text
}

/// The round trips: a single one, or the range of several.
fn between_cores(capability: &Capability) -> String {
    let (trips, rounds) = (&capability.cpu.round_trips, capability.rounds);
    let mut text = match trips[..] {
        [] => match &capability.cpu.round_trips_missing {
            Some(reason) => format!("\nBetween cores: not measured: {reason}\n"),
            None => String::new(), // kept by a version that did not measure it
        },
        [trip] => format!(
            "\nBetween cores {} and {}: round trip {} ns; {} to {} over {rounds} rounds\n",
            trip.cores[0], trip.cores[1], trip.ns, trip.lowest_ns, trip.highest_ns
        ),
        [first, ..] => {
            let mut medians: Vec<u64> = trips.iter().map(|trip| trip.ns).collect();
            medians.sort_unstable();
            let (least, most) = (medians[0], medians[medians.len() - 1]);
            format!(
                "\nBetween core {} and each of {} others: round trip {} ns; {least} to {most} over \
                 the cores\n",
                first.cores[0],
                trips.len(),
                medians[medians.len() / 2]
            )
        }
    };
    let moved = trips.iter().filter(|trip| trip.moved()).count();
    if moved > 0 {
        text += &format!(
            "The rounds of {moved} in {} differ by more than a factor of {FACTOR}. A host that moves virtual \
             cores\nbetween the siblings of one core, cores behind one last cache and cores behind several \
             causes\nsuch differences. The times of several threads change with it.\n",
            trips.len()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::machine::{Bandwidth, Cache, Cpu, FmaRate, Gpu, RoundTrip};

    #[test]
    fn figures_are_shown_in_units_of_a_person() {
        let capability = Capability {
            cpu: Cpu {
                name: Some("Chip".into()),
                threads: 2,
                caches: vec![Cache { level: 3, bytes: 32 << 20, shared_by: 2 }],
                fma: vec![FmaRate {
                    isa: "avx2".into(),
                    threads: 2,
                    flop_per_s: 250_000_000_000,
                    highest_flop_per_s: 260_000_000_000,
                }],
                bf16: vec![FmaRate {
                    isa: "amx".into(),
                    threads: 2,
                    flop_per_s: 4_000_000_000_000,
                    highest_flop_per_s: 4_100_000_000_000,
                }],
                bandwidth: vec![Bandwidth {
                    level: Level::L1,
                    access: Access::Copy,
                    threads: 1,
                    working_set_bytes: 16 << 10,
                    bytes_per_s: 1_500_000_000,
                    highest_bytes_per_s: 1_600_000_000,
                }],
                ..Cpu::default()
            },
            gpus: vec![Gpu { name: "Card".into(), ..Gpu::default() }],
            ..Capability::default()
        };
        let text = text(&capability);
        assert!(text.starts_with("Chip, , ? cores, 2 threads, L3 32 MiB\n"), "{text}");
        assert!(
            text.contains("avx2                               2      250.0 (260.0)\n"),
            "{text}"
        );
        assert!(
            text.contains("Multiply-adds, bfloat16      threads    GFLOP/s\namx                                2     4000.0 (4100.0)\n"),
            "{text}"
        );
        assert!(text.contains("L1 copy, 16 KiB                    1        1.5 (1.6)\n"), "{text}");
        assert!(text.contains("Card: unmeasured GFLOP/s, copy unmeasured GB/s\n"), "{text}");
    }
    #[test]
    fn round_trips_are_one_line_and_words_if_the_cores_moved() {
        let trip =
            |other, ns, highest_ns| RoundTrip { cores: [0, other], ns, lowest_ns: ns, highest_ns };
        let text = |round_trips: Vec<RoundTrip>, missing: Option<&str>| {
            let round_trips_missing = missing.map(str::to_owned);
            let cpu = Cpu { round_trips, round_trips_missing, ..Cpu::default() };
            between_cores(&Capability { rounds: 7, cpu, ..Capability::default() })
        };
        assert_eq!(
            text(vec![trip(1, 110, 120)], None),
            "\nBetween cores 0 and 1: round trip 110 ns; 110 to 120 over 7 rounds\n"
        );
        let many = text(vec![trip(1, 48, 50), trip(2, 110, 512), trip(3, 500, 510)], None);
        assert!(
            many.starts_with(
                "\nBetween core 0 and each of 3 others: round trip 110 ns; 48 to 500 over the cores\n\
                 The rounds of 1 in 3 differ by more than a factor of 1.6."
            ),
            "{many}"
        );
        assert_eq!(
            text(vec![], Some("there is one core")),
            "\nBetween cores: not measured: there is one core\n"
        );
        assert_eq!(text(vec![], None), "");
    }
}
