//! The check is checked: sessions that are wrong in the ways that trainers really are wrong, each of
//! which has to be found, and where.

use super::*;
use crate::backend::{Description, Job, Session, TrainError, Unavailable};
use crate::reference::Buffer;
use crate::{Parameters, Reference};
use mnist::{PIXELS, Split};
use protocol::DeviceProbe;

/// A way to be wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// As candle 0.11.1's max_pool2d gives a unique maximum a quarter of its gradient.
    QuarterPoolGradient,
    NoUpdateOf(&'static str),
    /// Parameters rounded to bfloat16 after each step.
    StoredInBf16,
    /// Gradients rounded to the 10 bits of a tensor core's product.
    GradientInTf32,
    LastBatchDropped,
    /// The last step divides by the batch size, not by the samples that are left.
    LastBatchDividedByWhole,
    /// Each gradient belongs to the weights of one step before.
    StaleWeights,
    RateOffByAThousandth,
    WeightDecay,
    Momentum,
    LossAfterUpdate,
    LastLossNotWritten,
    BytesOver256,
    FirstSampleTwice,
    /// A mistake that candle's users make: (in, out) returned as (out, in).
    Transposed(&'static str),
    /// Scores without the division by the root of d_model.
    UnscaledScores,
    QueryAndKeySwapped,
    SecondSetIgnored,
    PredictsSmallest,
    NanBecomesZero,
    ArgumentsUnchecked,
}

struct Faulty(Fault);

struct FaultySession<'data> {
    fault: Fault,
    job: Job<'data>,
    reference: Reference<f32>,
    before: Reference<f32>, // one step ago
    velocity: Vec<f32>,
    times_set: usize,
}

impl Backend for Faulty {
    fn id(&self) -> &'static str {
        "faulty"
    }

    fn devices(&self) -> Result<Vec<DeviceProbe>, Unavailable> {
        Ok(Vec::new())
    }

    fn open<'data>(
        &self,
        job: Job<'data>,
        _options: &Options,
    ) -> Result<Box<dyn Session + 'data>, TrainError> {
        let reference = Reference::new(&Parameters::zeros(job.model));
        let before = reference.clone();
        let velocity = vec![0.0; job.model.parameter_count()];
        Ok(Box::new(FaultySession {
            fault: self.0,
            job,
            reference,
            before,
            velocity,
            times_set: 0,
        }))
    }
}

impl FaultySession<'_> {
    fn step(&mut self, data: &Split, batch: &[u32]) -> f32 {
        let Job { batch_size, learning_rate, .. } = self.job;
        let last = batch.len() < batch_size;
        let source = if self.fault == Fault::StaleWeights { &self.before } else { &self.reference };
        let (mut loss, mut gradient) = match self.fault {
            Fault::FirstSampleTwice => {
                let mut batch = batch.to_vec();
                let second = batch.len().min(2) - 1;
                batch[second] = batch[0];
                source.gradient(data, &batch)
            }
            Fault::UnscaledScores => gradient_without_scaling(source, data, batch),
            _ => source.gradient(data, batch),
        };
        if last && self.fault == Fault::LastBatchDropped {
            return loss;
        }
        self.spoil(&mut gradient, batch.len() as f32 / batch_size as f32);
        let rate = match self.fault {
            Fault::RateOffByAThousandth => learning_rate * 1.001,
            _ => learning_rate,
        };
        self.before = self.reference.clone();
        self.reference.update(&gradient, rate);
        if self.fault == Fault::StoredInBf16 {
            for value in self.reference.parameters_mut().values_mut() {
                *value = f32::from_bits((value.to_bits() + 0x8000) & 0xffff_0000);
            }
        }
        if self.fault == Fault::LossAfterUpdate {
            loss = self.reference.loss(data, batch);
        }
        if self.fault == Fault::NanBecomesZero && loss.is_nan() {
            loss = 0.0;
        }
        loss
    }

    /// `part`: of a whole batch.
    fn spoil(&mut self, gradient: &mut Buffer<f32>, part: f32) {
        let all = gradient.values_mut();
        match self.fault {
            Fault::QuarterPoolGradient => {
                // Nothing but the convolution lies below the pooling.
                gradient.tensor_mut("conv.weight").iter_mut().for_each(|d| *d *= 0.25);
                gradient.tensor_mut("conv.bias").iter_mut().for_each(|d| *d *= 0.25);
            }
            Fault::NoUpdateOf(name) => gradient.tensor_mut(name).fill(0.0),
            Fault::GradientInTf32 => {
                all.iter_mut().for_each(|d| *d = f32::from_bits((d.to_bits() + 0x1000) & !0x1fff));
            }
            Fault::LastBatchDividedByWhole => all.iter_mut().for_each(|d| *d *= part),
            Fault::WeightDecay => {
                let values = self.reference.parameters().values();
                all.iter_mut().zip(values).for_each(|(d, value)| *d += 1e-3 * value);
            }
            Fault::Momentum => {
                for (d, velocity) in all.iter_mut().zip(&mut self.velocity) {
                    *velocity = 0.1 * *velocity + *d;
                    *d = *velocity;
                }
            }
            Fault::QueryAndKeySwapped => {
                let key = gradient.tensor("key.weight").to_vec();
                let query = gradient.tensor("query.weight").to_vec();
                gradient.tensor_mut("key.weight").copy_from_slice(&query);
                gradient.tensor_mut("query.weight").copy_from_slice(&key);
            }
            _ => {}
        }
    }
}

