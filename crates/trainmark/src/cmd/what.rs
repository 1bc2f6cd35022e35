//! The options of `run`, `verify` and `noise` that choose the rows and limit the time of a sample.

use crate::command::{Agenda, Command, Purpose};
use crate::data;
use crate::plan::{Row, Selection};
use crate::runner::{Limits, Resources, Runner, Settings};
use crate::suite::LoadedSuite;
use crate::trainer::{Plain, make_ready};
use crate::units;
use anyhow::{Result, bail};
use measure::launch::CancelToken;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The rows to train.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "What to train")]
pub struct What {
    #[arg(long, value_name = "SUITE", help = format!("Suite file, or the name of a built-in suite (`trainmark suites` lists them) [default: {}]", stock::SUITE))]
    pub suite: Option<PathBuf>,
    /// Train briefly, as the suite's `[quick]` says: one epoch instead of five, for example
    #[arg(long)]
    pub quick: bool,
    /// Take the values that the suite has under this name, for example `--suite gpt --preset char`
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Only these trainers
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub trainer: Vec<String>,
    /// Only these models
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub model: Vec<String>,
    /// Only these backends
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub backend: Vec<String>,
    /// Number of hidden units, for models that have them
    #[arg(long, hide_short_help = true, value_name = "N", value_delimiter = ',')]
    pub hidden: Vec<u64>,
    /// Number of epochs
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub epochs: Vec<u64>,
    /// Batch size of a training step
    #[arg(long, hide_short_help = true, value_name = "N", value_delimiter = ',')]
    pub batch: Vec<u64>,
    /// Seed of the initial weights and of the order of the data
    #[arg(long, hide_short_help = true, value_name = "N", value_delimiter = ',')]
    pub seed: Vec<u64>,
    /// Learning rate
    #[arg(long, hide_short_help = true, value_name = "RATE", value_delimiter = ',')]
    pub lr: Vec<f64>,
    /// Number of threads of each trainer [default: each trainer's own choice]
    #[arg(long, hide_short_help = true, value_name = "N", value_delimiter = ',')]
    pub threads: Vec<u64>,
    /// Any other configuration key of the suite, for example `optimiser=adam`; a key that is given several times, each
    /// with one value, has them all (`--set gpus=1 --set gpus=2`)
    #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
    pub set: Vec<(String, Value)>,
    /// Take the task's data from this file or folder. Without it, a built-in task looks in $TRAINMARK_DATA,
    /// ./data and the user's cache; if it finds nothing, the program draws data
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Devices for rows that ask for some (`devices` in a suite), by nvidia-smi's numbers or UUIDs, for example
    /// `0,2`; the other rows see these only [default: those of $CUDA_VISIBLE_DEVICES, else all that NVML knows]
    #[arg(
        long,
        help_heading = "Limits",
        hide_short_help = true,
        value_name = "LIST",
        value_delimiter = ','
    )]
    pub devices: Vec<String>,
    /// Also train on software imitations of devices; their rows are marked and never ranked
    #[arg(long, hide_short_help = true)]
    pub allow_software: bool,
    /// Time after which a sample is stopped, for example `90s` or `10m` [default: the suite's `timeout_s`, else 30m]
    #[arg(long, help_heading = "Limits", value_name = "TIME", value_parser = units::duration)]
    pub timeout: Option<Duration>,
}

impl What {
    /// Settings without limits that repeat no disturbed sample.
    pub fn settings(&self, loaded: &LoadedSuite) -> Settings {
        Settings {
            quick: self.quick,
            allow_software: self.allow_software,
            timeout: self.timeout_of(loaded),
            retry_noisy: 0,
            limits: Limits::default(),
            devices: (!self.devices.is_empty()).then(|| self.devices.clone()),
        }
    }

    /// Every command that would be executed for these rows.
    ///
    /// # Errors
    /// As [`What::check`], or if a device is named that there is not.
    pub fn commands(
        &self,
        loaded: &LoadedSuite,
        rows: &[Row],
        purpose: Purpose,
    ) -> Result<Vec<Command>> {
        let shown = match self.devices.is_empty() {
            true => BTreeMap::new(),
            false => Resources::of(&self.settings(loaded))?.shown(),
        };
        self.filled_in(loaded, rows, purpose, shown)
    }

