//! From a suite and what the user asked for to the list of rows.

use crate::share::Needs;
use crate::suite::{LoadedSuite, Suite, TrainedModel, Trainer};
use crate::template::{Argument, PLACES, fill, plain};
use anyhow::{Context, Result, anyhow, ensure};
use indexmap::IndexMap;
use record::name::{meant, unknown};
use record::race;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The rows that the user selects. An empty list selects everything.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    pub trainers: Vec<String>,
    pub models: Vec<String>,
    pub backends: Vec<String>,
    /// Configuration keys with the values to run instead of the suite's.
    pub config: BTreeMap<String, Vec<Value>>,
    pub quick: bool,
    /// One of the suite's presets.
    pub preset: Option<String>,
}

/// One row to run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Index into the suite's trainers.
    pub trainer: usize,
    pub model: String,
    pub backend: String,
    /// In the order in which the task declares its keys.
    pub config: Map<String, Value>,
    /// Values that tell it from the suite's other rows, for its name, for example `h512`.
    pub tags: Vec<String>,
    /// The beginning of the result file's name.
    pub prefix: String,
    /// Its name for people: `PyTorch mlp cpu h512`.
    pub label: String,
    pub needs: Needs,
}

/// Configurations of one model at most: a matrix of a few keys multiplies beyond any run's end, and
/// beyond memory, before anybody would see it.
const MOST_CONFIGURATIONS: usize = 10_000;

/// All rows that the user asked for, in the suite's order.
///
/// # Errors
/// If the user named something that the suite does not have; the message lists what it has. If a
/// matrix multiplies to more than 10,000 configurations of a model.
pub fn plan(suite: &Suite, selection: &Selection) -> Result<Vec<Row>> {
    let selection = &in_the_suites_words(suite, selection)?;
    let mut rows = Vec::new();
    for (index, trainer) in suite.trainers.iter().enumerate() {
        if !selected(&selection.trainers, &trainer.name) {
            continue;
        }
        for (model, trained) in &trainer.models {
            if !selected(&selection.models, model) {
                continue;
            }
            for config in configurations(suite, trainer, model, selection)? {
                for backend in &trainer.backends {
                    if !selected(&selection.backends, backend)
                        || excluded(trainer, model, backend, &config)
                    {
                        continue;
                    }
                    let row = Row {
                        trainer: index,
                        model: model.clone(),
                        backend: backend.clone(),
                        config: config.clone(),
                        tags: tags(suite, trained, &config),
                        prefix: trained.prefix.clone(),
                        ..Row::default()
                    };
                    rows.push(row.completed(suite)?);
                }
            }
        }
    }
    let none = "no row of the suite matches the filters; `trainmark run --list` shows all rows";
    ensure!(!rows.is_empty(), none);
    Ok(rows)
}

fn selected(wanted: &[String], name: &str) -> bool {
    wanted.is_empty() || wanted.iter().any(|wanted| wanted == name)
}

/// The selection in the suite's own spelling. A key that no command uses is a mistake.
fn in_the_suites_words(suite: &Suite, selection: &Selection) -> Result<Selection> {
    let (mut trainers, mut models, mut backends) = (Vec::new(), Vec::new(), Vec::new());
    let rows = || suite.trainers.iter().filter(|trainer| !trainer.is_only_compared_with());
    for trainer in rows() {
        trainers.push(trainer.name.as_str());
        models.extend(trainer.models.keys().map(String::as_str));
        backends.extend(trainer.backends.iter().map(String::as_str));
    }
    let list = "trainmark run --list";
    let named = |kind: &str, wanted: &[String], known: &[&str], list| -> Result<Vec<String>> {
        let one = |name: &String| {
            let found = meant(name, known).map(str::to_owned);
            found.with_context(|| unknown(&format!("--{kind}"), kind, name, known, list))
        };
        wanted.iter().map(one).collect()
    };
    let trainers = named("trainer", &selection.trainers, &trainers, list)?;
    let models = named("model", &selection.models, &models, list)?;
    let backends = named("backend", &selection.backends, &backends, list)?;
    let presets: Vec<&str> = suite.presets.keys().map(String::as_str).collect();
    let preset = named("preset", selection.preset.as_slice(), &presets, "")?.pop();
    let wanted = |trainer: &&Trainer| selected(&trainers, &trainer.name);
    let told = keys_told(rows().filter(wanted));
    let told: Vec<&str> = told.iter().map(String::as_str).collect();
    let mut config = BTreeMap::new();
    for (key, values) in &selection.config {
        let own = if key == race::TARGET { Some(race::TARGET) } else { meant(key, &told) };
        let own = own.with_context(|| unused(key, &told))?;
        config.insert(own.to_owned(), values.clone());
    }
    Ok(Selection { trainers, models, backends, config, quick: selection.quick, preset })
}

