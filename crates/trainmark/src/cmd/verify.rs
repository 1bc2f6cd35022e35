//! `trainmark verify`: checks that all trainers train the same thing.

use crate::cmd::report::print;
use crate::cmd::what::{What, selection};
use crate::command::{Purpose, listing};
use crate::plan::{self, Row};
use crate::runner::cancelled_by_signals;
use crate::suite::LoadedSuite;
use crate::task::Task;
use crate::verify::{
    Examiner, FILE, Grade, Verification, VerificationFile, reference_row, to_verify,
};
use anyhow::{Context, Result, anyhow};
use measure::text::one_line;
use record::number::count;
use report::table::{Lack, absent};
use std::path::PathBuf;

/// Compare ten training steps of every row with a float64 reference.
///
/// Each trainer that takes part (docs/trainer.md) starts from the same weights, takes the same ten steps, and
/// returns its losses and parameters. The grades go into `verification.json` in the folder of the results. Every
/// report shows them, and ranks no trainer that is different. The filters are those of `trainmark run`. A row of
/// a report counts as verified if its configuration was verified; only the epochs and the seed may differ.
///
/// The exit code is 1 if a row is different or failed. It is 75 if no row was verified.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    what: What,
    /// Folder of the result files, for the grades
    #[arg(long, value_name = "DIR", default_value = "benchmarks")]
    out: PathBuf,
    /// Show every command that would be executed, word by word, and run nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs the verb.
///
/// # Errors
/// If the suite, the data or the output folder cannot be used. A trainer's failure is a grade, not an error.
pub fn run(args: &Args) -> Result<u8> {
    let loaded = LoadedSuite::find(args.what.suite.as_deref())?;
    let rows = plan::plan(&loaded.suite, &selection(&args.what)?)?;
    let rows = distinct(rows, loaded.suite.task());
    if args.dry_run {
        let rows: Vec<Row> =
            rows.iter().map(|row| to_verify(&loaded.suite, row)).collect::<Result<_>>()?;
        let all = with_references(&loaded, &rows)?;
        let mut commands = args.what.commands(&loaded, &all, Purpose::Verify)?;
        let verified = commands.iter_mut().filter(|it| it.purpose == Purpose::Verify);
        let references = verified.take(all.len() - rows.len());
        references.for_each(|it| it.purpose = Purpose::Refer);
        print(&listing(&commands))?;
        return Ok(protocol::exit::SUCCESS);
    }
    let cannot_write = || format!("--out {}: cannot be written to", args.out.display());
    std::fs::create_dir_all(&args.out).with_context(cannot_write)?;
    let known = VerificationFile::read(&args.out);
    let known = known.map_err(|it| anyhow!("{}: {it}", args.out.join(FILE).display()))?;
    let mut file = known.unwrap_or_default();

    let cancel = cancelled_by_signals()?;
    let all = with_references(&loaded, &rows)?;
    eprintln!("Suite {}, {}", loaded.shown(), count(rows.len(), "row"));
    let runner = args.what.runner(&loaded, &all, args.what.settings(&loaded), &cancel)?;
    let examiner = Examiner::new(&runner);
    let mut found = Vec::new();
    for row in &rows {
        let examined = examiner.examine(row)?;
        let Some(verification) = examined else { break };
        if verification.grade != Grade::Unavailable {
            print(&format!("{}\n", line(&row.label, &verification)))?;
        }
        found.push(verification.clone());
        // At once, so that a later failure does not lose this grade.
        file.take_in(vec![verification]);
        file.write(&args.out).with_context(cannot_write)?;
    }
    fn lack(it: &Verification) -> Lack<'_> {
        let reason = it.reason.as_deref().filter(|_| it.grade == Grade::Unavailable);
        [Some(it.executable.as_str()), Some(it.backend.as_str()), Some(it.model.as_str()), reason]
    }
    if let Some(line) = absent(&found.iter().map(lack).collect::<Vec<_>>()) {
        print(&format!("{}\n", one_line(&line)))?;
    }
    let summary = summary(&found, rows.len());
    let is_wrong = |it: &Verification| matches!(it.grade, Grade::Different | Grade::Failed);
    let wrong = found.iter().any(|it| is_wrong(it) || it.is_coarser());
    print(&format!("{summary}\nGrades: {}\n", args.out.join(FILE).display()))?;
    if cancel.is_cancelled() {
        return Ok(protocol::exit::INTERRUPTED);
    }
    if wrong {
        return Ok(protocol::exit::FAILURE);
    }
    if found.iter().any(|it| it.grade.is_equal()) {
        return Ok(protocol::exit::SUCCESS);
    }
    eprintln!("error: no row was verified; each row's line above says why");
    Ok(protocol::exit::INCONCLUSIVE)
}

/// The rows with the short training that the task gives, for trainers that do not take part in verification. Rows
/// that then are equal appear once.
fn distinct(rows: Vec<Row>, task: &Task) -> Vec<Row> {
    let mut distinct: Vec<Row> = Vec::new();
    let brief = |key: &str| task.keys.get(key).is_some_and(|key| !key.changes_steps);
    for mut row in rows {
        for (key, value) in task.verify.iter().flat_map(|it| &it.config) {
            if let Some(own) = row.config.get_mut(key).filter(|_| brief(key)) {
                *own = value.clone();
            }
        }
        if !distinct.contains(&row) {
            distinct.push(row);
        }
    }
    distinct
}

/// The rows, after the references that they need.
fn with_references(loaded: &LoadedSuite, rows: &[Row]) -> Result<Vec<Row>> {
    let mut all: Vec<Row> = Vec::new();
    for row in rows {
        if let Some(reference) = reference_row(&loaded.suite, row)?
            && !all.contains(&reference)
        {
            all.push(reference);
        }
    }
    all.extend_from_slice(rows);
    Ok(all)
}

/// One row for the terminal.
fn line(label: &str, found: &Verification) -> String {
    let mut line = format!("{label:<36} {}", found.grade.words());
    if let Some(reason) = &found.reason {
        line += &format!(": {reason}");
    }
    match (found.deterministic, &found.nondeterminism) {
        (Some(true), _) => line += "; the same bits twice",
        (Some(false), Some(what)) => line += &format!("; not the same twice: {what}"),
        _ => {}
    }
    one_line(&line).into_owned()
}

/// `5 of 7 equal to the reference, 1 different, 1 not verified`.
fn summary(found: &[Verification], all: usize) -> String {
    let count = |test: &dyn Fn(&Verification) -> bool| found.iter().filter(|it| test(it)).count();
    let equal = count(&|it| it.grade.is_equal());
    let mut summary = format!("{equal} of {all} equal to the reference");
    let others = [
        (Grade::Different, "different"),
        (Grade::Failed, "failed"),
        (Grade::NotVerified, "not verified"),
        (Grade::Unavailable, "unavailable here"),
    ];
    for (grade, words) in others {
        let number = count(&|it| it.grade == grade);
        if number > 0 {
            summary += &format!(", {number} {words}");
        }
    }
    let coarser = count(&Verification::is_coarser);
    if coarser > 0 {
        summary += &format!("; {coarser} only in coarser precision than stated");
    }
    let loose = count(&|it| it.deterministic == Some(false));
    if loose > 0 {
        summary += &format!("; {loose} not deterministic");
    }
    summary
}
