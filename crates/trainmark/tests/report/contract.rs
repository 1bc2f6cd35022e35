//! What other programs may rely on: the schemas, and the specification's keys.

use super::{as_json, fixtures, summary};
use jsonschema::Validator;
use machine::{Access, Bandwidth, Cache, Capability, Cpu, FmaRate, Gpu, Level, RoundTrip};
use measure::environment::Environment;
use measure::surroundings::{Busy, Device, Surroundings};
use record::noise::{Analysis, NoiseFloor, NoiseRecord};
use record::race::Race;
use record::roofline::Roofline;
use record::stats::Interval;
use record::task::{ScalingKind, ScalingRecord, Source, WorkRecord};
use record::{
    CurvePoint, DatasetRecord, LimitsRecord, MeterRecord, Metrics, NodeSample, RankRecord, Record,
    Reference, RunIdentity, SCHEMA_VERSION, Sample, Status, Throughput, Timing, TrainerRecord,
    figures, old,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn schema(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schema").join(name);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn validator(name: &str) -> Validator {
    jsonschema::draft202012::meta::validate(&schema(name)).unwrap();
    jsonschema::draft202012::new(&schema(name)).unwrap()
}

fn errors(validator: &Validator, value: &Value) -> Vec<String> {
    let errors = validator.iter_errors(value);
    errors.map(|error| format!("{}: {error}", error.instance_path())).collect()
}

/// The fixtures that are result files.
fn result_files() -> Vec<(PathBuf, Value)> {
    let sets = ["specification", "run", "mixed"].map(fixtures);
    let entries = sets.iter().flat_map(|set| fs::read_dir(set).unwrap());
    let paths = entries.map(|entry| entry.unwrap().path());
    let unusable = ["folder", "v_empty", "w_array", "x_newer", "y_wrong_type", "z_report"];
    let usable =
        paths.filter(|path| !unusable.iter().any(|name| path.file_stem().unwrap() == *name));
    usable
        .map(|path| (path.clone(), serde_json::from_slice(&fs::read(path).unwrap()).unwrap()))
        .collect()
}

/// A result with every key in use.
fn full_result() -> Record {
    let timing = Timing {
        wall_s: Some(2.0),
        user_s: Some(3.0),
        system_s: Some(0.5),
        setup_s: Some(0.1),
        compile_s: Some(0.2),
        train_s: Some(1.5),
        eval_s: Some(0.1),
        device_s: Some(1.4),
    };
    let sample = Sample {
        reason: Some("why".into()),
        timing,
        peak_memory_bytes: Some(64_000_000),
        device_peak_bytes: Some(1),
        metrics: [(old::ACCURACY.to_owned(), 94.0)].into(),
        curve: vec![CurvePoint {
            step: Some(375),
            epoch: Some(1.0),
            loss: Some(0.6),
            seconds: Some(0.3),
            metrics: [(old::ACCURACY.to_owned(), 90.0)].into(),
        }],
        work: Some(1e4),
        steps: Some(1875),
        ranks: vec![RankRecord {
            rank: 0,
            train_s: Some(0.5),
            work: Some(1e4),
            device_peak_bytes: Some(1),
            peak_memory_bytes: Some(32_000_000),
            cpus: Some("0-3".into()),
        }],
        devices: vec!["GPU-0".into()],
        beside: vec!["another row".into()],
        dense_flop: Some(1e12),
        executed_flop: Some(2e11),
        counters: BTreeMap::from([("page_faults".into(), 7)]),
        stopped_processes: Some(1),
        invalid: BTreeMap::from([("page_faults".into(), "why".into())]),
        nodes: vec![NodeSample {
            host: "node1".into(),
            meters: BTreeMap::from([("user_s".into(), 0.5)]),
        }],
        mlperf: BTreeMap::from([("global_batch_size".into(), 32.0)]),
        notes: vec!["a note".into()],
        stdout_tail: Some("out".into()),
        stderr_tail: Some("err".into()),
        disturbances: vec!["other processes used 0.50 cores".into()],
        superseded: true,
        surroundings: Some(Surroundings {
            window_s: 2.0,
            cores: 2,
            load_average: Some(1.0),
            other_cpu_s: Some(1.0),
            busiest: vec![Busy { name: "cc".into(), cpu_s: 0.9 }],
            steal_s: Some(0.0),
            mhz_low: Some(3000.0),
            mhz_high: Some(4000.0),
            thermal_throttles: Some(0),
            quota_throttled_s: Some(0.0),
            round_trip_before_ns: Some(105),
            round_trip_after_ns: Some(512),
            cpu_energy_uj: Some(1),
            devices: vec![Device::default()],
            missing: BTreeMap::from([("devices".into(), "none".into())]),
        }),
        ..Sample::default()
    };
    let text = |text: &str| Some(text.to_owned());
    let mut task = old::TASK.clone();
    task.metrics.get_mut(old::ACCURACY).unwrap().source = Some(Source::Claimed);
    task.throughput = Some(WorkRecord { unit: "images".into() });
    task.scaling = Some(ScalingRecord { over: "threads".into(), kind: ScalingKind::Strong });
    Record {
        executable: "MNISTClassic".into(),
        model: "mlp".into(),
        backend: "cpu".into(),
        timestamp: "20240315_143022".into(),
        config: json!({"epochs": 5, "batch_size": 32, "hidden_size": 512, "seed": 42})
            .as_object()
            .unwrap()
            .clone(),
        metrics: Metrics {
            training_time_seconds: Some(3.5),
            peak_memory_mb: Some(64.0),
            of_task: [(old::ACCURACY.to_owned(), Some(94.0))].into_iter().collect(),
        },
        schema_version: SCHEMA_VERSION,
        status: Status::NotConverged,
        reason: text("94.00 % is below the target"),
        compiled: true,
        run: Some(Box::new(RunIdentity {
            id: "r".into(),
            suite: "mnist".into(),
            quick: true,
            started: "2024-03-15T14:30:22Z".into(),
            git_commit: text("abc"),
            harness: "0.1.0".into(),
            reference: Some(Reference {
                executable: "PyTorch".into(),
                backend: "cpu".into(),
                settings: [("hidden_size".to_owned(), json!(512))].into_iter().collect(),
            }),
        })),
        place: Some(1),
        task: Some(Box::new(task)),
        keys: old::KEYS.clone(),
        dataset: Some(Box::new(DatasetRecord {
            name: "mnist".into(),
            sha256: text(&"0a".repeat(32)),
        })),
        targets: [(old::ACCURACY.to_owned(), 95.0)].into(),
        timing: Box::new(timing),
        peak_memory_bytes: Some(64_000_000),
        device_peak_bytes: Some(1),
        throughput: Some(Box::new(Throughput { value: Some(2.0), unit: "images".into() })),
        intervals: BTreeMap::from([(
            "train_s".into(),
            Interval { low: 1.4, high: 1.6, confidence: 0.96 },
        )]),
        samples: vec![sample],
        sources: BTreeMap::from([("peak_memory_mb".into(), "VmHWM".into())]),
        missing: BTreeMap::from([("device_s".into(), "no device".into())]),
        trainer: Some(Box::new(TrainerRecord {
            command: vec!["mnist-classic".into()],
            environment: BTreeMap::from([("A".into(), "b".into())]),
            sha256: text(&"0b".repeat(32)),
            sources_sha256: Some("b".repeat(64)),
            version: text("0.1.0"),
            device: text("CPU"),
            path: text("avx512"),
            threads: Some(2),
            precision: text("f32"),
            parameters: Some(407_050),
            software: false,
            limits: LimitsRecord {
                timeout_s: Some(90.0),
                memory_bytes: Some(1 << 30),
                memory_by: Some("control group (memory.max)".into()),
                address_space_bytes: Some(1 << 40),
                cpus: Some(vec![0, 3]),
            },
        })),
        machine: Some(Box::new(measure::machine::Machine {
            hostname: text("h"),
            cpu: text("c"),
            cores: Some(2),
            threads: Some(2),
            memory_bytes: Some(1),
            os: text("o"),
            kernel: text("k"),
            architecture: text("a"),
            gpus: vec!["g".into()],
        })),
        capability: Some(Box::new(full_capability())),
        environment: Some(Box::new(Environment {
            gpus: vec![measure::surroundings::Gpu::default()],
            ..Environment::detect(&measure::surroundings::Gpus::load())
        })),
        meters: BTreeMap::from([("minor_faults".into(), MeterRecord::default())]),
        race: Some(Box::new(Race::default())),
        roofline: Some(Box::new(Roofline {
            dense_flop_per_s: 1e12,
            achieved_flop_per_s: 2e11,
            declared: true,
            peak_flop_per_s: Some(5e11),
            share: Some(0.4),
            peak_source: "trainmark machine".into(),
            of_data_sheet: Some(0.25),
        })),
        efficiency_percent: None,
        noise_floor: Some(Box::new(NoiseFloor {
            share: 0.01,
            share_apart: Some(0.02),
            measured: "2024-03-15T14:30:22Z".into(),
            row: "MNISTClassic mlp cpu".into(),
        })),
    }
}

fn full_capability() -> Capability {
    let text = || Some("x".to_owned());
    let bandwidth = |level, access| Bandwidth {
        level,
        access,
        threads: 2,
        working_set_bytes: 1024,
        bytes_per_s: 3,
        highest_bytes_per_s: 4,
    };
    Capability {
        schema_version: machine::SCHEMA_VERSION,
        key: "h-0123456789ab".into(),
        measured: "2024-03-15T14:30:22Z".into(),
        rounds: 7,
        cpu: Cpu {
            name: text(),
            architecture: "x86_64".into(),
            cores: Some(2),
            threads: 2,
            caches: vec![Cache { level: 1, bytes: 32768, shared_by: 1 }],
            fma: vec![FmaRate {
                isa: "avx2".into(),
                threads: 2,
                flop_per_s: 1,
                highest_flop_per_s: 2,
            }],
            bf16: vec![FmaRate {
                isa: "amx".into(),
                threads: 2,
                flop_per_s: 1,
                highest_flop_per_s: 2,
            }],
            bandwidth: vec![
                bandwidth(Level::L1, Access::Read),
                bandwidth(Level::L2, Access::Write),
                bandwidth(Level::L3, Access::Copy),
                bandwidth(Level::Memory, Access::Read),
            ],
            round_trips: vec![RoundTrip { cores: [0, 1], ns: 110, lowest_ns: 48, highest_ns: 512 }],
            round_trips_missing: Some("why".into()),
        },
        memory_bytes: Some(1 << 30),
        gpus: vec![Gpu {
            name: "g".into(),
            memory_bytes: Some(1 << 30),
            copy_bytes_per_s: Some(1),
            fp32_flop_per_s: Some(2),
            driver: text(),
            tf32_flop_per_s: Some(1),
            bf16_flop_per_s: Some(2),
            fp16_flop_per_s: Some(3),
            products_missing: None,
        }],
    }
}

#[test]
fn machine_files_satisfy_their_schema_which_rejects_what_is_wrong() {
    let validator = validator("machine.schema.json");
    let good = serde_json::to_value(full_capability()).unwrap();
    for capability in [full_capability(), sparse_capability()] {
        let value = serde_json::to_value(capability).unwrap();
        assert_eq!(errors(&validator, &value), [""; 0]);
    }
    let wrong = [
        ("/schema_version", json!(0)),
        ("/cpu/threads", json!(0)),
        ("/cpu/fma", json!([])),
        ("/cpu/fma/0/flop_per_s", json!(1.5)),
        ("/cpu/bf16/0/threads", json!(0)),
        ("/cpu/bandwidth/0/level", json!("L1")),
        ("/gpus/0/driver", json!(5)),
        ("/memory_bytes", json!("much")),
    ];
    for (pointer, value) in wrong {
        let mut capability = good.clone();
        *capability.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
        assert!(!validator.is_valid(&capability), "{pointer}");
    }
}

/// A machine of which the system says next to nothing.
fn sparse_capability() -> Capability {
    let mut capability = full_capability();
    (capability.cpu.name, capability.cpu.cores, capability.memory_bytes) = (None, None, None);
    capability.cpu.caches.clear();
    capability.gpus = vec![Gpu { name: "g".into(), ..Gpu::default() }];
    capability
}

#[test]
fn every_result_file_satisfies_its_schema() {
    let validator = validator("result.schema.json");
    for (path, value) in result_files() {
        assert_eq!(errors(&validator, &value), [""; 0], "{}", path.display());
    }
    for result in [full_result(), Record::default()] {
        assert_eq!(errors(&validator, &serde_json::to_value(result).unwrap()), [""; 0]);
    }
    let statuses = schema("result.schema.json")["$defs"]["status"]["oneOf"].clone();
    for status in statuses.as_array().unwrap() {
        assert!(serde_json::from_value::<Status>(status["const"].clone()).is_ok(), "{status}");
    }
}

#[test]
fn every_noise_record_satisfies_its_schema_which_describes_each_key() {
    let rounds: Vec<[f64; 2]> = (0..8).map(|round| [1.0, 1.0 + f64::from(round) / 100.0]).collect();
    let record = NoiseRecord {
        measured: "2024-03-15T14:30:22Z".into(),
        analysis: Analysis::new(&rounds, &[true; 8], 6).unwrap(),
        rounds,
        a_first: vec![true; 8],
        machine: *full_result().machine.unwrap(),
        ..NoiseRecord::default()
    };
    let value = serde_json::to_value(record).unwrap();
    assert_eq!(errors(&validator("noise.schema.json"), &value), [""; 0]);
    let (mut schema, mut wrong) = (schema("noise.schema.json"), Vec::new());
    // The machine is described in the result file's schema.
    schema["properties"]["machine"] = json!(true);
    compare_keys(&schema, &schema, &value, "", &mut wrong);
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn every_report_satisfies_its_schema() {
    let validator = validator("report.schema.json");
    for set in ["specification", "run", "mixed"] {
        let report = serde_json::from_str(&as_json(&summary(set))).unwrap();
        assert_eq!(errors(&validator, &report), [""; 0], "{set}");
    }
}

#[test]
fn the_result_schema_rejects_what_is_wrong() {
    let validator = validator("result.schema.json");
    let good = serde_json::to_value(full_result()).unwrap();
    let wrong = [
        ("/model", json!(7)),
        ("/metrics/training_time_seconds", json!("N/A")),
        ("/metrics/peak_memory_mb", json!(-1)),
        ("/metrics/test_accuracy_percent", json!("much")),
        ("/config", json!([])),
        ("/config/epochs", json!(2.5)),
        ("/schema_version", json!(3)),
        ("/status", json!("splendid")),
        ("/task/metrics/test_accuracy_percent/source", json!("guessed")),
        ("/dataset", json!({})),
        ("/dataset/sha256", json!("xyz")),
        ("/timing/train_s", json!(-0.1)),
        ("/samples/0/curve", json!({})),
        ("/samples/0/status", json!("fine")),
        ("/trainer/command", json!("mnist-classic")),
        ("/machine/memory_bytes", json!(1.5)),
        ("/intervals/train_s", json!({"low": 1})),
    ];
    for (pointer, value) in wrong {
        let mut result = good.clone();
        *result.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
        assert!(!validator.is_valid(&result), "{pointer}");
    }
    for key in ["executable", "model", "backend", "timestamp", "config", "metrics"] {
        let mut result = good.clone();
        result.as_object_mut().unwrap().remove(key);
        assert!(!validator.is_valid(&result), "{key}");
    }
}

#[test]
fn the_report_schema_rejects_what_is_wrong() {
    let validator = validator("report.schema.json");
    let good: Value = serde_json::from_str(&as_json(&summary("run"))).unwrap();
    let wrong = [
        ("/summary/total_benchmarks", json!("10")),
        ("/summary/models", json!("mlp")),
        ("/summary/backends", json!([])),
        ("/summary/reference", json!("cpu")),
        ("/results", json!({})),
        ("/results/0/compiled", json!(null)),
        ("/results/0/training_time_seconds", json!("0.66")),
        ("/results/0/speed_up", json!(0)),
        ("/results/0/speed_up_basis", json!("guess")),
        ("/results/0/rank", json!(0)),
    ];
    for (pointer, value) in wrong {
        let mut report = good.clone();
        *report.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
        assert!(!validator.is_valid(&report), "{pointer}");
    }
}

/// Compares the keys of an object with those that its schema describes, and so on inside.
fn compare_keys(schema: &Value, root: &Value, value: &Value, path: &str, wrong: &mut Vec<String>) {
    let schema = resolve(schema, root);
    if let (Some(properties), Some(object)) = (schema["properties"].as_object(), value.as_object())
    {
        // A configuration has whatever keys a suite gives it.
        let open = schema["additionalProperties"].is_object();
        let described: BTreeSet<&String> = properties.keys().collect();
        let written: BTreeSet<&String> = object.keys().collect();
        if !open && described != written {
            let difference: Vec<_> = described.symmetric_difference(&written).collect();
            wrong.push(format!("{path}: {difference:?}"));
        }
        for (key, value) in object {
            compare_keys(
                &properties.get(key).unwrap_or(&Value::Null).clone(),
                root,
                value,
                &format!("{path}/{key}"),
                wrong,
            );
        }
    } else if let Some(values) = value.as_array() {
        for value in values {
            compare_keys(&schema["items"], root, value, &format!("{path}/[]"), wrong);
        }
    } else if let Some(object) = value.as_object() {
        for value in object.values() {
            compare_keys(&schema["additionalProperties"], root, value, &format!("{path}/*"), wrong);
        }
    }
}

/// Follows references, and the first alternative of what may be null.
fn resolve<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    if let Some(reference) = schema["$ref"].as_str() {
        return resolve(root.pointer(reference.trim_start_matches('#')).unwrap(), root);
    }
    match schema["anyOf"].as_array() {
        Some(alternatives) => resolve(&alternatives[0], root),
        None => schema,
    }
}

#[test]
fn the_schema_describes_every_key_that_is_written_and_no_other() {
    let schema = schema("result.schema.json");
    let mut wrong = Vec::new();
    compare_keys(&schema, &schema, &serde_json::to_value(full_result()).unwrap(), "", &mut wrong);
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn the_specifications_keys_come_first_and_in_its_order() {
    let text = serde_json::to_string(&full_result()).unwrap();
    let result: Map<String, Value> = serde_json::from_str(&text).unwrap();
    let first: Vec<&String> = result.keys().take(6).collect();
    assert_eq!(first, ["executable", "model", "backend", "timestamp", "config", "metrics"]);
    let keys: Vec<&String> = result["metrics"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["training_time_seconds", "peak_memory_mb", "test_accuracy_percent"]);
    let report: Map<String, Value> = serde_json::from_str(&as_json(&summary("run"))).unwrap();
    assert_eq!(report.keys().take(2).collect::<Vec<_>>(), ["summary", "results"]);
    let keys = |value: &Value, number: usize| -> Vec<String> {
        value.as_object().unwrap().keys().take(number).cloned().collect()
    };
    let expected = ["total_benchmarks", "models", "backends", "config"];
    assert_eq!(keys(&report["summary"], 4), expected);
    let expected = [
        "model",
        "backend",
        "compiled",
        "timestamp",
        "training_time_seconds",
        "peak_memory_mb",
        "test_accuracy_percent",
    ];
    assert_eq!(keys(&report["results"][0], 7), expected);
}

/// The specification's result file, to the letter.
#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "what matters is that all of it is there and of its type")]
struct OldResult {
    executable: String,
    model: String,
    backend: String,
    timestamp: String,
    config: OldConfig,
    metrics: OldMetrics,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code)]
struct OldConfig {
    epochs: u32,
    batch_size: u32,
    hidden_size: u32,
    seed: u64,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code)]
