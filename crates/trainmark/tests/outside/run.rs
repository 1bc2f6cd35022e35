//! `trainmark run` from the outside: real suites, real processes, real files. The trainers are
//! lines of shell, which is also the proof that any program is a trainer.

use crate::support::place::{PLAIN, Place, said};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// The status and the reason of a trainer that is this line of shell.
fn status_of(script: &str) -> (String, String) {
    let result = Place::new().result_of(script, &[]);
    let text = |key: &str| result[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

#[test]
fn a_later_report_knows_the_reference_of_the_suite() {
    let place = Place::new();
    let suite = place.suite(PLAIN, "reference = { trainer = \"Zsh\", backend = \"cpu\" }");
    let text = std::fs::read_to_string(&suite).unwrap();
    let at = text.find("[[trainers]]").unwrap();
    let second = text[at..].replace("\"Shell\"", "\"Zsh\"").replace("\"shell\"", "\"zsh\"");
    std::fs::write(&suite, text + &second).unwrap();
    assert!(place.run(&suite, &[]).status.success());
    let mut report = place.trainmark("report");
    report.args(["--input", "out", "--output", "-"]);
    let report: Value = serde_json::from_slice(&report.output().unwrap().stdout).unwrap();
    assert_eq!(report["summary"]["reference"]["executable"], "Zsh", "{report}");
}

#[test]
fn one_line_of_shell_is_a_trainer() {
    let place = Place::new();
    let output = place.run(&place.suite(PLAIN, ""), &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("1 of 1 completed"), "{}", said(&output));
    let results = place.results();
    let result = &results[0];
    assert_eq!(result["status"], "measured");
    assert_eq!(result["task"]["metrics"]["test_accuracy_percent"]["source"], "claimed");
    assert_eq!(result["metrics"]["test_accuracy_percent"], 95.67);
    assert!(result["metrics"]["peak_memory_mb"].as_f64().unwrap() > 0.1);
    assert!(result["timing"]["wall_s"].as_f64().unwrap() > 0.0);
    // Nobody told it where the data is.
    assert!(result["dataset"].is_null());
    assert_eq!(result["config"]["hidden_size"], 512);
}

#[test]
fn the_files_name_is_the_specifications_and_no_file_is_ever_replaced() {
    let place = Place::new();
    let suite = place.suite(PLAIN, "");
    for _ in 0..3 {
        assert!(place.run(&suite, &[]).status.success());
    }
    let names = place.result_names();
    assert_eq!(names.len(), 3, "{names:?}");
    for name in names {
        let rest = name.strip_prefix("shell_cpu_h512_").unwrap();
        let digits = rest.chars().filter(char::is_ascii_digit).count();
        assert!(rest.ends_with(".json") && digits >= 14, "{name}");
    }
}

#[test]
fn of_runs_at_once_in_one_folder_one_works_and_the_others_say_which() {
    let place = Place::new();
    // Whoever works does so until the others have been told.
    let go = place.path("go");
    let wait = format!("until [ -e {} ]; do sleep 0.05; done; {PLAIN}", go.display());
    let suite = place.suite(&wait, "");
    let refusals = std::sync::atomic::AtomicUsize::new(0);
    let runs = std::thread::scope(|scope| {
        let run = || {
            let output = place.run(&suite, &[]);
            if refusals.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 2 {
                std::fs::write(&go, "").unwrap();
            }
            output
        };
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect::<Vec<_>>()
    });
    let (worked, refused): (Vec<_>, Vec<_>) = runs.iter().partition(|run| run.status.success());
    assert_eq!((worked.len(), refused.len()), (1, 3));
    for output in refused {
        let words = said(output);
        let named = words.split("another run is at work there: process ").nth(1);
        let pid = named.and_then(|rest| rest.split(' ').next()).unwrap_or_default();
        assert!(pid.parse::<u32>().is_ok(), "{words}");
        assert_eq!(words.matches("error:").count(), 1, "{words}");
    }
    assert_eq!(place.results().len(), 1);
}

#[test]
fn a_run_that_nobody_listens_to_any_more_goes_on_and_keeps_its_result() {
    let place = Place::new();
    let suite = place.suite(PLAIN, "");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = place.trainmark("run");
    command.arg("--suite").arg(suite).arg("--data").arg(place.path("data"));
    command.arg("--out").arg(place.path("out"));
    let status = command.stdout(writer.try_clone().unwrap()).stderr(writer).status().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(place.results().len(), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn a_harness_that_is_replaced_while_it_runs_goes_on() {
    let place = Place::new();
    let own = place.path("trainmark");
    let original = env!("CARGO_BIN_EXE_trainmark");
    // A link where that is possible: it is large.
    if std::fs::hard_link(original, &own).is_err() {
        // By another process: a child that another test starts just now could hold a copy of ours open for
        // writing, and then it cannot be executed.
        assert!(Command::new("cp").arg(original).arg(&own).status().unwrap().success());
    }
    let suite = place.suite(&format!("rm -f {}; {PLAIN}", own.display()), "");
    let mut command = Command::new(&own);
    command.args(["run", "--epochs", "1,2,3", "--suite"]).arg(&suite).arg("--data");
    command.arg(place.path("data")).arg("--out").arg(place.path("out"));
    let output = command.current_dir(place.path("")).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("3 of 3 completed"), "{}", said(&output));
    assert!(!own.exists());
}

#[test]
fn each_way_to_fail_is_a_status_of_its_own() {
    let check = |script: &str, status: &str, reason: &str| {
        let (found, why) = status_of(script);
        assert_eq!(found, status, "{script}: {why}");
        assert!(why.contains(reason), "{script}: {why}");
    };
    check("echo no disk >&2; exit 3", "failed", "exit code 3: no disk");
    check("kill -SEGV $$", "crashed", "SIGSEGV");
    check("true", "no_output", "");
    check("echo hello", "no_quality", "Test Accuracy");
    check("printf 'Test Accuracy: \\377\\376%%\\n'", "garbled", "no number");
    check("echo Test Accuracy: 0.95", "garbled", "percent sign");
    check(
        "echo 'error: unavailable: no such device' >&2; exit 69",
        "unavailable",
        "no such device",
    );
    check("echo 'std::bad_alloc' >&2; exit 1", "out_of_memory", "std::bad_alloc");
    check("exec /no/such/program", "failed", "exit code 127");
}

#[test]
fn predictions_are_scored_and_lies_found_out() {
    // Nine of ten labels are right.
    let nine = r#"printf '\0\1\2\3\4\5\6\7\10\0' > "$TRAINMARK_PREDICTIONS"; "#;
    let place = Place::new();
    let result = place.result_of(&format!("{nine} echo Test Accuracy: 90.00%"), &[]);
    assert_eq!(result["status"], "measured");
    assert_eq!(result["task"]["metrics"]["test_accuracy_percent"]["source"], "scored");
    assert_eq!(result["metrics"]["test_accuracy_percent"], 90.0);
    let (status, reason) = status_of(&format!("{nine} echo Test Accuracy: 100%"));
    assert_eq!((status.as_str(), reason.contains("90.00 %")), ("misreported", true), "{reason}");
    let (status, reason) = status_of(r#"printf '\0' > "$TRAINMARK_PREDICTIONS"; echo hi"#);
    assert_eq!((status.as_str(), reason.contains("1 predictions")), ("garbled", true), "{reason}");
}

#[test]
fn a_trainer_that_hangs_is_stopped_with_all_its_children() {
    let place = Place::new();
    let marker = format!("31.{:09}", std::process::id());
    let script = format!("sleep {marker} & echo started; sleep {marker}");
    let result = place.result_of(&script, &["--timeout", "4s"]);
    assert_eq!(result["status"], "timed_out");
    assert_eq!(result["samples"][0]["stdout_tail"], "started");
    assert!(!alive(&marker));
}

/// Whether any process has this word among its arguments.
fn alive(word: &str) -> bool {
    let output = Command::new("ps").args(["-A", "-o", "args"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).contains(word)
}

#[test]
fn the_suite_goes_on_after_a_failure_and_says_so_at_the_end() {
    let place = Place::new();
    // Fails for one epoch, works for two.
    let suite = place.suite(&format!("[ $1 = 2 ] || exit 3; {PLAIN}"), "");
    let output = place.run(&suite, &["--epochs", "1,2"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("1 of 2 completed, 1 failed"), "{}", said(&output));
    assert_eq!(place.results().len(), 2);
}

#[test]
fn a_row_below_its_target_has_not_converged() {
    let place = Place::new();
    let target = r#"models.mlp.targets = [{ at = { dataset = "data", epochs = 1 }, test_accuracy_percent = 96.0 }]"#;
    let output = place.run(&place.suite(PLAIN, target), &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(place.results()[0]["status"], "not_converged");
    assert_eq!(place.results()[0]["targets"]["test_accuracy_percent"], 96.0);
}

#[test]
fn a_failed_build_is_a_row_and_not_the_end() {
    let place = Place::new();
    let suite = place.suite(PLAIN, "");
    let text = std::fs::read_to_string(&suite).unwrap();
    std::fs::write(&suite, text.replace("program = ", "build = [\"false\"]\nprogram = ")).unwrap();
    let output = place.run(&suite, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(place.results()[0]["status"], "build_failed", "{}", said(&output));
    assert_eq!(place.results()[0]["metrics"]["peak_memory_mb"], Value::Null);
}

#[test]
fn what_the_probe_does_not_offer_is_unavailable_and_no_failure() {
    let place = Place::new();
    let suite = place.suite(PLAIN, "");
    let text = std::fs::read_to_string(&suite).unwrap();
    let said_by_probe = r#"{"trainer":"Shell","version":"1",
        "backends":[{"backend":"cpu","unavailable":"no cores"}]}"#;
    std::fs::write(place.path("probe.json"), said_by_probe).unwrap();
    let probe = "probe = ['cat', 'probe.json']\nprogram = ";
    std::fs::write(&suite, text.replace("program = ", probe)).unwrap();
    let output = place.run(&suite, &[]);
    assert!(output.status.success(), "{}", said(&output));
    let results = place.results();
    assert_eq!(
        (&results[0]["status"], &results[0]["reason"]),
        (&"unavailable".into(), &"no cores".into())
    );
}

#[test]
fn a_probe_that_fails_is_told_with_what_it_said_or_alone() {
    for (script, told) in
        [("exit 3", "`: exit code 3"), ("echo broken >&2; exit 3", "`: exit code 3: broken")]
    {
        let place = Place::new();
        let suite = place.suite(PLAIN, "");
        let text = std::fs::read_to_string(&suite).unwrap();
        let probe = format!("probe = ['sh', '-c', '{script}']\nprogram = ");
        std::fs::write(&suite, text.replace("program = ", &probe)).unwrap();
        let output = place.run(&suite, &[]);
        let results = place.results();
        assert!(results[0]["reason"].as_str().unwrap().ends_with(told), "{}", said(&output));
    }
}

#[test]
fn the_list_and_the_dry_run_run_nothing() {
    let place = Place::new();
    let suite = place.suite("touch ran", "");
    for flag in ["--list", "--dry-run"] {
        let output = place.run(&suite, &[flag, "--quick"]);
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains(if flag == "--list" { "epochs=1" } else { "'touch ran'" }));
    }
    assert!(!place.path("ran").exists() && !place.path("out").exists());
}

#[test]
fn wrong_arguments_are_one_line_that_names_the_remedy() {
    let place = Place::new();
    let suite = place.suite(PLAIN, "");
    let check = |more: &[&str], words: &str| {
        let output = place.run(&suite, more);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(words), "{more:?}: {error}");
        assert_eq!(error.matches("error:").count(), 1, "{error}");
    };
    check(&["--backend", "tpu"], "--backend tpu: there is no such backend; did you mean cpu?");
    check(&["--model", "mpl"], "did you mean mlp? `trainmark run --list` lists them");
    check(&["--epochs", "0"], "--epochs 0");
    check(&["--lr=-1"], "--lr -1");
    check(&["--timeout", "soon"], "soon");
    check(&["--set", "x"], "KEY=VALUE");
    check(&["--suite", "none.toml"], "none.toml");
    std::fs::write(place.path("file"), "").unwrap();
    check(&["--out", "file/x"], "--out");
    check(&["--data", "nowhere"], "nowhere");
}

#[test]
fn a_wrong_value_is_a_wrong_command_line_and_says_how_to_write_it() {
    let place = Place::new();
    std::fs::write(place.path("file"), "").unwrap();
    let rule = r"loss \d (?<loss";
    for (words, code, text) in [
        (&["time", "true", "--timeout", "2x"][..], 2, "'--timeout <TIME>': give seconds"),
        (&["time", "true", "--read", rule], 2, "this is not a regular expression: "),
        (&["run", "--set", "x"], 2, "give KEY=VALUE"),
        (&["noise", "--window", "3"], 2, "too few rounds for an interval; give at least 6"),
        (&["compare", "a", "b", "--gate", "abc"], 2, "give a percentage, for example 3%"),
        (&["time", "true", "--out", "file"], 1, "--out file: this is a file; give a folder"),
        (&["time", "true", "--out", "/proc/x"], 1, "--out /proc/x: result files cannot be"),
        (&["time", "true", "--read", r"\d+"], 1, r"the rule '\d+' has no named group"),
        (&["baseline", "save", "main", "--input", "dat"], 1, "did you mean data?"),
    ] {
        let output = place.trainmark(words[0]).args(&words[1..]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains(text), "{words:?}: {error}");
        assert_eq!(output.status.code(), Some(code), "{words:?}: {error}");
        assert_eq!(error.matches("error:").count(), 1, "{words:?}: {error}");
    }
}

#[test]
fn a_race_without_a_clock_says_what_helps() {
    let place = Place::new();
    let point = |seconds: &str| {
        // Braces of a suite's command.
        let event =
            r#"{{"event":"progress","step":1SECONDS,"metrics":{{"test_accuracy_percent":95.67}}}}"#;
        let event = event.replace("SECONDS", seconds);
        format!("echo ':::TRAINMARK {event}'; {PLAIN}")
    };
    let scripts = [PLAIN.to_owned(), point(""), point(r#","seconds":0.0001"#)];
    for (script, helps) in scripts.iter().zip([true, true, false]) {
        let output = place.run(&place.suite(script, ""), &["--target", "90"]);
        let words = said(&output);
        assert_eq!(words.contains("1 row without a time to the target"), helps, "{words}");
        assert_eq!(words.contains("0.000100 s"), !helps, "{words}");
    }
}

#[test]
fn repeats_take_turns_and_keep_every_sample_in_one_file() {
    let place = Place::new();
    let suite = place.suite(&format!("echo $1 >> order; {PLAIN}"), "root = '.'");
    let output = place.run(&suite, &["--epochs", "1,2", "--repeats", "6", "--warm-up"]);
    assert!(output.status.success(), "{}", said(&output));
    let results = place.results();
    assert_eq!(results.len(), 2);
    for result in &results {
        let rounds = result["samples"].as_array().unwrap().iter().map(|sample| &sample["round"]);
        assert_eq!(rounds.collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        let wall = result["timing"]["wall_s"].as_f64().unwrap();
        let interval = &result["intervals"]["wall_s"];
        assert!(interval["low"].as_f64().unwrap() <= wall);
        assert!(interval["high"].as_f64().unwrap() >= wall);
    }
    // The warm-up and each round have one of each.
    let order = std::fs::read_to_string(place.path("order")).unwrap();
    let order: Vec<&str> = order.lines().collect();
    assert_eq!(order.len(), 14);
    assert!(order.chunks(2).all(|round| round == ["1", "2"] || round == ["2", "1"]), "{order:?}");
}

#[test]
fn a_row_that_failed_is_not_repeated() {
    let place = Place::new();
    let output = place.run(&place.suite("exit 3", ""), &["--repeats", "5"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(place.results()[0]["samples"].as_array().unwrap().len(), 1);
    let said_once = "Left out of later rounds after a failure: 1 row\n";
    assert!(said(&output).contains(said_once), "{}", said(&output));
}

/// A process that spins beside everything else until it is dropped.
#[cfg(target_os = "linux")]
struct Spinner(std::process::Child);

#[cfg(target_os = "linux")]
impl Spinner {
    fn start() -> Spinner {
        Spinner(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap())
    }
}

#[cfg(target_os = "linux")]
impl Drop for Spinner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_noisy_run_is_marked_and_repeated_and_stays_in_the_file() {
    let place = Place::new();
    let suite = place.suite(&format!("sleep 0.4; {PLAIN}"), "");
    let spinner = Spinner::start();
    let output = place.run(&suite, &["--retry-noisy=1"]);
    drop(spinner);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("repeated once for noise, NOISY: other processes used"));
    let results = place.results();
    let samples = results[0]["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 2);
    assert_eq!(
        (&samples[0]["superseded"], &samples[1]["superseded"]),
        (&true.into(), &false.into())
    );
    assert_eq!(samples[0]["round"], samples[1]["round"]);
    for sample in samples {
        // A hypervisor may have disturbed it as well.
        let words = sample["disturbances"].as_array().unwrap();
        let others = |it: &Value| it.as_str().unwrap().starts_with("other processes used");
        assert!(words.iter().any(others), "{words:?}");
        assert!(sample["surroundings"]["other_cpu_s"].as_f64().unwrap() > 0.1);
    }
    // The figures are those of the sample that counts.
    assert_eq!(results[0]["timing"]["wall_s"], samples[1]["timing"]["wall_s"]);
}

#[test]
fn a_row_against_itself_gives_a_noise_floor_that_later_runs_carry() {
    let place = Place::new();
    let suite = place.suite(PLAIN, "");
    let noise = |suite: &Path| {
        let mut command = place.trainmark("noise");
        command.arg("--suite").arg(suite).arg("--data").arg(place.path("data"));
        command.args(["--rounds", "8"]).output().unwrap()
    };
    let output = noise(&suite);
    assert!(output.status.success(), "{}", said(&output));
    for words in ["False positives in turns", "of 3 comparisons", "Noise floor: ", "   6 rounds"] {
        assert!(said(&output).contains(words), "{words}: {}", said(&output));
    }
    let mut command = place.trainmark("run");
    command.arg("--suite").arg(&suite).arg("--data").arg(place.path("data"));
    assert!(command.arg("--out").arg(place.path("out")).output().unwrap().status.success());
    let floor = &place.results()[0]["noise_floor"];
    assert_eq!(floor["row"], "Shell mlp cpu");
    assert!(floor["share"].as_f64().unwrap() >= 0.0);
    assert!(floor["share_apart"].as_f64().unwrap() >= 0.0);
    // A row that fails has no noise.
    let failing = noise(&place.suite("exit 3", ""));
    assert!(!failing.status.success() && said(&failing).contains("did not complete"));
}
