//! The GPT on a device: `check` grades every conformance case, `kernels` the smallest ones that reach our kernels, for
//! NVIDIA's compute-sanitizer, `time` trains a preset and says how long a step takes, `export` writes what a Python
//! program needs to train the same.
//!
//! ```text
//! gpt check
//! compute-sanitizer --tool racecheck gpt kernels --preset char
//! gpt time --preset gpt2 --precision bf16 --steps 40 --repeats 3
//! ```

use anyhow::{Context, Result, bail, ensure};
use backend_cuda::Cuda;
use clap::{Parser, ValueEnum};
use nn::backend::{Backend, Options};
use nn::gpt::conformance::Case;
use nn::gpt::{AdamW, Job, Session, Shape, State, conformance, recipe};
use std::path::PathBuf;
use std::time::Instant;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Action {
    Check,
    Kernels,
    Time,
    Export,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Preset {
    Small,
    Char,
    Gpt2,
}

#[derive(Parser)]
struct Args {
    action: Action,
    #[arg(long, value_enum, default_value = "small")]
    preset: Preset,
    /// Windows in a step; the preset's own unless said
    #[arg(long)]
    batch: Option<usize>,
    #[arg(long, default_value = "bf16")]
    precision: String,
    #[arg(long)]
    plan: Option<String>,
    /// Steps of a repeat
    #[arg(long, default_value_t = 100)]
    steps: usize,
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Shorter text, tokens all alike in frequency
    #[arg(long, default_value_t = 300_000)]
    tokens: usize,
    /// Instead of `--repeats` in a row: one for each line of standard input, beginning again after the last
    #[arg(long)]
    serve: bool,
    /// GPUs that share a step, as `--device` names them: `0,1`
    #[arg(long)]
    device: Option<String>,
    /// Where `export` writes parameters.f32, text.u16 and starts.u32, little-endian
    #[arg(long, default_value = ".")]
    out: PathBuf,
}

const SEED: u64 = 42;

fn main() -> Result<()> {
    let args = Args::parse();
    match args.action {
        Action::Check => check(&args),
        Action::Kernels => kernels(&args),
        Action::Time => time(&args),
        Action::Export => export(&args),
    }
}

/// All cases, in both precisions, under `--plan`, and those that only the kernels for Hopper's sizes see.
fn check(args: &Args) -> Result<()> {
    let mut failures = 0;
    // One, two and all parts of an inner side; an odd number of tiles; more than multiprocessors.
    let own_products =
        Options { plan: Some("general,own-products".to_owned()), ..options(args, "bf16") };
    for (heads, width, batch_size, count) in
        [(2, 64, 4, 10), (2, 128, 6, 3), (6, 384, 6, 2), (1, 64, 280, 2)]
    {
        let shape = Shape { layers: 1, heads, width, context: 64, vocabulary: 65 };
        let case = Case { shape, batch_size, count, done: 0, seed: 20 };
        failures += grade(&case, &own_products);
    }
    for vocabulary in [1501, 2048, 2100] {
        let shape = Shape { layers: 1, heads: 1, width: 64, context: 64, vocabulary };
        let case = Case { shape, batch_size: 4, count: 3, done: 0, seed: 22 };
        failures += grade(&case, &options(args, "bf16"));
    }
    // Whole heads, by our kernels and by whichever are faster.
    for (heads, width, context) in [(2, 128, 256), (1, 64, 65), (3, 144, 200), (2, 80, 130)] {
        for plan in ["general,own-attention", "general"] {
            let shape = Shape { layers: 1, heads, width, context, vocabulary: 65 };
            let case = Case { shape, batch_size: 2, count: 3, done: 0, seed: 23 };
            let options = Options { plan: Some(plan.to_owned()), ..options(args, "bf16") };
            failures += grade(&case, &options);
        }
    }
    // Gradients of weights a layer at a time, and of all layers in place of activations; tiles that are cut and
    // tiles that are not, pairs that share an operand and pairs that do not.
    for (layers, heads, width, context, batch_size, plan) in [
        (3, 6, 384, 64, 2, "general,own-products"),
        (4, 6, 384, 256, 2, "general,own-products,own-attention"),
        (1, 12, 768, 128, 2, "general,own-products"),
    ] {
        let shape = Shape { layers, heads, width, context, vocabulary: 65 };
        let case = Case { shape, batch_size, count: 2, done: 0, seed: 24 };
        let options = Options { plan: Some(plan.to_owned()), ..options(args, "bf16") };
        failures += grade(&case, &options);
    }
    // Two groups of layers where devices share a step, rows of the embedding that they exchange, more steps than a graph of many has.
    {
        let shape = Shape { layers: 8, heads: 6, width: 384, context: 64, vocabulary: 2100 };
        let case = Case { shape, batch_size: 2, count: 9, done: 0, seed: 26 };
        let plan = Some("general,own-products".to_owned());
        failures += grade(&case, &Options { plan, ..options(args, "bf16") });
    }
    // Clusters of four blocks, of two and of one; more tiles of gradients than multiprocessors.
    for (layers, context, batch_size) in [(3, 64, 12), (3, 32, 3), (3, 16, 5), (6, 64, 2)] {
        let shape = Shape { layers, heads: 4, width: 128, context, vocabulary: 70 };
        let case = Case { shape, batch_size, count: 10, done: 5, seed: 21 };
        failures += grade(&case, &options(args, "bf16"));
    }
    for precision in ["float32", "bf16"] {
        let options = options(args, precision);
        for case in conformance::cases() {
            failures += grade(&case, &options);
        }
        match conformance::contract(&Cuda, &options) {
            Ok(broken) => {
                failures += broken.len();
                println!("{precision} contract, broken: {broken:?}");
            }
            Err(error) => bail!("{precision} contract: {error}"),
        }
    }
    println!("failures: {failures}");
    Ok(())
}

/// A step or two by the kernels for models like the preset, with plain products in place of cuBLASLt's.
fn kernels(args: &Args) -> Result<()> {
    // Layers, heads, width, context, vocabulary, windows.
    let cases: &[[usize; 6]] = match args.preset {
        Preset::Small => &[[1, 4, 128, 64, 70, 2], [1, 4, 128, 32, 70, 3], [2, 4, 128, 16, 70, 5]],
        // All layers' gradients of weights at once, tiles that are cut and tiles that are not.
        Preset::Char => &[[4, 6, 384, 256, 65, 1]],
        Preset::Gpt2 => &[[1, 12, 768, 64, 1501, 4]],
    };
    let plan = "plain-products,own-attention,kernels";
    let options = Options { plan: Some(plan.to_owned()), ..options(args, "bf16") };
    let mut failures = 0;
    for &[layers, heads, width, context, vocabulary, batch_size] in cases {
        let shape = Shape { layers, heads, width, context, vocabulary };
        let case = Case { shape, batch_size, count: 1, done: 0, seed: 25 };
        failures += grade(&case, &options);
    }
    ensure!(failures == 0, "{failures} cases differ from the reference");
    Ok(())
}

/// 1 if the case fails.
fn grade(case: &Case, options: &Options) -> usize {
    let devices = options.device.as_ref().map_or(1, |named| named.split(',').count());
    let named = format!("{:?} {:?} batch {}", options.precision, case.shape, case.batch_size);
    if !case.batch_size.is_multiple_of(devices) {
        println!("{named}: skipped, since {devices} devices cannot share it");
        return 0;
    }
    let text = case.text();
    match case.trial(&text).run(&Cuda, options) {
        Ok(report) => {
            println!("{named}: {:?} {}", report.comparison.grade, report.passed());
            if report.passed() {
                return 0;
            }
            println!("{report}");
        }
        Err(error) => println!("{named}: {error}"),
    }
    1
}

fn options(args: &Args, precision: &str) -> Options {
    Options {
        plan: args.plan.clone(),
        precision: Some(precision.to_owned()),
        device: args.device.clone(),
        ..Options::default()
    }
}

impl Preset {
    fn shape(self) -> (Shape, usize) {
        match self {
            Preset::Small => (Shape::small(65), 12),
            Preset::Char => (Shape::char(65), 64),
            Preset::Gpt2 => (Shape::gpt2(), 16),
        }
    }
}

/// Tokens that follow each other with a preference, as text does.
fn text(args: &Args, vocabulary: usize) -> Vec<u16> {
    let mut words: u64 = 1;
    let mut token = 0_u64;
    (0..args.tokens)
        .map(|_| {
            words = words
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let noise = words >> 33;
            token = if noise.is_multiple_of(4) { noise / 4 } else { token * 3 + noise % 16 };
            token %= vocabulary as u64;
            token as u16
        })
        .collect()
}

fn job<'data>(args: &Args, text: &'data [u16]) -> Job<'data> {
    let (shape, batch) = args.preset.shape();
    let steps = (args.steps * args.repeats) as u64;
    let optimiser = AdamW { learning_rate: 1e-3, warmup: steps / 10, steps };
    Job { shape, batch_size: args.batch.unwrap_or(batch), optimiser, text }
}