    /// Whether all commands can be filled in, before anything is begun.
    ///
    /// # Errors
    /// If the data is not there, or a command cannot be filled in.
    pub fn check(&self, loaded: &LoadedSuite, rows: &[Row], purpose: Purpose) -> Result<()> {
        self.filled_in(loaded, rows, purpose, BTreeMap::new()).map(drop)
    }

    fn filled_in(
        &self,
        loaded: &LoadedSuite,
        rows: &[Row],
        purpose: Purpose,
        shown: BTreeMap<String, String>,
    ) -> Result<Vec<Command>> {
        let data = data::place(loaded, self.data.as_deref())?.unwrap_or_default();
        let allow_software = self.allow_software;
        Agenda { loaded, data, allow_software, shown }.commands(rows, purpose)
    }

    /// Finds the data, makes the trainers of these rows ready, and looks at the machine: all that a run needs.
    ///
    /// # Errors
    /// If the data is not there, or the machine lacks what the settings name.
    pub fn runner<'a>(
        &self,
        loaded: &'a LoadedSuite,
        rows: &[Row],
        settings: Settings,
        cancel: &CancelToken,
    ) -> Result<Runner<'a>> {
        let dataset = data::prepare(loaded, self.data.as_deref())?;
        eprintln!("Data  {dataset}");
        let (data, allow_software) = (dataset.directory.clone(), self.allow_software);
        let resources = Resources::of(&settings)?;
        let agenda = Agenda { loaded, data, allow_software, shown: resources.shown() };
        let trainers = make_ready(&agenda, rows, cancel, &mut Plain);
        Runner::new(agenda, dataset, trainers, settings, resources, cancel)
    }

    /// The longest time that a sample may take.
    pub fn timeout_of(&self, loaded: &LoadedSuite) -> Duration {
        self.timeout.unwrap_or(Duration::from_secs_f64(loaded.suite.timeout_s))
    }
}

/// The rows that the options select.
///
/// # Errors
/// If a value makes no sense.
pub fn selection(args: &What) -> Result<Selection> {
    let whole = |values: &[u64]| values.iter().map(|&it| it.into()).collect::<Vec<Value>>();
    let given = [
        ("hidden_size", "--hidden", whole(&args.hidden)),
        ("epochs", "--epochs", whole(&args.epochs)),
        ("batch_size", "--batch", whole(&args.batch)),
        ("threads", "--threads", whole(&args.threads)),
        ("seed", "--seed", whole(&args.seed)),
        ("learning_rate", "--lr", args.lr.iter().map(|&it| it.into()).collect()),
    ];
    let mut config = BTreeMap::new();
    for (key, flag, values) in given.into_iter().filter(|(.., values)| !values.is_empty()) {
        // A value that stands twice in a list would train every row twice.
        let again = values.iter().enumerate().find(|(at, value)| values[..*at].contains(value));
        if let Some((_, value)) = again {
            bail!("{flag}: {value} appears twice; to train a row several times, use --repeats");
        }
        if key != "seed" && values.contains(&0.into()) {
            bail!("{flag} 0: give at least 1");
        }
        config.insert(key.to_owned(), values);
    }
    if let [whole, part] = args.lr[..]
        && [whole, part].iter().all(|rate| rate.fract() == 0.0)
    {
        bail!(
            "--lr {whole},{part} may be one rate or two: write {whole}.{part} or {whole}.0,{part}.0"
        );
    }
    if let Some(rate) = args.lr.iter().find(|rate| !(rate.is_finite() && **rate > 0.0)) {
        bail!("--lr {rate}: give a positive number");
    }
    for (key, value) in &args.set {
        config.entry(key.clone()).or_default().push(value.clone());
    }
    Ok(Selection {
        trainers: args.trainer.clone(),
        models: args.model.clone(),
        backends: args.backend.clone(),
        config,
        quick: args.quick,
        preset: args.preset.clone(),
    })
}

/// `KEY=VALUE`.
fn setting(text: &str) -> Result<(String, Value), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = pair.ok_or("give KEY=VALUE")?;
    let plain = serde_json::from_str(value).ok();
    let plain = plain.filter(|value: &Value| value.is_number() || value.is_boolean());
    Ok((key.to_owned(), plain.unwrap_or_else(|| value.into())))
}
