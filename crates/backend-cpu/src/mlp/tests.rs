//! The kernels against naive loops on every instruction set, and the two ways of the first layer
//! against each other.

use super::batch::{GROUP, GROUP_BYTES, LABELS, NO_SAMPLE, ROOM, SQUARES, label, turn};
use super::first_layer::{Pass, Samples};
use super::second_layer::{PIXEL_UNIT, activate, backward, logits, softmax_gradient, sum_logits};
use super::*;
use crate::simd::{Isa, MAX_LANES};
use mnist::{CLASSES, PIXELS, Split};
use nn::backend::{Backend, Options};
use nn::conformance;
use proptest::prelude::*;

/// Whole numbers so small that every sum is exact, in any order.
fn whole(len: usize) -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec((-4i8..=4).prop_map(f32::from), len)
}

/// Images of any density, blank and full ones among them.
fn images(count: usize) -> impl Strategy<Value = Vec<u8>> {
    let image = (0..=4u8).prop_flat_map(|density| {
        let pixel = (any::<u8>(), 0..4u8).prop_map(move |(pixel, level)| match density {
            4 => 255,
            _ if level < density => pixel,
            _ => 0,
        });
        prop::collection::vec(pixel, PIXELS)
    });
    prop::collection::vec(image, count).prop_map(|images| images.concat())
}

/// A tile of `vectors`, some samples to update from and some to compute.
struct FirstLayer<'a> {
    plan: Plan,
    vectors: usize,
    weights: &'a [f32], // (784, vectors * 16), of which so many lanes are used
    update: (&'a [u8], &'a [f32]), // images; (samples, vectors * 16)
    forward: (&'a [u8], &'a [f32]),
}

