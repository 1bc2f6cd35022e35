//! The data that is trained on: 28x28 grey images of digits with their labels, as bytes.
//!
//! Images stay `u8` until a kernel uses them; a pixel's value in the models is `byte / 255`.

/// Height and width of an image.
pub const SIDE: usize = 28;
/// Bytes of one image.
pub const PIXELS: usize = SIDE * SIDE;
/// Labels are `0..CLASSES`.
pub const CLASSES: usize = 10;

/// Images with their labels. `images.len() == labels.len() * PIXELS`, every label is below
/// [`CLASSES`].
pub struct Split {
    images: Vec<u8>, // (count, 28, 28), row-major
    labels: Vec<u8>, // (count)
}

impl Split {
    /// How many images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// All pixels, shape (count, 28, 28), row-major.
    pub fn images(&self) -> &[u8] {
        &self.images
    }

    /// All labels, shape (count).
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }
}

/// A training and a test set.
pub struct Dataset {
    /// `mnist`, `digits`, or the folder's name.
    pub name: String,
    /// SHA-256 over the four decompressed files' digests; see METHOD.md.
    pub sha256: String,
    pub train: Split,
    pub test: Split,
}
