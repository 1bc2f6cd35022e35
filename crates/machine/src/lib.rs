//! What this machine can do: the rate of its multiply-adds and the bandwidth of each level of its
//! memory, measured, so that a report can say how far from the hardware's limit a training was.
//!
//! No trainer and no backend is linked here, so the harness may use it. Rates are whole numbers of
//! operations or bytes per second, which keeps the types comparable and hashable.
//!
//! What a rate is: all probes take turns for several rounds, so that drift meets them alike; the
//! median of the rounds is the rate, the highest stands beside it. Threads are as many as asked
//! for, start together and are not pinned; a probe's time is from the first start to the last end.
//! Only the round trip between two cores is between two threads that are bound to them.

mod bandwidth;
mod caches;
mod crew;
mod fma;
mod gpu;
mod round_trip;
mod rounds;
mod store;
mod working_set;

pub use round_trip::{FACTOR, cores, round_trip_ns};
pub use store::{Error, key, load, path, save};

use serde::{Deserialize, Serialize};

/// The version of the keys below. A stored file of another one is measured again.
pub const SCHEMA_VERSION: u32 = 1;

/// What a machine can do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Capability {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// Which machine: its host name and a digest of what is in it ([`key`]).
    pub key: String,
    /// When it was measured, RFC 3339 in UTC.
    pub measured: String,
    /// Rounds behind each rate.
    pub rounds: u32,
    pub cpu: Cpu,
    /// Main memory.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// The NVIDIA GPUs; empty when there are none. Others are not measured.
    #[serde(default)]
    pub gpus: Vec<Gpu>,
}

/// The CPU, as one: cores, caches and what all of it does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cpu {
    pub name: Option<String>,
    /// `x86_64`, `aarch64`.
    pub architecture: String,
    /// Physical cores.
    pub cores: Option<usize>,
    /// Hardware threads that this process may use.
    pub threads: usize,
    /// Data and unified caches, the nearest first; empty where the system does not say.
    #[serde(default)]
    pub caches: Vec<Cache>,
    /// Per instruction set, the widest first, and number of threads.
    pub fma: Vec<FmaRate>,
    /// Per level, kind of access and number of threads.
    pub bandwidth: Vec<Bandwidth>,
    /// From the first core that this process may use to each of the others, 63 at most; none in
    /// files from before they were measured.
    #[serde(default)]
    pub round_trips: Vec<RoundTrip>,
    /// Why there are none.
    #[serde(default)]
    pub round_trips_missing: Option<String>,
}

/// A data or unified cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cache {
    /// 1 is the nearest to the core.
    pub level: u8,
    /// Size of one instance.
    pub bytes: u64,
    /// Hardware threads that share an instance.
    pub shared_by: usize,
}

/// Single-precision multiply-adds from registers, two operations each.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FmaRate {
    /// `avx512`, `avx2`, `neon` or `scalar`: the CPU trainer's words. `scalar` is portable code as
    /// compiled for the oldest CPU of the architecture, with separate multiplications and additions
    /// where it has no fused ones.
    pub isa: String,
    pub threads: usize,
    /// Median of the rounds, all threads together.
    pub flop_per_s: u64,
    pub highest_flop_per_s: u64,
}

/// Sequential access to a working set that fits a level of the memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Bandwidth {
    pub level: Level,
    pub access: Access,
    pub threads: usize,
    /// Bytes that each thread passes over again and again.
    pub working_set_bytes: u64,
    /// Median of the rounds, all threads together.
    pub bytes_per_s: u64,
    pub highest_bytes_per_s: u64,
}

/// Where a working set lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    L1,
    L2,
    L3,
    Memory,
}

/// What is done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Every byte is read once a pass.
    Read,
    /// Every byte is written once a pass with ordinary stores; that the cache reads a line before
    /// it is written to is not counted.
    Write,
    /// One half is copied to the other; bytes read and bytes written both count.
    Copy,
}

/// A cache line that goes from one core to another and back, in whole nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RoundTrip {
    /// The system's numbers of them.
    pub cores: [usize; 2],
    /// Median of the rounds.
    pub ns: u64,
    pub lowest_ns: u64,
    pub highest_ns: u64,
}

impl RoundTrip {
    /// Whether the rounds differ by more than [`FACTOR`]: the two cores were not always where they
    /// were, or something else ran on them.
    pub fn moved(&self) -> bool {
        self.highest_ns as f64 > FACTOR * self.lowest_ns as f64
    }
}

/// A GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Gpu {
    pub name: String,
    pub memory_bytes: Option<u64>,
    /// Copy from its memory to its memory; bytes read and bytes written both count.
    pub copy_bytes_per_s: Option<u64>,
    /// Single-precision multiply-adds from registers, two operations each.
    pub fp32_flop_per_s: Option<u64>,
    /// The driver's version.
    pub driver: Option<String>,
}

impl Capability {
    /// The highest median rate of multiply-adds that any instruction set reached on so many threads.
    pub fn flop_per_s(&self, threads: usize) -> Option<u64> {
        let rates = self.cpu.fma.iter().filter(|rate| rate.threads == threads);
        rates.map(|rate| rate.flop_per_s).max()
    }

    /// The median bandwidth of a level.
    pub fn bytes_per_s(&self, level: Level, access: Access, threads: usize) -> Option<u64> {
        let asked = |it: &&Bandwidth| (it.level, it.access, it.threads) == (level, access, threads);
        self.cpu.bandwidth.iter().find(asked).map(|it| it.bytes_per_s)
    }

    /// By how much the highest rate of multiply-adds exceeds the median, at worst: some percent on
    /// a quiet machine.
    pub fn spread(&self) -> f64 {
        let spread = |rate: &FmaRate| rate.highest_flop_per_s as f64 / rate.flop_per_s as f64 - 1.0;
        self.cpu.fma.iter().map(spread).fold(0.0, f64::max)
    }
}

/// Measures the machine, which takes some seconds and should have it to itself.
pub fn measure() -> Capability {
    let mut capability = describe();
    let cpu = &mut capability.cpu;
    let counts = if cpu.threads > 1 { vec![1, cpu.threads] } else { vec![1] };
    let mut probes = fma::probes(&counts);
    let multiply_adds = probes.len();
    let sets = bandwidth::sets(&cpu.caches, &counts, capability.memory_bytes);
    probes.extend(bandwidth::probes(&sets));
    let mut pairs = round_trip::Pairs::new(&cores());
    let rates = rounds::run(&mut probes, &mut || pairs.look());
    let (fma, bandwidth) = rates.split_at(multiply_adds);
    cpu.fma = fma::rates(&counts, fma);
    cpu.bandwidth = bandwidth::rates(&sets, bandwidth);
    (cpu.round_trips, cpu.round_trips_missing) = pairs.result();
    capability.gpus = gpu::measure(); // after the CPU, which starting a device disturbs
    capability
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
