//! Predictions against the truth: the harness's own scores.
//!
//! Both are rows of numbers: a file of one little-endian type and nothing else, NumPy's `.npy`, or, for
//! the truth, an IDX file or a text. They are read when a training has ended and forgotten then: a harness that
//! held on to them would take part in what it measures.

use crate::content::{content, file_in};
use anyhow::{Context, Result, anyhow, bail, ensure};
use record::task::Better;
use serde::Deserialize;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Larger files are no truth.
const MOST_BYTES: u64 = 4 << 30;
/// The longest header of NumPy's format.
const LONGEST_HEADER: usize = 4096;
/// The error for an empty file.
pub const EMPTY: &str = "the file of predictions is empty";

/// How a metric is computed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    pub by: Measure,
    /// The type of the predictions.
    pub predictions: Type,
    /// The file of the truth, within the data; without it, the data's only file.
    #[serde(default)]
    pub truth: String,
    /// The type of the truth. Without it, the one that the file's name ends in or, for `rmse` and `mae`, that of
    /// the predictions.
    truth_type: Option<Type>,
    /// Of `characters`: the first so many per cent are only trained on. Of the rest, all but the first are
    /// predicted, each from those before it.
    #[serde(default)]
    trained_percent: usize,
    /// For `top_k`.
    k: Option<usize>,
    /// Labels are below it; rows of `log_loss` and `top_k` have so many numbers.
    classes: Option<usize>,
    /// Whether the numbers of `log_loss` are logits, not probabilities.
    #[serde(default)]
    logits: bool,
    /// For `command`: a program that prints one number; `{predictions}` and `{truth}` are the files.
    #[serde(default)]
    command: Vec<String>,
}

/// A way to score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// The percentage, or with the unit `""` the share, of labels that are right.
    Accuracy,
    /// As that, of true labels among the k with the largest numbers.
    TopK,
    /// Root of the mean squared error.
    Rmse,
    /// Mean absolute error.
    Mae,
    /// Mean of -ln of the true label's probability, in nats.
    LogLoss,
    Command,
}

/// The type of the numbers in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    U8,
    U16,
    U32,
    I64,
    F32,
    F64,
    /// It says so itself.
    Npy,
    /// As that, of the format that labels of images come in.
    Idx,
    /// The bytes of a text, each as its place among the different ones, sorted.
    Characters,
}

/// The types of plain numbers: how files' names end, and what NumPy calls them.
const PLAIN: [(&str, &str, Type); 6] = [
    ("u8", "u1", Type::U8),
    ("u16", "u2", Type::U16),
    ("u32", "u4", Type::U32),
    ("i64", "i8", Type::I64),
    ("f32", "f4", Type::F32),
    ("f64", "f8", Type::F64),
];

impl Type {
    fn of_name(name: &str) -> Option<Type> {
        let name = name.trim_end_matches(".gz");
        let plain = PLAIN.iter().find(|it| name.ends_with(it.0)).map(|it| it.2);
        let idx = name.contains("idx").then_some(Type::Idx);
        idx.or(plain).or(name.ends_with("npy").then_some(Type::Npy))
    }

    /// At most, of one number.
    fn bytes(self) -> usize {
        match self {
            Type::U8 | Type::Idx | Type::Characters => 1,
            _ => 8,
        }
    }

    fn of_npy(descr: &str) -> Option<Type> {
        let code = descr.trim_start_matches(['<', '|', '=']);
        PLAIN.iter().find(|it| it.1 == code).map(|it| it.2)
    }

    fn numbers(self, bytes: &[u8]) -> Result<Vec<f64>> {
        fn cut<const N: usize>(bytes: &[u8], number: fn([u8; N]) -> f64) -> Result<Vec<f64>> {
            let ((whole, rest), all) = (bytes.as_chunks::<N>(), bytes.len());
            ensure!(rest.is_empty(), "{all} bytes are not a whole number of values of {N} bytes");
            Ok(whole.iter().map(|&bytes| number(bytes)).collect())
        }
        match self {
            Type::U8 => cut(bytes, |it| f64::from(u8::from_le_bytes(it))),
            Type::U16 => cut(bytes, |it| f64::from(u16::from_le_bytes(it))),
            Type::U32 => cut(bytes, |it| f64::from(u32::from_le_bytes(it))),
            Type::I64 => cut(bytes, |it| i64::from_le_bytes(it) as f64),
            Type::F32 => cut(bytes, |it| f64::from(f32::from_le_bytes(it))),
            Type::F64 => cut(bytes, f64::from_le_bytes),
            Type::Npy => npy(bytes),
            Type::Idx => idx(bytes),
            Type::Characters => Ok(characters(bytes)),
        }
    }
}

