//! Judges a sample: a pure function of how the trainer ended, what it printed, and how its
//! predictions score.

use crate::facts::Who;
use crate::ranks::is_error;
use crate::task::Task;
use crate::transcript::Transcript;
use jiff::SignedDuration;
use measure::launch::{Exit, Outcome};
use record::Status;
use record::task::Source;
use std::collections::BTreeMap;
use std::time::Duration;

/// Everything that the harness knows about a training.
pub struct Evidence<'a> {
    pub outcome: &'a Outcome,
    /// The longest time that it may take.
    pub timeout: Duration,
    /// Its statements, with the scores of its predictions.
    pub said: &'a Transcript<'a>,
    /// The error of its predictions, if there is one.
    pub unscored: Option<String>,
    pub task: &'a Task,
    /// The number of epochs in its command.
    pub epochs: Option<u64>,
    /// Name and SHA-256 of the data that it was given.
    pub given: Option<(&'a str, &'a str)>,
    pub targets: &'a BTreeMap<String, f64>,
    /// Why its time is impossible on this hardware, if it is.
    pub implausible: Option<String>,
}

/// The status and, unless it is `measured`, the reason.
pub fn judge(evidence: &Evidence) -> (Status, Option<String>) {
    let impossible = || Some((Status::Implausible, evidence.implausible.clone()?));
    let bad = ended(evidence.outcome, evidence.timeout)
        .map(|bad| blamed(bad, evidence))
        .or_else(|| incomplete(evidence.said))
        .or_else(|| understood(evidence))
        .or_else(|| contradicted(evidence))
        .or_else(|| spoke(evidence));
    match bad.or_else(impossible).or_else(|| missed(evidence)) {
        Some((status, reason)) => (status, Some(reason)),
        None => (Status::Measured, None),
    }
}

