//! All rows of some folders, for all reports: their common and different settings, which rows are comparable,
//! which are ranked, and how they compare with the reference.
//!
//! Rows are comparable when they trained the same model in the same configuration on the same dataset and
//! the same hardware. Among those, only rows that were measured and reached their target take part, and
//! never those of a software imitation of a device. Only they choose by which clock a group is compared.

use crate::figures::{self, CLOCKS, Figure};
use crate::folder::{Entry, Folder, Skipped, content};
use crate::name::{by_number, meant, unknown};
use crate::race::RaceSpeedUp;
use crate::reference::Reference;
use crate::verdict::{self, Change, Scale, Verdict};
use crate::verification::{Grade, Verification};
use crate::{DatasetRecord, Record, RunIdentity, Status};
use indexmap::{IndexMap, IndexSet};
use measure::machine::Machine;
use rayon::prelude::*;
use serde_json::Value;
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Whether a record is of the reference.
fn is_row(reference: &Reference, record: &Record) -> bool {
    (&reference.executable, &reference.backend) == (&record.executable, &record.backend)
        && reference.settings.iter().all(|(key, value)| record.config.get(key) == Some(value))
}

/// The options of a summary.
#[derive(Clone, Default)]
pub struct Options {
    /// Speed-ups are against this row, which must be there. Without it: the preferred one if it was
    /// measured, else the executable that was measured on `cpu` in the most groups, else the row that was; of
    /// equals the one that its suite names first, or that began first.
    pub reference: Option<Reference>,
    pub preferred: Option<Reference>,
    /// Keep only the newest of rows that differ in nothing but when they ran.
    pub latest: bool,
    /// Configuration keys in which comparable rows may differ.
    pub across: Vec<String>,
}

/// Why there is no summary: one line, on a reference or a key that is not there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SummaryError(String);

/// One line of a table.
#[derive(Clone, Debug, Default)]
pub struct Row {
    pub file: String,
    pub record: Record,
    /// Place in [`Summary::groups`].
    pub group: usize,
    /// The same number for rows of the same configuration, also where groups go across a key.
    configuration: usize,
    /// Among the ranked rows of its group, from 1; equals share one.
    pub rank: Option<u32>,
    /// Against the reference's row of the same group.
    pub speed_up: Option<Change>,
    /// By which clock: the group's, or the best that tells something of these two.
    clock: Option<&'static str>,
    /// Whether it is that row.
    pub is_reference: bool,
    /// Whether it did not take turns with that row.
    pub is_apart: bool,
    pub race_speed_up: Option<RaceSpeedUp>,
    /// What verifying it found, if it was verified.
    pub verification: Option<Box<Verification>>,
    /// Place in [`Summary::machines`].
    pub machine: Option<usize>,
}

impl Row {
    /// Whether it takes part in rankings and speed-ups.
    pub fn is_ranked(&self) -> bool {
        self.record.takes_part() && !self.is_different()
    }

    /// How equal its training steps are to the reference's.
    pub fn grade(&self) -> Grade {
        self.verification.as_ref().map_or(Grade::NotVerified, |it| it.grade)
    }

    /// Whether it was verified and computes something else.
    pub fn is_different(&self) -> bool {
        self.grade() == Grade::Different
    }

    /// Whether this machine has what it needs.
    pub fn is_there(&self) -> bool {
        self.record.status != Status::Unavailable
    }

    /// Whether it ran on a software imitation of a device.
    pub fn is_software(&self) -> bool {
        self.record.is_software()
    }

    /// The status, and of measured rows what keeps them out of the ranking.
    pub fn status_words(&self) -> &'static str {
        match self.record.status {
            Status::Measured if self.is_software() => "software",
            status => status.words(),
        }
    }

    /// The moment that decides which row is newer: of our own files in UTC, else as it is.
    pub fn moment(&self) -> &str {
        self.record.run.as_ref().map_or(&self.record.timestamp, |run| &run.started)
    }

    /// Which row is older; of one moment, an order that does not depend on the files' names.
    pub fn by_age(&self, other: &Row) -> Ordering {
        let content = || content(&self.record).cmp(&content(&other.record));
        self.moment().cmp(other.moment()).then_with(content)
    }

    fn run(&self) -> Option<&str> {
        self.record.run.as_ref().map(|run| run.id.as_str())
    }
}

