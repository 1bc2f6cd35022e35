//! The model `gpt`: a decoder-only transformer as in nanoGPT (Karpathy), trained by AdamW on windows
//! of a text. Its [`Shape`], the [`State`] of a training (parameters and AdamW's moments), the
//! [`optimiser`], what the seed decides ([`recipe`]), and the [`Session`] that a backend opens for it
//! ([`crate::backend::Backend::open_gpt`]).
//!
//! It stands beside [`crate::Model`] and not in it: those learn labels of images by plain SGD and have
//! no state but their weights. What both share is the device family, [`crate::backend::Backend`].
//!
//! # The model
//!
//! For tokens `t` of a window at positions `0..n`, `n` at most the context, with `D` the width, `H`
//! heads of `D / H` each, and no bias anywhere:
//!
//! ```text
//! x = wte[t] + wpe[position]                                  (n, D)
//! for each layer:
//!     a = layer_norm(x, ln_1)
//!     q, k, v = split(a c_attn^T)                             (n, D) each; head h has columns h D/H ..
//!     s = q_h k_h^T / sqrt(D / H), -infinity after the diagonal
//!     x += concat_h(softmax(s) v_h) attn.c_proj^T
//!     x += gelu(layer_norm(x, ln_2) c_fc^T) mlp.c_proj^T
//! logits = layer_norm(x, ln_f) wte^T                          (n, vocabulary): the output is tied
//! loss = mean over all positions of all windows of -log softmax(logits)[next token]
//! ```
//!
//! `layer_norm(x, w) = (x - mean) / sqrt(variance + 1e-5) * w` with the variance over `D` (not `D - 1`)
//! elements; `gelu(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`. There is no dropout.

pub mod conformance;
pub mod optimiser;
pub mod recipe;
pub mod reference;
mod session;
mod shape;
mod state;

pub use optimiser::{AdamW, Step};
pub use reference::Reference;
pub use session::{Job, Session};
pub use shape::{Decay, Shape, ShapeError, Tensor};
pub use state::{Content, FIRST_MOMENT, SECOND_MOMENT, State};

/// The word on the command line, in suites and in result files.
pub const ID: &str = "gpt";

/// The value that LayerNorm adds to the variance.
pub const LAYER_NORM_EPSILON: f64 = 1e-5;