/// Two zeros, the type (8: unsigned bytes), the number of dimensions, each of them in 32 bits, the numbers.
fn idx(bytes: &[u8]) -> Result<Vec<f64>> {
    let none = "it is not an IDX file of unsigned bytes";
    let [0, 0, 8, dimensions, rest @ ..] = bytes else { bail!(none) };
    let (sizes, numbers) = rest.split_at_checked(4 * usize::from(*dimensions)).context(none)?;
    let sizes = sizes.as_chunks().0.iter().map(|&size| u64::from(u32::from_be_bytes(size)));
    let (said, there) = (sizes.fold(1, u64::saturating_mul), numbers.len());
    ensure!(said == there as u64, "its header does not fit its {there} bytes of numbers");
    Type::U8.numbers(numbers)
}

fn characters(bytes: &[u8]) -> Vec<f64> {
    let mut place = [0.0; 256];
    let mut next = 0.0;
    for (byte, place) in place.iter_mut().enumerate() {
        if bytes.contains(&(byte as u8)) {
            *place = next;
            next += 1.0;
        }
    }
    bytes.iter().map(|&byte| place[usize::from(byte)]).collect()
}

/// NumPy's format, versions 1 to 3: magic, version, length of the header, the header, the numbers.
fn npy(bytes: &[u8]) -> Result<Vec<f64>> {
    let none = "it is not a .npy file of plain numbers in C order";
    let rest = bytes.strip_prefix(b"\x93NUMPY").context(none)?;
    let (at, length) = match rest {
        [1, _, a, b, ..] => (4, usize::from(u16::from_le_bytes([*a, *b]))),
        [2 | 3, _, a, b, c, d, ..] => (6, u32::from_le_bytes([*a, *b, *c, *d]) as usize),
        _ => bail!(none),
    };
    let header = rest.get(at..at + length).context(none)?;
    let header = String::from_utf8_lossy(header);
    let descr = header.split("'descr':").nth(1).and_then(|it| it.split('\'').nth(1));
    let of = descr.and_then(Type::of_npy).filter(|_| header.contains("'fortran_order': False"));
    of.context(none)?.numbers(&rest[at + length..])
}

impl Score {
    /// What is wrong with it, if anything; `data` is the data's folder or only file, as the task names it.
    pub(crate) fn check(&self, data: &Path) -> Result<()> {
        let file = self.truth_in(data);
        let (of, part) = (self.truth_type(&file), self.trained_percent);
        let counted = of == Some(Type::Characters) || self.classes.is_some_and(|it| it > 0);
        match self.by {
            Measure::TopK if self.k.is_none() => bail!("k is missing"),
            Measure::TopK | Measure::LogLoss if !counted => bail!("classes is missing"),
            Measure::Command if self.command.is_empty() => bail!("command is missing"),
            _ => {}
        }
        ensure!(part < 100, "trained_percent = {part}: nothing is left to predict");
        of.with_context(|| {
            format!("the type of the truth {file:?} is not known; add `truth_type`")
        })?;
        Ok(())
    }

    /// Whether a metric that is better in that direction can be scored so.
    pub(crate) fn fits(&self, better: Better) -> bool {
        match self.by {
            Measure::Accuracy | Measure::TopK => better == Better::Higher,
            Measure::Rmse | Measure::Mae | Measure::LogLoss => better == Better::Lower,
            Measure::Command => true,
        }
    }

    fn truth_type(&self, file: &Path) -> Option<Type> {
        let same = matches!(self.by, Measure::Rmse | Measure::Mae).then_some(self.predictions);
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        self.truth_type.or(Type::of_name(&name)).or(same)
    }

