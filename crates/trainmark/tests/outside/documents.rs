//! The commands of the documents work. A block marked `console` runs with its output: `...` stands for lines that
//! differ from machine to machine, `[..]` for a part of a line. A block marked `sh` runs command by command. A
//! command that cannot run here is in a list with the reason, so that a new command that nothing tests fails.

use crate::support;
use crate::support::eventually;
use crate::support::place::{Place, said};
use clap::CommandFactory;
use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Commands that do not run here: the document, the beginning of the command, the reason.
static NOT_HERE: [(&str, &str, &str); 26] = [
    ("README.md", "git clone", "needs the repository's address; .ci/first-result runs it"),
    ("README.md", "cargo run --release -- run --quick", "compiles; .ci/run runs it"),
    ("README.md", "cargo test --workspace", "runs this test"),
    ("backends.md", "cargo run", "compiles; tests/program.rs of mnist-classic runs the options"),
    ("cluster.md", "for kind in", "needs a Slurm cluster with three kinds of nodes"),
    ("cluster.md", "trainmark report --input /shared", "reads the results of the command above"),
    ("cuda.md", "cargo build", "needs an NVIDIA GPU"),
    ("cuda.md", "python3 crates/backend-cuda/bench", "needs an NVIDIA GPU"),
    ("faults.md", "cargo run -p trainmark --example attack", "takes minutes; .ci/run runs it"),
    ("get-started.md", "git clone", "needs the repository's address; .ci/first-result runs it"),
    ("get-started.md", "cargo run --release -- run --quick", "compiles; .ci/run runs it"),
    ("gpt.md", "cargo run --release -p mnist-classic --bin trainmark-native", "trains for minutes"),
    ("gpt.md", "cargo run --release -p mnist-classic --example", "trains for half an hour"),
    ("gpt.md", "trainmark setup", "downloads the frameworks"),
    ("gpt.md", "GPT_DATA=", "measures for hours"),
    ("metal.md", "TRAINMARK_REQUIRE_METAL=1", "needs a Mac"),
    ("metal.md", "cargo run --release -- fetch", "needs a network; jobs.rs runs fetch"),
    ("metal.md", "cargo run --release -- run --backend", "needs a Mac"),
    ("reports.md", "cargo build --release", "compiles for minutes"),
    ("reports.md", "cargo run --release -p trainmark --example", "writes 100,000 files"),
    ("reports.md", "python3 crates/trainmark/bench", "reads 100,000 files for minutes"),
    ("several-devices.md", "python=", "needs what `trainmark setup` downloads"),
    ("several-devices.md", "$python", "needs GPUs and what `trainmark setup` downloads"),
    ("several-devices.md", "cargo run --release", "needs GPUs"),
    ("several-devices.md", "records/measure.sh", "measures for an hour on several GPUs"),
    ("several-devices.md", "trainmark verify", "needs what `trainmark setup` downloads"),
];

/// Commands that run with `--dry-run`, in the same form.
static DRY: [(&str, &str, &str); 2] = [
    ("README.md", "trainmark run --suite frameworks", "needs what `trainmark setup` downloads"),
    ("cluster.md", "trainmark run --suite suites/mnist.toml", "needs a Slurm cluster"),
];

/// The command that is interrupted, since the next one continues it.
const INTERRUPTED: (&str, &str) = ("faults.md", "trainmark run --repeats 10 --out results");

/// The programs that the documents suppose.
const PROGRAMS: [(&str, &str); 4] = [
    ("a.py", "print('val_loss: 1.50')\n"),
    ("b.py", "import time\ntime.sleep(0.03)\nprint('val_loss: 1.40')\n"),
    ("train.py", "print('val_loss: 1.50')\nprint('trained in 0.001 s')\n"),
    ("corpus.txt", "a text\n"),
];

/// In place of the native trainer, which would have to be compiled.
const NATIVE: &str = r#"#!/bin/sh
if [ "$1" = --probe ]; then
    echo '{"trainer":"Native","version":"1","backends":[{"backend":"cpu"}]}'
    exit
fi
echo ':::TRAINMARK {"event":"trained","train_s":0.001}'
echo 'Test Accuracy: 95.67%'
"#;

/// A fenced block of a document.
struct Block {
    language: String,
    text: String,
    /// Whether it is a file that contract.rs takes out of docs/trainer.md.
    is_example: bool,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The name and the text of each document.
fn documents() -> Vec<(String, String)> {
    let of_root = ["README.md", "METHOD.md", "SECURITY.md", "CONTRIBUTING.md"];
    let mut paths: Vec<PathBuf> = of_root.iter().map(|name| root().join(name)).collect();
    let entries =
        std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    paths.extend(entries.filter(|path| path.extension().is_some_and(|it| it == "md")));
    let document = |path: PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        // docs/README.md has the name of another document.
        let is_index = name == "README.md" && path.parent().is_some_and(|it| it.ends_with("docs"));
        let name = if is_index { "docs" } else { name };
        (name.to_owned(), std::fs::read_to_string(&path).unwrap())
    };
    paths.into_iter().map(document).collect()
}

