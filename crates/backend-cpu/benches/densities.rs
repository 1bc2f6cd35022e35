//! Which way of the MLP's first layer is the faster one, from sparse images to dense ones: what
//! `DENSE_FROM` in `src/mlp/plan.rs` was read from.
//!
//!     cargo bench --package trainmark-backend-cpu --bench densities
//!
//! One epoch on images of random pixels, and on those of MNIST (or the embedded digits) as they are
//! and inverted; one thread, 512 hidden units, batch 32. Medians of interleaved rounds, as a Markdown
//! table.

use backend_cpu::Cpu;
use backend_cpu::simd::Isa;
use mnist::{CLASSES, PIXELS, Source, Split};
use nn::backend::{Backend, Job, Options};
use nn::{MlpShape, Model, Parameters, recipe};
use std::time::Instant;

const IMAGES: usize = 10_000;
const ROUNDS: usize = 5;
const BATCH_SIZE: usize = 32;
/// Of the random images: the share of pixels that are not zero.
const DENSITIES: [f64; 6] = [0.1, 0.25, 0.35, 0.5, 0.75, 1.0];

/// A published generator of a few lines (splitmix64): the data need not be good, only the same.
fn random_bytes(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 56) as u8
    })
}

fn random_images(density: f64) -> Split {
    let mut bytes = random_bytes(42);
    let mut byte = move || bytes.next().expect("without end");
    let pixel = |_| if f64::from(byte()) < 256.0 * density { byte().max(1) } else { 0 };
    let images: Vec<u8> = (0..IMAGES * PIXELS).map(pixel).collect();
    let labels: Vec<u8> = (0..IMAGES).map(|image| (image % CLASSES) as u8).collect();
    Split::new(images, labels).expect("as many labels as images")
}

/// Every so many-th image of a set, perhaps inverted.
fn real_images(set: &Split, inverted: bool) -> Split {
    let count = set.len().min(IMAGES);
    let places: Vec<usize> = (0..count).map(|image| image * set.len() / count).collect();
    let image = |&place: &usize| &set.images()[place * PIXELS..][..PIXELS];
    let flip = if inverted { 255 } else { 0 };
    let images: Vec<u8> = places.iter().flat_map(image).map(|pixel| pixel ^ flip).collect();
    let labels: Vec<u8> = places.iter().map(|&place| set.labels()[place]).collect();
    Split::new(images, labels).expect("as many labels as images")
}

fn share_of_pairs(set: &Split) -> f64 {
    let (pairs, _) = set.images().as_chunks::<2>();
    pairs.iter().filter(|&&pair| pair != [0, 0]).count() as f64 / pairs.len() as f64
}

fn epoch_s(set: &Split, isa: &str, plan: &str) -> f64 {
    let model = Model::Mlp(MlpShape { hidden: 512 });
    let job = Job { model, batch_size: BATCH_SIZE, learning_rate: 0.01, train: set };
    let options = Options {
        isa: Some(isa.to_owned()),
        plan: Some(plan.to_owned()),
        threads: Some(1),
        ..Options::default()
    };
    let mut session = Cpu.open(job, &options).expect("an ISA of this CPU");
    let mut initial = Parameters::zeros(model);
    recipe::initialise(&mut initial, 42);
    session.set_parameters(&initial).expect("parameters of the model");
    let mut order = vec![0; set.len()];
    recipe::shuffle(&mut order, 42, 0);
    let mut step_loss = vec![0.0; set.len().div_ceil(BATCH_SIZE)];
    let clock = Instant::now();
    session.train(&order, &mut step_loss).expect("an epoch");
    clock.elapsed().as_secs_f64()
}

fn main() {
    let data = Source::locate(None).and_then(|source| source.load()).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        std::process::exit(65)
    });
    let mut sets: Vec<(String, Split)> = DENSITIES
        .iter()
        .map(|density| (format!("random, {density} of pixels"), random_images(*density)))
        .collect();
    sets.push((data.name.clone(), real_images(&data.train, false)));
    sets.push((format!("{}, inverted", data.name), real_images(&data.train, true)));
    sets.sort_by(|(_, a), (_, b)| share_of_pairs(a).total_cmp(&share_of_pairs(b)));

    let ways: Vec<(&str, &str)> = Isa::all()
        .iter()
        .flat_map(|isa| [(isa.name(), "sparse"), (isa.name(), "dense")])
        .filter(|(isa, _)| *isa != "scalar")
        .collect();
    let names: Vec<String> = ways.iter().map(|(isa, plan)| format!("{isa} {plan}")).collect();
    println!("| images | pairs that are not zero | {} |", names.join(" | "));
    println!("|---|---|{}", "---|".repeat(ways.len()));
    for (name, set) in &sets {
        let mut times = vec![Vec::new(); ways.len()];
        for _ in 0..ROUNDS {
            for (times, (isa, plan)) in times.iter_mut().zip(&ways) {
                times.push(epoch_s(set, isa, plan));
            }
        }
        let median = |times: &mut Vec<f64>| {
            times.sort_by(f64::total_cmp);
            format!("{:.3}", times[ROUNDS / 2])
        };
        let cells: Vec<String> = times.iter_mut().map(median).collect();
        println!("| {name} | {:.2} | {} |", share_of_pairs(set), cells.join(" | "));
    }
}
