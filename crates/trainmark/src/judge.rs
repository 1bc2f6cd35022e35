//! What became of a run: a pure function of how the trainer ended, what it said, and how its
//! predictions score.

use crate::launch::{Exit, Outcome};
use crate::transcript::Transcript;
use record::Status;

/// Accuracies are printed with two decimals: a claim may differ from the score by rounding.
const CLAIM_TOLERANCE_PERCENT: f64 = 0.01;
/// The trainer's clock may exceed ours by so much: the two are read at different moments.
const CLOCK_TOLERANCE_S: f64 = 0.05;

/// What the harness knows of a run.
pub struct Evidence<'a> {
    pub outcome: &'a Outcome,
    pub said: &'a Transcript,
    /// The accuracy of its predictions, `None` if it wrote none, or what is wrong with them.
    pub scored: &'a Result<Option<f64>, String>,
    /// Epochs that it was told to train.
    pub epochs: u64,
    /// Name and SHA-256 of the dataset that it was told to train on.
    pub dataset: (&'a str, &'a str),
    pub target_percent: Option<f64>,
    /// Why its time is impossible on this hardware, if it is.
    pub implausible: Option<String>,
}

/// The status and, unless it is `measured`, the reason.
pub fn judge(evidence: &Evidence) -> (Status, Option<String>) {
    let impossible = || Some((Status::Implausible, evidence.implausible.clone()?));
    let bad = ended(evidence.outcome).or_else(|| spoke(evidence)).or_else(|| lied(evidence));
    match bad.or_else(impossible) {
        Some((status, reason)) => (status, Some(reason)),
        None => converged(evidence),
    }
}

/// A run that did not end well: its status and the reason.
pub fn ended(outcome: &Outcome) -> Option<(Status, String)> {
    let Outcome { exit, out_of_memory, stderr_tail, address_space_bytes, .. } = outcome;
    let last_words = last_line(stderr_tail).map(|line| format!(": {line}")).unwrap_or_default();
    match exit {
        Exit::Code(code) if *code == i32::from(protocol::exit::SUCCESS) => {
            let cut_off = outcome.stragglers.cut_off;
            let why = "its main process ended, but others of its processes still computed 5 s later \
                       and had to be stopped: its work was not done";
            cut_off.then(|| (Status::Failed, why.to_owned()))
        }
        Exit::Code(code) if *code == i32::from(protocol::exit::UNAVAILABLE) => {
            let reason = last_line(stderr_tail).unwrap_or("the trainer does not say why");
            Some((Status::Unavailable, strip_error(reason).to_owned()))
        }
        Exit::NotStarted(reason) => Some((Status::NotStarted, reason.clone())),
        Exit::TimedOut => {
            Some((Status::TimedOut, format!("still running at the time-out{last_words}")))
        }
        Exit::Cancelled => Some((Status::Interrupted, "stopped by the user".to_owned())),
        Exit::OverMemoryLimit => {
            let evidence = out_of_memory.as_deref().unwrap_or("killed by the harness");
            Some((Status::OutOfMemory, format!("{exit}: {evidence}")))
        }
        Exit::Lost(_) => Some((Status::Crashed, exit.to_string())),
        Exit::Code(_) | Exit::Signal(_) => {
            if let Some(evidence) = out_of_memory {
                return Some((Status::OutOfMemory, format!("{exit}: {evidence}")));
            }
            if let Some(sign) = memory_words(stderr_tail) {
                let limited = address_space_bytes.map_or(String::new(), |bytes| {
                    format!(
                        "; each process's address space was limited to {bytes} bytes (RLIMIT_AS)"
                    )
                });
                return Some((Status::OutOfMemory, format!("{exit}: {sign}{limited}")));
            }
            let status = match exit {
                Exit::Signal(_) => Status::Crashed,
                _ => Status::Failed,
            };
            Some((status, format!("{exit}{last_words}")))
        }
    }
}

/// What runtimes write when an allocation fails inside a program.
fn memory_words(stderr: &str) -> Option<&'static str> {
    const SIGNS: [&str; 6] = [
        "out of memory",         // CUDA, wgpu, the kernel's ENOMEM in many programs
        "memory allocation of ", // Rust
        "Cannot allocate memory",
        "MemoryError", // Python
        "std::bad_alloc",
        "DefaultCPUAllocator: can't allocate memory", // PyTorch
    ];
    SIGNS.into_iter().find(|sign| stderr.contains(sign))
}