/// A run that did not end well: its status and the reason.
pub fn ended(outcome: &Outcome, timeout: Duration) -> Option<(Status, String)> {
    let Outcome { exit, out_of_memory, stderr_tail, address_space_bytes, .. } = outcome;
    let last_words = reason(stderr_tail).map(|line| format!(": {line}")).unwrap_or_default();
    match exit {
        Exit::Code(code) if *code == i32::from(protocol::exit::SUCCESS) => {
            let cut_off = outcome.stragglers.cut_off;
            let why = "its main process ended, but other processes of it still computed 5 s later \
                       and had to be stopped, so its work was not finished";
            cut_off.then(|| (Status::Failed, why.to_owned()))
        }
        Exit::Code(code) if *code == i32::from(protocol::exit::UNAVAILABLE) => {
            let reason = last_line(stderr_tail).unwrap_or("the trainer gave no reason");
            Some((Status::Unavailable, strip_error(reason).to_owned()))
        }
        Exit::NotStarted(reason) => Some((Status::NotStarted, reason.clone())),
        Exit::TimedOut => {
            let limit = SignedDuration::try_from(timeout).unwrap_or(SignedDuration::MAX);
            let words = format!("still running after {limit:#}, the limit (--timeout){last_words}");
            Some((Status::TimedOut, words))
        }
        // Who stopped it is known to the one that holds the token.
        Exit::Cancelled => Some((Status::Interrupted, "stopped".to_owned())),
        Exit::OverMemoryLimit => {
            let evidence = out_of_memory.as_deref().unwrap_or("killed by the harness");
            Some((Status::OutOfMemory, format!("{exit}: {evidence}")))
        }
        Exit::NodeLost(_) => Some((Status::Failed, exit.to_string())),
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

/// A bad end of processes that train together is told with the one that it began with.
fn blamed((status, reason): (Status, String), evidence: &Evidence) -> (Status, String) {
    let (exit, ranks) = (&evidence.outcome.exit, &evidence.said.ranks);
    let told = match (exit, status) {
        (Exit::TimedOut, _) => ranks.unfinished().map(|who| format!("{who}: {reason}")),
        (Exit::Code(0), Status::Failed) => ranks.unfinished().map(|who| format!("{who}: {reason}")),
        (Exit::Code(_) | Exit::Signal(_), Status::Failed | Status::Crashed) => {
            ranks.culprit().map(|who| format!("{exit}: {who}"))
        }
        _ => None,
    };
    match told {
        Some(told) => (Status::Failed, told),
        None => (status, reason),
    }
}

/// One that ended well without one of its processes; an event that cannot be read may be the one that is missed.
fn incomplete(said: &Transcript) -> Option<(Status, String)> {
    let who = said.ranks.unfinished().filter(|_| said.garbled.is_none())?;
    Some((Status::Failed, who))
}

/// Words that runtimes print if an allocation fails inside a program.
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

/// A training that ended well, of which something cannot be understood.
fn understood(evidence: &Evidence) -> Option<(Status, String)> {
    let said = evidence.said;
    if let Some(reason) = &evidence.unscored {
        let claims = evidence.task.metrics.keys().any(|name| said.value(name).is_some());
        let contradicts = claims && reason == crate::score::EMPTY;
        let status = if contradicts { Status::Misreported } else { Status::Garbled };
        return Some((status, reason.clone()));
    }
    if let Some(what) = &said.garbled {
        return Some((Status::Garbled, what.clone()));
    }
    if let Some(why) = &said.mlperf.aborted {
        return Some((Status::Failed, why.clone()));
    }
    said.mlperf.was_cut().then(|| (Status::Failed, "the log has no run_stop".to_owned()))
}

/// One that says what cannot be true.
fn contradicted(evidence: &Evidence) -> Option<(Status, String)> {
    if let Some(reason) = evidence.said.ranks.contradiction() {
        return Some((Status::Misreported, reason));
    }
    let wall_s = evidence.outcome.meters["wall_s"].value;
    let reason = evidence.said.contradiction(evidence.epochs, wall_s, evidence.given)?;
    Some((Status::Misreported, reason))
}

/// One that did not say what it has to.
fn spoke(evidence: &Evidence) -> Option<(Status, String)> {
    let Evidence { said, task, .. } = evidence;
    let wanted = task.quality().map(|(name, _)| name);
    let mut wanted = wanted.into_iter().chain(evidence.targets.keys().map(String::as_str));
    let name = wanted.find(|name| said.value(name).is_none())?;
    if !said.spoke {
        return Some((Status::NoOutput, "it ended with 0, but printed nothing".to_owned()));
    }
    let metric = task.metrics.get(name)?;
    let predictions = if metric.score.is_some() { "neither predictions nor " } else { "no " };
    let how = match &metric.label {
        Some(label) => format!("a line `{label}: 12.34 {}`", metric.unit).replace(" %`", "%`"),
        None => format!("a line from which a rule reads {name}"),
    };
    let how = if metric.score.is_some() { how } else { how.trim_start_matches("a ").to_owned() };
    Some((Status::NoQuality, format!("{predictions}{how}")))
}

/// One that is on the wrong side of a target, or of all numbers.
fn missed(evidence: &Evidence) -> Option<(Status, String)> {
    let Evidence { said, task, targets, .. } = evidence;
    let short = |name: &str| {
        let label = task.metrics.get(name).map_or(name, |metric| metric.label(name));
        if name.contains('_') { label.to_owned() } else { name.to_owned() }
    };
    if let Some(loss) = said.last_loss.filter(|loss| !loss.is_finite()) {
        let reason = format!("its last loss is {loss}, which is not finite");
        return Some((Status::NotConverged, reason));
    }
    let quality = task.quality().and_then(|(name, _)| Some((name, said.value(name)?.1)));
    if let Some((name, value)) = quality.filter(|(_, value)| !value.is_finite()) {
        return Some((
            Status::NotConverged,
            format!("{} is {value}, which is not finite", short(name)),
        ));
    }
    targets.iter().find_map(|(name, &target)| {
        let (value, metric) = (said.value(name)?.1, task.metrics.get(name)?);
        let (shown, aim) = (metric.shown(value), metric.shown(target));
        let reason =
            format!("{} {shown} is {} its target {aim}", short(name), metric.better.missed());
        (!metric.better.reaches(value, target)).then_some((Status::NotConverged, reason))
    })
}

/// The finite values of the task's metrics, and who measured each.
pub fn metrics(task: &Task, said: &Transcript) -> BTreeMap<String, (f64, Source)> {
    let known = |name: &String| {
        let (who, value) = said.value(name).filter(|(_, value)| value.is_finite())?;
        let source = if who == Who::Harness { Source::Scored } else { Source::Claimed };
        Some((name.clone(), (value, source)))
    };
    task.metrics.keys().filter_map(known).collect()
}

/// Why a program failed, in its own words: the last line that calls itself an error, or the last one. The
/// very last lines of many runtimes are only where to find help.
fn reason(text: &str) -> Option<&str> {
    text.lines().map(str::trim).rfind(|line| is_error(line)).or_else(|| last_line(text))
}

fn last_line(text: &str) -> Option<&str> {
    text.lines().map(str::trim).rfind(|line| line.contains(char::is_alphanumeric))
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
    use crate::facts::Fact;
    use crate::rules::Rules;
    use measure::launch::Signal;
    use measure::meter::Reading;

    fn outcome(exit: Exit) -> Outcome {
        let mut outcome = Outcome::unmeasured(exit, "not measured");
        outcome.meters.set("wall_s", Reading::measured(10.0, "test"));
        outcome
    }

    /// The status and reason of a training on the built-in task, whose predictions score that.
    fn judged(
        outcome: &Outcome,
        lines: &[&str],
        scored: Result<Option<f64>, String>,
    ) -> (Status, String) {
        let task = crate::task::Declared::default().0;
        let (quality, _) = task.quality().unwrap();
        let mut said = Transcript::new(&task, Rules::default(), None);
        lines.iter().for_each(|line| said.line(line));
        if let Ok(Some(score)) = scored {
            said.facts.state(Fact::Metric(quality.to_owned()), Who::Harness, score);
        }
        let (status, reason) = judge(&Evidence {
            outcome,
            timeout: Duration::from_secs(1800),
            said: &said,
            unscored: scored.err(),
            task: &task,
            epochs: Some(1),
            given: Some(("mnist", "aa")),
            targets: &BTreeMap::from([(quality.to_owned(), 90.0)]),
            implausible: lines.contains(&"too fast").then(|| "too fast".to_owned()),
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
        let (status, reason) =
            judged(&outcome(Exit::Code(0)), &["Test Accuracy: 89.99%"], Ok(None));
        assert_eq!(status, Status::NotConverged);
        assert_eq!(reason, "Test Accuracy 89.99 % is below its target 90.00 %");
    }

    #[test]
    fn a_quality_that_is_not_finite_has_not_converged() {
        let lost = r#":::TRAINMARK {"event":"evaluated","eval_s":0,"metrics":{"test_accuracy_percent":NaN}}"#;
        assert_eq!(well(&[lost], Ok(None)), Status::NotConverged);
    }

    #[test]
    fn a_last_loss_that_is_not_finite_has_not_converged_whatever_the_quality() {
        let said =
            |loss: &str| format!(r#":::TRAINMARK {{"event":"progress","step":1,"loss":{loss}}}"#);
        let (lost, found) = (said("NaN"), said("0.5"));
        let well = |lines: &[&str]| judged(&outcome(Exit::Code(0)), lines, Ok(Some(95.0)));
        assert_eq!(well(&[&lost, &found]).0, Status::Measured);
        let expected = "its last loss is NaN, which is not finite".to_owned();
        assert_eq!(well(&[&found, &lost]), (Status::NotConverged, expected));
    }

    #[test]
    fn each_kind_of_silence_has_its_status() {
        let silent = "it ended with 0, but printed nothing".to_owned();
        assert_eq!(judged(&outcome(Exit::Code(0)), &[], Ok(None)), (Status::NoOutput, silent));
        let (status, reason) = judged(&outcome(Exit::Code(0)), &["hello"], Ok(None));
        assert_eq!(status, Status::NoQuality);
        assert_eq!(reason, "neither predictions nor a line `Test Accuracy: 12.34%`");
        assert_eq!(well(&[":::TRAINMARK {"], Ok(None)), Status::Garbled);
        assert_eq!(well(&["hello"], Err("2 predictions".into())), Status::Garbled);
        let claim = "Test Accuracy: 95%";
        assert_eq!(well(&[claim], Err(crate::score::EMPTY.into())), Status::Misreported);
    }

    #[test]
    fn lies_are_found_out() {
        let misreported = |lines: &[&str], scored| {
            assert_eq!(well(lines, scored), Status::Misreported, "{lines:?}");
        };
        misreported(&["Test Accuracy: 100%"], Ok(Some(95.0)));
        let claim = "Test Accuracy: 95.00%";
        misreported(&[claim, r#":::TRAINMARK {"event":"trained","train_s":11.0}"#], Ok(None));
        let epoch = r#":::TRAINMARK {"event":"epoch","epoch":1,"loss":0.1,"seconds":2.0}"#;
        misreported(&[claim, epoch, epoch], Ok(None));
        misreported(&[claim, epoch, r#":::TRAINMARK {"event":"trained","train_s":1.0}"#], Ok(None));
        let last = r#":::TRAINMARK {"event":"epoch","epoch":1,"loss":0.1,"seconds":2.0,"accuracy_percent":97.0}"#;
        misreported(&["hello", last], Ok(Some(95.0)));
        let other = r#":::TRAINMARK {"event":"evaluated","eval_s":0,"accuracy_percent":50}"#;
        misreported(&[claim, other], Ok(None));
        let forged = r#":::TRAINMARK {"event":"dataset","name":"mnist","sha256":"bb"}"#;
        misreported(&[claim, forged], Ok(None));
        misreported(&[claim, r#":::TRAINMARK {"event":"trained","train_s":0}"#], Ok(None));
    }

    #[test]
    fn a_time_that_the_hardware_cannot_have_needed_is_implausible() {
        let said = judged(&outcome(Exit::Code(0)), &["too fast"], Ok(Some(95.67)));
        assert_eq!(said, (Status::Implausible, "too fast".to_owned()));
    }

    #[test]
    fn the_reason_of_a_failure_is_its_error_and_not_its_footer() {
        let clap = "error: unexpected argument '--x' found\n\nUsage: x\n\nFor more information, try '--help'.";
        assert_eq!(reason(clap), Some("error: unexpected argument '--x' found"));
        let python = "Traceback:\n  x\nValueError: no such thing\n=====\nRoot Cause\n=====";
        assert_eq!(reason(python), Some("ValueError: no such thing"));
        assert_eq!(reason("[rank1]: RuntimeError: lost\nbye"), Some("[rank1]: RuntimeError: lost"));
        assert_eq!(reason("one\ntwo\n\n"), Some("two"));
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
        let words = "still running after 30m, the limit (--timeout)".to_owned();
        assert_eq!(judged(&outcome(Exit::TimedOut), &[], Ok(None)), (Status::TimedOut, words));
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
