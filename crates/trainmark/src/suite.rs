//! Suite files: which trainers there are, how each is built and called, and what it trains.
//!
//! A suite is TOML; CONTRIBUTING.md explains it by example. Commands are lists of arguments,
//! placeholders are filled in literally, and no shell is involved unless a trainer asks for one.

use crate::builtin;
use crate::expression::Expression;
use crate::ranks::Speakers;
use crate::rules::Rules;
use crate::setup::needs::Declared;
use crate::task::{self, Key, Task};
use crate::template::{self, Argument};
use anyhow::{Context, Result, anyhow, bail, ensure};
use indexmap::IndexMap;
use measure::text::one_line;
use record::Reference;
use record::name::{self, file_nearby};
use record::task::ScalingRecord;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const ORIGIN_BUILT_IN: &str = "built in";

/// A suite file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    pub name: String,
    /// Where builds and relative programs are run from, relative to the suite file's folder.
    #[serde(default = "here")]
    root: PathBuf,
    /// What is learnt.
    #[serde(default)]
    task: task::Declared,
    /// Configuration keys, beyond those that the task declares.
    #[serde(default)]
    keys: IndexMap<String, Key>,
    pub scaling: Option<ScalingRecord>,
    pub reference: Option<ReferenceRow>,
    /// Configuration of every row.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// The values that `--quick` changes.
    #[serde(default)]
    pub quick: Map<String, Value>,
    /// By name, the values that `--preset NAME` changes.
    #[serde(default)]
    pub presets: BTreeMap<String, Map<String, Value>>,
    /// What the command of every trainer ends with.
    #[serde(default)]
    arguments: Vec<Argument>,
    /// What every trainer has for `race` that says nothing else.
    #[serde(default)]
    race: Vec<String>,
    /// Seconds after which a row is stopped.
    #[serde(default = "half_an_hour")]
    pub timeout_s: f64,
    #[serde(default)]
    pub models: BTreeMap<String, Model>,
    pub trainers: Vec<Trainer>,
}

fn here() -> PathBuf {
    PathBuf::from(".")
}

fn half_an_hour() -> f64 {
    1800.0
}

/// The row that speed-ups are counted against.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceRow {
    pub trainer: String,
    pub backend: String,
    /// Configuration values of the reference among the rows of that trainer and backend.
    #[serde(default, rename = "where")]
    pub config: Map<String, Value>,
}

/// As records know it.
impl From<&ReferenceRow> for Reference {
    fn from(row: &ReferenceRow) -> Reference {
        let (executable, backend) = (row.trainer.clone(), row.backend.clone());
        Reference { executable, backend, settings: row.config.clone() }
    }
}

/// The settings of a model for all trainers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Model {
    pub config: Map<String, Value>,
    pub targets: Vec<Target>,
}

/// Metrics on the wrong side of which a row has not converged.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Target {
    /// It holds for configurations with exactly these values. Of keys that the task does not know, or that change no
    /// step (`steps`, `epochs`), a number is the least. `dataset` is the name of the data.
    #[serde(default)]
    pub at: Map<String, Value>,
    #[serde(flatten)]
    pub metrics: BTreeMap<String, f64>,
}

/// The key of the dataset's name in a target.
const DATASET: &str = "dataset";

impl Target {
    fn holds(&self, dataset: Option<&str>, config: &Map<String, Value>, task: &Task) -> bool {
        self.at.iter().all(|(key, wanted)| {
            if key == DATASET {
                return wanted.as_str() == dataset;
            }
            let exact = task.keys.get(key).is_some_and(|key| key.changes_steps);
            match (config.get(key).and_then(Value::as_f64), wanted.as_f64()) {
                (Some(value), Some(least)) if !exact => value >= least,
                (Some(value), Some(wanted)) => value == wanted,
                _ => config.get(key) == Some(wanted),
            }
        })
    }

    /// Orders targets that hold at once: the one with the highest numbers counts.
    fn weight(&self) -> f64 {
        self.at.values().filter_map(Value::as_f64).sum::<f64>() + self.at.len() as f64 * 1e-6
    }
}