fn blocks(document: &str) -> Vec<Block> {
    let (mut blocks, mut open, mut is_example) = (Vec::new(), None, false);
    for event in Parser::new(document) {
        match event {
            Event::Html(html) => is_example = html.starts_with("<!-- example: "),
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                let language = language.into_string();
                open = Some(Block { language, text: String::new(), is_example });
            }
            Event::Text(text) => open.iter_mut().for_each(|block| block.text += &text),
            Event::End(TagEnd::CodeBlock) => blocks.extend(open.take()),
            Event::Start(_) => is_example = false,
            _ => {}
        }
    }
    blocks
}

/// The commands of a block: as many lines as the shell needs for a whole one.
fn commands(block: &str) -> Vec<String> {
    let (mut commands, mut command) = (Vec::new(), String::new());
    for line in block.lines() {
        command += line;
        let is_whole = || Command::new("sh").args(["-n", "-c", &command]).output().unwrap().status;
        if !command.ends_with('\\') && is_whole().success() {
            let has_words = command.lines().any(|it| !it.trim_start().starts_with('#'));
            commands.extend((has_words && !command.trim().is_empty()).then(|| command.clone()));
            command.clear();
        } else {
            command.push('\n');
        }
    }
    assert_eq!(command, "", "an incomplete command");
    commands
}

/// Programs by their names for the shell: ours, with a stand-in for the native trainer beside it.
fn programs(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    let own = folder.join("trainmark");
    if std::fs::hard_link(support::HARNESS, &own).is_err() {
        std::fs::copy(support::HARNESS, &own).unwrap();
    }
    let scripts = [
        ("trainmark-native", NATIVE),
        ("python", "#!/bin/sh\nexec python3 \"$@\"\n"),
        ("xdg-open", "#!/bin/sh\ntest -f \"$1\"\n"), // no browser
    ];
    for (name, script) in scripts {
        let path = folder.join(name);
        std::fs::write(&path, script).unwrap();
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(path, all).unwrap();
    }
}

/// A folder with what a document's commands need.
fn folder(place: &Place, document: &str) -> PathBuf {
    let folder = place.path(document);
    std::fs::create_dir_all(folder.join("suites")).unwrap();
    for (name, text) in PROGRAMS {
        std::fs::write(folder.join(name), text).unwrap();
    }
    std::fs::copy(root().join("suites/mnist.toml"), folder.join("suites/mnist.toml")).unwrap();
    if document == "reports.md" {
        std::fs::create_dir(folder.join("results")).unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/report/fixtures/run");
        for entry in std::fs::read_dir(fixtures).unwrap().map(|entry| entry.unwrap()) {
            std::fs::copy(entry.path(), folder.join("results").join(entry.file_name())).unwrap();
        }
    }
    folder
}

/// Starts a command in a shell.
fn shell(place: &Place, folder: &Path, command: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir(folder).env_remove("CARGO_TARGET_DIR");
    shell.env("PATH", format!("{}:{path}", place.path("bin").display()));
    shell.env("TRAINMARK_DATA", place.path("data")).env("COLUMNS", "120");
    for (name, kept) in [("CACHE", "cache"), ("DATA", "share"), ("STATE", "state")] {
        shell.env(format!("XDG_{name}_HOME"), place.path(kept));
    }
    shell
}

#[test]
fn the_commands_in_sh_blocks_run_or_are_listed_with_the_reason_why_not() {
    let place = Place::new();
    programs(&place.path("bin"));
    let mut listed: Vec<_> = NOT_HERE.iter().chain(&DRY).collect();
    let mut ran = 0;
    for (document, text) in documents() {
        let folder = folder(&place, &document);
        for block in blocks(&text) {
            let known = ["sh", "console", "toml", "yaml", "python", "sql", "json", "text", ""];
            assert!(known.contains(&&*block.language), "{document}: a block of {}", block.language);
            if block.language != "sh" || block.is_example {
                continue;
            }
            for command in commands(&block.text) {
                let of = |it: &&(&str, &str, &str)| it.0 == document && command.starts_with(it.1);
                listed.retain(|it| !of(it));
                if NOT_HERE.iter().any(|it| of(&it)) {
                    continue;
                }
                ran += 1;
                if document == INTERRUPTED.0 && command.starts_with(INTERRUPTED.1) {
                    interrupt(&place, &folder, &command);
                    continue;
                }
                let dry = DRY.iter().any(|it| of(&it));
                let words =
                    if dry { format!("{} --dry-run", uncommented(&command)) } else { command };
                let output = shell(&place, &folder, &words).output().unwrap();
                // What a gate may say of programs that nothing slowed down.
                let codes: &[i32] =
                    if words.starts_with("trainmark compare") { &[0, 1, 75] } else { &[0] };
                let ended_well = output.status.code().is_some_and(|code| codes.contains(&code));
                assert!(ended_well, "{document}: {words}\n{}", said(&output));
            }
        }
    }
    assert!(listed.is_empty(), "no document has these commands: {listed:#?}");
    assert!(ran >= 10, "{ran} commands");
}

