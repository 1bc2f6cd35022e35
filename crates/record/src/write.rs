//! Writes result files and other JSON files to the disk, completely or not at all.

use crate::Record;
use serde::Serialize;
use std::io;
use std::path::Path;

pub use files::WRITING;

/// Writes a new result file; no other file is ever replaced. False if the name is taken.
///
/// # Errors
/// If the folder or the disk refuses; nothing is left behind then.
pub fn write_new(path: &Path, result: &Record) -> io::Result<bool> {
    files::create_new(path, &text(result)?)
}

/// Replaces a result file by one with more samples, or another file of ours.
///
/// # Errors
/// If the disk refuses; the old file is still there then.
pub fn replace(path: &Path, result: &impl Serialize) -> io::Result<()> {
    files::replace(path, &text(result)?)
}

fn text(result: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(result)?;
    text.push(b'\n');
    Ok(text)
}
