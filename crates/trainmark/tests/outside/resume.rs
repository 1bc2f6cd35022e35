//! Runs that are killed, interrupted, or run out of disk, and are taken up again: what had finished is
//! kept, nothing is half-written, and the end is that of a run that nothing disturbed.
#![cfg(target_os = "linux")]

use crate::support;
use crate::support::place::{PLAIN, Place, said};
use crate::support::{eventually, processes_with};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::Value;
use skip::skipped;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Four rows, each trained three times.
const TRAININGS: usize = 12;
const MANY: [&str; 4] = ["--epochs", "1,2,3,4", "--repeats", "3"];

/// What a run has brought, apart from what differs from run to run: each row once, with its
/// samples.
fn union(place: &Place) -> Vec<String> {
    let mut rows: Vec<String> = place
        .results()
        .iter()
        .map(|result| {
            let samples = result["samples"].as_array().unwrap().iter();
            let samples: Vec<String> = samples
                .map(|s| {
                    format!(
                        "{} {} {}",
                        s["round"], s["status"], s["metrics"]["test_accuracy_percent"]
                    )
                })
                .collect();
            format!("{} {} {samples:?}", result["config"], result["status"])
        })
        .collect();
    rows.sort();
    rows
}

fn undisturbed() -> Vec<String> {
    let place = Place::new();
    let output = place.run(&place.suite(PLAIN, ""), &MANY);
    assert!(output.status.success(), "{}", said(&output));
    let rows = union(&place);
    assert_eq!(rows.len(), 4);
    rows
}

/// A suite whose trainer notes each of its starts, so that what ran twice is seen.
fn counting(place: &Place) -> std::path::PathBuf {
    place.suite(&format!("echo x >> starts; {PLAIN}"), "root = '.'")
}

/// The same, whose trainer waits at that start until it is killed, or told to `go`.
fn waiting_at(place: &Place, start: usize) -> std::path::PathBuf {
    let wait = format!("[ $(wc -l < starts) -lt {start} ] || [ -e go ] || sleep 300");
    place.suite(&format!("echo x >> starts; {wait}; {PLAIN}"), "root = '.'")
}

fn starts(place: &Place) -> usize {
    std::fs::read_to_string(place.path("starts")).unwrap_or_default().lines().count()
}

