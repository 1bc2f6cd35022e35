//! On an adapter: conformance, and what else a session promises.

use crate::gpu::{Checks, Gpu};
use crate::session::GpuSession;
use crate::{Wgpu, adapter};
use mnist::{PIXELS, Split};
use nn::backend::{Backend, Job, Options, Session, TrainError, Unavailable};
use nn::conformance::{self, Case, Images, small_model};
use nn::{AttentionShape, MlpShape, Model};
use std::time::Duration;

/// Software adapters count: CI has no other.
fn options() -> Options {
    Options { allow_software: true, ..Options::default() }
}

/// Whether there is an adapter to test on; if not, the test is skipped, or fails where it is required.
fn adapter() -> bool {
    let devices = Wgpu.devices();
    let skip = |reason: &Unavailable| skip::skipped_unless("TRAINMARK_REQUIRE_WGPU", reason);
    devices.inspect_err(skip).is_ok()
}

fn case(model: Model, batch_size: usize, last_batch: usize, count: usize) -> Case {
    let (images, learning_rate) = (Images::Sparse, 0.02);
    Case { model, images, batch_size, last_batch, count, learning_rate, seed: 7 }
}

fn job(model: Model, batch_size: usize, train: &Split) -> Job<'_> {
    Job { model, batch_size, learning_rate: 0.02, train }
}

fn open<'data>(job: Job<'data>) -> GpuSession<'data> {
    let candidate = adapter::select(&options()).unwrap();
    let gpu = Gpu::open(&candidate, Checks::Checked).unwrap();
    GpuSession::open(gpu, candidate.seen, job).unwrap()
}

#[test]
fn the_mlp_trains_as_the_reference_does() {
    if adapter() {
        conformance::require(&Wgpu, &[options()], |case| case.model.id() == "mlp");
    }
}

#[test]
fn the_cnn_trains_as_the_reference_does() {
    if adapter() {
        conformance::require(&Wgpu, &[options()], |case| case.model.id() == "cnn");
    }
}

#[test]
fn the_attention_model_trains_as_the_reference_does() {
    if adapter() {
        conformance::require(&Wgpu, &[options()], |case| case.model.id() == "attention");
    }
}

#[test]
fn a_session_of_each_model_keeps_its_promises() {
    if adapter() {
        for id in Model::IDS {
            conformance::require_contract(&Wgpu, &options(), small_model(id));
        }
    }
}

#[test]
fn shaders_without_checks_train_as_the_reference_does_too() {
    if !adapter() {
        return;
    }
    for id in Model::IDS {
        let case = case(small_model(id), 33, 2, 3);
        let data = case.data();
        let trusted = Options { plan: Some("trusted".to_owned()), ..options() };
        let report = case.trial(&data).run(&Wgpu, &trusted).unwrap();
        assert!(report.passed(), "{case}\n{report}");
    }
}

#[test]
fn a_workgroup_of_the_attention_model_adds_up_the_samples_that_it_takes_in_turn() {
    if adapter() {
        let case = case(small_model("attention"), 200, 131, 2); // in 128 workgroups
        let data = case.data();
        let report = case.trial(&data).run(&Wgpu, &options()).unwrap();
        assert!(report.passed(), "{case}\n{report}");
    }
}

#[test]
fn two_runs_agree_bit_by_bit_however_the_steps_are_divided_into_calls() {
    if !adapter() {
        return;
    }
    for id in Model::IDS {
        let case = case(small_model(id), 4, 4, 1);
        let data = case.data();
        let order: Vec<u32> = (0..1200).map(|index| index * 7 % 331).collect(); // 300 steps
        let train = |steps_per_call: usize| {
            let mut session = open(job(case.model, 4, &data));
            session.set_parameters(&case.initial()).unwrap();
            let mut losses = vec![f32::NAN; 300];
            let calls = order.chunks(4 * steps_per_call).zip(losses.chunks_mut(steps_per_call));
            calls.for_each(|(order, losses)| session.train(order, losses).unwrap());
            (losses, session.parameters().unwrap())
        };
        // More steps than a submission has, more samples than the order's buffer, and few.
        let (at_once, in_pieces) = (train(300), train(70));
        assert!(at_once.0.iter().all(|loss| loss.is_finite()), "{id}");
        assert!(at_once == in_pieces, "{id} differs");
    }
}

#[test]
fn many_images_are_predicted_as_few_are() {
    if !adapter() {
        return;
    }
    let case = case(small_model("cnn"), 4, 4, 1);
    let data = case.data();
    let images = data.images().repeat(7); // more than one upload
    let mut session = open(job(case.model, 4, &data));
    session.set_parameters(&case.initial()).unwrap();
    let mut few = vec![u8::MAX; data.len()];
    session.predict(data.images(), &mut few).unwrap();
    let mut many = vec![u8::MAX; 7 * data.len()];
    session.predict(&images, &mut many).unwrap();
    assert!(few.iter().any(|&label| label != few[0]), "not all images look alike");
    assert_eq!(many, few.repeat(7));
}