/// The keys of the configuration that these trainers are told.
fn keys_told<'a>(trainers: impl Iterator<Item = &'a Trainer>) -> BTreeSet<String> {
    let keys = trainers.flat_map(Trainer::placeholders);
    keys.filter(|key| !PLACES.contains(&key.as_str())).collect()
}

fn unused(key: &str, told: &[&str]) -> String {
    match told.is_empty() {
        true => format!("{key}: no command of the suite uses it, nor any other key in braces"),
        false => {
            let text = unknown("", "key", key, told, "");
            format!("{text}; no command of the suite uses it")
        }
    }
}

/// A line for each key of `[config]` that nothing uses and that `[keys]` does not describe: it may be mistyped.
pub fn unused_keys(suite: &Suite) -> Vec<String> {
    let task = suite.task();
    let told = keys_told(suite.trainers.iter());
    let told: Vec<&str> = told.iter().map(String::as_str).collect();
    let work = task.throughput.as_ref().and_then(|it| it.per_run.as_ref());
    let counted = work.into_iter().chain(&task.flop_per_run).flat_map(|it| it.keys());
    let targets = suite.models.values().flat_map(|it| &it.targets).flat_map(|it| it.at.keys());
    let rows = suite.trainers.iter().flat_map(|it| &it.exclude).flat_map(|it| it.keys());
    let reference = suite.reference.iter().flat_map(|it| it.config.keys());
    let named = targets.chain(rows).chain(reference).chain(task.keys.keys()).map(String::as_str);
    // The seed also orders the rows of a round, and the epochs that a trainer reports are counted.
    let of_harness = ["seed", "epochs"].into_iter();
    let used: BTreeSet<&str> =
        counted.chain(of_harness).chain(told.iter().copied()).chain(named).collect();
    let unknown = suite.config.keys().filter(|key| !used.contains(key.as_str()));
    unknown.map(|key| unused(key, &told)).collect()
}

/// The values that distinguish the rows of one model: declared tags, and the keys of its matrix.
fn tags(suite: &Suite, trained: &TrainedModel, config: &Map<String, Value>) -> Vec<String> {
    let tag = |(key, value): (&String, &Value)| {
        let declared = suite.task().keys.get(key).and_then(|key| key.tag.as_ref());
        let varies = trained.matrix.get(key).is_some_and(|values| values.len() > 1);
        match declared {
            Some(tag) => Some(format!("{tag}{}", plain(value))),
            None => varies.then(|| format!("{key}={}", plain(value))),
        }
    };
    config.iter().filter_map(tag).collect()
}

