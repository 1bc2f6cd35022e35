//! `trainmark machine`: measures what this machine can do, prints it, and keeps it for result files.

use crate::cmd::report::print;
use ::machine::{Access, Capability, Level};
use anyhow::{Context, Result, bail};
use std::process::ExitCode;

/// Measure what this machine can do.
///
/// Single-precision multiply-adds per instruction set, and reading, writing and copying in each
/// cache and in main memory, on one thread and on all; of each NVIDIA GPU the multiply-adds and the
/// bandwidth of a copy in its memory. Takes some seconds and should have the
/// machine to itself. What was measured is kept in the user's cache, from where `trainmark run`
/// copies it into its result files.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the JSON that is kept (schema/machine.schema.json)
    #[arg(long)]
    json: bool,
    /// Measure nothing: print what was kept
    #[arg(long)]
    stored: bool,
}

/// A spread of the multiply-adds beyond this means that something else was running.
const BUSY: f64 = 0.15;

/// Runs the verb.
///
/// # Errors
/// If nothing is stored and `--stored` asks for it, or the cache cannot be written to.
pub fn run(args: &Args) -> Result<ExitCode> {
    let capability = match args.stored {
        true => match crate::machine::capability()? {
            Some(capability) => capability,
            None => bail!("--stored: this machine was not measured yet; `trainmark machine` does"),
        },
        false => {
            let capability = ::machine::measure();
            let cache = mnist::cache_directory()
                .context("there is no home directory to keep the result in; set XDG_CACHE_HOME")?;
            let file = ::machine::save(&cache, &capability)?;
            eprintln!("Kept in {}", file.display());
            if capability.spread() > BUSY {
                eprintln!(
                    "warning: rates varied by {:.0} %: something else is running; measure again \
                     when the machine is idle",
                    100.0 * capability.spread()
                );
            }
            capability
        }
    };
    match args.json {
        true => print(&format!("{}\n", serde_json::to_string_pretty(&capability)?))?,
        false => print(&text(&capability))?,
    }
    Ok(ExitCode::from(protocol::exit::SUCCESS))
}

/// The figures as a person reads them.
fn text(capability: &Capability) -> String {
    let cpu = &capability.cpu;
    let unknown = "unknown CPU".to_owned();
    let mut text = format!(
        "{}, {}, {} cores, {} threads",
        cpu.name.as_ref().unwrap_or(&unknown),
        cpu.architecture,
        cpu.cores.map_or("?".to_owned(), |cores| cores.to_string()),
        cpu.threads
    );
    for cache in &cpu.caches {
        let kib = cache.bytes >> 10;
        let size = if kib < 10240 { format!("{kib} KiB") } else { format!("{} MiB", kib >> 10) };
        text += &format!(", L{} {size}", cache.level);
    }
    text += &match capability.memory_bytes {
        Some(bytes) => format!(", memory {:.1} GiB\n", bytes as f64 / (1u64 << 30) as f64),
        None => "\n".to_owned(),
    };
    text += &format!(
        "Measured {}, medians of {} rounds (highest in brackets)\n",
        capability.measured, capability.rounds
    );
    let giga = |median: u64, highest: u64| {
        format!("{:9.1} ({:.1})", median as f64 / 1e9, highest as f64 / 1e9)
    };
    text += "\nMultiply-adds, float32       threads    GFLOP/s\n";
    for rate in &cpu.fma {
        let figure = giga(rate.flop_per_s, rate.highest_flop_per_s);
        text += &format!("{:<28} {:>7}  {figure}\n", rate.isa, rate.threads);
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
    text += "A copy's bytes count twice: read and written.\n";
    for gpu in &capability.gpus {
        let rate = |value: Option<u64>| value.map(|value| format!("{:.1}", value as f64 / 1e9));
        let unmeasured = || "unmeasured".to_owned();
        text += &format!(
            "\n{}{}{}: {} GFLOP/s, copy {} GB/s\n",
            gpu.name,
            gpu.memory_bytes.map_or(String::new(), |bytes| {
                format!(", {:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
            }),
            gpu.driver.as_ref().map_or(String::new(), |driver| format!(", driver {driver}")),
            rate(gpu.fp32_flop_per_s).unwrap_or_else(unmeasured),
            rate(gpu.copy_bytes_per_s).unwrap_or_else(unmeasured)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::machine::{Bandwidth, Cache, Cpu, FmaRate, Gpu};

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
        assert!(text.contains("L1 copy, 16 KiB                    1        1.5 (1.6)\n"), "{text}");
        assert!(text.contains("Card: unmeasured GFLOP/s, copy unmeasured GB/s\n"), "{text}");
    }
}
