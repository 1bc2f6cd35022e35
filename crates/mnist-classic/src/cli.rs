//! The command line; no logic but what a single value must be.

use crate::backends::{ENTRIES, Entry};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Args, Command, FromArgMatches, Parser};
use nn::backend::Options;
use nn::{AttentionShape, MlpShape, Model, gpt};
use std::path::PathBuf;

/// The program.
#[derive(Debug, Parser)]
#[command(
    version,
    about = ABOUT,
    after_help = AFTER_HELP,
    max_term_width = 100,
    allow_negative_numbers = true,
    disable_help_flag = true,
    disable_version_flag = true
)]
pub struct Cli {
    #[command(flatten)]
    pub model: ModelArgs,

    #[command(flatten)]
    pub gpt: GptArgs,

    #[command(flatten)]
    pub training: TrainingArgs,

    #[command(flatten)]
    pub backend: BackendChoice,

    #[command(flatten)]
    pub device: DeviceArgs,

    #[command(flatten)]
    pub what: WhatArgs,
}

const ABOUT: &str = "\
Trains an MLP, a CNN or an attention model on MNIST: plain SGD on the softmax cross-entropy,
Glorot-uniform weights, a new order of the samples in each epoch. Or a GPT on the characters of a
text: AdamW, windows at random places. The same seed gives the same weights and order on every
backend. Only the training is timed; loading, set-up and evaluation are reported apart.";

const AFTER_HELP: &str = "\
Examples:
  mnist-classic                                  an MLP on the CPU, 10 epochs
  mnist-classic -m attention -l 0.1 -b 32 -e 5   attention needs a larger learning rate
  mnist-classic --save a.safetensors -e 5        train, and keep the weights;
  mnist-classic --load a.safetensors -e 1        go on from there
  mnist-classic --cuda --check                   does the GPU compute the same thing?
  mnist-classic -m gpt -d tinyshakespeare.txt    a small GPT on a text; without -d on an invented one
  mnist-classic -m gpt --preset char --cuda      nanoGPT's model of characters

Exit codes:
  0 done    1 failed    2 wrong command line    65 wrong data or weights
  69 the backend is not available on this machine    70 the loss is not finite";

#[derive(Args, Debug)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// What to train: 784-H-10 with ReLU, 8 filters 3x3 with max-pool, one head over 49 patches, or a
    /// GPT on a text.
    #[arg(short, long, default_value = "mlp", value_parser = PossibleValuesParser::new(models()))]
    model: String,

    /// Hidden units of the mlp [default: 512].
    #[arg(short = 'n', long, value_name = "H", value_parser = size(65_536))]
    hidden: Option<usize>,

    /// Width of the attention model's tokens [default: 32].
    #[arg(long, value_name = "D", value_parser = size(4096))]
    d_model: Option<usize>,

    /// Width of the attention model's feed-forward layer [default: 64].
    #[arg(long, value_name = "F", value_parser = size(16_384))]
    ff: Option<usize>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Model gpt")]
pub struct GptArgs {
    /// Sizes and recipe, of which each option below replaces one: `small` (4 layers, 4 heads, 128 wide,
    /// context 64, 2,000 steps of 12 windows), `char` (6, 6, 384, 256, 1,000 of 64) or `gpt2` (12, 12,
    /// 768, 1024, 50 of 16, on random tokens) [default: small].
    #[arg(long, value_parser = PossibleValuesParser::new(PRESETS))]
    preset: Option<String>,

    /// Blocks.
    #[arg(long, value_name = "N", value_parser = size(1024))]
    layers: Option<usize>,

    /// Heads of attention in each block; they divide the width.
    #[arg(long, value_name = "N", value_parser = size(1024))]
    heads: Option<usize>,

    /// Width of a token's vector.
    #[arg(long, value_name = "N", value_parser = size(65_536))]
    width: Option<usize>,