/// Every configuration of one model: the suite's, the model's, its matrix, the preset, `--quick`, and over
/// all of them what the user set. Of the last three, only what the program is told.
fn configurations(
    suite: &Suite,
    trainer: &Trainer,
    model: &str,
    selection: &Selection,
) -> Result<Vec<Map<String, Value>>> {
    let mut axes: IndexMap<&str, Vec<Value>> = IndexMap::new();
    let own = suite.models.get(model).into_iter().flat_map(|model| &model.config);
    axes.extend(suite.config.iter().chain(own).map(|(key, value)| (&**key, vec![value.clone()])));
    let matrix = &trainer.models[model].matrix;
    axes.extend(matrix.iter().map(|(key, values)| (&**key, values.clone())));
    let preset = selection.preset.iter().flat_map(|name| &suite.presets[name]);
    let quick = suite.quick.iter().filter(|_| selection.quick);
    let told = preset.chain(quick).filter(|(key, _)| trainer.is_told(key));
    axes.extend(told.map(|(key, value)| (&**key, vec![value.clone()])));
    for (key, values) in &selection.config {
        // Naming a key that only some models have selects those models.
        if !axes.contains_key(&**key) && belongs_to_a_model(suite, key) {
            return Ok(Vec::new());
        }
        if trainer.is_told(key) || key == race::TARGET {
            axes.insert(key, values.clone());
        }
    }
    axes.sort_by_cached_key(|key, _| suite.task().keys.get_index_of(*key).unwrap_or(usize::MAX));
    let all = axes.values().fold(1, |all: usize, values| all.saturating_mul(values.len()));
    ensure!(
        all <= MOST_CONFIGURATIONS,
        "the model {model:?} has more than {MOST_CONFIGURATIONS} configurations: give its matrix fewer keys or values"
    );
    Ok(product(&axes))
}

fn belongs_to_a_model(suite: &Suite, key: &str) -> bool {
    let trained = suite.trainers.iter().flat_map(|trainer| trainer.models.values());
    trained.into_iter().any(|model| model.matrix.contains_key(key))
        || suite.models.values().any(|model| model.config.contains_key(key))
}

/// The last axis varies fastest.
fn product(axes: &IndexMap<&str, Vec<Value>>) -> Vec<Map<String, Value>> {
    let mut all = vec![Map::new()];
    for (key, values) in axes {
        let with = |(config, value): (Map<String, Value>, &Value)| {
            let one = [((*key).to_owned(), value.clone())];
            config.into_iter().chain(one).collect::<Map<String, Value>>()
        };
        let pairs =
            all.into_iter().flat_map(|config| values.iter().map(move |it| (config.clone(), it)));
        all = pairs.map(with).collect();
    }
    all
}

fn excluded(trainer: &Trainer, model: &str, backend: &str, config: &Map<String, Value>) -> bool {
    trainer.exclude.iter().any(|rule| {
        rule.iter().all(|(key, value)| match key.as_str() {
            "model" => value == model,
            "backend" => value == backend,
            key => config.get(key) == Some(value),
        })
    })
}

impl Row {
    /// With its label and its needs, which the rest of it decides.
    ///
    /// # Errors
    /// If what it asks for is no number of things.
    pub fn completed(mut self, suite: &Suite) -> Result<Row> {
        let trainer = &suite.trainers[self.trainer];
        let words = [&trainer.name, &self.model, &self.backend].into_iter().chain(&self.tags);
        self.label = words.map(String::as_str).collect::<Vec<_>>().join(" ");
        let has = |key: &&str| self.config.contains_key(*key);
        let mut needs = [None; 3];
        for (need, (what, asked)) in needs.iter_mut().zip(trainer.asks()) {
            // The processor is always there, whatever the number of devices is for.
            let is_asked = what != "devices" || self.backend != "cpu";
            let asked = asked.filter(|it| is_asked && it.keys().iter().all(has));
            let Some(asked) = asked else { continue };
            let named = || format!("{what} of {}", self.label);
            let value = asked.value(&self.config).with_context(named)?;
            let whole = value.fract() == 0.0 && (1.0..=65536.0).contains(&value);
            ensure!(whole, "{}: {value} is no number of {what}", named());
            *need = Some(value as usize);
        }
        let [devices, cores, nodes] = needs;
        self.needs = Needs { nodes: nodes.unwrap_or(1), devices, cores };
        Ok(self)
    }

    /// The number of epochs in its command, if there is one.
    pub fn epochs(&self) -> Option<u64> {
        self.config.get("epochs").and_then(Value::as_u64)
    }
}

/// The values of a command's placeholders besides the configuration's keys.
#[derive(Clone, Debug)]
pub struct Places<'a> {
    pub program: &'a Path,
    pub data: &'a Path,
    pub predictions: &'a Path,
    /// Whether the arguments that allow software devices are added.
    pub allow_software: bool,
}

