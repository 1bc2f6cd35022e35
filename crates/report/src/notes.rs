//! Sentences that explain how to read the rows. The largest caveat comes first.

use crate::table;
use crate::text::{self, count, visible};
use indexmap::{IndexMap, IndexSet};
use record::figures::{CLOCKS, Shown};
use record::name::by_number;
use record::number::first_few;
use record::race::{self, Race};
use record::stats::FEWEST_IN_TURNS as ENOUGH;
use record::summary::{Row, Summary};
use record::task::Source;
use record::verification::Grade;
use record::{Sample, Status, stats};
use std::collections::BTreeSet;

/// Reasons and files that are listed one by one; the rest are counted.
const LISTED: usize = 20;

/// A sentence or two, and a badge of a few words for a reader who does not read them.
#[derive(Clone, Debug)]
pub struct Note {
    pub badge: Option<String>,
    pub text: String,
    /// Whether backticks enclose code in it, since nobody else's words are in it.
    pub has_code: bool,
}

impl Note {
    pub(crate) fn with_code(self) -> Note {
        Note { has_code: true, ..self }
    }
}

pub(crate) fn note(text: impl Into<String>) -> Note {
    Note { badge: None, text: text.into(), has_code: false }
}

fn caveat(badge: String, text: impl Into<String>) -> Note {
    Note { badge: Some(badge), ..note(text) }
}

/// The badges of all notes in one line, the largest caveat first; it stands above everything else.
pub fn badges(notes: &[Note]) -> Option<String> {
    let badges: Vec<&str> = notes.iter().filter_map(|note| note.badge.as_deref()).collect();
    (!badges.is_empty()).then(|| badges.join(" · "))
}

/// All notes, the most important first. `speed_ups`: whether the document shows speed-ups. `marks`: the least
/// important figures that it shows with a mark if only the trainer states them; `None` without marks.
pub fn notes(summary: &Summary, speed_ups: bool, marks: Option<Shown>) -> Vec<Note> {
    let mut notes = Vec::new();
    notes.extend(disturbed(summary));
    notes.extend(left_behind(summary));
    notes.extend(side_by_side(summary));
    notes.extend(few(summary));
    notes.extend(speed_ups.then(|| apart(summary)).flatten());
    notes.extend(speed_ups.then(|| stands_in(summary)).flatten());
    notes.extend(speed_ups.then(|| speed_up(summary)).flatten());
    notes.extend(shown(summary));
    convergence(summary, &mut notes);
    notes.extend(claims(summary, marks));
    notes.extend(bounds(summary));
    notes.extend(outliers(summary));
    notes.extend(without_time(summary));
    races(summary, &mut notes);
    origin(summary, &mut notes);
    verified(summary, &mut notes);
    notes.extend(table::absent_line(summary).map(note));
    notes.extend(failures(summary).into_iter().map(note));
    notes.extend(commands(summary).into_iter().map(note));
    notes.extend(duplicates(summary));
    notes.extend(skipped(summary));
    notes
}

fn rows(summary: &Summary) -> impl Iterator<Item = &Row> {
    summary.rows.iter()
}

/// `3 of 12 samples`; `None` of none.
fn samples(summary: &Summary, are: impl Fn(&Sample) -> bool) -> Option<String> {
    let all = || rows(summary).flat_map(|row| &row.record.samples);
    let number = all().filter(|it| are(it)).count();
    (number > 0).then(|| format!("{number} of {}", count(all().count(), "sample")))
}

/// Different texts, the first few of many.
fn list(texts: impl Iterator<Item = String>) -> String {
    let texts: BTreeSet<String> = texts.collect();
    texts.into_iter().take(LISTED).collect::<Vec<_>>().join(", ")
}