fn starts(args: &Args, job: &Job<'_>) -> Vec<u32> {
    let mut starts = vec![0; job.batch_size * args.steps * args.repeats];
    let places = job.text.len() - job.shape.context;
    recipe::windows(&mut starts, SEED, 0, job.batch_size, places);
    starts
}

fn time(args: &Args) -> Result<()> {
    let (shape, _) = args.preset.shape();
    let text = text(args, shape.vocabulary);
    let job = job(args, &text);
    let opening = Instant::now();
    let mut session = Cuda.open_gpt(job, &options(args, &args.precision))?;
    let open_s = opening.elapsed().as_secs_f64();
    let mut initial = State::zeros(shape);
    recipe::initialise(&mut initial, SEED);
    session.set_state(&initial)?;
    let starts = starts(args, &job);
    if args.serve {
        return serve(args, &job, &initial, &starts, session.as_mut());
    }
    let mut losses = vec![0.0; args.steps];
    let mut curve = Vec::new();
    let (mut device_ms, mut host_ms) = (Vec::new(), Vec::new());
    for starts in starts.chunks(job.batch_size * args.steps) {
        let (device, host) = repeat(session.as_mut(), starts, &mut losses)?;
        device_ms.push(device);
        host_ms.push(host);
        curve.extend_from_slice(&losses);
    }
    println!("{:?}", session.description());
    let best = device_ms.iter().copied().fold(f64::INFINITY, f64::min);
    let tokens = (job.batch_size * shape.context) as f64;
    println!(
        "{:?} {} {:?}: device ms a step {device_ms:.4?}, host {host_ms:.4?}; {:.0} tokens/s, {:.1} TFLOP/s, \
         opened in {open_s:.2} s, {:.2} GB",
        args.preset,
        args.precision,
        args.plan,
        1e3 * tokens / best,
        1e-9 * tokens * shape.dense_flop_per_token() / best,
        session.measured().device_peak_bytes.unwrap_or(0) as f64 / 1e9,
    );
    let some: Vec<f32> = curve.iter().copied().take(10).collect();
    println!("  losses {some:.5?} ... {:.5?}", curve.last());
    println!("  state {:016x}", digest(&session.state()?));
    Ok(())
}

