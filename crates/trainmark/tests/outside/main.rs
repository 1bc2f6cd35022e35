//! The program from the outside. One test program, so that the harness is linked once and a test that waits (for a
//! scheduler, for a grace to be over) leaves the cores to the others. What reads its own process's memory, or holds
//! CPU times against a clock, has a program of its own beside this folder.

mod action;
mod commands;
mod compare;
mod contract;
mod devices;
mod documents;
mod foreign;
mod hostile;
mod jobs;
mod misbehaviour;
mod ranks;
mod resume;
mod roofline;
mod run;
mod setup;
// Tests start in the order of their names, and a scheduler's clock counts minutes: it must not be the last.
#[path = "slurm.rs"]
mod cluster;
#[path = "../support/mod.rs"]
mod support;
mod verify;
mod without_checkout;
mod words;
