//! The models on Apple's GPUs: [`Mps`] with the products of Metal Performance Shaders and own
//! kernels for the rest, [`MpsGraph`] with a whole training step as one compiled graph.
//!
//! On any other system both are unavailable. What can be told without a Mac is told there all the
//! same: the plan of a step is data (buffers, shapes, the order of commands; nodes of a graph), and
//! the tests carry it out on what there is and hold it to the float64 reference. For `mps` that is
//! any Vulkan device, software ones among them, which runs the same kernels; for `mpsgraph` an
//! evaluator with its own derivatives. Only `apple`, a thin layer, hands the plans to Metal.
//!
//! `docs/metal.md` says how to prove and measure it on a Mac.
#![deny(unsafe_code)]

#[cfg(any(test, target_os = "macos"))]
mod graph;
#[cfg(any(test, target_os = "macos"))]
mod job;
#[cfg(any(test, target_os = "macos"))]
mod mps;
#[cfg(any(test, target_os = "macos"))]
mod seen;
