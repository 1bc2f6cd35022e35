//! Whole models against the reference, on every instruction set and with several threads; the
//! kernels have their tests beside them.

use crate::Cpu;
use crate::simd::Isa;
use nn::backend::{Backend, Options};
use nn::conformance;
use nn::gpt::conformance as gpt;

/// Every instruction set with one, two and three threads.
fn every_way() -> Vec<Options> {
    let isas = Isa::all().into_iter().map(|isa| isa.name());
    isas.flat_map(|isa| [1, 2, 3].map(|threads| options(isa, threads))).collect()
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
    for case in conformance::cases().into_iter().filter(|case| case.model.id() == model) {
        let data = case.data();
        let trial = case.trial(&data);
        for isa in Isa::all() {
            let outcome = |threads| trial.outcome(&Cpu, &options(isa.name(), threads)).unwrap();
            let one = outcome(1);
            for threads in [2, 3, 5, 9] {
                assert!(outcome(threads) == one, "{case}, {} x {threads}", isa.name());
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

#[test]
fn the_gpt_trains_what_the_reference_trains() {
    gpt::require(&Cpu, &every_way(), |_| true);
    for options in every_way() {
        gpt::require_contract(&Cpu, &options);
    }
}

#[test]
fn threads_do_not_change_a_bit_of_the_gpt() {
    for case in gpt::cases() {
        let text = case.text();
        let trial = case.trial(&text);
        for isa in Isa::all() {
            let outcome = |threads| {
                let options = options(isa.name(), threads);
                let mut session = Cpu.open_gpt(case.job(&text), &options).unwrap();
                trial.outcome(&mut *session).unwrap()
            };
            let one = outcome(1);
            for threads in [2, 3, 5, 9] {
                assert!(outcome(threads) == one, "{case:?}, {} x {threads}", isa.name());
            }
        }
    }
}