impl Kernel for FirstLayer<'_> {
    /// Updated weights, (784, vectors * lanes); sums, (forward samples, vectors * lanes); pairs.
    type Output = (Vec<f32>, Vec<f32>, u64);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        let units = self.vectors * S::LANES;
        let mut weights: Vec<f32> = Vec::new();
        for row in self.weights.chunks_exact(self.vectors * MAX_LANES) {
            weights.extend(&row[..units]);
        }
        let mut pixels = [(); 2].map(|()| Buffer::<u8>::zeroed(GROUP_BYTES));
        let mut values = [(); 2].map(|()| vec![0.0; self.vectors * ROOM * S::LANES]);
        let mut samples = [None, None];
        for (n, (images, given)) in [self.update, self.forward].into_iter().enumerate() {
            let count = images.len() / PIXELS;
            if count == 0 {
                continue;
            }
            for (sample, given) in given.chunks_exact(self.vectors * MAX_LANES).enumerate() {
                for (unit, &value) in given[..units].iter().enumerate() {
                    let (vector, lane) = (unit / S::LANES, unit % S::LANES);
                    values[n][(vector * ROOM + sample) * S::LANES + lane] = value;
                }
            }
            // SAFETY: the buffer has room for a group.
            unsafe { turn(simd, images, 0..count, 0..SQUARES, pixels[n].as_mut_ptr()) };
            let (pixels, values) = (pixels[n].as_ptr(), values[n].as_mut_ptr());
            samples[n] = Some(Samples { pixels, values, count });
        }
        let [update, forward] = samples;
        let (vectors, plan) = (self.vectors, self.plan);
        let next = std::ptr::null(); // any address will do
        let pass = Pass { weights: weights.as_mut_ptr(), vectors, update, forward, next, plan };
        // SAFETY: the shapes that it asks for, all of this thread.
        let pairs = unsafe { pass.run(simd) };
        let mut sums = Vec::new();
        for sample in 0..self.forward.0.len() / PIXELS {
            for unit in 0..units {
                let (vector, lane) = (unit / S::LANES, unit % S::LANES);
                sums.push(values[1][(vector * ROOM + sample) * S::LANES + lane]);
            }
        }
        (weights, sums, pairs)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_first_layer_is_that_of_plain_loops_both_ways(
        (vectors, weights, values, update, forward) in
            (1..=4usize, 0..=GROUP, 0..=GROUP).prop_flat_map(|(vectors, update, forward)| {
                let units = vectors * MAX_LANES;
                (
                    Just(vectors), whole(PIXELS * units), whole((update + forward) * units),
                    images(update), images(forward),
                )
            }),
    ) {
        let units = vectors * MAX_LANES;
        let (update_values, forward_values) = values.split_at(update.len() / PIXELS * units);
        let (update, forward) = ((&update[..], update_values), (&forward[..], forward_values));
        for isa in Isa::all() {
            let [sparse, dense] = [Plan::Sparse, Plan::Dense].map(|plan| {
                isa.run(FirstLayer { plan, vectors, weights: &weights, update, forward })
            });
            prop_assert_eq!((&sparse.0, &sparse.1), (&dense.0, &dense.1), "{}", isa.name());
            let used = sparse.0.len() / PIXELS;
            let mut expected = Vec::new();
            for pixel in 0..PIXELS {
                for unit in 0..used {
                    let products = update.0.chunks_exact(PIXELS).zip(update.1.chunks_exact(units));
                    let sum = products.map(|(image, row)| f32::from(image[pixel]) * row[unit]);
                    expected.push(weights[pixel * units + unit] + sum.sum::<f32>());
                }
            }
            prop_assert_eq!(&sparse.0, &expected, "{} weights", isa.name());
            let mut sums = Vec::new();
            for (image, row) in forward.0.chunks_exact(PIXELS).zip(forward.1.chunks_exact(units)) {
                for unit in 0..used {
                    let products = (0..PIXELS)
                        .filter(|&pixel| image[pixel] > 0)
                        .map(|pixel| f64::from(image[pixel]) * f64::from(expected[pixel * used + unit]));
                    sums.push(f64::from(row[unit]) + products.sum::<f64>());
                }
            }
            // Sums of large numbers: rounded, but alike.
            for (&sum, &expected) in sparse.1.iter().zip(&sums) {
                prop_assert!((f64::from(sum) - expected).abs() <= 1e-5 * expected.abs() + 100.0);
            }
            let pairs = |images: &[u8]| {
                images.chunks_exact(2).filter(|pair| *pair != [0, 0]).count() as u64
            };
            prop_assert_eq!(sparse.2, pairs(forward.0), "{} pairs", isa.name());
            prop_assert_eq!(dense.2, (forward.0.len() / 2) as u64);
        }
    }
}

/// The second layer of one block: values and biases as sums over bytes.
struct SecondLayer<'a> {
    vectors: usize,
    samples: usize,
    sums: &'a [f32],     // (samples, vectors * 16)
    bias: &'a [f32],     // (vectors * 16)
    weights: &'a [f32],  // (vectors * 16, 10)
    gradient: &'a [f32], // (samples, 10)
}

/// What [`SecondLayer`] makes, by unit in plain order.
struct SecondLayerOutput {
    hidden: Vec<f32>,   // (samples, units)
    logits: Vec<f32>,   // (samples, 10)
    weights: Vec<f32>,  // (units, 10)
    bias: Vec<f32>,     // (units)
    d_hidden: Vec<f32>, // (samples, units)
}

