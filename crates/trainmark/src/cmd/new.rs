//! `trainmark new` writes a suite file for given command lines; `trainmark time` runs such a suite at once.

use crate::cmd::report::print;
use crate::cmd::run;
use crate::rules;
use crate::suite::Suite;
use crate::template::{self, PLACES};
use crate::units;
use anyhow::{Context, Result, bail};
use indexmap::IndexSet;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Parts of the names of metrics that are better when they are lower.
const LOWER: [&str; 9] = ["loss", "err", "rmse", "mae", "mse", "bpc", "bpb", "ppl", "perplexity"];
/// Whole words of such names: `power` is no `wer`.
const LOWER_WORDS: [&str; 10] =
    ["nll", "wer", "cer", "fid", "kl", "cost", "residual", "regret", "mape", "rmsle"];
/// Parts of the names of metrics that are better when they are higher.
const HIGHER: [&str; 12] = [
    "acc",
    "auc",
    "f1",
    "precision",
    "recall",
    "iou",
    "bleu",
    "rouge",
    "psnr",
    "ssim",
    "score",
    "reward",
];
/// Characters that a shell interprets.
const SHELL: &str = "|&;<>()$`*?~\n";

/// The data of the programs, and how their output is read.
#[derive(Clone, Debug, clap::Args)]
struct Jobs {
    /// Rule that reads the programs' output: a regular expression with named groups, for example
    /// `val_loss: (?<val_loss>\S+)`; can be repeated
    #[arg(long, value_name = "RULE", value_parser = rule)]
    read: Vec<String>,
    /// Which direction of the metrics is better, `higher` or `lower`, or of one of them, `NAME=lower`; can be repeated
    /// [default: guessed from the name]
    #[arg(long, value_name = "WHICH", value_parser = direction)]
    better: Vec<(Option<String>, &'static str)>,
    /// File or folder that the programs train on; `{data}` in a command is its path
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
}

/// Write a commented suite file for programs that you have.
#[derive(Debug, clap::Args)]
pub struct NewArgs {
    /// Command line of a program; can be repeated
    #[arg(long, value_name = "COMMAND", required = true)]
    command: Vec<String>,
    #[command(flatten)]
    jobs: Jobs,
    /// Suite file to write; `-` is standard output
    #[arg(long, value_name = "FILE", default_value = "suite.toml")]
    output: PathBuf,
}

/// Train and compare programs without a suite file.
#[derive(Debug, clap::Args)]
pub struct TimeArgs {
    /// Command line of each program
    #[arg(value_name = "COMMAND", required = true)]
    command: Vec<String>,
    #[command(flatten)]
    jobs: Jobs,
    /// Number of rounds; each trains every program once
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Run one round first and do not record it
    #[arg(long)]
    warm_up: bool,
    /// Time after which a sample is stopped, for example `90s` [default: 30m]
    #[arg(long, value_name = "TIME", value_parser = time_in_words)]
    timeout: Option<String>,
    /// Folder for the result files and the suite file
    #[arg(long, value_name = "DIR", default_value = "benchmarks")]
    out: PathBuf,
}

fn direction(text: &str) -> Result<(Option<String>, &'static str), String> {
    let (name, which) =
        text.split_once('=').map_or((None, text), |(name, which)| (Some(name.to_owned()), which));
    let known = ["higher", "lower"].into_iter().find(|it| *it == which);
    Ok((name, known.ok_or("give `higher`, `lower` or, for one metric, `NAME=lower`")?))
}

/// Which direction of a metric is better, by its name alone, and whether the name says so.
fn guessed(name: &str) -> (&'static str, bool) {
    let name = name.to_ascii_lowercase();
    let mut words = name.split(|c: char| !c.is_ascii_alphabetic());
    let has = |part: &&str| name.contains(*part);
    let sure = !name.contains("neg"); // of a negative error nobody knows
    if words.any(|word| LOWER_WORDS.contains(&word)) || LOWER.iter().any(has) {
        return ("lower", sure);
    }
    ("higher", sure && HIGHER.iter().any(has))
}

fn rule(text: &str) -> Result<String, String> {
    let refused = |error| format!("this is not a regular expression: {error}");
    rules::regex(text).map(|_| text.to_owned()).map_err(refused)
}

fn time_in_words(text: &str) -> Result<String, String> {
    units::duration(text).map(|_| text.to_owned())
}

/// Runs `trainmark new`.
///
/// # Errors
/// If the arguments make no valid suite, or the file exists already.
pub fn new(args: &NewArgs) -> Result<()> {
    let text = suite(&args.command, &args.jobs, None)?;
    if args.output == Path::new("-") {
        return print(&text);
    }
    let named = || args.output.display().to_string();
    if !files::create_new(&args.output, text.as_bytes()).with_context(named)? {
        bail!("{} exists already; name another file with --output", named());
    }
    eprintln!(
        "{} is written; its comments say what you still have to fill in. Next: trainmark run --suite {0} --repeats 6",
        named()
    );
    Ok(())
}

/// Runs `trainmark time`.
///
/// # Errors
/// As `trainmark run`.
pub fn time(args: &TimeArgs) -> Result<u8> {
    let here = std::env::current_dir().context("there is no current folder")?;
    let text = suite(&args.command, &args.jobs, Some(&here))?;
    let is_key = |key: &String| {
        let words = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let of_shell = args.command.iter().any(|it| it.contains(&format!("${{{key}}}")));
        !key.is_empty() && key.chars().all(words) && !of_shell
    };
    let keys = args.command.iter().flat_map(|it| template::placeholders(it));
    for key in keys.filter(|key| key != "data" && is_key(key)).collect::<BTreeSet<_>>() {
        eprintln!(
            "note: {{{key}}} stays as it is: `trainmark time` fills in {{data}} only, and `trainmark new` makes a suite with keys"
        );
    }
    let file = args.out.join("time.toml");
    run::make_folder(&args.out)?;
    files::replace(&file, text.as_bytes()).with_context(|| file.display().to_string())?;
    let mut words = vec![
        format!("--suite={}", file.display()),
        format!("--out={}", args.out.display()),
        format!("--repeats={}", args.repeats),
    ];
    words.extend(args.warm_up.then(|| "--warm-up".to_owned()));
    words.extend(args.timeout.as_ref().map(|time| format!("--timeout={time}")));
    run::run(&run::Args::of_words(words)?)
}

/// A suite of these commands. They run from `root` or, without it, from the suite's own folder.
fn suite(commands: &[String], jobs: &Jobs, root: Option<&Path>) -> Result<String> {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let path = |path: &Path| quoted(&path.display().to_string());
    let metrics = metrics(&jobs.read)?;
    let data = match (&jobs.data, root) {
        // Of a suite that stays, the path as it was given is relative to its file.
        (Some(data), None) => path(data),
        (Some(data), Some(_)) => path(&std::path::absolute(data).context("--data")?),
        (None, _) => String::new(),
    };
    let mut text =
        "# Every key is explained in docs/your-own-training.md.\nname = \"mine\"\n".to_owned();
    text += &root.map_or(String::new(), |root| format!("root = {}\n", path(root)));
    text += "\n[task]\nname = \"mine\"\n";
    text += &match data.is_empty() {
        true => "# data = \"data\"   # a file or folder beside this file; ".to_owned(),
        false => format!("data = {data}   # "),
    };
    text += "its digest goes into every record\n";
    text += &match metrics.first() {
        Some(quality) => format!("quality = \"{quality}\"   # decides convergence\n"),
        None => "# quality = \"val_loss\"   # a metric that decides convergence\n".to_owned(),
    };
    text += "# throughput = { unit = \"samples\", per_run = \"{steps} * {batch_size}\" }\n";
    let mut named = jobs.better.iter().filter_map(|(name, _)| name.as_ref());
    if let Some(name) = named.find(|name| !metrics.contains(*name)) {
        bail!("--better {name}=...: no group of --read is called {name}");
    }
    for name in &metrics {
        let said = |of: Option<&String>| {
            jobs.better.iter().rev().find(|(name, _)| name.as_ref() == of).map(|it| (it.1, true))
        };
        let (better, known) =
            said(Some(name)).or_else(|| said(None)).unwrap_or_else(|| guessed(name));
        let mark = if known { "" } else { "   # a guess: the name does not say it" };
        text += &format!("\n[task.metrics.{name}]\nunit = \"\"\nbetter = \"{better}\"{mark}\n");
        if !known {
            let other = if better == "lower" { "higher" } else { "lower" };
            eprintln!(
                "note: {better} is taken to be better for {name:?}; --better {name}={other} says otherwise"
            );
        }
    }
    text += "\n# Keys that {braces} in a command stand for; `--set KEY=VALUE` changes them.\n[config]\n";
    let keys: BTreeSet<String> =
        commands.iter().flat_map(|it| template::placeholders(it)).collect();
    for key in keys.iter().filter(|key| root.is_none() && !PLACES.contains(&key.as_str())) {
        text += &format!("# {key} = 1   # a command names {{{key}}}: give it its value\n");
    }
    text += "# seed = 42\n\n# [models.job]\n# targets = [{ val_loss = 1.5 }]   # worse is `not converged` and never ranked\n";
    let rules: String = jobs.read.iter().map(|rule| format!("    {},\n", quoted(rule))).collect();
    let lines = commands.iter().map(|it| words(it)).collect::<Result<Vec<_>>>()?;
    let names = names(&lines);
    for ((command, words), name) in commands.iter().zip(&lines).zip(&names) {
        let as_word = |word: &String| match root {
            // Without a suite file only {data} is a placeholder.
            Some(_) => {
                quoted(&word.replace('{', "{{").replace('}', "}}").replace("{{data}}", "{data}"))
            }
            None => quoted(word),
        };
        let (program, shell, words) = match command.contains(|c| SHELL.contains(c)) {
            true => ("sh", "shell = true\n", vec![as_word(command)]),
            false => {
                let rest = words[1..].iter().map(as_word);
                (&*words[0], "", std::iter::once("\"{program}\"".to_owned()).chain(rest).collect())
            }
        };
        let prefix = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        text += &format!(
            "\n[[trainers]]\nname = {}\nprogram = {}\n{shell}command = [{}]\nbackends = [\"default\"]\n\
             models.job = {{ prefix = {} }}\n",
            quoted(name),
            quoted(program),
            words.join(", "),
            quoted(&prefix)
        );
        text += &match rules.is_empty() {
            true => "# read = ['val_loss: (?<val_loss>\\S+)', 'trained in (?<train_s>\\S+) s']\n"
                .to_owned(),
            false => format!("read = [\n{rules}]\n"),
        };
    }
    if let [first, _, ..] = &names[..] {
        text += &format!(
            "\n# The row that the others are compared with.\n[reference]\ntrainer = {}\nbackend = \"default\"\n",
            quoted(first)
        );
    }
    Suite::parse(&text, "the suite")?;
    Ok(text)
}

/// The words of a command line. Variables that stand before the program are `env`'s, as no shell reads them.
fn words(command: &str) -> Result<Vec<String>> {
    let words = shlex::split(command).filter(|words| !words.is_empty());
    let mut words =
        words.with_context(|| format!("{command:?} is not a command line: check its quotes"))?;
    if words[0].split_once('=').is_some_and(|(name, _)| !name.contains('/')) {
        words.insert(0, "env".to_owned());
    }
    Ok(words)
}

/// The metrics that the rules' groups name, in their order. Groups with a fixed meaning are left out.
fn metrics(rules: &[String]) -> Result<IndexSet<String>> {
    let mut names = IndexSet::new();
    for rule in rules {
        let regex = rules::regex(rule)?;
        let own = regex.capture_names().flatten().filter(|name| !crate::task::is_taken(name));
        names.extend(own.map(str::to_owned));
    }
    Ok(names)
}

/// A name for each command line: that of its script or, without one, of its program, with as many of the folders
/// above as tell it from the others.
fn names(commands: &[Vec<String>]) -> Vec<String> {
    let has_suffix = |word: &str| {
        let suffix = Path::new(word).extension().and_then(OsStr::to_str);
        // `0.1` and `python3.11` have none.
        suffix.is_some_and(|it| it.starts_with(|c: char| c.is_ascii_alphabetic()))
    };
    let named = |words: &Vec<String>| -> Vec<String> {
        let own = || words.iter().filter(|word| *word != "env" && !word.contains('='));
        let script = own().find(|word| !word.starts_with('-') && has_suffix(word));
        let word = script.or_else(|| own().next()).unwrap_or(&words[0]);
        let path = if has_suffix(word) { Path::new(word).with_extension("") } else { word.into() };
        let parts = path.iter().map(|it| it.to_string_lossy().into_owned());
        parts.filter(|it| it != "." && it != "/").collect()
    };
    let paths: Vec<Vec<String>> = commands.iter().map(named).collect();
    let end = |path: &[String], parts: usize| {
        path[path.len().saturating_sub(parts)..].join("/").chars().take(40).collect::<String>()
    };
    let mut names = Vec::new();
    for path in &paths {
        let others = || paths.iter().filter(|other| *other != path);
        let tells = |parts: &usize| others().all(|it| end(it, *parts) != end(path, *parts));
        let named = end(path, (1..path.len()).find(tells).unwrap_or(path.len()));
        let numbered = (2..).map(|number| format!("{named} {number}"));
        let mut free =
            std::iter::once(named.clone()).chain(numbered).filter(|it| !names.contains(it));
        names.extend(free.next());
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs(read: &[&str]) -> Jobs {
        Jobs {
            read: read.iter().map(|&rule| rule.to_owned()).collect(),
            better: Vec::new(),
            data: None,
        }
    }

    fn made(commands: &[&str], read: &[&str], root: Option<&Path>) -> Suite {
        let commands: Vec<String> = commands.iter().map(|&it| it.to_owned()).collect();
        Suite::parse(&suite(&commands, &jobs(read), root).unwrap(), "made").unwrap()
    }

    #[test]
    fn command_lines_become_trainers_and_groups_become_metrics() {
        let rules = [r"val_loss: (?<val_loss>\S+)", r"step (?<step>\d+) acc (?<acc>\S+)"];
        let suite = made(&["python a.py --lr '1 2'", "python b.py", "python a.py"], &rules, None);
        let names: Vec<&str> = suite.trainers.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "a 2"]);
        let named = |commands: &[&str]| -> Vec<String> {
            made(commands, &[], None).trainers.into_iter().map(|it| it.name).collect()
        };
        let twins = ["python3.11 old/train.py", "python3.11 ./new/train.py", "sh new/train.sh"];
        assert_eq!(named(&twins), ["old/train", "new/train", "new/train 2"]);
        let others = ["sleep 0.1", "./run.sh --config big.yaml", "N=1 python3 c.py", "N=1 make"];
        assert_eq!(named(&others), ["sleep", "run", "c", "make"]);
        assert_eq!(named(&["/x/train.py", "train.py"]), ["x/train", "train"]);
        assert_eq!(suite.reference.as_ref().unwrap().trainer, "a");
        let better: Vec<_> =
            suite.task().metrics.iter().map(|(name, it)| (name.as_str(), it.better)).collect();
        use record::task::Better::{Higher, Lower};
        assert_eq!(better, [("val_loss", Lower), ("acc", Higher)]);
        assert_eq!(suite.task().quality.as_deref(), Some("val_loss"));
    }