/// Scores without `/ sqrt(d_model)` are scores of queries that are as much larger.
fn gradient_without_scaling(
    source: &Reference<f32>,
    data: &Split,
    batch: &[u32],
) -> (f32, Buffer<f32>) {
    let root = (source.parameters().tensor("query.bias").len() as f32).sqrt();
    let mut larger = source.clone();
    for name in ["query.weight", "query.bias"] {
        larger.parameters_mut().tensor_mut(name).iter_mut().for_each(|value| *value *= root);
    }
    let (loss, mut gradient) = larger.gradient(data, batch);
    for name in ["query.weight", "query.bias"] {
        gradient.tensor_mut(name).iter_mut().for_each(|d| *d *= root);
    }
    (loss, gradient)
}

impl Session for FaultySession<'_> {
    fn description(&self) -> Description {
        Description {
            path: format!("{:?}", self.fault),
            precision: "float32",
            ..Description::default()
        }
    }

    fn set_parameters(&mut self, parameters: &Parameters) -> Result<(), TrainError> {
        self.times_set += 1;
        if self.fault != Fault::SecondSetIgnored || self.times_set == 1 {
            self.reference = Reference::new(parameters);
        }
        self.before = self.reference.clone();
        self.velocity.fill(0.0);
        Ok(())
    }

    fn parameters(&mut self) -> Result<Parameters, TrainError> {
        let mut parameters = self.reference.rounded();
        if let Fault::Transposed(name) = self.fault {
            let values = parameters.tensor(name).to_vec();
            let out =
                parameters.tensors().iter().find(|tensor| tensor.name == name).unwrap().shape[0];
            let width = values.len() / out;
            for (place, value) in parameters.tensor_mut(name).iter_mut().enumerate() {
                *value = values[place % out * width + place / out];
            }
        }
        Ok(parameters)
    }

    fn train(&mut self, order: &[u32], step_loss: &mut [f32]) -> Result<(), TrainError> {
        if self.fault != Fault::ArgumentsUnchecked {
            self.job.check(order, step_loss)?;
        }
        let darker;
        let mut data = self.job.train;
        if self.fault == Fault::BytesOver256 {
            let images: Vec<u8> = data
                .images()
                .iter()
                .map(|&byte| (f32::from(byte) * (255.0 / 256.0)) as u8)
                .collect();
            darker = Split::new(images, data.labels()).unwrap();
            data = &darker;
        }
        let steps = step_loss.len();
        for (step, batch) in order.chunks(self.job.batch_size).enumerate() {
            let batch: Vec<u32> =
                batch.iter().map(|&index| index.min(data.len() as u32 - 1)).collect();
            let loss = self.step(data, &batch);
            if !(self.fault == Fault::LastLossNotWritten && step + 1 == steps) && step < steps {
                step_loss[step] = loss;
            }
        }
        Ok(())
    }

    fn predict(&mut self, images: &[u8], labels: &mut [u8]) -> Result<(), TrainError> {
        if self.fault != Fault::ArgumentsUnchecked {
            Job::check_images(images, labels)?;
        }
        for (label, image) in labels.iter_mut().zip(images.chunks(PIXELS)) {
            *label = self.reference.predict(image);
            if self.fault == Fault::PredictsSmallest {
                let logits = self.reference.logits(image);
                let smallest = (0..logits.len()).min_by(|&a, &b| logits[a].total_cmp(&logits[b]));
                *label = smallest.unwrap() as u8;
            }
        }
        Ok(())
    }
}