/// Rows with too few samples for an interval.
fn few(summary: &Summary) -> Option<Note> {
    let counted = |row: &Row| row.record.counted().filter(|it| it.status.completed()).count();
    let few =
        rows(summary).filter(|row| row.record.status.completed() && !row.record.samples.is_empty());
    let counts: Vec<usize> = few.map(counted).collect();
    let few: Vec<usize> = counts.iter().copied().filter(|number| *number < ENOUGH).collect();
    let (least, most) = (*few.iter().min()?, *few.iter().max()?);
    let rows = match (few.len(), counts.len()) {
        (some, all) if some < all => format!("{some} of {}", count(all, "row")),
        (all, _) => count(all, "row"),
    };
    let samples = match least == most {
        true => count(most, "sample"),
        false => format!("{least} to {}", count(most, "sample")),
    };
    let badge = match few.len() == counts.len() {
        true => format!("only {samples} per row"),
        false => format!("{rows} with only {samples}"),
    };
    let text = format!(
        "{rows} with fewer than {ENOUGH} samples: their medians have no intervals, and ~ marks differences that \
         are not shown. `--repeats {ENOUGH}` is enough."
    );
    Some(caveat(format!("{badge} (--repeats {ENOUGH} gives intervals)"), text).with_code())
}

/// Rows whose speed-up drift may explain.
fn apart(summary: &Summary) -> Option<Note> {
    let number = rows(summary).filter(|row| row.is_apart && row.speed_up.is_some()).count();
    let badge = format!("{} measured apart", count(number, "row"));
    let text = format!(
        "{badge}: as far as the files tell, not in turns with what they are compared with, so drift of the machine counts \
         as a difference. One run of all rows trains them in turns."
    );
    (number > 0).then(|| caveat(badge, text))
}

fn disturbed(summary: &Summary) -> Option<Note> {
    let noisy = samples(summary, |sample| !sample.disturbances.is_empty())?;
    let repeated = samples(summary, |sample| sample.superseded);
    let repeated = repeated.map(|it| format!(" Repeated, so that they count in no figure: {it}."));
    let text = format!(
        "Disturbed by other load, steal time, moved cores, a falling clock or throttling: {noisy}. \
         `trainmark show FILE` names the cause.{}",
        repeated.unwrap_or_default()
    );
    Some(caveat(format!("{noisy} disturbed"), text).with_code())
}

/// Samples whose time may lack something.
fn left_behind(summary: &Summary) -> Option<Note> {
    let number =
        samples(summary, |sample| sample.status.completed() && sample.stopped_processes.is_some())?;
    let text = format!(
        "Processes that outlived the trainer and seemed to wait had to be stopped: {number}. What they waited for is in no time. If it \
         was a device, the training was cut short."
    );
    Some(caveat(format!("{number} left processes behind"), text))
}

/// Samples that other rows were trained beside.
fn side_by_side(summary: &Summary) -> Option<Note> {
    let number = samples(summary, |sample| !sample.beside.is_empty())?;
    let text = format!(
        "Trained side by side with other rows, on other devices or cores (`--parallel-rows`): {number}. They shared \
         memory, power and links."
    );
    Some(caveat(format!("{number} side by side"), text).with_code())
}

/// Another row than the one that the others were to be compared with.
fn stands_in(summary: &Summary) -> Option<Note> {
    let (wanted, reference) = (summary.unranked_reference.as_ref()?, summary.reference.as_ref()?);
    let badge = format!("compared with {}", visible(&reference.to_string(), 60));
    let wanted = wanted.to_string();
    let text =
        format!("{badge}, because {} was not measured or is not ranked.", visible(&wanted, 60));
    Some(caveat(format!("{badge}, not {}", visible(&wanted, 60)), text))
}

/// How the speed-ups are defined.
fn speed_up(summary: &Summary) -> Option<Note> {
    let reference = summary.reference.as_ref()?;
    let clocks: Vec<&str> = summary.clocks().iter().map(|clock| &*clock.help).collect();
    if clocks.is_empty() {
        return Some(note(format!("Nothing is compared, because {reference} was not measured.")));
    }
    let by = clocks.join("; if a row lacks that, by ");
    let text = format!(
        "Faster and slower compare a row with {reference} of the same model, configuration and dataset, by {by}."
    );
    summary.compares().then(|| note(text))
}

/// When a speed-up counts as shown.
fn shown(summary: &Summary) -> Option<Note> {
    let runs = rows(summary).map(|row| Some(&row.record.run.as_ref()?.id)).collect::<BTreeSet<_>>();
    let in_turns = runs.len() == 1 && !runs.contains(&None);
    let floors = rows(summary).filter_map(|row| row.record.noise_floor.as_ref());
    let floors = floors.map(|it| (it.share(in_turns) * 100.0, &it.measured));
    let floor = floors.max_by(|a, b| a.0.total_cmp(&b.0));
    let is_known = floor.is_some();
    let floor = match floor {
        Some((share, measured)) => format!("at most {share:.2} % here, measured {measured}"),
        None => "not measured here; `trainmark noise` measures it".to_owned(),
    };
    let text = format!(
        "A difference is shown if the 95 % interval of the ratio does not contain 1 and the ratio exceeds the noise \
         floor ({floor})."
    );
    // When a floor was measured is a file's word.
    (summary.compares() && !summary.only_specification)
        .then(|| Note { has_code: !is_known, ..note(text) })
}

