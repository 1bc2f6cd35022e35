//! The steps of a trial.

/// How a trial trains.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steps {
    pub batch_size: usize,
    /// Samples of the last step, at most `batch_size`.
    pub last_batch: usize,
    pub count: usize,
    pub learning_rate: f32,
}

impl Steps {
    /// Ten steps, the last with half a batch.
    pub fn ten(batch_size: usize, learning_rate: f32) -> Steps {
        Steps { batch_size, last_batch: batch_size.div_ceil(2), count: 10, learning_rate }
    }

    pub(super) fn size(&self, step: usize) -> usize {
        if step + 1 == self.count { self.last_batch } else { self.batch_size }
    }
}
