//! Steps of the GPT: every instruction set, precision and number of threads in turns, and how the
//! time grows with the sizes.
//!
//!     cargo bench --package trainmark-backend-cpu --bench gpt [-- SET PRECISION THREADS]
//!
//! All take turns at one step each, in one process, so that what the rest of a machine does meets all
//! of them; the fastest and the median step count. Three words after `--`, such as `amx bf16 2`, leave
//! only that one, for a profiler. Markdown.

use backend_cpu::gpt::Amx;
use backend_cpu::simd::Isa;
use backend_cpu::{Cpu, team};
use nn::backend::{Backend, Options};
use nn::gpt::{AdamW, Job, Session, Shape, State, recipe};
use std::time::Instant;

const ROUNDS: usize = 25;
const BATCH_SIZE: usize = 12;
const TOKENS: u16 = 65;

/// One way of training.
#[derive(Clone, PartialEq, Eq)]
struct Way {
    isa: &'static str,
    precision: &'static str,
    threads: usize,
}

fn every_way() -> Vec<Way> {
    let mut sets: Vec<_> = Isa::all().iter().map(|isa| (isa.name(), "float32")).collect();
    if Amx::detect().is_some() {
        sets.extend([("amx", "float32"), ("amx", "bf16")]);
    }
    let mut counts = vec![1, 2, team::available_cores()];
    counts.retain(|&count| count <= team::available_cores());
    counts.dedup();
    let ways = sets.into_iter().flat_map(|(isa, precision)| {
        counts.iter().map(move |&threads| Way { isa, precision, threads })
    });
    ways.collect()
}

/// Milliseconds of the fastest and of the median step.
fn step_ms(text: &[u16], jobs: &[(Shape, Way)]) -> Vec<[f64; 2]> {
    let optimiser = AdamW { learning_rate: 1e-3, warmup: 100, steps: 2000 };
    let open = |(shape, way): &(Shape, Way)| {
        let job = Job { shape: *shape, batch_size: BATCH_SIZE, optimiser, text };
        let options = Options {
            threads: Some(way.threads),
            isa: Some(way.isa.to_owned()),
            precision: Some(way.precision.to_owned()),
            ..Options::default()
        };
        let mut session = Cpu.open_gpt(job, &options).expect("a session");
        let mut state = State::zeros(*shape);
        recipe::initialise(&mut state, 42);
        session.set_state(&state).expect("a state of the model");
        session
    };
    let mut sessions: Vec<Box<dyn Session + '_>> = jobs.iter().map(open).collect();
    let mut times = vec![Vec::new(); jobs.len()];
    let mut starts = [0; BATCH_SIZE];
    for round in 0..=ROUNDS {
        for turn in 0..jobs.len() {
            let index = (round + turn) % jobs.len();
            let places = text.len() - jobs[index].0.context;
            recipe::windows(&mut starts, 42, round as u64, BATCH_SIZE, places);
            let clock = Instant::now();
            sessions[index].train(&starts, &mut [0.0]).expect("a step");
            if round > 0 {
                times[index].push(clock.elapsed().as_secs_f64() * 1e3); // the first touches the memory
            }
        }
    }
    let summary = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        [times[0], times[times.len() / 2]]
    };
    times.into_iter().map(summary).collect()
}

fn print(text: &[u16], jobs: &[(Shape, Way)]) {
    println!("| layers, heads, width, context | | threads | ms a step | median | GFLOP/s |");
    println!("|---|---|---|---|---|---|");
    for ((shape, way), [fastest, median]) in jobs.iter().zip(step_ms(text, jobs)) {
        let Shape { layers, heads, width, context, .. } = shape;
        let flop = shape.dense_flop_per_token() * (BATCH_SIZE * context) as f64;
        println!(
            "| {layers}, {heads}, {width}, {context} | {}, {} | {} | {fastest:.2} | {median:.2} | {:.0} |",
            way.isa,
            way.precision,
            way.threads,
            flop / fastest / 1e6,
        );
    }
    println!();
}

fn main() {
    let text: Vec<u16> = (0..20_000u32).map(|i| (i * i / 7 + i) as u16 % TOKENS).collect();
    let small = Shape::small(usize::from(TOKENS));
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let mut ways = every_way();
    if let [isa, precision, threads] = &*words {
        ways.retain(|way| {
            way.isa == isa && way.precision == precision && way.threads.to_string() == *threads
        });
        assert!(!ways.is_empty(), "{words:?} is none of what this machine has");
    }
    print(&text, &ways.iter().map(|way| (small, way.clone())).collect::<Vec<_>>());
    if !words.is_empty() {
        return;
    }
    let sizes = [
        small,
        Shape { layers: 8, ..small },
        Shape { context: 128, ..small },
        Shape { context: 256, ..small },
        Shape { width: 64, ..small },
        Shape { width: 384, heads: 6, ..small },
        Shape { width: 768, heads: 12, layers: 2, ..small },
    ];
    let fastest = ways.iter().rev().find(|way| way.precision == "float32").expect("a way");
    print(&text, &sizes.map(|shape| (shape, fastest.clone())));
}
