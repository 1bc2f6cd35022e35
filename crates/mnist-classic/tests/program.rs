//! The program from outside: what a person or a harness sees. Trains on the embedded digits.

use nn::{Model, Parameters, Reference};
use protocol::{Event, Probe, env, exit, verify};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The program, as if nothing were set but the data.
fn program(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mnist-classic"));
    command.args(arguments.split_whitespace());
    for name in [env::PROTOCOL, env::PREDICTIONS, env::DATA, env::VERIFY] {
        command.env_remove(name);
    }
    command.args(["--data", "digits"]);
    command
}

fn run(arguments: &str) -> Output {
    program(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// One line that begins with `error: `, and an exit code.
fn fails(arguments: &str, code: u8, with: &str) {
    let output = run(arguments);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(i32::from(code)), "{arguments}: {error}");
    assert!(error.starts_with("error: ") && error.contains(with), "{arguments}: {error}");
    assert_eq!(text(&output.stdout), "", "{arguments}");
    if code != exit::USAGE {
        assert_eq!(error.lines().count(), 1, "{arguments}: {error}");
    }
}

#[test]
fn the_probe_is_json_that_the_harness_reads() {
    let output = Command::new(env!("CARGO_BIN_EXE_mnist-classic")).arg("--probe").output().unwrap();
    assert!(output.status.success());
    let probe: Probe = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(probe.trainer, "mnist-classic");
    assert_eq!(probe.backends[0].unavailable, None, "every machine has a CPU");
}

#[test]
fn the_probe_takes_the_option_that_software_devices_count() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mnist-classic"));
    let output = command.args(["--probe", "--allow-software"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice::<Probe>(&output.stdout).unwrap();
}

#[test]
fn what_cannot_be_is_one_line_and_its_own_exit_code() {
    fails("--epochs 0", exit::USAGE, "--epochs");
    fails("--lr nan", exit::USAGE, "--lr");
    fails("--model cnn --hidden 3", exit::USAGE, "--hidden");
    fails("--isa abacus", exit::USAGE, "--isa abacus");
    fails("--load no/such/file", exit::DATA, "--load no/such/file");
    fails("--save no/such/folder/file", exit::FAILURE, "--save no/such/folder/file");
    if cfg!(not(target_os = "macos")) {
        fails("--mps", exit::UNAVAILABLE, "mps: unavailable: needs macOS with Metal");
    }
}

#[test]
fn missing_data_is_a_data_error_that_names_the_folder() {
    let output = Command::new(env!("CARGO_BIN_EXE_mnist-classic"))
        .args(["--data", "/no/such/folder"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(i32::from(exit::DATA)));
    assert!(text(&output.stderr).contains("/no/such/folder"));
}

#[test]
fn a_reader_that_goes_away_ends_the_run_quietly() {
    let mut child = program("--epochs 1000 --hidden 8")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(exit::FAILURE)));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_with_its_own_exit_code() {
    let output = run("--lr 1e30 --epochs 2 --hidden 16");
    assert_eq!(output.status.code(), Some(i32::from(exit::NOT_FINITE)));
    let error = text(&output.stderr);
    assert!(error.starts_with("error: loss is not finite at epoch 1, step "), "{error}");
    assert!(!text(&output.stdout).contains("Test Accuracy"));
}

#[test]
fn every_model_trains_speaks_to_the_harness_and_scores_what_it_predicted() {
    let folder = tempfile::tempdir().unwrap();
    let test = mnist::Source::embedded().load().unwrap().test;
    for model in Model::IDS {
        let path = folder.path().join(model);
        let output = program(&format!("--model {model} --epochs 1 --lr 0.05"))
            .env(env::PROTOCOL, protocol::VERSION.to_string())
            .env(env::PREDICTIONS, &path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{model}: {}", text(&output.stderr));
        let stdout = text(&output.stdout);
        let events: Vec<Event> =
            stdout.lines().filter_map(Event::parse).collect::<Result<_, _>>().unwrap();
        assert_eq!(events.len(), 6, "{stdout}");
        let Some(Event::Evaluated { accuracy_percent: Some(accuracy_percent), .. }) = events.last()
        else {
            panic!("{stdout}")
        };
        let labels = std::fs::read(path).unwrap();
        let right = labels.iter().zip(test.labels()).filter(|(a, b)| a == b).count();
        let scored = 100.0 * right as f64 / test.len() as f64;
        assert_eq!(scored, *accuracy_percent);
        assert!(scored > 20.0, "{model}: {scored}");
        assert_eq!(stdout.lines().last(), Some(format!("Test Accuracy: {scored:.2}%").as_str()));
    }
}

#[test]
fn the_check_prints_a_table_and_passes() {
    for model in Model::IDS {
        let output = run(&format!("--model {model} --check --batch 32"));
        let stdout = text(&output.stdout);
        assert!(output.status.success(), "{model}: {stdout}{}", text(&output.stderr));
        assert!(stdout.trim_end().ends_with("equal within float32 rounding"), "{stdout}");
    }
}

/// Forty samples in batches of 16: the last step has 8.
#[test]
fn a_verification_takes_the_given_steps_and_writes_what_came_of_them() {
    let data = mnist::Source::embedded().load().unwrap().train;
    let order: Vec<u32> = (0..40).map(|index| index * 97).collect();
    for model in Model::IDS.map(nn::conformance::small_model) {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut initial = Parameters::zeros(model);
        nn::recipe::initialise(&mut initial, 5);
        std::fs::write(path(verify::INITIAL), initial.to_safetensors().unwrap()).unwrap();
        let words: Vec<u8> = order.iter().flat_map(|index| index.to_le_bytes()).collect();
        std::fs::write(path(verify::ORDER), words).unwrap();
        let sizes = match model {
            Model::Mlp(shape) => format!("--hidden {}", shape.hidden),
            Model::Cnn => String::new(),
            Model::Attention(shape) => format!("--d-model {} --ff {}", shape.d_model, shape.ff),
        };
        let arguments = format!("--model {} {sizes} --batch 16 --lr 0.05", model.id());
        let output = program(&arguments).env(env::VERIFY, folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "", "it does not train");

        let losses = std::fs::read(path(verify::LOSSES)).unwrap();
        let losses = losses.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
        let mut reference: Reference<f64> = Reference::new(&initial);
        let expected = reference.train(&data, &order, 16, 0.05);
        assert_eq!(losses.len(), expected.len());
        for (loss, expected) in losses.zip(expected) {
            assert!((f64::from(loss) - expected).abs() < 1e-5, "{model:?}: {loss}, {expected}");
        }
        let bytes = std::fs::read(path(verify::FINAL)).unwrap();
        let parameters = Parameters::from_safetensors(model, &bytes).unwrap();
        for (&value, &expected) in parameters.values().iter().zip(reference.parameters().values()) {
            assert!((f64::from(value) - expected).abs() < 1e-5, "{model:?}: {value}, {expected}");
        }
    }
}

#[test]
fn a_verification_without_its_files_is_a_data_error_that_names_them() {
    let folder = tempfile::tempdir().unwrap();
    let output = program("").env(env::VERIFY, folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(exit::DATA)));
    let error = text(&output.stderr);
    assert!(error.contains("$TRAINMARK_VERIFY") && error.contains(verify::INITIAL), "{error}");
}

/// The weights that a run saves.
fn weights(arguments: &str, path: &Path) -> Vec<u8> {
    let save = path.display();
    let output = run(&format!("{arguments} --save {save}"));
    assert!(output.status.success(), "{}", text(&output.stderr));
    std::fs::read(path).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_bits_whatever_the_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    for model in Model::IDS {
        let train = |more: &str| weights(&format!("-m {model} -e 1 -b 50 {more}"), &path);
        let first = train("--seed 7");
        assert_eq!(first, train("--seed 7"), "{model}: run to run");
        for threads in [1, 2, 3, 5] {
            assert_eq!(
                first,
                train(&format!("--seed 7 --threads {threads}")),
                "{model}: {threads}"
            );
        }
        assert_ne!(first, train("--seed 8"), "{model}");
    }
}

#[test]
fn saved_weights_go_on_where_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    weights("--epochs 1 --lr 0.1", &path);
    let output = run(&format!("--epochs 1 --lr 1e-30 --load {}", path.display()));
    let stdout = text(&output.stdout);
    let loss = stdout.lines().find(|line| line.starts_with("epoch 1/1")).unwrap();
    let loss: f64 = loss.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert!(loss < 1.0, "far below the 2.3 of fresh weights: {stdout}");
}

/// A run that is cut off after two epochs of five and goes on, twice, against one that is not: the
/// same bits, at another number of threads.
#[test]
fn a_training_that_goes_on_from_a_checkpoint_gives_the_same_bits_as_one_without_interruption() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let models = ["mlp --hidden 40", "cnn", "attention --d-model 16 --ff 24 --lr 0.1"];
    for (index, model) in models.iter().enumerate() {
        let whole = path(&format!("whole-{index}.safetensors"));
        let job = format!("--model {model} --batch 32 --seed 7");
        assert!(run(&format!("{job} --epochs 5 --threads 2 --save {whole}")).status.success());

        let (checkpoint, parts) =
            (path(&format!("c{index}")), path(&format!("{index}.safetensors")));
        let go_on = |epochs: &str, threads: &str| {
            let more = format!("--checkpoint {checkpoint} --resume --save {parts}");
            let output = run(&format!("{job} --epochs {epochs} --threads {threads} {more}"));
            assert!(output.status.success(), "{}", text(&output.stderr));
            text(&output.stdout)
        };
        assert!(go_on("2", "1").contains("resumed   from the start"));
        let words = go_on("3", "2");
        assert!(words.contains("resumed   after epoch 2 of 3"), "{words}");
        assert!(words.contains("epoch 3/3") && !words.contains("epoch 2/3"), "{words}");
        go_on("5", "1");
        assert_eq!(std::fs::read(&parts).unwrap(), std::fs::read(&whole).unwrap(), "{model}");
        // Nothing is left to train, and the end is the same.
        let words = go_on("5", "2");
        assert!(words.contains("Test Accuracy: ") && !words.contains("trained"), "{words}");
        assert_eq!(std::fs::read(&parts).unwrap(), std::fs::read(&whole).unwrap(), "{model}");
    }
}