struct OldMetrics {
    training_time_seconds: Option<f64>,
    peak_memory_mb: Option<f64>,
    test_accuracy_percent: Option<f64>,
}

#[test]
fn a_reader_that_knows_only_the_specifications_keys_reads_our_files() {
    for (path, value) in result_files() {
        serde_json::from_value::<OldResult>(value).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    }
    let written = serde_json::to_value(full_result()).unwrap();
    serde_json::from_value::<OldResult>(written).unwrap();
}

/// A consumer of result files and of the report as the specification documents them.
const OLD_READER: &str = r#"
import json, sys
for path in sys.argv[2:]:
    with open(path) as file:
        result = json.load(file)
    config, metrics = result["config"], result["metrics"]
    print(result["executable"], result["model"], result["backend"], result["timestamp"],
          int(config["epochs"]), int(config["batch_size"]), int(config["seed"]),
          *("%.2f" % metrics[key] for key in
            ("training_time_seconds", "peak_memory_mb", "test_accuracy_percent")))
with open(sys.argv[1]) as file:
    report = json.load(file)
summary, results = report["summary"], report["results"]
assert summary["total_benchmarks"] == len(results)
assert summary["models"] == sorted({result["model"] for result in results})
assert summary["backends"] == sorted({result["backend"] for result in results})
print(summary["config"]["epochs"], summary["config"]["batch_size"], summary["config"]["seed"])
for result in results:
    assert result["compiled"] in (True, False) and isinstance(result["timestamp"], str)
    for key in ("training_time_seconds", "peak_memory_mb", "test_accuracy_percent"):
        assert result[key] is None or result[key] >= 0
