//! Predictions against labels: the harness's own accuracy.

use std::io::Read;
use std::path::Path;

/// Reads a predictions file, one byte per test image, and returns the percentage that is right;
/// `None` when the trainer wrote none.
///
/// # Errors
/// If the file is not what it must be; the message says how.
pub fn score(predictions: &Path, labels: &[u8]) -> Result<Option<f64>, String> {
    // Before it is opened: opening a pipe would wait for a writer that never comes.
    if std::fs::metadata(predictions).is_ok_and(|found| !found.is_file()) {
        return Err("the predictions are no regular file".to_owned());
    }
    let file = match std::fs::File::open(predictions) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("the predictions cannot be read: {error}")),
    };
    // One byte more than there may be, so that a file that is too long shows without being read.
    let mut predicted = Vec::new();
    file.take(labels.len() as u64 + 1)
        .read_to_end(&mut predicted)
        .map_err(|error| format!("the predictions cannot be read: {error}"))?;
    if predicted.is_empty() {
        return Ok(None);
    }
    if predicted.len() != labels.len() {
        let count = match predicted.len() > labels.len() {
            true => format!("more than {}", labels.len()),
            false => predicted.len().to_string(),
        };
        return Err(format!("{count} predictions for {} test images", labels.len()));
    }
    if let Some(label) = predicted.iter().find(|&&label| usize::from(label) >= mnist::CLASSES) {
        return Err(format!("a predicted label of {label}"));
    }
    let right =
        predicted.iter().zip(labels).filter(|(predicted, label)| predicted == label).count();
    Ok(Some(100.0 * right as f64 / labels.len() as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(predictions: &[u8], labels: &[u8]) -> Result<Option<f64>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), predictions).unwrap();
        score(file.path(), labels)
    }

    #[test]
    fn the_share_of_right_labels_is_the_accuracy() {
        assert_eq!(scored(&[1, 2, 3, 4], &[1, 2, 3, 9]), Ok(Some(75.0)));
    }

    #[test]
    fn no_file_and_an_empty_file_are_no_predictions() {
        assert_eq!(score(Path::new("no such file"), &[1]), Ok(None));
        assert_eq!(scored(&[], &[1]), Ok(None));
    }

    #[test]
    fn predictions_that_do_not_fit_are_refused() {
        assert_eq!(scored(&[1], &[1, 2]), Err("1 predictions for 2 test images".into()));
        assert_eq!(
            scored(&[1, 2, 3], &[1, 2]),
            Err("more than 2 predictions for 2 test images".into())
        );
        assert_eq!(scored(&[1, 10], &[1, 2]), Err("a predicted label of 10".into()));
        assert!(score(&std::env::temp_dir(), &[1]).is_err());
    }
}
