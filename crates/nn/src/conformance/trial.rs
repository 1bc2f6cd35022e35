//! One training run of the reference, and a backend's run beside it.

use super::report::{Deviation, Report};
use super::steps::Steps;
use super::tolerance::{batch_factor, loss_tolerance, precision_factor, scale_tensor, tolerance};
use crate::backend::{Backend, Job, Options, Session, TrainError};
use crate::reference::{self, Pass};
use crate::{Parameters, Reference, Tensor, recipe};
use mnist::{PIXELS, Split};

/// A sample that comes this near to a kink of the loss is passed over: there rounding decides which
/// branch the gradient takes, and a sound backend may decide otherwise. The largest error of a
/// sound float32 pre-activation is a tenth of it.
pub const KINK: f64 = 1e-5;

/// Images that are predicted at the end.
const PREDICTIONS: usize = 200;

/// A prediction counts where the two largest logits differ by more than this, relative to the
/// largest magnitude of a logit.
const CLEAR: f64 = 1e-3;

/// The results of the reference for some steps, to compare any number of backends and options with.
pub struct Trial<'data> {
    pub(super) job: Job<'data>,
    steps: Steps,
    pub(super) initial: Parameters,
    order: Vec<u32>,
    pub(super) losses: Vec<f64>,          // (count)
    pub(super) parameters: Vec<Vec<f64>>, // (count, parameter_count): after each step
    pub(super) scales: Vec<Vec<f64>>,     // (count, tensors): the largest magnitude so far
    pub(super) changes: Vec<Vec<f64>>,    // (count, tensors): root mean square so far
    predictions: Vec<Option<u8>>,         // of the first images; `None` where it is a near thing
    kink_distance: f64,
}

/// The results of a backend for a trial's steps, in one call of `train`.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// One for each step.
    pub losses: Vec<f32>,
    /// At the end.
    pub parameters: Parameters,
}