/// A program that trains.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Trainer {
    pub name: String,
    /// The program's file; `{cargo_target}` is cargo's target folder. A bare name is looked up in
    /// `PATH`.
    pub program: String,
    /// How it is built, if it has to be.
    pub build: Vec<String>,
    /// The set-up that a machine needs before the trainer can run; only `trainmark setup` makes it.
    pub setup: Option<Declared>,
    /// Files and folders, besides the program and what the command names, that decide what it does: if
    /// they change, `--resume` runs it again, and its grade holds no more.
    pub inputs: Vec<PathBuf>,
    /// How it is asked what it can do here. Without it, everything is taken to be available.
    pub probe: Vec<String>,
    pub command: Vec<Argument>,
    /// Where it runs, relative to the suite's root.
    pub directory: Option<PathBuf>,
    /// Whether the command is one for `sh`; what is filled in is quoted.
    pub shell: bool,
    /// Regular expressions with named groups, by which its lines are read.
    pub read: Vec<String>,
    /// Paths into its lines of JSON, by what they find.
    pub read_json: BTreeMap<String, String>,
    /// Of processes that train together, whose lines count; a launcher's tag says whose a line is. Without it,
    /// the events of all do, and of other lines none is taken apart.
    pub ranks: Option<Speakers>,
    /// How many devices a row gets, how many logical cores it is bound to, and how many nodes of a cluster it takes
    /// (one if nothing is said), in terms of its configuration; nothing is asked for where a key has no value, and
    /// no device by rows on the CPU.
    pub devices: Option<Expression>,
    pub cores: Option<Expression>,
    pub nodes: Option<Expression>,
    pub environment: BTreeMap<String, String>,
    pub backends: Vec<String>,
    /// Backends that compile or capture the training step as a whole.
    pub compiled: Vec<String>,
    /// In the order of the file.
    pub models: IndexMap<String, TrainedModel>,
    /// Arguments that are added to the probe and to the command if software imitations of devices are
    /// allowed (`trainmark run --allow-software`).
    pub allow_software: Vec<String>,
    /// Arguments that are added to the command if it is to evaluate on the way (`trainmark run --target`); evaluation
    /// must be off the trainer's clock. Without it, those of the suite.
    pub race: Option<Vec<String>>,
    /// Rows that are left out: each a table of keys that all must match.
    pub exclude: Vec<Map<String, Value>>,
}

/// How one trainer trains one model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainedModel {
    /// The beginning of the names of its result files.
    pub prefix: String,
    /// Configuration keys with the values that are combined.
    #[serde(default)]
    pub matrix: BTreeMap<String, Vec<Value>>,
}

/// A suite and where it came from.
#[derive(Clone, Debug)]
pub struct LoadedSuite {
    pub suite: Suite,
    /// The file's path, or `built in`.
    pub origin: String,
    /// The file's contents.
    pub text: String,
    /// Where builds and relative programs are run from.
    pub root: PathBuf,
    /// The suite file's own folder, from where its data is named.
    pub folder: PathBuf,
}

impl LoadedSuite {
    /// The suite of that file or of that name; without one, the default suite. A name stands for the file in
    /// the checkout that the current folder is in, and outside of a checkout for the suite in the program.
    ///
    /// # Errors
    /// If there is no such suite, or if its file is none.
    pub fn find(wanted: Option<&Path>) -> Result<LoadedSuite> {
        let wanted = wanted.unwrap_or(Path::new(stock::SUITE));
        if wanted.is_file() {
            return LoadedSuite::read(wanted);
        }
        let Some((name, _)) = wanted.to_str().and_then(builtin::suite) else {
            return match wanted.extension().is_some() || wanted.components().count() > 1 {
                true => LoadedSuite::read(wanted), // an error that says why
                false => Err(unknown(wanted)),
            };
        };
        match builtin::in_checkout(name) {
            Some(file) => LoadedSuite::read(&file),
            None => LoadedSuite::built_in(name),
        }
    }

    /// The suite of that name that is built into the program.
    ///
    /// # Errors
    /// If there is none, or if the files of its trainers cannot be unpacked.
    pub fn built_in(name: &str) -> Result<LoadedSuite> {
        let (_, text) = builtin::suite(name).ok_or_else(|| unknown(Path::new(name)))?;
        let root = std::env::current_dir().unwrap_or_else(|_| here());
        let mut loaded = LoadedSuite::of_text(text.to_owned(), ORIGIN_BUILT_IN, root)?;
        if loaded.suite.trainers.iter().any(|trainer| trainer.setup.is_some()) {
            loaded.root =
                builtin::unpack().map_err(|reason| unreadable(Path::new(name), &reason))?;
            loaded.folder = loaded.root.join("suites");
        }
        Ok(loaded)
    }

