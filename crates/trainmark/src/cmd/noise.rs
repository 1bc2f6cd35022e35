//! `trainmark noise`: compares one row with itself.

use crate::campaign::Campaign;
use crate::cmd::report::print;
use crate::cmd::what::{What, selection};
use crate::command::{Purpose, listing};
use crate::executor::Local;
use crate::plan::{self, Row};
use crate::progress::Progress;
use crate::runner::cancelled_by_signals;
use crate::schedule::Schedule;
use crate::suite::LoadedSuite;
use crate::units;
use anyhow::{Context, Result, bail};
use measure::machine::Machine;
use measure::provenance::Moment;
use measure::text::one_line;
use record::noise::{Analysis, NoiseRecord, SCHEMA_VERSION, WINDOW};
use record::{Record, Sample, noise_store};
use std::time::Duration;

/// Measure the smallest difference that this machine can show, by comparing a row with itself.
///
/// The row is trained twice in every round. The comparison shows how often a false difference is claimed, and how
/// large a difference must be to be claimed. The result is kept for this machine: later runs write it into their
/// result files, and no report or comparison claims a smaller difference.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    what: What,
    /// Number of rounds of two samples
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = enough)]
    rounds: u32,
    /// Number of rounds in one comparison
    #[arg(long, value_name = "N", default_value_t = WINDOW as u32, value_parser = enough)]
    window: u32,
    /// Time after which no round begins
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "5m")]
    max_time: Duration,
    /// Print the record as JSON
    #[arg(long)]
    json: bool,
    /// Do not keep the result for later runs
    #[arg(long)]
    no_store: bool,
    /// Show every command that would be executed, word by word, and run nothing
    #[arg(long)]
    dry_run: bool,
}

/// Of rounds, as many as an interval takes.
fn enough(text: &str) -> Result<u32, String> {
    let rounds = text.parse().map_err(|_| "give a whole number".to_owned())?;
    match rounds < WINDOW as u32 {
        true => Err(format!("too few rounds for an interval; give at least {WINDOW}")),
        false => Ok(rounds),
    }
}

/// Runs the verb.
///
/// # Errors
/// If there is no such row, if it does not complete, or if too few rounds fit into the time.
pub fn run(args: &Args) -> Result<u8> {
    if args.window > args.rounds {
        bail!("--window {}: there are only {} rounds; raise --rounds", args.window, args.rounds);
    }
    let loaded = LoadedSuite::find(args.what.suite.as_deref())?;
    let row = choose(args, &loaded)?;
    let rows = [row.clone(), row.clone()];
    if args.dry_run {
        print(&listing(&args.what.commands(&loaded, &rows[..1], Purpose::Train)?))?;
        return Ok(protocol::exit::SUCCESS);
    }
    let label = &row.label;
    let cancel = cancelled_by_signals()?;
    eprintln!("{label} compared with itself, {} rounds", args.rounds);
    let schedule = Schedule {
        repeats: args.rounds,
        until: None,
        max_time: Some(args.max_time),
        warm_up: true,
        seed: 0,
    };
    // Noisy samples are not repeated, because the noise is to be measured.
    let runner = args.what.runner(&loaded, &rows, args.what.settings(&loaded), &cancel)?;
    let progress = Progress::new(&loaded.suite, &rows, &schedule, &runner.trainers);
    let mut campaign = Campaign::new(&runner, &rows, None, progress);
    campaign.train(&schedule, &mut Local { runner: &runner, rows: &rows, side_by_side: false })?;
    if let Some(why) = cancel.reason() {
        eprintln!("error: {why}; nothing is kept");
        return Ok(protocol::exit::INTERRUPTED);
    }
    let [a, b] = &campaign.rows[..] else { unreachable!("there are two rows") };
    for row in [a, b] {
        if !row.repeatable() {
            let reason = one_line(row.result.reason.as_deref().unwrap_or_default()).into_owned();
            bail!("the row did not complete: {}: {reason}", row.result.status);
        }
    }
    let a_first: Vec<bool> =
        (0..a.result.samples.len() as u32).map(|round| schedule.order(round, 2)[0] == 0).collect();
    let (a, b) = (&a.result, &b.result);
    let (rounds, figure) = pairs(a, b, &a_first);
    let Some(analysis) = Analysis::new(&rounds, &a_first, args.window as usize) else {
        bail!(
            "{label}: {} rounds in {} s are too few: {} are needed; raise --max-time",
            rounds.len(),
            args.max_time.as_secs(),
            args.window
        );
    };
    let samples = a.samples.iter().chain(&b.samples);
    let record = NoiseRecord {
        schema_version: SCHEMA_VERSION,
        measured: Moment::now().utc,
        harness: env!("CARGO_PKG_VERSION").to_owned(),
        executable: a.executable.clone(),
        model: row.model.clone(),
        backend: row.backend.clone(),
        config: row.config.clone(),
        dataset: runner.dataset.name.clone(),
        machine: a.machine.as_deref().cloned().unwrap_or_else(Machine::detect),
        figure: figure.to_owned(),
        rounds,
        a_first,
        noisy_runs: samples.filter(|sample| !sample.disturbances.is_empty()).count(),
        analysis,
    };
    match args.json {
        true => print(&format!("{}\n", serde_json::to_string_pretty(&record)?))?,
        false => print(&describe(&record, label))?,
    }
    if !args.no_store {
        let file = noise_store::keep(&record).context("the noise floor cannot be saved")?;
        eprintln!("Kept in {}", file.display());
    }
    Ok(protocol::exit::SUCCESS)
}

