//! The folder in which Trainmark keeps state between runs.

use directories::BaseDirs;
use std::path::PathBuf;

/// A folder of that name, on Linux in `$XDG_STATE_HOME/trainmark`; `None` without a home. It need not exist.
pub fn folder(name: &str) -> Option<PathBuf> {
    let places = BaseDirs::new()?;
    let state = places.state_dir().unwrap_or(places.data_local_dir());
    Some(state.join("trainmark").join(name))
}
