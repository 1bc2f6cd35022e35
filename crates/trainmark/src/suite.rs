//! Suite files: which trainers there are, how each is built and called, and what it trains.
//!
//! A suite is TOML; CONTRIBUTING.md explains it by example. Nothing in it is code: commands are
//! lists of arguments, placeholders are filled in literally, no shell is involved.

use crate::setup::needs::Declared;
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The suite that is built into the program.
pub const BUILT_IN: &str = include_str!("../../../suites/mnist.toml");
const ORIGIN_BUILT_IN: &str = "built in";
/// Where the same suite stands in a checkout.
const IN_CHECKOUT: &str = "suites/mnist.toml";

/// A suite file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    pub name: String,
    /// Where builds and relative programs are run from, relative to the suite file's folder.
    #[serde(default = "here")]
    root: PathBuf,
    #[serde(default)]
    pub reference: Option<ReferenceRow>,
    /// Configuration of every combination.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// What `--quick` changes in it.
    #[serde(default)]
    pub quick: Map<String, Value>,
    /// Seconds after which a combination is stopped.
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
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceRow {
    pub trainer: String,
    pub backend: String,
}

/// What holds for a model whoever trains it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    #[serde(default)]
    pub config: Map<String, Value>,
    #[serde(default)]
    pub targets: Vec<Target>,
}

/// The test accuracy below which a row has not converged.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    pub dataset: String,
    /// It holds for runs of at least so many epochs.
    pub epochs: u64,
    pub percent: f64,
}

/// A program that trains.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trainer {
    pub name: String,
    /// The program's file; `{cargo_target}` is cargo's target folder. A bare name is looked up in
    /// `PATH`.
    pub program: String,
    /// How it is built, if it has to be.
    #[serde(default)]
    pub build: Vec<String>,
    /// What has to be on this machine before it can run; only `trainmark setup` sees to it.
    #[serde(default)]
    pub setup: Option<Declared>,
    /// Files and folders, besides the program and what the command names, that decide what it does: if
    /// they change, `--resume` runs it again, and its grade holds no more.
    #[serde(default)]
    pub inputs: Vec<PathBuf>,
    /// How it is asked what it can do here. Without it, everything is taken to be available.
    #[serde(default)]
    pub probe: Vec<String>,
    pub command: Vec<Argument>,
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    pub backends: Vec<String>,
    /// Backends that compile or capture the training step as a whole.
    #[serde(default)]
    pub compiled: Vec<String>,
    /// In the order of the file.
    pub models: IndexMap<String, TrainedModel>,
    /// What is added to the probe and to the command where software imitations of devices are
    /// allowed (`trainmark run --allow-software`).
    #[serde(default)]
    pub allow_software: Vec<String>,
    /// What is added to the command where the accuracy after each epoch is asked for (`trainmark run
    /// --target-accuracy`); evaluation must be off the trainer's clock.
    #[serde(default)]
    pub race: Vec<String>,
    /// Combinations that are left out: each a table of keys that all must match.
    #[serde(default)]
    pub exclude: Vec<Map<String, Value>>,
}

/// One argument, or several that stand or fall together.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Argument {
    Always(String),
    /// Left out where the combination has no value for one of the placeholders.
    IfKnown(Vec<String>),
}

/// How one trainer trains one model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainedModel {
    /// What its result files' names begin with.
    pub prefix: String,
    /// Configuration keys with the values that are combined.
    #[serde(default)]
    pub matrix: BTreeMap<String, Vec<Value>>,
}

/// Why a suite cannot be used: one line.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    #[error("cannot read the suite {file}: {reason}")]
    Unreadable { file: String, reason: std::io::Error },
    #[error("{file}: {reason}")]
    Malformed { file: String, reason: String },
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
}

impl LoadedSuite {
    /// The suite of that file; without one, the checkout's that the current folder is in, and
    /// outside of a checkout the one built into the program.
    ///
    /// # Errors
    /// If the file cannot be read or is no suite.
    pub fn find(file: Option<&Path>) -> Result<LoadedSuite, SuiteError> {
        if let Some(file) = file {
            return LoadedSuite::read(file);
        }
        let current = std::env::current_dir().unwrap_or_else(|_| here());
        match current.ancestors().map(|folder| folder.join(IN_CHECKOUT)).find(|path| path.is_file())
        {
            Some(path) => LoadedSuite::read(&path),
            None => LoadedSuite::built_in(),
        }
    }

    /// The suite that is built into the program.
    ///
    /// # Errors
    /// None that a user can see: it is tested.
    pub fn built_in() -> Result<LoadedSuite, SuiteError> {
        let root = std::env::current_dir().unwrap_or_else(|_| here());
        LoadedSuite::of_text(BUILT_IN.to_owned(), ORIGIN_BUILT_IN, root)
    }

    /// A suite whose text has been read before.
    ///
    /// # Errors
    /// If it is no suite.
    pub fn of_text(text: String, origin: &str, root: PathBuf) -> Result<LoadedSuite, SuiteError> {
        let (suite, origin) = (Suite::parse(&text, origin)?, origin.to_owned());
        Ok(LoadedSuite { suite, origin, text, root })
    }

    /// The file, wherever the current folder will be; `None` if it is the one built in.
    pub fn file(&self) -> Option<PathBuf> {
        let file = PathBuf::from(&self.origin);
        (!self.is_built_in()).then(|| std::path::absolute(&file).unwrap_or(file))
    }

