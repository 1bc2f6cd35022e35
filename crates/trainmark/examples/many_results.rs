//! Writes many result files, to measure the reports with:
//!
//! ```sh
//! cargo run --release -p trainmark --example many_results -- FOLDER 100000 specification
//! ```
//!
//! `specification`: files as the specification's script writes them. `ours`: files as `trainmark run`
//! writes them, six runs each. Both name eight backends, four sizes and as many timestamps as it takes.

use serde_json::{Value, json};
use std::error::Error;
use std::fs;
use std::path::Path;

const BACKENDS: [&str; 8] = ["cpu", "mps", "mpsgraph", "wgpu", "cuda", "cudagraph", "mlx", "torch"];
const HIDDEN: [u32; 4] = [64, 256, 512, 1024];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, count, kind] = arguments.as_slice() else {
        return Err("usage: many_results FOLDER COUNT specification|ours".into());
    };
    let ours = match kind.as_str() {
        "ours" => true,
        "specification" => false,
        other => return Err(format!("{other}: say specification or ours").into()),
    };
    fs::create_dir_all(folder)?;
    for number in 0..count.parse::<u32>()? {
        let (name, result) = result(number, ours);
        fs::write(Path::new(folder).join(name), serde_json::to_vec_pretty(&result)?)?;
    }
    Ok(())
}

fn result(number: u32, ours: bool) -> (String, Value) {
    let backend = BACKENDS[number as usize % 8];
    let hidden = HIDDEN[number as usize / 8 % 4];
    let moment = number / 32;
    let timestamp = format!(
        "2024{:02}{:02}_{:02}{:02}{:02}",
        1 + moment / 86_400 / 28 % 12,
        1 + moment / 86_400 % 28,
        moment / 3600 % 24,
        moment / 60 % 60,
        moment % 60
    );
    // Some spread without a generator: a golden-ratio sequence.
    let spread = f64::from(number) * 0.618_033_988_75 % 1.0;
    let seconds = 10.0 + f64::from(hidden) / 50.0 * (1.0 + 0.1 * spread);
    let mut result = json!({
        "executable": "MNISTClassic",
        "model": "mlp",
        "backend": backend,
        "timestamp": timestamp,
        "config": {"epochs": 5, "batch_size": 32, "hidden_size": hidden, "seed": 42},
        "metrics": {
            "training_time_seconds": seconds,
            "peak_memory_mb": 200.0 + spread,
            "test_accuracy_percent": 94.0 + spread,
        },
    });
    if ours {
        add_ours(&mut result, number, seconds, spread);
    }
    (format!("classic_{backend}_h{hidden}_{timestamp}.json"), result)
}

fn add_ours(result: &mut Value, number: u32, seconds: f64, spread: f64) {
    let timing = json!({
        "wall_s": seconds, "user_s": seconds * 0.9, "system_s": seconds * 0.1, "setup_s": 0.05,
        "compile_s": null, "train_s": seconds * 0.8, "eval_s": 0.01, "device_s": null,
    });
    let epochs: Vec<Value> = (1..=5)
        .map(|epoch| {
            json!({"epoch": epoch, "loss": 0.6 / f64::from(epoch), "seconds": seconds / 5.0,
                   "accuracy_percent": null})
        })
        .collect();
    let sample = |round: u32| {
        json!({
            "round": round, "status": "measured", "timing": timing, "peak_memory_bytes": 200_000_000,
            "test_accuracy_percent": 94.0 + spread, "accuracy_source": "scored", "epochs": epochs,
            "steps": 9375, "dense_flop": 4.9e11, "executed_flop": 1.2e11,
        })
    };
    let more = json!({
        "schema_version": 1, "status": "measured", "accuracy_source": "scored", "timing": timing,
        "run": {"id": format!("run-{}", number / 32), "suite": "mnist", "quick": false,
                "started": format!("2026-01-01T{:02}:{:02}:{:02}Z", number / 3600 % 24, number / 60 % 60, number % 60),
                "git_commit": format!("{:040x}", number / 3200), "harness": "0.1.0"},
        "dataset": {"name": "mnist", "sha256": "0".repeat(64)},
        "samples": (0..6).map(sample).collect::<Vec<_>>(),
        "machine": {"hostname": "bench", "cpu": "CPU", "cores": 2, "threads": 2,
                    "memory_bytes": 1u64 << 34, "os": "Linux", "kernel": "6", "architecture": "x86_64"},
    });
    if let (Value::Object(result), Value::Object(more)) = (result, more) {
        result.extend(more);
    }
}
