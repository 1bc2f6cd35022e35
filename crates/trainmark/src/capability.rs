//! The measured peaks of this machine.

use machine::Capability;

/// What `trainmark machine` measured here and kept in the user's cache; `None` if it never did.
///
/// # Errors
/// If what was kept cannot be read.
pub fn kept() -> Result<Option<Capability>, machine::Error> {
    match files::cache_directory() {
        Some(cache) => machine::load(&cache, &machine::describe().key),
        None => Ok(None),
    }
}
