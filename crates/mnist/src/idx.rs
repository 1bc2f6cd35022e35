//! The IDX format (<https://yann.lecun.org/exdb/mnist/>): big-endian header, then bytes.
//!
//! Images: magic 0x00000803, count, rows, columns (each 32 bits), then count x rows x columns bytes.
//! Labels: magic 0x00000801, count, then count bytes. Nothing may follow. A file may be compressed
//! with gzip (RFC 1952); this is decided by its first two bytes, not by its name.
//!
//! Input is hostile until proved otherwise. The header is read first and must agree with the length
//! of the file, or with what gzip says of the length, before anything is allocated; a compressed
//! file may not claim more than [`MAX_INFLATED_BYTES`], nor more than deflate can reach. Nothing
//! here panics on any input.
//!
//! gzip is decompressed by libdeflate, in one call into memory of the exact size: MNIST's training
//! images in 37 ms, where flate2 took 70 ms (zlib-rs) and 88 ms (miniz_oxide) on the same machine.
//! It cannot stop half way, so flate2 reads the header.

use crate::pixels::{self, Pixels};
use crate::{CLASSES, Error, PIXELS, SIDE, Split};
use libdeflater::Decompressor;
use memmap2::Mmap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A compressed file may not decompress to more: thirty times MNIST.
pub const MAX_INFLATED_BYTES: u64 = 1 << 31;

/// Deflate's limit: 258 bytes from at least two bits, so 1032 from a byte.
const MAX_RATIO: u64 = 1032;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// That of labels.
const SHORTEST_HEADER: u64 = 8;

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
    /// What to do about it.
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

/// What a file holds, and so its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Images,
    Labels,
}

impl Kind {
    pub(crate) fn header_bytes(self) -> usize {
        match self {
            Self::Images => 16,
            Self::Labels => 8,
        }
    }

    fn magic(self) -> u32 {
        match self {
            Self::Images => 0x0803, // unsigned bytes, three dimensions
            Self::Labels => 0x0801,
        }
    }

    /// The header of a file of `count` images or labels.
    pub(crate) fn header(self, count: usize) -> Vec<u8> {
        let mut header = Vec::with_capacity(self.header_bytes());
        header.extend(self.magic().to_be_bytes());
        header.extend((count as u32).to_be_bytes()); // the format has no more than 32 bits
        if self == Self::Images {
            header.extend((SIDE as u32).to_be_bytes());
            header.extend((SIDE as u32).to_be_bytes());
        }
        header
    }

    /// What follows the header of a split's file.
    pub(crate) fn bytes(self, split: &Split) -> &[u8] {
        match self {
            Self::Images => split.images(),
            Self::Labels => split.labels(),
        }
    }

    /// The length of the whole plain file, from its first bytes. At most 2^32 x 784 + 16: no
    /// overflow, whatever the header says.
    fn announced_bytes(self, start: &[u8]) -> Result<u64, Problem> {
        let word = |index: usize| -> Result<u32, Problem> {
            let bytes = start.get(4 * index..4 * index + 4);
            let bytes = bytes.ok_or(Problem::Header { bytes: start.len() as u64 })?;
            Ok(bytes.iter().fold(0, |word, &byte| word << 8 | u32::from(byte)))
        };
        let (found, magic) = (word(0)?, self.magic());
        if found != magic {
            let expected = if self == Self::Images { "images" } else { "labels" };
            return Err(Problem::Magic { found, expected, magic });
        }
        let count = word(1)?;
        if count == 0 {
            return Err(Problem::Empty);
        }
        let item_bytes = match self {
            Self::Labels => 1,
            Self::Images => {
                let (rows, columns) = (word(2)?, word(3)?);
                if (rows, columns) != (SIDE as u32, SIDE as u32) {
                    return Err(Problem::Size { rows, columns });
                }
                PIXELS as u64
            }
        };
        Ok(self.header_bytes() as u64 + u64::from(count) * item_bytes)
    }

    /// The bytes after the header of a whole plain file.
    fn parse(self, bytes: &[u8]) -> Result<&[u8], Problem> {
        let expected = self.announced_bytes(bytes)?;
        match bytes.len() as u64 {
            length if length < expected => Err(Problem::Truncated { bytes: length, expected }),
            length if length > expected => Err(Problem::Oversized { bytes: length, expected }),
            _ => Ok(&bytes[self.header_bytes()..]),
        }
    }

