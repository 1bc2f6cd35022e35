//! Sentences on how to read the rows: what they were compared with, and what they are not.

use super::collection::{Row, Turn};
use super::compare::SpeedUp;
use super::summary::{Options, Summary};
use super::text::{self, count};
use crate::machine::Machine;
use crate::report::old_result::{AccuracySource, Status};
use crate::stats;
use crate::verify::Grade;
use indexmap::IndexMap;
use record::Verdict;

/// Reasons and files that are listed one by one; the rest are counted.
const LISTED: usize = 20;

pub(super) fn notes(summary: &Summary, options: &Options) -> Vec<String> {
    let mut notes = Vec::new();
    notes.extend(unmeasured_reference(summary));
    notes.extend(converged(summary));
    notes.extend(shown(summary));
    notes.extend(noise(summary));
    notes.extend(outliers(summary));
    notes.extend(rates(summary));
    races(summary, &mut notes);
    notes.extend(origin(summary, options));
    notes.extend(verified(summary));
    reasons(summary, &mut notes);
    notes.extend(skipped(summary));
    notes
}

/// What the speed-ups are; `None` where no row has one but the reference itself.
pub(super) fn speed_up(summary: &Summary) -> Option<String> {
    let reference = summary.reference.as_ref()?;
    let is_other = |row: &Row| {
        summary.executable(row) != reference.executable || summary.backend(row) != reference.backend
    };
    let mut rows = summary.rows().iter();
    if !rows.any(|row| row.speed_up.is_some() && is_other(row)) {
        return None;
    }
    let (first, others) = summary.bases.split_first()?;
    let mut note = format!(
        "Speed-up is against {reference} with the same model, configuration and dataset, by {}",
        first.words()
    );
    for basis in others {
        note += &format!("; where a row lacks that, by {}", basis.words());
    }
    note.push('.');
    if summary.tally.uncompared {
        note += " Rows without one have no measured counterpart.";
    }
    Some(note)
}

/// The user asked for a reference that cannot serve as one.
fn unmeasured_reference(summary: &Summary) -> Option<String> {
    let reference = summary.reference.as_ref()?;
    let unmeasured = summary.bases.is_empty();
    unmeasured.then(|| format!("There are no speed-ups: {reference} was not measured."))
}

/// What of the speed-ups is a claim.
fn shown(summary: &Summary) -> Option<String> {
    let speed_ups = || summary.rows().iter().filter_map(|row| row.speed_up);
    if !summary.tally.speed_up_intervals {
        return None;
    }
    let mut note =
        "A speed-up is shown to be one where its 95 % interval does not contain 1 and it \
                    exceeds the noise floor"
            .to_owned();
    let floors = summary.rows().iter().filter_map(|row| summary.noise_floor(row));
    match floors.max_by(|a, b| a.share.total_cmp(&b.share)) {
        Some(floor) => {
            let (share, measured) = (floor.share * 100.0, &floor.measured);
            note += &format!(" (at most {share:.2} % here, measured {measured})");
        }
        None => note += " (not measured here: `trainmark noise`)",
    }
    let unshown = |it: &SpeedUp| it.interval.is_some() && it.verdict == Verdict::NoDifference;
    if speed_ups().any(|it| unshown(&it)) {
        note += "; ~ marks those of which no difference is shown";
    }
    Some(note + ".")
}

/// What else the machines did.
fn noise(summary: &Summary) -> Option<String> {
    let (noisy, repeated) = (summary.tally.noisy_runs, summary.tally.repeated_runs);
    if noisy == 0 {
        return None;
    }
    let all = repeated + summary.tally.counted_runs;
    let was = if noisy == 1 { "was" } else { "were" };
    let mut note = format!(
        "{noisy} of {} {was} disturbed by other load, steal time, moved cores, a falling clock \
         or throttling: see `disturbances` in the result files",
        count(all as usize, "run")
    );
    if repeated > 0 {
        note += &format!("; {repeated} of these were repeated and count in no figure");
    }
    Some(note + ".")
}

