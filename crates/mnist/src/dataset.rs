//! Images and labels in memory.

use crate::Error;
use crate::pixels::Pixels;

/// Height and width of an image.
pub const SIDE: usize = 28;
/// Bytes of one image.
pub const PIXELS: usize = SIDE * SIDE;
/// Labels are `0..CLASSES`.
pub const CLASSES: usize = 10;

/// Images with their labels. `images.len() == labels.len() * PIXELS`, every label is below
/// [`CLASSES`].
pub struct Split {
    images: Pixels,  // (count, 28, 28), row-major
    labels: Vec<u8>, // (count)
}

impl Split {
    /// Images of shape (count, 28, 28) with their labels, shape (count).
    ///
    /// # Errors
    /// When `images` is not [`PIXELS`] bytes for each label, or a label is not below [`CLASSES`].
    pub fn new(images: impl Into<Vec<u8>>, labels: impl Into<Vec<u8>>) -> Result<Self, Error> {
        let (images, labels) = (images.into(), labels.into());
        if images.len() != labels.len().saturating_mul(PIXELS) {
            return Err(Error::Counts { image_bytes: images.len(), labels: labels.len() });
        }
        match labels.iter().position(|&label| usize::from(label) >= CLASSES) {
            Some(index) => Err(Error::Label { index, label: labels[index] }),
            None => Ok(Self { images: Pixels::Owned(images), labels }),
        }
    }

    /// Of pixels and labels that have each been checked. If they do not belong together, how many
    /// images and how many labels there are.
    pub(crate) fn from_pixels(images: Pixels, labels: Vec<u8>) -> Result<Self, (usize, usize)> {
        let count = images.as_slice().len() / PIXELS;
        if count == labels.len() { Ok(Self { images, labels }) } else { Err((count, labels.len())) }
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
        self.images.as_slice()
    }

    /// All labels, shape (count).
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// Percent of predicted labels, shape (count), that are right.
    pub fn accuracy_percent(&self, predicted: &[u8]) -> f64 {
        let right = predicted.iter().zip(&self.labels).filter(|(label, truth)| label == truth);
        100.0 * right.count() as f64 / self.len() as f64
    }
}

/// A training and a test set.
pub struct Dataset {
    /// `mnist`, `digits`, or the folder's name. As long as `sha256` is `None` this is only what the
    /// folder is called.
    pub name: String,
    /// SHA-256 over the hexadecimal SHA-256 of the four decompressed files, joined by newlines, in
    /// the order of [`crate::FILES`]: training images, training labels, test images, test labels. `None`
    /// until [`Dataset::identify`].
    pub sha256: Option<String>,
    pub train: Split,
    pub test: Split,
}
