//! Files of schema versions 0 (the specification's own scripts) and 1, read as records of version 2.
//!
//! Both are of the one task that there was then: images of digits, with the test accuracy as its quality.
//! This is the only place in the harness that knows it.

use crate::task::{Better, KeyRecord, MetricRecord, TaskRecord};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The specification's name of that task's quality.
pub const ACCURACY: &str = "test_accuracy_percent";
/// A configuration key of rows that raced to an accuracy.
pub const TARGET: &str = "target_accuracy_percent";

/// The task of a file that names none.
pub static TASK: LazyLock<TaskRecord> = LazyLock::new(|| TaskRecord {
    name: "mnist".to_owned(),
    quality: Some(ACCURACY.to_owned()),
    metrics: BTreeMap::from([(
        ACCURACY.to_owned(),
        MetricRecord {
            label: "Test Accuracy".to_owned(),
            unit: "%".to_owned(),
            better: Better::Higher,
            source: None,
        },
    )]),
    throughput: None,
});

/// What such files' configuration keys are called in tables, and which do not change the steps.
pub static KEYS: LazyLock<BTreeMap<String, KeyRecord>> = LazyLock::new(|| {
    let key = |name: &str, label: &str, changes_steps| {
        (name.to_owned(), KeyRecord { label: label.to_owned(), changes_steps })
    };
    BTreeMap::from([
        key("hidden_size", "hidden", true),
        key("epochs", "epochs", false),
        key("seed", "seed", false),
    ])
});

/// Rewrites a file of version 1.
pub(crate) fn upgrade(mut file: Value) -> Value {
    let Some(record) = file.as_object_mut() else { return file };
    let source = record.remove("accuracy_source").unwrap_or_default();
    if !record.contains_key("task") {
        let mut task = json!(*TASK);
        task["metrics"][ACCURACY]["source"] = source;
        record.insert("task".to_owned(), task);
    }
    if let Some(target) = record.remove(TARGET).filter(Value::is_number) {
        record.insert("targets".to_owned(), json!({ ACCURACY: target }));
    }
    if let Some(race) = record.get_mut("race").and_then(Value::as_object_mut)
        && let Some(target) = race.remove("target_percent")
    {
        race.insert("target".to_owned(), target);
        race.insert("metric".to_owned(), ACCURACY.into());
    }
    for sample in record.get_mut("samples").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(sample) = sample.as_object_mut() {
            upgrade_sample(sample);
        }
    }
    file
}

fn upgrade_sample(sample: &mut Map<String, Value>) {
    if let Some(accuracy) = sample.remove(ACCURACY).filter(Value::is_number) {
        sample.insert("metrics".to_owned(), json!({ ACCURACY: accuracy }));
    }
    let Some(Value::Array(epochs)) = sample.remove("epochs") else { return };
    let mut seconds = 0.0; // an epoch's own, then; since the start, now
    let points = epochs.iter().map(|epoch| {
        seconds += epoch["seconds"].as_f64().unwrap_or_default();
        let mut point = json!({"epoch": epoch["epoch"], "seconds": seconds, "loss": epoch["loss"]});
        if epoch["accuracy_percent"].is_number() {
            point["metrics"] = json!({ ACCURACY: epoch["accuracy_percent"] });
        }
        point
    });
    let curve = points.collect();
    sample.insert("curve".to_owned(), Value::Array(curve));
}
