//! Do the trainers all train the same thing? The task's reference and every other trainer take the same few
//! steps, from the same weights on the same samples, and the harness grades what came of them
//! ([`protocol::grade`]). It knows no model: the reference is a trainer too. `docs/trainer.md` has the exchange
//! from the trainer's side.

mod examiner;
mod exchange;

pub use examiner::{Examiner, reference_row, to_verify};
pub use record::verification::{
    FILE, Grade, QuantityRecord, SCHEMA_VERSION, Verification, VerificationFile, same_training,
};
