//! Sentences on how to read the rows: what they were compared with, and what they are not. The largest
//! caveat stands first.

use crate::text::{self, count, visible};
use indexmap::IndexMap;
use measure::machine::Machine;
use record::figures::CLOCKS;
use record::summary::{Row, Summary};
use record::verification::Grade;
use record::{Sample, Status, Verdict, stats};

/// Reasons and files that are listed one by one; the rest are counted.
const LISTED: usize = 20;

/// All of them, in the order in which they matter.
/// `speed_ups`: whether the document shows them.
pub fn notes(summary: &Summary, speed_ups: bool) -> Vec<String> {
    let mut notes = Vec::new();
    notes.extend(disturbed(summary));
    notes.extend(speed_ups.then(|| speed_up(summary)).flatten());
    notes.extend(shown(summary));
    convergence(summary, &mut notes);
    notes.extend(outliers(summary));
    races(summary, &mut notes);
    origin(summary, &mut notes);
    verified(summary, &mut notes);
    reasons(summary, &mut notes);
    notes.extend(duplicates(summary));
    notes.extend(skipped(summary));
    notes
}

fn rows(summary: &Summary) -> impl Iterator<Item = &Row> {
    summary.rows.iter()
}

fn samples(summary: &Summary) -> impl Iterator<Item = &Sample> {
    rows(summary).flat_map(|row| &row.record.samples)
}

/// What else the machines did.
fn disturbed(summary: &Summary) -> Option<String> {
    let noisy = samples(summary).filter(|sample| !sample.disturbances.is_empty());
    let (noisy, repeated) =
        (noisy.count(), samples(summary).filter(|sample| sample.superseded).count());
    if noisy == 0 {
        return None;
    }
    let all = samples(summary).count();
    let was = if noisy == 1 { "was" } else { "were" };
    let mut note = format!(
        "{noisy} of {} {was} disturbed by other load, steal time, moved cores, a falling clock \
         or throttling: `trainmark show FILE` tells by what",
        count(all, "sample")
    );
    if repeated > 0 {
        note += &format!("; {repeated} of these were repeated and count in no figure");
    }
    Some(note + ".")
}

/// What the speed-ups are.
fn speed_up(summary: &Summary) -> Option<String> {
    let reference = summary.reference.as_ref()?;
    let clocks = summary.clocks();
    let Some((first, others)) = clocks.split_first() else {
        return Some(format!("There are no speed-ups: {reference} was not measured."));
    };
    if !summary.compares() {
        return None;
    }
    let mut note = format!(
        "Speed-up is against {reference} with the same model, configuration and dataset, by {}",
        first.help
    );
    for clock in others {
        note += &format!("; where rows lack that, by {}", clock.help);
    }
    note.push('.');
    if rows(summary).any(|row| row.is_ranked() && row.speed_up.is_none()) {
        note += " Rows without one have no measured counterpart.";
    }
    Some(note)
}

/// What of the speed-ups is a claim.
fn shown(summary: &Summary) -> Option<String> {
    let others = || rows(summary).filter(|row| !row.is_reference);
    let has = |verdict| others().any(|row| row.speed_up.is_some_and(|it| it.verdict == verdict));
    if summary.only_specification || !summary.compares() {
        return None;
    }
    let mut note =
        "A speed-up is shown to be one where its 95 % interval does not contain 1 and it \
                    exceeds the noise floor"
            .to_owned();
    let floors = rows(summary).filter_map(|row| row.record.noise_floor.as_ref());
    match floors.max_by(|a, b| a.share.total_cmp(&b.share)) {
        Some(floor) => {
            let (share, measured) = (floor.share * 100.0, &floor.measured);
            note += &format!(" (at most {share:.2} % here, measured {measured})");
        }
        None => note += " (not measured here: `trainmark noise`)",
    }
    if has(Verdict::NoDifference) {
        note += "; ≈ marks those of which no difference is shown";
    }
    if has(Verdict::Inconclusive) {
        note += "; ~ marks those with too few samples to say anything (`--repeats 6` is enough)";
    }
    Some(note + ".")
}