    /// Tokens of a window.
    #[arg(long, value_name = "N", value_parser = size(65_536))]
    context: Option<usize>,

    /// Different tokens [default: the text's].
    #[arg(long, value_name = "N", value_parser = size(65_536))]
    vocabulary: Option<usize>,

    /// Steps of the training; the learning rate falls to a tenth by then.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    steps: Option<u64>,

    /// Steps of linear warm-up [default: 100; gpt2: 10].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    warmup: Option<u64>,

    /// Steps between two points of the learning curve [default: a twentieth of all, at most 100].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    report_every: Option<u64>,

    /// Steps between two evaluations on the validation text, off the clock [default: only at the end].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    eval_every: Option<u64>,

    /// Write the logits of all validation positions, (positions, vocabulary), as float32 [default:
    /// $TRAINMARK_PREDICTIONS].
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Training")]
pub struct TrainingArgs {
    /// Times through the training set [default: 10].
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub epochs: Option<u32>,

    /// Samples in a step; the last step of an epoch takes what is left. Of gpt: windows [default: 64;
    /// of gpt the preset's].
    #[arg(short, long = "batch", value_name = "N", value_parser = size(65_536))]
    pub batch_size: Option<usize>,

    /// Learning rate; of gpt the highest [default: 0.01; of gpt 0.001; of gpt2 0.0006].
    #[arg(short, long = "lr", value_name = "RATE", value_parser = rate)]
    pub learning_rate: Option<f32>,

    /// Decides the initial weights and the order of the samples.
    #[arg(short, long, default_value_t = 1, value_name = "N")]
    pub seed: u64,

    /// Folder of the four IDX files, plain or .gz; or the word `digits`, for the embedded dataset. Of
    /// gpt: a text, or a folder that holds tinyshakespeare.txt, or the word `babble`, for the embedded
    /// text, or `tokens` [default: $TRAINMARK_DATA, ./data, the user's cache, what is embedded].
    #[arg(short, long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "How")]
pub struct DeviceArgs {
    /// Threads that compute [default: all cores].
    #[arg(long, value_name = "N", value_parser = size(1024))]
    threads: Option<usize>,

    /// Instruction set of the CPU: avx512, avx2, neon or scalar, and amx of gpt [default: the best there is].
    #[arg(long)]
    isa: Option<String>,

    /// Which device: its number or a part of its name, as in --probe [default: the first].
    #[arg(long, value_name = "N|NAME")]
    device: Option<String>,

    /// Accept a software imitation of a GPU.
    #[arg(long)]
    allow_software: bool,

    /// Arithmetic of the steps: float32, tf32 or bf16, where the backend has it [default: float32].
    #[arg(long)]
    precision: Option<String>,

    /// Which of the backend's ways to do it, for comparison [default: the fastest].
    #[arg(long)]
    plan: Option<String>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "What else")]
pub struct WhatArgs {
    /// Begin with these weights (safetensors, PyTorch's names and shapes).
    #[arg(long, value_name = "FILE")]
    pub load: Option<PathBuf>,

    /// Write the trained weights.
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,

    /// Keep the state of the training in this folder, so that --resume can go on with it.
    #[arg(long, value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,

    /// Epochs between two checkpoints; of gpt: steps [default: 1; of gpt 500].
    #[arg(long, value_name = "N", requires = "checkpoint", value_parser = clap::value_parser!(u32).range(1..))]
    pub checkpoint_every: Option<u32>,

    /// Go on from the checkpoint, to the same bits as without the interruption; from the start if
    /// there is none yet.
    #[arg(long, requires = "checkpoint")]
    pub resume: bool,

    /// Test after each epoch too, off the clock.
    #[arg(long)]
    pub eval_each_epoch: bool,

    /// Train ten steps beside the float64 reference and print the largest deviation of the loss and
    /// of each parameter tensor, instead of training.
    #[arg(long, conflicts_with_all = ["save", "eval_each_epoch", "epochs", "checkpoint"])]
    pub check: bool,