/// Runs far from the others of their row.
fn outliers(summary: &Summary) -> Option<String> {
    type Clock = fn(&Turn) -> Option<f64>;
    let all = summary.tally.turns;
    if all == 0 {
        return None;
    }
    let clocks: [Clock; 2] = [|turn| turn.train_s.known(), |turn| turn.wall_s.known()];
    let of_row = |row: &Row| {
        let seconds = |clock: &Clock| row.turns.iter().map(*clock).collect::<Option<Vec<f64>>>();
        clocks.iter().find_map(seconds).map_or(0, |seconds| stats::outliers(&seconds))
    };
    let number: usize = summary.rows().iter().map(of_row).sum();
    let were = if number == 1 { "was an outlier" } else { "were outliers" };
    (number > 0).then(|| {
        format!(
            "{number} of {} {were}, more than five robust standard deviations from the row's median time: \
             kept and counted like the others, which medians and their intervals bear.",
            count(all, "repeated run")
        )
    })
}

/// What the operations per second are.
fn rates(summary: &Summary) -> Option<String> {
    if !summary.has_rates() {
        return None;
    }
    let mut note =
        "GFLOP/s are the operations that the trainer says it carried out, per second of \
                    its training"
            .to_owned();
    note += match summary.tally.shares {
        true => "; their share is of the multiply-adds that `trainmark machine` measured there.",
        false => "; what share of the machine's peak that is, `trainmark machine` would tell.",
    };
    Some(note)
}

/// Who came first, and why.
fn races(summary: &Summary, notes: &mut Vec<String>) {
    if !summary.tally.races {
        return;
    }
    let racing = || summary.rows().iter().filter_map(|row| Some((row, row.race()?)));
    let mut note = "Time to target is the trainer's own clock up to the first epoch after which it \
                    reached the accuracy asked for, by its own tests, which are off that clock; the \
                    harness scores the last"
        .to_owned();
    let lost = racing().filter(|(_, race)| race.reached < race.runs).count();
    if lost > 0 {
        note += &format!("; {} did not reach it in every run", count(lost, "row"));
    }
    notes.push(note + ".");
    for (row, _) in racing().take(LISTED) {
        if let Some(it) = row.race_speed_up().filter(|it| it.factor != 1.0) {
            let (executable, model) = (summary.executable(row), summary.model(row));
            let backend = summary.backend(row);
            notes.push(format!(
                "{executable} {model} {backend} reaches the target {:.2}x as fast as the reference: \
                 {:.2}x by seconds per step, {:.2}x by the number of steps.",
                it.factor, it.by_step_time, it.by_steps
            ));
        }
    }
}

/// What is not ranked, and whose accuracies they are.
fn converged(summary: &Summary) -> Vec<String> {
    let rows = || summary.rows().iter();
    let mut notes = Vec::new();
    if summary.statuses.contains_key(&Status::NotConverged) {
        let mut targets: Vec<(&str, f64)> = rows()
            .filter(|row| row.status == Status::NotConverged)
            .filter_map(|row| Some((summary.model(row), row.target_accuracy_percent?)))
            .collect();
        targets.sort_by(|a, b| a.0.cmp(b.0).then(a.1.total_cmp(&b.1)));
        targets.dedup();
        let listed = targets.iter().take(LISTED);
        let listed: Vec<String> = listed.map(|(model, it)| format!("{model} {it:.2} %")).collect();
        let targets = match listed.is_empty() {
            true => String::new(),
            false => format!(" ({})", listed.join(", ")),
        };
        notes.push(format!(
            "Rows that are not converged ended below their target accuracy{targets}: they are not \
             ranked and have no speed-up."
        ));
    }
    if summary.tally.held_to_the_suites_target {
        notes.push(
            "Files that name no target are held to the built-in suite's for MNIST.".to_owned(),
        );
    }
    if summary.tally.software {
        notes.push("Rows on a software imitation of a device are not ranked.".to_owned());
    }
    let claimed = if summary.only_specification { 0 } else { summary.tally.unscored };
    if claimed > 0 {
        notes.push(format!(
            "Accuracies marked \u{2020} are what the trainer says ({}); the others were scored from \
             its predictions.",
            count(claimed, "row")
        ));
    }
    notes
}

/// Whether an accuracy is shown as the trainer's own claim. Nobody claims otherwise of the files of
/// the specification's own scripts alone.
pub(super) fn is_claimed(summary: &Summary, row: &Row) -> bool {
    !summary.only_specification
        && row.metrics().test_accuracy_percent.is_some()
        && row.accuracy_source != Some(AccuracySource::Scored)
}

