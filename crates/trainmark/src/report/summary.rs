//! The one thing that every report format is made from: rows in their order, what they share, in
//! what they differ, and how they compare.

use super::collection::{Collection, Id, Row, Run, Skipped};
use super::compare::{self, Basis, Reference};
use super::tally::Tally;
use super::{notes, text, verified};
use crate::machine::Machine;
use crate::noise::NoiseFloor;
use crate::report::old_result::{DatasetRecord, ResultFile, Status};
use crate::suite::Suite;
use crate::verify::{Grade, Verification};
use foldhash::fast::RandomState;
use indexmap::{IndexMap, IndexSet};
use record::Verdict;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, Hash};

/// Configuration that reports show first, as the specification does.
const FIRST_KEYS: [&str; 3] = ["epochs", "batch_size", "seed"];

/// What the user may choose.
#[derive(Clone, Debug, Default)]
pub struct Options<'a> {
    /// Speed-ups are against this row, which must be there. Without it: the suite's reference if
    /// it was measured, else `cpu` of the first executable that was measured on it, else the first
    /// row that was measured.
    pub reference: Option<Reference>,
    /// Keep only the newest of rows that differ in nothing but when they ran.
    pub latest: bool,
    /// Whose reference is preferred, and whose targets hold for files that name none.
    pub suite: Option<&'a Suite>,
}

/// Why there is no summary: one line.
#[derive(Debug, thiserror::Error)]
pub enum SummaryError {
    #[error("--reference {wanted}: there is no such row; there are {known}")]
    NoSuchReference { wanted: Reference, known: String },
}

/// For each machine of a collection, its place among the distinct ones.
type Hardware = HashMap<Id, usize, RandomState>;

/// What tells rows apart besides model and backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    Executable,
    /// A configuration key.
    Config(String),
    Dataset,
    Machine,
    Compiled,
    Timestamp,
    File,
}

impl Identity {
    /// For the head of a column.
    pub fn title(&self) -> String {
        match self {
            Identity::Executable => "Executable".to_owned(),
            Identity::Config(key) if key == "hidden_size" => "Hidden".to_owned(),
            Identity::Config(key) => text::title(key),
            Identity::Dataset => "Dataset".to_owned(),
            Identity::Machine => "Machine".to_owned(),
            Identity::Compiled => "Compiled".to_owned(),
            Identity::Timestamp => "Timestamp".to_owned(),
            Identity::File => "File".to_owned(),
        }
    }
}

/// Everything that a report says.
#[derive(Debug)]
pub struct Summary {
    pub(super) collection: Collection,
    pub(super) tally: Tally,
    /// Whose rows the speed-ups are against; `None` if there is nothing to compare with.
    pub reference: Option<Reference>,
    /// Configuration that all rows share, the specification's keys first.
    pub shared_config: Vec<(String, Value)>,
    /// Configuration keys in which rows differ.
    pub differing_config: Vec<String>,
    /// Columns that the rows need to be told apart.
    pub identity: Vec<Identity>,
    /// What the speed-ups are computed from, the preferred one first.
    pub bases: Vec<Basis>,
    /// How many rows have each status.
    pub statuses: BTreeMap<Status, usize>,
    /// All files are of the specification's own scripts: no status, dataset or clock but theirs.
    pub only_specification: bool,
    /// What the speed-ups are; `None` where no row has one but the reference itself.
    pub speed_up_note: Option<String>,
    /// Sentences on how to read the rows.
    pub notes: Vec<String>,
    /// One machine of each hardware, in the order of the rows.
    machines: Vec<Id>,
    /// For each machine of the collection, its place in `machines`.
    hardware: Hardware,
    /// Datasets of the rows, in their order.
    datasets: IndexSet<Id>,
    /// Whole files of some rows, for formats that show more than the headline; by the row's place.
    files: HashMap<usize, ResultFile>,
}

