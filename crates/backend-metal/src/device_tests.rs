//! On a Mac: both backends, all models, against the float64 reference.

use crate::{Mps, MpsGraph};
use nn::Model;
use nn::backend::{Backend, Options};
use nn::conformance::{self, small_model};
use std::io::Write;

/// Whether there is a device to test on. Says loudly if not (a virtual machine may have none), and
/// fails where `TRAINMARK_REQUIRE_METAL=1` demands one.
fn device(backend: &dyn Backend, test: &str) -> bool {
    match backend.devices() {
        Ok(_) => true,
        Err(reason) => {
            let required = std::env::var("TRAINMARK_REQUIRE_METAL").is_ok_and(|value| value == "1");
            assert!(!required, "TRAINMARK_REQUIRE_METAL=1, but {reason}");
            // Not `eprintln`, which the test harness would keep to itself.
            let _ = writeln!(std::io::stderr(), "SKIPPED: {} {test}: {reason}", backend.id());
            false
        }
    }
}

fn conforms(backend: &dyn Backend, model: &str) {
    if device(backend, model) {
        conformance::require(backend, &[Options::default()], |case| case.model.id() == model);
    }
}

fn keeps_its_promises(backend: &dyn Backend) {
    if device(backend, "the contract") {
        for id in Model::IDS {
            conformance::require_contract(backend, &Options::default(), small_model(id));
        }
    }
}

#[test]
fn mps_trains_the_mlp_as_the_reference_does() {
    conforms(&Mps, "mlp");
}

#[test]
fn mps_trains_the_cnn_as_the_reference_does() {
    conforms(&Mps, "cnn");
}

#[test]
fn mps_trains_the_attention_model_as_the_reference_does() {
    conforms(&Mps, "attention");
}

#[test]
fn a_session_of_mps_keeps_its_promises() {
    keeps_its_promises(&Mps);
}

#[test]
fn mpsgraph_trains_the_mlp_as_the_reference_does() {
    conforms(&MpsGraph, "mlp");
}

#[test]
fn mpsgraph_trains_the_cnn_as_the_reference_does() {
    conforms(&MpsGraph, "cnn");
}

#[test]
fn mpsgraph_trains_the_attention_model_as_the_reference_does() {
    conforms(&MpsGraph, "attention");
}

#[test]
fn a_session_of_mpsgraph_keeps_its_promises() {
    keeps_its_promises(&MpsGraph);
}