/// A run that ended well but did not say what it has to.
fn spoke(evidence: &Evidence) -> Option<(Status, String)> {
    let said = evidence.said;
    if let Err(reason) = evidence.scored {
        return Some((Status::Garbled, reason.clone()));
    }
    if let Some(what) = &said.garbled {
        return Some((Status::Garbled, what.clone()));
    }
    if let Some(why) = &said.mlperf.aborted {
        return Some((Status::Failed, why.clone()));
    }
    if said.claimed_percent.is_some() || matches!(evidence.scored, Ok(Some(_))) {
        return None;
    }
    if !said.spoke {
        return Some((Status::NoOutput, "exit code 0, but nothing on standard output".to_owned()));
    }
    let wanted = "neither predictions nor a line `Test Accuracy: 95.67%`";
    Some((Status::NoQuality, wanted.to_owned()))
}

/// A run whose words contradict what the harness knows.
fn lied(evidence: &Evidence) -> Option<(Status, String)> {
    let said = evidence.said;
    let reason = if let (Some(claimed), Ok(Some(scored))) = (said.claimed_percent, evidence.scored)
        && (claimed - scored).abs() > CLAIM_TOLERANCE_PERCENT
    {
        format!("it claims {claimed:.2} %, its predictions score {scored:.2} %")
    } else if let Some(wall) = evidence.outcome.meters["wall_s"].value()
        && let claimed = clocked(said)
        && claimed > wall + CLOCK_TOLERANCE_S
    {
        format!("its clock says {claimed:.2} s, but its process lived {wall:.2} s")
    } else if let Some(train_s) = said.train_s
        && let epochs = said.epochs.iter().map(|epoch| epoch.seconds).sum::<f64>()
        && epochs > train_s + CLOCK_TOLERANCE_S
    {
        format!("its epochs took {epochs:.2} s of {train_s:.2} s of training")
    } else if !said.epochs.is_empty()
        && said.epochs.len() as u64 != evidence.epochs
        && !said.mlperf.spoke
    // those train until they reach a target
    {
        format!("it reports {} epochs of {}", said.epochs.len(), evidence.epochs)
    } else if let (Some(Some(claimed)), Ok(Some(scored))) =
        (said.epochs.last().map(|epoch| epoch.accuracy_percent), evidence.scored)
        && (claimed - scored).abs() > CLAIM_TOLERANCE_PERCENT
    {
        format!(
            "it claims {claimed:.2} % after its last epoch, its predictions score {scored:.2} %"
        )
    } else if let Some((name, sha256)) = &said.dataset
        && let (told, told_sha256) = evidence.dataset
        && sha256.as_ref().is_some_and(|sha256| sha256 != told_sha256)
    {
        format!("it trained on another dataset, {name:?}, than {told:?}")
    } else {
        return None;
    };
    Some((Status::Misreported, reason))
}

/// All seconds that the trainer accounts for.
fn clocked(said: &Transcript) -> f64 {
    [said.setup_s, said.compile_s, said.train_s, said.eval_s].into_iter().flatten().sum()
}

fn converged(evidence: &Evidence) -> (Status, Option<String>) {
    let accuracy = accuracy(evidence.said, evidence.scored);
    match (accuracy, evidence.target_percent) {
        (Some((percent, _)), Some(target)) if percent < target => {
            let reason = format!("test accuracy {percent:.2} % is below the target {target:.2} %");
            (Status::NotConverged, Some(reason))
        }
        _ => (Status::Measured, None),
    }
}

/// The accuracy in percent: scored if it can be, else as claimed.
pub fn accuracy(
    said: &Transcript,
    scored: &Result<Option<f64>, String>,
) -> Option<(f64, record::task::Source)> {
    use record::task::Source::{Claimed, Scored};
    match scored {
        Ok(Some(percent)) => Some((*percent, Scored)),
        _ => said.claimed_percent.map(|percent| (percent, Claimed)),
    }
}

fn last_line(text: &str) -> Option<&str> {
    text.lines().map(str::trim).rfind(|line| !line.is_empty())
}

