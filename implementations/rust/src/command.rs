//! The command line: the options of `mnist-classic`, as far as a framework has them.

use anyhow::{Result, bail};
use clap::Parser;
use nn::gpt::{AdamW, Shape};
use nn::{AttentionShape, MlpShape, Model};
use std::path::PathBuf;

/// Trains an MLP, a CNN or an attention model on MNIST, or a GPT on a text.
#[derive(Debug, Parser)]
#[command(allow_negative_numbers = true)]
pub struct Args {
    /// mlp, cnn, attention or gpt
    #[arg(short, long, default_value = "mlp")]
    pub model: String,
    /// Hidden units of the mlp [default: 512]
    #[arg(short = 'n', long, value_name = "H", value_parser = size())]
    pub hidden: Option<u32>,
    /// Width of the attention model's tokens [default: 32]
    #[arg(long, value_name = "D", value_parser = size())]
    pub d_model: Option<u32>,
    /// Width of the attention model's feed-forward layer [default: 64]
    #[arg(long, value_name = "F", value_parser = size())]
    pub ff: Option<u32>,
    /// Sizes and recipe of the gpt, of which each option below replaces one: small or char
    #[arg(long, default_value = "small", value_parser = ["small", "char"])]
    pub preset: String,
    /// Blocks of the gpt
    #[arg(long, value_name = "N", value_parser = size())]
    pub layers: Option<u32>,
    /// Heads of attention in each block
    #[arg(long, value_name = "N", value_parser = size())]
    pub heads: Option<u32>,
    /// Width of a token's vector
    #[arg(long, value_name = "N", value_parser = size())]
    pub width: Option<u32>,
    /// Tokens of a window
    #[arg(long, value_name = "N", value_parser = size())]
    pub context: Option<u32>,
    /// Steps of the training
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: Option<u64>,
    /// Steps of linear warm-up
    #[arg(long, value_name = "N")]
    pub warmup: Option<u64>,
    /// Steps between two points of the learning curve
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub report_every: Option<u64>,
    /// Steps between two evaluations
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub eval_every: Option<u64>,
    /// Write the logits of all validation positions
    #[arg(long, value_name = "FILE")]
    pub predictions: Option<PathBuf>,
    /// Times through the training set
    #[arg(short, long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub epochs: u32,
    /// Samples in a step; the last step of an epoch takes what is left [default: 64; of gpt the preset's]
    #[arg(short, long = "batch", value_name = "N", value_parser = size())]
    pub batch_size: Option<u32>,
    /// Learning rate [default: 0.01; of gpt 0.001]
    #[arg(short, long = "lr", value_name = "RATE", value_parser = rate)]
    pub learning_rate: Option<f32>,
    /// Decides the initial weights and the order of the samples
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Folder of the four IDX files; or the word `digits`, for the embedded dataset
    #[arg(short, long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The backend [default: this program's first]
    #[arg(long, value_name = "ID")]
    pub backend: Option<String>,
    /// Of the gpt's products: float32, tf32 or bf16, as far as the framework's backend has it
    #[arg(long, value_name = "NAME", default_value = "float32")]
    pub precision: String,
    /// Threads that compute [default: all cores]
    #[arg(long, value_name = "N", value_parser = size())]
    pub threads: Option<u32>,
    /// Begin with these weights (safetensors, PyTorch's names and shapes)
    #[arg(long, value_name = "FILE")]
    pub load: Option<PathBuf>,
    /// Write the trained weights
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Test after each epoch too, off the clock
    #[arg(long)]
    pub eval_each_epoch: bool,
    /// Train ten steps beside the float64 reference and print the largest deviations, instead of
    /// training
    #[arg(long)]
    pub check: bool,
    /// Print as JSON what this machine can do, instead of training
    #[arg(long)]
    pub probe: bool,
}

fn size() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=65_536)
}

fn rate(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("must be a number above 0".to_owned()),
    }
}

impl Args {
    /// The gpt's shape, windows in a step, and optimiser.
    pub fn gpt(&self, vocabulary: usize) -> (Shape, usize, AdamW) {
        let (preset, batch_size, steps) = match self.preset.as_str() {
            "char" => (Shape::char(vocabulary), 64, 1000),
            _ => (Shape::small(vocabulary), 12, 2000),
        };
        let size = |value: Option<u32>, default: usize| value.map_or(default, |it| it as usize);
        let shape = Shape {
            layers: size(self.layers, preset.layers),
            heads: size(self.heads, preset.heads),
            width: size(self.width, preset.width),
            context: size(self.context, preset.context),
            vocabulary,
        };
        // Through its shortest text: 0.001, not what float32 makes of it.
        let given = self.learning_rate.and_then(|rate| rate.to_string().parse().ok());
        let optimiser = AdamW {
            learning_rate: given.unwrap_or(1e-3),
            warmup: self.warmup.unwrap_or(100),
            steps: self.steps.unwrap_or(steps),
        };
        (shape, size(self.batch_size, batch_size), optimiser)
    }

    /// Samples in a step, of a model of images.
    pub fn samples(&self) -> usize {
        self.batch_size.map_or(64, |it| it as usize)
    }

    /// The learning rate, of a model of images.
    pub fn rate(&self) -> f32 {
        self.learning_rate.unwrap_or(0.01)
    }

    /// The model with its sizes.
    ///
    /// # Errors
    /// If there is no such model, or it has no such size.
    pub fn model(&self) -> Result<Model> {
        let foreign = match self.model.as_str() {
            "mlp" => [("--d-model", self.d_model), ("--ff", self.ff)].to_vec(),
            "cnn" => {
                [("--hidden", self.hidden), ("--d-model", self.d_model), ("--ff", self.ff)].to_vec()
            }
            "attention" => [("--hidden", self.hidden)].to_vec(),
            other => bail!("--model {other}: there are {} and gpt", Model::IDS.join(", ")),
        };
        if let Some((option, _)) = foreign.into_iter().find(|(_, value)| value.is_some()) {
            bail!("{option} is no size of the model {}; leave it out", self.model);
        }
        let size = |value: Option<u32>, default: u32| value.unwrap_or(default) as usize;
        Ok(match self.model.as_str() {
            "mlp" => Model::Mlp(MlpShape { hidden: size(self.hidden, 512) }),
            "cnn" => Model::Cnn,
            _ => Model::Attention(AttentionShape {
                d_model: size(self.d_model, 32),
                ff: size(self.ff, 64),
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Model, String> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        let args = Args::try_parse_from(words).map_err(|error| error.to_string())?;
        args.model().map_err(|error| error.to_string())
    }

    #[test]
    fn sizes_are_the_models_own() {
        assert_eq!(parse(""), Ok(Model::Mlp(MlpShape { hidden: 512 })));
        assert_eq!(parse("--model mlp --hidden 8"), Ok(Model::Mlp(MlpShape { hidden: 8 })));
        assert!(parse("--model cnn --hidden 8").unwrap_err().contains("--hidden is no size"));
        assert!(parse("--model rnn").unwrap_err().contains("mlp, cnn, attention"));
    }

    #[test]
    fn senseless_values_are_refused_by_name() {
        for line in ["--epochs 0", "--batch 0", "--lr nan", "--lr -1", "--threads 0", "--ff 0"] {
            let option = line.split(' ').next().unwrap();
            assert!(parse(line).unwrap_err().contains(option), "{line}");
        }
    }
}
