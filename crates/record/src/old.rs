//! Files of schema versions 0 (the specification's own scripts) and 1, read as records of version 2.
//!
//! Both are of the one task that there was then: images of digits, with the test accuracy as its quality.
//! This is the only place in the harness that knows it.

use crate::task::{KeyRecord, TaskRecord};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The specification's name of that task's quality.
pub const ACCURACY: &str = "test_accuracy_percent";
/// A configuration key of rows that raced to an accuracy.
pub const TARGET: &str = "target_accuracy_percent";

/// The task of a file that names none.
pub static TASK: LazyLock<TaskRecord> = LazyLock::new(|| {
    let metric = json!({"label": "Test Accuracy", "unit": "%", "better": "higher"});
    known(json!({
        "name": "mnist", "quality": ACCURACY, "metrics": {ACCURACY: metric}, "verify": "float64",
    }))
});

/// The labels of such files' configuration keys, and which of them do not change the steps.
pub static KEYS: LazyLock<BTreeMap<String, KeyRecord>> = LazyLock::new(|| {
    known(json!({
        "hidden_size": {"label": "hidden"},
        "epochs": {"label": "epochs", "changes_steps": false},
        "seed": {"label": "seed", "changes_steps": false},
    }))
});

/// What stands here is as it is in a file of today; a test reads both.
fn known<T: DeserializeOwned>(written: Value) -> T {
    serde_json::from_value(written).unwrap_or_else(|error| unreachable!("{error}"))
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Record, Status};

    #[test]
    fn a_file_of_version_1_is_read_as_one_of_version_2() {
        let file = json!({
            "executable": "e", "model": "m", "backend": "b", "config": {"hidden_size": 8},
            "metrics": {"training_time_seconds": 2.0, "peak_memory_mb": 1.0, "test_accuracy_percent": 94.0},
            "schema_version": 1, "status": "no_accuracy", "target_accuracy_percent": 95.0,
            "accuracy_source": "scored",
            "samples": [{"test_accuracy_percent": 94.0, "accuracy_source": "scored", "epochs": [
                {"epoch": 1, "loss": 0.5, "seconds": 1.5, "accuracy_percent": 90.0},
                {"epoch": 2, "loss": null, "seconds": 0.5, "accuracy_percent": null},
            ]}],
        });
        let record = Record::parse(file.to_string().as_bytes()).unwrap();
        assert_eq!(record.status, Status::NoQuality);
        assert_eq!(record.quality(), Some(94.0));
        assert_eq!(record.missed_target(), Some((ACCURACY, 94.0, 95.0)));
        let task = record.task();
        assert_eq!(task.metrics[ACCURACY].source, Some(crate::task::Source::Scored));
        let curve = &record.samples[0].curve;
        assert_eq!((curve[1].epoch, curve[1].seconds, curve[1].loss), (Some(2.0), Some(2.0), None));
        assert_eq!(curve[0].metrics[ACCURACY], 90.0);
        assert_eq!(record.samples[0].metrics[ACCURACY], 94.0);
        assert_eq!(record.key("hidden_size").unwrap().label, "hidden");
    }
}