impl Summary {
    /// Orders, judges and compares the rows.
    ///
    /// # Errors
    /// If the reference that the user named is not there.
    pub fn new(mut collection: Collection, options: &Options) -> Result<Summary, SummaryError> {
        compare::judge(&mut collection, options.suite);
        let (machines, hardware) = distinct_hardware(&collection);
        if options.latest {
            keep_newest(&mut collection, &hardware);
        }
        verified::join(&mut collection);
        group(&mut collection, &hardware);
        let reference = choose_reference(&collection, options)?;
        let ids = reference.as_ref().and_then(|reference| find(&collection, reference));
        let mut rows = std::mem::take(&mut collection.rows);
        let floor = |row: &Row| collection.noise_floor_of(row).map_or(0.0, |floor| floor.share);
        compare::compare(&mut rows, ids, &floor);
        collection.rows = rows;
        let mut tally = Tally::new(&collection);
        let (shared_config, differing_config) = split_config(&collection, &tally);
        let mut summary = Summary {
            only_specification: !tally.ours,
            datasets: tally.datasets.iter().filter_map(|it| *it).collect(),
            statuses: std::mem::take(&mut tally.statuses),
            collection,
            tally,
            reference,
            shared_config,
            differing_config,
            identity: Vec::new(),
            bases: Vec::new(),
            speed_up_note: None,
            notes: Vec::new(),
            machines,
            hardware,
            files: HashMap::new(),
        };
        summary.identity = summary.needed_columns();
        summary.bases = summary.used_bases();
        summary.speed_up_note = notes::speed_up(&summary);
        summary.notes = notes::notes(&summary, options);
        Ok(summary)
    }

    pub fn rows(&self) -> &[Row] {
        &self.collection.rows
    }

    /// Reads the files of some rows again, now as a whole. Not part of the first reading, so that
    /// a folder of any size is summed up in little memory. What `read` cannot read is done without.
    pub fn keep_files(
        &mut self,
        rows: impl IntoIterator<Item = usize>,
        read: impl Fn(&Row) -> Option<ResultFile>,
    ) {
        for place in rows {
            if let Some(row) = self.collection.rows.get(place)
                && let Some(file) = read(row)
            {
                self.files.insert(place, file);
            }
        }
    }

    /// The whole file of a row, if it was kept.
    pub fn file(&self, place: usize) -> Option<&ResultFile> {
        self.files.get(&place)
    }

    /// Files that were left out.
    pub fn skipped(&self) -> &[Skipped] {
        &self.collection.skipped
    }

    pub fn executable(&self, row: &Row) -> &str {
        self.collection.text_of(row.executable)
    }

    pub fn model(&self, row: &Row) -> &str {
        self.collection.text_of(row.model)
    }

    pub fn backend(&self, row: &Row) -> &str {
        self.collection.text_of(row.backend)
    }

    pub fn reason(&self, row: &Row) -> Option<&str> {
        row.reason.map(|id| self.collection.text_of(id))
    }

    pub fn device(&self, row: &Row) -> Option<&str> {
        row.device.map(|id| self.collection.text_of(id))
    }

    pub fn config(&self, row: &Row, key: &str) -> Option<&Value> {
        self.collection.config_of(row.config).get(key)
    }

    pub(super) fn config_of(&self, row: &Row) -> &Map<String, Value> {
        self.collection.config_of(row.config)
    }

    /// Every configuration key of any row, those that all rows share first.
    pub(super) fn config_keys(&self) -> Vec<&str> {
        let shared = self.shared_config.iter().map(|(key, _)| key);
        shared.chain(&self.differing_config).map(String::as_str).collect()
    }

    /// Distinct configurations.
    pub(super) fn configurations(&self) -> impl Iterator<Item = &Map<String, Value>> {
        self.tally.configs.iter().map(|&id| self.collection.config_of(id))
    }

    /// The machine as the row's file has it, its name and kernel included.
    pub fn machine(&self, row: &Row) -> Option<&Machine> {
        row.machine.map(|id| self.collection.machine_of(id))
    }

    pub fn dataset(&self, row: &Row) -> Option<&DatasetRecord> {
        row.dataset.map(|id| self.collection.dataset_of(id))
    }

    pub fn run(&self, row: &Row) -> Option<&Run> {
        row.run.map(|id| self.collection.run_of(id))
    }

    /// Place of the row's machine in [`Summary::machines`].
    pub fn machine_index(&self, row: &Row) -> Option<usize> {
        row.machine.map(|id| self.hardware[&id])
    }

    /// What verifying the row's combination found, if it was verified.
    pub fn verification(&self, row: &Row) -> Option<&Verification> {
        row.verification.map(|id| &self.collection.verifications[id as usize])
    }

    /// How equal the row's training steps are to the reference's.
    pub fn grade(&self, row: &Row) -> Grade {
        self.verification(row).map_or(Grade::NotVerified, |it| it.grade)
    }

