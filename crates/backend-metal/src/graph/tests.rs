//! Every step of `mpsgraph`, on any system: its graphs evaluated and held to the reference.

use super::evaluator::Evaluator;
use super::session::GraphSession;
use super::step::{Slot, prediction, step};
use crate::job::{self, Sizes};
use mnist::{PIXELS, Split};
use nn::backend::{Backend, Job, Options, Session, TrainError, Unavailable};
use nn::conformance::{self, Case, Images, cases, small_model};
use nn::{AttentionShape, MlpShape, Model};
use protocol::DeviceProbe;

/// `mpsgraph` in plain loops.
struct Imitation;

impl Backend for Imitation {
    fn id(&self) -> &'static str {
        "imitation"
    }

    fn devices(&self) -> Result<Vec<DeviceProbe>, Unavailable> {
        Ok(vec![])
    }

    fn open<'data>(
        &self,
        job: Job<'data>,
        options: &Options,
    ) -> Result<Box<dyn Session + 'data>, TrainError> {
        job::check(&job, options)?;
        Ok(Box::new(GraphSession::open(job, Evaluator::default())?))
    }
}

#[test]
fn the_mlp_trains_as_the_reference_does() {
    conformance::require(&Imitation, &[Options::default()], |case| case.model.id() == "mlp");
}

#[test]
fn the_cnn_trains_as_the_reference_does() {
    conformance::require(&Imitation, &[Options::default()], |case| case.model.id() == "cnn");
}

#[test]
fn the_attention_model_trains_as_the_reference_does() {
    let options = [Options::default()];
    conformance::require(&Imitation, &options, |case| case.model.id() == "attention");
}

#[test]
fn a_session_of_each_model_keeps_its_promises() {
    for id in Model::IDS {
        conformance::require_contract(&Imitation, &Options::default(), small_model(id));
    }
}

#[test]
fn the_steps_of_several_calls_and_submissions_are_those_of_one() {
    for model in [Model::Mlp(MlpShape { hidden: 3 }), Model::Cnn] {
        let (images, learning_rate) = (Images::Sparse, 0.02);
        let (batch_size, last_batch, count) = (4, 4, 1);
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
        // More samples than the order's buffer has, and an odd number of steps.
        let (at_once, in_pieces) = (train(150), train(21));
        assert!(at_once.0.iter().all(|loss| loss.is_finite()), "{model:?}");
        assert!(at_once == in_pieces, "{model:?} differs");
    }
}

#[test]
fn a_step_is_fed_and_leaves_the_same_state_in_the_same_shapes() {
    let train = Split::new(vec![0; 331 * PIXELS], vec![0; 331]).unwrap();
    for case in cases() {
        let Case { model, batch_size, learning_rate, .. } = case;
        let job = Job { model, batch_size, learning_rate, train: &train };
        let sizes = Sizes::new(&job);
        let whole = step(&job, &sizes, batch_size);
        let rest = step(&job, &sizes, 1);
        let mut state = 0;
        for (slot, node) in &whole.feeds {
            let fed = whole.graph.tensor(*node);
            let left = whole.results.iter().find(|(result, _)| result == slot);
            assert_eq!(left.is_some(), slot.is_state(), "{slot:?}");
            if let Some((_, left)) = left {
                let left = whole.graph.tensor(*left);
                assert_eq!((&fed.shape, fed.data_type), (&left.shape, left.data_type));
                state += 1;
            }
            // What is left at the end of an epoch takes the same buffers.
            let (_, other) = rest.feeds.iter().find(|(other, _)| other == slot).unwrap();
            assert_eq!(fed.shape, rest.graph.tensor(*other).shape, "{slot:?}");
        }
        assert_eq!(state, model.tensors().len() + 2, "parameters, step and losses");
        assert_eq!(whole.results.len(), state);
        for (slot, node) in &prediction(model).feeds {
            if let Slot::Parameter(index) = slot {
                let shape = prediction(model).graph.shape(*node).to_vec();
                assert_eq!(shape.iter().product::<usize>(), model.tensors()[*index].len());
            }
        }
    }
}

#[test]
fn a_graph_has_as_many_nodes_whatever_its_sizes() {
    // It is compiled once, and nothing in it grows with the batch.
    let train = Split::new(vec![0; 331 * PIXELS], vec![0; 331]).unwrap();
    let nodes = |batch_size: usize, d_model: usize| {
        let model = Model::Attention(AttentionShape { d_model, ff: 8 });
        let job = Job { model, batch_size, learning_rate: 0.1, train: &train };
        step(&job, &Sizes::new(&job), batch_size).graph.tensors().len()
    };
    assert_eq!(nodes(1, 1), nodes(128, 64));
}