impl Kernel for SecondLayer<'_> {
    type Output = SecondLayerOutput;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> SecondLayerOutput {
        let SecondLayer { vectors, samples, .. } = self;
        let units = vectors * S::LANES;
        let place = |sample: usize, unit: usize| {
            (unit / S::LANES * ROOM + sample) * S::LANES + unit % S::LANES
        };
        let mut values = vec![0.0; vectors * ROOM * S::LANES];
        let mut weights = vec![0.0; units * CLASSES];
        for unit in 0..units {
            for sample in 0..samples {
                values[place(sample, unit)] = self.sums[sample * vectors * MAX_LANES + unit];
            }
            for class in 0..CLASSES {
                let at = (unit / S::LANES * CLASSES + class) * S::LANES + unit % S::LANES;
                weights[at] = self.weights[unit * CLASSES + class];
            }
        }
        let mut bias = self.bias[..units].to_vec();
        let mut sums = vec![0.0; CLASSES * GROUP];
        let mut gradient = vec![0.0; CLASSES * GROUP];
        for sample in 0..samples {
            for class in 0..CLASSES {
                gradient[class * GROUP + sample] = self.gradient[sample * CLASSES + class];
            }
        }
        let read = |values: &[f32]| -> Vec<f32> {
            (0..samples)
                .flat_map(|s| (0..units).map(move |u| (s, u)))
                .map(|(s, u)| values[place(s, u)])
                .collect()
        };
        // SAFETY: the shapes that they ask for, all of this thread.
        let (hidden, d_hidden) = unsafe {
            activate(simd, values.as_mut_ptr(), bias.as_ptr(), vectors, samples);
            let hidden = read(&values);
            logits(simd, values.as_ptr(), weights.as_ptr(), vectors, samples, sums.as_mut_ptr());
            for vector in 0..vectors {
                backward(
                    simd,
                    samples,
                    values.as_mut_ptr().add(vector * ROOM * S::LANES),
                    values.len(),
                    gradient.as_ptr(),
                    weights.as_mut_ptr().add(vector * CLASSES * S::LANES),
                    bias.as_mut_ptr().add(vector * S::LANES),
                );
            }
            (hidden, read(&values))
        };
        let logits = (0..samples * CLASSES)
            .map(|index| sums[index % CLASSES * GROUP + index / CLASSES])
            .collect();
        let weights = (0..units * CLASSES)
            .map(|index| {
                let (unit, class) = (index / CLASSES, index % CLASSES);
                weights[(unit / S::LANES * CLASSES + class) * S::LANES + unit % S::LANES]
            })
            .collect();
        SecondLayerOutput { hidden, logits, weights, bias, d_hidden }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_second_layer_is_that_of_plain_loops(
        (vectors, samples, sums, bias, weights, gradient) in
            (1..=5usize, 1..=GROUP).prop_flat_map(|(vectors, samples)| {
                let units = vectors * MAX_LANES;
                (
                    Just(vectors), Just(samples), whole(samples * units), whole(units),
                    whole(units * CLASSES), whole(samples * CLASSES),
                )
            }),
    ) {
        let all_units = vectors * MAX_LANES;
        // Sums over bytes, whose 255th part is whole but for rounding.
        let sums: Vec<f32> = sums.iter().map(|sum| sum * 255.0).collect();
        let close = |actual: f32, expected: f64| (f64::from(actual) - expected).abs() < 1e-3;
        for isa in Isa::all() {
            let input = SecondLayer {
                vectors, samples, sums: &sums, bias: &bias, weights: &weights, gradient: &gradient,
            };
            let output = isa.run(input);
            let units = output.bias.len();
            let hidden = |sample: usize, unit: usize| {
                (f64::from(sums[sample * all_units + unit]) / 255.0 + f64::from(bias[unit])).max(0.0)
            };
            let weight = |unit: usize, class: usize| f64::from(weights[unit * CLASSES + class]);
            let d = |sample: usize, class: usize| f64::from(gradient[sample * CLASSES + class]);
            let d_hidden = |sample: usize, unit: usize| {
                let sum = (0..CLASSES).map(|class| d(sample, class) * weight(unit, class)).sum();
                // Of units at the kink, by the kernel's own rounding.
                if output.hidden[sample * units + unit] > 0.0 { sum } else { 0.0f64 }
            };
            for sample in 0..samples {
                for unit in 0..units {
                    let index = sample * units + unit;
                    prop_assert!(close(output.hidden[index], hidden(sample, unit)));
                    let expected = d_hidden(sample, unit) * f64::from(PIXEL_UNIT);
                    prop_assert!(close(output.d_hidden[index], expected));
                }
                for class in 0..CLASSES {
                    let expected = (0..units).map(|unit| hidden(sample, unit) * weight(unit, class));
                    prop_assert!(close(output.logits[sample * CLASSES + class], expected.sum()));
                }
            }
            for (unit, &old) in bias.iter().enumerate().take(units) {
                let sum: f64 = (0..samples).map(|sample| d_hidden(sample, unit)).sum();
                prop_assert!(close(output.bias[unit], f64::from(old) + sum));
                for class in 0..CLASSES {
                    let sum: f64 = (0..samples).map(|s| d(s, class) * hidden(s, unit)).sum();
                    let actual = output.weights[unit * CLASSES + class];
                    prop_assert!(close(actual, weight(unit, class) + sum));
                }
            }
        }
    }

    #[test]
    fn loss_and_gradient_are_those_of_plain_softmax_whatever_the_logits_size(
        parts in prop::collection::vec(-30.0f32..30.0, 3 * CLASSES * GROUP),
        labels in prop::collection::vec(prop_oneof![9 => 0..10u8, 1 => Just(NO_SAMPLE)], GROUP),
        first in (0..2usize).prop_map(|half| half * MAX_LANES),
    ) {
        struct Softmax<'a>(&'a [f32], &'a [u8], usize);
        impl Kernel for Softmax<'_> {
            /// Gradient (10, lanes) and loss of each lane.
            type Output = (Vec<f32>, Vec<f64>);
            #[inline(always)]
            fn run<S: Simd>(self, simd: S) -> Self::Output {
                let Softmax(parts, labels, first) = self;
                let bias = std::array::from_fn(|class| class as f32 / 8.0);
                // SAFETY: three blocks of (10, GROUP); labels of a group.
                let (gradient, plain, inside_log) = unsafe {
                    let stride = CLASSES * GROUP;
                    let sums = sum_logits(simd, parts.as_ptr(), stride, 3, &bias, first);
                    let labels = simd.load_bytes(labels[first..].as_ptr());
                    softmax_gradient(simd, &sums, labels, 2.0)
                };
                let read = |vector| {
                    let mut lanes = [0.0f32; MAX_LANES];
                    // SAFETY: as many lanes, or more.
                    unsafe { simd.store(lanes.as_mut_ptr(), vector) };
                    lanes[..S::LANES].to_vec()
                };
                let (plain, inside_log) = (read(plain), read(inside_log));
                let losses = plain.iter().zip(&inside_log);
                let losses = losses.map(|(&plain, &log)| f64::from(plain) + f64::from(log).ln());
                (gradient.into_iter().flat_map(read).collect(), losses.collect())
            }
        }
        for isa in Isa::all() {
            let (gradient, losses) = isa.run(Softmax(&parts, &labels, first));
            let lanes = losses.len();
            for (lane, &loss) in losses.iter().enumerate() {
                let sample = first + lane;
                let logit = |class: usize| {
                    let part = |n: usize| f64::from(parts[(n * CLASSES + class) * GROUP + sample]);
                    class as f64 / 8.0 + part(0) + part(1) + part(2)
                };
                let largest = (0..CLASSES).map(logit).fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = (0..CLASSES).map(|class| (logit(class) - largest).exp()).sum();
                let label = usize::from(labels[sample]);
                let present = labels[sample] != NO_SAMPLE;
                let expected = if present { largest - logit(label) + total.ln() } else { 0.0 };
                prop_assert!((loss - expected).abs() < 1e-4, "{}: {loss} {expected}", isa.name());
                for class in 0..CLASSES {
                    let softmax = (logit(class) - largest).exp() / total;
                    let hit = f64::from(u8::from(class == label));
                    let expected = if present { 2.0 * (softmax - hit) } else { 0.0 };
                    let actual = f64::from(gradient[class * lanes + lane]);
                    prop_assert!((actual - expected).abs() < 1e-4, "{}", isa.name());
                }
            }
        }
    }
}

