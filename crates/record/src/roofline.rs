//! Operations per second, and how far that is from what the machine can do.
//!
//! There are two rates. The *dense* one counts every operation that the model asks for, as if
//! nothing were skipped; the *achieved* one counts those that the trainer says it carried out, which
//! are fewer where it skips multiplications by zero. A dense rate above the peak is possible only if
//! something was skipped: a trainer that does not declare that is *implausible*, and so is one whose
//! achieved rate exceeds the peak.

use crate::sample::{Sample, TrainerRecord};
use machine::Capability;
use measure::surroundings::Device;
use protocol::grade::Grade;
use serde::{Deserialize, Serialize};

/// A rate may exceed the highest rate that `trainmark machine` has seen by this: clocks vary, and a
/// figure must be impossible, not only surprising, before a row is called so.
const TOLERANCE: f64 = 1.1;

/// Products of bfloat16 tiles that stand for one in float32, on AMX: of three parts with three, less the
/// three that are below the last bit (crates/backend-cpu/src/gpt/amx.rs).
const AMX_PRODUCTS: f64 = 6.0;

/// A row's rates and the machine's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Roofline {
    /// Operations of the model per second of training, as if nothing were skipped.
    pub dense_flop_per_s: f64,
    /// Operations carried out per second of training.
    pub achieved_flop_per_s: f64,
    /// Whether the trainer counts what it carried out; if not, that is taken to be everything.
    pub declared: bool,
    /// The machine's measured rate of multiply-adds; null if it is not known for the row's device.
    pub peak_flop_per_s: Option<f64>,
    /// Achieved over peak.
    pub share: Option<f64>,
    /// Where the peak comes from, or why there is none.
    pub peak_source: String,
    /// The model's operations per second over what the device's data sheet states for the row's precision: model
    /// FLOP utilisation; null if no data sheet is known.
    pub of_data_sheet: Option<f64>,
}

impl Roofline {
    /// The roofline of a row: the operations of its samples over the median seconds of training. `None` if the
    /// trainer does not count its operations, or has no clock.
    pub fn new(
        sample: &Sample,
        train_s: Option<f64>,
        trainer: &TrainerRecord,
        backend: &str,
        capability: Option<&Capability>,
    ) -> Option<Roofline> {
        let train_s = train_s.filter(|seconds| *seconds > 0.0)?;
        let dense = sample.dense_flop.or(sample.executed_flop)?;
        let executed = sample.executed_flop.unwrap_or(dense);
        let achieved = executed / train_s;
        let devices = devices(sample, trainer);
        let ranks = sample.ranks.len().max(1);
        let (peak, peak_source) = match peak((&devices, ranks), trainer, backend, capability) {
            Ok(peak) => (Some(peak.median), peak.source),
            Err(reason) => (None, reason),
        };
        Some(Roofline {
            dense_flop_per_s: dense / train_s,
            achieved_flop_per_s: achieved,
            declared: sample.executed_flop.is_some(),
            peak_flop_per_s: peak,
            share: peak.map(|peak| achieved / peak),
            peak_source,
            of_data_sheet: data_sheet(&devices, trainer).map(|most| dense / train_s / most),
        })
    }
}

/// Why a run cannot have been what its trainer says, if it cannot.
pub fn implausible(
    sample: &Sample,
    trainer: &TrainerRecord,
    backend: &str,
    capability: Option<&Capability>,
) -> Option<String> {
    let train_s = sample.timing.train_s?;
    let (devices, ranks) = (devices(sample, trainer), sample.ranks.len().max(1));
    let peak = peak((&devices, ranks), trainer, backend, capability).ok()?;
    let (flop, says, and) = match (sample.executed_flop, sample.dense_flop) {
        (Some(flop), _) => (flop, "it claims that it carried out", ""),
        (None, flop) => {
            (flop?, "its time implies", ", and it does not say that it skipped operations")
        }
    };
    let rate = flop / train_s.max(f64::MIN_POSITIVE);
    let giga = |rate: f64| format!("{:.1} GFLOP/s", rate / 1e9);
    let (said, most) = (giga(rate), giga(peak.highest));
    let words = || format!("{says} {said}, but the hardware reaches {most}{and}");
    (rate > peak.highest * TOLERANCE).then(words)
}

