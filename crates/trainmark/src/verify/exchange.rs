//! The files between harness and trainers, from the harness's side. What a trainer writes is read with
//! bounds: it may be anything.

use anyhow::Context;
use files::Kind;
use protocol::grade::{Comparison, Quantity, quantity};
use protocol::verify::{
    BOUNDS, Bounds, BoundsFile, FINAL, INITIAL, LOSSES, ORDER, REQUEST, Request,
};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// Bytes of a header that a file of weights may have beside its numbers.
const HEADER: u64 = 1 << 20;
/// No reference's file is larger.
const MOST_BYTES: u64 = 8 << 30;

/// A tensor's shape and its float32 numbers, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// By their names. What is no float32 (a number of steps) is left out.
pub type Tensors = BTreeMap<String, Tensor>;

/// What a trainer made of some steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Of each step.
    pub losses: Vec<f32>,
    /// At the end.
    pub tensors: Tensors,
}

/// The steps of the reference: the start for all others, and the results to compare with.
pub struct Reference {
    pub steps: usize,
    /// The files that the others are given.
    given: [(&'static str, Vec<u8>); 2],
    initial: Tensors,
    outcome: Outcome,
    bounds: BoundsFile,
    largest: u64,
}

/// Writes the request, and for all but the reference what it begins with.
///
/// # Errors
/// If the folder or the disk refuses.
pub fn ask(folder: &Path, from: Option<&Reference>, request: &Request) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec_pretty(request)?;
    text.push(b'\n');
    let given = from.into_iter().flat_map(|reference| &reference.given);
    let given = given.map(|(name, bytes)| (*name, bytes.as_slice()));
    for (name, bytes) in given.chain([(REQUEST, text.as_slice())]) {
        let written = files::create(&folder.join(name)).and_then(|mut it| it.write_all(bytes));
        written.context("cannot write a verification's files")?;
    }
    Ok(())
}

impl Reference {
    /// Reads what the reference wrote.
    ///
    /// # Errors
    /// One line on what is missing or cannot be understood.
    pub fn read(folder: &Path, steps: usize) -> Result<Reference, String> {
        let needed = |name: &'static str| {
            read(&folder.join(name), MOST_BYTES)?.ok_or(format!("it wrote no {name}"))
        };
        let (weights, order) = (needed(INITIAL)?, needed(ORDER)?);
        let initial = tensors(INITIAL, &weights)?;
        let last = needed(FINAL)?;
        let losses = numbers(LOSSES, &needed(LOSSES)?)?;
        if losses.len() != steps {
            return Err(format!("it took {} of {steps} steps", losses.len()));
        }
        let bounds = match read(&folder.join(BOUNDS), HEADER)? {
            Some(bytes) => {
                serde_json::from_slice(&bytes).map_err(|it| format!("{BOUNDS}: {it}"))?
            }
            None => BoundsFile::new(),
        };
        let largest = 2 * last.len() as u64 + HEADER;
        let outcome = Outcome { losses, tensors: tensors(FINAL, &last)? };
        if let Some(name) = initial.keys().find(|name| !outcome.tensors.contains_key(*name)) {
            return Err(format!("{FINAL} has no tensor {name}, but {INITIAL} has it"));
        }
        let given = [(INITIAL, weights), (ORDER, order)];
        Ok(Reference { steps, given, initial, outcome, bounds, largest })
    }

    /// Whether its steps are the first of another's.
    pub fn begins(&self, other: &Reference) -> bool {
        self.given[0] == other.given[0] && other.given[1].1.starts_with(&self.given[1].1)
    }

    /// Reads what a trainer wrote, of however many steps; `None` of one that wrote neither file and takes no part.
    ///
    /// # Errors
    /// One line on what cannot be understood.
    pub fn answer(&self, folder: &Path) -> Result<Option<Outcome>, String> {
        let losses = read(&folder.join(LOSSES), 4 * (self.steps as u64 + 1).max(1024))?;
        let (losses, weights) = match (losses, read(&folder.join(FINAL), self.largest)?) {
            (None, None) => return Ok(None),
            (Some(_), None) => return Err(format!("it wrote {LOSSES} but not {FINAL}")),
            (None, Some(_)) => return Err(format!("it wrote {FINAL} but not {LOSSES}")),
            (Some(losses), Some(weights)) => (losses, weights),
        };
        let losses = numbers(LOSSES, &losses)?;
        let mut tensors = tensors(FINAL, &weights)?;
        tensors.retain(|name, _| self.outcome.tensors.contains_key(name));
        for (name, expected) in &self.outcome.tensors {
            let found = tensors.get(name);
            let found = found.ok_or_else(|| format!("{FINAL}: it has no float32 tensor {name}"))?;
            if found.shape != expected.shape {
                return Err(format!(
                    "{FINAL}: {name} has the shape {:?}, but the reference's has {:?}",
                    found.shape, expected.shape
                ));
            }
        }
        Ok(Some(Outcome { losses, tensors }))
    }

