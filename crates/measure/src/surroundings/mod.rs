//! The surroundings of a sample: what else the machine did, and whether that makes the sample *noisy*.
//!
//! A sample is judged by what happened around it, never by its own time: a rule that looked at the
//! time would choose the results. So a noisy sample may be repeated (`--retry-noisy`) without
//! favouring a row, and a slow sample of a quiet machine stays as it is.
//!
//! The kernel's counters are read just before and just after the run, and the round trip between two
//! cores is measured, which costs the trainer nothing. Clocks and GPUs have no counters for what was
//! in between: a thread looks at them twice a second (`INTERVAL`).

mod clocks;
mod energy;
mod gpu;
mod kernel;
mod observer;
pub mod placement;
mod readings;
mod seen;

pub use gpu::{Device, Gpu, Gpus, LINKS};
pub use observer::{Look, Observer, Window};
pub use seen::{Busy, Surroundings, Usual};
