//! The command itself: options, files, messages and exit codes.

use super::{as_json, as_markdown, as_text, fixtures, study, summary};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn report() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainmark"));
    command.arg("report").env("NO_COLOR", "1");
    command
}

fn ran(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    (output, stderr)
}

fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, contents) in files {
        fs::write(folder.path().join(name), contents).unwrap();
    }
    folder
}

fn good() -> String {
    let file = fixtures("specification").join("classic_cpu_h512_20240315_143022.json");
    fs::read_to_string(file).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_specifications_command_line_writes_both_reports_and_prints_the_summary() {
    let out = tempfile::tempdir().unwrap();
    let (json, markdown) = (out.path().join("report.json"), out.path().join("report.md"));
    let (json_path, markdown_path) = (json.clone(), markdown.clone());
    let (output, stderr) = ran(report()
        .arg("--input")
        .arg(fixtures("run"))
        .arg("--output")
        .arg(&json)
        .arg("--markdown")
        .arg(&markdown)
        .arg("--verbose"));
    assert!(output.status.success(), "{stderr}");
    assert_eq!(stderr, "");
    let summary = summary("run");
    assert_eq!(fs::read_to_string(json).unwrap(), as_json(&summary));
    assert_eq!(fs::read_to_string(markdown).unwrap(), as_markdown(&summary));
    let saved = format!(
        "JSON report saved to {}\nMarkdown report saved to {}\n",
        json_path.display(),
        markdown_path.display()
    );
    assert_eq!(String::from_utf8(output.stdout).unwrap(), as_text(&summary) + &saved);
    assert_eq!(names(out.path()), ["report.json", "report.md"]);
}

#[test]
fn without_verbose_nothing_is_printed_and_standard_output_can_take_the_report() {
    let (output, stderr) =
        ran(report().arg("--input").arg(fixtures("run")).args(["--output", "-", "--verbose"]));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), as_json(&summary("run")));
    assert_eq!(stderr, as_text(&summary("run")));
    let out = tempfile::tempdir().unwrap();
    let json = out.path().join("r.json");
    let (output, stderr) =
        ran(report().arg("--input").arg(fixtures("run")).arg("--output").arg(&json));
    assert!(output.status.success());
    let saved = format!("JSON report saved to {}\n", json.display());
    assert_eq!((String::from_utf8(output.stdout).unwrap(), stderr.as_str()), (saved, ""));
}

#[test]
fn unusable_files_are_warned_of_by_name_and_the_rest_is_reported() {
    let out = tempfile::tempdir().unwrap();
    let json = out.path().join("report.json");
    let (output, stderr) =
        ran(report().arg("--input").arg(fixtures("mixed")).arg("--output").arg(&json));
    assert!(output.status.success());
    let warnings: Vec<&str> = stderr.lines().collect();
    let expected = [
        "warning: folder.json: is not a regular file",
        "warning: v_empty.json: is empty",
        "warning: w_array.json: is not a JSON object",
        "warning: x_newer.json: schema_version 99 is newer",
        "warning: y_wrong_type.json: metrics.training_time_seconds: invalid type",
        "warning: z_report.json: is a report, not a result file",
    ];
    assert_eq!(warnings.len(), expected.len(), "{stderr}");
    for (warning, start) in warnings.iter().zip(expected) {
        assert!(warning.starts_with(start), "{warning}");
    }
    assert!(fs::read_to_string(json).unwrap().contains("\"skipped_files\": 6"));
}

#[test]
fn warnings_cannot_steer_the_terminal() {
    let folder = folder_with(&[("evil\u{1b}[2J\u{202e}.json", "{"), ("good.json", &good())]);
    let (_, stderr) = ran(report().arg("--input").arg(folder.path()).args(["--output", "-"]));
    assert!(stderr.starts_with("warning: evil\u{FFFD}[2J\u{FFFD}.json"), "{stderr}");
}

