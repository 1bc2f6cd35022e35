//! The model gpt from outside: what a person or a harness sees. Trains on a small text made here.

use nn::gpt::conformance::{Outcome, Trial, moved};
use nn::gpt::{AdamW, Content, Job, Shape, State};
use protocol::{Event, env, exit, verify};
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;
use text::Text;

/// Sizes that train in a moment.
const SIZES: &str = "--layers 1 --heads 2 --width 16 --context 12 --batch 4";

fn shape(vocabulary: usize) -> Shape {
    Shape { layers: 1, heads: 2, width: 16, context: 12, vocabulary }
}

/// A folder with a text in it: numbers in words, one after the other.
fn home() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
    let text: String = (0..900_usize).map(|i| format!("{} ", words[i * i % 10])).collect();
    std::fs::write(folder.path().join("numbers.txt"), text).unwrap();
    folder
}

fn content(folder: &Path) -> Text {
    let bytes = std::fs::read(folder.join("numbers.txt")).unwrap();
    Text::from_bytes("numbers", &bytes).unwrap()
}

fn program(folder: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainmark-native"));
    command.args(["--model", "gpt", "--data"]).arg(folder.join("numbers.txt"));
    command.args(SIZES.split_whitespace()).args(arguments.split_whitespace());
    for name in [env::PROTOCOL, env::PREDICTIONS, env::DATA, env::VERIFY] {
        command.env_remove(name);
    }
    command
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn run(folder: &Path, arguments: &str) -> String {
    said(&program(folder, arguments).output().unwrap())
}

#[test]
fn a_run_says_its_curve_and_the_loss_of_the_logits_that_it_wrote() {
    let home = home();
    let logits = home.path().join("logits");
    let mut command = program(home.path(), "--steps 60 --warmup 5 --lr 0.01 --report-every 20");
    command.env(env::PROTOCOL, "2").env(env::PREDICTIONS, &logits);
    command.args(["--eval-every", "30"]);
    let words = said(&command.output().unwrap());
    let events: Vec<Event> = words.lines().filter_map(Event::parse).map(Result::unwrap).collect();
    assert!(matches!(&events[0], Event::Started { parameters: Some(_), .. }), "{words}");
    assert!(matches!(&events[1], Event::Dataset { name, sha256: Some(_) } if name == "numbers"));
    assert!(matches!(&events[2], Event::Ready { .. }));
    let curve: Vec<(u64, f64, bool)> = events
        .iter()
        .filter_map(|event| match event {
            Event::Progress { step: Some(step), loss: Some(loss), metrics, .. } => {
                Some((*step, *loss, metrics.contains_key("val_loss")))
            }
            _ => None,
        })
        .collect();
    let steps: Vec<u64> = curve.iter().map(|(step, ..)| *step).collect();
    assert_eq!(steps, [20, 30, 40, 60]);
    assert_eq!(
        curve.iter().map(|(.., evaluated)| *evaluated).collect::<Vec<_>>(),
        [false, true, false, false]
    );
    assert!(curve[3].1 < 0.8 * curve[0].1, "{words}");
    let Some(Event::Trained { steps: Some(60), work: Some(work), .. }) = events.iter().rev().nth(1)
    else {
        panic!("{words}")
    };
    assert_eq!(*work, (60 * 4 * 12) as f64);
    let Some(Event::Evaluated { metrics, accuracy_percent: None, .. }) = events.last() else {
        panic!("{words}")
    };

    let text = content(home.path());
    let bytes = std::fs::read(logits).unwrap();
    let logits: Vec<f32> = bytes.as_chunks().0.iter().map(|&it| f32::from_le_bytes(it)).collect();
    assert_eq!(logits.len(), text.validation_inputs().len() * text.vocabulary);
    let targets = text.validation_targets();
    let loss = text::validation::nats(&logits, targets) / targets.len() as f64;
    assert!((loss - metrics["val_loss"]).abs() < 1e-9, "{loss} {metrics:?}");
    assert!(words.lines().any(|line| line.starts_with("step 60 loss ")), "{words}");
    assert_eq!(words.lines().last(), Some(format!("val_loss {loss:.4}").as_str()));
}

#[test]
fn the_same_seed_gives_the_same_bits_whatever_the_threads_and_the_reports() {
    let home = home();
    let path = home.path().join("weights");
    let weights = |more: &str| {
        run(home.path(), &format!("--steps 9 --save {} {more}", path.display()));
        std::fs::read(&path).unwrap()
    };
    let first = weights("--seed 7");
    for more in ["", "--threads 1", "--threads 3", "--report-every 2", "--eval-every 4"] {
        assert_eq!(first, weights(&format!("--seed 7 {more}")), "{more}");
    }
    assert_ne!(first, weights("--seed 8"));
    let text = content(home.path());
    let state = State::from_safetensors(shape(text.vocabulary), &first, Content::Parameters);
    assert_eq!(state.unwrap().steps, 0, "weights are parameters alone");
}

#[test]
fn a_training_that_goes_on_from_a_checkpoint_gives_the_same_bits_as_one_without_interruption() {
    let home = home();
    let path = |name: &str| home.path().join(name).display().to_string();
    let whole = path("whole");
    run(home.path(), &format!("--steps 40 --warmup 5 --save {whole}"));
    let (parts, folder) = (path("parts"), path("checkpoints"));
    let more = format!("--checkpoint {folder} --checkpoint-every 10 --resume --save {parts}");
    let go_on = |steps: &str| run(home.path(), &format!("--steps {steps} --warmup 5 {more}"));
    assert!(go_on("40").contains("resumed   from the start"));
    assert_eq!(std::fs::read(&parts).unwrap(), std::fs::read(&whole).unwrap());

    let another = format!("--steps 40 --warmup 5 {more} --seed 3");
    let refused = program(home.path(), &another).output().unwrap();
    assert_eq!(refused.status.code(), Some(i32::from(exit::DATA)));
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("seed is \"1\" there and \"3\" here"), "{error}");
    // Nothing is left to train, and the end is the same.
    let words = go_on("40");
    assert!(words.contains("resumed   after step 40 of 40"), "{words}");
    assert_eq!(std::fs::read(&parts).unwrap(), std::fs::read(&whole).unwrap());
}