/// Rows that are not ranked.
fn convergence(summary: &Summary, notes: &mut Vec<Note>) {
    let missed = |row: &&Row| row.record.status == Status::NotConverged;
    if let Some(number) = summary.statuses.get(&Status::NotConverged) {
        let target = |row: &Row| {
            let (metric, _, target) = row.record.missed_target()?;
            let unit = &row.record.task().metrics.get(metric)?.unit;
            Some(format!("{} {target:.2} {unit}", row.record.model).trim().to_owned())
        };
        let targets = list(rows(summary).filter_map(target));
        let mut text = "Rows that are not converged are not ranked.".to_owned();
        if !targets.is_empty() {
            text += &format!(" Targets that were missed: {targets}.");
        }
        notes.push(caveat(format!("{} not converged", count(*number, "row")), text));
    }
    if rows(summary).filter(missed).any(|row| row.record.schema_version == 0) {
        notes.push(note("Files without a target are judged by the built-in suite's target."));
    }
    let software = rows(summary).filter(|row| row.is_software()).count();
    if software > 0 {
        let text = "Rows on a software imitation of a device are not ranked.";
        notes.push(caveat(format!("{} on software devices", count(software, "row")), text));
    }
}

/// Metrics that only the trainer states.
fn claims(summary: &Summary, marks: Option<Shown>) -> Option<Note> {
    let least = marks.unwrap_or(Shown::OnRequest);
    let figures = || summary.figures.iter().filter(|figure| figure.shown >= least);
    let claims = |row: &&Row| figures().any(|figure| figure.is_claimed(&row.record));
    let claimed = rows(summary).filter(claims).count();
    let mut metrics = rows(summary).flat_map(|row| row.record.task().metrics.values());
    let scored = match metrics.any(|metric| metric.source == Some(Source::Scored)) {
        true => "; the harness scored the other metrics from the predictions",
        false => "",
    };
    let number = count(claimed, "row");
    let (sign, text) = match marks {
        Some(_) => ("\u{2020} ", format!("the values marked \u{2020} ({number})")),
        None => ("", format!("the metrics of {number}")),
    };
    let text = format!("Only the trainer states {text}{scored}.");
    (claimed > 0 && !summary.only_specification)
        .then(|| caveat(format!("{sign}{number}: claimed by the trainer"), text))
}

/// Figures that are only bounds of what nobody could measure.
fn bounds(summary: &Summary) -> Option<Note> {
    let shown = || summary.figures.iter().filter(|figure| figure.shown == Shown::Everywhere);
    let figure = shown().find(|figure| rows(summary).any(|row| figure.is_bound(&row.record)))?;
    let number = rows(summary).filter(|row| figure.is_bound(&row.record)).count();
    let badge = format!("{} of {} only bounded", figure.label, count(number, "row"));
    Some(caveat(
        badge.clone(),
        format!("{badge}: the true value is not known; its source in the file says why."),
    ))
}

/// Samples far from the others of their row.
fn outliers(summary: &Summary) -> Option<Note> {
    let clocks: Vec<_> = CLOCKS.iter().filter_map(|clock| summary.figure(clock)).collect();
    let (mut all, mut number) = (0, 0);
    for row in rows(summary).filter(|row| row.record.samples.len() > 1) {
        // Of those with the most samples, the first clock: it is the last of these here.
        let values = clocks.iter().rev().map(|clock| clock.samples(&row.record));
        let values = values.max_by_key(Vec::len).unwrap_or_default();
        let values: Vec<f64> = values.into_iter().map(|(_, value)| value).collect();
        all += values.len();
        number += stats::outliers(&values);
    }
    let text = format!(
        "Outliers, more than five robust standard deviations from their row's median time: {number} of {}. They are \
         kept and counted like the others. They hardly move a median; the interval of fewer than nine samples extends \
         to them.",
        count(all, "sample")
    );
    (number > 0).then(|| note(text))
}

