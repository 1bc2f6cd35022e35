//! The panels of scaling: a small table for each curve.

use crate::text::digits;
use record::scaling::{Curve, curves};
use record::summary::Summary;
use record::task::ScalingKind;

/// A panel: its title, the heads of its columns, and its rows.
pub struct Panel {
    pub title: String,
    pub heads: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// One panel for each curve.
pub fn panels(summary: &Summary) -> Vec<Panel> {
    curves(summary.rows.iter().map(|row| &row.record)).iter().map(panel).collect()
}

fn panel(curve: &Curve) -> Panel {
    let kind = match curve.kind {
        ScalingKind::Strong => "strong scaling, the same work together",
        ScalingKind::Weak => "weak scaling, the same work for each",
    };
    let has_throughput = curve.points.iter().any(|point| point.throughput.is_some());
    let mut heads = vec![curve.over.clone(), "Train (s)".to_owned()];
    heads.extend(has_throughput.then(|| "Work/s".to_owned()));
    heads.extend(["Speed-up", "Efficiency"].map(str::to_owned));
    let row = |point: &record::scaling::Point| {
        let mut row = vec![point.number.to_string(), digits(point.train_s)];
        if has_throughput {
            row.push(point.throughput.map_or(String::new(), digits));
        }
        let unsure = if point.is_known { "" } else { "~" };
        row.push(format!("{unsure}{:.2}x", point.speed_up));
        row.push(format!("{unsure}{:.1} %", 100.0 * point.efficiency));
        row
    };
    let title = format!("{} over {} ({kind})", curve.row, curve.over);
    Panel { title, heads, rows: curve.points.iter().map(row).collect() }
}