/// The first case of a model: a batch of 32, the last of 16.
fn first_trial(model: &str) -> &'static Trial<'static> {
    trials(|case| case.model.id() == model).next().expect("every model has cases").1
}

fn report_of(fault: Fault, model: &str) -> Report {
    first_trial(model).run(&Faulty(fault), &Options::default()).unwrap()
}

/// Step (from 0) from which on a fault shows, in which quantities first.
fn finds(fault: Fault, model: &str, step: usize, at_least: &[&str]) {
    let report = report_of(fault, model);
    assert!(!report.passed(), "{fault:?} was not found\n{report}");
    assert_eq!(report.first_step(), Some(step), "{report}");
    for name in at_least {
        let deviation = report.deviations.iter().find(|deviation| deviation.name == *name).unwrap();
        assert_eq!(deviation.first_step, Some(step), "{name}\n{report}");
        // Not by a hair: what is found would be found under a tolerance ten times as wide.
        assert!(deviation.largest > 10.0 * deviation.tolerance, "{name}\n{report}");
    }
}

#[test]
fn a_session_without_a_fault_passes() {
    for model in ["mlp", "cnn", "attention"] {
        let report = report_of(Fault::None, model);
        assert!(report.passed(), "{report}");
    }
}

#[test]
fn a_wrong_gradient_is_found_in_the_tensors_it_reaches_at_the_first_step() {
    finds(Fault::QuarterPoolGradient, "cnn", 0, &["conv.weight", "conv.bias"]);
    finds(Fault::QueryAndKeySwapped, "attention", 0, &["query.weight", "key.weight"]);
    finds(Fault::UnscaledScores, "attention", 0, &["query.weight"]);
}

#[test]
fn a_tensor_that_is_not_updated_is_found_whichever_it_is() {
    for model in ["mlp", "cnn", "attention"] {
        for tensor in small_model(model).tensors() {
            if tensor.name != "key.bias" {
                finds(Fault::NoUpdateOf(tensor.name), model, 0, &[tensor.name]);
            }
        }
    }
}

#[test]
fn a_wrong_last_batch_is_found_at_the_last_step() {
    for model in ["mlp", "cnn", "attention"] {
        for fault in [Fault::LastBatchDropped, Fault::LastBatchDividedByWhole] {
            finds(fault, model, 9, &[]);
        }
    }
}

#[test]
fn weights_of_the_step_before_are_found_at_the_second_step() {
    for model in ["mlp", "cnn", "attention"] {
        finds(Fault::StaleWeights, model, 1, &["loss"]);
    }
}

#[test]
fn another_optimiser_is_found() {
    for model in ["mlp", "cnn", "attention"] {
        finds(Fault::RateOffByAThousandth, model, 0, &[]);
        finds(Fault::WeightDecay, model, 0, &[]);
        finds(Fault::Momentum, model, 1, &[]);
    }
}

#[test]
fn coarser_arithmetic_is_found() {
    for model in ["mlp", "cnn", "attention"] {
        finds(Fault::StoredInBf16, model, 0, &[]);
        finds(Fault::GradientInTf32, model, 0, &[]);
    }
}

#[test]
fn a_wrong_loss_is_found() {
    finds(Fault::LossAfterUpdate, "mlp", 0, &["loss"]);
    finds(Fault::LastLossNotWritten, "mlp", 0, &[]); // of each call: in steps, also the first
}

#[test]
fn wrong_inputs_are_found() {
    for model in ["mlp", "cnn", "attention"] {
        finds(Fault::BytesOver256, model, 0, &["loss"]);
        finds(Fault::FirstSampleTwice, model, 0, &["loss"]);
    }
}

#[test]
fn a_transposed_weight_is_found() {
    finds(Fault::Transposed("fc1.weight"), "mlp", 0, &["fc1.weight"]);
    finds(Fault::Transposed("query.weight"), "attention", 0, &["query.weight"]);
}

#[test]
fn a_session_that_keeps_its_state_is_found() {
    finds(Fault::SecondSetIgnored, "mlp", 0, &["loss"]);
}