/// Rows that were to race, and of which nobody knows when they reached the target.
fn without_time(summary: &Summary) -> Option<Note> {
    let has_none = |row: &&Row| {
        let unknown = |race: &Race| race.seconds.is_none() && race.reached == race.runs;
        race::target(&row.record.config).is_some()
            && row.record.status == Status::Measured
            && row.record.race.as_deref().is_none_or(unknown)
    };
    let number = rows(summary).filter(has_none).count();
    let badge = format!("{} without a time to the target", count(number, "row"));
    let text = format!(
        "{badge}: their programs did not say both the quality and the seconds of training on the way. `race` in the \
         suite makes a trainer evaluate on the way; the event `progress` (docs/trainer.md) says both, and a rule for \
         `epoch_s` the seconds."
    );
    (number > 0).then(|| caveat(badge, text).with_code())
}

/// The results of races.
fn races(summary: &Summary, notes: &mut Vec<Note>) {
    let racing = || rows(summary).filter_map(|row| row.record.race.as_deref());
    if racing().next().is_none() {
        return;
    }
    let lost = racing().filter(|race| race.reached < race.runs).count();
    let lost = match lost {
        0 => String::new(),
        lost => format!("; {} did not reach it in every sample", count(lost, "row")),
    };
    notes.push(note(format!(
        "Time to target is the trainer's own clock up to its first test that reached the target. The clock does not \
         include the tests, and the harness scores the last test{lost}."
    )));
    let split = rows(summary).filter_map(|row| Some((row, row.race_speed_up?)));
    for (row, it) in split.filter(|(row, _)| !row.is_reference).take(LISTED) {
        // The inverse of a speed-up, of medians without an interval: `~40 %`.
        let share = |factor: f64| format!("~{} %", text::three_digits(100.0 / factor));
        notes.push(note(format!(
            "{} reaches the target in {} of the reference's time: {} of its seconds per step, {} of its steps.",
            row.record.name(),
            share(it.factor),
            share(it.by_step_time),
            share(it.by_steps)
        )));
    }
}

/// The runs, datasets and machines of the rows, if there are several.
fn origin(summary: &Summary, notes: &mut Vec<Note>) {
    let runs = summary.runs().len();
    let nameless = rows(summary).filter(|row| row.record.run.is_none()).count();
    if runs > 1 || (runs > 0 && nameless > 0) {
        let from = count(runs, "run");
        let nameless = match nameless {
            0 => String::new(),
            files => format!(" and from {} without a run", count(files, "file")),
        };
        let hint =
            if summary.latest { "" } else { "; --latest keeps only the newest of equal rows" };
        notes.push(caveat(
            format!("from {from}"),
            format!("Rows come from {from}{nameless}{hint}."),
        ));
    }
    if summary.datasets.len() > 1 {
        notes.push(note("Rows of different datasets are never compared with each other."));
    }
    if summary.machines.len() > 1 {
        let machines = summary.machines.iter().zip(1..).take(LISTED).map(|(machine, number)| {
            let cpu = machine.cpu.as_deref().unwrap_or("unknown CPU");
            let gpus = machine.gpus.iter().map(String::as_str).filter(|gpu| *gpu != cpu);
            format!("{number} is {}", [cpu].into_iter().chain(gpus).collect::<Vec<_>>().join(", "))
        });
        let machines = machines.collect::<Vec<_>>().join("; ");
        let text = "Rows of different machines are never compared with each other";
        notes.push(note(format!("{text}: {machines}.")));
    }
}

