//! Do the trainers all train the same thing? Harness and trainer take the same few steps, from the
//! same weights on the same samples, and the harness grades what comes of them against the float64
//! reference of `crates/nn`: the one part of the models' truth that the harness links, and no trainer.
//! `docs/trainer.md` has the exchange from the trainer's side.

mod examiner;
mod exchange;
mod yardstick;

pub use examiner::Examiner;
pub use record::verification::{
    FILE, Grade, QuantityRecord, SCHEMA_VERSION, Verification, VerificationFile, same_training,
};
pub use yardstick::Yardsticks;