/// A property that distinguishes rows besides model and backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    Executable,
    Task,
    /// A configuration key.
    Config(String),
    Dataset,
    Machine,
    Compiled,
    Timestamp,
    File,
}

/// Rows that may be compared with each other.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Places of its rows.
    pub rows: Vec<usize>,
    /// The figure by which they are compared; `None` if no ranked row has any clock.
    pub clock: Option<Figure>,
}

/// Everything that a report says.
#[derive(Debug, Default)]
pub struct Summary {
    /// In the order of their files.
    pub rows: Vec<Row>,
    pub groups: Vec<Group>,
    /// All that any row may have, in the order of columns.
    pub figures: Vec<Figure>,
    /// `None` if there is nothing to compare with.
    pub reference: Option<Reference>,
    /// The preferred one, if it is there but not ranked, so that `reference` stands in for it.
    pub unranked_reference: Option<Reference>,
    /// The distinct values of each configuration key, in the order of the rows; of keys that some row
    /// lacks, null among them.
    pub config: Vec<(String, Vec<Value>)>,
    /// Columns that the rows need to be told apart.
    pub differences: Vec<Difference>,
    /// How many rows have each status.
    pub statuses: BTreeMap<Status, usize>,
    /// All files are of the specification's own scripts: no status, dataset or clock but theirs.
    pub only_specification: bool,
    /// One machine of each hardware.
    pub machines: Vec<Machine>,
    pub datasets: Vec<DatasetRecord>,
    pub skipped: Vec<Skipped>,
    pub duplicates: Vec<Skipped>,
    /// Whether only the newest rows were kept.
    pub latest: bool,
}

impl Summary {
    /// Orders, judges and compares the rows.
    ///
    /// # Errors
    /// If the reference or the key that the user named is not there.
    pub fn new(folder: Folder, options: &Options) -> Result<Summary, SummaryError> {
        let Folder { entries, skipped, duplicates, verifications } = folder;
        let row = |Entry { file, record }| Row { file, record, ..Row::default() };
        let rows = entries.into_iter().map(row).collect();
        let latest = options.latest;
        let mut summary = Summary { rows, skipped, duplicates, latest, ..Summary::default() };
        summary.only_specification = summary.rows.iter().all(|row| row.record.schema_version == 0);
        for row in &mut summary.rows {
            row.record.judge();
            let found = Verification::newest(&[&row.record], &verifications);
            row.verification = found.cloned().map(Box::new);
        }
        summary.find_machines();
        summary.group(&options.across)?;
        if latest {
            summary.keep_newest();
            summary.group(&options.across)?;
        }
        summary.reference = summary.choose_reference(options)?;
        let is_there = |it: &&Reference| summary.rows.iter().any(|row| is_row(it, &row.record));
        let replaced = |it: &&Reference| {
            options.reference.is_none() && summary.reference.as_ref() != Some(*it)
        };
        summary.unranked_reference =
            options.preferred.as_ref().filter(is_there).filter(replaced).cloned();
        summary.figures = figures::of(summary.rows.iter().map(|row| &row.record));
        for group in 0..summary.groups.len() {
            summary.rank(group);
            summary.compare(group);
        }
        for row in &summary.rows {
            *summary.statuses.entry(row.record.status).or_default() += 1;
        }
        let datasets = summary.rows.iter().filter_map(|row| row.record.dataset.as_deref());
        let datasets: IndexSet<&DatasetRecord> = datasets.collect();
        summary.datasets = datasets.into_iter().cloned().collect();
        summary.differences = summary.needed_differences();
        Ok(summary)
    }

    /// Names, systems and kernels may differ: rows of a renamed or updated machine stay comparable.
    fn find_machines(&mut self) {
        for row in &mut self.rows {
            let Some(machine) = row.record.machine.as_deref() else { continue };
            let same = |known: &Machine| known.is_same_hardware(machine);
            row.machine = self.machines.iter().position(same).or_else(|| {
                self.machines.push(machine.clone());
                Some(self.machines.len() - 1)
            });
        }
    }