/// The exact command of a row, program first.
///
/// # Errors
/// If an argument that always stands names a key that the row lacks.
pub fn command(suite: &Suite, row: &Row, places: &Places) -> Result<Vec<String>> {
    let trainer = &suite.trainers[row.trainer];
    let lookup = |key: &str| match key {
        // Of several nodes, each fills in its own.
        "node" | "first_node" if row.needs.nodes > 1 => Some(format!("{{{key}}}")),
        "node" => Some("0".to_owned()),
        "first_node" => Some("localhost".to_owned()),
        "program" => Some(places.program.display().to_string()),
        "data" => Some(places.data.display().to_string()),
        "predictions" => Some(places.predictions.display().to_string()),
        "model" => Some(row.model.clone()),
        "backend" => Some(row.backend.clone()),
        key => row.config.get(key).map(plain),
    };
    // A shell would take what is filled in for its own words.
    let lookup = |key: &str| match lookup(key) {
        Some(value) if trainer.shell => shlex::try_quote(&value).ok().map(|it| it.into_owned()),
        value => value,
    };
    let mut words = Vec::new();
    for argument in &trainer.command {
        match argument {
            Argument::Always(text) => words.push(fill(text, lookup).map_err(|key| {
                anyhow!(
                    "the command of {:?} uses {{{key}}}, but {} has no value for it: add one under \
                     [config], or with --set {key}=VALUE",
                    trainer.name,
                    row.label
                )
            })?),
            Argument::IfKnown(texts) => {
                let filled: Result<Vec<_>, _> =
                    texts.iter().map(|text| fill(text, lookup)).collect();
                words.extend(filled.unwrap_or_default());
            }
        }
    }
    if places.allow_software {
        words.extend(trainer.allow_software.iter().cloned());
    }
    if race::target(&row.config).is_some() {
        words.extend(trainer.race.iter().flatten().cloned());
    }
    if trainer.shell {
        return Ok(vec!["sh".to_owned(), "-c".to_owned(), words.join(" ")]);
    }
    Ok(words)
}

/// The trainer's environment for a row, as the suite declares it; entries whose key has no
/// value are left out.
pub fn environment(suite: &Suite, row: &Row) -> BTreeMap<String, String> {
    let lookup = |key: &str| match key {
        "model" => Some(row.model.clone()),
        "backend" => Some(row.backend.clone()),
        key => row.config.get(key).map(plain),
    };
    let declared = &suite.trainers[row.trainer].environment;
    let filled = declared
        .iter()
        .filter_map(|(name, text)| fill(text, lookup).ok().map(|value| (name.clone(), value)));
    filled.collect()
}

/// The trainer's program and the arguments of a fixed command (build, probe). `{devices}` stands for the families
/// of devices that this machine may have, for example `cuda,vulkan`.
///
/// # Errors
/// If a placeholder other than `{program}`, `{cargo_target}` and `{devices}` is named.
pub fn fixed_command(
    loaded: &LoadedSuite,
    trainer: &Trainer,
    words: &[String],
    allow_software: bool,
) -> Result<Vec<String>> {
    let program = program(loaded, trainer)?;
    let lookup = |key: &str| match key {
        "program" => Some(program.display().to_string()),
        "devices" => Some(protocol::drivers::words(allow_software)),
        key => cargo_target(loaded, key),
    };
    words.iter().map(|word| fill(word, lookup).map_err(|key| unknown_here(trainer, &key))).collect()
}

fn unknown_here(trainer: &Trainer, key: &str) -> anyhow::Error {
    anyhow!("{:?} uses {{{key}}}, which is not known here", trainer.name)
}