    /// Print as JSON what this machine can do, instead of training.
    #[arg(long)]
    pub probe: bool,

    /// Print this help.
    #[arg(short, long, action = ArgAction::HelpShort)]
    help: Option<bool>,

    /// Print the version.
    #[arg(short = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
}

/// The model gpt and its recipe, as the command line has them.
#[derive(Clone, Debug, PartialEq)]
pub struct GptCommand {
    /// The vocabulary is 0 where it is to be the text's.
    pub shape: gpt::Shape,
    pub batch_size: usize,
    pub optimiser: gpt::AdamW,
    pub report_every: u64,
    pub eval_every: Option<u64>,
    pub predictions: Option<PathBuf>,
    /// Where no data is named: random tokens rather than a search.
    pub tokens: bool,
}

const PRESETS: [&str; 3] = ["small", "char", "gpt2"];

fn models() -> Vec<&'static str> {
    Model::IDS.into_iter().chain([gpt::ID]).collect()
}

impl Cli {
    /// The model gpt, if it is that.
    ///
    /// # Errors
    /// A command-line error if sizes do not fit each other, or an option is another model's.
    pub fn gpt(&self) -> Result<Option<GptCommand>, clap::Error> {
        self.refuse_foreign()?;
        if self.model.model != gpt::ID {
            return Ok(None);
        }
        let GptArgs { layers, heads, width, context, vocabulary, steps, warmup, .. } = self.gpt;
        // Any vocabulary will do to check the rest.
        let (preset, batch_size, learning_rate, preset_steps, preset_warmup) =
            match self.gpt.preset.as_deref() {
                Some("gpt2") => (gpt::Shape::gpt2(), 16, 6e-4, 50, 10),
                Some("char") => (gpt::Shape::char(0), 64, 1e-3, 1000, 100),
                _ => (gpt::Shape::small(0), 12, 1e-3, 2000, 100),
            };
        let shape = gpt::Shape {
            layers: layers.unwrap_or(preset.layers),
            heads: heads.unwrap_or(preset.heads),
            width: width.unwrap_or(preset.width),
            context: context.unwrap_or(preset.context),
            vocabulary: vocabulary.unwrap_or(preset.vocabulary),
        };
        gpt::Shape { vocabulary: shape.vocabulary.max(1), ..shape }
            .check()
            .map_err(|error| refusal(format!("--model gpt: {error}\n")))?;
        let steps = steps.unwrap_or(preset_steps);
        // Through its shortest text: 0.001, not what float32 makes of it.
        let given = self.training.learning_rate.map(|rate| rate.to_string().parse());
        Ok(Some(GptCommand {
            shape,
            batch_size: self.training.batch_size.unwrap_or(batch_size),
            optimiser: gpt::AdamW {
                learning_rate: given.and_then(Result::ok).unwrap_or(learning_rate),
                warmup: warmup.unwrap_or(preset_warmup),
                steps,
            },
            report_every: self.gpt.report_every.unwrap_or((steps / 20).clamp(1, 100)),
            eval_every: self.gpt.eval_every,
            predictions: self.gpt.predictions.clone(),
            tokens: self.gpt.preset.as_deref() == Some("gpt2"),
        }))
    }

    /// The model with its sizes, if it is none of [`Cli::gpt`]'s.
    ///
    /// # Errors
    /// A command-line error if an option was given that the model does not have.
    pub fn model(&self) -> Result<Model, clap::Error> {
        self.refuse_foreign()?;
        let ModelArgs { model, hidden, d_model, ff } = &self.model;
        Ok(match model.as_str() {
            "mlp" => Model::Mlp(MlpShape { hidden: hidden.unwrap_or(512) }),
            "cnn" => Model::Cnn,
            _ => Model::Attention(AttentionShape {
                d_model: d_model.unwrap_or(32),
                ff: ff.unwrap_or(64),
            }),
        })
    }

