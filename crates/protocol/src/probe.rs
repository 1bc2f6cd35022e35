//! `--probe`: a trainer prints one JSON object about the backends of this machine on its standard output.

use serde::{Deserialize, Serialize};

/// The answer to `--probe`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    pub trainer: String,
    pub version: String,
    /// Every backend that the trainer has or will have, available or not.
    pub backends: Vec<BackendProbe>,
}

/// One backend on this machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendProbe {
    /// The id, in lower case, as `--backend` takes it.
    pub backend: String,
    /// Why it cannot run here; `None` when it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
    /// The models that it trains.
    #[serde(default)]
    pub models: Vec<String>,
    /// The choices of `--device`.
    #[serde(default)]
    pub devices: Vec<DeviceProbe>,
}

/// One device of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceProbe {
    pub name: String,
    /// Further properties: driver, API, instruction set, memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// An imitation in software of a device of another kind.
    #[serde(default)]
    pub software: bool,
}
