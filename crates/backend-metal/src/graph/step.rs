//! The graphs of a session: a whole training step of so many samples, and a prediction.
//!
//! State is explicit. A step takes the parameters, its own number and the losses so far, and leaves
//! the parameters, the next number and the losses with its own among them: feeds and results of
//! the executable, on the device in buffers that take turns. (Graph variables would belong to one
//! executable, and an epoch needs two: for whole batches, and for what is left at its end.) So a
//! step is the same executable over the same two sets of buffers every time, and nothing is
//! uploaded or read between steps.

use super::description::{DataType, Graph, Node};
use super::models::{Pixels, logits};
use crate::job::{PREDICTED_AT_ONCE, Sizes};
use mnist::{CLASSES, PIXELS};
use nn::Model;
use nn::backend::Job;

/// The binding of a feed or a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Slot {
    /// (samples, 784): each byte less 128, as a signed one: see [`Pixels`].
    Images,
    /// (samples), integers.
    Labels,
    /// (order_capacity), integers.
    Order,
    /// (1), an integer: how many steps of the order are done.
    Step,
    /// (steps).
    Losses,
    /// A tensor of the parameters, by its place in the list.
    Parameter(usize),
    /// (PREDICTED_AT_ONCE, 784), as [`Slot::Images`].
    ImagesToPredict,
    /// (PREDICTED_AT_ONCE, 10).
    Logits,
}

impl Slot {
    /// Whether a step leaves a new one, so that there are two buffers which take turns.
    pub(crate) fn is_state(self) -> bool {
        matches!(self, Slot::Step | Slot::Losses | Slot::Parameter(_))
    }
}

/// A graph, what it is fed and what is wanted of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Description {
    pub(crate) graph: Graph,
    pub(crate) feeds: Vec<(Slot, Node)>,
    pub(crate) results: Vec<(Slot, Node)>,
}

impl Description {
    fn feed(&mut self, slot: Slot, name: &'static str, shape: &[usize], of: DataType) -> Node {
        let node = self.graph.placeholder(name, shape, of);
        self.feeds.push((slot, node));
        node
    }

    /// A placeholder for each tensor of the parameters, in the shape in which its model adds or
    /// multiplies it: a linear layer's bias is one row.
    fn parameters(&mut self, model: Model) -> Vec<Node> {
        let tensors = model.tensors().into_iter().enumerate();
        let feed = |(index, tensor): (usize, nn::Tensor)| {
            let shape = match (tensor.name, tensor.shape.as_slice()) {
                ("conv.bias", &[filters]) => vec![1, filters, 1, 1],
                ("position", &[tokens, width]) => vec![1, tokens, width],
                (_, &[width]) => vec![1, width],
                (_, shape) => shape.to_vec(),
            };
            self.feed(Slot::Parameter(index), tensor.name, &shape, DataType::Float32)
        };
        tensors.map(feed).collect()
    }
}

/// One step over the next `count` samples of the order.
pub(crate) fn step(job: &Job<'_>, sizes: &Sizes, count: usize) -> Description {
    use DataType::{Float32, Int8, Int32};
    let mut it = Description::default();
    let samples = sizes.samples.max(1);
    let images = it.feed(Slot::Images, "images", &[samples, PIXELS], Int8);
    let labels = it.feed(Slot::Labels, "labels", &[samples], Int32);
    let order = it.feed(Slot::Order, "order", &[sizes.order_capacity], Int32);
    let step = it.feed(Slot::Step, "step", &[1], Int32);
    let losses = it.feed(Slot::Losses, "losses", &[sizes.steps], Float32);
    let parameters = it.parameters(job.model);

    // The batch: places step * batch_size + (0, 1, ... count - 1) of the order.
    let graph = &mut it.graph;
    let batch_size = graph.constant(job.batch_size as f64, &[1], Int32);
    let first = graph.multiply(step, batch_size);
    let within = graph.coordinate(count);
    let places = graph.add(within, first);
    let indices = graph.gather(order, places);
    let bytes = graph.gather(images, indices);
    let label = graph.gather(labels, indices);
    let one_hot = graph.one_hot(label, CLASSES);

    let pixels = Pixels::of(graph, bytes);
    let logits = logits(graph, job.model, &parameters, pixels);
    let sum = graph.cross_entropy(logits, one_hot);
    let divisor = graph.constant(count as f64, &[1], Float32);
    let loss = graph.divide(sum, divisor);

    let rate = graph.constant(f64::from(job.learning_rate), &[1], Float32);
    let gradients: Vec<Node> = parameters.iter().map(|&by| graph.gradient(loss, by)).collect();
    let stepped: Vec<Node> = parameters
        .iter()
        .zip(gradients)
        .map(|(&values, gradient)| graph.descend(rate, values, gradient))
        .collect();

    let place = graph.coordinate(sizes.steps);
    let here = graph.equal(place, step);
    let losses = graph.select(here, loss, losses);
    let one = graph.constant(1.0, &[1], Int32);
    let next = graph.add(step, one);
    it.results = vec![(Slot::Step, next), (Slot::Losses, losses)];
    let stepped = stepped.into_iter().enumerate();
    it.results.extend(stepped.map(|(index, node)| (Slot::Parameter(index), node)));
    it
}

/// The logits of the images that were uploaded.
pub(crate) fn prediction(model: Model) -> Description {
    let mut it = Description::default();
    let shape = [PREDICTED_AT_ONCE, PIXELS];
    let bytes = it.feed(Slot::ImagesToPredict, "images", &shape, DataType::Int8);
    let parameters = it.parameters(model);
    let pixels = Pixels::of(&mut it.graph, bytes);
    let logits = logits(&mut it.graph, model, &parameters, pixels);
    it.results = vec![(Slot::Logits, logits)];
    it
}
