//! `trainmark completions` and `trainmark man`: from the same definition as the help.

use crate::cli::Cli;
use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

/// Print completions for a shell.
///
/// For bash: trainmark completions bash > ~/.local/share/bash-completion/completions/trainmark
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Print the manual page, for `man -l -` or a package.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Command whose page to print [default: the whole program]
    verb: Option<String>,
}

/// Prints completions.
///
/// # Errors
/// If standard output cannot be written to.
pub fn completions(args: &CompletionsArgs) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "trainmark", &mut text);
    super::report::print(&String::from_utf8_lossy(&text))
}

/// Prints a manual page.
///
/// # Errors
/// If there is no such verb, or standard output cannot be written to.
pub fn man(args: &ManArgs) -> Result<()> {
    let mut program = Cli::command();
    program.build(); // verbs get their full names
    let command = match &args.verb {
        None => program,
        Some(verb) => program
            .find_subcommand(verb)
            .with_context(|| format!("man {verb}: there is no such command; see trainmark --help"))?
            .clone(),
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).context("the manual page")?;
    super::report::print(&String::from_utf8_lossy(&page))
}
