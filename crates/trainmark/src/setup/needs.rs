//! The needs of a trainer, as a suite file declares them.

use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The needs of a trainer, in the suite file.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Declared {
    /// The same as the trainer of that name.
    SameAs(String),
    Own(Box<Setup>),
}

/// A set-up.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Setup {
    /// Lock files of a Python environment (pip's requirements, with hashes); the first that is for
    /// this machine is installed into `.trainmark/environments/NAME`.
    pub locks: Vec<Lock>,
    /// The oldest Python that the locks are for, for example `3.11`.
    pub python: Option<String>,
    /// Commands that are run from the suite's root, after the environment is there.
    pub commands: Vec<Vec<String>>,
    /// Files and folders of which a change calls for another set-up.
    pub inputs: Vec<PathBuf>,
}

/// A lock file and the machines that it is for; what is left out matches all.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    pub file: PathBuf,
    /// `linux`, `macos`, `windows`.
    pub system: Option<String>,
    /// `x86_64`, `aarch64`.
    pub machine: Option<String>,
    /// Only where this file is, for example a GPU's device.
    pub if_exists: Option<PathBuf>,
}

impl Lock {
    pub fn is_for_this_machine(&self) -> bool {
        self.system.as_deref().is_none_or(|system| system == std::env::consts::OS)
            && self.machine.as_deref().is_none_or(|machine| machine == std::env::consts::ARCH)
            && self.if_exists.as_deref().is_none_or(Path::exists)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_for_the_machines_that_it_names() {
        let lock = |text: &str| toml::from_str::<Lock>(text).unwrap();
        assert!(lock("file = \"a\"").is_for_this_machine());
        let here = format!(
            "file = \"a\"\nsystem = \"{}\"\nmachine = \"{}\"",
            std::env::consts::OS,
            std::env::consts::ARCH
        );
        assert!(lock(&here).is_for_this_machine());
        assert!(!lock("file = \"a\"\nsystem = \"plan9\"").is_for_this_machine());
        assert!(!lock("file = \"a\"\nif_exists = \"/no/such/device\"").is_for_this_machine());
    }
}
