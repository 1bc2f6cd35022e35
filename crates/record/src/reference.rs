//! The row that others are compared with, as suites, records and the command line name it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::str::FromStr;

/// The rows that others are compared with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    pub executable: String,
    pub backend: String,
    /// Configuration that the row must have, for comparisons across a key.
    #[serde(rename = "where", default, skip_serializing_if = "Map::is_empty")]
    pub settings: Map<String, Value>,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.executable, self.backend)?;
        self.settings.iter().try_for_each(|(key, value)| write!(f, " {key}={value}"))
    }
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Reference, String> {
        match text.rsplit_once('/') {
            Some((executable, backend)) if !executable.is_empty() && !backend.is_empty() => {
                let (executable, backend) = (executable.to_owned(), backend.to_owned());
                Ok(Reference { executable, backend, settings: Map::new() })
            }
            _ => Err("write EXECUTABLE/BACKEND, for example PyTorch/cpu".to_owned()),
        }
    }
}
