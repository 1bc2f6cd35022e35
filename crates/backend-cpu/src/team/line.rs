//! Cache lines.

/// A line of its own for what threads write: 128 bytes, as CPUs fetch lines in pairs.
#[repr(align(128))]
pub struct Line<T>(pub T);
