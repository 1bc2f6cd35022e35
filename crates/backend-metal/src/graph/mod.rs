//! `mpsgraph`: a whole training step as one compiled graph, gradients by the graph.

pub(crate) mod description;
mod models;
pub(crate) mod session;
pub(crate) mod step;

#[cfg(test)]
mod evaluator;
#[cfg(test)]
mod gradient;
#[cfg(test)]
mod operations;
#[cfg(test)]
mod tests;
