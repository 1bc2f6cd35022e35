use std::io;
use std::path::{Path, PathBuf};

/// Why there is no text. Each message is one line that names the file and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused something.
    #[error("{}: cannot {action}: {cause}", path.display())]
    Io { path: PathBuf, action: &'static str, cause: io::Error },
    /// A file is no text to be learnt.
    #[error("{}: {reason}", path.display())]
    Unfit { path: PathBuf, reason: String },
    /// A place that was chosen explicitly holds no text.
    #[error("{chosen_by} {}: {reason}", path.display())]
    NotFound { chosen_by: &'static str, path: PathBuf, reason: String },
}

impl Error {
    pub(crate) fn io(path: &Path, action: &'static str, cause: io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), action, cause }
    }
}