#[test]
fn a_group_has_its_samples_pixels_side_by_side_and_blanks_for_absent_ones() {
    struct Turn<'a>(&'a [u8], &'a [u32], &'a mut [u8]);
    impl Kernel for Turn<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            let Turn(images, samples, group) = self;
            assert_eq!(group.len(), GROUP_BYTES);
            let indices = samples.iter().map(|&sample| sample as usize);
            // SAFETY: the group's size was asserted.
            unsafe {
                turn(simd, images, indices, 0..SQUARES, group.as_mut_ptr());
                label(&[4, 5, 6, 7, 8], samples, group.as_mut_ptr());
            }
        }
    }
    let images: Vec<u8> = (0..5 * PIXELS).map(|i| (i * 37 % 251) as u8).collect();
    for samples in [vec![], vec![3], vec![4, 0, 2], (0..32).map(|i| i * 7 % 5).collect()] {
        for isa in Isa::all() {
            let mut group = vec![9; GROUP_BYTES];
            isa.run(Turn(&images, &samples, &mut group));
            for slot in 0..GROUP {
                let sample = samples.get(slot).map(|&sample| sample as usize);
                for pixel in 0..PIXELS {
                    let expected = sample.map_or(0, |sample| images[sample * PIXELS + pixel]);
                    assert_eq!(group[pixel * GROUP + slot], expected, "{}", isa.name());
                }
                let expected = sample.map_or(NO_SAMPLE, |sample| 4 + sample as u8);
                assert_eq!(group[LABELS + slot], expected);
            }
        }
    }
}