impl<'data> Trial<'data> {
    /// Trains the reference from `initial`, on batches drawn in the seed's order without the
    /// samples that come within rounding of a kink.
    ///
    /// # Panics
    /// If `data` is empty or `steps` asks for an empty batch.
    pub fn new(initial: Parameters, data: &'data Split, steps: Steps, seed: u64) -> Trial<'data> {
        assert!(!data.is_empty(), "a trial needs samples");
        assert!((1..=steps.batch_size).contains(&steps.last_batch), "{steps:?}");
        let mut shuffled = vec![0; data.len()];
        recipe::shuffle(&mut shuffled, seed, 0);
        let mut candidates = shuffled.into_iter().cycle();

        let mut reference: Reference<f64> = Reference::new(&initial);
        let mut order = Vec::new();
        let mut losses = Vec::new();
        let mut parameters = Vec::new();
        let mut kink_distance = f64::INFINITY;
        for step in 0..steps.count {
            let (batch, passes) = draw(&reference, data, &mut candidates, steps.size(step));
            let nearest = passes.iter().map(Pass::kink_distance).fold(f64::INFINITY, f64::min);
            losses.push(reference.step_after(passes, steps.learning_rate));
            parameters.push(reference.parameters().values().to_vec());
            kink_distance = kink_distance.min(nearest);
            order.extend(batch);
        }
        let scales = scales(&initial, &parameters);
        let changes = changes(&initial, &parameters);
        let images = data.images().chunks(PIXELS).take(PREDICTIONS);
        let predictions = images.map(|image| clear_prediction(&reference, image)).collect();
        let job = Job {
            model: initial.model(),
            batch_size: steps.batch_size,
            learning_rate: steps.learning_rate,
            train: data,
        };
        Trial {
            job,
            steps,
            initial,
            order,
            losses,
            parameters,
            scales,
            changes,
            predictions,
            kink_distance,
        }
    }

    /// How near a sample came to a kink of the loss, at least 1e-5 unless there were too few others.
    pub fn kink_distance(&self) -> f64 {
        self.kink_distance
    }

    /// The parameters that it begins with.
    pub fn initial(&self) -> &Parameters {
        &self.initial
    }

    /// The samples of the first `steps` steps, in the order in which they are trained on.
    pub fn order(&self, steps: usize) -> &[u32] {
        &self.order[..self.order.len().min(steps * self.steps.batch_size)]
    }

    /// How it trains.
    pub fn steps(&self) -> Steps {
        self.steps
    }

    /// The results of a backend for the same steps, for comparisons bit by bit.
    ///
    /// # Errors
    /// If the backend fails.
    pub fn outcome(&self, backend: &dyn Backend, options: &Options) -> Result<Outcome, TrainError> {
        let mut session = backend.open(self.job, options)?;
        self.train_at_once(session.as_mut())
    }

    /// Trains a backend on the same steps, in one call and then again step by step, and compares
    /// everything that it reports.
    ///
    /// # Errors
    /// If the backend fails. Deviations are no error: the report has them.
    pub fn run(&self, backend: &dyn Backend, options: &Options) -> Result<Report, TrainError> {
        let mut session = backend.open(self.job, options)?;
        let description = session.description();
        let factor = precision_factor(description.precision);
        let mut report = Report::new(backend.id(), description, self.job.model, self.steps);
        report.kink_distance = self.kink_distance;
        report.deviations.push(Deviation::new("loss", loss_tolerance(self.job.model) * factor));
        let factor = factor * batch_factor(self.job.batch_size);
        for tensor in self.initial.tensors() {
            let tolerance = tolerance(self.job.model, tensor.name) * factor;
            report.deviations.push(Deviation::new(tensor.name, tolerance));
        }

        let at_once = self.train_at_once(session.as_mut())?;
        report.wrong_predictions = self.wrong_predictions(session.as_mut())?;
        self.compare_losses(&mut report, &at_once.losses);
        self.compare_parameters(&mut report, &at_once.parameters, self.steps.count - 1);
        self.train_step_by_step(session.as_mut(), &mut report)?;
        Ok(report)
    }

    fn train_at_once(&self, session: &mut dyn Session) -> Result<Outcome, TrainError> {
        session.set_parameters(&self.initial)?;
        let mut losses = vec![f32::NAN; self.steps.count]; // a loss that is not written shows
        session.train(&self.order, &mut losses)?;
        Ok(Outcome { losses, parameters: session.parameters()? })
    }

    fn train_step_by_step(
        &self,
        session: &mut dyn Session,
        report: &mut Report,
    ) -> Result<(), TrainError> {
        session.set_parameters(&self.initial)?;
        let mut losses = vec![f32::NAN; self.steps.count];
        for (step, batch) in self.order.chunks(self.steps.batch_size).enumerate() {
            session.train(batch, &mut losses[step..=step])?;
            self.compare_parameters(report, &session.parameters()?, step);
        }
        self.compare_losses(report, &losses);
        Ok(())
    }

    fn wrong_predictions(&self, session: &mut dyn Session) -> Result<usize, TrainError> {
        let mut labels = vec![u8::MAX; self.predictions.len()];
        session.predict(&self.job.train.images()[..labels.len() * PIXELS], &mut labels)?;
        let pairs = labels.iter().zip(&self.predictions);
        Ok(pairs.filter(|&(label, expected)| expected.is_some_and(|e| e != *label)).count())
    }

    /// A loss deviates relative to itself or, where it is below 1 nat, absolutely.
    fn compare_losses(&self, report: &mut Report, losses: &[f32]) {
        for (step, (&actual, &expected)) in losses.iter().zip(&self.losses).enumerate() {
            let actual = f64::from(actual);
            let error = (actual - expected).abs() / expected.max(1.0);
            report.deviations[0].note(error, step, 0, expected, actual);
        }
    }

    /// A tensor's deviation is its largest error relative to the largest magnitude it has had so far
    /// (a bias may just be crossing zero). Weights are stored in float32, so that no error far
    /// below 1e-7 of it can be told from rounding.
    fn compare_parameters(&self, report: &mut Report, actual: &Parameters, step: usize) {
        let expected = &self.parameters[step];
        let tensors = self.initial.tensors();
        for (index, tensor) in tensors.iter().enumerate() {
            let scale = self.scales[step][scale_tensor(tensors, index)];
            for (element, place) in tensor.range().enumerate() {
                let (expected, actual) = (expected[place], f64::from(actual.values()[place]));
                let error = (actual - expected).abs();
                let error = if error == 0.0 { 0.0 } else { error / scale };
                report.deviations[index + 1].note(error, step, element, expected, actual);
            }
        }
    }
}

/// For each step, the largest magnitude that each tensor has had by then.
fn scales(initial: &Parameters, parameters: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let tensors = initial.tensors();
    let begin = |tensor: &Tensor| largest(initial.values()[tensor.range()].iter().copied());
    let mut so_far: Vec<f64> = tensors.iter().map(begin).collect();
    let after = |values: &Vec<f64>| {
        for (scale, tensor) in so_far.iter_mut().zip(tensors) {
            *scale = scale.max(largest(values[tensor.range()].iter().copied()));
        }
        so_far.clone()
    };
    parameters.iter().map(after).collect()
}

/// For each step, the largest change, as a root mean square, that each tensor has gone through by then.
fn changes(initial: &Parameters, parameters: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let tensors = initial.tensors();
    let mut so_far = vec![0.0_f64; tensors.len()];
    let after = |values: &Vec<f64>| {
        for (change, tensor) in so_far.iter_mut().zip(tensors) {
            let pairs = values[tensor.range()].iter().zip(&initial.values()[tensor.range()]);
            let squares: f64 =
                pairs.map(|(value, &first)| (value - f64::from(first)).powi(2)).sum();
            *change = change.max((squares / tensor.len() as f64).sqrt());
        }
        so_far.clone()
    };
    parameters.iter().map(after).collect()
}

fn largest(values: impl Iterator<Item = impl Into<f64>>) -> f64 {
    values.fold(0.0, |largest, value| largest.max(value.into().abs()))
}

/// A batch of samples off the kinks, and their ways forward, which need not be gone again. When the whole
/// data is near kinks, takes what comes.
fn draw(
    reference: &Reference<f64>,
    data: &Split,
    candidates: &mut impl Iterator<Item = u32>,
    size: usize,
) -> (Vec<u32>, Vec<Pass<f64>>) {
    let mut batch = Vec::with_capacity(size);
    let mut passes = Vec::with_capacity(size);
    let patience = data.len() + 4 * size;
    for (tried, candidate) in candidates.enumerate() {
        let pass = reference.pass(data, candidate);
        if pass.kink_distance() >= KINK || tried >= patience {
            batch.push(candidate);
            passes.push(pass);
        }
        if batch.len() == size {
            break;
        }
    }
    (batch, passes)
}

fn clear_prediction(reference: &Reference<f64>, image: &[u8]) -> Option<u8> {
    let logits = reference.logits(image);
    let best = reference::largest(&logits);
    let others = (0..logits.len()).filter(|&class| class != usize::from(best));
    let second = others.map(|class| logits[class]).fold(f64::NEG_INFINITY, f64::max);
    (logits[usize::from(best)] - second > CLEAR * largest(logits.into_iter())).then_some(best)
}