    /// The suite of a run that has begun, as it was then: its file, or else the built-in suite of that name, may
    /// have changed since.
    ///
    /// # Errors
    /// If the text is no suite for this program, or the folders that it names are gone.
    pub fn as_begun(file: Option<&Path>, name: &str, text: String) -> Result<LoadedSuite> {
        match file {
            Some(file) => LoadedSuite::of_file(file, text),
            None => {
                let suite = Suite::parse(&text, ORIGIN_BUILT_IN)?;
                Ok(LoadedSuite { suite, text, ..LoadedSuite::built_in(name)? })
            }
        }
    }

    /// As `--suite` takes it.
    pub fn named(&self) -> &str {
        if self.is_built_in() { &self.suite.name } else { &self.origin }
    }

    /// A suite whose text has been read before.
    ///
    /// # Errors
    /// If it is no suite.
    pub fn of_text(text: String, origin: &str, root: PathBuf) -> Result<LoadedSuite> {
        let (suite, origin) = (Suite::parse(&text, origin)?, origin.to_owned());
        Ok(LoadedSuite { suite, origin, text, folder: root.clone(), root })
    }

    /// The file, wherever the current folder will be; `None` if it is the one built in.
    pub fn file(&self) -> Option<PathBuf> {
        let file = PathBuf::from(&self.origin);
        (!self.is_built_in()).then(|| std::path::absolute(&file).unwrap_or(file))
    }

    fn read(file: &Path) -> Result<LoadedSuite> {
        let text = files::read_text(file, files::Kind::SUITE);
        LoadedSuite::of_file(file, text.map_err(|reason| unreadable(file, &reason))?)
    }

    fn of_file(file: &Path, text: String) -> Result<LoadedSuite> {
        let origin = file.display().to_string();
        let suite = Suite::parse(&text, &origin)?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let found = |path: &Path| {
            let named = || format!("{origin}: root = {path:?}");
            std::fs::canonicalize(folder.join(path)).with_context(named)
        };
        let (folder, root) = (found(Path::new("."))?, found(&suite.root)?);
        Ok(LoadedSuite { suite, origin, text, root, folder })
    }

    /// Its name and where it came from, in one line.
    pub fn shown(&self) -> String {
        one_line(&format!("{} ({})", self.suite.name, self.origin)).into_owned()
    }

    /// Whether this is the suite that came with the program, without its sources.
    pub fn is_built_in(&self) -> bool {
        self.origin == ORIGIN_BUILT_IN
    }
}

pub(crate) fn unknown(wanted: &Path) -> anyhow::Error {
    let name = wanted.display().to_string();
    let known: Vec<&str> = builtin::suites().map(|(known, _)| known).collect();
    anyhow!(name::unknown("--suite", "suite", &name, &known, "trainmark suites"))
}

fn unreadable(file: &Path, reason: &std::io::Error) -> anyhow::Error {
    let (file, nearby) = (file.display(), file_nearby(file));
    let hint = match reason.kind() {
        std::io::ErrorKind::NotFound if nearby.is_empty() => "; `trainmark new` writes a suite",
        _ => "",
    };
    anyhow!("cannot read the suite {file}: {reason}{nearby}{hint}")
}

impl Suite {
    /// Reads a suite; `file` is for messages.
    ///
    /// # Errors
    /// If it is not TOML, has an unknown or missing key, or contradicts itself.
    pub fn parse(text: &str, file: &str) -> Result<Suite> {
        let read = || -> Result<Suite> {
            let mut suite: Suite =
                toml::from_str(text).map_err(|error| anyhow!(on_its_line(text, &error)))?;
            suite.task.0.keys.extend(std::mem::take(&mut suite.keys));
            for trainer in &mut suite.trainers {
                trainer.command.extend_from_slice(&suite.arguments);
                trainer.race.get_or_insert_with(|| suite.race.clone());
            }
            suite.check()?;
            suite.add_reference()?;
            Ok(suite)
        };
        read().with_context(|| file.to_owned())
    }