/// FNV-1a of all parameters and moments: two sessions that took the same steps have the same, or other bits.
fn digest(state: &State) -> u64 {
    let values = [&state.parameters, &state.first_moment, &state.second_moment];
    values.into_iter().flatten().fold(0xcbf2_9ce4_8422_2325, |digest, value| {
        (digest ^ u64::from(value.to_bits())).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Milliseconds a step: of the device, of the host.
fn repeat(session: &mut dyn Session, starts: &[u32], losses: &mut [f32]) -> Result<(f64, f64)> {
    let before = session.measured().device_s.unwrap_or(0.0); // several devices tell none before their first step
    let clock = Instant::now();
    session.train(starts, losses)?;
    let host_s = clock.elapsed().as_secs_f64();
    let device_s = session.measured().device_s.context("no device time")? - before;
    let per_step = 1e3 / losses.len() as f64;
    Ok((device_s * per_step, host_s * per_step))
}

/// A repeat for each line of input, so that `bench/gpt_compare.py` can let several programs take turns.
fn serve(
    args: &Args,
    job: &Job<'_>,
    initial: &State,
    starts: &[u32],
    session: &mut dyn Session,
) -> Result<()> {
    let mut losses = vec![0.0; args.steps];
    let mut curve = Vec::new();
    println!("{{\"ready\": true}}");
    for (turn, line) in std::io::stdin().lines().enumerate() {
        line?;
        let place = turn % args.repeats;
        if place == 0 {
            session.set_state(initial)?;
        }
        let size = job.batch_size * args.steps;
        let (device, host) = repeat(session, &starts[place * size..][..size], &mut losses)?;
        curve.extend_from_slice(&losses);
        println!(
            "{{\"framework\": \"cuda\", \"version\": \"{}\", \"variant\": \"{}\", \
             \"preset\": \"{:?}\", \"precision\": \"{}\", \"step_ms\": {host:.5}, \
             \"device_step_ms\": {device:.5}, \"memory_bytes\": {}, \"first_losses\": {:.5?}, \
             \"last_loss\": {:.5}}}",
            session.description().path,
            args.plan.as_deref().unwrap_or("default"),
            args.preset,
            args.precision,
            session.measured().device_peak_bytes.unwrap_or(0),
            &curve[..5.min(curve.len())],
            curve.last().copied().unwrap_or(f32::NAN),
        );
    }
    Ok(())
}

fn export(args: &Args) -> Result<()> {
    let (shape, _) = args.preset.shape();
    let text = text(args, shape.vocabulary);
    let job = job(args, &text);
    let mut initial = State::zeros(shape);
    recipe::initialise(&mut initial, SEED);
    let parameters = initial.parameters.iter().flat_map(|value| value.to_le_bytes()).collect();
    let starts = starts(args, &job).iter().flat_map(|start| start.to_le_bytes()).collect();
    let text = text.iter().flat_map(|token| token.to_le_bytes()).collect();
    let files: [(&str, Vec<u8>); 3] =
        [("parameters.f32", parameters), ("starts.u32", starts), ("text.u16", text)];
    std::fs::create_dir_all(&args.out)?;
    for (name, bytes) in files {
        let path = args.out.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