    /// Whether any row was verified, successfully or not.
    pub fn has_verifications(&self) -> bool {
        self.tally.verified
    }

    pub fn executables(&self) -> Vec<&str> {
        self.names(&self.tally.executables)
    }

    pub fn models(&self) -> Vec<&str> {
        self.names(&self.tally.models)
    }

    pub fn backends(&self) -> Vec<&str> {
        self.names(&self.tally.backends)
    }

    /// Distinct names, sorted.
    fn names(&self, ids: &IndexSet<Id, RandomState>) -> Vec<&str> {
        let mut names: Vec<&str> = ids.iter().map(|&id| self.collection.text_of(id)).collect();
        names.sort_unstable();
        names
    }

    /// One machine for each distinct hardware.
    pub fn machines(&self) -> impl ExactSizeIterator<Item = &Machine> {
        self.machines.iter().map(|&id| self.collection.machine_of(id))
    }

    /// Distinct datasets.
    pub fn datasets(&self) -> impl ExactSizeIterator<Item = &DatasetRecord> {
        self.datasets.iter().map(|&id| self.collection.dataset_of(id))
    }

    /// Distinct runs of `trainmark run`, in the order of the rows.
    pub fn runs(&self) -> impl ExactSizeIterator<Item = &Run> {
        let known = self.tally.runs.iter().filter_map(|it| *it).collect::<Vec<Id>>();
        known.into_iter().map(|id| self.collection.run_of(id))
    }

    /// The rows of each combination, oldest first; combinations in the order of their first rows.
    pub fn series(&self) -> Vec<Vec<&Row>> {
        let mut series: IndexMap<_, Vec<&Row>> = IndexMap::new();
        for row in self.rows() {
            let key = (combination(row, &self.hardware), row.compiled);
            series.entry(key).or_default().push(row);
        }
        let mut series: Vec<Vec<&Row>> = series.into_values().collect();
        for rows in &mut series {
            // The moment decides where all know it, else the local time, as elsewhere.
            match rows.iter().all(|row| row.started.is_some()) {
                true => rows.sort_by_key(|row| row.started),
                false => rows.sort_by(|a, b| a.timestamp().cmp(b.timestamp())),
            }
        }
        series
    }

    /// What tells a combination apart: `mlp cpu, hidden 512`.
    pub fn series_label(&self, row: &Row) -> String {
        let mut label = format!("{} {}", self.model(row), self.backend(row));
        for column in &self.identity {
            if !matches!(column, Identity::Timestamp | Identity::File) {
                label += &format!(
                    ", {} {}",
                    column.title().to_lowercase(),
                    self.identity_of(row, column)
                );
            }
        }
        label
    }

