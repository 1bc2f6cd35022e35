//! The files between harness and trainer, from the harness's side. What a trainer writes is read with
//! bounds: it may be anything.

use files::Kind;
use nn::conformance::{Outcome, Trial};
use nn::{Model, Parameters};
use protocol::verify::{FINAL, INITIAL, LOSSES, ORDER, REQUEST, Request};
use std::path::Path;

/// Bytes of a header that a file of weights may have beside its numbers.
const HEADER: u64 = 1 << 20;

/// What a trainer wrote.
#[derive(Debug)]
pub enum Answer {
    /// Neither file: it takes no part.
    Nothing,
    /// Losses of another number of steps than were asked for.
    OtherSteps(usize),
    Steps(Outcome),
}

/// Writes what the trainer begins with, of the trial's first `request.steps` steps.
///
/// # Errors
/// If the folder or the disk refuses.
pub fn ask(folder: &Path, trial: &Trial, request: &Request) -> std::io::Result<()> {
    let weights = trial.initial().to_safetensors().map_err(std::io::Error::other)?;
    std::fs::write(folder.join(INITIAL), weights)?;
    let order: Vec<u8> =
        trial.order(request.steps).iter().flat_map(|index| index.to_le_bytes()).collect();
    std::fs::write(folder.join(ORDER), order)?;
    let mut text = serde_json::to_vec_pretty(request)?;
    text.push(b'\n');
    std::fs::write(folder.join(REQUEST), text)
}

/// Reads what the trainer wrote.
///
/// # Errors
/// One line on what cannot be understood.
pub fn answer(folder: &Path, model: Model, steps: usize) -> Result<Answer, String> {
    let losses = read(&folder.join(LOSSES), 4 * (steps as u64 + 1).max(1024))?;
    let bytes = 4 * model.parameter_count() as u64 + HEADER;
    let weights = read(&folder.join(FINAL), bytes)?;
    let (losses, weights) = match (losses, weights) {
        (None, None) => return Ok(Answer::Nothing),
        (Some(_), None) => return Err(format!("it wrote {LOSSES} and no {FINAL}")),
        (None, Some(_)) => return Err(format!("it wrote {FINAL} and no {LOSSES}")),
        (Some(losses), Some(weights)) => (losses, weights),
    };
    let (words, rest) = losses.as_chunks();
    if !rest.is_empty() {
        return Err(format!("{LOSSES}: {} bytes are no float32 numbers", losses.len()));
    }
    let parameters = Parameters::from_safetensors(model, &weights)
        .map_err(|error| format!("{FINAL}: {error}"))?;
    if words.len() != steps {
        return Ok(Answer::OtherSteps(words.len()));
    }
    let losses = words.iter().map(|&word| f32::from_le_bytes(word)).collect();
    Ok(Answer::Steps(Outcome { losses, parameters }))
}

/// `None` if there is no such file.
fn read(path: &Path, most_bytes: u64) -> Result<Option<Vec<u8>>, String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match files::read(path, Kind { name: "an answer", most_bytes }) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{name} {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nn::MlpShape;

    const MODEL: Model = Model::Mlp(MlpShape { hidden: 2 });

    fn answered(losses: Option<&[u8]>, weights: Option<&[u8]>) -> Result<Answer, String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in [(LOSSES, losses), (FINAL, weights)] {
            if let Some(bytes) = bytes {
                std::fs::write(folder.path().join(name), bytes).unwrap();
            }
        }
        answer(folder.path(), MODEL, 2)
    }

    #[test]
    fn an_answer_is_both_files_or_neither() {
        let weights = Parameters::zeros(MODEL).to_safetensors().unwrap();
        let losses = [1.0_f32, 0.5].map(f32::to_le_bytes).concat();
        assert!(matches!(answered(None, None), Ok(Answer::Nothing)));
        let Ok(Answer::Steps(outcome)) = answered(Some(&losses), Some(&weights)) else { panic!() };
        assert_eq!(outcome.losses, [1.0, 0.5]);
        assert!(matches!(answered(Some(&losses[..4]), Some(&weights)), Ok(Answer::OtherSteps(1))));
        let refused = |losses, weights| answered(losses, weights).unwrap_err();
        assert_eq!(refused(Some(&losses), None), "it wrote losses.f32 and no final.safetensors");
        assert_eq!(refused(None, Some(&weights)), "it wrote final.safetensors and no losses.f32");
        assert!(refused(Some(&losses[..5]), Some(&weights)).contains("5 bytes"));
        assert!(refused(Some(&losses), Some(b"{}")).starts_with("final.safetensors: not a safe"));
    }

    #[test]
    fn what_is_too_large_or_no_file_is_refused_without_being_read() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::File::create(folder.path().join(FINAL)).unwrap().set_len(1 << 40).unwrap();
        let error = answer(folder.path(), MODEL, 2).unwrap_err();
        assert!(error.starts_with("final.safetensors has 1099511627776 bytes"), "{error}");
        std::fs::create_dir(folder.path().join(LOSSES)).unwrap();
        let error = answer(folder.path(), MODEL, 2).unwrap_err();
        assert!(error.starts_with("losses.f32 is no regular file"), "{error}");
    }
}