/// The row: the first that the filters select, and by default one of the suite's reference.
fn choose(args: &Args, loaded: &LoadedSuite) -> Result<Row> {
    let mut wanted = selection(&args.what)?;
    if let Some(reference) = &loaded.suite.reference {
        let or = |names: &mut Vec<String>, name: &String| {
            if names.is_empty() {
                names.push(name.clone());
            }
        };
        or(&mut wanted.trainers, &reference.trainer);
        or(&mut wanted.backends, &reference.backend);
    }
    plan::plan(&loaded.suite, &wanted)?.into_iter().next().context("the suite has no row")
}

/// The seconds of each round's two samples, in the order in which they ran, and the name of the clock.
fn pairs(a: &Record, b: &Record, a_first: &[bool]) -> (Vec<[f64; 2]>, &'static str) {
    type Clock = fn(&Sample) -> Option<f64>;
    let clocks: [(Clock, &str); 2] =
        [(|it| it.timing.train_s, "train_s"), (|it| it.timing.wall_s, "wall_s")];
    let all = || a.samples.iter().zip(&b.samples).zip(a_first);
    for (clock, name) in clocks {
        let pairs = all().map(|((a, b), a_first)| {
            let (a, b) = (clock(a)?, clock(b)?);
            (a > 0.0 && b > 0.0).then_some(if *a_first { [a, b] } else { [b, a] })
        });
        if let Some(pairs) = pairs.collect() {
            return (pairs, name);
        }
    }
    (Vec::new(), "wall_s")
}

fn describe(record: &NoiseRecord, label: &str) -> String {
    let Analysis { window, together, apart, deviation, floor, floor_apart, smallest_shown } =
        &record.analysis;
    let percent = |share: f64| format!("{:.2} %", share * 100.0);
    let mut text = format!(
        "{label} compared with itself: {} rounds of two samples, by {}\n\n\
         The ratio of one round varies by {} (standard deviation).\n",
        record.rounds.len(),
        record.figure,
        percent(*deviation)
    );
    for (claims, how) in [
        (together, "in turns, as rows of one run"),
        (apart, "one after the other, as with trainmark compare"),
    ] {
        text += &format!(
            "False positives {how}: {} of {} comparisons of {window} rounds ({:.1} %).\n",
            claims.claims,
            claims.comparisons,
            claims.rate() * 100.0
        );
    }
    text += &format!(
        "Noise floor: {} in turns, {} one after the other. 19 of 20 such comparisons find less. No smaller \
         difference is claimed.\n\nSmallest difference that 95 of 100 comparisons in turns show:\n",
        percent(*floor),
        percent(floor_apart.unwrap_or(*floor))
    );
    for (rounds, effect) in smallest_shown {
        text += &format!("  {rounds:>4} rounds  {:>9}\n", percent(*effect));
    }
    if record.noisy_runs > 0 {
        text += &format!(
            "\n{} of {} samples were disturbed. The result is for a machine as busy as now. Measure again when \
             nothing else runs.\n",
            record.noisy_runs,
            2 * record.rounds.len()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::Timing;

    fn row(times: &[(Option<f64>, f64)]) -> Record {
        let mut result = Record::default();
        for &(train_s, wall) in times {
            let timing = Timing { train_s, wall_s: Some(wall), ..Timing::default() };
            result.add_sample(Sample { timing, ..Sample::default() });
        }
        result
    }

    #[test]
    fn pairs_stand_in_the_order_in_which_they_ran() {
        let (a, b) = (
            row(&[(Some(1.0), 9.0), (Some(2.0), 9.0)]),
            row(&[(Some(3.0), 9.0), (Some(4.0), 9.0)]),
        );
        assert_eq!(pairs(&a, &b, &[true, false]), (vec![[1.0, 3.0], [4.0, 2.0]], "train_s"));
        let silent = row(&[(None, 5.0), (Some(2.0), 6.0)]);
        assert_eq!(pairs(&silent, &b, &[true, true]), (vec![[5.0, 9.0], [6.0, 9.0]], "wall_s"));
    }
}