/// Where a trainer's program is: absolute, or a bare name for `PATH`. One of cargo's target folder that nobody has
/// built is looked for beside the harness, where it was installed; of a built-in suite it is always there.
///
/// # Errors
/// If a placeholder other than `{cargo_target}` is named.
pub fn program(loaded: &LoadedSuite, trainer: &Trainer) -> Result<PathBuf> {
    let filled = fill(&trainer.program, |key| cargo_target(loaded, key));
    let path = PathBuf::from(filled.map_err(|key| unknown_here(trainer, &key))?);
    let ours = trainer.program.starts_with("{cargo_target}");
    if (ours || trainer.is_only_compared_with())
        && let (Some(name), Ok(harness)) = (path.file_name(), std::env::current_exe())
    {
        let beside = harness.with_file_name(name);
        let built = loaded.root.join(&path);
        let preferred = trainer.is_only_compared_with() || !built.exists();
        if (ours && loaded.is_built_in()) || (preferred && beside.is_file()) {
            return Ok(beside);
        }
    }
    if path.components().count() == 1 {
        return Ok(path);
    }
    Ok(loaded.root.join(path))
}

/// The value of `{cargo_target}`: cargo's target folder, as cargo finds it.
fn cargo_target(loaded: &LoadedSuite, key: &str) -> Option<String> {
    let chosen = std::env::var_os("CARGO_TARGET_DIR").filter(|folder| !folder.is_empty());
    let folder = loaded.root.join(chosen.unwrap_or("target".into()));
    (key == "cargo_target").then(|| folder.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite() -> Suite {
        Suite::parse(
            r#"
            name = "s"
            config = { epochs = 5, seed = 42 }
            quick = { epochs = 1 }
            presets.long = { epochs = 9, hidden_size = 1024, untold = 1 }
            models.deep.config = { epochs = 3 }
            [[trainers]]
            name = "a"
            program = "a"
            command = ["{program}", "{epochs}", ["--hidden={hidden_size}"], "{{}}"]
            environment = { OMP_NUM_THREADS = "{threads}", MODEL = "{model}" }
            backends = ["cpu", "gpu"]
            models.mlp = { prefix = "a", matrix = { hidden_size = [512, 256] } }
            models.deep = { prefix = "a_deep" }
            exclude = [{ backend = "gpu", hidden_size = 256 }]
            "#,
            "s.toml",
        )
        .unwrap()
    }

    fn labels(suite: &Suite, selection: &Selection) -> Vec<String> {
        plan(suite, selection).unwrap().into_iter().map(|row| row.label).collect()
    }

    #[test]
    fn a_matrix_that_multiplies_without_end_is_refused_before_it_is_built() {
        let keys: Vec<String> =
            (0..40).map(|key| format!("k{key} = [1, 2, 3, 4, 5, 6, 7, 8]")).collect();
        let text = format!(
            "name = \"s\"\n[[trainers]]\nname = \"a\"\nprogram = \"a\"\ncommand = [\"a\"]\n\
             backends = [\"cpu\"]\n[trainers.models.mlp]\nprefix = \"a\"\n\
             [trainers.models.mlp.matrix]\n{}",
            keys.join("\n")
        );
        let suite = Suite::parse(&text, "s.toml").unwrap();
        let refused = format!("{:#}", plan(&suite, &Selection::default()).unwrap_err());
        assert!(refused.contains("\"mlp\" has more than 10000 configurations"), "{refused}");
    }

    #[test]
    fn the_matrix_is_the_product_without_the_excluded() {
        let expected =
            ["a mlp cpu h512", "a mlp gpu h512", "a mlp cpu h256", "a deep cpu", "a deep gpu"];
        assert_eq!(labels(&suite(), &Selection::default()), expected);
    }

    #[test]
    fn a_row_over_several_nodes_leaves_each_nodes_own_words_to_it() {
        let text = r#"
            name = "s"
            [[trainers]]
            name = "a"
            program = "a"
            command = ["{program}", "{node}", "{first_node}"]
            nodes = "{nodes}"
            backends = ["cpu"]
            models.mlp = { prefix = "a", matrix = { nodes = [1, 2] } }
        "#;
        let suite = Suite::parse(text, "s.toml").unwrap();
        let rows = plan(&suite, &Selection::default()).unwrap();
        let place = Path::new("p");
        let places =
            Places { program: place, data: place, predictions: place, allow_software: false };
        let words = |at: usize| command(&suite, &rows[at], &places).unwrap();
        assert_eq!(words(0), ["p", "0", "localhost"]);
        assert_eq!(words(1), ["p", "{node}", "{first_node}"]);
        assert_eq!(rows[1].needs.nodes, 2);
        let config = BTreeMap::from([("nodes".to_owned(), vec![Value::from("two")])]);
        let refused = format!(
            "{:#}",
            plan(&suite, &Selection { config, ..Selection::default() }).unwrap_err()
        );
        assert_eq!(refused, "nodes of a mlp cpu nodes=two: {nodes} is not a number");
    }

    #[test]
    fn filters_select_and_values_override() {
        let config = BTreeMap::from([("hidden_size".to_owned(), vec![64.into(), 256.into()])]);
        let selection = Selection { config, backends: vec!["gpu".into()], ..Selection::default() };
        // 256 on gpu is excluded, and the model without hidden units is not what was asked for.
        assert_eq!(labels(&suite(), &selection), ["a mlp gpu h64"]);
    }

    #[test]
    fn quick_overrides_the_model_and_the_user_overrides_quick() {
        let mut selection = Selection { quick: true, ..Selection::default() };
        assert!(plan(&suite(), &selection).unwrap().iter().all(|row| row.epochs() == Some(1)));
        selection.config.insert("epochs".into(), vec![7.into()]);
        assert!(plan(&suite(), &selection).unwrap().iter().all(|row| row.epochs() == Some(7)));
        let plain = plan(&suite(), &Selection::default()).unwrap();
        assert_eq!((plain[3].epochs(), plain[0].epochs()), (Some(3), Some(5)));
    }

    #[test]
    fn a_preset_stands_over_the_suite_and_under_quick_and_the_user() {
        let preset = Some("LONG".to_owned());
        let mut selection =
            Selection { preset, backends: vec!["cpu".into()], ..Selection::default() };
        let rows = plan(&suite(), &selection).unwrap();
        assert_eq!(labels(&suite(), &selection), ["a mlp cpu h1024", "a deep cpu h1024"]);
        assert_eq!((rows[0].epochs(), rows[0].config.get("untold")), (Some(9), None));
        selection.quick = true;
        assert_eq!(plan(&suite(), &selection).unwrap()[0].epochs(), Some(1));
        selection.config.insert("epochs".into(), vec![7.into()]);
        assert_eq!(plan(&suite(), &selection).unwrap()[0].epochs(), Some(7));
        selection.preset = Some("lang".to_owned());
        let refused = format!("{:#}", plan(&suite(), &selection).unwrap_err());
        assert_eq!(refused, "--preset lang: there is no such preset; did you mean long?");
    }

    #[test]
    fn a_name_that_the_suite_lacks_is_an_error_that_lists_what_it_has() {
        let selection = Selection { backends: vec!["tpu".into()], ..Selection::default() };
        assert_eq!(
            plan(&suite(), &selection).unwrap_err().to_string(),
            "--backend tpu: there is no such backend; did you mean gpu? There are cpu, gpu; `trainmark run \
             --list` lists them"
        );
    }

    #[test]
    fn commands_are_filled_in_literally() {
        let suite = suite();
        let rows = plan(&suite, &Selection::default()).unwrap();
        let places = Places {
            program: Path::new("/x/a b"),
            data: Path::new("d"),
            predictions: Path::new("p"),
            allow_software: false,
        };
        assert_eq!(
            command(&suite, &rows[0], &places).unwrap(),
            ["/x/a b", "5", "--hidden=512", "{}"]
        );
        assert_eq!(command(&suite, &rows[3], &places).unwrap(), ["/x/a b", "3", "{}"]);
        // No value for threads: the variable is left alone.
        assert_eq!(
            environment(&suite, &rows[3]),
            BTreeMap::from([("MODEL".into(), "deep".into())])
        );
    }

    #[test]
    fn configuration_keys_come_in_the_specifications_order() {
        let suite = LoadedSuite::built_in(stock::SUITE).unwrap().suite;
        let selection = Selection { models: vec!["mlp".into()], ..Selection::default() };
        let rows = plan(&suite, &selection).unwrap();
        let keys: Vec<&String> = rows[0].config.keys().collect();
        assert_eq!(keys, ["epochs", "batch_size", "hidden_size", "seed", "learning_rate"]);
    }
}