fn options(plan: &str) -> Options {
    Options { plan: Some(plan.to_owned()), threads: Some(2), ..Options::default() }
}

#[test]
fn both_plans_train_what_the_reference_trains_and_the_same_bits() {
    let both = ["sparse", "dense"].map(options);
    let mlp = |case: &conformance::Case| case.model.id() == "mlp";
    conformance::require(&crate::Cpu, &both, mlp);
    for (case, trial) in conformance::trials(mlp) {
        let [sparse, dense] =
            [&both[0], &both[1]].map(|it| trial.outcome(&crate::Cpu, it).unwrap());
        assert!(sparse == dense, "{case}");
    }
}

#[test]
fn the_record_says_which_plan_ran_and_what_was_computed() {
    let image = |density: usize| -> Vec<u8> {
        (0..PIXELS).map(|pixel| if pixel / 2 % 4 < density { 200 } else { 0 }).collect()
    };
    for (density, path, share) in
        [(1, "zero pixels skipped", Some(0.25)), (4, "all pixels computed", None)]
    {
        let data = Split::new(image(density).repeat(10), vec![1; 10]).unwrap();
        let model = nn::Model::Mlp(MlpShape { hidden: 40 });
        let job = Job { model, batch_size: 4, learning_rate: 0.01, train: &data };
        let two = Options { threads: Some(2), ..Options::default() };
        let mut session = crate::Cpu.open(job, &two).unwrap();
        assert!(session.description().path.ends_with(path), "{}", session.description().path);
        let order: Vec<u32> = (0..10).collect();
        session.train(&order, &mut [0.0; 3]).unwrap();
        let executed = session.measured().executed_flop;
        let skipped = share.map(|share| 2.0 * 2.0 * 10.0 * 784.0 * (1.0 - share) * 40.0);
        assert_eq!(executed, skipped.map(|skipped| model.dense_flop(10, 3) - skipped));
    }
}

#[test]
fn an_unknown_plan_is_refused_with_those_that_there_are() {
    for (model, hint) in [("mlp", "sparse and dense"), ("cnn", "one"), ("attention", "one")] {
        let data = Split::new(vec![0; PIXELS], vec![0]).unwrap();
        let model = conformance::small_model(model);
        let job = Job { model, batch_size: 4, learning_rate: 0.01, train: &data };
        let Err(error) = crate::Cpu.open(job, &options("fast")) else { panic!("{model:?}") };
        let error = error.to_string();
        assert!(error.starts_with("--plan fast: ") && error.contains(hint), "{error}");
    }
}