    /// Grades what a trainer made of the same steps.
    pub fn grade(&self, outcome: &Outcome) -> Comparison {
        let losses = wide(&self.outcome.losses);
        let bounds = |name: &str, usual: Bounds| self.bounds.get(name).cloned().unwrap_or(usual);
        let usual = bounds("loss", Bounds::of_losses(&losses));
        let mut all = vec![quantity("loss", &losses, &outcome.losses, None, &usual)];
        all.extend(self.outcome.tensors.iter().map(|(name, expected)| -> Quantity {
            let expected = wide(&expected.values);
            let initial = self.initial.get(name).map(|tensor| &*tensor.values);
            let bounds = bounds(name, Bounds::of_tensor(&expected, initial));
            quantity(name.clone(), &expected, &outcome.tensors[name].values, initial, &bounds)
        }));
        Comparison::of(all)
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

fn numbers(name: &str, bytes: &[u8]) -> Result<Vec<f32>, String> {
    let (words, rest) = bytes.as_chunks();
    if !rest.is_empty() {
        return Err(format!(
            "{name}: {} bytes are not a whole number of float32 numbers",
            bytes.len()
        ));
    }
    Ok(words.iter().map(|&word| f32::from_le_bytes(word)).collect())
}

fn tensors(name: &str, bytes: &[u8]) -> Result<Tensors, String> {
    let file = SafeTensors::deserialize(bytes);
    let file = file.map_err(|error| format!("{name}: not a safetensors file: {error}"))?;
    let float32 = file.iter().filter(|(_, view)| view.dtype() == Dtype::F32);
    float32
        .map(|(name, view)| {
            let tensor =
                Tensor { shape: view.shape().to_vec(), values: numbers(name, view.data())? };
            Ok((name.to_owned(), tensor))
        })
        .collect()
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
    use protocol::grade::Grade;
    use safetensors::tensor::TensorView;

    fn weights(values: &[f32]) -> Vec<u8> {
        let bytes: Vec<u8> = values.iter().flat_map(|it| it.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F32, vec![values.len()], &bytes).unwrap();
        safetensors::serialize([("w", view)], None).unwrap()
    }

    fn write(folder: &Path, files: &[(&str, &[u8])]) {
        for (name, bytes) in files {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
    }

    fn reference(bounds: Option<&str>) -> Reference {
        let folder = tempfile::tempdir().unwrap();
        let losses = [1.0_f32, 0.5].map(f32::to_le_bytes).concat();
        let (first, last) = (weights(&[0.0, 0.0]), weights(&[1.0, -1.0]));
        let files = [(INITIAL, &first[..]), (ORDER, &[0; 8]), (LOSSES, &losses), (FINAL, &last)];
        write(folder.path(), &files);
        write(
            folder.path(),
            &bounds.map(|it| (BOUNDS, it.as_bytes())).into_iter().collect::<Vec<_>>(),
        );
        Reference::read(folder.path(), 2).unwrap()
    }

    fn answered(losses: Option<&[u8]>, weights: Option<&[u8]>) -> Result<Option<Outcome>, String> {
        let folder = tempfile::tempdir().unwrap();
        let files = [(LOSSES, losses), (FINAL, weights)];
        let files = files.into_iter().filter_map(|(name, bytes)| Some((name, bytes?)));
        write(folder.path(), &files.collect::<Vec<_>>());
        reference(None).answer(folder.path())
    }

    #[test]
    fn an_answer_is_both_files_or_neither() {
        let right = weights(&[1.0, -1.0]);
        let losses = [1.0_f32, 0.5].map(f32::to_le_bytes).concat();
        assert_eq!(answered(None, None), Ok(None));
        let outcome = answered(Some(&losses), Some(&right)).unwrap().unwrap();
        assert_eq!(reference(None).grade(&outcome).grade, Grade::BitEqual);
        let fewer = answered(Some(&losses[..4]), Some(&right)).unwrap().unwrap();
        assert_eq!(fewer.losses.len(), 1);
        let refused = |losses, weights| answered(losses, weights).unwrap_err();
        assert_eq!(refused(Some(&losses), None), "it wrote losses.f32 but not final.safetensors");
        assert_eq!(refused(None, Some(&right)), "it wrote final.safetensors but not losses.f32");
        assert!(refused(Some(&losses[..5]), Some(&right)).contains("5 bytes"));
        assert!(refused(Some(&losses), Some(b"{}")).starts_with("final.safetensors: not a safe"));
        let other = weights(&[1.0]);
        assert!(refused(Some(&losses), Some(&other)).contains("w has the shape [1], but"));
    }

    #[test]
    fn what_is_too_large_or_no_file_is_refused_without_being_read() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::File::create(folder.path().join(FINAL)).unwrap().set_len(1 << 40).unwrap();
        let error = reference(None).answer(folder.path()).unwrap_err();
        assert!(error.starts_with("final.safetensors has 1.10 TB"), "{error}");
        std::fs::create_dir(folder.path().join(LOSSES)).unwrap();
        let error = reference(None).answer(folder.path()).unwrap_err();
        assert!(error.starts_with("losses.f32 is not a regular file"), "{error}");
    }

    #[test]
    fn a_reference_may_say_how_far_sound_arithmetic_strays() {
        let tensors = [("w".to_owned(), Tensor { shape: vec![2], values: vec![1.3, -1.0] })].into();
        let outcome = Outcome { losses: vec![1.0, 0.5], tensors };
        assert_eq!(reference(None).grade(&outcome).grade, Grade::Different);
        let wide =
            r#"{"w": {"magnitude": 1, "change": 1, "float32": 0.1, "tf32": 0.2, "bf16": 0.5}}"#;
        assert_eq!(reference(Some(wide)).grade(&outcome).grade, Grade::Bf16);
        let single = r#"{"w": {"magnitude": 1, "largest_error": true, "float32": 0.4, "tf32": 0, "bf16": 0}}"#;
        assert_eq!(reference(Some(single)).grade(&outcome).grade, Grade::Float32);
    }
}
