//! One figure: measured, with its source, or absent, with the reason. A figure that cannot be had is
//! never 0.

use serde::{Deserialize, Serialize};

/// How figures of several nodes become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Sum,
    Largest,
    Least,
}

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

    /// Of nodes that trained together, of which there is one at least: the sum, the largest or the least, and which
    /// of them has most, or least.
    pub(super) fn together(nodes: &[(&str, &Reading)], over: Over) -> Reading {
        let (mut sum, mut outermost) = (0.0, None::<(&str, f64)>);
        for (node, reading) in nodes {
            let Some(value) = reading.value else {
                return Reading::absent(format!(
                    "{node}: {}",
                    reading.reason().unwrap_or("unknown")
                ));
            };
            sum += value;
            let beyond = |known| if over == Over::Least { value < known } else { value > known };
            if outermost.is_none_or(|(_, known)| beyond(known)) {
                outermost = Some((node, value));
            }
        }
        let (node, value) = outermost.unwrap_or_default();
        let source = nodes.iter().find_map(|(_, reading)| reading.source()).unwrap_or_default();
        let number = nodes.len();
        let (what, value) = match over {
            Over::Sum => (format!("sum of {number} nodes, most on {node}: {value}"), sum),
            Over::Largest => (format!("the largest of {number} nodes, {node}'s"), value),
            Over::Least => (format!("the least of {number} nodes, {node}'s"), value),
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