    /// The task's own program that the suite's trainers are compared with is a trainer without models, which
    /// no row comes from.
    fn add_reference(&mut self) -> Result<()> {
        let Some(verify) = &self.task.0.verify else { return Ok(()) };
        let name = verify.reference.clone();
        if self.trainers.iter().any(|trainer| trainer.name == name) {
            return Ok(());
        }
        let program = verify.program.clone().with_context(|| {
            format!("[task.verify]: the reference {name:?} is not a trainer of this suite")
        })?;
        let backends = vec!["cpu".to_owned()];
        let command = verify.command.clone();
        self.trainers.push(Trainer { name, program, command, backends, ..Trainer::default() });
        Ok(())
    }

    /// What is learnt.
    pub fn task(&self) -> &Task {
        &self.task.0
    }

    fn check(&self) -> Result<()> {
        ensure!(!self.trainers.is_empty(), "there are no [[trainers]]");
        let time = self.timeout_s;
        ensure!(time > 0.0 && time.is_finite(), "timeout_s = {time} is not a positive number");
        self.task().check().context("[task]")?;
        for (index, trainer) in self.trainers.iter().enumerate() {
            let twice = self.trainers[..index].iter().any(|other| other.name == trainer.name);
            ensure!(!twice, "two trainers are called {:?}", trainer.name);
            self.check_trainer(trainer)?;
        }
        if let Some(row) = &self.reference {
            let known = |trainer: &Trainer| {
                trainer.name == row.trainer && trainer.backends.contains(&row.backend)
            };
            ensure!(
                self.trainers.iter().any(known),
                "[reference]: this suite has no trainer {:?} with the backend {:?}",
                row.trainer,
                row.backend
            );
        }
        let tables = self.models.values().map(|model| &model.config);
        let tables = tables.chain(self.presets.values()).chain([&self.config, &self.quick]);
        for (key, value) in tables.flatten() {
            let scalar = is_scalar(value);
            ensure!(scalar, "the value of {key:?} is not a number, a text, true or false");
        }
        self.check_keys()?;
        self.models.iter().try_for_each(|(name, model)| {
            let checked = self.check_targets(name, model);
            checked.with_context(|| format!("a target of {name:?} can never apply"))
        })
    }

    fn check_trainer(&self, trainer: &Trainer) -> Result<()> {
        let Trainer { name, program, command, backends, models, .. } = trainer;
        if program.is_empty() || command.is_empty() || backends.is_empty() || models.is_empty() {
            bail!("the trainer {name:?} needs a program, a command, backends and models");
        }
        if let Some(Declared::SameAs(other)) = &trainer.setup {
            let own =
                |it: &Trainer| it.name == *other && matches!(it.setup, Some(Declared::Own(_)));
            ensure!(
                self.trainers.iter().any(own),
                "{name:?} shares the setup of {other:?}, but no trainer of that name has a setup of its own"
            );
        }
        let prefixes = trainer.models.values().map(|model| &model.prefix);
        let names =
            trainer.backends.iter().chain(trainer.models.keys()).chain(prefixes).chain([name]);
        for name in names {
            let (length, beginning) = (name.len(), name.chars().take(20).collect::<String>());
            ensure!(
                (1..=LONGEST_NAME).contains(&length),
                "a name has 1 to {LONGEST_NAME} bytes, but {beginning:?}... has {length}"
            );
        }
        for (key, values) in trainer.models.values().flat_map(|model| &model.matrix) {
            ensure!(
                !values.is_empty() && values.iter().all(is_scalar),
                "the matrix of {name:?} needs a list of numbers, texts, true or false for {key:?}"
            );
        }
        if !self.task().has_data() && trainer.is_told("data") {
            bail!("the command of {name:?} uses {{data}}, but the task has no data");
        }
        self.rules(trainer).map(drop)
    }

    /// How a trainer's lines are read.
    ///
    /// # Errors
    /// If a rule is no expression, or finds nothing that there is.
    pub fn rules(&self, trainer: &Trainer) -> Result<Rules> {
        let rules = Rules::new(&trainer.read, &trainer.read_json, self.task());
        rules.with_context(|| format!("{:?}", trainer.name))
    }

