//! The needs of a trainer, as a suite file declares them.

use measure::provenance::resolve_program;
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
    /// Commands that the set-up needs in `PATH`, for example a compiler; a trainer that is set up needs none.
    pub programs: Vec<PathBuf>,
    /// Files of drivers, of which one has to be there, for example a GPU's device.
    pub if_exists: Vec<PathBuf>,
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

impl Setup {
    /// The files of drivers, if none of them is here.
    pub fn missing_device(&self) -> Option<String> {
        let files: Vec<String> = self.if_exists.iter().map(|it| it.display().to_string()).collect();
        let here = files.is_empty() || self.if_exists.iter().any(|file| file.exists());
        (!here).then(|| files.join(" or "))
    }

    /// The first command that is not in `PATH`.
    pub fn missing_program(&self) -> Option<&Path> {
        let mut names = self.programs.iter().map(PathBuf::as_path);
        names.find(|name| resolve_program(name).is_none())
    }
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
    fn a_set_up_is_for_machines_that_have_its_file_and_its_programs() {
        let setup = |text: &str| toml::from_str::<Setup>(text).unwrap();
        assert_eq!(setup("programs = [\"cargo\"]").missing_program(), None);
        let lacking = setup("programs = [\"cargo\", \"no-compiler\"]");
        assert_eq!(lacking.missing_program(), Some(Path::new("no-compiler")));
        assert_eq!(setup("if_exists = [\"/no/one\", \"/\"]").missing_device(), None);
        let two = setup("if_exists = [\"/no/one\", \"/no/other\"]").missing_device();
        assert_eq!(two.unwrap(), "/no/one or /no/other");
    }

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