/// Without the comment at its end.
fn uncommented(command: &str) -> &str {
    command.split(" #").next().unwrap_or_default().trim_end()
}

/// Runs a command until it has samples, and stops it as Ctrl-C does.
fn interrupt(place: &Place, folder: &Path, command: &str) {
    let mut run = shell(place, folder, &format!("exec {command}"));
    let mut run = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let journal = folder.join("results/journal.jsonl");
    eventually("two samples are in the journal", || {
        let text = std::fs::read_to_string(&journal).unwrap_or_default();
        text.lines().filter(|line| line.contains("\"ran\"")).count() >= 2
    });
    let id = run.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    assert_eq!(run.wait().unwrap().code(), Some(i32::from(protocol::exit::INTERRUPTED)));
}

#[test]
fn the_commands_in_console_blocks_print_what_the_documents_say() {
    let place = tempfile::tempdir().unwrap();
    let mut cases = 0;
    for (document, text) in documents() {
        if !blocks(&text).iter().any(|block| block.language == "console") {
            continue;
        }
        // A folder of its own, so that no document sees what another one wrote: the commands run in `.in`.
        let folder = place.path().join(document);
        std::fs::create_dir_all(folder.join("commands.in")).unwrap();
        std::fs::write(folder.join("commands.md"), text).unwrap();
        for (name, program) in PROGRAMS {
            std::fs::write(folder.join("commands.in").join(name), program).unwrap();
        }
        cases += 1;
    }
    assert!(cases > 0, "no document has a console block");
    trycmd::TestCases::new()
        .register_bin("trainmark", Path::new(support::HARNESS))
        .env("XDG_CACHE_HOME", place.path().join("cache").display().to_string())
        .env("XDG_DATA_HOME", place.path().join("share").display().to_string())
        .env("XDG_STATE_HOME", place.path().join("state").display().to_string())
        .env("COLUMNS", "120")
        .case(place.path().join("*/commands.md"));
}

/// Commands in running text are not run, but the program must know their options.
#[test]
fn every_option_of_a_command_in_running_text_exists() {
    let program = trainmark::cli::Cli::command();
    let mut seen = 0;
    for (document, text) in documents() {
        for event in Parser::new(&text) {
            let Event::Code(code) = event else { continue };
            let Some((verb, options)) =
                code.strip_prefix("trainmark ").map(|it| it.split_once(' ').unwrap_or((it, "")))
            else {
                continue;
            };
            let Some(command) = program.find_subcommand(verb) else {
                let is_word = verb.chars().all(|c| c.is_ascii_lowercase());
                assert!(!is_word, "{document}: `{code}`: there is no command {verb}");
                continue;
            };
            for option in options.split_whitespace().filter_map(|word| word.strip_prefix("--")) {
                let name = option.split('=').next().unwrap_or_default();
                let known = command.get_arguments().any(|it| it.get_long() == Some(name));
                assert!(known, "{document}: `{code}`: {verb} has no option --{name}");
                seen += 1;
            }
        }
    }
    assert!(seen >= 20, "{seen} options");
}

/// A value of `--set` may contain commas, so a list in one is one value.
#[test]
fn no_command_gives_set_a_list() {
    let listed = regex::Regex::new(r"--set [A-Za-z_]+=[^\s`]*,[^\s`]").unwrap();
    let mut texts = documents();
    let entries =
        ["suites", "examples"].map(|folder| std::fs::read_dir(root().join(folder)).unwrap());
    let suites = entries.into_iter().flatten().map(|entry| entry.unwrap().path());
    for path in suites.map(|it| if it.is_dir() { it.join("suite.toml") } else { it }) {
        texts.push((path.display().to_string(), std::fs::read_to_string(path).unwrap()));
    }
    assert!(texts.iter().filter(|it| it.1.contains("--set ")).count() >= 5);
    for (name, text) in texts {
        assert_eq!(listed.find(&text).map(|it| it.as_str()), None, "{name}");
    }
}