    /// Drops all but the newest row of each kind.
    fn keep_newest(&mut self) {
        let mut newest = HashMap::new();
        for (place, row) in self.rows.iter().enumerate() {
            let kept = newest.entry(repeated(row)).or_insert(place);
            if self.rows[*kept].by_age(row).is_lt() {
                *kept = place;
            }
        }
        let kept: BTreeSet<usize> = newest.into_values().collect();
        let mut places = 0..;
        self.rows.retain(|_| places.next().is_some_and(|place| kept.contains(&place)));
    }

    /// Numbers the groups of comparable rows by where they first appear.
    fn group(&mut self, across: &[String]) -> Result<(), SummaryError> {
        for key in across {
            if !self.rows.iter().any(|row| row.record.config.contains_key(key)) {
                let keys = self.rows.iter().flat_map(|row| row.record.config.keys());
                let keys: Vec<&str> = keys.map(String::as_str).collect();
                return Err(SummaryError(unknown("--across", "key", key, &keys, "")));
            }
        }
        let groups = numbered(&self.rows, across);
        let configurations =
            if across.is_empty() { groups.clone() } else { numbered(&self.rows, &[]) };
        self.groups = vec![Group::default(); groups.iter().max().map_or(0, |last| last + 1)];
        for (place, row) in self.rows.iter_mut().enumerate() {
            (row.group, row.configuration) = (groups[place], configurations[place]);
            self.groups[row.group].rows.push(place);
        }
        Ok(())
    }

    fn choose_reference(&self, options: &Options) -> Result<Option<Reference>, SummaryError> {
        if let Some(wanted) = &options.reference {
            return self.named_reference(wanted).map(Some);
        }
        let ranked = || self.rows.iter().filter(|row| row.is_ranked());
        if let Some(preferred) = &options.preferred
            && ranked().any(|row| is_row(preferred, &row.record))
        {
            return Ok(Some(preferred.clone()));
        }
        let name = |row: &Row| {
            let settings =
                options.across.iter().filter_map(|key| row.record.config.get_key_value(key));
            Reference {
                executable: row.record.executable.clone(),
                backend: row.record.backend.clone(),
                settings: settings.map(|(key, value)| (key.clone(), value.clone())).collect(),
            }
        };
        // What is in the most groups leaves the fewest rows alone. The order of the files says nothing.
        let first = |row: &Row| (row.record.place, row.moment().to_owned());
        let mut groups: HashMap<String, (Reference, BTreeSet<usize>, _)> = HashMap::new();
        for row in ranked() {
            let reference = name(row);
            let known = groups.entry(reference.to_string());
            let known = known.or_insert_with(|| (reference, BTreeSet::new(), first(row)));
            known.1.insert(row.group);
            known.2 = first(row).min(known.2.clone());
        }
        let best = groups.into_iter().min_by(|(name, one), (of_other, other)| {
            let order =
                |it: &(Reference, BTreeSet<usize>, _)| (it.0.backend != "cpu", Reverse(it.1.len()));
            let order = order(one).cmp(&order(other)).then_with(|| one.2.cmp(&other.2));
            order.then_with(|| by_number(name, of_other))
        });
        Ok(best.map(|it| it.1.0))
    }

    /// The row that the user named, whatever the case of its letters.
    fn named_reference(&self, wanted: &Reference) -> Result<Reference, SummaryError> {
        let name = |row: &Row| format!("{}/{}", row.record.executable, row.record.backend);
        let names: BTreeSet<String> = self.rows.iter().map(name).collect();
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        let wanted = wanted.to_string();
        let named = meant(&wanted, &known).and_then(|name| name.parse().ok());
        named.ok_or_else(|| SummaryError(unknown("--reference", "row", &wanted, &known, "")))
    }

