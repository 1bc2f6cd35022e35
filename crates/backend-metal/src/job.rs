//! The jobs that both backends refuse before any device is touched, and the sizes that they plan with.

use nn::backend::{Job, Options, TrainError, Unavailable};

/// Work of one submission: a slow GPU (100 GFLOP/s) does it in a fifth of a second, a tenth of what
/// the system allows before it takes the GPU for hung.
const SUBMISSION_FLOP: f64 = 2e10;
/// Steps of one submission at most, so that the device begins while the host still records.
const SUBMISSION_STEPS: usize = 64;
/// Images of one upload in `predict`.
pub(crate) const PREDICTED_AT_ONCE: usize = 256;
/// Of a buffer: kernels count bytes and elements in 32 bits, with a sign.
const MOST_BYTES: usize = (1 << 31) - 1;

/// Sizes of a job on a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Of the training data.
    pub(crate) samples: usize,
    /// Steps of an epoch, at least 1.
    pub(crate) steps: usize,
    /// Samples that one upload of the order holds: an epoch, in whole steps.
    pub(crate) order_capacity: usize,
    /// Steps of one submission.
    pub(crate) steps_at_once: usize,
}

impl Sizes {
    pub(crate) fn new(job: &Job<'_>) -> Sizes {
        let samples = job.train.len();
        let steps = samples.div_ceil(job.batch_size).max(1);
        let flop = job.model.dense_flop(job.batch_size as u64, 1);
        let steps_at_once = ((SUBMISSION_FLOP / flop) as usize).clamp(1, SUBMISSION_STEPS);
        Sizes { samples, steps, order_capacity: steps * job.batch_size, steps_at_once }
    }
}

/// Refuses jobs that cannot be trained, before any device is touched.
///
/// # Errors
/// [`TrainError::Option`] for an option that cannot be honoured, [`TrainError::Mismatch`] for an
/// empty batch.
pub(crate) fn check(job: &Job<'_>, options: &Options) -> Result<(), TrainError> {
    let refused = |option, value: &str, reason: &str| {
        Err(TrainError::Option { option, value: value.to_owned(), reason: reason.to_owned() })
    };
    if let Some(isa) = &options.isa {
        return refused("isa", isa, "a GPU has none to choose from");
    }
    if let Some(threads) = options.threads {
        return refused("threads", &threads.to_string(), "a GPU's are not chosen");
    }
    if let Some(precision) = options.precision.as_deref().filter(|&name| name != "float32") {
        return refused("precision", precision, "Metal computes in float32 here");
    }
    if let Some(plan) = &options.plan {
        return refused("plan", plan, "there is one way only");
    }
    if job.batch_size == 0 {
        return Err(TrainError::Mismatch("a batch has at least one sample".to_owned()));
    }
    Ok(())
}

/// Whether a kernel can address a buffer of that many bytes.
///
/// # Errors
/// [`Unavailable`] if not.
pub(crate) fn check_bytes(what: &str, bytes: usize) -> Result<(), Unavailable> {
    if bytes <= MOST_BYTES {
        return Ok(());
    }
    let (needed, most) = (bytes.div_ceil(1_000_000), MOST_BYTES / 1_000_000);
    Err(Unavailable(format!("{what} take {needed} MB, and a buffer has at most {most} MB here")))
}

/// The first of the largest of each ten logits.
pub(crate) fn first_of_the_largest(logits: &[f32], labels: &mut [u8]) {
    for (label, logits) in labels.iter_mut().zip(logits.chunks_exact(mnist::CLASSES)) {
        let mut best = 0;
        for class in 1..mnist::CLASSES {
            if logits[class] > logits[best] {
                best = class;
            }
        }
        *label = best as u8; // below 10
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mnist::{PIXELS, Split};
    use nn::Model;

    #[test]
    fn options_that_cannot_be_honoured_are_refused() {
        let train = Split::new(vec![0; PIXELS], vec![0]).unwrap();
        let job = Job { model: Model::Cnn, batch_size: 1, learning_rate: 0.1, train: &train };
        let refusal = |options: Options| check(&job, &options).unwrap_err().to_string();
        let some = |text: &str| Some(text.to_owned());
        let isa = Options { isa: some("neon"), ..Options::default() };
        assert_eq!(refusal(isa), "--isa neon: a GPU has none to choose from");
        let threads = Options { threads: Some(2), ..Options::default() };
        assert_eq!(refusal(threads), "--threads 2: a GPU's are not chosen");
        let plan = Options { plan: some("fused"), ..Options::default() };
        assert_eq!(refusal(plan), "--plan fused: there is one way only");
        let precision = Options { precision: some("bf16"), ..Options::default() };
        assert_eq!(refusal(precision), "--precision bf16: Metal computes in float32 here");
        let precision = Options { precision: some("float32"), ..Options::default() };
        assert!(check(&job, &precision).is_ok());
        let empty = Job { batch_size: 0, ..job };
        assert!(check(&empty, &Options::default()).is_err());
    }

    #[test]
    fn an_epoch_of_the_order_fits_in_whole_steps() {
        let train = Split::new(vec![0; 7 * PIXELS], vec![0; 7]).unwrap();
        let job = Job { model: Model::Cnn, batch_size: 3, learning_rate: 0.1, train: &train };
        let sizes = Sizes::new(&job);
        assert_eq!((sizes.samples, sizes.steps, sizes.order_capacity), (7, 3, 9));
        assert_eq!(Sizes::new(&Job { batch_size: 1 << 20, ..job }).steps_at_once, 1);
    }

    #[test]
    fn a_buffer_that_no_kernel_can_address_is_unavailable_with_its_size() {
        assert!(check_bytes("the pixels", MOST_BYTES).is_ok());
        assert_eq!(
            check_bytes("the pixels", 3_000_000_001).unwrap_err().to_string(),
            "the pixels take 3001 MB, and a buffer has at most 2147 MB here"
        );
    }

    #[test]
    fn of_equal_logits_the_first_is_predicted() {
        let mut logits = [0.0; 30];
        logits[13] = 1.0;
        logits[15] = 1.0;
        logits[29] = -1.0;
        let mut labels = [9; 3];
        first_of_the_largest(&logits, &mut labels);
        assert_eq!(labels, [0, 3, 0]);
    }
}
