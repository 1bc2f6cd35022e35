//! The GPT in every precision and plan against the float64 reference, on a real device.

use backend_cuda::Cuda;
use nn::backend::{Backend, Options};
use nn::gpt::conformance;

/// cuDNN's attention and the kernels for narrow models are among what `graph` chooses from.
const PLANS: [&str; 7] = [
    "graph",
    "kernels",
    "serial",
    "general,plain-gelu",
    "general,own-attention",
    "general,own-products",
    "general,plain-products",
];

fn options(precision: &str, plan: &str) -> Options {
    Options {
        precision: Some(precision.to_owned()),
        plan: Some(plan.to_owned()),
        ..Options::default()
    }
}

fn conforms(precision: &str) {
    if let Err(reason) = Cuda.devices() {
        skip::skipped(format!("gpt in {precision}: {reason}"));
        return;
    }
    let options = PLANS.map(|plan| options(precision, plan));
    conformance::require(&Cuda, &options, |_| true);
    for options in &options {
        conformance::require_contract(&Cuda, options);
    }
}

#[test]
fn gpt_in_float32_takes_the_references_steps() {
    conforms("float32");
}

#[test]
fn gpt_in_bf16_takes_the_references_steps() {
    conforms("bf16");
}