    /// The suite of that file in the checkout that the current folder is in, if there is one.
    ///
    /// # Errors
    /// If the file cannot be read or is no suite.
    pub fn find_in_checkout(file: &str) -> Result<Option<LoadedSuite>, SuiteError> {
        let current = std::env::current_dir().unwrap_or_else(|_| here());
        let found = current.ancestors().map(|folder| folder.join(file)).find(|path| path.is_file());
        found.map(|path| LoadedSuite::read(&path)).transpose()
    }

    fn read(file: &Path) -> Result<LoadedSuite, SuiteError> {
        let origin = file.display().to_string();
        let text = std::fs::read_to_string(file)
            .map_err(|reason| SuiteError::Unreadable { file: origin.clone(), reason })?;
        let suite = Suite::parse(&text, &origin)?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let root = folder.unwrap_or(Path::new(".")).join(&suite.root);
        let root = std::fs::canonicalize(&root)
            .map_err(|error| malformed(&origin, format!("root = {:?}: {error}", suite.root)))?;
        Ok(LoadedSuite { suite, origin, text, root })
    }

    /// Whether this is the suite that came with the program, without its sources.
    pub fn is_built_in(&self) -> bool {
        self.origin == ORIGIN_BUILT_IN
    }
}

fn malformed(file: &str, reason: impl Into<String>) -> SuiteError {
    SuiteError::Malformed { file: file.to_owned(), reason: reason.into() }
}

impl Suite {
    /// Reads a suite; `file` is for messages.
    ///
    /// # Errors
    /// If it is not TOML, has an unknown or missing key, or contradicts itself.
    pub fn parse(text: &str, file: &str) -> Result<Suite, SuiteError> {
        let suite: Suite =
            toml::from_str(text).map_err(|error| malformed(file, one_line(text, &error)))?;
        suite.check().map_err(|reason| malformed(file, reason))?;
        Ok(suite)
    }

    fn check(&self) -> Result<(), String> {
        if self.trainers.is_empty() {
            return Err("there are no [[trainers]]".to_owned());
        }
        if !(self.timeout_s > 0.0 && self.timeout_s.is_finite()) {
            return Err(format!("timeout_s = {} is not a positive number", self.timeout_s));
        }
        for (index, trainer) in self.trainers.iter().enumerate() {
            let name = &trainer.name;
            if self.trainers[..index].iter().any(|other| other.name == *name) {
                return Err(format!("two trainers are called {name:?}"));
            }
            if trainer.command.is_empty()
                || trainer.backends.is_empty()
                || trainer.models.is_empty()
            {
                return Err(format!("the trainer {name:?} needs a command, backends and models"));
            }
            if let Some(Declared::SameAs(other)) = &trainer.setup {
                let own = |other: &Trainer| matches!(other.setup, Some(Declared::Own(_)));
                if !self.trainers.iter().any(|known| known.name == *other && own(known)) {
                    return Err(format!(
                        "the setup of {name:?} is that of {other:?}, which is no trainer with its own"
                    ));
                }
            }
            for model in trainer.models.values() {
                for (key, values) in &model.matrix {
                    if values.is_empty() || values.iter().any(|value| !is_scalar(value)) {
                        return Err(format!(
                            "the matrix of {name:?} needs numbers, texts or truth values for {key:?}"
                        ));
                    }
                }
            }
        }
        if let Some(row) = &self.reference {
            let known = |trainer: &Trainer| {
                trainer.name == row.trainer && trainer.backends.contains(&row.backend)
            };
            if !self.trainers.iter().any(known) {
                return Err(format!(
                    "the reference {}/{} is no trainer and backend of this suite",
                    row.trainer, row.backend
                ));
            }
        }
        let tables = self.models.values().map(|model| &model.config);
        for (key, value) in tables.chain([&self.config, &self.quick]).flatten() {
            if !is_scalar(value) {
                return Err(format!("{key:?} needs a number, a text or a truth value"));
            }
        }
        Ok(())
    }

    /// The target for a run of a model, if there is one.
    pub fn target(&self, model: &str, dataset: &str, epochs: u64) -> Option<f64> {
        let targets = self.models.get(model)?.targets.iter();
        targets
            .filter(|target| target.dataset == dataset && target.epochs <= epochs)
            .max_by_key(|target| target.epochs)
            .map(|target| target.percent)
    }
}

fn is_scalar(value: &Value) -> bool {
    value.is_number() || value.is_string() || value.is_boolean()
}

/// toml's messages show the source over several lines; ours are one line with its number.
fn one_line(text: &str, error: &toml::de::Error) -> String {
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

    fn refusal(text: &str) -> String {
        Suite::parse(text, "s.toml").unwrap_err().to_string()
    }

    #[test]
    fn the_built_in_suite_covers_the_specification() {
        let suite = Suite::parse(BUILT_IN, "built in").unwrap();
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
        assert!(refusal(&reference).contains("one/gpu"));
    }

    #[test]
    fn the_target_with_the_most_epochs_that_were_run_counts() {
        let mut suite = Suite::parse(SMALL, "s.toml").unwrap();
        let target = |epochs, percent| Target { dataset: "mnist".into(), epochs, percent };
        let targets = vec![target(1, 87.0), target(5, 93.5)];
        suite.models.insert("mlp".into(), Model { targets, ..Model::default() });
        assert_eq!(suite.target("mlp", "mnist", 4), Some(87.0));
        assert_eq!(suite.target("mlp", "mnist", 9), Some(93.5));
        assert_eq!(suite.target("mlp", "digits", 9), None);
    }
}
