//! OpenMetrics text format (<https://prometheus.io/docs/specs/om/open_metrics_spec/>), for Prometheus and
//! its kin: a gauge per figure in base units, a label per thing that identifies a row.

use crate::text;
use record::figures::Figure;
use record::summary::{Row, Summary};
use std::io::{Result, Write};

/// Writes the exposition.
///
/// # Errors
/// If `to` cannot be written to.
pub fn write(summary: &Summary, mut to: impl Write) -> Result<()> {
    let mut taken = std::collections::BTreeSet::new();
    for figure in &summary.figures {
        let value = |row: &Row| figure.of(&row.record);
        if summary.rows.iter().any(|row| value(row).is_some()) {
            let (mut name, unit, scale) = base(figure);
            // A metric of a task may have any name, one of ours in base units too.
            while !taken.insert(name.clone()) {
                name = format!("task_{name}");
            }
            let family = (name.as_str(), unit, &*figure.help);
            let scaled = |row: &Row| value(row).map(|it| it * scale).filter(|it| it.is_finite());
            write_family(summary, family, scaled, &mut to)?;
        }
    }
    let converged =
        ("converged", "", "1 where the row was measured and reached its target, else 0");
    write_family(summary, converged, |row| Some(f64::from(u8::from(row.is_ranked()))), &mut to)?;
    writeln!(to, "# EOF")
}

/// The figure's name in base units, the unit, and what a value is multiplied by.
fn base(figure: &Figure) -> (String, &'static str, f64) {
    let (endings, unit, scale): (&[&str], _, _) = match &*figure.unit {
        "s" => (&["_s", "_seconds"], "seconds", 1.0),
        "MB" => (&["_mb"], "bytes", record::number::MEGABYTE),
        "%" => (&["_percent"], "ratio", 0.01),
        _ => (&[], "", 1.0),
    };
    let stem = endings.iter().find_map(|ending| figure.key.strip_suffix(ending));
    let stem: String = stem.unwrap_or(&figure.key).chars().map(legal).collect();
    match unit {
        "" => (stem, unit, scale),
        unit => (format!("{stem}_{unit}"), unit, scale),
    }
}

fn write_family(
    summary: &Summary,
    (name, unit, help): (&str, &str, &str),
    value: impl Fn(&Row) -> Option<f64>,
    to: &mut impl Write,
) -> Result<()> {
    writeln!(to, "# TYPE trainmark_{name} gauge")?;
    if !unit.is_empty() {
        writeln!(to, "# UNIT trainmark_{name} {unit}")?;
    }
    writeln!(to, "# HELP trainmark_{name} {}.", escaped(help))?;
    for row in &summary.rows {
        // A row that was never trained has no figures, and no convergence to speak of.
        if let Some(value) = value(row).filter(|_| row.record.status.completed()) {
            write!(to, "trainmark_{name}{{")?;
            labels(row, to)?;
            writeln!(to, "}} {value:?}")?;
        }
    }
    Ok(())
}

fn labels(row: &Row, to: &mut impl Write) -> Result<()> {
    let record = &row.record;
    let fixed = [
        ("executable", record.executable.as_str()),
        ("model", &record.model),
        ("backend", &record.backend),
        ("compiled", if record.compiled { "true" } else { "false" }),
        ("task", &record.task().name),
        ("dataset", record.dataset.as_ref().map_or("", |it| &it.name)),
        ("run", record.run.as_ref().map_or("", |it| &it.id)),
        // Two rows may agree in all the rest: no two samples may have the same labels.
        ("file", &row.file),
    ];
    for (index, (name, value)) in fixed.into_iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        write!(to, "{comma}{name}=\"{}\"", escaped(value))?;
    }
    let mut taken: Vec<String> = Vec::new();
    for (key, value) in &record.config {
        let name = format!("config_{}", key.chars().map(legal).collect::<String>());
        if !taken.contains(&name) {
            write!(to, ",{name}=\"{}\"", escaped(&text::scalar(Some(value))))?;
            taken.push(name);
        }
    }
    Ok(())
}

fn legal(c: char) -> char {
    if c.is_ascii_alphanumeric() { c } else { '_' }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