    /// The dataset's name, with the beginning of its SHA-256 where two share the name.
    pub fn dataset_label<'a>(&self, dataset: &'a DatasetRecord) -> Cow<'a, str> {
        let namesakes = self.datasets().filter(|other| other.name == dataset.name).count();
        match &dataset.sha256 {
            Some(sha256) if namesakes > 1 => {
                let start: String = sha256.chars().take(8).collect();
                Cow::Owned(format!("{} ({start})", dataset.name))
            }
            _ => Cow::Borrowed(&dataset.name),
        }
    }

    /// What stands in a column that tells rows apart.
    pub fn identity_of<'a>(&'a self, row: &'a Row, column: &Identity) -> Cow<'a, str> {
        match column {
            Identity::Executable => Cow::Borrowed(self.executable(row)),
            Identity::Config(key) => text::scalar(self.config(row, key)),
            Identity::Dataset => match self.dataset(row) {
                Some(dataset) => self.dataset_label(dataset),
                None => Cow::Borrowed(text::UNKNOWN),
            },
            Identity::Machine => match self.machine_index(row) {
                Some(index) => Cow::Owned((index + 1).to_string()),
                None => Cow::Borrowed(text::UNKNOWN),
            },
            Identity::Compiled => Cow::Borrowed(if row.compiled { "yes" } else { "no" }),
            Identity::Timestamp if row.timestamp().is_empty() => Cow::Borrowed(text::UNKNOWN),
            Identity::Timestamp => Cow::Borrowed(row.timestamp()),
            Identity::File => Cow::Borrowed(row.file()),
        }
    }

    /// `2.70x`; where speed-ups of several bases are in one report, with what is not the first.
    pub fn speed_up_text(&self, row: &Row) -> Cow<'static, str> {
        let Some(speed_up) = row.speed_up else { return Cow::Borrowed(text::UNKNOWN) };
        let factor = text::decimal(Some(speed_up.factor));
        let mark = match speed_up.basis {
            basis if Some(&basis) == self.bases.first() => "",
            Basis::TrainLoop => "",
            Basis::Wall => " (wall)",
            Basis::Cpu => " (CPU)",
        };
        let unshown = speed_up.interval.is_some() && speed_up.verdict == Verdict::NoDifference;
        let unshown = if unshown { " ~" } else { "" };
        Cow::Owned(format!("{factor}x{mark}{unshown}"))
    }

    /// `2.70x [2.61, 2.80]`, the interval where there is one.
    pub fn speed_up_with_interval(&self, row: &Row) -> Cow<'static, str> {
        let text = self.speed_up_text(row);
        match row.speed_up.and_then(|it| it.interval) {
            None => text,
            Some(interval) => {
                Cow::Owned(format!("{text} [{:.2}, {:.2}]", interval.low, interval.high))
            }
        }
    }

    /// Whether the operations per second of any row are known.
    pub fn has_rates(&self) -> bool {
        self.tally.rates
    }

    /// The achieved rate in GFLOP/s; in parentheses, with the dense one before it, where work was
    /// skipped.
    pub fn rate_text(row: &Row) -> Cow<'static, str> {
        text::decimal(row.roofline().map(|rates| rates.achieved_flop_per_s / 1e9))
    }

    /// The achieved rate as percent of the machine's measured peak.
    pub fn share_text(row: &Row) -> Cow<'static, str> {
        text::decimal(row.roofline().and_then(|rates| rates.share).map(|share| share * 100.0))
    }

    /// The noise floor that was known when a row ran.
    pub fn noise_floor(&self, row: &Row) -> Option<&NoiseFloor> {
        self.collection.noise_floor_of(row)
    }

    fn used_bases(&self) -> Vec<Basis> {
        let used = Basis::ALL.into_iter().zip(self.tally.speed_ups_by);
        used.filter(|(_, used)| *used).map(|(basis, _)| basis).collect()
    }

    /// Whether rows have speed-ups that say anything.
    pub fn compares(&self) -> bool {
        self.speed_up_note.is_some()
    }

    /// Whether any row is other than measured on a real device.
    pub fn has_exceptions(&self) -> bool {
        self.tally.exceptions
    }

    /// Model and backend always stand in a table; these columns come beside them.
    fn needed_columns(&self) -> Vec<Identity> {
        let rows = self.rows();
        let mut columns = Vec::new();
        if self.tally.executables.len() > 1 {
            columns.push(Identity::Executable);
        }
        columns.extend(self.differing_config.iter().cloned().map(Identity::Config));
        // A row that never ran may not know what it would have run on.
        if self.datasets.len() > 1 || self.tally.datasets_of_completed.len() > 1 {
            columns.push(Identity::Dataset);
        }
        let ran_on = self.tally.machines_of_completed.iter();
        let ran_on = ran_on.map(|id| id.map(|id| self.hardware[&id]));
        if self.machines.len() > 1 || differ(ran_on) {
            columns.push(Identity::Machine);
        }
        let combination = |row: &Row| combination(row, &self.hardware);
        let combinations = distinct(rows.iter().map(combination));
        if combinations < rows.len() {
            let compiled = |row: &Row| (combination(row), row.compiled);
            let with_compiled = distinct(rows.iter().map(compiled));
            if with_compiled > combinations {
                columns.push(Identity::Compiled);
            }
            if with_compiled < rows.len() {
                columns.push(Identity::Timestamp);
            }
            // As many stretches of rows as there are kinds, each in the order of time: nothing is twice.
            let stretches = rows.chunk_by(|a, b| compiled(a) == compiled(b)).count();
            let in_order = |pair: &[Row]| {
                pair[0].timestamp() < pair[1].timestamp()
                    || compiled(&pair[0]) != compiled(&pair[1])
            };
            let is_told = stretches == with_compiled && rows.windows(2).all(in_order);
            if !is_told && any_twice(rows, |row| (compiled(row), row.timestamp())) {
                columns.push(Identity::File);
            }
        }
        columns
    }
}

fn differ<T: PartialEq>(mut values: impl Iterator<Item = T>) -> bool {
    let first = values.next();
    first.is_some_and(|first| values.any(|value| value != first))
}