    /// All keys that a row of a model may have.
    fn keys_of<'a>(&'a self, model: &'a str) -> impl Iterator<Item = &'a str> {
        let trained = self.trainers.iter().filter_map(move |trainer| trainer.models.get(model));
        let matrix = trained.flat_map(|trained| trained.matrix.keys());
        let own = self.models.get(model).into_iter().flat_map(|model| model.config.keys());
        let presets = self.presets.values().flat_map(Map::keys);
        let keys = self.config.keys().chain(self.quick.keys()).chain(presets);
        keys.chain(own).chain(matrix).chain(self.task().keys.keys()).map(String::as_str)
    }

    fn check_keys(&self) -> Result<()> {
        let task = self.task();
        let work = task.throughput.as_ref().and_then(|it| it.per_run.as_ref());
        let mut asks = vec![("throughput", work), ("flop_per_run", task.flop_per_run.as_ref())];
        for trainer in &self.trainers {
            asks.extend(trainer.asks());
        }
        let mut wanted: Vec<(&str, &str)> = Vec::new();
        for (what, asked) in asks {
            wanted.extend(asked.iter().flat_map(|it| it.keys()).map(|key| (what, key)));
        }
        wanted.extend(self.scaling.as_ref().map(|scaling| ("scaling", scaling.over.as_str())));
        let reference = self.reference.iter().flat_map(|row| row.config.keys());
        wanted.extend(reference.map(|key| ("reference", key.as_str())));
        let models = || self.trainers.iter().flat_map(|trainer| trainer.models.keys());
        for (what, key) in wanted {
            let known = models().any(|it| self.keys_of(it).any(|of| of == key));
            ensure!(known, "{what} uses the key {key:?}, which no configuration has");
        }
        Ok(())
    }

    /// A target that can never apply is a mistake.
    fn check_targets(&self, name: &str, model: &Model) -> Result<()> {
        let trained = self.trainers.iter().any(|it| it.models.contains_key(name));
        ensure!(trained || model.targets.is_empty(), "no trainer trains this model");
        let task = self.task();
        for target in &model.targets {
            for metric in target.metrics.keys() {
                let (known, names) = (task.metrics.contains_key(metric), task.names());
                ensure!(known, "{metric:?} is not one of the metrics: {names}");
            }
            if let Some(dataset) = target.at.get(DATASET) {
                // Data may lie in a folder of any name; one that is nearly a known one is mistyped.
                let (dataset, free) = (dataset.as_str().unwrap_or_default(), task.find.is_some());
                let known: Vec<&String> = task.datasets.keys().chain([&task.name]).collect();
                let near = known.iter().any(|it| strsim::jaro_winkler(it, dataset) > 0.85);
                if !known.iter().any(|it| *it == dataset) && (near || !free) {
                    bail!("{dataset:?} is not data of the task {:?}", task.name);
                }
            }
            for key in target.at.keys().filter(|key| *key != DATASET) {
                let known = self.keys_of(name).any(|known| known == key);
                ensure!(known, "the model has no key {key:?}");
            }
        }
        Ok(())
    }

    /// The targets of a row.
    pub fn targets(
        &self,
        model: &str,
        dataset: Option<&str>,
        config: &Map<String, Value>,
    ) -> BTreeMap<String, f64> {
        let targets = self.models.get(model).map_or(&[][..], |model| &model.targets);
        let mut holding: Vec<&Target> =
            targets.iter().filter(|it| it.holds(dataset, config, self.task())).collect();
        holding.sort_by(|one, other| one.weight().total_cmp(&other.weight()));
        holding.into_iter().flat_map(|target| target.metrics.clone()).collect()
    }
}

/// Names go into the names of files, of which several make one of at most 255 bytes.
const LONGEST_NAME: usize = 80;

impl Trainer {
    /// The keys in braces that its command and environment name, and those that decide what it gets.
    pub fn placeholders(&self) -> impl Iterator<Item = String> + '_ {
        let asks = self.asks().into_iter().filter_map(|it| it.1);
        let asks = asks.flat_map(|it| it.keys().into_iter().map(str::to_owned));
        let words = self.command.iter().flat_map(Argument::words).chain(self.environment.values());
        words.flat_map(|text| template::placeholders(text)).chain(asks)
    }

    /// What its rows ask for of the machine.
    pub fn asks(&self) -> [(&'static str, Option<&Expression>); 3] {
        let (devices, cores) = (self.devices.as_ref(), self.cores.as_ref());
        [("devices", devices), ("cores", cores), ("nodes", self.nodes.as_ref())]
    }

    /// Whether it is the task's own reference and has no rows.
    pub fn is_only_compared_with(&self) -> bool {
        self.models.is_empty()
    }

    /// Whether its command uses a configuration key.
    pub fn is_told(&self, key: &str) -> bool {
        self.placeholders().any(|named| named == key)
    }
}

