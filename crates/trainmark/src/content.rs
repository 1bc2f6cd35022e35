//! The content of a data file, compressed or not.

use anyhow::{Context, Result};
use files::Kind;
use measure::provenance::{digest_of, hexadecimal};
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// A file under any of its names; plain before compressed. Some archives hold a folder under one name and the
/// file under another.
pub fn file_in(folder: &Path, name: &Path) -> Option<PathBuf> {
    let name = name.display().to_string();
    let dotted = name.replace("-idx", ".idx");
    let names = [name.clone(), dotted.clone(), format!("{name}.gz"), format!("{dotted}.gz")];
    names.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

/// A file, or all files below a folder, sorted; of the names in a folder only those that are `wanted`.
///
/// # Errors
/// If a folder cannot be read.
pub fn files_below(path: &Path, wanted: &dyn Fn(&OsStr) -> bool) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in path.read_dir()? {
        let entry = entry?;
        if wanted(&entry.file_name()) {
            files.extend(files_below(&entry.path(), wanted)?);
        }
    }
    files.sort();
    Ok(files)
}

/// The digest of the content: mirrors compress the same file differently.
pub fn digest_of_content(file: &Path) -> Result<String> {
    let cannot = || format!("the data {} cannot be read", file.display());
    Ok(hexadecimal(&digest_of(&mut content(file).with_context(cannot)?).with_context(cannot)?))
}

/// A file's content, decompressed if it begins as gzip does.
///
/// # Errors
/// If it cannot be read.
pub fn content(file: &Path) -> io::Result<Box<dyn Read>> {
    let mut open = BufReader::new(files::open(file, Kind::STREAM)?.0);
    match open.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
        true => Ok(Box::new(flate2::bufread::MultiGzDecoder::new(open))),
        false => Ok(Box::new(open)),
    }
}
