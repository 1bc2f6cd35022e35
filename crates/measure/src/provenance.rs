//! The origin of a result: digests of programs, the working tree's commit, timestamps.

use crate::helper::{self, ask};
use files::Kind;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

/// SHA-256 of a file.
///
/// # Errors
/// If it is no regular file or cannot be read.
pub fn digest_of_file(path: &Path) -> std::io::Result<Vec<u8>> {
    digest_of(&mut files::open(path, Kind::STREAM)?.0)
}

/// SHA-256 of all that can be read.
///
/// # Errors
/// If reading fails.
pub fn digest_of(bytes: &mut dyn Read) -> std::io::Result<Vec<u8>> {
    let mut digest = Sha256::new();
    let mut block = vec![0; 1 << 16];
    loop {
        match bytes.read(&mut block)? {
            0 => return Ok(digest.finalize().to_vec()),
            read => digest.update(&block[..read]),
        }
    }
}

/// The same in hexadecimal.
///
/// # Errors
/// As [`digest_of_file`].
pub fn sha256_of_file(path: &Path) -> std::io::Result<String> {
    digest_of_file(path).map(|digest| hexadecimal(&digest))
}

/// SHA-256 of some bytes, in hexadecimal.
pub fn sha256_of_bytes(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The program file that a command's first word stands for: itself if it names a folder, else the
/// first executable of that name in `PATH`.
pub fn resolve_program(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// The commit that the folder's working tree is at, with `-dirty` behind it if tracked files were
/// changed; `None` outside of a git repository.
pub fn git_commit(folder: &Path) -> Option<String> {
    let commit = git(folder, &["rev-parse", "HEAD"])?;
    let changes = git(folder, &["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changes.is_empty() { commit } else { commit + "-dirty" })
}

fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    // The folder's own configuration can name programs that git would start.
    command.args(["--no-optional-locks", "-c", "core.fsmonitor=false", "-C"]).arg(folder);
    said(command.args(arguments))
}

/// What a program prints that succeeds, and in time.
pub(crate) fn said(command: &mut Command) -> Option<String> {
    let output = ask(command, helper::PATIENCE).ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The present moment in the two forms of a result file.
pub struct Moment {
    /// Local time, `YYYYMMDD_HHMMSS`, as in the file's name.
    pub timestamp: String,
    /// RFC 3339, UTC.
    pub utc: String,
}

impl Moment {
    /// Now.
    pub fn now() -> Moment {
        let now = jiff::ZonedDateTime::now();
        Moment {
            timestamp: now.strftime("%Y%m%d_%H%M%S").to_string(),
            utc: now.timestamp().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_sha256() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        // FIPS 180-4, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_of_file(file.path()).unwrap(), expected);
    }

    #[test]
    fn timestamps_have_the_specifications_form() {
        let moment = Moment::now();
        let (date, time) = moment.timestamp.split_once('_').unwrap();
        assert!(date.len() == 8 && time.len() == 6, "{}", moment.timestamp);
        assert!(moment.utc.ends_with('Z'));
    }
}
