//! Exit codes, the same for the harness and for a trainer. 0 to 2 are the shell's custom, the
//! others are those of BSD's `sysexits.h`, so that they mean what an administrator expects.

/// All went well.
pub const SUCCESS: u8 = 0;
/// Something failed; the last line on standard error says what. The harness also ends with it
/// when a row failed or when there was nothing to report.
pub const FAILURE: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 2;
/// The data cannot be read, or is not what it claims to be (`EX_DATAERR`). `trainmark compare` ends with it
/// when two sides cannot be compared or the comparison cannot be printed: 1 is a shown regression alone.
pub const DATA: u8 = 65;
/// This machine lacks what the backend needs (`EX_UNAVAILABLE`). Not a failure.
pub const UNAVAILABLE: u8 = 69;
/// Training broke down: a loss that is not finite (`EX_SOFTWARE`).
pub const NOT_FINITE: u8 = 70;
/// Too little is known (`EX_TEMPFAIL`): `trainmark compare` wants more samples to say that nothing became worse, or
/// `trainmark verify` could verify no row.
pub const INCONCLUSIVE: u8 = 75;
/// The time for all of it was up (as GNU's `timeout`).
pub const TIMED_OUT: u8 = 124;
/// Stopped by a signal: by the user (128 + SIGINT), and by SIGTERM or SIGHUP too.
pub const INTERRUPTED: u8 = 130;
