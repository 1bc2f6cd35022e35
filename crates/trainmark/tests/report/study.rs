//! A study with everything that a report can show: repeats, curves, failures with logs, two models,
//! two trainers, a measured machine. The figures are made up and simple.

use measure::machine::Machine;
use record::folder::{Entry, Folder};
use record::race::{self, Race};
use record::summary::{Options, Summary};
use record::task::Source;
use record::verification::VerificationFile;
use record::{
    CurvePoint, DatasetRecord, Record, RunIdentity, Sample, Status, Timing, TrainerRecord, old,
};
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::path::Path;

/// A row of the study.
pub struct Row {
    pub executable: &'static str,
    pub model: &'static str,
    pub backend: &'static str,
    pub hidden: u64,
    pub train_s: f64,
    pub memory_mb: f64,
    pub accuracy_percent: f64,
    pub status: Status,
}

/// Runs of each row that completed.
pub const REPEATS: u32 = 8;

fn row(
    (executable, backend): (&'static str, &'static str),
    (model, hidden): (&'static str, u64),
    (train_s, memory_mb, accuracy_percent): (f64, f64, f64),
) -> Row {
    let status = Status::Measured;
    Row { executable, model, backend, hidden, train_s, memory_mb, accuracy_percent, status }
}

/// The rows in the order of their files.
pub fn rows() -> Vec<Row> {
    let (ours, cuda, torch) =
        (("MNISTClassic", "cpu"), ("MNISTClassic", "cuda"), ("PyTorch", "cpu"));
    let jax = ("JAX", "cpu");
    let mut rows = vec![
        row(ours, ("mlp", 512), (0.41, 71.0, 94.11)),
        row(cuda, ("mlp", 512), (0.062, 310.0, 94.16)),
        row(torch, ("mlp", 512), (3.9, 420.0, 94.2)),
        row(jax, ("mlp", 512), (1.9, 510.0, 94.14)),
        row(ours, ("mlp", 256), (0.22, 70.0, 93.9)),
        row(torch, ("mlp", 256), (2.6, 410.0, 93.9)),
        row(ours, ("cnn", 0), (0.17, 69.0, 92.7)),
        row(torch, ("cnn", 0), (4.4, 430.0, 92.6)),
        row(jax, ("cnn", 0), (5.4, 520.0, 88.1)),
        row(("MNISTClassic", "wgpu"), ("mlp", 512), (14.2, 190.0, 94.1)),
        row(("MNISTClassic", "mps"), ("mlp", 512), (0.0, 0.0, 0.0)),
        row(("PyTorch", "cuda"), ("cnn", 0), (0.0, 0.0, 0.0)),
    ];
    rows[8].status = Status::NotConverged;
    rows[10].status = Status::Unavailable;
    rows[11].status = Status::Crashed;
    rows
}

/// The row's result file.
pub fn file(row: &Row) -> Record {
    let mut config = Map::new();
    for (key, value) in [("epochs", json!(5)), ("batch_size", json!(32)), ("seed", json!(42))] {
        config.insert(key.to_owned(), value);
    }
    if row.hidden > 0 {
        config.insert("hidden_size".to_owned(), json!(row.hidden));
    }
    let text = |text: &str| Some(text.to_owned());
    let target = if row.model == "mlp" { 93.5 } else { 91.0 };
    let mut task = old::TASK.clone();
    task.metrics.get_mut(old::ACCURACY).unwrap().source = Some(Source::Scored);
    let mut file = Record {
        executable: row.executable.into(),
        model: row.model.into(),
        backend: row.backend.into(),
        timestamp: "20261124_101500".into(),
        config,
        schema_version: 2,
        run: Some(Box::new(RunIdentity {
            id: "study".into(),
            suite: "mnist".into(),
            quick: false,
            started: "2026-11-24T10:15:00Z".into(),
            git_commit: text("6d8ca6d"),
            harness: "0.1.0".into(),
            reference: None,
        })),
        task: Some(Box::new(task)),
        keys: old::KEYS.clone(),
        dataset: Some(Box::new(DatasetRecord {
            name: "mnist".into(),
            sha256: text(&"a9".repeat(32)),
        })),
        targets: [(old::ACCURACY.to_owned(), target)].into(),
        sources: BTreeMap::from([
            ("training_time_seconds".into(), "getrusage".into()),
            ("peak_memory_mb".into(), "VmHWM of the largest process".into()),
        ]),
        trainer: Some(Box::new(trainer(row))),
        machine: Some(Box::new(Machine {
            hostname: text("bench-1"),
            cpu: text("AMD EPYC 9B45"),
            cores: Some(2),
            threads: Some(2),
            memory_bytes: Some(24 << 30),
            os: text("Linux (Debian GNU/Linux 12)"),
            kernel: text("6.1.0-18-amd64"),
            architecture: text("x86_64"),
            ..Machine::default()
        })),
        capability: Some(Box::new(capability())),
        ..Record::default()
    };
    match row.status {
        Status::Unavailable => {
            file.status = row.status;
            file.reason = text("Metal needs macOS");
        }
        Status::Crashed => file.add_sample(crash()),
        _ => (0..REPEATS).for_each(|round| file.add_sample(sample(row, round))),
    }
    if row.status == Status::NotConverged {
        file.status = row.status;
        file.reason = text("88.10 % is below the target of 91.00 %");
    }
    file
}

fn trainer(row: &Row) -> TrainerRecord {
    TrainerRecord {
        command: ["train", "--model", row.model, "--backend", row.backend]
            .map(str::to_owned)
            .into(),
        sha256: Some("ab".repeat(32)),
        version: Some("1.0".into()),
        device: Some(if row.backend == "cuda" { "NVIDIA H100" } else { "AMD EPYC 9B45" }.into()),
        threads: Some(2),
        precision: Some("float32".into()),
        parameters: Some(if row.model == "mlp" { 794 * row.hidden + 10 } else { 13_610 }),
        software: row.backend == "wgpu",
        ..TrainerRecord::default()
    }
}

fn sample(row: &Row, round: u32) -> Sample {
    // Some noise that is the same every time.
    let noise = 1.0 + 0.004 * f64::from((round * 5 + row.hidden as u32) % 7);
    let train_s = row.train_s * noise;
    let timing = Timing {
        wall_s: Some(train_s + 0.3),
        user_s: Some(2.0 * train_s + 0.1),
        system_s: Some(0.05),
        setup_s: Some(0.12),
        train_s: Some(train_s),
        ..Timing::default()
    };
    let losses = [0.6118, 0.3953, 0.3062, 0.2555, 0.222];
    let curve = losses.iter().zip(1..).map(|(loss, epoch)| CurvePoint {
        epoch: Some(f64::from(epoch)),
        loss: Some(*loss),
        seconds: Some(train_s / 5.0 * f64::from(epoch)),
        metrics: [(old::ACCURACY.to_owned(), row.accuracy_percent - 5.0 * loss + 1.11)].into(),
        ..CurvePoint::default()
    });
    let dense_flop =
        if row.model == "mlp" { 4.9e11 } else { 7e10 } * (row.hidden.max(512) as f64 / 512.0);
    let skips = row.executable == "MNISTClassic";
    Sample {
        round,
        timing,
        peak_memory_bytes: Some((row.memory_mb * 1e6) as u64),
        metrics: [(old::ACCURACY.to_owned(), row.accuracy_percent)].into(),
        curve: curve.collect(),
        steps: Some(9375),
        dense_flop: Some(dense_flop),
        executed_flop: Some(if skips { 0.2 * dense_flop } else { dense_flop }),
        ..Sample::default()
    }
}

fn crash() -> Sample {
    Sample {
        status: Status::Crashed,
        reason: Some("ended by SIGSEGV".into()),
        timing: Timing { wall_s: Some(1.2), user_s: Some(0.9), ..Timing::default() },
        stdout_tail: Some("Epoch 1/5".into()),
        stderr_tail: Some("\u{1b}[31mRuntimeError\u{1b}[0m: out of luck\n  at step 17 < 18".into()),
        ..Sample::default()
    }
}

fn capability() -> machine::Capability {
    use machine::{Access, Bandwidth, Capability, Cpu, FmaRate, Level};
    let bandwidth = |level, bytes_per_s| Bandwidth {
        level,
        access: Access::Copy,
        threads: 2,
        working_set_bytes: 1 << 15,
        bytes_per_s,
        highest_bytes_per_s: bytes_per_s,
    };
    Capability {
        schema_version: 1,
        key: "bench-1".into(),
        measured: "2026-11-24T10:00:00Z".into(),
        rounds: 5,
        cpu: Cpu {
            name: Some("AMD EPYC 9B45".into()),
            architecture: "x86_64".into(),
            threads: 2,
            fma: vec![FmaRate {
                isa: "avx512".into(),
                threads: 2,
                flop_per_s: 548_000_000_000,
                highest_flop_per_s: 550_000_000_000,
            }],
            bandwidth: vec![
                bandwidth(Level::L1, 900_000_000_000),
                bandwidth(Level::L2, 400_000_000_000),
                bandwidth(Level::L3, 120_000_000_000),
                bandwidth(Level::Memory, 40_000_000_000),
            ],
            ..Cpu::default()
        },
        ..Capability::default()
    }
}

pub fn files() -> Vec<Record> {
    rows().iter().map(file).collect()
}

/// The same, racing for 91 %: with a column for everything that there is.
pub fn racing() -> Vec<Record> {
    let mut files = files();
    for file in &mut files {
        file.config.insert(race::TARGET.to_owned(), json!(91.0));
        file.race = Race::new(&file.config, file.task(), file.counted()).map(Box::new);
    }
    files
}

/// What `trainmark verify` would say of some rows: one is as it should be, one is not.
pub fn verifications() -> Vec<u8> {
    let verification = |(executable, model): (&str, &str), grade: &str, reason: Option<&str>| {
        let mut config = json!({"batch_size": 32});
        if model == "mlp" {
            config["hidden_size"] = json!(512);
        }
        json!({
            "executable": executable, "model": model, "backend": "cpu", "config": config,
            "grade": grade, "reason": reason, "steps": 10, "verified": "2026-11-24T10:00:00Z",
        })
    };
    let different = Some("conv1.weight differs from step 1 on");
    let file = json!({"schema_version": 1, "verifications": [
        verification(("MNISTClassic", "mlp"), "float32", None),
        verification(("JAX", "cnn"), "different", different),
    ]});
    file.to_string().into_bytes()
}

/// As `trainmark report` reads them.
pub fn summary_of(files: &[Record]) -> Summary {
    let entry = |(index, record): (usize, &Record)| Entry {
        file: format!("{index:03}.json"),
        record: record.clone(),
    };
    let entries = files.iter().enumerate().map(entry).collect();
    let verifications = VerificationFile::parse(&verifications()).unwrap().verifications;
    let folder = Folder { entries, verifications, ..Folder::default() };
    Summary::new(folder, &Options::default()).unwrap()
}

/// Writes the files as a folder of results.
pub fn write(files: &[Record], folder: &Path) {
    for (index, file) in files.iter().enumerate() {
        let text = serde_json::to_vec_pretty(file).unwrap();
        std::fs::write(folder.join(format!("{index:03}.json")), text).unwrap();
    }
    std::fs::write(folder.join("verification.json"), verifications()).unwrap();
}