fn distinct<T: Hash + Eq + Copy>(values: impl Iterator<Item = T>) -> usize {
    let mut seen: HashSet<T, RandomState> = HashSet::default();
    let mut last = None;
    for value in values {
        // Neighbours mostly have the same, and then nothing needs to be hashed.
        if last != Some(value) {
            seen.insert(value);
            last = Some(value);
        }
    }
    seen.len()
}

/// Whether two rows have the same key. The keys are not kept, which may be as many as there are rows.
fn any_twice<'a, T: Hash + Eq>(rows: &'a [Row], key: impl Fn(&'a Row) -> T) -> bool {
    let state = RandomState::default();
    let mut seen: HashMap<u64, u32, RandomState> = HashMap::default();
    seen.reserve(rows.len());
    for (place, row) in rows.iter().enumerate() {
        let mut hash = state.hash_one(key(row));
        while let Some(&other) = seen.get(&hash) {
            if key(&rows[other as usize]) == key(row) {
                return true;
            }
            hash = hash.wrapping_add(1); // two keys of one hash
        }
        seen.insert(hash, place as u32);
    }
    false
}

/// What is the same in repeats of a row.
fn combination(row: &Row, hardware: &Hardware) -> impl Hash + Eq + Copy + use<> {
    (row.executable, row.backend, comparable(row, hardware))
}

/// What is the same in rows that may be compared with each other.
fn comparable(row: &Row, hardware: &Hardware) -> impl Hash + Eq + Copy + use<> {
    (row.dataset, row.machine.map(|id| hardware[&id]), row.model, row.config)
}

/// One machine of each hardware that the rows ran on, and for each machine its place among those.
/// Names, systems and kernels may differ: rows of a renamed or updated machine stay comparable.
fn distinct_hardware(collection: &Collection) -> (Vec<Id>, Hardware) {
    let mut places = HashMap::new();
    let mut machines = Vec::new();
    let mut hardware = Hardware::default();
    for id in collection.rows.iter().filter_map(|row| row.machine) {
        if hardware.contains_key(&id) {
            continue;
        }
        let Machine { cpu, cores, threads, architecture, gpus, .. } = collection.machine_of(id);
        let place = *places.entry((cpu, cores, threads, architecture, gpus)).or_insert_with(|| {
            machines.push(id);
            machines.len() - 1
        });
        hardware.insert(id, place);
    }
    (machines, hardware)
}

/// Drops all but the newest row of each combination.
fn keep_newest(collection: &mut Collection, hardware: &Hardware) {
    let mut repeats: HashMap<_, Vec<usize>> = HashMap::new();
    for (index, row) in collection.rows.iter().enumerate() {
        repeats.entry((combination(row, hardware), row.compiled)).or_default().push(index);
    }
    let rows = &collection.rows;
    let kept: HashSet<usize> =
        repeats.values().filter_map(|indices| compare::newest(rows, indices)).collect();
    let mut index = 0;
    collection.rows.retain(|_| {
        index += 1;
        kept.contains(&(index - 1))
    });
}

/// Numbers the groups of comparable rows by where they first appear, and brings each together.
fn group(collection: &mut Collection, hardware: &Hardware) {
    let mut groups: HashMap<_, u32, RandomState> = HashMap::default();
    let mut last = None;
    let mut sizes: Vec<u32> = Vec::new();
    for row in &mut collection.rows {
        let key = comparable(row, hardware);
        row.group = match last {
            Some((known, group)) if known == key => group,
            _ => {
                let next = groups.len() as u32;
                *groups.entry(key).or_insert(next)
            }
        };
        last = Some((key, row.group));
        sizes.resize(groups.len(), 0);
        sizes[row.group as usize] += 1;
    }
    // Rows of a group stay in their order.
    let mut next: Vec<u32> = sizes
        .iter()
        .scan(0, |start, size| {
            *start += size;
            Some(*start - size)
        })
        .collect();
    let mut order = vec![0; collection.rows.len()];
    for (row, place) in collection.rows.iter().zip(0..) {
        let next = &mut next[row.group as usize];
        order[*next as usize] = place;
        *next += 1;
    }
    collection.arrange(0, order);
}

