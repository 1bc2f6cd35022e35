//! The data that is trained on: 28x28 grey images of digits with their labels, as bytes.
//!
//! Images stay `u8` until a kernel uses them; a pixel's value in the models is `byte / 255`.
//!
//! ```
//! // The value of `--data`, if there was one: a folder, or `digits` for the embedded dataset.
//! let source = mnist::Source::locate(Some("digits".as_ref()))?;
//! let mut dataset = source.load()?; // fast: nothing is hashed
//! assert_eq!(dataset.train.images().len(), dataset.train.len() * mnist::PIXELS);
//!
//! dataset.identify(); // off the critical path: SHA-256, and the name that goes with it
//! assert_eq!(dataset.name, "digits");
//! # Ok::<(), mnist::Error>(())
//! ```
//!
//! A dataset is four files in the [IDX format](idx), in the layout of MNIST, plain or compressed;
//! [`Source`] finds them. [`digits`] is a dataset that the crate draws itself.
#![deny(unsafe_code)]

mod dataset;
pub mod digits;
mod error;
mod identity;
pub mod idx;
mod locate;
mod pixels;
mod problem;
mod store;

pub use dataset::{CLASSES, Dataset, PIXELS, SIDE, Split};
pub use error::Error;
pub use identity::{FILES, MNIST_SHA256};
pub use locate::{EMBEDDED, Source, find_file};
