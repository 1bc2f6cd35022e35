//! The capability of a machine: the types, as they are stored.

use serde::{Deserialize, Serialize};

/// The version of the keys below. A stored file of another one is measured again.
pub const SCHEMA_VERSION: u32 = 1;

/// The capability of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Capability {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// Which machine: its host name and a digest of what is in it.
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
    /// The same of bfloat16 products that are summed in float32: `amx` and `avx512bf16`. Empty where the
    /// CPU has neither, and in files from before they were measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bf16: Vec<FmaRate>,
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

/// Multiply-adds from registers, two operations each.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FmaRate {
    /// Of single precision `avx512`, `avx2`, `neon` or `scalar`: the CPU trainer's words. `scalar` is portable code as
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

/// The kind of access.
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

/// By how much two round trips between the same cores differ only if the cores, or what lies between
/// them, are not what they were: siblings of one core, cores behind one cache and cores behind two
/// are further apart (Zen 4: 45, 90 to 120 and 455 to 540 ns), and none of them spreads so far.
pub const FACTOR: f64 = 1.6;

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
    /// Products of large matrices whose factors are rounded so, with sums in float32, through cuBLASLt.
    pub tf32_flop_per_s: Option<u64>,
    pub bf16_flop_per_s: Option<u64>,
    pub fp16_flop_per_s: Option<u64>,
    /// Why there are none of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub products_missing: Option<String>,
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