#[test]
fn the_device_measures_its_time_and_counts_its_memory() {
    if !adapter() {
        return;
    }
    let case = case(small_model("attention"), 8, 8, 1);
    let data = case.data();
    let mut session = open(job(case.model, 8, &data));
    assert!(session.measured().device_s.is_none_or(|seconds| seconds == 0.0));
    let clock = std::time::Instant::now();
    session.train(&[0; 64], &mut [0.0; 8]).unwrap();
    let host_s = clock.elapsed().as_secs_f64();
    let measured = session.measured();
    if let Some(device_s) = measured.device_s {
        assert!(device_s > 0.0 && device_s <= host_s, "{device_s} of {host_s} s");
    }
    let resident = (data.images().len() + 4 * case.model.parameter_count()) as u64;
    assert!(measured.device_peak_bytes.unwrap() > resident);
    assert!(measured.executed_flop.unwrap() < case.model.dense_flop(64, 8));
}

#[test]
fn a_model_that_does_not_fit_is_unavailable_with_what_it_would_take() {
    if !adapter() {
        return;
    }
    let train = Split::new(vec![0; PIXELS], vec![0]).unwrap();
    let refusal = |model, batch_size| match Wgpu.open(job(model, batch_size, &train), &options()) {
        Err(TrainError::Unavailable(reason)) => reason.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("{model:?} fits"),
    };
    assert_eq!(
        refusal(Model::Mlp(MlpShape { hidden: 50_000 }), 1),
        "the parameters take 160 MB, and a buffer has at most 135 MB"
    );
    assert_eq!(
        refusal(Model::Mlp(MlpShape { hidden: 600_000 }), 1),
        "wgpu trains at most 524280 hidden units"
    );
    assert_eq!(
        refusal(Model::Cnn, 30_000),
        "the pooled images of a batch take 189 MB, and a buffer has at most 135 MB"
    );
    assert_eq!(
        refusal(Model::Attention(AttentionShape { d_model: 129, ff: 64 }), 1),
        "wgpu trains d_model up to 128 and ff up to 256"
    );
}

#[test]
fn a_lost_device_is_an_error_of_one_line_from_then_on() {
    if !adapter() {
        return;
    }
    let case = case(small_model("mlp"), 4, 4, 1);
    let data = case.data();
    let mut session = open(job(case.model, 4, &data));
    session.gpu.device.destroy();
    let failure = session.train(&[0, 1, 2, 3], &mut [0.0]).unwrap_err().to_string();
    assert!(failure.starts_with("wgpu: ") && !failure.contains('\n'), "{failure}");
    assert!(session.parameters().is_err());
    assert!(session.set_parameters(&case.initial()).is_err());
    assert!(session.predict(&data.images()[..PIXELS], &mut [0]).is_err());
}

#[test]
fn a_device_that_does_not_come_back_in_time_is_an_error() {
    if !adapter() {
        return;
    }
    let case = case(Model::Mlp(MlpShape { hidden: 512 }), 32, 32, 1);
    let data = case.data();
    let mut session = open(job(case.model, 32, &data));
    session.gpu.patience = Duration::ZERO;
    let failure = session.train(&[0; 3200], &mut [0.0; 100]).unwrap_err().to_string();
    assert_eq!(failure, "wgpu: the device did not finish its work in 0 s");
}

#[test]
fn a_shader_that_the_device_refuses_is_an_error_of_one_line() {
    if !adapter() {
        return;
    }
    let candidate = adapter::select(&options()).unwrap();
    let gpu = Gpu::open(&candidate, Checks::Checked).unwrap();
    gpu.module("broken", "fn f() -> u32 { return 1.5; }");
    let failure = gpu.check().unwrap_err().to_string();
    assert!(failure.starts_with("wgpu: ") && !failure.contains('\n'), "{failure}");
    assert!(failure.contains("broken"), "{failure}");
}

#[test]
fn options_that_cannot_be_honoured_are_refused_before_any_device_is_touched() {
    let train = Split::new(vec![0; PIXELS], vec![0]).unwrap();
    let refusal = |options: Options| match Wgpu.open(job(Model::Cnn, 1, &train), &options) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("{options:?} was accepted"),
    };
    let some = |text: &str| Some(text.to_owned());
    let isa = Options { isa: some("avx2"), ..Options::default() };
    assert_eq!(refusal(isa), "--isa avx2: a GPU has none to choose from");
    let threads = Options { threads: Some(2), ..Options::default() };
    assert_eq!(refusal(threads), "--threads 2: a GPU's are not chosen");
    let plan = Options { plan: some("fused"), ..Options::default() };
    assert_eq!(refusal(plan), "--plan fused: wgpu has the plans checked and trusted");
    let precision = Options { precision: some("tf32"), ..Options::default() };
    assert_eq!(refusal(precision), "--precision tf32: wgpu computes in float32");
}
