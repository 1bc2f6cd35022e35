//! OpenMetrics text format (<https://prometheus.io/docs/specs/om/open_metrics_spec/>), for Prometheus and
//! its kin: a gauge per figure, a label per thing that identifies a row.

use super::collection::Row;
use super::summary::Summary;
use super::text;
use serde_json::{Map, Value};
use std::io::{Result, Write};

/// Name without prefix, unit, help, figure in base units.
type Family = (&'static str, &'static str, &'static str, fn(&Row) -> Option<f64>);

const FAMILIES: [Family; 6] = [
    ("train_seconds", "seconds", "All epochs, on the trainer's clock.", |row| row.timing().train_s),
    ("wall_seconds", "seconds", "The process, on the harness's clock.", |row| row.timing().wall_s),
    ("cpu_seconds", "seconds", "User and system time of the process tree.", |row| {
        row.metrics().training_time_seconds
    }),
    ("peak_memory_bytes", "bytes", "Peak resident memory of the process tree.", |row| {
        Some(row.metrics().peak_memory_mb? * crate::report::old_result::MEGABYTE)
    }),
    ("test_accuracy_ratio", "ratio", "Share of the test set that was predicted right.", |row| {
        Some(row.metrics().test_accuracy_percent? / 100.0)
    }),
    ("converged", "", "1 where the row was measured and reached its target, else 0.", |row| {
        Some(f64::from(u8::from(row.is_ranked())))
    }),
];

/// Writes the exposition.
///
/// # Errors
/// If `to` cannot be written to.
pub fn write(summary: &Summary, mut to: impl Write) -> Result<()> {
    for (name, unit, help, figure) in FAMILIES {
        writeln!(to, "# TYPE trainmark_{name} gauge")?;
        if !unit.is_empty() {
            writeln!(to, "# UNIT trainmark_{name} {unit}")?;
        }
        writeln!(to, "# HELP trainmark_{name} {help}")?;
        for row in summary.rows() {
            // A row that was never trained has no figures, and no convergence to speak of.
            if let Some(figure) = figure(row).filter(|_| row.status.completed()) {
                write!(to, "trainmark_{name}{{")?;
                labels(summary, row, &mut to)?;
                writeln!(to, "}} {figure:?}")?;
            }
        }
    }
    writeln!(to, "# EOF")
}

fn labels(summary: &Summary, row: &Row, mut to: impl Write) -> Result<()> {
    let dataset = summary.dataset(row).map_or("", |it| &it.name);
    let run = summary.run(row).map_or("", |it| &it.id);
    let fixed = [
        ("executable", summary.executable(row)),
        ("model", summary.model(row)),
        ("backend", summary.backend(row)),
        ("compiled", if row.compiled { "true" } else { "false" }),
        ("dataset", dataset),
        ("run", run),
        // Two rows may agree in all the rest: no two samples may have the same labels.
        ("file", row.file()),
    ];
    for (index, (name, value)) in fixed.into_iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        write!(to, "{comma}{name}=\"{}\"", escaped(value))?;
    }
    let config: &Map<String, Value> = summary.config_of(row);
    let mut taken: Vec<String> = Vec::new();
    for (key, value) in config {
        let name = label_name(key);
        if !taken.contains(&name) {
            write!(to, ",{name}=\"{}\"", escaped(&text::scalar(Some(value))))?;
            taken.push(name);
        }
    }
    Ok(())
}

/// `config_` and the key, with what a label's name may not have replaced.
fn label_name(key: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!("config_{}", key.chars().map(legal).collect::<String>())
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