fn choose_reference(
    collection: &Collection,
    options: &Options,
) -> Result<Option<Reference>, SummaryError> {
    if let Some(wanted) = &options.reference {
        return match find(collection, wanted) {
            Some(_) => Ok(Some(wanted.clone())),
            None => Err(no_such_reference(collection, wanted.clone())),
        };
    }
    let name = |row: &Row| Reference {
        executable: collection.text_of(row.executable).to_owned(),
        backend: collection.text_of(row.backend).to_owned(),
    };
    let ranked = || collection.rows.iter().filter(|row| row.is_ranked());
    let preferred = options.suite.and_then(|suite| suite.reference.as_ref()).map(Reference::from);
    if let Some(preferred) = preferred
        && let Some(ids) = find(collection, &preferred)
        && ranked().any(|row| (row.executable, row.backend) == ids)
    {
        return Ok(Some(preferred));
    }
    let cpu = ranked().find(|row| collection.text_of(row.backend) == "cpu");
    Ok(cpu.or(ranked().next()).map(name))
}

fn no_such_reference(collection: &Collection, wanted: Reference) -> SummaryError {
    let pairs: BTreeSet<(&str, &str)> = collection
        .rows
        .iter()
        .map(|row| (collection.text_of(row.executable), collection.text_of(row.backend)))
        .collect();
    let names =
        pairs.iter().take(10).map(|(executable, backend)| format!("{executable}/{backend}"));
    let mut known = names.collect::<Vec<_>>().join(", ");
    if pairs.len() > 10 {
        known += ", ...";
    }
    SummaryError::NoSuchReference { wanted, known: text::visible(&known, 1000).into_owned() }
}

/// The ids of the reference's names, if any row has both.
fn find(collection: &Collection, reference: &Reference) -> Option<(Id, Id)> {
    let matches = |row: &&Row| {
        collection.text_of(row.executable) == reference.executable
            && collection.text_of(row.backend) == reference.backend
    };
    collection.rows.iter().find(matches).map(|row| (row.executable, row.backend))
}