#[test]
fn wrong_predictions_are_found() {
    let report = report_of(Fault::PredictsSmallest, "mlp");
    assert!(!report.passed() && report.wrong_predictions > 100, "{report}");
    assert!(report.to_string().ends_with("DIFFERENT in its predictions"), "{report}");
}

#[test]
fn broken_promises_are_named() {
    let broken = |fault, model: &str| {
        contract(&Faulty(fault), &Options::default(), small_model(model)).unwrap()
    };
    for model in ["mlp", "cnn", "attention"] {
        assert_eq!(broken(Fault::None, model), Vec::<String>::new());
        assert_eq!(
            contract(&Plain::<f32>::new(), &Options::default(), small_model(model)).unwrap(),
            Vec::<String>::new()
        );
        let swallowed = broken(Fault::NanBecomesZero, model);
        assert_eq!(swallowed.len(), small_model(model).tensors().len(), "{swallowed:?}");
    }
    assert_eq!(broken(Fault::SecondSetIgnored, "mlp").len(), 4);
    assert_eq!(
        broken(Fault::Transposed("fc1.weight"), "mlp")[0],
        "parameters come back bit by bit"
    );
    assert_eq!(
        broken(Fault::ArgumentsUnchecked, "mlp"),
        [
            "an index beyond the data is an error",
            "too many losses are an error",
            "too few losses are an error",
            "fewer images than labels are an error",
        ]
    );
}

#[test]
fn the_report_names_the_step_the_tensor_and_the_values() {
    let text = report_of(Fault::QuarterPoolGradient, "cnn").to_string();
    let line = text.lines().find(|line| line.starts_with("conv.weight")).unwrap();
    assert!(line.contains("beyond it from step 1: element "), "{text}");
    assert!(text.ends_with("DIFFERENT from step 1 on"), "{text}");
    let text = report_of(Fault::None, "cnn").to_string();
    assert!(text.ends_with("equal within float32 rounding"), "{text}");
}

/// The verdict of `trainmark verify` on a fault in all ten steps of a model's first case.
fn graded(fault: Fault, model: &str) -> Comparison {
    let trial = first_trial(model);
    trial.grade(&trial.outcome(&Faulty(fault), &Options::default()).unwrap())
}

#[test]
fn sound_arithmetic_of_every_precision_has_its_grade() {
    for case in cases().into_iter().filter(|case| case.batch_size == 32) {
        let data = case.data();
        let trial = case.trial(&data);
        let [tf32, bf16] = short_backends();
        let double = Plain::<f64>::new();
        let single = Plain::<f32>::new();
        let backends: [(&dyn Backend, Grade); 4] = [
            (&double, Grade::BitEqual),
            (&single, Grade::Float32),
            (tf32, Grade::Tf32),
            (bf16, Grade::Bf16),
        ];
        for (backend, expected) in backends {
            let outcome = trial.outcome(backend, &Options::default()).unwrap();
            let Comparison { grade, quantities } = trial.grade(&outcome);
            // Coarser arithmetic may come out better than its bound, never worse.
            let coarse = expected >= Grade::Tf32;
            let right = if coarse { grade <= expected } else { grade == expected };
            assert!(right, "{case}: {grade} instead of {expected}\n{quantities:?}");
        }
    }
}

#[test]
fn faults_are_different_or_at_least_not_float32() {
    let different = [
        (Fault::QuarterPoolGradient, "cnn"),
        (Fault::QueryAndKeySwapped, "attention"),
        (Fault::LastBatchDropped, "mlp"),
        (Fault::LastBatchDropped, "cnn"),
        (Fault::StaleWeights, "attention"),
        (Fault::Momentum, "mlp"),
        (Fault::FirstSampleTwice, "mlp"),
        (Fault::StoredInBf16, "mlp"),
        (Fault::NoUpdateOf("fc1.bias"), "mlp"),
        (Fault::Transposed("fc1.weight"), "mlp"),
    ];
    for (fault, model) in different {
        let Comparison { grade, quantities } = graded(fault, model);
        assert_eq!(grade, Grade::Different, "{fault:?} {model}: {quantities:?}");
    }
    for fault in [Fault::RateOffByAThousandth, Fault::GradientInTf32, Fault::BytesOver256] {
        let Comparison { grade, quantities } = graded(fault, "mlp");
        assert!(grade > Grade::Float32, "{fault:?}: {quantities:?}");
    }
}
