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

/// What is wrong with the images or labels that were given.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The image bytes are not a whole number of images, one per label.
    #[error("{image_bytes} bytes of images for {labels} labels: {expected} were expected")]
    Counts { image_bytes: usize, labels: usize, expected: usize },
    /// A label is not a digit.
    #[error("label {label} at index {index}: labels must be below 10")]
    Label { index: usize, label: u8 },
}

impl Split {
    /// Images of shape (count, 28, 28) with their labels, shape (count).
    ///
    /// # Errors
    /// When `images` is not [`PIXELS`] bytes for each label, or a label is not below [`CLASSES`].
    pub fn new(images: impl Into<Vec<u8>>, labels: impl Into<Vec<u8>>) -> Result<Self, Error> {
        let (images, labels) = (images.into(), labels.into());
        let expected = labels.len().saturating_mul(PIXELS);
        if images.len() != expected {
            return Err(Error::Counts {
                image_bytes: images.len(),
                labels: labels.len(),
                expected,
            });
        }
        match labels.iter().position(|&label| usize::from(label) >= CLASSES) {
            Some(index) => Err(Error::Label { index, label: labels[index] }),
            None => Ok(Self { images, labels }),
        }
    }

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