/// What all rows share, and the keys in which they differ.
fn split_config(collection: &Collection, tally: &Tally) -> (Vec<(String, Value)>, Vec<String>) {
    let configs = || tally.configs.iter().map(|&id| collection.config_of(id));
    let mut keys: IndexSet<&str> = IndexSet::new();
    for config in configs() {
        keys.extend(config.keys().map(String::as_str));
    }
    let mut shared = Vec::new();
    let mut differing = Vec::new();
    for key in keys {
        let mut values = configs().map(|config| config.get(key));
        let first = values.next().flatten();
        match first {
            Some(value) if values.all(|other| other == first) => {
                shared.push((key.to_owned(), value.clone()));
            }
            _ => differing.push(key.to_owned()),
        }
    }
    let place = |key: &str| FIRST_KEYS.iter().position(|first| *first == key).unwrap_or(usize::MAX);
    shared.sort_by_key(|(key, _)| place(key));
    (shared, differing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::collection::{collection_of, result_with};
    use serde_json::json;

    fn summary(results: &[Value], options: &Options) -> Summary {
        Summary::new(collection_of(results), options).unwrap()
    }

    fn columns(changes: &[Value]) -> Vec<Identity> {
        let results: Vec<Value> = changes.iter().cloned().map(result_with).collect();
        summary(&results, &Options::default()).identity
    }

    #[test]
    fn a_column_appears_where_rows_differ_and_only_there() {
        let same = json!({});
        let config = |key: &str| vec![Identity::Config(key.to_owned())];
        assert_eq!(columns(std::slice::from_ref(&same)), []);
        assert_eq!(columns(&[same.clone(), json!({"backend": "gpu"})]), []);
        assert_eq!(columns(&[same.clone(), json!({"config": {"epochs": 1}})]), config("epochs"));
        let seeded = json!({"config": {"epochs": 5, "seed": 1}});
        assert_eq!(columns(&[same.clone(), seeded]), config("seed"));
        let cases = [
            (json!({"executable": "x"}), Identity::Executable),
            (json!({"dataset": {"name": "digits"}}), Identity::Dataset),
            (json!({"machine": {"cpu": "c"}}), Identity::Machine),
            (json!({"compiled": true}), Identity::Compiled),
            (json!({"timestamp": "20260102_000000"}), Identity::Timestamp),
        ];
        for (change, column) in cases {
            assert_eq!(columns(&[same.clone(), change]), [column]);
        }
        assert_eq!(columns(&[same.clone(), same]), [Identity::Timestamp, Identity::File]);
    }

    #[test]
    fn a_row_that_never_ran_needs_no_dataset() {
        let unavailable = json!({"backend": "gpu", "status": "unavailable", "dataset": null});
        assert_eq!(columns(&[json!({}), unavailable]), []);
    }

    #[test]
    fn shared_configuration_is_what_all_rows_have_the_specifications_keys_first() {
        let config = |hidden: u32| json!({"config": {"hidden_size": hidden, "lr": 0.1, "seed": 42, "epochs": 5}});
        let results = [result_with(config(512)), result_with(config(256))];
        let summary = summary(&results, &Options::default());
        let shared: Vec<&str> = summary.shared_config.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(shared, ["epochs", "seed", "lr"]);
        assert_eq!(summary.differing_config, ["hidden_size"]);
    }

    #[test]
    fn the_newest_row_of_each_combination_is_kept() {
        let at = |day: u32, backend: &str, epochs: u32| {
            let timestamp = format!("202601{day:02}_000000");
            result_with(
                json!({"timestamp": timestamp, "backend": backend, "config": {"epochs": epochs}}),
            )
        };
        let results =
            [at(2, "cpu", 5), at(3, "cpu", 5), at(1, "gpu", 5), at(1, "cpu", 1), at(1, "cpu", 5)];
        let options = Options { latest: true, ..Options::default() };
        let summary = summary(&results, &options);
        let files: Vec<&str> = summary.rows().iter().map(Row::file).collect();
        assert_eq!(files, ["1.json", "2.json", "3.json"]);
    }

    #[test]
    fn the_moment_in_utc_decides_over_the_local_time() {
        let at = |started: &str, timestamp: &str| {
            result_with(json!({"run": {"id": started, "started": started}, "timestamp": timestamp}))
        };
        // The clocks went back an hour in between.
        let results = [
            at("2026-10-25T01:30:00.5Z", "20261025_023000"),
            at("2026-10-25T00:59:00Z", "20261025_025900"),
        ];
        let options = Options { latest: true, ..Options::default() };
        assert_eq!(summary(&results, &options).rows()[0].file(), "0.json");
    }

    #[test]
    fn comparable_rows_stand_together_in_the_order_of_their_files() {
        let row = |backend: &str, epochs: u32| {
            result_with(json!({"backend": backend, "config": {"epochs": epochs}}))
        };
        let results = [row("cpu", 5), row("cpu", 1), row("gpu", 5), row("gpu", 1)];
        let summary = summary(&results, &Options::default());
        let files: Vec<&str> = summary.rows().iter().map(Row::file).collect();
        assert_eq!(files, ["0.json", "2.json", "1.json", "3.json"]);
    }

    #[test]
    fn the_reference_is_what_the_user_names_else_the_suites_else_cpu_else_the_first() {
        let row = |executable: &str, backend: &str| {
            result_with(json!({"executable": executable, "backend": backend}))
        };
        let of = |results: &[Value], options: &Options| {
            summary(results, options).reference.unwrap().to_string()
        };
        let suite = Suite::parse(crate::suite::BUILT_IN, "built in").unwrap();
        let with_suite = Options { suite: Some(&suite), ..Options::default() };
        let mut results = vec![row("x", "gpu"), row("y", "tpu")];
        assert_eq!(of(&results, &with_suite), "x/gpu");
        results.push(row("y", "cpu"));
        assert_eq!(of(&results, &with_suite), "y/cpu");
        results.push(row("MNISTClassic", "cpu"));
        assert_eq!(of(&results, &with_suite), "MNISTClassic/cpu");
        assert_eq!(of(&results, &Options::default()), "y/cpu");
        let reference = Some("x/gpu".parse().unwrap());
        let named = Options { reference, ..with_suite.clone() };
        assert_eq!(of(&results, &named), "x/gpu");
    }

    #[test]
    fn a_reference_that_is_not_there_is_an_error_and_one_that_failed_a_note() {
        let failed = result_with(json!({"backend": "gpu", "status": "crashed"}));
        let results = [result_with(json!({})), failed];
        let named =
            |name: &str| Options { reference: Some(name.parse().unwrap()), ..Options::default() };
        let error = Summary::new(collection_of(&results), &named("e/tpu")).unwrap_err();
        let expected = "--reference e/tpu: there is no such row; there are e/cpu, e/gpu";
        assert_eq!(error.to_string(), expected);
        let summary = summary(&results, &named("e/gpu"));
        assert_eq!(summary.notes[0], "There are no speed-ups: e/gpu was not measured.");
    }
}
