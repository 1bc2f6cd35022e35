//! What the operating system says of a process tree.