/// The rows that were found different, and those that nobody verified.
fn verified(summary: &Summary, notes: &mut Vec<Note>) {
    let names = rows(summary).filter_map(|row| row.record.task().verify.as_deref());
    // The names stand in a note that has code in it.
    let names = list(names.map(|name| visible(name, 60).replace('`', "'")));
    let reference = format!("the reference ({names})");
    if !summary.has_verifications() {
        // The specification's own files know nothing of it.
        let completed = summary.statuses.keys().any(|it| it.completed());
        if !names.is_empty() && !summary.only_specification && completed {
            let text = format!(
                "No row is verified: `trainmark verify` compares a few training steps of each with those of \
                 {reference}."
            );
            notes.push(caveat("not verified (trainmark verify)".to_owned(), text).with_code());
        }
        return;
    }
    let coarser = |row: &&Row| row.verification.as_ref().is_some_and(|it| it.is_coarser());
    let coarser = rows(summary).filter(coarser).count();
    if coarser > 0 {
        let badge = format!("{} in coarser precision than stated", count(coarser, "row"));
        notes.push(caveat(badge.clone(), format!("Equal to the reference only with more rounding than that of the precision that the trainer states: {}.", count(coarser, "row"))));
    }
    let different = rows(summary).filter(|row| row.is_different()).count();
    notes.push(Note {
        badge: (different > 0).then(|| format!("{} computed something else", count(different, "row"))),
        has_code: false,
        text: format!(
            "Verified: a few training steps were compared with those of {reference}. They are bit-equal, equal within \
             the rounding of float32, tf32 or bf16, or different. Rows that are different compute something else. \
             They are not ranked."
        ),
    });
    let mut reasons = IndexSet::new();
    for it in rows(summary).filter_map(|row| row.verification.as_deref()) {
        let name = format!("{} {} {}", it.executable, it.model, it.backend);
        let is_told = matches!(it.grade, Grade::Different | Grade::Failed) || it.is_coarser();
        if let (true, Some(reason)) = (is_told, &it.reason) {
            reasons.insert(format!("{name}: {}", visible(reason, 300)));
        }
        if let (Some(false), Some(what)) = (it.deterministic, &it.nondeterminism) {
            reasons.insert(format!("{name}: not the same bits twice: {}", visible(what, 300)));
        }
    }
    notes.extend(reasons.into_iter().take(LISTED).map(note));
}

/// The reasons of all failures, each once.
pub fn failures(summary: &Summary) -> Vec<String> {
    let mut reasons: IndexMap<(String, Status, &str), usize> = IndexMap::new();
    // Of a row that missed its target another note says which.
    let is_told = |row: &Row| match row.record.status {
        Status::NotConverged => row.record.missed_target().is_some(),
        status => status.completed(),
    };
    let mut untold: Vec<&Row> =
        rows(summary).filter(|row| row.is_there() && !is_told(row)).collect();
    untold.sort_by(|a, b| by_number(&a.record.executable, &b.record.executable));
    for row in untold {
        let reason = row.record.reason.as_deref().unwrap_or("no reason given");
        *reasons.entry((row.record.name(), row.record.status, reason)).or_default() += 1;
    }
    let line = |((name, status, reason), number): (&(String, Status, &str), &usize)| {
        let times = if *number > 1 { format!(" ({number} rows)") } else { String::new() };
        // Reasons may quote a trainer's output at length.
        format!("{name}: {status}{times}: {}", visible(reason, 300))
    };
    first_lines(reasons.iter().map(line), "reason")
}

/// The first few of many lines, and how many more there are.
fn first_lines(lines: impl Iterator<Item = String>, what: &str) -> Vec<String> {
    let mut lines: Vec<String> = lines.collect();
    let more = lines.len().saturating_sub(LISTED);
    lines.truncate(LISTED);
    lines.extend((more > 0).then(|| format!("{} more.", count(more, what))));
    lines
}

/// The commands of programs whose names only a number tells apart: `train` and `train 2`.
pub fn commands(summary: &Summary) -> Vec<String> {
    let names = summary.names(|record| &record.executable);
    let base = |name: &str| {
        let (base, number) = name.rsplit_once(' ')?;
        (number.parse::<u32>().is_ok() && names.contains(&base)).then(|| base.to_owned())
    };
    let numbered: BTreeSet<String> = names.iter().filter_map(|name| base(name)).collect();
    let command = |name: &&str| {
        let is_one = numbered.contains(*name) || base(name).is_some();
        let mut own = rows(summary).filter(|row| is_one && row.record.executable == **name);
        let words = own.find_map(|row| {
            row.record.trainer.as_ref().map(|it| &it.command).filter(|it| !it.is_empty())
        })?;
        let words =
            shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "));
        Some(format!("{}: {}", visible(name, 60), visible(&words, 200)))
    };
    first_lines(names.iter().filter_map(command), "command")
}

