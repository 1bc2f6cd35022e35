//! The layer that only a Mac has: it hands the plans of `mps` and `mpsgraph` to Metal, and adds no
//! size, shape or order of its own. Type-checked everywhere, run on no device by us.

pub(crate) mod gpu;
pub(crate) mod graph;
pub(crate) mod mps;
