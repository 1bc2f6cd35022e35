//! The reference itself as a backend: as slow as it, and in `f32` the yardstick of sound rounding.

use crate::backend::{Backend, Description, Job, Options, Session, TrainError, Unavailable};
use crate::reference::Real;
use crate::{Parameters, Reference, gpt};
use mnist::PIXELS;
use protocol::DeviceProbe;
use std::marker::PhantomData;

/// The reference in `R` as a backend. For measuring tolerances and for tests of what stands above
/// a backend; never a contestant.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain<R>(PhantomData<R>);

impl<R> Plain<R> {
    /// There is nothing to choose.
    pub const fn new() -> Plain<R> {
        Plain(PhantomData)
    }
}

impl<R: Real + Sync + 'static> Backend for Plain<R> {
    fn id(&self) -> &'static str {
        "plain"
    }

    fn models(&self) -> &'static [&'static str] {
        &["mlp", "cnn", "attention", gpt::ID]
    }

    fn devices(&self) -> Result<Vec<DeviceProbe>, Unavailable> {
        Ok(vec![DeviceProbe { name: "one thread".to_owned(), detail: None, software: false }])
    }

    fn open<'data>(
        &self,
        job: Job<'data>,
        _options: &Options,
    ) -> Result<Box<dyn Session + 'data>, TrainError> {
        let reference: Reference<R> = Reference::new(&Parameters::zeros(job.model));
        Ok(Box::new(PlainSession { job, reference }))
    }

    fn open_gpt<'data>(
        &self,
        job: gpt::Job<'data>,
        _options: &Options,
    ) -> Result<Box<dyn gpt::Session + 'data>, TrainError> {
        let session = gpt::conformance::Plain::<R>::open(job, gpt::reference::Factors::Exact)?;
        Ok(Box::new(session))
    }
}

struct PlainSession<'data, R> {
    job: Job<'data>,
    reference: Reference<R>,
}

impl<R: Real> Session for PlainSession<'_, R> {
    fn description(&self) -> Description {
        Description {
            device: "one thread".to_owned(),
            path: "plain loops".to_owned(),
            threads: Some(1),
            precision: "float32",
            software: false,
        }
    }

    fn set_parameters(&mut self, parameters: &Parameters) -> Result<(), TrainError> {
        self.reference = Reference::new(parameters);
        Ok(())
    }

    fn parameters(&mut self) -> Result<Parameters, TrainError> {
        Ok(self.reference.rounded())
    }

    fn train(&mut self, order: &[u32], step_loss: &mut [f32]) -> Result<(), TrainError> {
        self.job.check(order, step_loss)?;
        let Job { batch_size, learning_rate, train, .. } = self.job;
        let losses = self.reference.train(train, order, batch_size, learning_rate);
        for (written, loss) in step_loss.iter_mut().zip(losses) {
            let loss: f64 = loss.into();
            *written = loss as f32;
        }
        Ok(())
    }

    fn predict(&mut self, images: &[u8], labels: &mut [u8]) -> Result<(), TrainError> {
        Job::check_images(images, labels)?;
        for (label, image) in labels.iter_mut().zip(images.chunks(PIXELS)) {
            *label = self.reference.predict(image);
        }
        Ok(())
    }
}
