//! Whether a row still trains the same thing: what `trainmark verify` found on either side.

use super::Identity;
use crate::machine::Machine;
use crate::report::old_result::ResultFile;
use crate::verify::{Grade, Verification, same_training};
use serde::Serialize;

/// The verification of one identity on both sides.
#[derive(Clone, Debug, Serialize)]
pub struct GradeRow {
    pub identity: Identity,
    pub base: Grade,
    /// `None` if nobody has verified it: then nothing is known, and nothing lost.
    pub new: Option<Grade>,
    /// Why the new one is what it is, if it is worse.
    pub reason: Option<String>,
    pub outcome: GradeOutcome,
}

/// What became of a grade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GradeOutcome {
    Same,
    Better,
    /// Further from the reference than before: a regression, whatever the times.
    GradeLost,
    /// It was verified before and was not now.
    Unknown,
}

impl GradeOutcome {
    /// In words, for tables.
    pub fn words(self) -> &'static str {
        match self {
            GradeOutcome::Same => "same",
            GradeOutcome::Better => "better",
            GradeOutcome::GradeLost => "GRADE LOST",
            GradeOutcome::Unknown => "not verified now",
        }
    }

    /// Whether the gate closes.
    pub fn is_regression(self) -> bool {
        self == GradeOutcome::GradeLost
    }
}

impl GradeRow {
    /// Of an identity; `None` if the base was never verified.
    pub fn new(
        identity: &Identity,
        base: (&[&ResultFile], &[Verification]),
        new: (&[&ResultFile], &[Verification]),
    ) -> Option<GradeRow> {
        // What could not be tried, or has no reference, tells nothing that could be lost.
        let told = |grade: Grade| !matches!(grade, Grade::Unavailable | Grade::NotVerified);
        let base = newest(base.0, base.1).filter(|it| told(it.grade))?.grade;
        // A trainer that no longer takes part has lost its grade; a machine without the device has not.
        let found = newest(new.0, new.1).filter(|it| it.grade != Grade::Unavailable);
        let outcome = match found.map(|it| it.grade) {
            None => GradeOutcome::Unknown,
            Some(grade) if grade == base => GradeOutcome::Same,
            // In the order of the grades: from bit-equal to failed, and not verified at all.
            Some(grade) if grade < base => GradeOutcome::Better,
            Some(_) => GradeOutcome::GradeLost,
        };
        let reason = found.filter(|_| outcome.is_regression()).map(Verification::explanation);
        let new = found.map(|it| it.grade);
        Some(GradeRow { identity: identity.clone(), base, new, reason, outcome })
    }
}

/// The newest verification that holds for these files.
fn newest<'a>(results: &[&ResultFile], known: &'a [Verification]) -> Option<&'a Verification> {
    let holding = known.iter().filter(|it| results.iter().any(|result| holds(result, it)));
    // RFC 3339 in UTC sorts as text.
    holding.max_by_key(|it| &it.verified)
}

/// As in reports: of the same training, program and hardware, where both say which.
fn holds(result: &ResultFile, it: &Verification) -> bool {
    fn agree<T: PartialEq>(one: Option<T>, other: Option<T>) -> bool {
        one.is_none() || other.is_none() || one == other
    }
    let hardware = |it: &Machine| (it.cpu.clone(), it.architecture.clone(), it.gpus.clone());
    let trainer = result.trainer.as_ref();
    let program = trainer.and_then(|trainer| trainer.sha256.as_deref());
    let sources = trainer.and_then(|trainer| trainer.sources_sha256.as_deref());
    (&result.executable, &result.model, &result.backend) == (&it.executable, &it.model, &it.backend)
        && same_training(&result.config, &it.config, &std::collections::BTreeMap::new())
        && agree(program, it.program_sha256.as_deref())
        && agree(sources, it.sources_sha256.as_deref())
        && agree(result.machine.as_ref().map(hardware), it.machine.as_ref().map(hardware))
}

#[cfg(any())]
mod tests {
    use super::super::tests::{options, result};
    use super::super::{Comparison, Set, compare};
    use super::*;

    fn verified(grade: Grade) -> Verification {
        let text = serde_json::json!({
            "executable": "MNISTClassic", "model": "mlp", "backend": "cpu", "grade": grade,
            "reason": "W1 differs from step 1",
        });
        serde_json::from_value(text).unwrap()
    }

    fn compared(base: Option<Grade>, new: Option<Grade>) -> Comparison {
        let side = |grade: Option<Grade>| Set {
            results: vec![result("cpu", &[1.0, 1.01, 0.99, 1.0])],
            verifications: grade.map(verified).into_iter().collect(),
        };
        compare(&side(base), &side(new), &options()).unwrap()
    }

    #[test]
    fn a_worse_grade_is_a_regression_though_the_times_are_the_same() {
        for (base, new) in [
            (Grade::BitEqual, Grade::Float32),
            (Grade::Float32, Grade::Bf16),
            (Grade::Float32, Grade::Different),
            (Grade::Tf32, Grade::Failed),
            (Grade::Float32, Grade::NotVerified),
        ] {
            let compared = compared(Some(base), Some(new));
            assert_eq!(compared.grades[0].outcome, GradeOutcome::GradeLost, "{base} {new}");
            assert!(compared.has_regression());
        }
    }

    #[test]
    fn a_better_grade_an_equal_one_and_none_are_no_regression() {
        for (base, new, outcome) in [
            (Grade::Float32, Some(Grade::BitEqual), GradeOutcome::Better),
            (Grade::Different, Some(Grade::Float32), GradeOutcome::Better),
            (Grade::Float32, Some(Grade::Float32), GradeOutcome::Same),
            (Grade::Float32, Some(Grade::Unavailable), GradeOutcome::Unknown),
            (Grade::Float32, None, GradeOutcome::Unknown),
        ] {
            let compared = compared(Some(base), new);
            assert_eq!(compared.grades[0].outcome, outcome, "{base} {new:?}");
            assert!(!compared.has_regression());
        }
        assert!(compared(None, Some(Grade::Different)).grades.is_empty());
        assert!(compared(Some(Grade::NotVerified), Some(Grade::Different)).grades.is_empty());
    }

    #[test]
    fn a_verification_of_another_program_says_nothing_of_this_one() {
        let mut base = result("cpu", &[1.0]);
        base.trainer.get_or_insert_default().sha256 = Some("aa".into());
        let mut new = base.clone();
        new.trainer.get_or_insert_default().sha256 = Some("bb".into());
        let of = |program: &str, grade| Verification {
            program_sha256: Some(program.to_owned()),
            ..verified(grade)
        };
        let known = vec![of("aa", Grade::Float32), of("bb", Grade::Different)];
        let side = |result: ResultFile| Set { results: vec![result], verifications: known.clone() };
        let compared = compare(&side(base), &side(new), &options()).unwrap();
        assert_eq!(compared.grades[0].outcome, GradeOutcome::GradeLost);
        assert_eq!(compared.grades[0].reason.as_deref(), Some("W1 differs from step 1"));
    }
}
