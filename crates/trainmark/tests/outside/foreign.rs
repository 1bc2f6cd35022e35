//! Trainers that nobody here wrote, from suite files of their own: no line of Rust is about them.
//! Their environments are made by `trainmark setup`; where they are not there, that is said.

use crate::support::harness;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use trainmark::facts::Fact;
use trainmark::suite::LoadedSuite;
use trainmark::transcript::{NOT_READ, Transcript};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Runs a suite on the embedded digits and returns its one result.
fn result_of(suite: &str, more: &[&str]) -> Value {
    let out = tempfile::tempdir().unwrap();
    let output = harness(out.path())
        .arg("run")
        .arg("--suite")
        .arg(root().join(suite))
        .args(["--data", "digits", "--quick", "--out"])
        .arg(out.path())
        .args(more)
        .output()
        .unwrap();
    let files = fs::read_dir(out.path()).unwrap().flatten().map(|entry| entry.path());
    let mut results: Vec<Value> = files
        .filter(|file| file.extension().is_some_and(|extension| extension == "json"))
        .map(|file| serde_json::from_slice::<Value>(&fs::read(file).unwrap()).unwrap())
        .filter(|result| result["metrics"].is_object())
        .collect();
    assert_eq!(results.len(), 1, "{output:?}");
    results.remove(0)
}

/// Whether the environment is there. Where `TRAINMARK_REQUIRE_FRAMEWORKS` is set, it has to be.
fn is_set_up(folder: &str, command: &str) -> bool {
    let there = root().join(folder).join("bin/python").exists();
    if !there {
        let reason = format!("{folder} is not set up: `{command}` sets it up");
        skip::skipped_unless("TRAINMARK_REQUIRE_FRAMEWORKS", reason);
    }
    there
}

#[test]
fn one_line_of_shell_is_measured_and_scored() {
    let result = result_of("examples/shell/suite.toml", &[]);
    assert_eq!(result["status"], "measured", "{result}");
    assert_eq!(result["task"]["metrics"]["test_accuracy_percent"]["source"], "scored");
    let percent = result["metrics"]["test_accuracy_percent"].as_f64().unwrap();
    assert!((5.0..20.0).contains(&percent), "about a tenth of the digits are ones: {percent}");
}

#[test]
fn scikit_learn_trains_on_the_same_data_from_a_suite_of_its_own() {
    let folder = "examples/scikit-learn/.trainmark/environments/scikit-learn";
    if !is_set_up(folder, "trainmark setup --suite examples/scikit-learn/suite.toml") {
        return;
    }
    let result = result_of("examples/scikit-learn/suite.toml", &["--hidden", "64"]);
    let timing = &result["timing"];
    assert_eq!(result["task"]["metrics"]["test_accuracy_percent"]["source"], "scored", "{result}");
    assert!(result["metrics"]["test_accuracy_percent"].as_f64().unwrap() > 80.0, "{result}");
    assert!(timing["train_s"].as_f64().unwrap() < timing["wall_s"].as_f64().unwrap());
    assert_eq!(result["dataset"]["name"], "digits");
}

#[test]
fn jax_trains_each_model() {
    let folder = ".trainmark/environments/jax";
    if !is_set_up(folder, "trainmark setup JAX") {
        return;
    }
    for (model, least) in [("mlp", 85.0), ("cnn", 85.0), ("attention", 20.0)] {
        let result = result_of(
            "suites/frameworks.toml",
            &["--trainer", "JAX", "--backend", "cpu", "--model", model],
        );
        assert_eq!(
            result["task"]["metrics"]["test_accuracy_percent"]["source"], "scored",
            "{result}"
        );
        assert_eq!(result["compiled"], true);
        assert!(result["metrics"]["test_accuracy_percent"].as_f64().unwrap() > least, "{result}");
        assert!(result["timing"]["compile_s"].as_f64().unwrap() > 0.0);
    }
}

/// What the rules of an example make of lines, as they are printed by the program that it is for.
fn said<'a>(loaded: &'a LoadedSuite, lines: &str) -> Transcript<'a> {
    let rules = loaded.suite.rules(&loaded.suite.trainers[0]).unwrap();
    let mut said = Transcript::new(loaded.suite.task(), rules, None);
    lines.lines().for_each(|line| said.line(line));
    let notes = said.notes(true, lines);
    assert!(!notes.iter().any(|note| note.starts_with(NOT_READ)), "every rule has read: {notes:?}");
    said
}

