//! The program from the outside. One test program, so that the harness is linked once and a test that waits (for a
//! scheduler, for a grace to be over) leaves the cores to the others. What reads its own process's memory, or holds
//! CPU times against a clock, has a program of its own beside this folder.
//!
//! Most of these tests wait most of their time, so more of them run at once than there are cores.

mod action;
mod commands;
mod compare;
mod contract;
mod devices;
mod documents;
mod faults;
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
mod waits;
mod without_checkout;
mod words;

/// How many at once, unless somebody says it: libtest takes one for each core and lets no program choose.
#[cfg(target_os = "linux")]
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = {
    extern "C" fn choose() {
        const VARIABLE: &str = "RUST_TEST_THREADS";
        if std::env::var_os(VARIABLE).is_none() {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            // SAFETY: before `main` there is one thread.
            unsafe { std::env::set_var(VARIABLE, (3 * cores).to_string()) };
        }
    }
    choose
};