/// The arithmetic of most operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    Float64,
    Float32,
    Tf32,
    Bf16,
    Fp16,
    /// bf16 or fp16, without saying which: devices that have both compute both at one rate.
    Mixed,
}

/// The words of frameworks. The first that fit count.
const WORDS: [(&[&str], Precision); 6] = [
    (&["bf16", "bfloat16"], Precision::Bf16),
    (&["fp16", "float16", "f16", "half"], Precision::Fp16),
    (&["mixed", "amp"], Precision::Mixed),
    (&["tf32", "tensorfloat", "tensorfloat32"], Precision::Tf32),
    (&["float64", "f64", "fp64", "double", "64"], Precision::Float64),
    (&["float32", "f32", "fp32", "single", "float", "32"], Precision::Float32),
];

impl Precision {
    /// The precision that a trainer means, in the words that frameworks use.
    pub(crate) fn of(stated: &str) -> Option<Precision> {
        let stated = stated.to_ascii_lowercase();
        let said: Vec<&str> = stated.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        let is_said = |words: &[&str]| words.iter().any(|word| said.contains(word));
        WORDS.iter().find(|(words, _)| is_said(words)).map(|it| it.1)
    }

    /// The grade of arithmetic that rounds no more than this.
    pub(crate) fn grade(self) -> Grade {
        match self {
            Precision::Float64 | Precision::Float32 => Grade::Float32,
            Precision::Tf32 => Grade::Tf32,
            Precision::Bf16 | Precision::Fp16 | Precision::Mixed => Grade::Bf16,
        }
    }
}

/// Operations per second that NVIDIA's data sheets state, dense, in TFLOP/s: a part of the device's name, float32,
/// tf32, and bf16 or fp16. The first that fits counts.
const DATA_SHEETS: [(&str, [f64; 3]); 9] = [
    ("H200 NVL", [60.0, 417.5, 835.5]),
    ("H200", [66.9, 494.7, 989.4]),
    ("H100 PCIe", [51.2, 378.0, 756.0]),
    ("H100 NVL", [60.0, 417.5, 835.5]),
    ("H100", [66.9, 494.7, 989.4]),
    ("A100", [19.5, 156.0, 312.0]),
    ("L40S", [91.6, 183.0, 362.05]),
    ("A10", [31.2, 62.5, 125.0]),
    ("L4", [30.3, 60.0, 121.0]),
];

/// The names of the devices that a row was given, or else was seen on, or else says that it used; none if it ran on
/// several nodes, of which only this one was measured and nobody has counted the devices.
fn devices<'a>(sample: &'a Sample, trainer: &'a TrainerRecord) -> Vec<&'a str> {
    let own = trainer.device.as_deref().unwrap_or_default();
    let given = |it: &Device| it.uuid.as_ref().is_some_and(|uuid| sample.devices.contains(uuid));
    let known = sample.surroundings.iter().flat_map(|it| &it.devices);
    let known = known.filter(|it| given(it) || it.used && own.contains(&it.name));
    let named: Vec<&str> = known.map(|it| it.name.as_str()).collect();
    match named.is_empty() {
        true if sample.nodes.len() > 1 => Vec::new(),
        true => vec![own; sample.devices.len().max(1)],
        false => named,
    }
}

/// What the data sheets of a row's devices say of its precision, together.
fn data_sheet(devices: &[&str], trainer: &TrainerRecord) -> Option<f64> {
    let all: Option<f64> = devices.iter().map(|device| data_sheet_of(device, trainer)).sum();
    all.filter(|_| !devices.is_empty())
}

