//! The defaults of Trainmark: the suite and the task that are used if none is named, and data that the
//! program draws where there are none. The harness knows none of it by a name of its own.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

/// The suite that is meant if nobody names one.
pub const SUITE: &str = "mnist";
/// The task of suites that name none, as all were once.
pub const TASK: &str = "mnist";

/// Makes sure that the user's cache has the data of that name, which the program draws itself; returns their
/// file or folder. `None` if there are none of that name.
///
/// # Errors
/// If they cannot be written; the message names the file.
pub fn draw(name: &str, cache: &Path) -> Option<Result<PathBuf, String>> {
    match name {
        "digits" => Some(mnist::digits::materialise(cache).map_err(|error| error.to_string())),
        "babble" => {
            Some(text::babble::store(&cache.join("text")).map_err(|error| error.to_string()))
        }
        _ => None,
    }
}
