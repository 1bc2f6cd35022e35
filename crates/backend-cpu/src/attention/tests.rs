//! The whole model against the reference; the kernels have their tests beside them.

use crate::Cpu;
use crate::simd::Isa;
use nn::Model;
use nn::backend::Options;
use nn::conformance;

/// Every instruction set with one, two and three threads.
fn every_way() -> Vec<Options> {
    let isas = Isa::all().into_iter().map(|isa| isa.name());
    isas.flat_map(|isa| {
        [1, 2, 3].map(|threads| Options {
            isa: Some(isa.to_owned()),
            threads: Some(threads),
            ..Options::default()
        })
    })
    .collect()
}

fn is_attention(case: &conformance::Case) -> bool {
    matches!(case.model, Model::Attention(_))
}

#[test]
fn it_trains_what_the_reference_trains() {
    conformance::require(&Cpu, &every_way(), is_attention);
}

#[test]
fn it_keeps_the_contract_of_a_session() {
    for options in every_way() {
        conformance::require_contract(&Cpu, &options, conformance::small_model("attention"));
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for case in conformance::cases().into_iter().filter(is_attention) {
        let data = case.data();
        let trial = case.trial(&data);
        for isa in Isa::all() {
            let outcome = |threads| {
                let (isa, threads) = (Some(isa.name().to_owned()), Some(threads));
                trial.outcome(&Cpu, &Options { isa, threads, ..Options::default() }).unwrap()
            };
            let one = outcome(1);
            for threads in [2, 3, 5] {
                assert!(outcome(threads) == one, "{case}, {} x {threads}", isa.name());
            }
        }
    }
}
