//! Both backends, every plan and every model against the float64 reference, on a real device.

use backend_cuda::{Cuda, CudaGraph};
use nn::backend::{Backend, Options, Unavailable};
use nn::conformance::{self, Case, small_model};
use nn::{AttentionShape, Model};

/// The plans of `cuda`; the second needs no `--plan` of `cudagraph`.
const PLANS: [&str; 2] = ["kernels", "fused"];

fn options(plan: &str) -> Options {
    Options { plan: Some(plan.to_owned()), ..Options::default() }
}

/// Whether there is a device; if not, the test is skipped, or fails where one is required.
fn device_is_there() -> bool {
    let devices = Cuda.devices();
    let skip = |reason: &Unavailable| skip::skipped_unless("TRAINMARK_REQUIRE_CUDA", reason);
    devices.inspect_err(skip).is_ok()
}

/// Sizes that the persistent kernels take.
fn fits_fused(case: &Case) -> bool {
    let usual = AttentionShape { d_model: 32, ff: 64 };
    case.batch_size <= 32
        && match case.model {
            Model::Attention(shape) => shape == usual,
            Model::Mlp(_) | Model::Cnn => true,
        }
}

/// A small size that the persistent kernel takes.
fn fused_model(model: &str) -> Model {
    match model {
        "attention" => Model::Attention(AttentionShape { d_model: 32, ff: 64 }),
        _ => small_model(model),
    }
}

fn conforms(model: &str) {
    if !device_is_there() {
        return;
    }
    conformance::require(&Cuda, &[options("kernels"), Options::default()], |case| {
        case.model.id() == model
    });
    conformance::require(&CudaGraph, &[Options::default()], |case| case.model.id() == model);
    conformance::require(&Cuda, &[options("fused")], |case| {
        case.model.id() == model && fits_fused(case)
    });
    conformance::require_contract(&Cuda, &options("kernels"), small_model(model));
    conformance::require_contract(&Cuda, &options("fused"), fused_model(model));
    conformance::require_contract(&CudaGraph, &Options::default(), small_model(model));
}

#[test]
fn the_mlp_conforms_under_every_plan() {
    conforms("mlp");
}

#[test]
fn the_cnn_conforms_under_every_plan() {
    conforms("cnn");
}

#[test]
fn the_attention_model_conforms_under_every_plan() {
    conforms("attention");
}

#[test]
fn a_plan_gives_the_same_bits_every_time_and_a_graph_those_of_its_kernels() {
    if !device_is_there() {
        return;
    }
    for model in ["mlp", "cnn", "attention"] {
        let (_, trial) = conformance::trials(|case| case.model.id() == model).next().unwrap();
        for plan in PLANS {
            let first = trial.outcome(&Cuda, &options(plan)).unwrap();
            let second = trial.outcome(&Cuda, &options(plan)).unwrap();
            assert_eq!(first, second, "{model}, {plan}");
        }
        let kernels = trial.outcome(&Cuda, &options("kernels")).unwrap();
        let graph = trial.outcome(&CudaGraph, &Options::default()).unwrap();
        assert_eq!(kernels, graph, "{model}");
    }
}
