//! Attacks the harness at random for some minutes: it is killed, its launchers and trainers are killed, its
//! journals, result files and caches are spoilt, and trainers do their worst. Nothing may be lost, nothing
//! may count twice, nothing may be left behind, nothing may hang, and nothing may take more than 64 MB.
//!
//! ```sh
//! cargo run -p trainmark --example attack -- --minutes 5 [--seed N] [--case N]
//! ```
//!
//! The seed decides what each case does, not how its processes are scheduled: `--case` repeats one of a seed,
//! and may need several attempts to find the same.

mod cases;
mod scene;

use anyhow::{Context, Result, bail};
use cases::{Base, CASES};
use clap::Parser;
use scene::Scene;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Most of a case is waiting: for the disk, for a moment, for a grace to be over.
const WORKERS: usize = 3;

#[derive(Parser)]
struct Args {
    /// For how long new cases begin
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Decides what is done; without it the clock does
    #[arg(long)]
    seed: Option<u64>,
    /// Only this case of the seed
    #[arg(long)]
    case: Option<u64>,
    /// The harness; without it the one that belongs to this program, which is built
    #[arg(long)]
    harness: Option<PathBuf>,
}

/// What was done, over all cases.
#[derive(Default)]
pub struct Counts {
    pub cases: AtomicU64,
    pub commands: AtomicU64,
    /// Of the harness, of launchers, of trainers.
    pub kills: [AtomicU64; 3],
    pub journals: AtomicU64,
    pub files: AtomicU64,
    pub caches: AtomicU64,
    pub hostile: AtomicU64,
    pub peak_bytes: AtomicU64,
}

pub fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

fn main() -> ExitCode {
    match attack(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the harness held.
fn attack(args: &Args) -> Result<bool> {
    if !cfg!(target_os = "linux") {
        bail!("the attack looks at processes in /proc, which only Linux has");
    }
    let clock = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64);
    let seed = args.seed.unwrap_or(clock);
    let harness = std::path::absolute(args.harness.clone().map_or_else(build, Ok)?)?;
    println!("--seed {seed}");
    let counts = Counts::default();
    let base = Base::make(&harness, &counts).context("without any attack")?;
    let next = AtomicU64::new(args.case.unwrap_or(0));
    let until = Instant::now() + Duration::from_secs_f64(args.minutes * 60.0);
    let found = AtomicU64::new(0);
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let is_wanted = args.case.map_or(Instant::now() < until, |case| case == number);
            if !is_wanted {
                return;
            }
            let (name, case) = CASES[(number % CASES.len() as u64) as usize];
            let done = Scene::new(&harness, &counts, seed, number).and_then(|mut scene| {
                let done = case(&mut scene, &base).and_then(|()| scene.is_clean());
                done.with_context(|| format!("kept in {}", scene.keep().display()))
            });
            add(&counts.cases);
            if let Err(error) = done {
                add(&found);
                println!("FOUND by --seed {seed} --case {number}, {name}: {error:#}\n");
            }
        }
    };
    std::thread::scope(|scope| (0..WORKERS).for_each(|_| drop(scope.spawn(work))));
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let [harnesses, launchers, trainers] = counts.kills.each_ref().map(of);
    println!(
        "{} cases, {} commands: killed {harnesses} harnesses, {launchers} launchers and {trainers} trainers; \
         spoilt {} journals, {} result files and {} files of caches; {} hostile trainers. \
         The harness's largest peak: {:.1} MB. Found: {}",
        of(&counts.cases),
        of(&counts.commands),
        of(&counts.journals),
        of(&counts.files),
        of(&counts.caches),
        of(&counts.hostile),
        of(&counts.peak_bytes) as f64 / 1e6,
        of(&found)
    );
    Ok(of(&found) == 0)
}

/// The harness of the same profile, beside the folder of this example.
fn build() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(|it| it.parent()).context("no folder of builds")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args(["build", "--quiet", "--package", "trainmark", "--bin", "trainmark"]);
    cargo.args(["--features", "parquet"]); // as this example has it
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    if !cargo.status().context("cargo")?.success() {
        bail!("the harness cannot be built");
    }
    Ok(folder.join("trainmark"))
}