    /// Refuses what was given and is not of this model.
    fn refuse_foreign(&self) -> Result<(), clap::Error> {
        let ModelArgs { model, hidden, d_model, ff } = &self.model;
        let of = &self.gpt;
        let images = &Model::IDS;
        let options: [(&str, bool, &[&str]); 16] = [
            ("--hidden", hidden.is_some(), &["mlp"]),
            ("--d-model", d_model.is_some(), &["attention"]),
            ("--ff", ff.is_some(), &["attention"]),
            ("--epochs", self.training.epochs.is_some(), images),
            ("--eval-each-epoch", self.what.eval_each_epoch, images),
            ("--preset", of.preset.is_some(), &[gpt::ID]),
            ("--layers", of.layers.is_some(), &[gpt::ID]),
            ("--heads", of.heads.is_some(), &[gpt::ID]),
            ("--width", of.width.is_some(), &[gpt::ID]),
            ("--context", of.context.is_some(), &[gpt::ID]),
            ("--vocabulary", of.vocabulary.is_some(), &[gpt::ID]),
            ("--steps", of.steps.is_some(), &[gpt::ID]),
            ("--warmup", of.warmup.is_some(), &[gpt::ID]),
            ("--report-every", of.report_every.is_some(), &[gpt::ID]),
            ("--eval-every", of.eval_every.is_some(), &[gpt::ID]),
            ("--predictions", of.predictions.is_some(), &[gpt::ID]),
        ];
        let foreign = options
            .into_iter()
            .find(|(_, given, models)| *given && !models.contains(&model.as_str()));
        match foreign {
            Some((option, ..)) => {
                Err(refusal(format!("{option} is no option of the model {model}; leave it out\n")))
            }
            None => Ok(()),
        }
    }

    /// The options of the backend.
    pub fn options(&self) -> Options {
        let DeviceArgs { threads, isa, device, allow_software, precision, plan } = &self.device;
        Options {
            threads: *threads,
            isa: isa.clone(),
            device: device.clone(),
            allow_software: *allow_software,
            precision: precision.clone(),
            plan: plan.clone(),
        }
    }
}

fn refusal(message: String) -> clap::Error {
    clap::Error::raw(ErrorKind::ArgumentConflict, message)
}

/// A whole number from 1 to `most`.
fn size(most: usize) -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u32).range(1..=most as i64).map(|value| value as usize)
}

fn rate(text: &str) -> Result<f32, String> {
    let rate: f32 = text.parse().map_err(|_| "not a number".to_owned())?;
    if rate.is_finite() && rate > 0.0 {
        Ok(rate)
    } else {
        Err("must be a number above 0".to_owned())
    }
}

/// `--backend ID`, or `--ID`: made from the list of backends, so that a new one needs no change here.
#[derive(Clone, Copy)]
pub struct BackendChoice(pub &'static Entry);

impl std::fmt::Debug for BackendChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.id)
    }
}

impl Args for BackendChoice {
    fn augment_args(command: Command) -> Command {
        let values = ENTRIES.iter().map(|entry| entry.id);
        let mut ids = vec!["backend"];
        let mut command = command.next_help_heading("Backend").arg(
            Arg::new("backend")
                .long("backend")
                .value_name("ID")
                .value_parser(PossibleValuesParser::new(values))
                .hide_possible_values(true)
                .help("One of these, by its name"),
        );
        for entry in &ENTRIES {
            let flag = Arg::new(entry.id).long(entry.id).action(ArgAction::SetTrue);
            command = command.arg(flag.help(entry.about));
            ids.push(entry.id);
        }
        command.group(ArgGroup::new("backends").args(ids))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for BackendChoice {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let named = matches.get_one::<String>("backend");
        let chosen = ENTRIES.iter().find(|entry| match named {
            Some(name) => name == entry.id,
            None => matches.get_flag(entry.id),
        });
        Ok(BackendChoice(chosen.unwrap_or(&ENTRIES[0])))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use nn::gpt::AdamW;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("mnist-classic").chain(line.split_whitespace()))
    }