    /// Chooses the clock and ranks by it.
    fn rank(&mut self, group: usize) {
        let places = self.groups[group].rows.iter().map(|&place| (place, &self.rows[place]));
        let ranked = || places.clone().filter(|(_, row)| row.is_ranked());
        let clocks = || CLOCKS.iter().filter_map(|key| self.figure(key));
        let is_known = |clock: &Figure, row: &Row| clock.of(&row.record).is_some();
        // One that a sample lacks would compare fewer samples than there are.
        let of_all = clocks().find(|clock| ranked().all(|(_, row)| clock.is_complete(&row.record)));
        let of_any = clocks().find(|clock| ranked().any(|(_, row)| is_known(clock, row)));
        let of_all = of_all.filter(|_| ranked().next().is_some());
        let Some(clock) = of_all.or(of_any).cloned() else { return };
        let seconds = |(place, row): (usize, &Row)| Some((clock.of(&row.record)?, place));
        let mut order: Vec<(f64, usize)> = ranked().filter_map(seconds).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut last = (f64::NAN, 0);
        for (index, (seconds, place)) in order.into_iter().enumerate() {
            if seconds != last.0 {
                last = (seconds, index as u32 + 1);
            }
            self.rows[place].rank = Some(last.1);
        }
        self.groups[group].clock = Some(clock);
    }

