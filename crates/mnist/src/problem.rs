//! The errors of an IDX file.

/// A compressed file may not decompress to more: thirty times MNIST.
pub const MAX_INFLATED_BYTES: u64 = 1 << 31;

/// Why bytes are not the IDX file that they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    #[error("not a regular file")]
    NotAFile,
    #[error("only {bytes} bytes, too short for the header of an IDX file")]
    Header { bytes: u64 },
    #[error("begins with {found:#010x}, where an IDX file of {expected} begins with {magic:#010x}")]
    Magic { found: u32, expected: &'static str, magic: u32 },
    #[error("images of {rows}x{columns} pixels, where 28x28 are needed")]
    Size { rows: u32, columns: u32 },
    #[error("its header says that it is empty")]
    Empty,
    #[error("ends after {bytes} of the {expected} bytes that its header announces")]
    Truncated { bytes: u64, expected: u64 },
    #[error("goes on after the {expected} bytes that its header announces ({bytes} bytes)")]
    Oversized { bytes: u64, expected: u64 },
    #[error("label {label} at index {index} is not a digit from 0 to 9")]
    Label { index: usize, label: u8 },
    #[error("announces {expected} bytes, which {compressed} compressed bytes cannot hold")]
    Bomb { expected: u64, compressed: u64 },
    #[error("announces {expected} bytes, more than the {MAX_INFLATED_BYTES} that are allowed")]
    TooLarge { expected: u64 },
    #[error("cut short, or followed by other data: it does not end like gzip of {expected} bytes")]
    GzipEnd { expected: u64 },
    #[error("damaged gzip data")]
    Gzip,
    #[error("no memory for {bytes} bytes")]
    Memory { bytes: u64 },
}

impl Problem {
    /// The remedy.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotAFile => "replace it by the file",
            Self::Magic { .. } | Self::Size { .. } | Self::Label { .. } => {
                "choose a folder with a dataset in the layout of MNIST"
            }
            Self::TooLarge { .. } => "decompress it first, plain files may have any size",
            Self::Memory { .. } => "free some memory, or decompress the file first",
            _ => "copy or download the file again",
        }
    }
}