    fn refused(line: &str) -> String {
        match parse(line) {
            Ok(cli) => cli.model().unwrap_err().to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_command_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_specification() {
        let cli = parse("").unwrap();
        assert_eq!(cli.model().unwrap(), Model::Mlp(MlpShape { hidden: 512 }));
        assert_eq!((cli.gpt().unwrap(), cli.training.seed), (None, 1));
        assert_eq!(cli.backend.0.id, "cpu");
    }

    #[test]
    fn a_preset_gives_what_is_not_said() {
        let small = parse("-m gpt").unwrap().gpt().unwrap().unwrap();
        assert_eq!((small.shape, small.batch_size), (gpt::Shape::small(0), 12));
        let AdamW { learning_rate, warmup, steps } = small.optimiser;
        assert_eq!((learning_rate, warmup, steps, small.report_every), (1e-3, 100, 2000, 100));
        let line = "-m gpt --preset char --layers 2 --lr 0.003 -b 5 --steps 40";
        let char = parse(line).unwrap().gpt().unwrap().unwrap();
        assert_eq!(char.shape, gpt::Shape { layers: 2, ..gpt::Shape::char(0) });
        assert_eq!((char.batch_size, char.optimiser.learning_rate), (5, 0.003));
        assert_eq!(char.report_every, 2);
    }

    #[test]
    fn short_and_long_forms_mean_the_same() {
        let short = parse("-m mlp -e 3 -b 32 -s 42 -n 256 -l 0.1 -d here").unwrap();
        let long =
            parse("--model mlp --epochs 3 --batch 32 --seed 42 --hidden 256 --lr 0.1 --data here");
        assert_eq!(format!("{short:?}"), format!("{:?}", long.unwrap()));
    }

    #[test]
    fn every_backend_is_chosen_by_its_name_and_by_its_flag() {
        for entry in &ENTRIES {
            for line in [format!("--backend {}", entry.id), format!("--{}", entry.id)] {
                assert_eq!(parse(&line).unwrap().backend.0.id, entry.id);
            }
        }
        assert!(refused("--cpu --cuda").contains("cannot be used with"));
        assert!(refused("--backend cpu --cpu").contains("cannot be used with"));
        assert!(refused("--backend tpu").contains("[possible values: cpu, mps"));
    }

    #[test]
    fn senseless_values_are_refused_by_name() {
        for line in [
            "--epochs 0",
            "--epochs -1",
            "--batch 0",
            "--batch 100000",
            "--hidden 0",
            "--hidden 1000000000000",
            "--lr nan",
            "--lr inf",
            "--lr 0",
            "--lr -0.1",
            "--lr 1e99",
            "--lr fast",
            "--seed -1",
            "--threads 0",
            "--d-model 0",
            "--ff 0",
            "--model rnn",
        ] {
            let option = line.split(' ').next().unwrap();
            assert!(refused(line).contains(option), "{line}: {}", refused(line));
        }
    }

    #[test]
    fn a_size_of_another_model_is_refused() {
        assert!(refused("-m cnn --hidden 512").contains("--hidden is no option of the model cnn"));
        assert!(refused("-m mlp --ff 64").contains("--ff is no option of the model mlp"));
        assert!(refused("-m attention -n 64").contains("--hidden is no option"));
        assert!(refused("-m mlp --steps 9").contains("--steps is no option of the model mlp"));
        let gpt = |line: &str| parse(line).unwrap().gpt().unwrap_err().to_string();
        assert!(gpt("-m gpt --epochs 9").contains("--epochs is no option of the model gpt"));
        assert!(gpt("-m gpt --width 100 --heads 3").contains("no multiple of 3 heads"));
        assert!(refused("--check --save x").contains("cannot be used with"));
    }
}