    /// Against the reference's row of the same run, else against its newest.
    fn compare(&mut self, group: usize) {
        let Group { rows: places, clock: Some(clock) } = &self.groups[group] else { return };
        let Some(reference) = &self.reference else { return };
        let references: Vec<usize> = places
            .iter()
            .copied()
            .filter(|&place| {
                self.rows[place].is_ranked() && is_row(reference, &self.rows[place].record)
            })
            .collect();
        let newest = |wanted: &dyn Fn(&Row) -> bool| {
            let found = references.iter().copied().filter(|&place| wanted(&self.rows[place]));
            found.max_by(|&one, &other| self.rows[one].by_age(&self.rows[other]))
        };
        let Some(newest_of_all) = newest(&|_| true) else { return };
        let mut found = Vec::new();
        for &place in places.iter().filter(|&&place| self.rows[place].is_ranked()) {
            let row = &self.rows[place];
            let same_run = || newest(&|other| row.run().is_some() && other.run() == row.run());
            let against = if references.len() > 1 { same_run() } else { None };
            let against = against.unwrap_or(newest_of_all);
            let base = &self.rows[against].record;
            let by = |key: &'static str| {
                let change = compare_rows(self.figure(key)?, base, &row.record, against == place)?;
                Some((key, change))
            };
            // Of a ratio that is no number another clock's would be shown in its place.
            let has_both = clock.of(base).is_some() && clock.of(&row.record).is_some();
            let own = CLOCKS.iter().filter(|key| **key == clock.key);
            if has_both && own.clone().find_map(|key| by(key)).is_none() {
                continue;
            }
            let all: Vec<(&str, Change)> = own.chain(&CLOCKS).filter_map(|key| by(key)).collect();
            let known = |it: &&(&str, Change)| it.1.verdict != Verdict::Inconclusive;
            let change = all.iter().find(known).or(all.first()).copied();
            let races = base.race.as_deref().zip(row.record.race.as_deref());
            let race = races.and_then(|(base, new)| RaceSpeedUp::new(base, new));
            let is_apart = against != place && !verdict::took_turns(&[base], &[&row.record]);
            found.push((place, change, race, against == place, is_apart));
        }
        for (place, change, race, is_reference, is_apart) in found {
            let row = &mut self.rows[place];
            row.is_apart = is_apart;
            row.clock = change.map(|it| it.0);
            row.speed_up = change.map(|it| it.1);
            (row.race_speed_up, row.is_reference) = (race, is_reference);
        }
    }

    /// The figure of that key.
    pub fn figure(&self, key: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.key == key)
    }

    /// The clock by which the row is compared.
    pub fn clock(&self, row: &Row) -> Option<&Figure> {
        self.figure(row.clock?)
    }

    /// Whether any row was verified, successfully or not.
    pub fn has_verifications(&self) -> bool {
        self.rows.iter().any(|row| row.verification.is_some())
    }

    /// Whether any row was compared with another.
    pub fn compares(&self) -> bool {
        self.rows.iter().any(|row| row.speed_up.is_some() && !row.is_reference)
    }

    /// Whether any row that is there is other than measured on a real device.
    pub fn has_exceptions(&self) -> bool {
        self.rows.iter().any(|row| row.is_there() && row.status_words() != Status::Measured.words())
    }

    /// The clocks by which groups are compared, the best first.
    pub fn clocks(&self) -> Vec<&Figure> {
        let is_used = |clock: &Figure| {
            let mut used = self.groups.iter().filter_map(|group| group.clock.as_ref());
            used.any(|figure| figure.key == clock.key)
        };
        CLOCKS.iter().filter_map(|clock| self.figure(clock)).filter(|it| is_used(it)).collect()
    }

    /// Distinct names of the rows, sorted.
    pub fn names(&self, name: impl Fn(&Record) -> &str) -> Vec<&str> {
        let names: IndexSet<&str> = self.rows.iter().map(|row| name(&row.record)).collect();
        names.sorted_by(|one, other| by_number(one, other)).collect()
    }

    /// Distinct runs of `trainmark run`, in the order of the rows.
    pub fn runs(&self) -> Vec<&RunIdentity> {
        let mut seen = BTreeSet::new();
        let runs = self.rows.iter().filter_map(|row| row.record.run.as_deref());
        runs.filter(|run| seen.insert(run.id.as_str())).collect()
    }

    /// The rows of each kind, oldest first; kinds in the order of their first rows.
    pub fn series(&self) -> Vec<Vec<&Row>> {
        let mut series: IndexMap<_, Vec<&Row>> = IndexMap::new();
        for row in &self.rows {
            series.entry(repeated(row)).or_default().push(row);
        }
        series.values_mut().for_each(|rows| rows.sort_by(|a, b| a.by_age(b)));
        series.into_values().collect()
    }

    /// Model and backend always stand in a table; these columns come beside them.
    fn needed_differences(&mut self) -> Vec<Difference> {
        let rows = || self.rows.iter().map(|row| &row.record);
        let keys: IndexSet<&String> = rows().flat_map(|record| record.config.keys()).collect();
        let values = |key: &String| -> IndexSet<&Value> {
            rows().map(|record| record.config.get(key).unwrap_or(&Value::Null)).collect()
        };
        let config = keys.into_iter().map(|key| {
            let values: Vec<Value> = values(key).into_iter().cloned().collect();
            (key.clone(), values)
        });
        self.config = config.collect();
        // A row that this machine lacks needs no column.
        let any = self.rows.iter().any(Row::is_there);
        let there = || self.rows.iter().filter(|row| row.is_there() == any);
        let mut found = Vec::new();
        let rows = || there().map(|row| &row.record);
        if differ(rows().map(|record| &record.executable)) {
            found.push(Difference::Executable);
        }
        if differ(rows().map(|record| &record.task().name)) {
            found.push(Difference::Task);
        }
        let keys = self.config.iter().filter(|(key, values)| {
            let mut of_models: HashMap<&str, Option<&Value>> = HashMap::new();
            let mut differs = |model, value| *of_models.entry(model).or_insert(value) != value;
            values.len() > 1 && rows().any(|it| differs(&it.model, it.config.get(key)))
        });
        found.extend(keys.map(|(key, _)| Difference::Config(key.clone())));
        // A row that never ran may not know what it would have run on.
        let ran = || self.rows.iter().filter(|row| row.record.status.completed());
        if self.datasets.len() > 1 || differ(ran().map(|row| row.record.dataset.is_some())) {
            found.push(Difference::Dataset);
        }
        if self.machines.len() > 1 || differ(ran().map(|row| row.machine)) {
            found.push(Difference::Machine);
        }
        let all = there().count();
        let kinds = there().map(kind).collect::<HashSet<_>>().len();
        let repeats = there().map(repeated).collect::<HashSet<_>>().len();
        let moment = |row| (repeated(row), row.record.timestamp.as_str());
        let moments = there().map(moment).collect::<HashSet<_>>().len();
        found.extend((kinds < repeats).then_some(Difference::Compiled));
        found.extend((repeats < all).then_some(Difference::Timestamp));
        found.extend((moments < all).then_some(Difference::File));
        found
    }
}