    /// The score of a predictions file, `data` being the data's file or folder; `None` when the trainer
    /// wrote no file.
    ///
    /// # Errors
    /// If the file is not what it must be; the message says how.
    /// `ask` runs a command and returns what it prints.
    pub fn of(
        &self,
        predictions: &Path,
        data: &Path,
        unit: &str,
        ask: &mut Ask,
    ) -> Result<Option<f64>> {
        let cannot = "the predictions cannot be read";
        match std::fs::metadata(predictions) {
            Ok(found) if !found.is_file() => bail!("the predictions are not a regular file"),
            Ok(found) if found.len() == 0 => bail!(EMPTY),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(cannot),
        }
        if let Some(words) = self.command(predictions, data) {
            let said = ask(words)?;
            let said = said.trim();
            let none = || format!("the scoring command printed {said:?}, which is not a number");
            return said.parse().map(Some).map_err(|_| anyhow!(none()));
        }
        let file = self.truth_in(data);
        let in_truth = || format!("the truth {}", file.display());
        let (truth, different) = self.truth(&file).with_context(in_truth)?;
        let rows = matches!(self.by, Measure::TopK | Measure::LogLoss);
        let wide = if rows { self.classes.unwrap_or(different) } else { 1 };
        let wanted = truth.len() * wide;
        let most = (wanted * self.predictions.bytes() + LONGEST_HEADER) as u64;
        let bytes = read(predictions, most).context(cannot)?;
        ensure!(bytes.len() as u64 <= most, "more than {wanted} predictions");
        let predicted = self.predictions.numbers(&bytes).context("the predictions")?;
        if predicted.len() != wanted {
            let each = if wide > 1 { format!(" of {wide} numbers each") } else { String::new() };
            bail!("{} predictions for {} test rows{each}", predicted.len(), truth.len());
        }
        if self.by == Measure::Accuracy
            && let Some(classes) = self.classes
            && let Some(label) = predicted.iter().find(|&&label| label >= classes as f64)
        {
            bail!("a predicted label is {label}, but there are {classes} classes");
        }
        let score = self.compare(&predicted, &truth, wide)?;
        let percent = matches!(self.by, Measure::Accuracy | Measure::TopK) && unit == "%";
        Ok(Some(if percent { 100.0 * score } else { score }))
    }

    /// The values to predict and, for a text, the number of different labels in the whole file.
    fn truth(&self, file: &Path) -> Result<(Vec<f64>, usize)> {
        let mut bytes = Vec::new();
        // Decompressed if it has to be.
        content(file)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
        let of =
            self.truth_type(file).context("its name does not end in a type; add `truth_type`")?;
        let mut truth = of.numbers(&bytes)?;
        if of != Type::Characters {
            return Ok((truth, 1));
        }
        let largest = truth.iter().copied().fold(-1.0, f64::max);
        let trained = truth.len() / 100 * self.trained_percent
            + truth.len() % 100 * self.trained_percent / 100;
        truth.drain(..(trained + 1).min(truth.len()));
        ensure!(!truth.is_empty(), "nothing is left to predict");
        Ok((truth, largest as usize + 1))
    }

    /// The mean over rows.
    fn compare(&self, predicted: &[f64], truth: &[f64], wide: usize) -> Result<f64> {
        let mut sum = 0.0;
        for (row, &truth) in predicted.chunks_exact(wide).zip(truth) {
            let label = truth as usize;
            let known = wide == 1 || label < wide;
            ensure!(known, "a true label is {truth}, but there are {wide} classes");
            sum += match self.by {
                Measure::Accuracy => f64::from(u8::from(row[0] == truth)),
                Measure::Rmse => (row[0] - truth).powi(2),
                Measure::Mae => (row[0] - truth).abs(),
                // A number that is not finite is never among the largest.
                Measure::TopK => {
                    let above = row.iter().filter(|&&other| other >= row[label]).count();
                    f64::from(u8::from(above <= self.k.unwrap_or(1)))
                }
                Measure::LogLoss if self.logits => {
                    let most = row.iter().fold(f64::NEG_INFINITY, |most, &it| most.max(it));
                    row.iter().map(|it| (it - most).exp()).sum::<f64>().ln() + most - row[label]
                }
                Measure::LogLoss => -row[label].ln() + 0.0,
                Measure::Command => 0.0,
            };
        }
        let mean = sum / truth.len() as f64;
        Ok(if self.by == Measure::Rmse { mean.sqrt() } else { mean })
    }

