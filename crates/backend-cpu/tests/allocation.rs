//! A training step allocates nothing: twice the steps, as many allocations.

use backend_cpu::Cpu;
use backend_cpu::simd::Isa;
use nn::backend::{Backend, Job, Options};
use nn::conformance::{Case, Images, small_model};
use nn::gpt;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts every allocation of every thread.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's own, and a counter.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller's promises are the same.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// One test, alone in its program: nobody else allocates meanwhile.
#[test]
fn a_training_step_allocates_nothing_with_any_model_isa_and_number_of_threads() {
    for id in ["mlp", "cnn", "attention"] {
        let model = small_model(id);
        let case = Case {
            model,
            images: Images::Sparse,
            batch_size: 16,
            last_batch: 3,
            count: 1,
            learning_rate: 0.02,
            seed: 3,
        };
        let data = case.data();
        let job = Job { model, batch_size: 16, learning_rate: 0.02, train: &data };
        let initial = case.initial();
        let short: Vec<u32> = (0..10 * 16 + 3).collect();
        let long: Vec<u32> = short.iter().chain(&short).copied().collect();
        for isa in Isa::all() {
            for threads in [1, 2, 3] {
                let isa = Some(isa.name().to_owned());
                let options = Options { isa, threads: Some(threads), ..Options::default() };
                let mut session = Cpu.open(job, &options).expect("a CPU");
                session.set_parameters(&initial).expect("parameters of the model");
                let mut losses = [0.0; 21];
                let mut count = |order: &[u32]| {
                    let before = ALLOCATIONS.load(Ordering::SeqCst);
                    let steps = order.len().div_ceil(16);
                    session.train(order, &mut losses[..steps]).expect("a step");
                    ALLOCATIONS.load(Ordering::SeqCst) - before
                };
                count(&short); // what is made once
                let (few, many) = (count(&short), count(&long));
                assert_eq!(few, many, "{id}, {options:?}: allocations of 11 and of 21 steps");
            }
        }
    }
    gpt();
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    drop(std::hint::black_box(Box::new(1)));
    assert!(ALLOCATIONS.load(Ordering::SeqCst) > before, "the counter counts");
}

fn gpt() {
    let shape = gpt::Shape { layers: 2, heads: 2, width: 32, context: 17, vocabulary: 29 };
    let text: Vec<u16> = (0..500).map(|i| (i * 7 + i / 5) % 29).collect();
    let optimiser = gpt::AdamW { learning_rate: 1e-3, warmup: 2, steps: 100 };
    let job = gpt::Job { shape, batch_size: 5, optimiser, text: &text };
    let mut state = gpt::State::zeros(shape);
    gpt::recipe::initialise(&mut state, 3);
    let isas = Isa::all().iter().map(|isa| isa.name()).collect::<Vec<_>>();
    let amx = backend_cpu::gpt::Amx::detect().map(|_| "amx");
    for isa in isas.into_iter().chain(amx) {
        for threads in [1, 2, 3] {
            let isa = Some(isa.to_owned());
            let options = Options { isa, threads: Some(threads), ..Options::default() };
            let mut session = Cpu.open_gpt(job, &options).expect("a CPU");
            session.set_state(&state).expect("a state of the model");
            let mut losses = [0.0; 21];
            let mut count = |steps: usize| {
                let starts = [7; 5 * 21];
                let before = ALLOCATIONS.load(Ordering::SeqCst);
                session.train(&starts[..5 * steps], &mut losses[..steps]).expect("a step");
                ALLOCATIONS.load(Ordering::SeqCst) - before
            };
            count(11); // what is made once
            let (few, many) = (count(11), count(21));
            assert_eq!(few, many, "gpt, {options:?}: allocations of 11 and of 21 steps");
        }
    }
}