#[test]
fn nothing_to_report_is_one_line_and_exit_code_1() {
    let out = tempfile::tempdir().unwrap();
    let json = out.path().join("report.json");
    let cases: [(&[(&str, &str)], &str); 3] = [
        (&[], "there is no .json file; `trainmark run --out DIR` writes result files"),
        (
            &[("notes.txt", "x")],
            "there is no .json file; `trainmark run --out DIR` writes result files",
        ),
        (
            &[("a.json", ""), ("b.json", "[]")],
            "nothing to report: none of 2 files is a result file",
        ),
    ];
    for (files, expected) in cases {
        let folder = folder_with(files);
        let (output, stderr) =
            ran(report().arg("--input").arg(folder.path()).arg("--output").arg(&json));
        assert_eq!(output.status.code(), Some(1));
        let errors: Vec<&str> = stderr.lines().filter(|it| it.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{stderr}");
        assert!(errors[0].ends_with(expected), "{stderr}");
        assert!(!json.exists());
    }
}

#[test]
fn a_missing_folder_and_a_missing_reference_are_one_line() {
    let (output, stderr) = ran(report().args(["--input", "no/where", "--output", "-"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.starts_with("error: --input no/where: there is no such folder"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1);
    let (output, stderr) = ran(report().arg("--input").arg(fixtures("specification")).args([
        "--output",
        "-",
        "--reference",
        "MNISTClassic/tpu",
    ]));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr,
        "error: --reference MNISTClassic/tpu: there is no such row; did you mean MNISTClassic/cpu? There \
         are MNISTClassic/cpu, MNISTClassic/mps\n"
    );
}

#[test]
fn the_last_report_in_the_same_folder_is_replaced_without_a_warning() {
    let folder = folder_with(&[("a.json", &good())]);
    let report_in = |folder: &Path| -> (PathBuf, String) {
        let json = folder.join("report.json");
        let (output, stderr) = ran(report().arg("--input").arg(folder).arg("--output").arg(&json));
        assert!(output.status.success(), "{stderr}");
        (json, stderr)
    };
    let (json, _) = report_in(folder.path());
    let first = fs::read_to_string(&json).unwrap();
    let (json, stderr) = report_in(folder.path());
    assert_eq!(stderr, "");
    assert_eq!(fs::read_to_string(json).unwrap(), first);
    assert_eq!(names(folder.path()), ["a.json", "report.json"]);
}

#[test]
fn a_result_file_is_never_replaced_by_a_report() {
    let folder = folder_with(&[("a.json", &good()), ("b.json", &good())]);
    let target = folder.path().join("a.json");
    let (output, stderr) =
        ran(report().arg("--input").arg(folder.path()).arg("--output").arg(&target));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("is a result file; name another file for the report"), "{stderr}");
    assert_eq!(fs::read_to_string(target).unwrap(), good());
}

#[test]
fn targets_that_cannot_be_written_are_named_with_their_flag() {
    let folder = tempfile::tempdir().unwrap();
    let with_target = |target: &Path| {
        ran(report().arg("--input").arg(fixtures("run")).arg("--output").arg(target)).1
    };
    let stderr = with_target(folder.path());
    assert!(stderr.starts_with("error: --output ") && stderr.contains("is a folder"), "{stderr}");
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let stderr = with_target(&file.join("report.json"));
    assert!(stderr.starts_with("error: --output ") && stderr.contains("file"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1);
    assert_eq!(names(folder.path()), ["file"]);
    // A folder that is not there is made.
    assert_eq!(with_target(&folder.path().join("new/report.json")), "");
    assert_eq!(names(&folder.path().join("new")), ["report.json"]);
    let same = folder.path().join("same");
    let mut command = report();
    command.arg("--input").arg(fixtures("run"));
    let (_, stderr) = ran(command.arg("--output").arg(&same).arg("--markdown").arg(&same));
    assert!(stderr.starts_with("error: --markdown "), "{stderr}");
}

#[cfg(unix)]
#[test]
fn reports_have_the_rights_of_any_new_file_and_are_not_written_through_links() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = folder_with(&[("plain", "")]);
    let path = |name: &str| folder.path().join(name);
    symlink(path("target"), path("link")).unwrap();
    fs::write(path("target"), "old").unwrap();
    let written = |name: &str| {
        ran(report().arg("--input").arg(fixtures("run")).arg("--output").arg(path(name)))
    };
    let (output, stderr) = written("new");
    assert!(output.status.success(), "{stderr}");
    let (output, stderr) = written("link");
    assert!(!output.status.success());
    assert!(stderr.contains("is a link; remove it, or name its target"), "{stderr}");
    assert_eq!(fs::read_to_string(path("target")).unwrap(), "old");
    let rights = |name: &str| fs::metadata(path(name)).unwrap().permissions().mode();
    assert_eq!(rights("new"), rights("plain"));
    assert_eq!(names(folder.path()), ["link", "new", "plain", "target"]);
}

#[cfg(unix)]
#[test]
fn single_files_can_be_chosen_by_the_shell() {
    let files = fixtures("run");
    let glob = format!("{}/classic_*_h512_*.json", files.display());
    let command = format!("{} report --input {glob} --output -", env!("CARGO_BIN_EXE_trainmark"));
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["summary"]["total_benchmarks"], 5);
    assert_eq!(report["summary"]["config"]["hidden_size"], 512);
}

#[test]
fn two_reports_of_the_same_files_are_the_same() {
    assert_eq!(as_json(&summary("mixed")), as_json(&summary("mixed")));
}

#[test]
fn without_options_the_table_with_bars_of_the_usual_folder_is_printed() {
    let home = tempfile::tempdir().unwrap();
    let (output, stderr) = ran(report().current_dir(home.path()));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.starts_with("error: --input benchmarks: there is no such folder"), "{stderr}");
    fs::create_dir(home.path().join("benchmarks")).unwrap();
    study::write(&study::files(), &home.path().join("benchmarks"));
    let (output, stderr) = ran(report().current_dir(home.path()));
    assert!(output.status.success(), "{stderr}");
    let text = String::from_utf8(output.stdout).unwrap();
    let bars: Vec<&str> = text.lines().filter(|line| line.contains('█')).collect();
    assert!(bars.len() > 4 && bars[0].contains("MNISTClassic cpu"), "{text}");
    assert_eq!(names(home.path()), ["benchmarks"], "nothing is written");
}

