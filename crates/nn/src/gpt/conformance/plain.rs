//! The reference itself as a session: as slow as it, and in `f32` the yardstick of sound rounding.

use crate::backend::{Backend, Description, Options, TrainError, Unavailable};
use crate::gpt::reference::Factors;
use crate::gpt::{Job, Reference, Session, State};
use crate::reference::Real;
use protocol::DeviceProbe;
use std::marker::PhantomData;

/// The reference in `R` as a session. For measuring and for tests; never a contestant.
pub struct Plain<'data, R> {
    job: Job<'data>,
    factors: Factors,
    reference: Reference<R>,
}

impl<'data, R: Real> Plain<'data, R> {
    /// Opens it.
    ///
    /// # Errors
    /// If the job is wrong.
    pub fn open(job: Job<'data>, factors: Factors) -> Result<Plain<'data, R>, TrainError> {
        job.check()?;
        let reference = Reference::new(&State::zeros(job.shape)).with_factors(factors);
        Ok(Plain { job, factors, reference })
    }
}

impl<R: Real> Session for Plain<'_, R> {
    fn description(&self) -> Description {
        Description {
            device: "one thread".to_owned(),
            path: "plain loops".to_owned(),
            threads: Some(1),
            precision: match self.factors {
                Factors::Exact => "float32",
                Factors::Tf32 => "tf32",
                Factors::Bf16 => "bf16",
            },
            software: false,
        }
    }

    fn set_state(&mut self, state: &State) -> Result<(), TrainError> {
        state.check_shape(self.job.shape)?;
        self.reference = Reference::new(state).with_factors(self.factors);
        Ok(())
    }

    fn state(&mut self) -> Result<State, TrainError> {
        Ok(self.reference.state())
    }

    fn train(&mut self, starts: &[u32], step_loss: &mut [f32]) -> Result<(), TrainError> {
        self.job.check_starts(starts, step_loss)?;
        for (written, loss) in step_loss.iter_mut().zip(self.reference.train(&self.job, starts)) {
            let loss: f64 = loss.into();
            *written = loss as f32;
        }
        Ok(())
    }

    fn predict(&mut self, tokens: &[u16], logits: &mut [f32]) -> Result<(), TrainError> {
        self.job.check_prediction(tokens, logits)?;
        for (written, logit) in logits.iter_mut().zip(self.reference.logits(tokens)) {
            let logit: f64 = logit.into();
            *written = logit as f32;
        }
        Ok(())
    }
}

/// The reference in float32 with coarse factors, as a backend.
struct Coarse<R>(Factors, PhantomData<fn() -> R>);

impl<R: Real + 'static> Backend for Coarse<R> {
    fn id(&self) -> &'static str {
        "plain"
    }

    fn models(&self) -> &'static [&'static str] {
        &[crate::gpt::ID]
    }

    fn devices(&self) -> Result<Vec<DeviceProbe>, Unavailable> {
        Ok(vec![DeviceProbe { name: "one thread".to_owned(), detail: None, software: false }])
    }

    fn open<'data>(
        &self,
        job: crate::backend::Job<'data>,
        _options: &Options,
    ) -> Result<Box<dyn crate::backend::Session + 'data>, TrainError> {
        Err(Unavailable(format!("coarse loops do not train the model {}", job.model.id())).into())
    }

    fn open_gpt<'data>(
        &self,
        job: Job<'data>,
        _options: &Options,
    ) -> Result<Box<dyn Session + 'data>, TrainError> {
        Ok(Box::new(Plain::<R>::open(job, self.0)?))
    }
}

/// As tensor cores compute in tf32.
pub fn tf32_backend() -> &'static dyn Backend {
    static TF32: Coarse<f32> = Coarse(Factors::Tf32, PhantomData);
    &TF32
}

/// As they compute in bf16.
pub fn bf16_backend() -> &'static dyn Backend {
    static BF16: Coarse<f32> = Coarse(Factors::Bf16, PhantomData);
    &BF16
}
