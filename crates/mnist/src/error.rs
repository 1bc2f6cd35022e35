use crate::problem::Problem;
use std::io;
use std::path::{Path, PathBuf};

/// Why there is no dataset. Each message is one line that names the file and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The image bytes are not one image for each label.
    #[error("{image_bytes} bytes are not {labels} images of 784 bytes, one for each label")]
    Counts { image_bytes: usize, labels: usize },
    /// A label is not a digit.
    #[error("label {label} at index {index} is not a digit from 0 to 9")]
    Label { index: usize, label: u8 },
    /// A file is not what it should be.
    #[error("{}: {problem}; {}", path.display(), problem.remedy())]
    File { path: PathBuf, problem: Problem },
    /// Two files, each right in itself, do not belong together.
    #[error(
        "{} holds {images} images but {} holds {labels} labels; take both from the same dataset",
        image_path.display(), label_path.display()
    )]
    Unpaired { image_path: PathBuf, images: usize, label_path: PathBuf, labels: usize },
    /// The operating system refused something.
    #[error("{}: cannot {action}: {cause}", path.display())]
    Io { path: PathBuf, action: &'static str, cause: io::Error },
    /// A place that was chosen explicitly holds no dataset.
    #[error("{chosen_by} {}: {reason}", path.display())]
    NotFound { chosen_by: &'static str, path: PathBuf, reason: String },
}

impl Error {
    pub(crate) fn io(path: &Path, action: &'static str, cause: io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), action, cause }
    }
}
