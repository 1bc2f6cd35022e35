//! `trainmark suites`: lists the built-in suites and their purposes.

use crate::builtin;
use crate::cmd::report::print;
use crate::suite::Suite;
use anyhow::Result;
use record::number::count;
use report::console::{Style, paragraph};

/// List the built-in suites and their purposes.
///
/// Other commands take a name of this list, or the path of a suite file, as `--suite`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the text of this suite, for example to start a suite file from it
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

/// Runs the verb.
///
/// # Errors
/// If there is no suite of that name.
pub fn run(args: &Args) -> Result<()> {
    let text = match &args.name {
        Some(name) => {
            let unknown = || crate::suite::unknown(std::path::Path::new(name));
            builtin::suite(name).ok_or_else(unknown)?.1.to_owned()
        }
        None => list(Style::stdout())?,
    };
    print(&text)
}

fn list(style: Style) -> Result<String> {
    let mut text = String::new();
    for (name, suite) in builtin::suites() {
        let purpose = suite.lines().next().unwrap_or_default().trim_start_matches("# ");
        let parsed = Suite::parse(suite, name)?;
        let trainers: Vec<&str> = parsed.trainers.iter().map(|it| it.name.as_str()).collect();
        let size = format!("{}: {}", count(trainers.len(), "trainer"), trainers.join(", "));
        text += &paragraph(&format!("{name:<12}"), purpose, None, style);
        text += &paragraph(&" ".repeat(12), &size, None, style);
    }
    let next = "trainmark run --suite NAME; `trainmark suites NAME` prints the suite";
    Ok(text + "\n" + &paragraph("Next: ", next, None, style))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_fits_a_narrow_terminal() {
        for width in [40, 80] {
            let text = list(Style { width, color: false }).unwrap();
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(width.into()), "{text}");
            assert!(text.lines().any(|line| line.starts_with("frameworks  ")), "{text}");
        }
    }
}
