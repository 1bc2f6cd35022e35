//! What a dataset is, by SHA-256 of its files, whatever they are called and however compressed.

use crate::idx::Kind;
use crate::{Dataset, Split};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// The four files of a dataset in the order that all lists of this crate have.
pub const FILES: [&str; 4] = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
];

/// SHA-256 of MNIST's decompressed files, in the order of [`FILES`].
pub const MNIST_SHA256: [&str; 4] = [
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
];

/// The names that only the right bytes may bear.
const KNOWN: [(&str, &[&str; 4]); 1] = [("mnist", &MNIST_SHA256)];

impl Dataset {
    /// Computes the digests, sets [`Dataset::sha256`], and corrects [`Dataset::name`]: `mnist` and
    /// `digits` are only those whose bytes are; a folder of other files that bears such a name
    /// becomes `not-mnist`. Returns the four digests in the order of [`FILES`].
    ///
    /// 25 ms for MNIST on a machine with SHA instructions, some 0.2 s without.
    pub fn identify(&mut self) -> [String; 4] {
        let digests = digests(&self.train, &self.test);
        self.name = name(&self.name, &digests);
        self.sha256 = Some(hex(&Sha256::digest(digests.join("\n"))));
        digests
    }
}

fn name(folder: &str, digests: &[String; 4]) -> String {
    if let Some((known, _)) = KNOWN.iter().find(|(_, sha256)| *sha256 == digests) {
        return (*known).to_owned();
    }
    let reserved = KNOWN.iter().any(|(known, _)| *known == folder);
    if reserved { format!("not-{folder}") } else { folder.to_owned() }
}

/// SHA-256, in hexadecimal, of the four plain files that hold these images and labels.
pub(crate) fn digests(train: &Split, test: &Split) -> [String; 4] {
    let file = |kind: Kind, split: &Split| {
        let mut hash = Sha256::new();
        hash.update(kind.header(split.len() as u32)); // no file has more: its count has 32 bits
        hash.update(if kind == Kind::Images { split.images() } else { split.labels() });
        hex(&hash.finalize())
    };
    std::thread::scope(|scope| {
        let rest = scope.spawn(|| {
            let test_images = file(Kind::Images, test);
            (file(Kind::Labels, train), test_images, file(Kind::Labels, test))
        });
        let train_images = file(Kind::Images, train);
        // Hashing bytes cannot panic.
        let (train_labels, test_images, test_labels) = rest.join().unwrap();
        [train_images, train_labels, test_images, test_labels]
    })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}"); // writing to a string cannot fail
        hex
    })
}
