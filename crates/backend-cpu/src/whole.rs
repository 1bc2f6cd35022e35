//! Whole models against the reference, on every instruction set and with several threads; the
//! kernels have their tests beside them.

use crate::Cpu;
use crate::gpt;
use crate::simd::Isa;
use nn::backend::{Backend, Options};
use nn::conformance;
use nn::gpt::conformance as conformance_of_gpt;

/// Every instruction set, or the one that $TRAINMARK_TEST_ISA names: in an emulator the others only repeat slowly
/// what they prove outside of it.
fn isas() -> Vec<&'static str> {
    let mut names: Vec<_> = Isa::all().into_iter().map(|isa| isa.name()).collect();
    if let Ok(one) = std::env::var("TRAINMARK_TEST_ISA") {
        names.retain(|name| *name == one);
        assert_eq!(names, [one], "$TRAINMARK_TEST_ISA is not here");
    }
    names
}

/// Every instruction set with one, two and three threads; in an emulator with three: who computes which part is the
/// same code for all of them.
fn every_way() -> Vec<Options> {
    let fewest = if std::env::var_os("TRAINMARK_TEST_ISA").is_some() { 3 } else { 1 };
    isas().into_iter().flat_map(|isa| (fewest..=3).map(|threads| options(isa, threads))).collect()
}

fn options(isa: &str, threads: usize) -> Options {
    Options { isa: Some(isa.to_owned()), threads: Some(threads), ..Options::default() }
}

fn conforms(model: &str) {
    conformance::require(&Cpu, &every_way(), |case| case.model.id() == model);
    for options in every_way() {
        conformance::require_contract(&Cpu, &options, conformance::small_model(model));
    }
}

fn threads_do_not_change_a_bit(model: &str) {
    for (case, trial) in conformance::trials(|case| case.model.id() == model) {
        for isa in isas() {
            let outcome = |threads| trial.outcome(&Cpu, &options(isa, threads)).unwrap();
            let one = outcome(1);
            for threads in [2, 3, 5, 9] {
                assert!(outcome(threads) == one, "{case}, {isa} x {threads}");
            }
        }
    }
}

#[test]
fn the_mlp_trains_what_the_reference_trains() {
    conforms("mlp");
}

#[test]
fn the_cnn_trains_what_the_reference_trains() {
    conforms("cnn");
}

#[test]
fn the_attention_model_trains_what_the_reference_trains() {
    conforms("attention");
}

#[test]
fn threads_do_not_change_a_bit_of_the_mlp() {
    threads_do_not_change_a_bit("mlp");
}

#[test]
fn threads_do_not_change_a_bit_of_the_cnn() {
    threads_do_not_change_a_bit("cnn");
}

#[test]
fn threads_do_not_change_a_bit_of_the_attention_model() {
    threads_do_not_change_a_bit("attention");
}

/// Those of the GPT, which has an instruction set more, and a precision.
fn every_way_of_the_gpt() -> Vec<Options> {
    let tiled = [("amx", 1), ("amx", 3)].map(|(isa, threads)| options(isa, threads));
    let precision = Some("bf16".to_owned());
    let bf16 = tiled.clone().map(|options| Options { precision: precision.clone(), ..options });
    let mut ways = every_way();
    match gpt::Amx::detect() {
        Some(_) => ways.extend(tiled.into_iter().chain(bf16)),
        None => skip::skipped("this CPU has no AMX"),
    }
    ways
}

#[test]
fn the_gpt_trains_what_the_reference_trains() {
    conformance_of_gpt::require(&Cpu, &every_way_of_the_gpt(), |_| true);
    for options in every_way_of_the_gpt() {
        conformance_of_gpt::require_contract(&Cpu, &options);
    }
}

#[test]
fn threads_do_not_change_a_bit_of_the_gpt() {
    for case in conformance_of_gpt::cases() {
        let text = case.text();
        let trial = case.trial(&text);
        for options in every_way_of_the_gpt() {
            let outcome = |threads| {
                let options = Options { threads: Some(threads), ..options.clone() };
                let mut session = Cpu.open_gpt(case.job(&text), &options).unwrap();
                trial.outcome(&mut *session).unwrap()
            };
            if options.threads == Some(1) {
                let one = outcome(1);
                for threads in [2, 3, 5, 9] {
                    assert!(outcome(threads) == one, "{case:?}, {options:?} x {threads}");
                }
            }
        }
    }
}

#[test]
fn what_the_gpt_cannot_have_is_refused_by_name() {
    let case = &conformance_of_gpt::cases()[0];
    let text = case.text();
    let refusal = |options: Options| match Cpu.open_gpt(case.job(&text), &options) {
        Ok(_) => panic!("{options:?} should have been refused"),
        Err(error) => error.to_string(),
    };
    let bf16 = Options { precision: Some("bf16".into()), ..options("scalar", 1) };
    assert!(refusal(bf16).starts_with("--precision bf16: "));
    let plan = Options { plan: Some("units".into()), ..Options::default() };
    assert!(refusal(plan).starts_with("--plan units: "));
    if gpt::Amx::detect().is_none() {
        assert!(refusal(options("amx", 1)).starts_with("--isa amx: "));
    }
}