    fn truth_in(&self, data: &Path) -> PathBuf {
        if self.truth.is_empty() {
            return data.to_owned();
        }
        let folder = if data.is_file() { data.parent().unwrap_or(data) } else { data };
        file_in(folder, Path::new(&self.truth)).unwrap_or_else(|| folder.join(&self.truth))
    }

    /// The words of the command that scores; `None` if the harness does it itself.
    pub fn command(&self, predictions: &Path, data: &Path) -> Option<Vec<String>> {
        let truth = self.truth_in(data);
        let fill = |word: &String| {
            word.replace("{predictions}", &predictions.display().to_string())
                .replace("{truth}", &truth.display().to_string())
        };
        (self.by == Measure::Command).then(|| self.command.iter().map(fill).collect())
    }
}

/// Runs a scoring command and returns what it prints.
pub type Ask<'a> = dyn FnMut(Vec<String>) -> Result<String> + 'a;

/// A file, to one byte more than there may be, so that one that is too long shows.
fn read(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let (file, _) = files::open(path, files::Kind::PREDICTIONS)?;
    file.take(most + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(text: &str) -> Score {
        let score: Score = toml::from_str(text).unwrap();
        score.check(Path::new("data")).unwrap();
        score
    }

    fn scored(text: &str, predictions: &[u8], truth: &[u8]) -> Result<Option<f64>, String> {
        let folder = tempfile::tempdir().unwrap();
        let score = score(text);
        std::fs::write(folder.path().join("predictions"), predictions).unwrap();
        std::fs::write(folder.path().join(&score.truth), truth).unwrap();
        let scored = score.of(&folder.path().join("predictions"), folder.path(), "%", &mut ask);
        scored.map_err(|error| format!("{error:#}"))
    }

    fn ask(words: Vec<String>) -> Result<String> {
        let output = std::process::Command::new(&words[0]).args(&words[1..]).output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).unwrap()),
            false => bail!(output.status.to_string()),
        }
    }

    fn floats(numbers: &[f32]) -> Vec<u8> {
        numbers.iter().flat_map(|it| it.to_le_bytes()).collect()
    }

    const LABELS: &str = "by = 'accuracy'\npredictions = 'u8'\ntruth = 't.u8'\nclasses = 10";

    #[test]
    fn the_share_of_right_labels_is_the_accuracy_in_the_metrics_unit() {
        assert_eq!(scored(LABELS, &[1, 2, 3, 4], &[1, 2, 3, 9]), Ok(Some(75.0)));
        let wide = "by = 'accuracy'\npredictions = 'u16'\ntruth = 't.u8'";
        assert_eq!(scored(wide, &[1, 0, 2, 0], &[1, 3]), Ok(Some(50.0)));
    }

    #[test]
    fn the_end_of_the_datas_name_is_the_type_of_a_truth_that_has_no_name_of_its_own() {
        let score: Score = toml::from_str("by = 'accuracy'\npredictions = 'u16'").unwrap();
        let unknown = score.check(Path::new("data/labels")).unwrap_err().to_string();
        assert_eq!(unknown, "the type of the truth \"data/labels\" is not known; add `truth_type`");
        score.check(Path::new("data/labels.u8.gz")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (labels, predicted) =
            (folder.path().join("labels.u8"), folder.path().join("predicted"));
        std::fs::write(&labels, [1, 2]).unwrap();
        std::fs::write(&predicted, [1, 0, 9, 0]).unwrap();
        assert_eq!(score.of(&predicted, &labels, "%", &mut ask).unwrap(), Some(50.0));
    }

    #[test]
    fn errors_are_in_the_unit_of_what_is_predicted() {
        let by = |by: &str| format!("by = '{by}'\npredictions = 'f32'\ntruth = 'truth'");
        let (predicted, truth) = (floats(&[1.0, 2.0]), floats(&[4.0, 6.0]));
        assert_eq!(scored(&by("rmse"), &predicted, &truth), Ok(Some(12.5_f64.sqrt())));
        assert_eq!(scored(&by("mae"), &predicted, &truth), Ok(Some(3.5)));
    }

    #[test]
    fn rows_of_probabilities_and_logits_have_a_loss_and_a_rank() {
        let by = |more: &str| format!("predictions = 'f32'\ntruth = 't.u8'\nclasses = 2\n{more}");
        let near = |scored: Result<Option<f64>, String>, expected: f64| {
            assert!((scored.unwrap().unwrap() - expected).abs() < 1e-6);
        };
        let rows = floats(&[0.25, 0.75, 0.5, 0.5]);
        near(
            scored(&by("by = 'log_loss'"), &rows, &[1, 0]),
            (-(0.75_f64.ln()) - 0.5_f64.ln()) / 2.0,
        );
        near(
            scored(&by("by = 'log_loss'\nlogits = true"), &floats(&[1.0, 1.0]), &[1]),
            2.0_f64.ln(),
        );
        near(scored(&by("by = 'top_k'\nk = 1"), &rows, &[1, 0]), 50.0); // a tie is not won
        near(scored(&by("by = 'top_k'\nk = 2"), &rows, &[0, 0]), 100.0);
    }

    #[test]
    fn of_a_text_the_characters_after_the_trained_part_are_predicted() {
        let by = "by = 'log_loss'\npredictions = 'f32'\nlogits = true\ntruth = 't'\n\
                  truth_type = 'characters'\ntrained_percent = 50";
        // Of "abcb", "cb" is left, and 'b' is predicted: the second of three.
        let loss = scored(by, &floats(&[0.0, 1.0, 0.0]), b"abcb").unwrap().unwrap();
        assert!((loss - ((2.0 + 1.0_f64.exp()).ln() - 1.0)).abs() < 1e-6, "{loss}");
        assert!(
            scored(by, &floats(&[0.0, 1.0]), b"abcb").unwrap_err().contains("of 3 numbers each")
        );
        assert!(scored(by, &floats(&[0.0]), b"a").unwrap_err().contains("nothing is left"));
    }

    #[test]
    fn an_idx_file_says_its_shape() {
        assert_eq!(Type::Idx.numbers(&[0, 0, 8, 1, 0, 0, 0, 2, 5, 7]).unwrap(), [5.0, 7.0]);
        assert!(
            Type::Idx
                .numbers(&[0, 0, 8, 1, 0, 0, 0, 9, 5, 7])
                .unwrap_err()
                .to_string()
                .contains("2 bytes")
        );
        assert!(Type::Idx.numbers(&[0, 0, 13, 1]).is_err());
        assert_eq!(Type::of_name("t10k-labels-idx1-ubyte"), Some(Type::Idx));
    }

    #[test]
    fn numpys_files_say_their_type() {
        let header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }\n";
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header);
        file.extend([7_i64, -3].map(i64::to_le_bytes).concat());
        assert_eq!(Type::Npy.numbers(&file).unwrap(), [7.0, -3.0]);
        assert!(Type::Npy.numbers(b"\x93NUMPY\x01\x00\xff\xff").is_err());
        assert!(Type::F32.numbers(&[0; 6]).unwrap_err().to_string().contains("6 bytes"));
    }

    #[cfg(unix)]
    #[test]
    fn a_command_scores_what_nothing_else_does() {
        let by = |script: &str| {
            format!(
                "by = 'command'\npredictions = 'u8'\ntruth = 't.u8'\ncommand = ['sh', '-c', '{script}', '-', '{{predictions}}', '{{truth}}']"
            )
        };
        assert_eq!(scored(&by("cat $1 $2 | wc -c"), &[1, 2], &[1, 2, 3]), Ok(Some(5.0)));
        assert!(scored(&by("echo no"), &[1], &[1]).unwrap_err().contains("not a number"));
        assert!(scored(&by("exit 3"), &[1], &[1]).unwrap_err().contains("exit status: 3"));
    }

    #[test]
    fn no_file_is_no_prediction_and_what_does_not_fit_is_refused() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(
            score(LABELS).of(Path::new("no such file"), data.path(), "%", &mut ask).unwrap(),
            None
        );
        assert_eq!(scored(LABELS, &[], &[1]), Err("the file of predictions is empty".into()));
        assert_eq!(scored(LABELS, &[1], &[1, 2]), Err("1 predictions for 2 test rows".into()));
        assert!(scored(LABELS, &[1, 10], &[1, 2]).unwrap_err().contains("a predicted label is 10"));
        assert!(score(LABELS).of(data.path(), data.path(), "%", &mut ask).is_err());
    }
}
