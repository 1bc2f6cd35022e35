//! Texts to be learnt character by character.
//!
//! ```
//! // The value of `--data`, if there was one: a file, a folder, or `babble` for the embedded text.
//! let source = text::Source::locate(Some("babble".as_ref()))?;
//! let text = source.load()?;
//! assert_eq!(text.name, "babble");
//! assert_eq!(text.train.len() + text.validation.len(), text::babble::LENGTH);
//! # Ok::<(), text::Error>(())
//! ```
//!
//! A text is a file of bytes. Its different bytes, sorted, are the vocabulary, and a token is a byte's
//! place among them. The first nine tenths (rounded down) are trained on, the rest is for validation, as
//! in nanoGPT. [`validation`] says what the loss on it is.
#![forbid(unsafe_code)]

pub mod babble;
mod error;
mod locate;
pub mod synthetic;
mod tokens;
pub mod validation;

pub use error::Error;
pub use locate::{SHAKESPEARE_FILE, Source};
pub use tokens::{SHAKESPEARE_SHA256, Text};