fn start(place: &Place, suite: &Path, more: &[&str]) -> Child {
    let mut command = place.trainmark("run");
    command.arg("--out").arg(place.path("out"));
    if !more.contains(&"--resume") {
        command.arg("--suite").arg(suite).arg("--data").arg(place.path("data"));
    }
    command.args(more).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Whatever stands in the folder under a result file's name is one.
fn every_file_is_valid(place: &Place) {
    for name in place.result_names().iter().filter(|name| name.ends_with(".json")) {
        let text = std::fs::read(place.path("out").join(name)).unwrap();
        let result: record::Record = serde_json::from_slice(&text)
            .unwrap_or_else(|error| panic!("{name} of {} bytes: {error}", text.len()));
        assert!(!result.samples.is_empty(), "{name}");
    }
}

fn journal(place: &Place) -> String {
    std::fs::read_to_string(place.path("out/journal.jsonl")).unwrap_or_default()
}

/// A hundred, or as many as $TRAINMARK_KILLS says.
fn kills() -> usize {
    std::env::var("TRAINMARK_KILLS").map_or(100, |kills| kills.parse().unwrap())
}

#[test]
fn a_harness_killed_at_a_hundred_random_moments_loses_and_repeats_nothing_that_had_finished() {
    let expected = undisturbed();
    let began = Instant::now();
    let place = Place::new();
    assert!(start(&place, &counting(&place), &MANY).wait().unwrap().success());
    let undisturbed_s = began.elapsed().as_secs_f64();

    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let seed = std::env::var("TRAINMARK_SEED").map_or(seed, |seed| seed.parse().unwrap());
    println!("TRAINMARK_SEED={seed}, an undisturbed run takes {undisturbed_s:.2} s");
    // Most of the time is waiting, for the disk and for the moment.
    let folders: usize = std::thread::scope(|scope| {
        let killer = |stream: usize| {
            let mut words = ChaCha8Rng::seed_from_u64(seed);
            words.set_stream(stream as u64);
            let expected = &expected;
            scope.spawn(move || {
                let (mut left, mut folders) = (kills().div_ceil(KILLERS), 0);
                while left > 0 {
                    left -= killed_until_done(&mut words, left, undisturbed_s, expected);
                    folders += 1;
                }
                folders
            })
        };
        let killers: Vec<_> = (0..KILLERS).map(killer).collect();
        killers.into_iter().map(|killer| killer.join().unwrap()).sum()
    });
    println!("{} kills in {folders} folders", kills());
}

const KILLERS: usize = 4;

/// One folder, from its first run to the end of all of it. Returns how often the harness was killed,
/// at most so many times.
fn killed_until_done(
    words: &mut ChaCha8Rng,
    most: usize,
    undisturbed_s: f64,
    expected: &[String],
) -> usize {
    let place = Place::new();
    let suite = counting(&place);
    let mut killed = 0;
    loop {
        let mut harness = match journal(&place).contains("\"began\"") {
            true => start(&place, &suite, &["--resume"]),
            false => start(&place, &suite, &MANY),
        };
        // Later than its end is never; the last attempt is left alone.
        let fraction = f64::from(words.next_u32()) / f64::from(u32::MAX);
        if killed < most {
            std::thread::sleep(Duration::from_secs_f64(fraction * undisturbed_s));
            harness.kill().unwrap();
        }
        let ended = harness.wait().unwrap();
        every_file_is_valid(&place);
        if ended.code().is_some() {
            assert!(ended.success(), "{ended}");
            break;
        }
        killed += 1;
        // Between its last line and its end there is nothing left to take up.
        if journal(&place).contains("\"finished\"") {
            break;
        }
    }
    assert_eq!(union(&place), expected);
    let half_written = place.result_names().into_iter().find(|name| name.starts_with('.'));
    assert_eq!(half_written, None);
    // Each kill can cost the training that was running, and no other.
    let starts = starts(&place);
    assert!((TRAININGS..=TRAININGS + killed).contains(&starts), "{starts} starts, {killed} kills");
    killed
}

#[test]
fn a_folder_with_a_run_that_stopped_says_so_and_can_also_begin_anew() {
    let place = Place::new();
    let suite = waiting_at(&place, 3);
    let mut harness = start(&place, &suite, &MANY);
    eventually("the third training begins", || starts(&place) == 3);
    harness.kill().unwrap();
    harness.wait().unwrap();
    std::fs::write(place.path("go"), "").unwrap();
    let output = place.run(&suite, &["--epochs", "1"]);
    assert!(output.status.success());
    let words = said(&output);
    assert!(words.contains("note: a run has stopped in "), "{words}");
    assert!(words.contains("2 samples, of "), "{words}");
    assert!(words.contains("trainmark run --resume --out "), "{words}");
    // The old one can still be taken up, and then there is none left.
    let resume =
        || place.trainmark("run").arg("--resume").arg("--out").arg(place.path("out")).output();
    let output = resume().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("4 of 4 completed"), "{}", said(&output));
    assert_eq!(place.results().len(), 5);
    let output = resume().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("leave --resume out"), "{}", said(&output));
    let output = place.trainmark("run").args(["--resume", "--out", "outt"]).output().unwrap();
    assert!(said(&output).contains("no folder outt; did you mean out?"), "{}", said(&output));
    assert!(!place.path("outt").exists());
}

#[test]
fn an_interrupted_run_ends_in_order_and_goes_on_from_another_folder() {
    let place = Place::new();
    let script = format!("echo x >> starts; [ -e go ] || sleep 300; {PLAIN}");
    let suite = place.suite(&script, "root = '.'");
    // Names that are meant from where the run began.
    let mut command = place.trainmark("run");
    command.args(["--suite", "suite.toml", "--data", "data", "--out", "out"]).args(MANY);
    let harness = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the first training begins", || starts(&place) == 1);
    Command::new("kill").args(["-INT", &harness.id().to_string()]).status().unwrap();
    let output = harness.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    assert!(
        said(&output).contains("`trainmark run --resume --out out` continues it"),
        "{}",
        said(&output)
    );
    assert_eq!(place.results()[0]["status"], "interrupted");
    assert_eq!(place.results()[0]["reason"], "stopped by the user");

    std::fs::write(place.path("go"), "").unwrap();
    let mut command = place.trainmark("run");
    let output = command.current_dir("/").arg("--resume").arg("--out").arg(place.path("out"));
    let output = output.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let words = "0 samples, of 0 of 4 rows; it takes 3 of each row";
    assert!(said(&output).contains(words), "{}", said(&output));
    assert_eq!(union(&place), undisturbed());
    assert_eq!(starts(&place), TRAININGS + 1);
    drop(suite);
}