/// What is not ranked, and who measured the metrics.
fn convergence(summary: &Summary, notes: &mut Vec<String>) {
    let missed = rows(summary).filter(|row| row.record.status == Status::NotConverged);
    let mut targets: Vec<String> = missed
        .filter_map(|row| {
            let (metric, _, target) = row.record.missed_target()?;
            let of = row.record.task().metrics.get(metric)?;
            let unit = if of.unit.is_empty() { String::new() } else { format!(" {}", of.unit) };
            Some(format!("{} {target:.2}{unit}", row.record.model))
        })
        .collect();
    targets.sort();
    targets.dedup();
    if summary.statuses.contains_key(&Status::NotConverged) {
        targets.truncate(LISTED);
        let targets = match targets.is_empty() {
            true => String::new(),
            false => format!(" ({})", targets.join(", ")),
        };
        notes.push(format!(
            "Rows that are not converged missed their target{targets}: they are not ranked and have \
             no speed-up."
        ));
    }
    let missed = |row: &Row| row.record.status == Status::NotConverged;
    if rows(summary).any(|row| row.record.schema_version == 0 && missed(row)) {
        notes.push("Files that name no target are held to the built-in suite's.".to_owned());
    }
    if rows(summary).any(Row::is_software) {
        notes.push("Rows on a software imitation of a device are not ranked.".to_owned());
    }
    let claims = |row: &&Row| summary.figures.iter().any(|figure| figure.is_claimed(&row.record));
    let claimed = rows(summary).filter(claims).count();
    if claimed > 0 && !summary.only_specification {
        notes.push(format!(
            "Values marked \u{2020} are what the trainer says ({}); the others were scored from its \
             predictions.",
            count(claimed, "row")
        ));
    }
}

/// Samples far from the others of their row.
fn outliers(summary: &Summary) -> Option<String> {
    let clocks: Vec<_> = CLOCKS.iter().filter_map(|clock| summary.figure(clock)).collect();
    let (mut all, mut number) = (0, 0);
    for row in rows(summary).filter(|row| row.record.samples.len() > 1) {
        let values = clocks.iter().map(|clock| clock.samples(&row.record));
        let values = values.max_by_key(Vec::len).unwrap_or_default();
        let values: Vec<f64> = values.into_iter().map(|(_, value)| value).collect();
        all += values.len();
        number += stats::outliers(&values);
    }
    let were = if number == 1 { "was an outlier" } else { "were outliers" };
    (number > 0).then(|| {
        format!(
            "{number} of {} {were}, more than five robust standard deviations from the row's median \
             time: kept and counted like the others, which medians and their intervals bear.",
            count(all, "sample")
        )
    })
}

/// Who came first, and why.
fn races(summary: &Summary, notes: &mut Vec<String>) {
    let racing = || rows(summary).filter_map(|row| Some((row, row.record.race.as_deref()?)));
    if racing().next().is_none() {
        return;
    }
    let mut note =
        "Time to target is the trainer's own clock up to its first test that reached the \
                    target; its tests are off that clock, and the harness scores the last"
            .to_owned();
    let lost = racing().filter(|(_, race)| race.reached < race.runs).count();
    if lost > 0 {
        note += &format!("; {} did not reach it in every sample", count(lost, "row"));
    }
    notes.push(note + ".");
    for (row, it) in racing().filter_map(|(row, _)| Some((row, row.race_speed_up?))).take(LISTED) {
        if !row.is_reference {
            notes.push(format!(
                "{} reaches the target {:.2}x as fast as the reference: {:.2}x by seconds per step, \
                 {:.2}x by the number of steps.",
                name(row),
                it.factor,
                it.by_step_time,
                it.by_steps
            ));
        }
    }
}

fn name(row: &Row) -> String {
    format!("{} {} {}", row.record.executable, row.record.model, row.record.backend)
}

