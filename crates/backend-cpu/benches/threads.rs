//! How much faster more threads are than one.
//!
//!     cargo bench --package trainmark-backend-cpu --bench threads
//!
//! One thread and more take turns at the same 250 training steps, in one process, so that what the
//! rest of a machine does meets both: each round gives one ratio, and the median of the rounds is
//! what counts. A virtual machine's cores may be moved between physical ones, which changes what two
//! threads can do (see METHOD.md, Noise): rounds are told apart by the round trip of a word between
//! two cores, measured before and after. Batch 32; MNIST or the embedded digits; a Markdown table.

use backend_cpu::{Cpu, team};
use machine::{FACTOR, cores, round_trip_ns};
use mnist::{Source, Split};
use nn::backend::{Backend, Job, Options, Session};
use nn::{AttentionShape, MlpShape, Model, Parameters, recipe};
use std::time::Instant;

const ROUNDS: usize = 60;
const STEPS: usize = 250;
const BATCH_SIZE: usize = 32;

struct Round {
    /// Nanoseconds between the first two cores, before and after.
    round_trips: Option<[u64; 2]>,
    /// Microseconds of a step, for one thread and for more.
    us: Vec<f64>,
}

fn round_trip() -> Option<u64> {
    let &[first, second, ..] = &*cores() else { return None };
    round_trip_ns([first, second]).ok()
}

fn open(data: &Split, model: Model, threads: usize) -> Box<dyn Session + '_> {
    let learning_rate = if matches!(model, Model::Attention(_)) { 0.1 } else { 0.01 };
    let job = Job { model, batch_size: BATCH_SIZE, learning_rate, train: data };
    let options = Options { threads: Some(threads), ..Options::default() };
    let mut session = Cpu.open(job, &options).expect("a session");
    let mut initial = Parameters::zeros(model);
    recipe::initialise(&mut initial, 42);
    session.set_parameters(&initial).expect("parameters of the model");
    session
}

fn rounds(data: &Split, model: Model, threads: &[usize]) -> Vec<Round> {
    let mut sessions: Vec<_> = threads.iter().map(|&count| open(data, model, count)).collect();
    let mut order = vec![0; data.len()];
    recipe::shuffle(&mut order, 42, 0);
    let parts: Vec<&[u32]> = order.chunks_exact((STEPS * BATCH_SIZE).min(data.len())).collect();
    let mut train = |session: usize, part: &[u32]| {
        let mut step_loss = vec![0.0; part.len().div_ceil(BATCH_SIZE)];
        let clock = Instant::now();
        sessions[session].train(part, &mut step_loss).expect("steps");
        clock.elapsed().as_secs_f64() * 1e6 / step_loss.len() as f64
    };
    let one = |round: usize| {
        let part = parts[round % parts.len()];
        let before = round_trip();
        // In turns, so that none is always the first.
        let mut us = vec![0.0; threads.len()];
        for turn in 0..threads.len() {
            let session = (round + turn) % threads.len();
            us[session] = train(session, part);
        }
        let round_trips = before.zip(round_trip()).map(<[u64; 2]>::from);
        Round { round_trips, us }
    };
    (0..=ROUNDS).map(one).skip(1).collect() // the first touches the memory
}

/// Where the cores were, in words, and the rounds in which they were there.
fn places(rounds: &[Round]) -> Vec<(String, Vec<&Round>)> {
    let mut all: Vec<u64> = rounds.iter().filter_map(|round| round.round_trips).flatten().collect();
    all.sort_unstable();
    let mut firsts: Vec<u64> = Vec::new();
    for &ns in &all {
        if firsts.last().is_none_or(|&first| ns as f64 > FACTOR * first as f64) {
            firsts.push(ns);
        }
    }
    let place = |ns: u64| firsts.partition_point(|&first| first <= ns);
    let mut places: Vec<(Option<usize>, Vec<&Round>)> = Vec::new();
    for round in rounds {
        let here = round.round_trips.map(|trips| trips.map(place));
        let here = here.and_then(|[before, after]| (before == after).then_some(before));
        match places.iter_mut().find(|(place, _)| *place == here) {
            Some((_, rounds)) => rounds.push(round),
            None => places.push((here, vec![round])),
        }
    }
    places.sort_by_key(|(place, _)| place.unwrap_or(usize::MAX));
    let words = |place: Option<usize>, here: &[&Round]| {
        let trips: Vec<u64> = here.iter().filter_map(|round| round.round_trips).flatten().collect();
        match (place, trips.iter().min(), trips.iter().max()) {
            (Some(_), Some(least), Some(most)) => format!("{least} to {most} ns"),
            (None, Some(_), Some(_)) => "moved meanwhile".to_owned(),
            _ => "not known".to_owned(),
        }
    };
    places.into_iter().map(|(place, here)| (words(place, &here), here)).collect()
}

/// The value below which a share of the values lies.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share).round() as usize]
}

fn main() {
    let data = Source::locate(None).and_then(|source| source.load()).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        std::process::exit(65)
    });
    let most = team::available_cores();
    let mut threads: Vec<usize> = vec![1, 2, most];
    threads.sort_unstable();
    threads.dedup();
    threads.retain(|&count| count <= most);
    let models = [
        ("mlp H=512", Model::Mlp(MlpShape { hidden: 512 })),
        ("mlp H=256", Model::Mlp(MlpShape { hidden: 256 })),
        ("cnn", Model::Cnn),
        ("attention", Model::Attention(AttentionShape { d_model: 32, ff: 64 })),
    ];
    println!("{}; {ROUNDS} rounds of {STEPS} steps; faster: median (quartiles)\n", data.name);
    println!(
        "| model | round trip | rounds | threads | one, us a step | more, us a step | faster |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (name, model) in models {
        let rounds = rounds(&data.train, model, &threads);
        for (words, here) in places(&rounds) {
            for (index, count) in threads.iter().enumerate().skip(1) {
                let column = |session: usize| here.iter().map(|round| round.us[session]).collect();
                let (mut one, mut more): (Vec<f64>, Vec<f64>) = (column(0), column(index));
                let mut faster: Vec<f64> =
                    here.iter().map(|round| round.us[0] / round.us[index]).collect();
                println!(
                    "| {name} | {words} | {} | {count} | {:.1} | {:.1} | {:.2}x ({:.2} to {:.2}) |",
                    here.len(),
                    quantile(&mut one, 0.5),
                    quantile(&mut more, 0.5),
                    quantile(&mut faster, 0.5),
                    quantile(&mut faster, 0.25),
                    quantile(&mut faster, 0.75),
                );
            }
        }
    }
}