#[test]
fn more_repeats_can_be_asked_for_when_a_run_goes_on() {
    let place = Place::new();
    let suite = place.suite(&format!("[ -e go ] || sleep 300; {PLAIN}"), "root = '.'");
    let output = place.run(&suite, &["--epochs", "1,2", "--run-timeout", "1s"]);
    assert_eq!(output.status.code(), Some(124), "{}", said(&output));
    assert!(said(&output).contains("its time was up"), "{}", said(&output));
    std::fs::write(place.path("go"), "").unwrap();
    let mut command = place.trainmark("run");
    command.arg("--resume").arg("--out").arg(place.path("out"));
    // What decides which rows run cannot be.
    let output = command.args(["--repeats", "2", "--run-timeout", "10m"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let samples: Vec<usize> =
        place.results().iter().map(|result| result["samples"].as_array().unwrap().len()).collect();
    assert_eq!(samples, [2, 2]);
    let mut command = place.trainmark("run");
    let output = command.args(["--resume", "--epochs", "5"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}

/// What a report says of it, if it calls anything misreported.
fn misreported(place: &Place) -> Option<String> {
    let output = place.trainmark("report").args(["--input", "out"]).output().unwrap();
    Some(said(&output)).filter(|text| text.contains("misreported") || text.contains("twice"))
}

fn resume(place: &Place) -> Output {
    place.trainmark("run").args(["--resume", "--out", "out"]).output().unwrap()
}

#[test]
fn another_program_is_another_run_whose_old_results_stay_however_often_it_is_taken_up() {
    let place = Place::new();
    let script = place.path("train.sh");
    std::fs::write(&script, PLAIN).unwrap();
    let suite = place.suite(
        "echo x >> starts; [ $1 = 1 ] || [ -e go ] || sleep 300; . ./train.sh",
        "root = '.'",
    );
    let text = std::fs::read_to_string(&suite).unwrap();
    std::fs::write(&suite, text.replace("\"{epochs}\"", "\"{epochs}\", \"train.sh\"")).unwrap();
    let mut harness = start(&place, &suite, &["--epochs", "1,2"]);
    eventually("the second training begins", || starts(&place) == 2);
    harness.kill().unwrap();
    harness.wait().unwrap();
    std::fs::write(&script, "echo Test Accuracy: 12.00%").unwrap();
    let mut command = place.trainmark("run");
    command.args(["--resume", "--out", "out"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut harness = command.spawn().unwrap();
    eventually("both begin again, the first to its end", || starts(&place) == 4);
    harness.kill().unwrap();
    harness.wait().unwrap();
    std::fs::write(place.path("go"), "").unwrap();
    let output = resume(&place);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(starts(&place), 5, "{}", said(&output));
    let mut results: Vec<(String, String)> = place
        .results()
        .iter()
        .map(|result| {
            let accuracy = &result["metrics"]["test_accuracy_percent"];
            let run = result["run"]["id"].as_str().unwrap().to_owned();
            (format!("{} {accuracy}", result["config"]["epochs"]), run)
        })
        .collect();
    results.sort();
    let [(first, one), (old, other), (second, two)] = &results[..] else { panic!("{results:?}") };
    assert_eq!([&**first, &**old, &**second], ["1 12.0", "1 95.67", "2 12.0"]);
    assert!(one == two && one != other, "{results:?}");
    assert_eq!(misreported(&place), None);
}

#[test]
fn other_data_is_another_run_whose_old_results_stay() {
    let place = killed_after_the_first_of_two_rows();
    let old = place.results().remove(0);
    let labels = place.path("data/t10k-labels-idx1-ubyte");
    let mut bytes = std::fs::read(&labels).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&labels, bytes).unwrap();
    let output = resume(&place);
    assert!(output.status.success(), "{}", said(&output));
    let note =
        format!("the data has changed; it runs again, and {} stays", place.result_names()[0]);
    assert!(said(&output).contains(&note), "{}", said(&output));
    let results = place.results();
    let (kept, new): (Vec<&Value>, Vec<&Value>) = results.iter().partition(|it| **it == old);
    assert_eq!((kept.len(), new.len()), (1, 2), "{}", said(&output));
    assert_eq!(new[0]["run"]["id"], new[1]["run"]["id"]);
    assert_ne!(new[0]["run"]["id"], old["run"]["id"]);
    assert_eq!(misreported(&place), None);
}

#[test]
fn data_that_is_again_what_it_was_goes_on_with_the_run_of_its_samples() {
    let place = Place::new();
    let wait = "echo x >> starts; [ $(wc -l < starts) -ne $(cat at) ] || sleep 300";
    let suite = place.suite(&format!("{wait}; {PLAIN}"), "root = '.'");
    let labels = place.path("data/t10k-labels-idx1-ubyte");
    let was = std::fs::read(&labels).unwrap();
    let other = [&was[..was.len() - 1], &[was.last().unwrap() ^ 1]].concat();
    for (data, at, more) in
        [(&was, 2, &["--epochs", "1,2"][..]), (&other, 4, &["--resume"]), (&was, 0, &["--resume"])]
    {
        std::fs::write(&labels, data).unwrap();
        std::fs::write(place.path("at"), at.to_string()).unwrap();
        let mut harness = start(&place, &suite, more);
        if at > 0 {
            eventually("it waits", || starts(&place) == at);
            Command::new("kill").args(["-INT", &harness.id().to_string()]).status().unwrap();
        }
        harness.wait().unwrap();
    }
    assert_eq!(starts(&place), 5);
    let results = place.results();
    let run = |it: &Value| it["run"]["id"].as_str().unwrap().to_owned();
    let mut runs: Vec<String> = results.iter().map(run).collect();
    runs.sort();
    assert!(results.len() == 3 && runs[0] == runs[1] && runs[2].starts_with(&runs[0]), "{runs:?}");
    assert!(results.iter().all(|it| it["status"] == "measured"), "{results:?}");
}

#[test]
fn a_stop_while_a_run_that_goes_on_builds_takes_no_program_for_another() {
    let place = Place::new();
    let suite = waiting_at(&place, 2);
    let text = std::fs::read_to_string(&suite).unwrap();
    let build = "[[trainers]]\nbuild = ['sh', '-c', '[ ! -e slow ] || sleep 300']";
    std::fs::write(&suite, text.replace("[[trainers]]", build)).unwrap();
    let mut harness = start(&place, &suite, &["--epochs", "1,2"]);
    eventually("the second training begins", || starts(&place) == 2);
    harness.kill().unwrap();
    harness.wait().unwrap();
    for name in ["go", "slow"] {
        std::fs::write(place.path(name), "").unwrap();
    }
    let mut command = place.trainmark("run");
    let output =
        command.args(["--resume", "--out", "out", "--run-timeout", "2s"]).output().unwrap();
    assert_eq!(output.status.code(), Some(124), "{}", said(&output));
    assert!(said(&output).contains("before it went on; `"), "{}", said(&output));
    assert!(!said(&output).contains("has changed"), "{}", said(&output));
    std::fs::remove_file(place.path("slow")).unwrap();
    assert!(resume(&place).status.success());
    assert_eq!((starts(&place), place.results().len()), (3, 2));
}

#[test]
fn a_run_goes_on_with_the_suite_that_it_began_with_though_another_one_has_its_file() {
    let place = Place::new();
    let waiting = "echo x >> starts; [ $(wc -l < starts) -lt 2 ] || [ -e go ] || sleep 300";
    for (name, script) in [("p.sh", waiting), ("q.sh", waiting), ("r.sh", "true")] {
        std::fs::write(place.path(name), script).unwrap();
    }
    let time = |jobs: &[&str]| {
        let mut command = place.trainmark("time");
        command.args(jobs).args(["--repeats", "2", "--out", "out"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let mut harness = time(&["sh p.sh", "sh q.sh"]).spawn().unwrap();
    eventually("the second program begins", || starts(&place) == 2);
    harness.kill().unwrap();
    harness.wait().unwrap();
    std::fs::write(place.path("go"), "").unwrap();
    time(&["sh r.sh"]).status().unwrap();
    let output = resume(&place);
    assert!(said(&output).contains("time.toml has changed; the run goes on"), "{}", said(&output));
    let samples = |it: &Value| it["samples"].as_array().unwrap().len();
    let mut rows: Vec<String> =
        place.results().iter().map(|it| format!("{} {}", it["executable"], samples(it))).collect();
    rows.sort();
    assert_eq!(rows, ["\"p\" 2", "\"q\" 2", "\"r\" 2"], "{}", said(&output));
}

#[test]
fn a_byte_of_a_suites_input_makes_what_had_finished_run_again() {
    for (byte, trainings) in [("", 3), (" ", 4)] {
        let place = Place::new();
        let recipe = format!("[ $1 = 1 ] || [ -e go ] || sleep 300; {PLAIN}");
        std::fs::create_dir(place.path("shared")).unwrap();
        std::fs::write(place.path("shared/recipe.sh"), &recipe).unwrap();
        let suite = place.suite("echo x >> starts; . ./shared/recipe.sh", "root = '.'");
        let text = std::fs::read_to_string(&suite).unwrap();
        let text = text.replace("backends =", "inputs = ['shared']\nbackends =");
        std::fs::write(&suite, text).unwrap();
        let mut harness = start(&place, &suite, &["--epochs", "1,2"]);
        eventually("the second training begins", || starts(&place) == 2);
        harness.kill().unwrap();
        harness.wait().unwrap();
        std::fs::write(place.path("go"), "").unwrap();
        std::fs::write(place.path("shared/recipe.sh"), recipe + byte).unwrap();
        let mut command = place.trainmark("run");
        let output = command.arg("--resume").arg("--out").arg(place.path("out")).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(starts(&place), trainings, "{}", said(&output));

        std::fs::remove_dir_all(place.path("shared")).unwrap();
        let output = place.run(&suite, &["--epochs", "3"]);
        let reason = "the suite's `inputs`: cannot read shared";
        assert!(said(&output).contains(reason), "{}", said(&output));
    }
}

#[test]
fn a_result_file_that_was_lost_or_spoilt_is_written_again_and_a_strangers_is_left_alone() {
    let place = Place::new();
    let suite = waiting_at(&place, 6);
    let mut harness = start(&place, &suite, &MANY);
    eventually("the sixth training begins", || starts(&place) == 6);
    harness.kill().unwrap();
    harness.wait().unwrap();
    std::fs::write(place.path("go"), "").unwrap();
    let names = place.result_names();
    let names: Vec<&String> = names.iter().filter(|name| name.ends_with(".json")).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    std::fs::remove_file(place.path("out").join(names[0])).unwrap();
    std::fs::write(place.path("out").join(names[1]), "{\"not\": \"ours\"}").unwrap();
    let mut command = place.trainmark("run");
    let output = command.arg("--resume").arg("--out").arg(place.path("out")).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let stranger = std::fs::read_to_string(place.path("out").join(names[1])).unwrap();
    assert_eq!(stranger, "{\"not\": \"ours\"}");
    std::fs::remove_file(place.path("out").join(names[1])).unwrap();
    assert_eq!(union(&place), undisturbed());
}

#[test]
fn a_task_of_an_order_is_run_alone_and_gives_one_result_file() {
    let place = Place::new();
    let suite = place.suite(PLAIN, "");
    let loaded = trainmark::suite::LoadedSuite::find(Some(&suite)).unwrap();
    let rows = trainmark::plan::plan(&loaded.suite, &Default::default()).unwrap();
    // Through JSON, as another program would write it.
    let order = serde_json::json!({
        "harness": env!("CARGO_PKG_VERSION"),
        "run": { "id": "r", "suite": "shell", "quick": false, "started": "", "git_commit": null,
                 "harness": "" },
        "suite": loaded.text, "origin": loaded.origin, "root": loaded.root,
        "data": place.path("data"), "dataset_sha256": dataset_sha256(&place),
        "settings": { "quick": false, "allow_software": false, "limits": {},
                      "timeout": { "secs": 60, "nanos": 0 } },
        "rows": rows, "tasks": [{ "row": 0, "round": { "number": 7 } }],
    });
    std::fs::write(place.path("order.json"), order.to_string()).unwrap();
    let run = |index: &str| {
        let mut command = place.trainmark("task");
        command.args(["--order", "order.json", "--index", index, "--result", "part.json"]);
        command.output().unwrap()
    };
    let output = run("0");
    assert!(output.status.success(), "{}", said(&output));
    let text = std::fs::read(place.path("part.json")).unwrap();
    let part: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!((&part["status"], &part["run"]["id"]), (&"measured".into(), &"r".into()));
    assert_eq!(part["samples"].as_array().unwrap().len(), 1);
    assert_eq!(part["samples"][0]["round"], 7);
    assert!(said(&run("1")).contains("--index 1: there are 1 tasks"));
}

fn dataset_sha256(place: &Place) -> String {
    place.run(&place.suite(&format!("true {{data}}; {PLAIN}"), ""), &[]);
    place.results()[0]["dataset"]["sha256"].as_str().unwrap().to_owned()
}

/// Runs a script in which `$OUT` is a file system of its own, and `$HARNESS` the harness. `None` if
/// this machine does not let us mount one.
fn with_own_file_system(place: &Place, size: &str, script: &str) -> Option<String> {
    let out = place.path("out");
    std::fs::create_dir_all(&out).unwrap();
    let setup = format!("mount -t tmpfs -o size={size} tmpfs \"$OUT\"");
    // The superuser may mount, and so may whoever is one in a user namespace of his own.
    let namespace = [&["-m"][..], &["-r", "-m"]].into_iter().find(|flags| {
        let mut command = Command::new("unshare");
        command.args(*flags).args(["sh", "-c", &setup]).env("OUT", &out);
        command.output().is_ok_and(|output| output.status.success())
    });
    let Some(namespace) = namespace else {
        skipped("this machine does not let us mount a file system of our own");
        return None;
    };
    let mut command = Command::new("unshare");
    command.args(namespace).args(["sh", "-c", &format!("set -e; {setup}; {script}")]);
    command.current_dir(place.path(".")).env("OUT", &out).env_remove("TRAINMARK_DATA");
    command.env("HARNESS", support::HARNESS);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    Some(said(&output))
}

#[test]
fn a_disk_that_is_full_at_any_point_is_one_clear_error_and_a_later_resume_completes() {
    let expected = undisturbed();
    let (mut failed, mut completed) = (0, 0);
    // From too small for the first line of the journal to large enough for all.
    for kilobytes in (4..=220).step_by(12).chain([400, 800, 4000]) {
        let place = Place::new();
        counting(&place);
        let run = format!(
            "$HARNESS run --suite suite.toml --data data --out \"$OUT\" {} > said 2>&1 || echo failed > failed
             mkdir then; cp -a \"$OUT\"/. then/
             mount -o remount,size=20m \"$OUT\"
             if [ -e failed ]; then
                 $HARNESS run --resume --out \"$OUT\" > resumed 2>&1 ||
                     $HARNESS run --suite suite.toml --data data --out \"$OUT\" {} > resumed 2>&1
             fi
             mkdir end; cp -a \"$OUT\"/. end/",
            MANY.join(" "),
            MANY.join(" ")
        );
        let Some(_) = with_own_file_system(&place, &format!("{kilobytes}k"), &run) else {
            return;
        };
        let words = std::fs::read_to_string(place.path("said")).unwrap();
        if place.path("failed").exists() {
            failed += 1;
            assert_eq!(words.matches("error:").count(), 1, "{kilobytes} KiB: {words}");
            assert!(words.contains("No space left on device"), "{kilobytes} KiB: {words}");
            assert!(words.contains("/out"), "{kilobytes} KiB: {words}");
        } else {
            completed += 1;
        }
        // Nothing half-written, then and at the end.
        for folder in ["then", "end"] {
            std::fs::remove_dir_all(place.path("out")).unwrap();
            std::fs::rename(place.path(folder), place.path("out")).unwrap();
            every_file_is_valid(&place);
            let hidden = place.result_names().into_iter().find(|name| name.starts_with('.'));
            assert_eq!(hidden, None, "{kilobytes} KiB, {folder}");
        }
        assert_eq!(union(&place), expected, "{kilobytes} KiB: {words}");
    }
    assert!(failed >= 5 && completed >= 1, "{failed} failed, {completed} completed");
}

#[test]
fn a_folder_that_is_read_only_is_one_clear_error_and_loses_nothing() {
    let place = Place::new();
    // The third training kills the harness: its launcher's parent.
    let script = format!(
        "echo x >> starts; [ $(wc -l < starts) != 3 ] || kill -9 $(ps -o ppid= -p $PPID); {PLAIN}"
    );
    place.suite(&script, "root = '.'");
    let run = format!(
        "$HARNESS run --suite suite.toml --data data --out \"$OUT\" {} && exit 1
         mount -o remount,ro \"$OUT\"
         $HARNESS run --resume --out \"$OUT\" > said 2>&1 && exit 1
         $HARNESS run --suite suite.toml --data data --out \"$OUT\" > refused 2>&1 && exit 1
         mount -o remount,rw \"$OUT\"
         $HARNESS run --resume --out \"$OUT\" > resumed 2>&1
         mkdir end; cp -a \"$OUT\"/. end/",
        MANY.join(" ")
    );
    if with_own_file_system(&place, "20m", &run).is_none() {
        return;
    }
    for name in ["said", "refused"] {
        let words = std::fs::read_to_string(place.path(name)).unwrap();
        assert_eq!(words.matches("error:").count(), 1, "{name}: {words}");
        assert!(words.contains("Read-only file system"), "{name}: {words}");
        assert!(words.contains("/out"), "{name}: {words}");
    }
    std::fs::remove_dir_all(place.path("out")).unwrap();
    std::fs::rename(place.path("end"), place.path("out")).unwrap();
    assert_eq!(union(&place), undisturbed());
    assert_eq!(starts(&place), TRAININGS + 1);
}

#[test]
fn the_scratch_folder_of_a_killed_harness_is_removed_by_the_next_one() {
    let place = Place::new();
    let temporary = place.path("temporary");
    std::fs::create_dir(&temporary).unwrap();
    let left = || std::fs::read_dir(&temporary).unwrap().count();
    let suite =
        place.suite(&format!("echo x >> starts; [ -e go ] || sleep 300; {PLAIN}"), "root = '.'");
    let mut command = place.trainmark("run");
    command.env("TMPDIR", &temporary).arg("--suite").arg(&suite);
    command.args(["--data", "data", "--out", "out"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut harness = command.spawn().unwrap();
    eventually("the training begins", || starts(&place) == 1);
    harness.kill().unwrap();
    harness.wait().unwrap();
    assert_eq!(left(), 1, "a kill leaves it");
    std::fs::write(place.path("go"), "").unwrap();
    let mut command = place.trainmark("run");
    let output = command.env("TMPDIR", &temporary).args(["--resume", "--out", "out"]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(left(), 0);
}

#[test]
fn the_trainer_of_a_killed_harness_does_not_disturb_the_one_that_goes_on() {
    let place = Place::new();
    let word = format!("killed-with-its-harness-{}", std::process::id());
    let script = format!("trap '' TERM; [ -e go ] || sleep 300; {PLAIN} # {word}");
    let suite = place.suite(&script, "root = '.'");
    let mut harness = start(&place, &suite, &["--epochs", "1"]);
    eventually("the trainer runs", || !processes_with(&word).is_empty());
    harness.kill().unwrap();
    harness.wait().unwrap();
    std::fs::write(place.path("go"), "").unwrap();
    let mut command = place.trainmark("run");
    let output = command.arg("--resume").arg("--out").arg(place.path("out")).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    eventually("the old trainer is gone", || processes_with(&word).is_empty());
}

#[test]
fn a_damaged_line_of_the_journal_is_named_and_only_its_training_runs_again() {
    let place = Place::new();
    let script = format!(
        "echo x >> starts; [ $(wc -l < starts) != 3 ] || kill -9 $(ps -o ppid= -p $PPID); {PLAIN}"
    );
    let suite = place.suite(&script, "root = '.'");
    let output = place.run(&suite, &["--repeats", "3"]);
    assert!(!output.status.success(), "{}", said(&output));
    let journal = place.path("out").join("journal.jsonl");
    let text = std::fs::read_to_string(&journal).unwrap();
    assert_eq!(text.lines().count(), 4, "opened, began, and two that ran: {text}");
    let damaged = text.replacen("\"round\":0", "\"round\":1", 1);
    std::fs::write(&journal, damaged).unwrap();
    let mut command = place.trainmark("run");
    let output = command.args(["--resume", "--out", "out"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("line 3: damaged"), "{}", said(&output));
    let results = place.results();
    let rounds: Vec<u64> = results[0]["samples"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sample| sample["round"].as_u64().unwrap())
        .collect();
    assert_eq!((results.len(), rounds.len()), (1, 3), "{rounds:?}");
    assert_eq!(starts(&place), 5, "two before, one killed, and of those two again");
}

/// Two rows, of which the first has its result file when the harness is killed.
fn killed_after_the_first_of_two_rows() -> Place {
    let place = Place::new();
    let suite = waiting_at(&place, 2);
    let mut harness = start(&place, &suite, &["--epochs", "1,2"]);
    eventually("the second training begins", || starts(&place) == 2);
    harness.kill().unwrap();
    harness.wait().unwrap();
    std::fs::write(place.path("go"), "").unwrap();
    assert_eq!(place.results().len(), 1);
    place
}

#[test]
fn a_row_that_the_journal_has_lost_keeps_its_result_file_and_gets_no_second_one() {
    for cut_off in [false, true] {
        let place = killed_after_the_first_of_two_rows();
        let journal = place.path("out/journal.jsonl");
        let text = std::fs::read_to_string(&journal).unwrap();
        assert_eq!(text.lines().count(), 3, "opened, began, and one that ran: {text}");
        let (text, named) = match cut_off {
            false => (text.replace("\"measured\"", "\"measurad\""), "line 3: damaged and left out"),
            true => (text[..text.len() - 40].to_owned(), "line 3: cut off and left out"),
        };
        std::fs::write(&journal, text).unwrap();
        let file = place.result_names().remove(0);
        let output = resume(&place);
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains(named), "{}", said(&output));
        assert_eq!((starts(&place), place.results().len()), (4, 2), "{}", said(&output));
        assert!(place.result_names().contains(&file), "{file}");
        assert_eq!(misreported(&place), None);
    }
}

#[test]
fn a_run_says_which_signal_stopped_it() {
    for (signal, reason) in [("TERM", "stopped by SIGTERM"), ("HUP", "stopped by SIGHUP")] {
        let place = Place::new();
        let suite = waiting_at(&place, 1);
        let mut command = place.trainmark("run");
        command.arg("--suite").arg(&suite).args(["--data", "data", "--out", "out"]);
        let harness = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        eventually("the training begins", || starts(&place) == 1);
        let signal = format!("-{signal}");
        Command::new("kill").args([&signal, &harness.id().to_string()]).status().unwrap();
        let output = harness.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", said(&output));
        assert!(said(&output).contains(&format!("The run was {reason}: ")), "{}", said(&output));
        assert_eq!(place.results()[0]["reason"], reason);
    }
}

#[test]
fn a_suite_whose_command_cannot_be_filled_in_leaves_no_run_to_continue() {
    let place = Place::new();
    let suite = place.suite(PLAIN, "");
    let text = std::fs::read_to_string(&suite).unwrap();
    std::fs::write(&suite, text.replace("\"{epochs}\"", "\"{steps}\"")).unwrap();
    let output = place.run(&suite, &[]);
    assert!(said(&output).contains("uses {steps}, but"), "{}", said(&output));
    let output = place.run(&suite, &["--set", "steps=3"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(!said(&output).contains("has stopped"), "{}", said(&output));
}