/// The figure of both rows, held to the larger of their noise floors. A row is 1.00 of itself.
pub fn compare_rows(clock: &Figure, base: &Record, new: &Record, is_same: bool) -> Option<Change> {
    if is_same {
        clock.of(new)?;
        let verdict = Verdict::NoDifference;
        return Some(Change { scale: Scale::Ratio, gain: 1.0, interval: None, verdict, loss: 0.0 });
    }
    let floor = verdict::floor([base, new], verdict::took_turns(&[base], &[new]));
    verdict::compare(clock, &[base], &[new], floor)
}

/// Numbers rows that may be compared with each other by where they first appear.
fn numbered(rows: &[Row], across: &[String]) -> Vec<usize> {
    let keys: Vec<String> = rows.par_iter().map(|row| comparable(row, across)).collect();
    let mut known = IndexSet::new();
    keys.into_iter().map(|key| known.insert_full(key).0).collect()
}

/// The properties that are equal in rows that may be compared with each other.
fn comparable(row: &Row, across: &[String]) -> String {
    let record = &row.record;
    let dataset = record.dataset.as_ref().map(|it| (&it.name, &it.sha256));
    let settings = record.settings(across).join("\n");
    format!("{}\n{}\n{:?}\n{dataset:?}\n{settings}", record.task().name, record.model, row.machine)
}

/// The properties that are equal in repeats of a row, except for the programs.
fn kind(row: &Row) -> (usize, &str, &str) {
    (row.configuration, &row.record.executable, &row.record.backend)
}

/// What is the same in all repeats of a row.
fn repeated(row: &Row) -> ((usize, &str, &str), bool) {
    (kind(row), row.record.compiled)
}