#[test]
fn a_training_killed_at_any_moment_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let job = "--hidden 16 --batch 8 --seed 3 --epochs 40";
    let whole = path("whole.safetensors");
    let clock = std::time::Instant::now();
    assert!(run(&format!("{job} --save {whole}")).status.success());
    let whole_s = clock.elapsed().as_secs_f64();

    let parts = path("parts.safetensors");
    let arguments = format!("{job} --checkpoint {} --resume --save {parts}", path("c"));
    let start = || program(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // Later and later, so that each gets further than the one before.
    for attempt in 1..=10 {
        let mut child = start();
        std::thread::sleep(std::time::Duration::from_secs_f64(whole_s * 0.13 * f64::from(attempt)));
        let _ = child.kill();
        child.wait().unwrap();
    }
    let output = run(&arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(std::fs::read(&parts).unwrap(), std::fs::read(&whole).unwrap());
}

#[test]
fn a_checkpoint_of_another_job_or_in_the_way_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let here = format!("--hidden 8 --epochs 1 --checkpoint {}", folder.path().display());
    assert!(run(&here).status.success());
    fails(&here, exit::DATA, "holds a checkpoint after epoch 1; --resume goes on");
    fails(&format!("{here} --seed 9 --resume"), exit::DATA, "seed is \"1\" there and \"9\" here");
    fails(&format!("{here} --batch 9 --resume"), exit::DATA, "batch is \"64\" there");
    fails("--resume", exit::USAGE, "--checkpoint");
}
