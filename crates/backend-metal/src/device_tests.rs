//! On a Mac: both backends, all models, against the float64 reference.

use crate::{Mps, MpsGraph};
use nn::Model;
use nn::backend::{Backend, Options, Unavailable};
use nn::conformance::{self, small_model};

/// Whether there is a device to test on (a virtual machine may have none); if not, the test is skipped,
/// or fails where it is required.
fn device(backend: &dyn Backend) -> bool {
    let devices = backend.devices();
    let skip = |reason: &Unavailable| skip::skipped_unless("TRAINMARK_REQUIRE_METAL", reason);
    devices.inspect_err(skip).is_ok()
}

fn conforms(backend: &dyn Backend, model: &str) {
    if device(backend) {
        conformance::require(backend, &[Options::default()], |case| case.model.id() == model);
    }
}

fn keeps_its_promises(backend: &dyn Backend) {
    if device(backend) {
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