fn differ<T: PartialEq>(mut values: impl Iterator<Item = T>) -> bool {
    let first = values.next();
    first.is_some_and(|first| values.any(|value| value != first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn trained(backend: &str, train_s: f64, keys: Value) -> Record {
        let mut file = json!({
            "executable": "T", "model": "m", "backend": backend, "timestamp": "20260101_000000",
            "config": {"epochs": 5}, "schema_version": 1, "dataset": {"name": "d"},
            "machine": {"cpu": "a"}, "timing": {"train_s": train_s},
            "metrics": {"training_time_seconds": 1.0, "test_accuracy_percent": 95.0},
        });
        file.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        Record::parse(file.to_string().as_bytes()).unwrap()
    }

    fn summary(records: Vec<Record>) -> Summary {
        Summary::new(records.into(), &Options::default()).unwrap()
    }

    fn compared(records: Vec<Record>) -> Vec<(Option<u32>, Option<f64>)> {
        let rows = summary(records).rows;
        rows.iter().map(|row| (row.rank, row.speed_up.map(|it| it.gain))).collect()
    }

    #[test]
    fn a_ratio_that_is_no_number_is_not_replaced_by_that_of_another_clock() {
        let rows = [("cpu", 0.2), ("a", 1e308)].map(|(backend, train_s)| {
            let mut record = trained(backend, train_s, json!({}));
            record.metrics.training_time_seconds = Some(1.0);
            record
        });
        let gains: Vec<_> = compared(rows.to_vec()).into_iter().map(|it| it.1).collect();
        assert_eq!(gains, [Some(1.0), None]);
    }

    #[test]
    fn the_fastest_is_first_and_equals_share_their_rank() {
        let rows = [("cpu", 4.0), ("a", 1.0), ("b", 2.0), ("c", 2.0)];
        let rows = rows.map(|(backend, train_s)| trained(backend, train_s, json!({})));
        let expected = [(4, 1.0), (1, 4.0), (2, 2.0), (2, 2.0)];
        let expected = expected.map(|(rank, factor)| (Some(rank), Some(factor)));
        assert_eq!(compared(rows.to_vec()), expected);
    }

    #[test]
    fn rows_of_another_model_configuration_dataset_or_machine_are_not_compared() {
        for keys in [
            json!({"model": "cnn"}),
            json!({"config": {"epochs": 1}}),
            json!({"dataset": {"name": "e"}}),
            json!({"dataset": {"name": "d", "sha256": "0b"}}),
            json!({"dataset": null}),
            json!({"machine": {"cpu": "other"}}),
        ] {
            let rows = vec![trained("cpu", 4.0, json!({})), trained("gpu", 1.0, keys.clone())];
            assert_eq!(compared(rows), [(Some(1), Some(1.0)), (Some(1), None)], "{keys}");
        }
        // A machine by another name is the same machine.
        let machine = |name: &str| json!({"machine": {"cpu": "c", "hostname": name}});
        let rows = vec![trained("cpu", 4.0, machine("a")), trained("gpu", 1.0, machine("b"))];
        assert_eq!(compared(rows)[1], (Some(1), Some(4.0)));
    }

    #[test]
    fn what_is_not_ranked_takes_no_part_and_chooses_no_clock() {
        for keys in [
            json!({"target_accuracy_percent": 95.5}),
            json!({"status": "misreported"}),
            json!({"trainer": {"software": true}}),
            json!({"metrics": {"training_time_seconds": 1.0}}),
        ] {
            let alone = (Some(1), Some(1.0));
            let rows = vec![trained("cpu", 4.0, json!({})), trained("gpu", 1.0, keys.clone())];
            assert_eq!(compared(rows), [alone, (None, None)], "{keys}");
            let rows = vec![trained("cpu", 4.0, keys), trained("gpu", 1.0, json!({}))];
            assert_eq!(compared(rows), [(None, None), alone]);
        }
        let failed = json!({"status": "failed", "timing": {"wall_s": 1.0}});
        let rows = vec![trained("cpu", 4.0, json!({})), trained("gpu", 1.0, failed)];
        assert_eq!(summary(rows).groups[0].clock.as_ref().unwrap().key, "train_s");
    }

    #[test]
    fn the_best_clock_that_all_ranked_rows_have_is_used_for_all() {
        let wall = json!({"timing": {"train_s": 4.0, "wall_s": 6.0}});
        let only_wall = json!({"timing": {"wall_s": 3.0}});
        let found = summary(vec![trained("cpu", 4.0, wall), trained("gpu", 1.0, only_wall)]);
        assert_eq!(found.groups[0].clock.as_ref().unwrap().key, "wall_s");
        assert_eq!(found.rows[1].speed_up.unwrap().gain, 2.0);
    }

    #[test]
    fn six_rounds_in_turns_give_an_interval_and_one_gives_no_verdict() {
        let run = |seconds: f64, rounds: u32| {
            let samples = (0..rounds).map(|round| {
                let wobble = 1.0 + 0.01 * f64::from(round);
                json!({"round": round, "status": "measured", "test_accuracy_percent": 95.0,
                    "timing": {"train_s": seconds * wobble}})
            });
            json!({"samples": samples.collect::<Vec<_>>(), "timing": {}, "run": {"id": "r", "suite": "s",
                "quick": false, "started": "2026-01-01T00:00:00Z", "harness": "0"}})
        };
        let of = |rounds| {
            let rows =
                vec![trained("cpu", 4.0, run(4.0, rounds)), trained("gpu", 2.0, run(2.0, rounds))];
            summary(rows).rows[1].speed_up.unwrap()
        };
        let (few, enough) = (of(1), of(6));
        assert_eq!((few.interval, few.verdict), (None, verdict::Verdict::Inconclusive));
        assert_eq!(enough.verdict, verdict::Verdict::Faster);
        assert!((enough.interval.unwrap().low - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_row_of_another_run_did_not_take_turns_with_the_reference() {
        let run = |id: &str| json!({"run": {"id": id, "suite": "s", "quick": false, "started": "2026-01-01T00:00:00Z", "harness": "0"}});
        let apart = |id| {
            let rows = vec![trained("cpu", 4.0, run("r")), trained("gpu", 2.0, run(id))];
            summary(rows).rows.iter().map(|row| row.is_apart).collect::<Vec<_>>()
        };
        assert_eq!((apart("r"), apart("s")), (vec![false, false], vec![false, true]));
    }

    #[test]
    fn a_column_appears_where_rows_differ_and_only_there() {
        let differences = |changes: Value| {
            summary(vec![trained("a", 1.0, json!({})), trained("a", 1.0, changes)]).differences
        };
        let config = |key: &str| Difference::Config(key.to_owned());
        assert_eq!(differences(json!({"backend": "gpu"})), []);
        assert_eq!(differences(json!({"config": {"epochs": 1}})), [config("epochs")]);
        for (change, column) in [
            (json!({"executable": "x"}), Difference::Executable),
            (json!({"dataset": {"name": "e"}}), Difference::Dataset),
            (json!({"machine": {"cpu": "c"}}), Difference::Machine),
            (json!({"compiled": true}), Difference::Compiled),
            (json!({"timestamp": "20260102_000000"}), Difference::Timestamp),
        ] {
            assert_eq!(differences(change), [column]);
        }
        assert_eq!(differences(json!({})), [Difference::Timestamp, Difference::File]);
    }

    #[test]
    fn the_newest_row_of_each_kind_can_be_kept_and_the_reference_chosen() {
        let rows = || {
            let dated = |day: &str| json!({ "timestamp": format!("2026010{day}_000000") });
            vec![
                trained("cpu", 4.0, dated("2")),
                trained("cpu", 2.0, dated("1")),
                trained("b", 1.0, json!({})),
            ]
        };
        let options = Options { latest: true, ..Options::default() };
        let newest = Summary::new(rows().into(), &options).unwrap();
        assert_eq!(
            newest.rows.iter().map(|it| it.record.timing.train_s).collect::<Vec<_>>(),
            [Some(4.0), Some(1.0)]
        );
        let reference = Some("T/b".parse().unwrap());
        let found =
            Summary::new(rows().into(), &Options { reference, ..Options::default() }).unwrap();
        assert_eq!(found.rows[0].speed_up.unwrap().gain, 0.25);
        let reference = Some("T/tpu".parse().unwrap());
        let none = Summary::new(rows().into(), &Options { reference, ..Options::default() });
        assert!(none.unwrap_err().to_string().contains("There are T/b, T/cpu"));
        assert!(["", "cpu", "/cpu", "a/"].iter().all(|text| text.parse::<Reference>().is_err()));
    }

    #[test]
    fn a_row_that_fails_is_replaced_by_the_first_that_is_named_and_the_summary_says_so() {
        let named = |name: &str, place: u32, status: &str| {
            trained("default", 2.0, json!({"executable": name, "place": place, "status": status}))
        };
        let first = Reference {
            executable: "bad".into(),
            backend: "default".into(),
            ..Reference::default()
        };
        let of = |rows: Vec<Record>| {
            let preferred = Some(first.clone());
            let found = Summary::new(rows.into(), &Options { preferred, ..Options::default() });
            let Summary { reference, unranked_reference, .. } = found.unwrap();
            (reference.unwrap().executable, unranked_reference)
        };
        let failed = || named("bad", 0, "failed");
        let rows = vec![named("a", 2, "measured"), failed(), named("z", 1, "measured")];
        assert_eq!(of(rows), ("z".to_owned(), Some(first.clone())));
        // Of equals that no suite has put in an order.
        let rows = ["bad 13", "bad 2"].map(|name| named(name, 1, "measured"));
        assert_eq!(of([rows.to_vec(), vec![failed()]].concat()).0, "bad 2");
        let rows = vec![named("a", 1, "measured"), named("bad", 0, "measured")];
        assert_eq!(of(rows), ("bad".to_owned(), None));
        // One that is not in the folder is not missed.
        assert_eq!(of(vec![named("a", 1, "measured")]), ("a".to_owned(), None));
    }

    #[test]
    fn rows_are_compared_across_a_key() {
        let with = |precision: &str, seconds| {
            trained("cpu", seconds, json!({"config": {"precision": precision}}))
        };
        let options = Options { across: vec!["precision".into()], ..Options::default() };
        let rows = vec![with("fp32", 4.0), with("bf16", 1.0)];
        let found = Summary::new(rows.into(), &options).unwrap();
        // The reference is chosen by the names, not by the order of the files.
        assert_eq!(found.rows[0].speed_up.unwrap().gain, 0.25);
        assert_eq!(found.reference.unwrap().to_string(), "T/cpu precision=\"bf16\"");
        let wrong = Options { across: vec!["x".into()], ..Options::default() };
        let none = Summary::new(vec![with("fp32", 1.0)].into(), &wrong);
        assert!(none.unwrap_err().to_string().contains("there is only precision"));
    }
}
