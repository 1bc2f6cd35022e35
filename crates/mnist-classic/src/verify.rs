//! `$TRAINMARK_VERIFY`: a few given steps for the harness to compare, instead of training. The steps
//! are one call of the very code that trains an epoch. If the harness asks for the reference, they are those
//! of `nn`'s float64.

use crate::failure::Failure;
use crate::weights::{self, Destination};
use anyhow::{Context, Result, anyhow};
use nn::backend::Session;
use nn::{Model, Parameters, gpt};
use protocol::verify::{FINAL, INITIAL, LOSSES, ORDER, REQUEST, Request};
use protocol::{env, exit};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The name of the files in messages.
const NAMED_BY: &str = "$TRAINMARK_VERIFY";

/// The folder of a verification.
pub struct Exchange(PathBuf);

impl Exchange {
    /// The one that the environment names, if it names any.
    pub fn from_environment() -> Option<Exchange> {
        let folder = std::env::var_os(env::VERIFY).filter(|folder| !folder.is_empty())?;
        Some(Exchange(folder.into()))
    }

    /// How many steps are asked for, if others are to be compared with these: then they are taken in float64,
    /// by no backend.
    pub fn reference_steps(&self) -> Option<usize> {
        let request = fs::read(self.0.join(REQUEST)).ok()?;
        let request: Request = serde_json::from_slice(&request).ok()?;
        request.reference.then_some(request.steps.max(1))
    }

    /// Hands out the reference's steps.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn hand_out(&self, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), Failure> {
        write(&self.0).with_context(|| format!("cannot write to {NAMED_BY}"))?;
        Ok(())
    }

    /// The parameters to begin with.
    ///
    /// # Errors
    /// If they are missing or another model's.
    pub fn initial(&self, model: Model) -> Result<Parameters, Failure> {
        weights::load(model, &self.0.join(INITIAL), NAMED_BY)
    }

    /// Takes the steps and writes what came of them.
    ///
    /// # Errors
    /// If the order cannot be read, the steps fail, or a file cannot be written.
    pub fn run(&self, session: &mut dyn Session, batch_size: usize) -> Result<(), Failure> {
        let order = self.order().map_err(|error| Failure::new(exit::DATA, error))?;
        let mut losses = vec![0.0; order.len().div_ceil(batch_size)];
        session.train(&order, &mut losses)?;
        self.write_losses(&losses)?;
        Destination::prepare(&self.0.join(FINAL), NAMED_BY)?.write(&session.parameters()?)?;
        Ok(())
    }

    /// Takes the steps of a GPT, whose order is that of the starts of its windows, and writes what came
    /// of them: the final parameters with both moments.
    ///
    /// # Errors
    /// As [`Exchange::run`].
    pub fn run_gpt(
        &self,
        session: &mut dyn gpt::Session,
        batch_size: usize,
    ) -> Result<(), Failure> {
        let starts = self.order().map_err(|error| Failure::new(exit::DATA, error))?;
        let mut losses = vec![0.0; starts.len().div_ceil(batch_size)];
        session.train(&starts, &mut losses)?;
        self.write_losses(&losses)?;
        let bytes = session.state()?.to_safetensors(gpt::Content::Whole).context(NAMED_BY)?;
        Destination::prepare(&self.0.join(FINAL), NAMED_BY)?.write_bytes(&bytes)?;
        Ok(())
    }

    /// The state of a GPT to begin with.
    ///
    /// # Errors
    /// If it is missing or another shape's.
    pub fn initial_gpt(&self, shape: gpt::Shape) -> Result<gpt::State, Failure> {
        weights::load_with(&self.0.join(INITIAL), NAMED_BY, |bytes| {
            gpt::State::from_safetensors(shape, bytes, gpt::Content::Parameters)
        })
    }

    fn write_losses(&self, losses: &[f32]) -> Result<()> {
        let bytes: Vec<u8> = losses.iter().flat_map(|loss| loss.to_le_bytes()).collect();
        let path = self.0.join(LOSSES);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    }

    fn order(&self) -> Result<Vec<u32>> {
        let path = self.0.join(ORDER);
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let (words, rest) = bytes.as_chunks();
        if words.is_empty() || !rest.is_empty() {
            return Err(anyhow!("{}: {} bytes are no order", path.display(), bytes.len()));
        }
        Ok(words.iter().map(|&word| u32::from_le_bytes(word)).collect())
    }
}
