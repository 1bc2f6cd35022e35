//! The check itself, tested: sound arithmetic passes in its own precision and not in a finer one, and
//! each of a list of faults is found.

use super::{Outcome, Plain, Trial, bf16_backend, cases, require_contract, tf32_backend};
use crate::backend::Options;
use crate::conformance::Grade;
use crate::gpt::reference::Factors;
use crate::gpt::{AdamW, Decay, Session};

fn outcome(trial: &Trial, session: &mut dyn Session) -> Outcome {
    trial.outcome(session).unwrap()
}

/// The case that looks most like a real training.
fn usual() -> super::Case {
    cases()[4]
}

#[test]
fn sound_arithmetic_has_the_grade_of_its_precision() {
    for case in cases().into_iter().filter(|case| case.shape.width < 100) {
        let text = case.text();
        let trial = case.trial(&text);
        let double = Plain::<f64>::open(trial.job(), Factors::Exact);
        let mut double: Box<dyn Session> = Box::new(double.unwrap());
        assert_eq!(trial.grade(&outcome(&trial, double.as_mut())).grade, Grade::BitEqual);
        let mut single = Plain::<f32>::open(trial.job(), Factors::Exact).unwrap();
        let report = trial.grade(&outcome(&trial, &mut single));
        assert_eq!(report.grade, Grade::Float32, "{case:?}: {report:#?}");
    }
}

#[test]
fn coarse_products_are_told_apart_from_float32_and_pass_as_what_they_are() {
    let text = usual().text();
    let trial = usual().trial(&text);
    for (backend, grade) in [(tf32_backend(), Grade::Tf32), (bf16_backend(), Grade::Bf16)] {
        let report = trial.run(backend, &Options::default()).unwrap();
        let found = report.comparison.grade;
        assert!(Grade::Float32 < found && found <= grade, "{report}");
        assert!(report.passed(), "{report}");
    }
    require_contract(tf32_backend(), &Options::default());
}

/// Trains a wrong job and shows it to the right one's trial.
fn grade_of(wrong: impl Fn(&mut AdamW), factors: Factors) -> Grade {
    let text = usual().text();
    let trial = usual().trial(&text);
    let mut job = trial.job();
    wrong(&mut job.optimiser);
    let mut session = Plain::<f32>::open(job, factors).unwrap();
    trial.grade(&outcome(&trial, &mut session)).grade
}

#[test]
fn a_wrong_rate_or_schedule_is_found_even_in_bf16() {
    for factors in [Factors::Exact, Factors::Tf32, Factors::Bf16] {
        let sound = grade_of(|_| (), factors);
        assert_ne!(sound, Grade::Different);
        assert_eq!(grade_of(|it| it.learning_rate *= 1.1, factors), Grade::Different);
        assert_eq!(grade_of(|it| it.warmup = 0, factors), Grade::Different);
        assert_eq!(grade_of(|it| it.steps = 4, factors), Grade::Different);
    }
}

#[test]
fn weights_that_do_not_decay_or_decay_twice_are_not_float32() {
    let text = usual().text();
    let trial = usual().trial(&text);
    let sound = trial
        .grade(&outcome(&trial, &mut Plain::<f64>::open(trial.job(), Factors::Exact).unwrap()));
    assert_eq!(sound.grade, Grade::BitEqual);
    for sign in [1.0, -1.0] {
        let mut session = Plain::<f32>::open(trial.job(), Factors::Exact).unwrap();
        let mut wrong = outcome(&trial, &mut session);
        let tensors = wrong.state.tensors().to_vec();
        for tensor in tensors.iter().filter(|tensor| tensor.decay() == Decay::Matrix) {
            for value in &mut wrong.state.parameters[tensor.range()] {
                // The sum of the rates is some 8 times the largest: what ten steps shrink.
                *value *= 1.0 + sign * 0.1 * 8.0 * 2e-3;
            }
        }
        assert!(trial.grade(&wrong).grade > Grade::Float32);
    }
}

#[test]
fn a_state_whose_moments_or_steps_are_wrong_is_different() {
    let text = usual().text();
    let trial = usual().trial(&text);
    let right = outcome(&trial, &mut Plain::<f32>::open(trial.job(), Factors::Exact).unwrap());
    let mut no_moments = right.clone();
    no_moments.state.second_moment.fill(0.0);
    assert_eq!(trial.grade(&no_moments).grade, Grade::Different);
    let mut steps = right.clone();
    steps.state.steps -= 1;
    assert_eq!(trial.grade(&steps).grade, Grade::Different);
    let mut broken = right;
    broken.state.parameters[3] = f32::NAN;
    let comparison = trial.grade(&broken);
    assert_eq!(comparison.grade, Grade::Different);
    let named = comparison.quantities.iter().find(|it| it.grade == Grade::Different).unwrap();
    assert_eq!((named.name.as_ref(), named.place), ("transformer.wte.weight", 3));
}
