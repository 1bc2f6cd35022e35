//! Makes a sample of the record from an outcome, with the source of each figure.

use crate::facts::Fact;
use crate::trainer::NotReady;
use crate::transcript::Transcript;
use crate::units;
use measure::launch::{Exit, Outcome};
use measure::meter::Meters;
use measure::surroundings::Surroundings;
use record::number::{count, digits};
use record::task::Source;
use record::{RankRecord, Record, Sample, Status, Timing, stats};
use std::collections::BTreeMap;

/// A rank that trains so many times as long as the median one is told.
const SLOW: f64 = 1.1;

/// A text for each figure, by its name.
pub type Origins = BTreeMap<String, String>;

/// A row that could not be trained.
pub fn not_trained(mut result: Record, why: NotReady) -> Record {
    let metrics = result.task().metrics.keys().cloned().collect::<Vec<_>>();
    let measured = ["training_time_seconds", "peak_memory_mb"].map(str::to_owned);
    for figure in measured.into_iter().chain(metrics) {
        result.missing.insert(figure, "the row was not trained".to_owned());
    }
    (result.status, result.reason) = (why.status, Some(why.reason));
    result
}

/// The sample of an outcome, but for its surroundings and its counters.
pub fn sample(
    (status, reason): (Status, Option<String>),
    outcome: &Outcome,
    said: &Transcript,
    metrics: &BTreeMap<String, (f64, Source)>,
) -> Sample {
    let meters = &outcome.meters;
    let fact = |fact: Fact| said.facts.value(&fact);
    let whole = |value: Option<f64>| value.filter(|value| *value >= 0.0).map(|value| value as u64);
    let timing = Timing {
        wall_s: meters["wall_s"].value,
        user_s: meters["user_s"].value,
        system_s: meters["system_s"].value,
        setup_s: fact(Fact::SetupS),
        compile_s: fact(Fact::CompileS),
        train_s: fact(Fact::TrainS),
        eval_s: fact(Fact::EvalS),
        device_s: fact(Fact::DeviceS),
    };
    let completed = status.completed();
    let tail = |text: &str| (!completed && !text.is_empty()).then(|| text.to_owned());
    Sample {
        status,
        reason,
        timing,
        peak_memory_bytes: meters["peak_memory_bytes"].count(),
        device_peak_bytes: whole(fact(Fact::DevicePeakBytes)),
        metrics: metrics.iter().map(|(name, (value, _))| (name.clone(), *value)).collect(),
        curve: said.curve.points().to_vec(),
        work: fact(Fact::Work),
        steps: whole(fact(Fact::Steps)),
        ranks: ranks(outcome, said),
        dense_flop: fact(Fact::DenseFlop),
        executed_flop: fact(Fact::ExecutedFlop),
        mlperf: said.mlperf.noted.iter().map(|(&key, &value)| (key.to_owned(), value)).collect(),
        stopped_processes: Some(outcome.stragglers.count).filter(|_| outcome.stragglers.stopped),
        notes: notes(outcome, said),
        stdout_tail: tail(&outcome.stdout_tail),
        stderr_tail: tail(&outcome.stderr_tail),
        ..Sample::default()
    }
    .measured()
}

/// What ranks say, and what was seen of them: only if several were, and none that they do not count.
fn ranks(outcome: &Outcome, said: &Transcript) -> Vec<RankRecord> {
    let record = |rank: u32| (rank, RankRecord { rank, ..RankRecord::default() });
    // Those for which the first speaks have trained too.
    let silent = said.ranks.spoken_for().map(record);
    let spoke = said.facts.ranks().into_iter().map(|it| (it.rank, it));
    let mut ranks: BTreeMap<u32, RankRecord> = silent.chain(spoke).collect();
    let seen = outcome.ranks.iter().filter(|(rank, _)| said.ranks.counts(**rank));
    if seen.clone().count() > 1 {
        for (rank, seen) in seen {
            let own = ranks.entry(*rank).or_insert_with(|| record(*rank).1);
            own.peak_memory_bytes = Some(seen.peak_bytes).filter(|bytes| *bytes > 0);
            own.cpus.clone_from(&seen.cpus);
        }
    }
    ranks.into_values().collect()
}

fn notes(outcome: &Outcome, said: &Transcript) -> Vec<String> {
    let tails = format!("{}\n{}", outcome.stderr_tail, outcome.stdout_tail);
    let mut notes = said.notes(outcome.exit == Exit::Code(0), &tails);
    let stragglers = outcome.stragglers;
    if stragglers.count > 0 {
        let stopped = if stragglers.stopped { ", and had to be stopped" } else { "" };
        notes.push(format!("{} processes outlived the trainer{stopped}", stragglers.count));
    }
    if let (Exit::Code(_), Some(evidence)) = (&outcome.exit, &outcome.out_of_memory) {
        notes.push(format!("out of memory: {evidence}"));
    }
    notes.extend(slowest(&said.facts.ranks()));
    if outcome.survivors > 0 {
        notes.push(format!("{} processes could not be killed", outcome.survivors));
    }
    notes
}