#[test]
fn the_lines_of_nanogpts_train_py_are_read() {
    let suite = LoadedSuite::find(Some(&root().join("examples/nanogpt/suite.toml"))).unwrap();
    // The formats of its two print statements.
    let lines = "number of parameters: 0.80M\n\
                 step 0: train loss 4.1676, val loss 4.1649\n\
                 iter 0: loss 4.1823, time 1735.62ms, mfu -100.00%\n\
                 iter 10: loss 3.1046, time 25.31ms, mfu 1.20%\n\
                 step 250: train loss 2.1046, val loss 2.1345\n\
                 saving checkpoint to out-shakespeare-char\n\
                 iter 250: loss nan, time 25.31ms, mfu 1.20%\n";
    let said = said(&suite, lines);
    assert_eq!(said.value("val_loss").unwrap().1, 2.1345);
    assert_eq!(said.value("train_loss").unwrap().1, 2.1046);
    let curve = said.curve.points();
    let losses: Vec<_> = curve.iter().map(|point| (point.step, point.loss)).collect();
    assert_eq!(losses[..2], [(Some(0), Some(4.1823)), (Some(10), Some(3.1046))]);
    assert!(said.notes(true, "").iter().any(|note| note.contains("NaN at step 250")));
}

#[test]
fn the_lines_of_llm_cs_train_gpt2cu_are_read() {
    let suite = LoadedSuite::find(Some(&root().join("examples/llm.c/suite.toml"))).unwrap();
    let lines = "| val_num_batches       | 2                                                  |\n\
                 val loss 11.010257\n\
                 step    1/50 | loss 11.009643 (+nanz)| norm 15.3432 (+nanz)| lr 5.45e-05 | 98.10 ms | -100.0% bf16 MFU | 167015 tok/s\n\
                 step   50/50 | loss 6.093166 (+0.08z)| norm 1.2011 (-0.66z)| lr 6.00e-05 | 32.10 ms | 49.2% bf16 MFU | 510307 tok/s\n\
                 val loss 6.101122\n\
                 total average iteration time: 32.214300 ms\n";
    let said = said(&suite, lines);
    assert_eq!(said.value("val_loss").unwrap().1, 6.101122);
    let losses: Vec<_> = said.curve.points().iter().map(|it| (it.step, it.loss)).collect();
    assert_eq!(losses, [(Some(1), Some(11.009643)), (Some(50), Some(6.093166))]);
}

#[test]
fn the_lines_of_hugging_faces_trainer_are_read_beside_its_bars() {
    let suite = LoadedSuite::find(Some(&root().join("examples/hugging-face/suite.toml"))).unwrap();
    // The bar is drawn over with a carriage return, and dictionaries are padded with blanks.
    let lines = " 26%|██▌       | 50/189 [00:21<00:58,  2.37it/s]\n\
                 {'loss': 0.5123, 'grad_norm': 4.1203436851501465, 'learning_rate': 3.7e-05, 'epoch': 0.79}      \n\
                 {'eval_loss': 0.432305246591568, 'eval_accuracy': 0.856, 'eval_runtime': 3.8461, 'eval_samples_per_second': 130.002, 'eval_steps_per_second': 16.38, 'epoch': 1.0}\n\
                 {'loss': '0.3123', 'grad_norm': '2.1', 'learning_rate': '0', 'epoch': '3'}\n\
                 {'eval_loss': '0.4011', 'eval_accuracy': '0.8716', 'eval_runtime': '3.9', 'epoch': '3'}\n\
                 {'train_runtime': 81.2, 'train_samples_per_second': 73.9, 'train_steps_per_second': 2.3, 'train_loss': 0.41, 'epoch': 3.0}\n";
    let said = said(&suite, lines);
    assert_eq!(said.value("eval_accuracy").unwrap().1, 0.8716);
    assert_eq!(said.value("eval_loss").unwrap().1, 0.4011);
    assert_eq!(said.facts.value(&Fact::TrainS), Some(81.2));
    let first = &said.curve.points()[0];
    assert_eq!((first.epoch, first.loss), (Some(0.79), Some(0.5123)));
}