/// What was found different, and what nobody verified.
fn verified(summary: &Summary) -> Vec<String> {
    let rows = || summary.rows().iter();
    let mut notes = Vec::new();
    if !summary.has_verifications() {
        // The specification's own files know nothing of it.
        if !summary.only_specification && summary.statuses.keys().any(|it| it.completed()) {
            notes.push(
                "No row is verified: `trainmark verify` compares ten training steps of each with a \
                 float64 reference."
                    .to_owned(),
            );
        }
        return notes;
    }
    notes.push(
        "Verified: how ten training steps compare with a float64 reference, bit-equal, within the \
         rounding of float32, tf32 or bf16, or different."
            .to_owned(),
    );
    if summary.tally.different {
        notes.push(
            "Rows that are different compute something else: they are not ranked and have no \
             speed-up."
                .to_owned(),
        );
    }
    let mut reasons: IndexMap<String, usize> = IndexMap::new();
    for row in rows() {
        let Some(it) = summary.verification(row) else { continue };
        let (executable, model, backend) = (&it.executable, &it.model, &it.backend);
        if let (Grade::Different | Grade::Failed, Some(reason)) = (it.grade, &it.reason) {
            let said = format!("{executable} {model} {backend}: {}", text::visible(reason, 300));
            *reasons.entry(said).or_default() += 1;
        }
        if let (Some(false), Some(what)) = (it.deterministic, &it.nondeterminism) {
            let what = text::visible(what, 300);
            let said = format!("{executable} {model} {backend}: not the same bits twice: {what}");
            *reasons.entry(said).or_default() += 1;
        }
    }
    notes.extend(reasons.into_keys().take(LISTED));
    notes
}

/// Where the rows come from, if not from one place.
fn origin(summary: &Summary, options: &Options) -> Vec<String> {
    let mut notes = Vec::new();
    let runs = summary.runs().len();
    let nameless = summary.tally.without_run;
    if runs > 1 || (runs > 0 && nameless > 0) {
        let mut note = format!("Rows come from {}", count(runs, "run"));
        if nameless > 0 {
            note += &format!(", and {} that name none", count(nameless, "file"));
        }
        if !options.latest {
            note += "; --latest keeps only the newest row of each combination";
        }
        notes.push(note + ".");
    }
    if summary.datasets().len() > 1 {
        notes.push("Rows of different datasets are never compared with each other.".to_owned());
    }
    if summary.machines().len() > 1 {
        notes.push("Rows of different machines are never compared with each other.".to_owned());
        let machines = summary.machines().enumerate().take(LISTED);
        notes.extend(
            machines.map(|(index, it)| format!("Machine {}: {}.", index + 1, hardware(it))),
        );
    }
    notes
}

/// A machine in one line.
fn hardware(machine: &Machine) -> String {
    let mut parts = vec![machine.cpu.clone().unwrap_or_else(|| "unknown CPU".to_owned())];
    parts.extend(machine.cores.map(|cores| count(cores, "core")));
    parts.extend(machine.threads.map(|threads| count(threads, "thread")));
    parts.extend(machine.architecture.clone());
    parts.extend(machine.gpus.iter().cloned());
    parts.join(", ")
}

/// Why rows were not measured, each reason once.
fn reasons(summary: &Summary, notes: &mut Vec<String>) {
    if summary.statuses.keys().all(|it| it.completed()) {
        return;
    }
    let mut rows: IndexMap<_, usize> = IndexMap::new();
    for row in summary.rows().iter().filter(|row| !row.status.completed()) {
        let Some(reason) = summary.reason(row) else { continue };
        let backend = (summary.executable(row), summary.model(row), summary.backend(row));
        *rows.entry((backend, row.status, reason)).or_default() += 1;
    }
    for (((executable, model, backend), status, reason), number) in rows.iter().take(LISTED) {
        let times = if *number > 1 { format!(" ({number} rows)") } else { String::new() };
        // Reasons may quote a trainer's output at length.
        let reason = text::visible(reason, 300);
        notes.push(format!("{executable} {model} {backend}: {status}{times}: {reason}"));
    }
    if rows.len() > LISTED {
        notes.push(format!("{} more.", count(rows.len() - LISTED, "reason")));
    }
}

/// Files that were left out.
fn skipped(summary: &Summary) -> Option<String> {
    let files = summary.skipped();
    if files.is_empty() {
        return None;
    }
    let names: Vec<&str> = files.iter().take(LISTED).map(|skipped| &*skipped.file).collect();
    let more = if files.len() > LISTED { ", ..." } else { "" };
    let left_out = if files.len() == 1 { "was" } else { "were" };
    let number = count(files.len(), "file");
    Some(format!("{number} {left_out} left out: {}{more}.", names.join(", ")))
}
