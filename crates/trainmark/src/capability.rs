//! The measured peaks of this machine.

use machine::Capability;

/// The result of `trainmark machine` in the user's cache; `None` if this machine was not measured.
///
/// # Errors
/// If what was kept cannot be read.
pub fn kept() -> Result<Option<Capability>, machine::Error> {
    match files::cache_directory() {
        Some(cache) => machine::load(&cache, &machine::describe().key),
        None => Ok(None),
    }
}
