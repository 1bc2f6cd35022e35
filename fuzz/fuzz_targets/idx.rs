//! IDX files, plain and compressed: no panic, nothing accepted that breaks what the parser promises,
//! and the same bytes mean the same through gzip.
#![no_main]

use flate2::Compression;
use flate2::write::GzEncoder;
use libfuzzer_sys::fuzz_target;
use std::io::Write;

fuzz_target!(|bytes: &[u8]| {
    let _ = mnist::idx::parse_images_gzip(bytes);
    let _ = mnist::idx::parse_labels_gzip(bytes);

    let images = mnist::idx::parse_images(bytes);
    if let Ok(images) = images {
        assert!(images.len().is_multiple_of(mnist::PIXELS));
    }
    let labels = mnist::idx::parse_labels(bytes);
    if let Ok(labels) = labels {
        assert!(labels.iter().all(|&label| usize::from(label) < mnist::CLASSES));
    }
    if images.is_err() && labels.is_err() {
        return;
    }
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes).unwrap(); // into memory
    let gzip = gzip.finish().unwrap();
    assert_eq!(mnist::idx::parse_images_gzip(&gzip).ok().as_deref(), images.ok());
    assert_eq!(mnist::idx::parse_labels_gzip(&gzip).ok().as_deref(), labels.ok());
});