/// A trainer's `error: wgpu: unavailable: why` is, as a reason, `why`.
fn strip_error(line: &str) -> &str {
    match line.split_once("unavailable: ") {
        Some((_, why)) => why,
        None => line.strip_prefix("error: ").unwrap_or(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::Signal;
    use crate::meter::Reading;

    fn outcome(exit: Exit) -> Outcome {
        let mut outcome = Outcome::unmeasured(exit, "not measured");
        outcome.meters.set("wall_s", Reading::measured(10.0, "test"));
        outcome
    }

    fn judged(
        outcome: &Outcome,
        lines: &[&str],
        scored: Result<Option<f64>, String>,
    ) -> (Status, String) {
        let mut said = Transcript::default();
        lines.iter().for_each(|line| said.line(line));
        let (status, reason) = judge(&Evidence {
            outcome,
            said: &said,
            scored: &scored,
            epochs: 1,
            dataset: ("mnist", "aa"),
            target_percent: Some(90.0),
            implausible: None,
        });
        (status, reason.unwrap_or_default())
    }

    fn well(lines: &[&str], scored: Result<Option<f64>, String>) -> Status {
        judged(&outcome(Exit::Code(0)), lines, scored).0
    }

    #[test]
    fn a_run_is_measured_by_its_score_or_else_by_its_claim() {
        assert_eq!(well(&["Test Accuracy: 95.67%"], Ok(Some(95.671))), Status::Measured);
        assert_eq!(well(&["hello"], Ok(Some(95.0))), Status::Measured);
        assert_eq!(well(&["Test Accuracy: 95.67%"], Ok(None)), Status::Measured);
    }

    #[test]
    fn a_run_below_its_target_has_not_converged() {
        assert_eq!(well(&["Test Accuracy: 89.99%"], Ok(None)), Status::NotConverged);
    }

    #[test]
    fn each_kind_of_silence_has_its_status() {
        assert_eq!(well(&[], Ok(None)), Status::NoOutput);
        assert_eq!(well(&["hello"], Ok(None)), Status::NoQuality);
        assert_eq!(well(&[":::TRAINMARK {"], Ok(None)), Status::Garbled);
        assert_eq!(well(&["Test Accuracy: 95%"], Err("2 predictions".into())), Status::Garbled);
    }

    #[test]
    fn lies_are_found_out() {
        let misreported = |lines: &[&str], scored| {
            assert_eq!(well(lines, scored), Status::Misreported, "{lines:?}");
        };
        misreported(&["Test Accuracy: 100%"], Ok(Some(95.0)));
        let claim = "Test Accuracy: 95%";
        misreported(&[claim, r#":::TRAINMARK {"event":"trained","train_s":11.0}"#], Ok(None));
        let epoch = r#":::TRAINMARK {"event":"epoch","epoch":1,"loss":0.1,"seconds":2.0}"#;
        misreported(&[claim, epoch, epoch], Ok(None));
        misreported(&[claim, epoch, r#":::TRAINMARK {"event":"trained","train_s":1.0}"#], Ok(None));
        let last = r#":::TRAINMARK {"event":"epoch","epoch":1,"loss":0.1,"seconds":2.0,"accuracy_percent":97.0}"#;
        misreported(&[claim, last], Ok(Some(95.0)));
        let forged = r#":::TRAINMARK {"event":"dataset","name":"mnist","sha256":"bb"}"#;
        misreported(&[claim, forged], Ok(None));
    }

    #[test]
    fn a_time_that_the_hardware_cannot_have_needed_is_implausible() {
        let mut said = Transcript::default();
        said.line("Test Accuracy: 95.67%");
        let (status, reason) = judge(&Evidence {
            outcome: &outcome(Exit::Code(0)),
            said: &said,
            scored: &Ok(Some(95.67)),
            epochs: 1,
            dataset: ("mnist", "aa"),
            target_percent: Some(90.0),
            implausible: Some("too fast".into()),
        });
        assert_eq!((status, reason.as_deref()), (Status::Implausible, Some("too fast")));
    }

    #[test]
    fn each_bad_end_has_its_status_and_says_its_last_words() {
        let mut failed = outcome(Exit::Code(3));
        failed.stderr_tail = "warning: x\nerror: no disk\n\n".into();
        assert_eq!(
            judged(&failed, &["Test Accuracy: 95%"], Ok(None)),
            (Status::Failed, "exit code 3: error: no disk".into())
        );
        let signal = Signal { number: 11, name: "SIGSEGV".into(), core_dumped: false };
        let mut crashed = outcome(Exit::Signal(signal));
        assert_eq!(judged(&crashed, &[], Ok(None)), (Status::Crashed, "killed by SIGSEGV".into()));
        crashed.stderr_tail = "memory allocation of 99 bytes failed".into();
        assert_eq!(judged(&crashed, &[], Ok(None)).0, Status::OutOfMemory);
        crashed.stderr_tail.clear();
        crashed.out_of_memory = Some("the kernel killed it".into());
        assert_eq!(judged(&crashed, &[], Ok(None)).0, Status::OutOfMemory);
        assert_eq!(judged(&outcome(Exit::TimedOut), &[], Ok(None)).0, Status::TimedOut);
        assert_eq!(judged(&outcome(Exit::Cancelled), &[], Ok(None)).0, Status::Interrupted);
        let missing = Exit::NotStarted("no such file".into());
        assert_eq!(judged(&outcome(missing), &[], Ok(None)).0, Status::NotStarted);
    }

    #[test]
    fn a_trainer_that_finds_itself_without_its_device_is_unavailable() {
        let mut absent = outcome(Exit::Code(69));
        absent.stderr_tail = "error: unavailable: needs macOS with Metal\n".into();
        let expected = (Status::Unavailable, "needs macOS with Metal".to_owned());
        assert_eq!(judged(&absent, &[], Ok(None)), expected);
    }
}