    /// Decompresses a whole gzip file into the plain file that its own header announces.
    fn inflate(self, gzip: &[u8]) -> Result<Mmap, Problem> {
        let expected = self.announced_bytes(&start_of(gzip, self.header_bytes())?)?;
        let compressed = gzip.len() as u64;
        if expected > MAX_INFLATED_BYTES {
            return Err(Problem::TooLarge { expected });
        }
        if expected > compressed * MAX_RATIO {
            return Err(Problem::Bomb { expected, compressed });
        }
        // The last four bytes are the length, so most bad files end here, before the work.
        if gzip.last_chunk() != Some(&(expected as u32).to_le_bytes()) {
            return Err(Problem::GzipEnd { expected });
        }
        let no_memory = |_| Problem::Memory { bytes: expected };
        let mut plain = pixels::zeroed(expected as usize).map_err(no_memory)?;
        match Decompressor::new().gzip_decompress(gzip, &mut plain) {
            Ok(bytes) if bytes as u64 == expected => plain.make_read_only().map_err(no_memory),
            _ => Err(Problem::Gzip), // its checksum was compared, too
        }
    }
}

/// The first `bytes` of the decompressed data, or fewer if it is shorter.
fn start_of(gzip: &[u8], bytes: usize) -> Result<Vec<u8>, Problem> {
    let mut start = Vec::new();
    let read = flate2::bufread::GzDecoder::new(gzip).take(bytes as u64).read_to_end(&mut start);
    read.map_err(|_| Problem::Gzip)?;
    Ok(start)
}

fn check_labels(labels: &[u8]) -> Result<&[u8], Problem> {
    match labels.iter().position(|&label| usize::from(label) >= CLASSES) {
        Some(index) => Err(Problem::Label { index, label: labels[index] }),
        None => Ok(labels),
    }
}

/// The pixels, shape (count, 28, 28), of a whole plain IDX file of images.
///
/// # Errors
/// If the bytes are anything else.
pub fn parse_images(bytes: &[u8]) -> Result<&[u8], Problem> {
    Kind::Images.parse(bytes)
}

/// The labels, shape (count), of a whole plain IDX file of labels.
///
/// # Errors
/// If the bytes are anything else, or a label is above 9.
pub fn parse_labels(bytes: &[u8]) -> Result<&[u8], Problem> {
    check_labels(Kind::Labels.parse(bytes)?)
}

/// As [`parse_images`], of a whole file compressed with gzip.
///
/// # Errors
/// If the bytes are anything else.
pub fn parse_images_gzip(bytes: &[u8]) -> Result<Vec<u8>, Problem> {
    Ok(parse_images(&Kind::Images.inflate(bytes)?)?.to_vec())
}

/// As [`parse_labels`], of a whole file compressed with gzip.
///
/// # Errors
/// If the bytes are anything else, or a label is above 9.
pub fn parse_labels_gzip(bytes: &[u8]) -> Result<Vec<u8>, Problem> {
    Ok(parse_labels(&Kind::Labels.inflate(bytes)?)?.to_vec())
}

/// Maps or decompresses a file of images.
pub(crate) fn read_images(path: &Path) -> Result<Pixels, Error> {
    let map = read(path, Kind::Images)?;
    Ok(Pixels::Mapped { map, header: Kind::Images.header_bytes() })
}

/// Reads or decompresses a file of labels.
pub(crate) fn read_labels(path: &Path) -> Result<Vec<u8>, Error> {
    let map = read(path, Kind::Labels)?;
    let labels = check_labels(&map[Kind::Labels.header_bytes()..]);
    Ok(labels.map_err(|problem| Error::File { path: path.to_path_buf(), problem })?.to_vec())
}

/// A whole plain file whose header has been checked against its length.
fn read(path: &Path, kind: Kind) -> Result<Mmap, Error> {
    let wrong = |problem| Error::File { path: path.to_path_buf(), problem };
    let failed = |cause| Error::io(path, "read it", cause);
    // Before it is opened: opening a FIFO would wait for a writer.
    let metadata = path.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(wrong(Problem::NotAFile));
    }
    if metadata.len() < SHORTEST_HEADER {
        return Err(wrong(Problem::Header { bytes: metadata.len() }));
    }
    let map = pixels::map_file(&File::open(path).map_err(failed)?).map_err(failed)?;
    if map.starts_with(&GZIP_MAGIC) {
        return kind.inflate(&map).map_err(wrong);
    }
    kind.parse(&map).map_err(wrong)?;
    Ok(map)
}
