//! MLPerf log lines (`:::MLLOG {...}`, as mlperf-logging 4 writes and parses them): one run per row, in the
//! order of MLPerf's training rules: submission, initialisation, run, epochs as one block, accuracy, end.
//!
//! The keys are mlperf-logging's constants. A row's figures are medians over its runs, so the times in
//! the lines are the row's start plus these durations: they say how long, and not when to the millisecond.
//! These are no MLPerf results, which only MLCommons publishes: the division is `open`.

use super::collection::Row;
use super::summary::Summary;
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{Result, Write};

#[derive(Serialize)]
struct Line<'a> {
    namespace: &'static str,
    time_ms: i64,
    event_type: &'static str,
    key: &'static str,
    value: Value,
    metadata: Metadata<'a>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    file: &'a str,
    lineno: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch_num: Option<u64>,
}

/// Writes the lines of every row that was trained; there is nothing to log of the others.
///
/// # Errors
/// If `to` cannot be written to.
pub fn write(summary: &Summary, mut to: impl Write) -> Result<()> {
    for row in summary.rows().iter().filter(|row| row.status.completed()) {
        Log { row, to: &mut to, now_s: start_s(row), lineno: 0 }.run(summary)?;
    }
    Ok(())
}

/// Seconds since 1970 at which the row began; 0 where nobody noted it.
fn start_s(row: &Row) -> f64 {
    row.started.map_or(0.0, |started| started.as_millisecond() as f64 / 1e3)
}

struct Log<'a, W> {
    row: &'a Row,
    to: W,
    now_s: f64,
    lineno: usize,
}

impl<W: Write> Log<'_, W> {
    fn run(&mut self, summary: &Summary) -> Result<()> {
        let row = self.row;
        let number = |key: &str| summary.config(row, key).cloned().unwrap_or(Value::Null);
        let benchmark = format!(
            "{}_{}",
            summary.dataset(row).map_or("unknown", |it| &it.name),
            summary.model(row)
        );
        let platform =
            format!("{} {}", summary.backend(row), summary.device(row).unwrap_or_default());
        for (key, value) in [
            ("submission_benchmark", json!(benchmark)),
            ("submission_division", json!("open")),
            ("submission_org", json!(summary.executable(row))),
            ("submission_platform", json!(platform.trim_end())),
            ("submission_status", json!("research")),
            ("cache_clear", json!(true)),
        ] {
            self.point(key, value)?;
        }
        self.line("INTERVAL_START", "init_start", Value::Null, None, None)?;
        for (key, config) in [
            ("seed", "seed"),
            ("global_batch_size", "batch_size"),
            ("opt_base_learning_rate", "learning_rate"),
        ] {
            self.point(key, number(config))?;
        }
        self.point("opt_name", json!("sgd"))?;
        let timing = row.timing();
        self.now_s += timing.setup_s.unwrap_or(0.0) + timing.compile_s.unwrap_or(0.0);
        self.line("INTERVAL_END", "init_stop", Value::Null, None, None)?;
        self.line("INTERVAL_START", "run_start", Value::Null, None, None)?;
        let epochs = summary.config(row, "epochs").and_then(Value::as_u64);
        self.line("INTERVAL_START", "epoch_start", Value::Null, None, Some(1))?;
        self.now_s += timing.train_s.or(timing.wall_s).unwrap_or(0.0);
        self.line("INTERVAL_END", "epoch_stop", Value::Null, None, epochs)?;
        self.line("INTERVAL_START", "eval_start", Value::Null, None, epochs)?;
        self.now_s += timing.eval_s.unwrap_or(0.0);
        if let Some(percent) = row.metrics().test_accuracy_percent {
            self.line("POINT_IN_TIME", "eval_accuracy", json!(percent / 100.0), None, epochs)?;
        }
        self.line("INTERVAL_END", "eval_stop", Value::Null, None, epochs)?;
        let status = if row.is_ranked() { "success" } else { "aborted" };
        self.line("INTERVAL_END", "run_stop", Value::Null, Some(status), epochs)
    }

    fn point(&mut self, key: &'static str, value: Value) -> Result<()> {
        self.line("POINT_IN_TIME", key, value, None, None)
    }

    fn line(
        &mut self,
        event_type: &'static str,
        key: &'static str,
        value: Value,
        status: Option<&'static str>,
        epoch_num: Option<u64>,
    ) -> Result<()> {
        self.lineno += 1;
        let line = Line {
            namespace: "",
            time_ms: (self.now_s * 1e3).round() as i64,
            event_type,
            key,
            value,
            metadata: Metadata { file: self.row.file(), lineno: self.lineno, status, epoch_num },
        };
        self.to.write_all(b":::MLLOG ")?;
        serde_json::to_writer(&mut self.to, &line)?;
        self.to.write_all(b"\n")
    }
}
