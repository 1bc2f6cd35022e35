//! One figure: measured, with its source, or absent, with the reason. A figure that cannot be had is
//! never 0.

use serde::{Deserialize, Serialize};

/// A figure as it is measured and as it stands in the record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reading {
    pub value: Option<f64>,
    /// Where it comes from and what it covers, in words for the record.
    pub source: Option<String>,
    /// Whether the figure means what its name says.
    pub valid: bool,
    /// Why there is no figure, or why it is not valid.
    pub reason: Option<String>,
}

impl Reading {
    pub fn measured(value: f64, source: impl Into<String>) -> Reading {
        Reading { value: Some(value), source: Some(source.into()), valid: true, reason: None }
    }

    pub fn absent(reason: impl Into<String>) -> Reading {
        Reading { reason: Some(reason.into()), ..Reading::default() }
    }

    /// A value with this source, or the reason why there is none.
    pub fn of(result: Result<f64, String>, source: impl Into<String>) -> Reading {
        match result {
            Ok(value) => Reading::measured(value, source),
            Err(reason) => Reading::absent(reason),
        }
    }

    /// Of nodes that trained together, of which there is one at least: the sum, or the largest, and which of them
    /// has most.
    pub(super) fn together(nodes: &[(&str, &Reading)], largest: bool) -> Reading {
        let (mut sum, mut most) = (0.0, None::<(&str, f64)>);
        for (node, reading) in nodes {
            let Some(value) = reading.value else {
                return Reading::absent(format!(
                    "{node}: {}",
                    reading.reason().unwrap_or("unknown")
                ));
            };
            sum += value;
            if most.is_none_or(|(_, known)| value > known) {
                most = Some((node, value));
            }
        }
        let (node, value) = most.unwrap_or_default();
        let source = nodes.iter().find_map(|(_, reading)| reading.source()).unwrap_or_default();
        let (what, value) = match largest {
            true => (format!("the largest of {} nodes, {node}'s", nodes.len()), value),
            false => (format!("sum of {} nodes, most on {node}: {value}", nodes.len()), sum),
        };
        let invalid = nodes.iter().find(|(_, reading)| !reading.valid);
        let why = invalid.map(|(node, it)| format!("{node}: {}", it.reason().unwrap_or_default()));
        Reading::measured(value, format!("{what}; on each: {source}")).but_invalid(why)
    }

    /// The same figure, which does not mean what its name says.
    #[must_use]
    pub fn but_invalid(self, reason: Option<String>) -> Reading {
        match (self.value, reason) {
            (Some(_), Some(reason)) => Reading { valid: false, reason: Some(reason), ..self },
            _ => self,
        }
    }

    pub fn value(&self) -> Option<f64> {
        self.value
    }

    /// The value of a figure that is counted: bytes, processes, events.
    pub fn count(&self) -> Option<u64> {
        self.value.map(|value| value as u64)
    }

    /// The source of a measured figure.
    pub fn source(&self) -> Option<&str> {
        self.source.as_deref()
    }

    /// The reason for an absent figure, or for one that is not valid.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}