/// Copies.
fn duplicates(summary: &Summary) -> Option<Note> {
    let first = summary.duplicates.first()?;
    let number = count(summary.duplicates.len(), "file");
    let (file, reason) = (&first.file, &first.reason);
    let text = format!(
        "{number} only repeat samples of other files and do not count, for example {file}, which {reason}."
    );
    Some(caveat(format!("{number} without new samples"), text))
}

fn skipped(summary: &Summary) -> Option<Note> {
    let files = &summary.skipped;
    let names: Vec<&str> = files.iter().map(|it| it.file.as_str()).collect();
    let badge = format!("{} left out", count(files.len(), "file"));
    let text = format!("{badge}: {}.", first_few(&names, LISTED, ", "));
    (!files.is_empty()).then(|| caveat(badge, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::markdown::escape_note;
    use record::summary::Options;
    use record::{Record, TrainerRecord};

    /// Rows of programs of these names with so many samples each.
    fn summary(rows: &[(&str, usize)]) -> Summary {
        let record = |&(name, samples): &(&str, usize)| {
            let command = ["sh", "-c", &format!("train `{samples}`")].map(str::to_owned).to_vec();
            let mut record = Record {
                executable: name.to_owned(),
                schema_version: 2,
                task: Some(Box::default()),
                trainer: Some(Box::new(TrainerRecord { command, ..TrainerRecord::default() })),
                ..Record::default()
            };
            (0..samples).for_each(|_| record.add_sample(Sample::default()));
            record
        };
        let records: Vec<Record> = rows.iter().map(record).collect();
        Summary::new(records.into(), &Options::default()).unwrap()
    }

    #[test]
    fn a_badge_says_of_how_many_rows_the_samples_are_few() {
        for (samples, expected) in [
            (&[1, 1][..], "only 1 sample per row"),
            (&[5, 5], "only 5 samples per row"),
            (&[6, 1], "1 of 2 rows with only 1 sample"),
            (&[1, 9, 1], "2 of 3 rows with only 1 sample"),
            (&[6, 3], "1 of 2 rows with only 3 samples"),
            (&[1, 4, 6], "2 of 3 rows with only 1 to 4 samples"),
            (&[1, 4], "only 1 to 4 samples per row"),
        ] {
            let names: Vec<String> = (0..samples.len()).map(|it| format!("t{it}")).collect();
            let rows: Vec<_> =
                names.iter().map(String::as_str).zip(samples.iter().copied()).collect();
            let badge = few(&summary(&rows)).unwrap().badge.unwrap();
            assert_eq!(badge, format!("{expected} (--repeats 6 gives intervals)"));
        }
        assert!(few(&summary(&[("a", 6)])).is_none());
    }

    #[test]
    fn what_a_time_lacks_and_what_is_only_bounded_is_cautioned() {
        let mut records: Vec<Record> =
            summary(&[("a", 2), ("b", 2)]).rows.into_iter().map(|row| row.record).collect();
        records[1].samples[0].stopped_processes = Some(1);
        records[0].metrics.peak_memory_mb = Some(7.0);
        records[0].sources.insert("peak_memory_mb".into(), "at most this much".into());
        let summary = Summary::new(records.into(), &Options::default()).unwrap();
        let badges = badges(&notes(&summary, true, None)).unwrap();
        assert!(badges.contains("1 of 4 samples left processes behind"), "{badges}");
        assert!(badges.contains("Peak Memory of 1 row only bounded"), "{badges}");
    }

    #[test]
    fn programs_whose_names_only_a_number_tells_apart_are_named_by_their_commands() {
        let rows = [("bad 13", 3), ("bad", 1), ("gpt 2", 1), ("bad 2", 2)];
        assert_eq!(
            commands(&summary(&rows)),
            ["bad: sh -c 'train `1`'", "bad 2: sh -c 'train `2`'", "bad 13: sh -c 'train `3`'"]
        );
    }

    #[test]
    fn the_programs_own_backticks_enclose_code_in_markdown_and_others_are_escaped() {
        let summary = summary(&[("bad", 1), ("bad 2", 1)]);
        let notes: Vec<String> = notes(&summary, true, None).iter().map(escape_note).collect();
        let has = |part: &str| notes.iter().any(|note| note.contains(part));
        assert!(has("`--repeats 6` is enough"), "{notes:?}");
        assert!(has("train \\`1\\`"), "{notes:?}");
    }
}
