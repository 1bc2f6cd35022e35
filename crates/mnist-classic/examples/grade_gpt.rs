//! Grades a program's ten steps of a GPT, through the files of a verification: losses, parameters and both
//! moments beside the float64 reference. The options of the size are added to the command.
//!
//! `cargo run -p mnist-classic --example grade_gpt -- python3 implementations/numpy/gpt.py`

use anyhow::{Context, Result, bail};
use nn::gpt::conformance::{Outcome, Trial, moved};
use nn::gpt::{AdamW, Content, Job, Shape, State};
use protocol::{env, verify};
use std::fs;
use std::process::Command;
use text::Source;

const STEPS: usize = 10;
const BATCH: usize = 4;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [program, arguments @ ..] = &words[..] else { bail!("name a program and its arguments") };
    let folder = tempfile::tempdir()?;
    let data = text::babble::store(folder.path())?;
    let text = Source::locate(Some(&data))?.load()?;
    let shape = Shape { layers: 2, heads: 4, width: 64, context: 32, vocabulary: text.vocabulary };
    let optimiser = AdamW { learning_rate: 1e-3, warmup: 3, steps: STEPS as u64 };
    let job = Job { shape, batch_size: BATCH, optimiser, text: &text.train };
    let trial = Trial::new(moved(shape, 1), job, STEPS, 1);

    let path = |name: &str| folder.path().join(name);
    fs::write(path(verify::INITIAL), trial.initial().to_safetensors(Content::Parameters)?)?;
    let words: Vec<u8> = trial.starts(STEPS).iter().flat_map(|it| it.to_le_bytes()).collect();
    fs::write(path(verify::ORDER), words)?;
    let sizes = format!(
        "--model gpt --layers {} --heads {} --width {} --context {} --batch {BATCH} --lr {} --warmup {} \
         --steps {STEPS}",
        shape.layers,
        shape.heads,
        shape.width,
        shape.context,
        optimiser.learning_rate,
        optimiser.warmup,
    );
    let mut command = Command::new(program);
    command.args(arguments).args(sizes.split(' ')).arg("--data").arg(data);
    let status = command.env(env::VERIFY, folder.path()).status().context(program.clone())?;
    if !status.success() {
        bail!("{program}: {status}");
    }
    let losses = fs::read(path(verify::LOSSES)).context("it wrote no losses")?;
    let losses = losses.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    let state = State::from_safetensors(shape, &fs::read(path(verify::FINAL))?, Content::Whole)?;
    let comparison = trial.grade(&Outcome { losses, state });
    for quantity in &comparison.quantities {
        println!("{:<52}{:>10.1e}  {}", quantity.name, quantity.of_change, quantity.grade);
    }
    println!("{}", comparison.grade);
    Ok(())
}