#[test]
fn a_training_killed_at_any_moment_goes_on_to_the_same_bits() {
    let home = home();
    let path = |name: &str| home.path().join(name).display().to_string();
    let job = "--steps 3000 --warmup 50 --report-every 50";
    let whole = path("whole");
    let clock = std::time::Instant::now();
    run(home.path(), &format!("{job} --save {whole}"));
    let whole_s = clock.elapsed().as_secs_f64();
    let parts = path("parts");
    let more = format!("--checkpoint {} --checkpoint-every 100 --resume", path("checkpoints"));
    let arguments = format!("{job} {more} --save {parts}");
    for attempt in 1..=4 {
        let mut child =
            program(home.path(), &arguments).stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_secs_f64(0.2 * whole_s * f64::from(attempt)));
        let _ = child.kill();
        child.wait().unwrap();
    }
    run(home.path(), &arguments);
    assert_eq!(std::fs::read(&parts).unwrap(), std::fs::read(&whole).unwrap());
}

#[test]
fn a_verification_takes_the_given_steps_and_is_graded_as_float32() {
    let home = home();
    let text = content(home.path());
    let optimiser = AdamW { learning_rate: 1e-3, warmup: 3, steps: 10 };
    let shape = shape(text.vocabulary);
    let job = Job { shape, batch_size: 4, optimiser, text: &text.train };
    let trial = Trial::new(moved(shape, 5), job, 10, 5);

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let initial = trial.initial().to_safetensors(Content::Parameters).unwrap();
    std::fs::write(path(verify::INITIAL), initial).unwrap();
    let words = trial.starts(10).iter().flat_map(|start| start.to_le_bytes());
    std::fs::write(path(verify::ORDER), words.collect::<Vec<u8>>()).unwrap();
    let mut command = program(home.path(), "--steps 10 --warmup 3");
    let output = command.env(env::VERIFY, folder.path()).output().unwrap();
    assert_eq!(said(&output), "", "it does not train");

    let losses = std::fs::read(path(verify::LOSSES)).unwrap();
    let losses = losses.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    let bytes = std::fs::read(path(verify::FINAL)).unwrap();
    let state = State::from_safetensors(shape, &bytes, Content::Whole).unwrap();
    assert_eq!(state.steps, 10);
    let comparison = trial.grade(&Outcome { losses, state });
    assert!(comparison.grade <= nn::conformance::Grade::Float32, "{comparison:#?}");
}

