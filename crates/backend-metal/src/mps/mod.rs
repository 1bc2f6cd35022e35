//! `mps`: the products by `MPSMatrixMultiplication`, all else by own kernels.

mod attention;
mod cnn;
mod dispatch;
pub(crate) mod kernels;
mod mlp;
mod network;
pub(crate) mod plan;
pub(crate) mod session;

#[cfg(test)]
mod imitation;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod translation;