    #[test]
    fn a_direction_is_guessed_from_a_known_name_and_otherwise_marked_and_can_be_given_for_one() {
        for name in ["nll", "val_nll", "test_wer", "cost", "PPL", "cross_entropy_loss", "fid"] {
            assert_eq!(guessed(name), ("lower", true), "{name}");
        }
        for (name, known) in [
            ("val_acc", true),
            ("power", false),
            ("neg_score", false),
            ("foo", false),
            ("F1", true),
        ] {
            assert_eq!(guessed(name), ("higher", known), "{name}");
        }
        let mut jobs = jobs(&[r"(?<foo>\S+) (?<bar>\S+) (?<nll>\S+)"]);
        let made = |jobs: &Jobs| suite(&["python a.py".to_owned()], jobs, None);
        let text = made(&jobs).unwrap();
        assert_eq!(text.matches("better = \"higher\"   # a guess").count(), 2, "{text}");
        jobs.better = vec![direction("foo=lower").unwrap(), direction("higher").unwrap()];
        let text = made(&jobs).unwrap();
        assert_eq!(text.matches("# a guess").count(), 0, "{text}");
        assert!(text.contains("[task.metrics.foo]\nunit = \"\"\nbetter = \"lower\"\n"), "{text}");
        jobs.better = vec![direction("fo=lower").unwrap()];
        assert!(made(&jobs).unwrap_err().to_string().contains("--better fo=..."));
        assert!(direction("foo=less").is_err());
    }

    #[test]
    fn a_pipe_is_left_to_a_shell_and_braces_stay_what_they_are() {
        let suite = made(&["echo '{x}' | cat"], &[], Some(Path::new("/")));
        assert!(suite.trainers[0].shell);
        assert_eq!(suite.trainers[0].placeholders().count(), 0);
        assert!(suite.task().quality.is_none());
    }
}