fn is_scalar(value: &Value) -> bool {
    value.is_number() || value.is_string() || value.is_boolean()
}

/// toml's messages show the source over several lines; ours are one line with its number.
fn on_its_line(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().lines().collect::<Vec<_>>().join(" ");
    match error.span() {
        Some(span) => {
            let before = &text.as_bytes()[..span.start.min(text.len())];
            let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
            format!("line {line}: {message}")
        }
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        name = "small"
        [[trainers]]
        name = "one"
        program = "true"
        command = ["{program}", ["--hidden", "{hidden_size}"]]
        backends = ["cpu"]
        models.mlp.prefix = "one"
    "#;

    #[test]
    fn every_command_ends_with_the_arguments_of_the_suite() {
        let text = format!("arguments = [\"--seed\", [\"--threads\", \"{{threads}}\"]]\n{SMALL}");
        let command = &Suite::parse(&text, "s.toml").unwrap().trainers[0].command;
        let threads = Argument::IfKnown(vec!["--threads".into(), "{threads}".into()]);
        assert_eq!(command[2..], [Argument::Always("--seed".into()), threads]);
    }

    fn refusal(text: &str) -> String {
        format!("{:#}", Suite::parse(text, "s.toml").unwrap_err())
    }

    #[test]
    fn the_built_in_suite_covers_the_specification() {
        let suite = LoadedSuite::built_in(stock::SUITE).unwrap().suite;
        assert_eq!(suite.config["seed"], 42);
        assert_eq!(suite.config["batch_size"], 32);
        assert_eq!((&suite.config["epochs"], &suite.quick["epochs"]), (&5.into(), &1.into()));
        let trainer = &suite.trainers[0];
        assert_eq!(trainer.name, "MNISTClassic");
        for backend in ["cpu", "mps", "mpsgraph"] {
            assert!(trainer.backends.iter().any(|known| known == backend));
        }
        assert_eq!(trainer.models["mlp"].prefix, "classic");
        assert_eq!(trainer.models["mlp"].matrix["hidden_size"], [Value::from(512), 256.into()]);
    }

    #[test]
    fn every_trainer_of_a_built_in_suite_with_targets_can_race_to_one() {
        for name in ["mnist", "frameworks", "gpt", "devices"] {
            let suite = LoadedSuite::built_in(name).unwrap().suite;
            let of_rows = |trainer: &&Trainer| !trainer.models.is_empty(); // not the reference of `verify`
            let mut trainers = suite.trainers.iter().filter(of_rows);
            let idle = trainers.find(|trainer| trainer.race.as_ref().is_none_or(Vec::is_empty));
            assert_eq!(idle.map(|trainer| &trainer.name), None, "{name}");
        }
    }

    #[test]
    fn a_trainer_races_as_the_suite_says_or_as_it_says_itself() {
        let (begin, trainer) = SMALL.split_at(SMALL.find("[[trainers]]").unwrap());
        let other = trainer.replacen("name = \"", "race = [\"--own\"]\nname = \"other ", 1);
        let none = trainer.replacen("name = \"", "race = []\nname = \"third ", 1);
        let text = format!("race = [\"--eval-every\", \"100\"]\n{begin}{trainer}\n{other}\n{none}");
        let suite = Suite::parse(&text, "s.toml").unwrap();
        let race = |at: usize| suite.trainers[at].race.as_deref().unwrap();
        assert_eq!(race(0), ["--eval-every", "100"]);
        assert_eq!((race(1), race(2)), (&["--own".to_owned()][..], &[][..]));
    }

    #[test]
    fn a_small_suite_is_enough() {
        let suite = Suite::parse(SMALL, "s.toml").unwrap();
        assert_eq!(suite.timeout_s, 1800.0);
        let argument = Argument::IfKnown(vec!["--hidden".into(), "{hidden_size}".into()]);
        assert_eq!(suite.trainers[0].command[1], argument);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let unknown = SMALL.replace("program =", "programme =");
        assert!(
            refusal(&unknown).contains("s.toml: line 5: unknown field `programme`"),
            "{}",
            refusal(&unknown)
        );
        assert!(refusal("name = \"x\"\ntrainers = []").contains("no [[trainers]]"));
        assert!(refusal("name = ").contains("line 1"));
        let empty =
            SMALL.replace("models.mlp.prefix", "models.mlp.matrix = { h = [] }\nmodels.mlp.prefix");
        assert!(refusal(&empty).contains("\"h\""), "{}", refusal(&empty));
        let reference = format!("reference = {{ trainer = \"one\", backend = \"gpu\" }}\n{SMALL}");
        assert!(refusal(&reference).contains("no trainer \"one\" with the backend \"gpu\""));
    }

    fn targets(targets: &str) -> Result<Suite> {
        Suite::parse(
            &format!("{SMALL}\n[config]\nepochs = 5\n[models.mlp]\ntargets = [{targets}]"),
            "s.toml",
        )
    }

    #[test]
    fn of_the_targets_that_hold_the_one_that_asks_for_most_counts() {
        let suite = targets(
            "{ at = { dataset = \"mnist\", epochs = 1 }, test_accuracy_percent = 87 }, \
             { at = { dataset = \"mnist\", epochs = 5 }, test_accuracy_percent = 93.5 }, \
             { at = { dataset = \"digits\" }, test_accuracy_percent = 80 }",
        )
        .unwrap();
        let target = |model: &str, dataset: &str, epochs: u32| {
            let config = Map::from_iter([("epochs".to_owned(), epochs.into())]);
            suite.targets(model, Some(dataset), &config).into_values().next()
        };
        assert_eq!(target("mlp", "mnist", 1), Some(87.0));
        assert_eq!(target("mlp", "mnist", 9), Some(93.5));
        assert_eq!(target("mlp", "digits", 1), Some(80.0));
        assert_eq!(target("mlp", "mnist", 0), None);
        assert_eq!(target("cnn", "mnist", 5), None);
    }

    #[test]
    fn a_target_belongs_to_the_sizes_of_a_model_and_to_at_least_so_many_steps() {
        let gpt = LoadedSuite::find(Some(Path::new("gpt"))).unwrap().suite;
        let target = |preset: &str, steps: u32| {
            let mut config = gpt.config.clone();
            config.extend(gpt.presets[preset].clone());
            config.insert("steps".to_owned(), steps.into());
            gpt.targets("gpt", Some("shakespeare"), &config).into_values().next()
        };
        assert_eq!(
            [1999, 2000, 5000].map(|steps| target("small", steps)),
            [None, Some(1.945), Some(1.945)]
        );
        assert_eq!(
            [999, 1000, 2000].map(|steps| target("char", steps)),
            [None, Some(1.57), Some(1.57)]
        );
        assert_eq!(target("gpt2", 2000), None, "nobody has studied its seeds");
    }

    #[test]
    fn a_target_that_can_never_apply_is_refused() {
        for (target, why) in [
            (
                "{ at = { dataset = \"mnits\" }, test_accuracy_percent = 1 }",
                "\"mnits\" is not data",
            ),
            ("{ bpc = 1 }", "not one of the metrics: test_accuracy_percent"),
            ("{ at = { steps = 3 }, test_accuracy_percent = 1 }", "has no key \"steps\""),
        ] {
            let refused = format!("{:#}", targets(target).unwrap_err());
            assert!(refused.contains("can never apply") && refused.contains(why), "{refused}");
        }
        let unknown = format!("{SMALL}\n[models.cnn]\ntargets = [{{ test_accuracy_percent = 1 }}]");
        assert!(refusal(&unknown).contains("no trainer trains"));
    }

    #[test]
    fn names_that_would_not_fit_into_a_file_name_are_refused() {
        let long = SMALL.replace("\"one\"\n    ", &format!("{:?}\n", "x".repeat(250)));
        assert!(refusal(&long).contains("1 to 80 bytes"), "{}", refusal(&long));
    }

    #[test]
    fn a_task_without_data_gives_none() {
        let text = SMALL.replace("[[trainers]]", "[task]\nname = \"t\"\n[[trainers]]");
        Suite::parse(&text, "s.toml").unwrap();
        assert!(refusal(&text.replace("{hidden_size}", "{data}")).contains("the task has no data"));
    }
}