fn data_sheet_of(device: &str, trainer: &TrainerRecord) -> Option<f64> {
    let words = |name: &str| {
        let ends =
            |at: usize| device[at..].chars().next().is_none_or(|c| !c.is_ascii_alphanumeric());
        device.match_indices(name).any(|(at, found)| ends(at + found.len()))
    };
    let (_, rates) = DATA_SHEETS.iter().find(|(name, _)| words(name))?;
    let place = match Precision::of(trainer.precision.as_deref().unwrap_or("float32"))? {
        Precision::Float64 => return None,
        Precision::Float32 => 0,
        Precision::Tf32 => 1,
        Precision::Bf16 | Precision::Fp16 | Precision::Mixed => 2,
    };
    Some(rates[place] * 1e12)
}

struct Peak {
    median: f64,
    highest: f64,
    source: String,
}

/// The peak of what a row ran on: of several devices the sum. Each of the ranks has the threads that the first says.
fn peak(
    (devices, ranks): (&[&str], usize),
    trainer: &TrainerRecord,
    backend: &str,
    capability: Option<&Capability>,
) -> Result<Peak, String> {
    let capability =
        capability.ok_or("the machine was not measured; `trainmark machine` measures it")?;
    if devices.is_empty() {
        return Err(
            "several nodes trained it together, and not all of them were measured".to_owned()
        );
    }
    let stated = trainer.precision.as_deref().unwrap_or("float32");
    let precision = Precision::of(stated);
    let gpu = |device: &&str| {
        capability.gpus.iter().find(|gpu| !gpu.name.is_empty() && device.contains(&gpu.name))
    };
    if devices.iter().any(|device| gpu(device).is_some()) {
        let of = |gpu: &machine::Gpu| match precision {
            Some(Precision::Float32) => (gpu.fp32_flop_per_s, "float32 multiply-adds"),
            Some(Precision::Tf32) => (gpu.tf32_flop_per_s, "products in tf32"),
            Some(Precision::Bf16) => (gpu.bf16_flop_per_s, "products in bf16"),
            Some(Precision::Fp16) => (gpu.fp16_flop_per_s, "products in fp16"),
            Some(Precision::Mixed) => {
                (gpu.bf16_flop_per_s.max(gpu.fp16_flop_per_s), "products in bf16 or fp16")
            }
            None | Some(Precision::Float64) => (None, ""),
        };
        let (mut sum, mut what) = (0.0, "");
        for device in devices {
            let missing = || format!("the peak of {device} in {stated} is not measured");
            let (rate, of_what) = gpu(device).map(of).ok_or_else(missing)?;
            (sum, what) = (sum + rate.ok_or_else(missing)? as f64, of_what);
        }
        let mut names = devices.to_vec();
        names.dedup();
        let of_all =
            if devices.len() > 1 { format!("{} devices, ", devices.len()) } else { String::new() };
        let source = format!(
            "trainmark machine, {}: {what}, {of_all}{}",
            capability.measured,
            names.join(", ")
        );
        return Ok(Peak { median: sum, highest: sum, source });
    }
    let device = trainer.device.as_deref().unwrap_or_default();
    let own = capability.cpu.name.as_deref().is_some_and(|name| device.contains(name));
    if !(own || backend == "cpu") {
        return Err("the trainer names no device whose peak was measured".to_owned());
    }
    let cpu = &capability.cpu;
    let amx = trainer.path.as_deref().is_some_and(|path| path.split(", ").any(|it| it == "amx"));
    let (rates, products, what) = match precision {
        Some(Precision::Float32) if amx => {
            (&cpu.bf16, AMX_PRODUCTS, "float32 as six products of bfloat16 tiles")
        }
        Some(Precision::Float32) => (&cpu.fma, 1.0, "float32 multiply-adds"),
        Some(Precision::Bf16) if !cpu.bf16.is_empty() => (&cpu.bf16, 1.0, "bfloat16 multiply-adds"),
        _ => {
            return Err(format!(
                "the CPU's peak was measured in float32, but the row computes in {stated}"
            ));
        }
    };
    // What a single thread achieves is held against what a single one can do. More threads than
    // were asked for would show in no clock: impossible is only what all of them cannot do.
    let fastest = |threads: usize| {
        rates.iter().filter(|rate| rate.threads == threads).map(|rate| rate.flop_per_s).max()
    };
    let threads = trainer.threads.and_then(|each| each.checked_mul(ranks));
    let threads = threads.filter(|&threads| fastest(threads).is_some());
    let threads = threads.unwrap_or(cpu.threads);
    let median = fastest(threads).ok_or("no rate of the CPU was measured")? as f64;
    let highest = rates.iter().map(|rate| rate.highest_flop_per_s as f64).fold(median, f64::max);
    let source = format!(
        "trainmark machine, {}: {what} from registers on {threads} threads",
        capability.measured
    );
    Ok(Peak { median: median / products, highest: highest / products, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timing;
    use machine::{Cpu, FmaRate};

    fn capability() -> Capability {
        let rate = |threads, flop_per_s| FmaRate {
            isa: "avx2".into(),
            threads,
            flop_per_s,
            highest_flop_per_s: flop_per_s + flop_per_s / 10,
        };
        let fma = vec![rate(1, 100_000_000_000), rate(2, 200_000_000_000)];
        let cpu = Cpu { name: Some("Chip".into()), threads: 2, fma, ..Cpu::default() };
        Capability { cpu, measured: "now".into(), ..Capability::default() }
    }

    fn sample(dense: Option<f64>, executed: Option<f64>, train_s: f64) -> Sample {
        Sample {
            dense_flop: dense,
            executed_flop: executed,
            timing: Timing { train_s: Some(train_s), ..Timing::default() },
            ..Sample::default()
        }
    }

    fn why(sample: &Sample) -> Option<String> {
        implausible(sample, &TrainerRecord::default(), "cpu", Some(&capability()))
    }

    #[test]
    fn a_row_above_the_peak_is_implausible_unless_it_declares_what_it_skipped() {
        assert_eq!(why(&sample(Some(200e9), None, 1.0)), None);
        assert_eq!(why(&sample(Some(240e9), None, 1.0)), None, "within the tolerance");
        let words = why(&sample(Some(1000e9), None, 1.0)).unwrap();
        assert!(
            words.contains("implies 1000.0 GFLOP/s, but the hardware reaches 220.0"),
            "{words}"
        );
        assert_eq!(why(&sample(Some(1000e9), Some(100e9), 1.0)), None);
        let words = why(&sample(Some(1000e9), Some(900e9), 1.0)).unwrap();
        assert!(words.contains("carried out 900.0 GFLOP/s"), "{words}");
    }

    #[test]
    fn several_nodes_together_are_not_held_against_the_peak_of_one() {
        let nodes = vec![crate::NodeSample::default(); 2];
        let together = Sample { nodes, ..sample(Some(400e9), None, 1.0) };
        assert!(why(&Sample { nodes: Vec::new(), ..together.clone() }).is_some());
        assert_eq!(why(&together), None);
        let trainer =
            TrainerRecord { device: Some("NVIDIA H100".into()), ..TrainerRecord::default() };
        let capability = capability();
        let shown =
            Roofline::new(&together, Some(1.0), &trainer, "cpu", Some(&capability)).unwrap();
        assert_eq!((shown.share, shown.of_data_sheet), (None, None));
        assert!(shown.peak_source.contains("several nodes"), "{}", shown.peak_source);
    }

    #[test]
    fn the_threads_of_all_ranks_are_held_against_the_machine() {
        let ranks = vec![crate::RankRecord::default(); 2];
        let of_two = Sample { ranks, ..sample(Some(150e9), None, 1.0) };
        let trainer = TrainerRecord { threads: Some(1), ..TrainerRecord::default() };
        let capability = capability();
        let shown = Roofline::new(&of_two, Some(1.0), &trainer, "cpu", Some(&capability)).unwrap();
        assert_eq!((shown.peak_flop_per_s, shown.share), (Some(200e9), Some(0.75)));
    }

    #[test]
    fn without_a_measured_peak_nothing_is_called_implausible() {
        let absurd = sample(Some(1e30), None, 1.0);
        let trainer = TrainerRecord::default();
        assert_eq!(implausible(&absurd, &trainer, "cpu", None), None);
        assert_eq!(implausible(&absurd, &trainer, "gpu", Some(&capability())), None);
        let half = TrainerRecord { precision: Some("bf16".into()), ..TrainerRecord::default() };
        assert_eq!(implausible(&absurd, &half, "cpu", Some(&capability())), None);
    }

    #[test]
    fn a_row_on_amx_is_held_against_its_tiles() {
        let mut capability = capability();
        let trainer = |precision: &str, path: &str| TrainerRecord {
            precision: Some(precision.into()),
            path: Some(path.into()),
            ..TrainerRecord::default()
        };
        let parts = trainer("float32", "amx, products of three bfloat16 parts");
        let bf16 = trainer("bf16", "amx");
        let why = |flop, trainer: &TrainerRecord, capability: &Capability| {
            implausible(&sample(None, Some(flop), 1.0), trainer, "cpu", Some(capability))
        };
        assert_eq!(why(1e15, &parts, &capability), None, "nothing measured, nothing said");
        capability.cpu.bf16 = vec![FmaRate {
            isa: "amx".into(),
            threads: 2,
            flop_per_s: 3_000_000_000_000,
            highest_flop_per_s: 3_000_000_000_000,
        }];
        assert_eq!(why(400e9, &parts, &capability), None, "AVX2 does 220, six products 500");
        assert!(why(600e9, &parts, &capability).unwrap().contains("the hardware reaches 500.0"));
        assert_eq!(why(2000e9, &bf16, &capability), None);
        assert!(why(4000e9, &bf16, &capability).unwrap().contains("the hardware reaches 3000.0"));
        let of_fma = trainer("float32", "avx2");
        assert!(why(400e9, &of_fma, &capability).unwrap().contains("the hardware reaches 220.0"));
    }

    #[test]
    fn the_share_is_of_what_so_many_threads_can_do() {
        let of = |threads| {
            let trainer = TrainerRecord { threads, ..TrainerRecord::default() };
            let sample = sample(Some(90e9), Some(50e9), 1.0);
            Roofline::new(&sample, Some(1.0), &trainer, "cpu", Some(&capability())).unwrap()
        };
        assert_eq!(
            (of(Some(1)).share, of(Some(2)).share, of(None).share),
            (Some(0.5), Some(0.25), Some(0.25))
        );
        assert_eq!((of(None).dense_flop_per_s, of(None).declared), (90e9, true));
        let trainer = TrainerRecord::default();
        let unknown =
            Roofline::new(&sample(Some(9e9), None, 1.0), Some(1.0), &trainer, "cpu", None);
        let unknown = unknown.unwrap();
        assert_eq!((unknown.share, unknown.achieved_flop_per_s), (None, 9e9));
        assert!(unknown.peak_source.contains("`trainmark machine` measures it"));
        let silent = sample(None, None, 1.0);
        assert_eq!(Roofline::new(&silent, Some(1.0), &trainer, "cpu", None), None);
    }

    #[test]
    fn a_row_on_several_devices_is_held_against_all_of_them() {
        let gpu = |name: &str, fp32_flop_per_s: u64| machine::Gpu {
            name: name.into(),
            fp32_flop_per_s: Some(fp32_flop_per_s),
            ..machine::Gpu::default()
        };
        let gpus = vec![
            gpu("NVIDIA H100 80GB HBM3", 50_000_000_000_000),
            gpu("NVIDIA L4", 25_000_000_000_000),
        ];
        let capability = Capability { gpus, ..capability() };
        let trainer = TrainerRecord {
            device: Some("NVIDIA H100 80GB HBM3".into()),
            ..TrainerRecord::default()
        };
        let device = |uuid: &str, name: &str| Device {
            uuid: Some(uuid.into()),
            name: name.into(),
            ..Device::default()
        };
        let all = vec![
            device("a", "NVIDIA H100 80GB HBM3"),
            device("b", "NVIDIA H100 80GB HBM3"),
            device("c", "NVIDIA L4"),
        ];
        let of = |flop: f64, given: &[&str], devices: &[Device]| {
            let mut sample = sample(Some(flop), None, 1.0);
            sample.devices = given.iter().map(|&it| it.to_owned()).collect();
            let seen = measure::surroundings::Surroundings {
                devices: devices.to_vec(),
                ..Default::default()
            };
            sample.surroundings = Some(seen);
            let roofline =
                Roofline::new(&sample, Some(1.0), &trainer, "cuda", Some(&capability)).unwrap();
            (implausible(&sample, &trainer, "cuda", Some(&capability)).is_some(), roofline)
        };
        let (bad, roofline) = of(75e12, &["a", "b"], &all);
        assert_eq!(
            (bad, roofline.share, roofline.of_data_sheet),
            (false, Some(0.75), Some(75.0 / 133.8))
        );
        assert!(roofline.peak_source.contains("2 devices, NVIDIA H100"), "{roofline:?}");
        assert!(of(75e12, &["a"], &all).0, "one card does 50");
        assert!(of(120e12, &["a", "b"], &all).0, "two do 100");
        assert_eq!(of(75e12, &["b", "c"], &all).1.peak_flop_per_s, Some(75e12));
        // Without NVML so many of what the trainer names; without a number of devices one, or those it was seen on.
        assert!(!of(75e12, &["0", "1"], &[]).0);
        assert!(of(75e12, &[], &[]).0);
        let seen: Vec<Device> = all.iter().map(|it| Device { used: true, ..it.clone() }).collect();
        assert!(!of(75e12, &[], &seen[..2]).0);
    }

    #[test]
    fn a_gpus_share_is_of_the_peak_of_the_precision_and_of_its_data_sheet() {
        let gpu = machine::Gpu {
            name: "NVIDIA H100 80GB HBM3".into(),
            fp32_flop_per_s: Some(50_000_000_000_000),
            bf16_flop_per_s: Some(700_000_000_000_000),
            ..machine::Gpu::default()
        };
        let capability = Capability { gpus: vec![gpu], ..capability() };
        let of = |precision: &str| {
            let trainer = TrainerRecord {
                device: Some("NVIDIA H100 80GB HBM3".into()),
                precision: Some(precision.into()),
                ..TrainerRecord::default()
            };
            let sample = sample(Some(350e12), None, 1.0);
            Roofline::new(&sample, Some(1.0), &trainer, "cuda", Some(&capability)).unwrap()
        };
        for mixed in ["bf16", "bfloat16", "bf16-mixed", "mixed"] {
            assert_eq!(of(mixed).share, Some(0.5), "{mixed}");
            assert_eq!(of(mixed).of_data_sheet, Some(350.0 / 989.4), "{mixed}");
        }
        assert_eq!(
            (of("float32").share, of("float32").of_data_sheet),
            (Some(7.0), Some(350.0 / 66.9))
        );
        let unmeasured = of("tf32");
        assert_eq!((unmeasured.share, unmeasured.of_data_sheet), (None, Some(350.0 / 494.7)));
        assert!(unmeasured.peak_source.contains("in tf32 is not measured"), "{unmeasured:?}");
        assert_eq!((of("int8").share, of("int8").of_data_sheet), (None, None));
    }
}