#[test]
fn html_and_charts_are_written_and_the_markdown_shows_the_charts() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name);
    fs::create_dir_all(path("results")).unwrap();
    fs::create_dir_all(path("docs")).unwrap();
    study::write(&study::files(), &path("results"));
    let (output, stderr) = ran(report().current_dir(home.path()).args([
        "--input",
        "results",
        "--html",
        "report.html",
        "--markdown",
        "docs/report.md",
        "--charts",
        "images/of the study",
    ]));
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.ends_with(" charts saved to images/of the study\n"), "{stderr}");
    let page = fs::read_to_string(path("report.html")).unwrap();
    assert_eq!(page, super::html::as_html(&study::summary_of(&study::files())));
    let charts = names(&path("images/of the study"));
    assert!(charts.len() > 15 && charts.iter().all(|it| it.ends_with(".svg")), "{charts:?}");
    let markdown = fs::read_to_string(path("docs/report.md")).unwrap();
    let shown: Vec<&str> = markdown.lines().filter(|line| line.starts_with("![")).collect();
    assert_eq!(shown.len(), charts.len());
    for line in shown {
        let (_, link) = line.trim_end_matches(')').rsplit_once('(').unwrap();
        let link = link.replace("%20", " ");
        assert!(link.starts_with("../images/of the study/"), "{link}");
        assert!(path("docs").join(&link).is_file(), "{link}");
    }
}

#[test]
fn wrong_names_and_places_are_one_line_with_the_remedy() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("benchmarks")).unwrap();
    let results = fixtures("run").display().to_string();
    let trainmark = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trainmark"));
        command.args(words).current_dir(home.path()).env("HOME", home.path());
        ran(command.env_remove("XDG_DATA_HOME"))
    };
    let cases: [(&[&str], &str); 8] = [
        (&["show", &results], "is a folder; name a file in it, or use `trainmark report --input "),
        (&["compare", "main", &results], "main: there is no such folder, file or baseline; "),
        (&["compare", "main", &results], "`trainmark baseline save main` keeps benchmarks/"),
        (&["report"], "there is no .json file; `trainmark run --out DIR` writes result files"),
        (&["report", "--input", "benchmark"], "; did you mean benchmarks?"),
        (&["history", "--input", &results, "--metric", "trian_s"], "did you mean train_s?"),
        (&["run", "--suite", "framework"], "did you mean frameworks?"),
        (&["run", "--suite", "frameworks", "--trainer", "pytroch"], "did you mean PyTorch?"),
    ];
    for (words, remedy) in cases {
        let (output, stderr) = trainmark(words);
        assert!(!output.status.success(), "{words:?}");
        assert!(stderr.starts_with("error: ") && stderr.contains(remedy), "{words:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    let (_, stderr) = trainmark(&["history", &results]);
    assert!(
        stderr.contains(&format!("give folders and files with --input: --input {results}")),
        "{stderr}"
    );
    let (_, stderr) = trainmark(&["compare", &results, &results, "--metric", "nonsense"]);
    assert!(stderr.contains("--metric nonsense: there is no such figure; there are"), "{stderr}");
    let named =
        ["run", "--suite", "FRAMEWORKS", "--trainer", "pytorch", "--model", "MLP", "--list"];
    let (output, stderr) = trainmark(&named);
    assert!(output.status.success(), "{stderr}");
    let listed = String::from_utf8(output.stdout).unwrap();
    assert!(listed.contains("PyTorch mlp cpu") && !listed.contains("JAX"), "{listed}");
}

#[cfg(unix)]
#[test]
fn the_page_is_written_beside_the_results_and_its_path_told_where_no_browser_opens() {
    let home = tempfile::tempdir().unwrap();
    study::write(&study::files(), home.path());
    let mut command = report();
    command.arg("--input").arg(home.path()).arg("--open").env("PATH", home.path());
    let (output, stderr) = ran(&mut command);
    let page = home.path().join("report.html");
    assert!(output.status.success() && page.is_file(), "{stderr}");
    let told = format!("note: no browser could be opened; the page is {}\n", page.display());
    assert_eq!(stderr, told);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(stdout, format!("HTML report saved to {}\n", page.display()));
}
