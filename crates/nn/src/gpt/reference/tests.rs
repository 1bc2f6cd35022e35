//! The proof of the gradients by finite differences, and AdamW beside numbers made by hand.

use super::*;
use crate::gpt::{AdamW, recipe};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const SHAPE: Shape = Shape { layers: 2, heads: 2, width: 6, context: 5, vocabulary: 7 };

fn text(length: usize, seed: u64) -> Vec<u16> {
    let mut words = ChaCha8Rng::seed_from_u64(seed);
    (0..length).map(|_| (words.next_u32() % SHAPE.vocabulary as u32) as u16).collect()
}

/// The recipe's values, all of them moved, so that every path through the model carries something.
fn moved(shape: Shape, seed: u64) -> State {
    let mut state = State::zeros(shape);
    recipe::initialise(&mut state, seed);
    let mut words = ChaCha8Rng::seed_from_u64(seed);
    for value in &mut state.parameters {
        *value += 0.3 * recipe::normal(words.next_u32()) as f32;
    }
    state
}

#[test]
fn finite_differences_prove_the_gradient_of_every_element_of_every_tensor() {
    const STEP: f64 = 1e-5;
    let text = text(40, 1);
    let starts = [0, 17, 30];
    let mut reference: Reference<f64> = Reference::new(&moved(SHAPE, 2));
    let (loss, gradient) = reference.gradient(&text, &starts);
    assert!((loss - reference.loss(&text, &starts)).abs() < 1e-12);
    for tensor in SHAPE.tensors() {
        let scale = gradient[tensor.range()].iter().fold(0.0_f64, |most, d| most.max(d.abs()));
        assert!(scale > 1e-4, "{}: {scale:e}, nothing to prove", tensor.name);
        for element in tensor.range() {
            let value = reference.parameters[element];
            reference.parameters[element] = value + STEP;
            let above = reference.loss(&text, &starts);
            reference.parameters[element] = value - STEP;
            let below = reference.loss(&text, &starts);
            reference.parameters[element] = value;
            let difference = (above - below) / (2.0 * STEP);
            let error = (gradient[element] - difference).abs();
            assert!(
                error <= 1e-6 * scale + 1e-10,
                "{} {}: {} by the backward pass, {difference} by differences",
                tensor.name,
                element - tensor.offset,
                gradient[element],
            );
        }
    }
}

#[test]
fn a_token_does_not_see_those_after_it_and_a_short_window_is_the_begin_of_a_long_one() {
    let reference: Reference<f64> = Reference::new(&moved(SHAPE, 3));
    let long = reference.logits(&[1, 2, 3, 4, 5]);
    assert_eq!(reference.logits(&[1, 2, 3]), long[..3 * SHAPE.vocabulary]);
    assert_eq!(reference.logits(&[1, 2, 3, 0, 0])[..3 * SHAPE.vocabulary], long[..3 * 7]);
    // What is longer than a context begins anew.
    assert_eq!(reference.logits(&[1, 2, 3, 4, 5, 1, 2, 3])[5 * 7..], long[..3 * 7]);
}

#[test]
fn the_first_loss_is_about_that_of_equal_guesses() {
    let mut state = State::zeros(SHAPE);
    recipe::initialise(&mut state, 4);
    let reference: Reference<f64> = Reference::new(&state);
    let loss = reference.loss(&text(40, 5), &[0, 9]);
    assert!((loss - 7.0_f64.ln()).abs() < 0.02, "{loss}");
}

/// Two steps by hand, on a model whose gradient is given: a matrix and a vector, beta 0.9 and 0.99.
#[test]
fn two_steps_of_adamw_give_the_numbers_worked_out_by_hand() {
    let mut state = State::zeros(SHAPE);
    state.parameters.fill(2.0);
    let mut reference: Reference<f64> = Reference::new(&state);
    let step = Step { rate: 0.5, correction1: 0.1, correction2: 0.01 };
    reference.update(&vec![0.5; state.parameters.len()], step);
    // m = 0.05, v = 0.0025; m / 0.1 = 0.5, sqrt(v / 0.01) = 0.5: one whole rate down.
    let (matrix, vector) = (0, SHAPE.parameter_count() - 1);
    let near = |value: f64, expected: f64| assert!((value - expected).abs() < 1e-7, "{value}");
    near(reference.parameters[matrix], 2.0 * 0.95 - 0.5);
    near(reference.parameters[vector], 2.0 - 0.5);
    near(reference.first_moment[matrix], 0.05);
    near(reference.second_moment[matrix], 0.0025);

    let step = Step { rate: 0.1, correction1: 0.19, correction2: 0.0199 };
    reference.update(&vec![-1.0; state.parameters.len()], step);
    // m = 0.045 - 0.1 = -0.055, v = 0.002475 + 0.01 = 0.012475.
    let down = 0.1 * (-0.055 / 0.19) / (0.012475_f64 / 0.0199).sqrt();
    near(reference.parameters[matrix], 1.4 * 0.99 - down);
    near(reference.parameters[vector], 1.5 - down);
}

#[test]
fn a_long_gradient_is_shortened_to_one_and_a_short_one_stays() {
    let mut long = [3.0, 4.0];
    clip(&mut long);
    assert!((long[0] - 0.6_f64).abs() < 1e-6 && (long[1] - 0.8).abs() < 1e-6);
    let mut short = [0.3, 0.4];
    clip(&mut short);
    assert_eq!(short, [0.3, 0.4]);
}

#[test]
fn repeated_steps_on_one_batch_bring_the_model_to_a_small_loss() {
    let shape = Shape { width: 16, ..SHAPE };
    let text = text(60, 6);
    let optimiser = AdamW { learning_rate: 0.02, warmup: 5, steps: 120 };
    let job = Job { shape, batch_size: 3, optimiser, text: &text };
    let mut state = State::zeros(shape);
    recipe::initialise(&mut state, 6);
    let mut reference: Reference<f64> = Reference::new(&state);
    let starts = [3, 20, 41].repeat(120);
    let losses = reference.train(&job, &starts);
    assert!(losses[119] < 0.2 * losses[0], "{} {}", losses[0], losses[119]);
    assert_eq!(reference.state().steps, 120);

    // A state that was kept in between goes on as if nothing had been, but for its rounding.
    let mut halves: Reference<f32> = Reference::new(&state);
    let mut whole = halves.clone();
    let first = halves.train(&job, &starts[..60]);
    let mut halves: Reference<f32> = Reference::new(&halves.state());
    let second = halves.train(&job, &starts[60..120]);
    assert_eq!([first, second].concat(), whole.train(&job, &starts[..120]));
}
