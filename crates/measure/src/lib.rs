//! Starts a trainer's process tree, stops all of it, and accounts for what it used and in what
//! surroundings. It knows no suite, no plan and no record.
//!
//! The only unsafe code is in `account`: system calls that have no safe wrapper elsewhere.
#![deny(unsafe_code)]

pub mod account;
pub mod environment;
pub mod launch;
pub mod machine;
pub mod meter;
pub mod meters;
pub mod provenance;
pub mod scratch;
pub mod secret;
pub mod surroundings;
pub mod text;