#[test]
fn as_the_reference_it_chooses_where_others_begin_and_takes_the_steps_in_float64() {
    let home = home();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let asked = |steps: usize, reference: bool| {
        let request = format!(
            r#"{{"protocol": 2, "model": "gpt", "backend": "cpu", "steps": {steps}, "reference": {reference}}}"#
        );
        std::fs::write(path(verify::REQUEST), request).unwrap();
        let mut command = program(home.path(), "--steps 10 --warmup 3");
        let output = command.env(env::VERIFY, folder.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let names = [verify::INITIAL, verify::ORDER, verify::LOSSES, verify::FINAL];
        names.map(|name| std::fs::read(path(name)).unwrap())
    };
    let short = asked(3, true);
    let whole = asked(10, true);
    assert_eq!(short[0], whole[0], "it begins with the same parameters");
    for place in [1, 2] {
        assert!(whole[place].starts_with(&short[place]) && whole[place].len() > short[place].len());
    }
    // As a trainer like others, it takes the same steps in float32.
    let single = asked(10, false);
    assert_eq!(single[..2], whole[..2]);
    let losses = |bytes: &[u8]| -> Vec<f32> {
        bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    };
    assert_eq!(losses(&single[2]).len(), 10);
    for (one, other) in losses(&single[2]).iter().zip(losses(&whole[2])) {
        assert!((one - other).abs() < 1e-5, "{one} {other}");
    }
    assert_ne!(single[3], whole[3], "float32 is not float64");
}

#[test]
fn the_check_prints_a_table_and_passes() {
    let words = run(home().path(), "--check");
    assert!(words.contains("exp_avg_sq.transformer.h.0.attn.c_attn.weight"), "{words}");
    assert!(words.trim_end().ends_with("equal within float32 rounding"), "{words}");
}

#[test]
fn what_cannot_be_is_one_line_and_its_own_exit_code() {
    let home = home();
    let fails = |arguments: &str, code: u8, with: &str| {
        let output = program(home.path(), arguments).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(i32::from(code)), "{arguments}: {error}");
        assert!(error.starts_with("error: ") && error.contains(with), "{arguments}: {error}");
    };
    fails("--epochs 3", exit::USAGE, "--epochs is no option of the model gpt");
    fails("--hidden 3", exit::USAGE, "--hidden is no option of the model gpt");
    fails("--steps 0", exit::USAGE, "--steps");
    fails("--load no/such/file", exit::DATA, "--load no/such/file");
    fails("--lr 1e30 --warmup 0 --steps 50", exit::NOT_FINITE, "loss is not finite at step ");
    fails("--wgpu", exit::UNAVAILABLE, "wgpu: unavailable: ");
    let sizes = SIZES.replace("--context 12", "--context 60000");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mnist-classic"));
    command.args(["--model", "gpt", "--data"]).arg(home.path().join("numbers.txt"));
    let output = command.args(sizes.split_whitespace()).output().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(exit::DATA)));
}