/// Where the rows come from, if not from one place.
fn origin(summary: &Summary, notes: &mut Vec<String>) {
    let runs = summary.runs().len();
    let nameless = rows(summary).filter(|row| row.record.run.is_none()).count();
    if runs > 1 || (runs > 0 && nameless > 0) {
        let mut note = format!("Rows come from {}", count(runs, "run"));
        if nameless > 0 {
            note += &format!(", and {} that name none", count(nameless, "file"));
        }
        if !summary.latest {
            note += "; --latest keeps only the newest of each";
        }
        notes.push(note + ".");
    }
    if summary.datasets.len() > 1 {
        notes.push("Rows of different datasets are never compared with each other.".to_owned());
    }
    if summary.machines.len() > 1 {
        notes.push("Rows of different machines are never compared with each other.".to_owned());
        let machines = summary.machines.iter().enumerate().take(LISTED);
        let machines =
            machines.map(|(index, it)| format!("Machine {}: {}.", index + 1, hardware(it)));
        notes.extend(machines);
    }
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

/// What was found different, and what nobody verified.
fn verified(summary: &Summary, notes: &mut Vec<String>) {
    if !summary.has_verifications() {
        // The specification's own files know nothing of it.
        let can_be = summary.rows.iter().any(|row| row.record.task().verify.is_some());
        if can_be && !summary.only_specification && summary.statuses.keys().any(|it| it.completed())
        {
            notes.push(
                "No row is verified: `trainmark verify` compares ten training steps of each with a \
                 float64 reference."
                    .to_owned(),
            );
        }
        return;
    }
    notes.push(
        "Verified: how ten training steps compare with a float64 reference, bit-equal, within the \
         rounding of float32, tf32 or bf16, or different. Rows that are different compute something \
         else: they are not ranked and have no speed-up."
            .to_owned(),
    );
    let mut reasons: IndexMap<String, ()> = IndexMap::new();
    for it in rows(summary).filter_map(|row| summary.verification(row)) {
        let name = format!("{} {} {}", it.executable, it.model, it.backend);
        if let (Grade::Different | Grade::Failed, Some(reason)) = (it.grade, &it.reason) {
            reasons.insert(format!("{name}: {}", visible(reason, 300)), ());
        }
        if let (Some(false), Some(what)) = (it.deterministic, &it.nondeterminism) {
            reasons.insert(format!("{name}: not the same bits twice: {}", visible(what, 300)), ());
        }
    }
    notes.extend(reasons.into_keys().take(LISTED));
}

/// Why rows were not measured, each reason once.
fn reasons(summary: &Summary, notes: &mut Vec<String>) {
    let mut reasons: IndexMap<(String, Status, &str), usize> = IndexMap::new();
    for row in rows(summary).filter(|row| !row.record.status.completed()) {
        if let Some(reason) = row.record.reason.as_deref() {
            *reasons.entry((name(row), row.record.status, reason)).or_default() += 1;
        }
    }
    for ((name, status, reason), number) in reasons.iter().take(LISTED) {
        let times = if *number > 1 { format!(" ({number} rows)") } else { String::new() };
        // Reasons may quote a trainer's output at length.
        notes.push(format!("{name}: {status}{times}: {}", text::visible(reason, 300)));
    }
    if reasons.len() > LISTED {
        notes.push(format!("{} more.", count(reasons.len() - LISTED, "reason")));
    }
}

/// Copies.
fn duplicates(summary: &Summary) -> Option<String> {
    let first = summary.duplicates.first()?;
    let number = count(summary.duplicates.len(), "file");
    let (file, reason) = (&first.file, &first.reason);
    Some(format!(
        "{number} only repeat samples of others and do not count, for example {file}, which {reason}."
    ))
}

/// Files that were left out.
fn skipped(summary: &Summary) -> Option<String> {
    let files = &summary.skipped;
    let names: Vec<&str> = files.iter().take(LISTED).map(|it| it.file.as_str()).collect();
    let more = if files.len() > LISTED { ", ..." } else { "" };
    let was = if files.len() == 1 { "was" } else { "were" };
    let number = count(files.len(), "file");
    (!files.is_empty()).then(|| format!("{number} {was} left out: {}{more}.", names.join(", ")))
}
