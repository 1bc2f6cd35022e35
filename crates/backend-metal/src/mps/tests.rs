//! Every step of `mps`, on Linux: carried out by [`Imitation`] and held to the reference; and, with
//! no device at all, whether each command reads only what was written before it.

use super::imitation::Imitation;
use super::plan::{Command, Matrix};
use super::session::Plan;
use crate::job::Sizes;
use mnist::{PIXELS, Split};
use nn::backend::{Backend, Job, Options, Unavailable};
use nn::conformance::{self, Case, Images, cases, small_model};
use nn::{AttentionShape, Model};

/// Whether there is an adapter to test on; if not, the test is skipped, or fails where it is required.
fn adapter() -> bool {
    let devices = Imitation.devices();
    let skip = |reason: &Unavailable| skip::skipped_unless("TRAINMARK_REQUIRE_WGPU", reason);
    devices.inspect_err(skip).is_ok()
}

#[test]
fn the_mlp_trains_as_the_reference_does() {
    if adapter() {
        conformance::require(&Imitation, &[Options::default()], |case| case.model.id() == "mlp");
    }
}

#[test]
fn the_cnn_trains_as_the_reference_does() {
    if adapter() {
        conformance::require(&Imitation, &[Options::default()], |case| case.model.id() == "cnn");
    }
}

#[test]
fn the_attention_model_trains_as_the_reference_does() {
    if adapter() {
        let options = [Options::default()];
        conformance::require(&Imitation, &options, |case| case.model.id() == "attention");
    }
}

#[test]
fn a_session_of_each_model_keeps_its_promises() {
    if adapter() {
        for id in Model::IDS {
            conformance::require_contract(&Imitation, &Options::default(), small_model(id));
        }
    }
}

#[test]
fn a_batch_larger_than_an_upload_of_predictions_trains_as_the_reference_does() {
    if !adapter() {
        return;
    }
    let shape = AttentionShape { d_model: 5, ff: 3 };
    for model in [small_model("mlp"), Model::Cnn, Model::Attention(shape)] {
        let (images, learning_rate) = (Images::Sparse, 0.02);
        let (batch_size, last_batch, count) = (300, 257, 2);
        let case = Case { model, images, batch_size, last_batch, count, learning_rate, seed: 7 };
        let data = case.data();
        let report = case.trial(&data).run(&Imitation, &Options::default()).unwrap();
        assert!(report.passed(), "{case}\n{report}");
    }
}

#[test]
fn the_steps_of_several_calls_and_submissions_are_those_of_one() {
    if !adapter() {
        return;
    }
    for id in Model::IDS {
        let (images, learning_rate) = (Images::Sparse, 0.02);
        let (batch_size, last_batch, count) = (4, 4, 1);
        let model = small_model(id);
        let case = Case { model, images, batch_size, last_batch, count, learning_rate, seed: 7 };
        let data = case.data();
        let order: Vec<u32> = (0..600).map(|index| index * 7 % 331).collect(); // 150 steps
        let train = |steps_per_call: usize| {
            let job = Job { model, batch_size, learning_rate, train: &data };
            let mut session = Imitation.open(job, &Options::default()).unwrap();
            session.set_parameters(&case.initial()).unwrap();
            let mut losses = vec![f32::NAN; 150];
            let calls = order.chunks(4 * steps_per_call).zip(losses.chunks_mut(steps_per_call));
            calls.for_each(|(order, losses)| session.train(order, losses).unwrap());
            (losses, session.parameters().unwrap())
        };
        // More samples than the order's buffer has, and few.
        let (at_once, in_pieces) = (train(150), train(20));
        assert!(at_once.0.iter().all(|loss| loss.is_finite()), "{id}");
        assert!(at_once == in_pieces, "{id} differs");
    }
}

/// What a step may read before it has written it: data and parameters.
fn known(plan: &Plan) -> Vec<Matrix> {
    let resident = plan.resident;
    vec![resident.images, resident.labels, resident.order, plan.layout.all]
}

/// Fails at the first command that reads what nobody has written.
fn check_order(name: &str, commands: &[Command], known: Vec<Matrix>) {
    let mut written = known;
    for (index, command) in commands.iter().enumerate() {
        for part in command.reads() {
            let covers = |whole: &Matrix| {
                let (whole_range, range) = (whole.range(), part.range());
                whole.buffer == part.buffer
                    && whole_range.start <= range.start
                    && range.end <= whole_range.end
            };
            let found = written.iter().any(covers);
            assert!(found, "{name}: command {index} reads {part:?} too early: {command:?}");
        }
        written.extend(command.writes());
    }
}

fn plans() -> Vec<(Model, usize)> {
    let conformance = cases().into_iter().map(|case| (case.model, case.batch_size));
    conformance.chain([(Model::Cnn, 1000)]).collect()
}

#[test]
fn every_command_reads_only_what_was_written_before_it() {
    let train = Split::new(vec![0; 331 * PIXELS], vec![0; 331]).unwrap();
    for (model, batch_size) in plans() {
        let job = Job { model, batch_size, learning_rate: 0.1, train: &train };
        let plan = Plan::new(&job, &Sizes::new(&job)).unwrap();
        for count in [batch_size, batch_size.div_ceil(2), 1] {
            let commands = plan.network.step(&plan.resident, count, 0.1);
            check_order(&format!("{model:?}, {count}"), &commands, known(&plan));
        }
        let mut known = known(&plan);
        known.extend([plan.resident.images_to_predict, plan.resident.as_they_come]);
        let commands = plan.network.predict(&plan.resident);
        check_order(&format!("{model:?}, prediction"), &commands, known);
    }
}

#[test]
fn every_parameter_is_stepped_once_a_step_and_not_read_after_it() {
    let train = Split::new(vec![0; 331 * PIXELS], vec![0; 331]).unwrap();
    for (model, batch_size) in plans() {
        let job = Job { model, batch_size, learning_rate: 0.1, train: &train };
        let plan = Plan::new(&job, &Sizes::new(&job)).unwrap();
        let commands = plan.network.step(&plan.resident, batch_size, 0.1);
        for tensor in model.tensors() {
            let part = plan.layout.vector(tensor.name);
            let touches = |parts: Vec<Matrix>| parts.iter().any(|other| other.overlaps(&part));
            let steps: Vec<usize> =
                (0..commands.len()).filter(|&index| touches(commands[index].writes())).collect();
            assert_eq!(steps.len(), 1, "{} of {model:?} is stepped", tensor.name);
            let later = &commands[steps[0] + 1..];
            let read_later = later.iter().any(|command| touches(command.reads()));
            assert!(!read_later, "{} of {model:?} is read after its step", tensor.name);
        }
    }
}

#[test]
fn every_part_lies_within_its_buffer() {
    let train = Split::new(vec![0; 331 * PIXELS], vec![0; 331]).unwrap();
    for (model, batch_size) in plans() {
        let job = Job { model, batch_size, learning_rate: 0.1, train: &train };
        let plan = Plan::new(&job, &Sizes::new(&job)).unwrap();
        let mut commands = plan.network.predict(&plan.resident);
        commands.extend(plan.network.step(&plan.resident, batch_size, 0.1));
        for part in commands.iter().flat_map(|it| [it.reads(), it.writes()]).flatten() {
            let bytes = plan.buffers.list()[part.buffer.0].bytes;
            assert!(part.range().end <= bytes, "{part:?} of {bytes} bytes");
        }
    }
}
