//! Recognises equal trainings: the same row, the same data, the same program. A finished row with the same
//! fingerprint is skipped, so the fingerprint must change if the training would be different.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The identity of a training: two trainings with the same fingerprint are comparable.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fingerprint {
    pub trainer: String,
    pub model: String,
    pub backend: String,
    pub config: Map<String, Value>,
    pub dataset_sha256: String,
    /// The digest of the trainer's program; `None` if there is none.
    pub program_sha256: Option<String>,
    /// The digest of the command, the environment that the suite sets, the scripts that the command names, the
    /// trainer's `inputs`, and what its set-up was made from.
    pub command_sha256: String,
}

impl Fingerprint {
    /// Whether it is the same row of the suite, whatever program trains it and whatever the data.
    pub fn same_row(&self, other: &Fingerprint) -> bool {
        let Fingerprint { trainer, model, backend, config, .. } = self;
        (trainer, model, backend, config)
            == (&other.trainer, &other.model, &other.backend, &other.config)
    }
}
