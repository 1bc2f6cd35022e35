//! Where image bytes live: in a vector, in a mapped file, or in anonymous memory on huge pages.
//!
//! The only file of the crate with unsafe code.
#![allow(unsafe_code)]

use memmap2::{Mmap, MmapMut, MmapOptions};
use std::fs::File;
use std::io;

/// Bytes that are read only, after a header that is skipped.
pub(crate) enum Pixels {
    Owned(Vec<u8>),
    Mapped { map: Mmap, header: usize },
}

impl Pixels {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Mapped { map, header } => &map[*header..],
        }
    }
}

/// Maps a whole file for reading.
///
/// As with every program that maps files: if another process shortens the file while it is in use,
/// the system ends this one (SIGBUS), and what another process writes into it is seen here. Nothing
/// in this crate writes a dataset's file in place (new files are renamed over old ones).
pub(crate) fn map_file(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is only read, as bytes, for which any content is valid; the remark above says
    // what a concurrent change of the file does.
    unsafe { MmapOptions::new().map(file) }
}

/// Zeroed memory of its own, on huge pages where the system has them: filling 47 MB (MNIST's
/// training images) took 15 ms less than with a vector's 4 KiB pages, of 52 ms in all.
pub(crate) fn zeroed(bytes: usize) -> io::Result<MmapMut> {
    let map = MmapOptions::new().len(bytes).map_anon()?;
    #[cfg(target_os = "linux")]
    if bytes >= 4 << 20 {
        // A hint: without huge pages all is the same, only slower.
        let _ = map.advise(memmap2::Advice::HugePage);
    }
    Ok(map)
}
