//! On an adapter: conformance, and what else a session promises.

use crate::Wgpu;
use nn::backend::{Backend, Options};
use nn::conformance;

/// Software adapters count: CI has no other.
fn options() -> Options {
    Options { allow_software: true, ..Options::default() }
}

/// Whether there is an adapter to test on. Says loudly if not, and fails where
/// `TRAINMARK_REQUIRE_WGPU=1` demands one.
fn adapter(test: &str) -> bool {
    match Wgpu.devices() {
        Ok(_) => true,
        Err(reason) => {
            let required = std::env::var("TRAINMARK_REQUIRE_WGPU").is_ok_and(|value| value == "1");
            assert!(!required, "TRAINMARK_REQUIRE_WGPU=1, but {reason}");
            eprintln!("SKIPPED: {test}: {reason}");
            false
        }
    }
}

#[test]
fn the_mlp_trains_as_the_reference_does() {
    if adapter("the MLP's conformance") {
        conformance::require(&Wgpu, &[options()], |case| case.model.id() == "mlp");
    }
}

#[test]
fn a_session_of_the_mlp_keeps_its_promises() {
    if adapter("the MLP's contract") {
        conformance::require_contract(&Wgpu, &options(), conformance::small_model("mlp"));
    }
}

#[test]
fn the_cnn_trains_as_the_reference_does() {
    if adapter("the CNN's conformance") {
        conformance::require(&Wgpu, &[options()], |case| case.model.id() == "cnn");
    }
}

#[test]
fn a_session_of_the_cnn_keeps_its_promises() {
    if adapter("the CNN's contract") {
        conformance::require_contract(&Wgpu, &options(), conformance::small_model("cnn"));
    }
}

#[test]
fn the_attention_model_trains_as_the_reference_does() {
    if adapter("the attention model's conformance") {
        conformance::require(&Wgpu, &[options()], |case| case.model.id() == "attention");
    }
}

#[test]
fn a_session_of_the_attention_model_keeps_its_promises() {
    if adapter("the attention model's contract") {
        conformance::require_contract(&Wgpu, &options(), conformance::small_model("attention"));
    }
}