/// What of its devices it was not seen on, and on which others it was. NVML sees them by their UUIDs: of a device
/// that was given by its number that cannot be said.
pub fn other_devices(given: &[String], seen: &Surroundings) -> Option<String> {
    if given.iter().any(|it| it.parse::<u32>().is_ok()) {
        return None;
    }
    let used: Vec<&str> =
        seen.devices.iter().filter(|it| it.used).filter_map(|it| it.uuid.as_deref()).collect();
    let idle = given.iter().filter(|it| !used.contains(&it.as_str())).count();
    let strange = used.iter().filter(|it| !given.iter().any(|given| given == *it)).count();
    if given.is_empty() || used.is_empty() || idle + strange == 0 {
        return None;
    }
    let others = if strange > 0 { format!(", and on {strange} others") } else { String::new() };
    let all = count(given.len(), "device");
    Some(format!("of its {all} it was seen on {}{others}", given.len() - idle))
}

/// A rank that its launcher has bound to cores which the row did not get.
pub fn other_cores(given: Option<&Vec<usize>>, ranks: &[RankRecord]) -> Option<String> {
    let given = given?;
    let outside = |it: &&RankRecord| {
        let own = it.cpus.as_deref().and_then(|list| units::cpus(list).ok());
        own.is_some_and(|own| own.0.iter().any(|core| !given.contains(core)))
    };
    let strayed = ranks.iter().find(outside)?;
    let (rank, cores) = (strayed.rank, strayed.cpus.as_deref().unwrap_or_default());
    Some(format!(
        "rank {rank} was allowed the cores {cores}, and not all of these are the row's: its launcher binds elsewhere"
    ))
}

/// The rank that the others waited for, if it was much slower than most.
fn slowest(ranks: &[RankRecord]) -> Option<String> {
    let timed = || ranks.iter().filter_map(|it| Some((it.rank, it.train_s?)));
    let middle = stats::median(&timed().map(|it| it.1).collect::<Vec<_>>())?;
    let (rank, train_s) = timed().max_by(|one, other| one.1.total_cmp(&other.1))?;
    let (shown, usual) = (digits(train_s), digits(middle));
    (train_s > SLOW * middle).then(|| {
        format!(
            "rank {rank} was the slowest: it trained for {shown} s, the median rank for {usual} s"
        )
    })
}

/// For each figure of the file where it comes from, or why it is not there.
pub fn origins<'a>(
    meters: &Meters,
    sample: &Sample,
    metrics: impl Iterator<Item = (&'a String, Option<Source>)>,
) -> (Origins, Origins) {
    let (mut sources, mut missing) = (BTreeMap::new(), BTreeMap::new());
    let mut put = |name: &str, origin: Result<&str, &str>| match origin {
        Ok(source) => sources.insert(name.to_owned(), source.to_owned()),
        Err(reason) => missing.insert(name.to_owned(), reason.to_owned()),
    };
    for name in ["wall_s", "user_s", "system_s", "peak_memory_bytes"] {
        let reading = &meters[name];
        let origin = match reading.value {
            Some(0.0) if !matches!(name, "user_s" | "system_s") => {
                Err("the system reports 0, which is not a measurement")
            }
            _ => reading.source().ok_or(reading.reason().unwrap_or_default()),
        };
        put(if name == "peak_memory_bytes" { "peak_memory_mb" } else { name }, origin);
    }
    let timing = &sample.timing;
    let cpu = "timing.user_s + timing.system_s";
    let no_cpu = format!("{cpu}: one of them is missing, or both are 0");
    put("training_time_seconds", timing.cpu_s().map(|_| cpu).ok_or(&no_cpu));
    for (name, value) in [
        ("setup_s", timing.setup_s),
        ("compile_s", timing.compile_s),
        ("train_s", timing.train_s),
        ("eval_s", timing.eval_s),
        ("device_s", timing.device_s),
    ] {
        let clock = value.map(|_| "the trainer's own clock, as the trainer reports it");
        put(name, clock.ok_or("the trainer does not report it, or reports 0"));
    }
    // Beside the resident size, where the system has it.
    if let Some(source) = meters["phys_footprint_bytes"].source() {
        put("phys_footprint_bytes", Ok(source));
    }
    for (name, source) in metrics {
        let origin = match source {
            Some(Source::Scored) => Ok("the trainer's predictions, scored by the harness"),
            Some(Source::Claimed) => Ok("claimed by the trainer"),
            None => Err("the trainer reported none that is finite"),
        };
        put(name, origin);
    }
    (sources, missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_that_its_launcher_binds_outside_the_rows_cores_is_named() {
        let on = |rank, cpus: &str| RankRecord {
            rank,
            cpus: Some(cpus.to_owned()),
            ..RankRecord::default()
        };
        let said = |ranks: &[RankRecord]| other_cores(Some(&vec![0, 1, 2]), ranks);
        assert_eq!(said(&[on(0, "0-1"), on(1, "2"), RankRecord::default()]), None);
        let strayed = said(&[on(0, "0"), on(1, "1-3")]).unwrap();
        assert!(strayed.starts_with("rank 1 was allowed the cores 1-3, and not all"), "{strayed}");
        assert_eq!(other_cores(None, &[on(0, "7")]), None);
    }
}