"#;

#[test]
fn a_python_script_written_from_the_specification_reads_our_files() {
    let Ok(mut python) = Command::new("python3").arg("--version").stdout(Stdio::null()).spawn()
    else {
        return skip::skipped("python3 is not installed: no old reader to try our files with");
    };
    python.wait().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    fs::write(&report, as_json(&summary("run"))).unwrap();
    let result = folder.path().join("result.json");
    serde_json::to_writer(fs::File::create(&result).unwrap(), &full_result()).unwrap();
    let ours = fixtures("run").join("classic_cpu_h512_20261124_101500.json");
    let mut python = Command::new("python3")
        .arg("-")
        .args([&report, &result, &ours])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(OLD_READER.as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "MNISTClassic mlp cpu 20240315_143022 5 32 42 3.50 64.00 94.00\n\
         MNISTClassic mlp cpu 20261124_101500 5 32 42 1.18 61.44 94.19\n\
         5 32 42\n"
    );
}

#[test]
fn files_of_version_2_use_only_keys_that_we_write() {
    let value = serde_json::to_value(full_result()).unwrap();
    let result: Record = serde_json::from_value(value.clone()).unwrap();
    let written = serde_json::to_value(result).unwrap();
    let mut lost = Vec::new();
    lost_keys(&value, &written, "", &mut lost);
    assert_eq!(lost, [""; 0]);
}

#[test]
fn the_reports_schema_describes_every_figure_in_the_words_of_the_table() {
    let properties = &schema("report.schema.json")["$defs"]["result"]["properties"];
    let metrics = old::TASK.metrics.keys().collect::<BTreeSet<_>>();
    for figure in figures::of([&Record::default()]) {
        if !metrics.contains(&figure.key.to_string()) {
            assert_eq!(properties[&*figure.key]["description"], *figure.help, "{}", figure.key);
        }
    }
}

/// Keys of the one that are not in the other.
fn lost_keys(before: &Value, after: &Value, path: &str, lost: &mut Vec<String>) {
    if let Some(object) = before.as_object() {
        for (key, value) in object {
            let path = format!("{path}/{key}");
            match after.get(key) {
                Some(after) => lost_keys(value, after, &path, lost),
                None => lost.push(path),
            }
        }
    } else if let (Some(before), Some(after)) = (before.as_array(), after.as_array()) {
        before.iter().zip(after).for_each(|(before, after)| lost_keys(before, after, path, lost));
    }
}
