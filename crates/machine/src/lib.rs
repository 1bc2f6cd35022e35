//! Measures this machine: the rate of its multiply-adds and the bandwidth of each level of its
//! memory, measured, so that a report can say how far from the hardware's limit a training was.
//!
//! No trainer and no backend is linked here, so the harness may use it. Rates are whole numbers of
//! operations or bytes per second, which keeps the types comparable and hashable.
//!
//! Definition of a rate: all probes take turns for several rounds, so that drift affects them alike; the
//! median of the rounds is the rate, the highest stands beside it. Threads are as many as asked
//! for, start together and are not pinned; a probe's time is from the first start to the last end.
//! Only the round trip between two cores is between two threads that are bound to them.

mod bandwidth;
mod caches;
mod capability;
mod crew;
mod fma;
mod gpu;
mod products;
mod round_trip;
mod rounds;
mod store;
mod working_set;

pub use caches::{count_listed, detect as caches};
pub use capability::{
    Access, Bandwidth, Cache, Capability, Cpu, FACTOR, FmaRate, Gpu, Level, RoundTrip,
    SCHEMA_VERSION,
};
pub use round_trip::{cores, round_trip_ns};
pub use store::{Error, save};

/// Measures the machine, which takes some seconds and should have it to itself.
pub fn measure() -> Capability {
    let mut capability = describe();
    let cpu = &mut capability.cpu;
    let counts = if cpu.threads > 1 { vec![1, cpu.threads] } else { vec![1] };
    let (float32, bf16) = (fma::float32(), fma::bf16());
    let mut probes = fma::probes(&float32, &counts);
    let multiply_adds = probes.len();
    probes.extend(fma::probes(&bf16, &counts));
    let coarse = probes.len();
    let sets = bandwidth::sets(&cpu.caches, &counts, capability.memory_bytes);
    probes.extend(bandwidth::probes(&sets));
    let mut pairs = round_trip::Pairs::new(&cores());
    let rates = rounds::run(&mut probes, &mut || pairs.look());
    let (rates, bandwidth) = rates.split_at(coarse);
    cpu.fma = fma::rates(&float32, &counts, &rates[..multiply_adds]);
    cpu.bf16 = fma::rates(&bf16, &counts, &rates[multiply_adds..]);
    cpu.bandwidth = bandwidth::rates(&sets, bandwidth);
    (cpu.round_trips, cpu.round_trips_missing) = pairs.result();
    capability.gpus = gpu::measure(); // after the CPU, which starting a device disturbs
    capability
}

/// What [`save`] kept in the user's cache; `None` if this machine was not measured.
///
/// # Errors
/// If what was kept cannot be read.
pub fn kept() -> Result<Option<Capability>, Error> {
    match files::cache_directory() {
        Some(cache) => store::load(&cache, &describe().key),
        None => Ok(None),
    }
}

/// The machine without its rates: what the system says of it.
pub fn describe() -> Capability {
    use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
    let wanted = RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing())
        .with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(wanted).ok();
    let first = system.as_ref().and_then(|system| system.cpus().first());
    let name = first.map(|cpu| cpu.brand().trim().to_owned()).filter(|name| !name.is_empty());
    let mut capability = Capability {
        schema_version: SCHEMA_VERSION,
        measured: jiff::Timestamp::now().round(jiff::Unit::Second).map_or_else(
            |_| String::new(), // only at the end of time
            |now| now.to_string(),
        ),
        rounds: rounds::ROUNDS,
        cpu: Cpu {
            name,
            architecture: std::env::consts::ARCH.to_owned(),
            cores: System::physical_core_count().ok(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            caches: caches::detect(),
            ..Cpu::default()
        },
        memory_bytes: system.map(|system| system.total_memory()).filter(|&bytes| bytes > 0),
        ..Capability::default()
    };
    capability.key = store::key(System::host_name().ok().as_deref(), &capability);
    capability
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_has_every_rate_and_they_make_sense() {
        let capability = measure();
        let threads = capability.cpu.threads;
        for count in [1, threads] {
            let peak = capability.flop_per_s(count).expect("a rate for one and for all threads");
            assert!(peak > 100_000_000, "{peak} FLOP/s are fewer than any CPU's");
            for access in [Access::Read, Access::Write, Access::Copy] {
                let memory = capability.bytes_per_s(Level::Memory, access, count);
                assert!(memory.expect("a rate") > 50_000_000, "{memory:?}");
            }
        }
        for rate in &capability.cpu.bandwidth {
            assert!(rate.bytes_per_s <= rate.highest_bytes_per_s, "{rate:?}");
        }
        for rate in &capability.cpu.bf16 {
            assert!(rate.flop_per_s > 100_000_000, "{rate:?} is less than any CPU's");
            let amx = rate.isa == "amx";
            let float32 = capability.flop_per_s(rate.threads).expect("a rate");
            assert!(!amx || rate.flop_per_s > float32, "{rate:?} is no faster than {float32}");
        }
        let text = serde_json::to_string(&capability).expect("plain data");
        assert_eq!(
            serde_json::from_str::<Capability>(&text).expect("what was written"),
            capability
        );
    }

    #[test]
    fn the_widest_set_that_ran_is_the_peak() {
        let rate = |isa: &str, threads, flop_per_s| FmaRate {
            isa: isa.to_owned(),
            threads,
            flop_per_s,
            highest_flop_per_s: flop_per_s + flop_per_s / 4,
        };
        let fma = vec![rate("avx2", 1, 100), rate("scalar", 1, 20), rate("avx2", 8, 700)];
        let capability = Capability { cpu: Cpu { fma, ..Cpu::default() }, ..Capability::default() };
        assert_eq!(capability.flop_per_s(1), Some(100));
        assert_eq!(capability.flop_per_s(8), Some(700));
        assert_eq!(capability.flop_per_s(2), None);
        assert!((capability.spread() - 0.25).abs() < 1e-9);
    }
}
