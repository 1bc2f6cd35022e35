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

pub use crate::problem::{MAX_INFLATED_BYTES, Problem};

use crate::pixels::{self, Pixels};
use crate::{CLASSES, Error, PIXELS, SIDE, Split};
use libdeflater::Decompressor;
use memmap2::Mmap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Deflate's limit: 258 bytes from at least two bits, so 1032 from a byte.
const MAX_RATIO: u64 = 1032;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// The header of labels, the shorter one.
const SHORTEST_HEADER: u64 = 8;

/// The content of a file, which decides its header.
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

    /// The bytes after the header of a split's file.
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
///
/// # Errors
/// If it is damaged, or not what its name says.
pub fn read_labels(path: &Path) -> Result<Vec<u8>, Error> {
    let map = read(path, Kind::Labels)?;
    let labels = check_labels(&map[Kind::Labels.header_bytes()..]);
    Ok(labels.map_err(|problem| Error::File { path: path.to_path_buf(), problem })?.to_vec())
}

/// A whole file, decompressed, whose header has been checked against its length.
pub(crate) fn read(path: &Path, kind: Kind) -> Result<Mmap, Error> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn file(kind: Kind, count: usize, data: &[u8]) -> Vec<u8> {
        [&kind.header(count), data].concat()
    }

    /// Pixels that do not compress to nothing.
    fn pixels(count: usize) -> Vec<u8> {
        (0..count * PIXELS).map(|index| (index * index % 251) as u8).collect()
    }

    #[test]
    fn what_was_written_is_read_plain_or_compressed() {
        let (images, labels) = (pixels(3), [7, 0, 9]);
        let image_file = file(Kind::Images, 3, &images);
        let label_file = file(Kind::Labels, 3, &labels);
        assert_eq!(parse_images(&image_file).unwrap(), images);
        assert_eq!(parse_labels(&label_file).unwrap(), labels);
        assert_eq!(parse_images_gzip(&gzip(&image_file)).unwrap(), images);
        assert_eq!(parse_labels_gzip(&gzip(&label_file)).unwrap(), labels);
    }

    #[test]
    fn a_header_that_lies_about_the_length_is_an_error() {
        let good = file(Kind::Images, 2, &pixels(2));
        let expected = good.len() as u64;
        let short = parse_images(&good[..good.len() - 1]).unwrap_err();
        assert_eq!(short, Problem::Truncated { bytes: expected - 1, expected });
        let long = parse_images(&[&good[..], &[0]].concat()).unwrap_err();
        assert_eq!(long, Problem::Oversized { bytes: expected + 1, expected });
        let bytes = 9;
        assert_eq!(parse_images(&good[..9]).unwrap_err(), Problem::Header { bytes });
        assert_eq!(parse_labels(&[]).unwrap_err(), Problem::Header { bytes: 0 });
    }

    #[test]
    fn dimensions_that_overflow_are_an_error() {
        let mut most = file(Kind::Images, 0, &[]);
        most[4..8].fill(0xff);
        let expected = 16 + 0xffff_ffff * 784;
        assert_eq!(parse_images(&most).unwrap_err(), Problem::Truncated { bytes: 16, expected });
        let compressed = parse_images_gzip(&gzip(&most)).unwrap_err();
        assert_eq!(compressed, Problem::TooLarge { expected });

        most[8..16].fill(0xff); // 2^96 bytes
        let (rows, columns) = (u32::MAX, u32::MAX);
        assert_eq!(parse_images(&most).unwrap_err(), Problem::Size { rows, columns });
    }

    #[test]
    fn other_files_are_named_for_what_they_are() {
        let (images, labels) = (file(Kind::Images, 1, &pixels(1)), file(Kind::Labels, 1, &[1]));
        let message = parse_images(&labels).unwrap_err().to_string();
        assert_eq!(
            message,
            "begins with 0x00000801, where an IDX file of images begins with 0x00000803"
        );
        assert!(matches!(parse_labels(&images), Err(Problem::Magic { found: 0x803, .. })));
        assert_eq!(parse_images(&file(Kind::Images, 0, &[])).unwrap_err(), Problem::Empty);
        assert_eq!(parse_labels(&file(Kind::Labels, 0, &[])).unwrap_err(), Problem::Empty);
        let label = Problem::Label { index: 2, label: 200 };
        assert_eq!(parse_labels(&file(Kind::Labels, 4, &[1, 9, 200, 10])).unwrap_err(), label);
        assert_eq!(parse_labels_gzip(b"<html>404 Not Found</html>").unwrap_err(), Problem::Gzip);
    }

    #[test]
    fn a_gzip_bomb_is_refused_before_it_is_unpacked() {
        // 100 MB of zeros behind the header of one image: the header decides.
        let mut bomb = file(Kind::Images, 1, &pixels(1));
        bomb.resize(100_000_000, 0);
        let expected = 16 + 784;
        assert_eq!(parse_images_gzip(&gzip(&bomb)).unwrap_err(), Problem::GzipEnd { expected });
        // The other way round: a header that claims more than so few bytes can hold.
        let mut claim = gzip(&file(Kind::Images, 1_000_000, &[0; 1000]));
        let expected = 16 + 784_000_000;
        let end = claim.len() - 4;
        claim[end..].copy_from_slice(&(expected as u32).to_le_bytes());
        let compressed = claim.len() as u64;
        assert_eq!(parse_images_gzip(&claim).unwrap_err(), Problem::Bomb { expected, compressed });
    }

    #[test]
    fn more_data_than_gzip_and_header_announce_is_an_error() {
        // Header and trailer agree on one image, but the data has two: no room, no overrun.
        let mut lying = gzip(&file(Kind::Images, 1, &pixels(2)));
        let end = lying.len() - 4;
        lying[end..].copy_from_slice(&(16 + PIXELS as u32).to_le_bytes());
        assert_eq!(parse_images_gzip(&lying).unwrap_err(), Problem::Gzip);
    }

    fn read_error(path: &Path) -> String {
        let error = read_images(path).err().expect("an error").to_string();
        assert!(error.starts_with(path.to_str().unwrap()) && !error.contains('\n'), "{error}");
        error
    }

    #[test]
    fn an_error_names_the_file_and_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("images");
        assert!(read_error(&path).contains("cannot read it: "));
        std::fs::write(&path, &gzip(&file(Kind::Images, 3, &pixels(3)))[..200]).unwrap();
        let error = read_error(&path);
        assert!(error.ends_with("of 2368 bytes; copy or download the file again"), "{error}");
        std::fs::write(&path, "").unwrap();
        assert!(read_error(&path).contains("only 0 bytes"));
        std::fs::write(&path, [0x1f, 0x8b, 8, 0, 0, 0, 0, 0]).unwrap();
        assert!(read_error(&path).contains("damaged gzip data"));
    }

    #[test]
    #[cfg(unix)]
    fn what_is_no_regular_file_is_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read_error(folder.path()).contains("not a regular file"));
        assert!(read_error(Path::new("/dev/zero")).contains("not a regular file"));
        let fifo = folder.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        assert!(read_error(&fifo).contains("not a regular file"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            // As they are, and behind beginnings that lead further in.
            let starts = [&[][..], &[0, 0, 8, 3, 0, 0], &[0, 0, 8, 1, 0, 0], &[0x1f, 0x8b, 8, 0]];
            for start in starts {
                let bytes = [start, &bytes].concat();
                let _ = (parse_images(&bytes), parse_labels(&bytes));
                let _ = (parse_images_gzip(&bytes), parse_labels_gzip(&bytes));
                let _ = (parse_images_gzip(&gzip(&bytes)), parse_labels_gzip(&gzip(&bytes)));
            }
        }

        #[test]
        fn a_flipped_bit_is_noticed_or_harmless(place in any::<prop::sample::Index>(), bit in 0_u32..8) {
            let mut compressed = gzip(&file(Kind::Images, 2, &pixels(2)));
            let index = place.index(compressed.len());
            compressed[index] ^= 1_u8 << bit;
            // Harmless: the time stamp and such in gzip's header, and what fills deflate's last byte.
            match parse_images_gzip(&compressed) {
                Ok(images) => prop_assert!(images == pixels(2)),
                Err(problem) => prop_assert!(!problem.to_string().contains('\n')),
            }
        }

        #[test]
        fn a_file_cut_anywhere_is_an_error(place in any::<prop::sample::Index>()) {
            let plain = file(Kind::Images, 2, &pixels(2));
            let compressed = gzip(&plain);
            prop_assert!(parse_images(&plain[..place.index(plain.len())]).is_err());
            prop_assert!(parse_images_gzip(&compressed[..place.index(compressed.len())]).is_err());
        }

        #[test]
        fn any_labels_are_read_if_and_only_if_all_are_digits(
            labels in proptest::collection::vec(0_u8..12, 1..50)
        ) {
            let read = parse_labels(&file(Kind::Labels, labels.len(), &labels)).map(<[u8]>::to_vec);
            match labels.iter().position(|&label| label > 9) {
                None => prop_assert_eq!(read.unwrap(), labels),
                Some(index) => {
                    let label = labels[index];
                    prop_assert_eq!(read.unwrap_err(), Problem::Label { index, label });
                }
            }
        }
    }
}
