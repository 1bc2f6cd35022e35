//! The loss on the whole validation text, and the logits that a harness scores.

use super::setup::Setup;
use crate::failure::Failure;
use anyhow::Context;
use nn::gpt::Session;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use text::validation::nats;

/// Logits that are held at once: 16 MB, or one window's.
const HELD: usize = 4 << 20;

/// The mean loss in nats over all validation positions, each once ([`text::validation`]). The logits go
/// to a file too, if one is named: (positions, vocabulary), float32, little-endian, nothing else.
///
/// # Errors
/// If the device fails, or the file cannot be written.
pub fn validation_loss(
    setup: &Setup<'_>,
    session: &mut dyn Session,
    predictions: Option<&Path>,
) -> Result<f64, Failure> {
    let shape = setup.job.shape;
    let window = shape.context * shape.vocabulary;
    let windows = setup.job.batch_size.min(HELD / window).max(1);
    let mut file = match predictions {
        Some(path) => Some(BufWriter::new(File::create(path).with_context(|| unwritten(path))?)),
        None => None,
    };
    let (inputs, targets) = (setup.text.validation_inputs(), setup.text.validation_targets());
    let mut logits = vec![0.0; windows * window];
    let mut sum = 0.0;
    let piece = windows * shape.context;
    for (inputs, targets) in inputs.chunks(piece).zip(targets.chunks(piece)) {
        let logits = &mut logits[..inputs.len() * shape.vocabulary];
        session.predict(inputs, logits)?;
        sum += nats(logits, targets);
        if let (Some(file), Some(path)) = (&mut file, predictions) {
            let bytes: Vec<u8> = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
            file.write_all(&bytes).with_context(|| unwritten(path))?;
        }
    }
    if let (Some(mut file), Some(path)) = (file, predictions) {
        file.flush().with_context(|| unwritten(path))?;
    }
    Ok(sum / inputs.len() as f64)
}

fn unwritten(path: &Path) -> String {
    format!("cannot write the predictions, {}", path.display())
}
