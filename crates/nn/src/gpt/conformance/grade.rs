//! How equal a program's steps are to the reference's, by the bounds of [`protocol::grade`].
//!
//! AdamW divides a gradient by its own size: where a gradient is all rounding, the step is a whole
//! learning rate in a direction that rounding chose. A few elements of every tensor are like that, so the
//! largest error says nothing. Errors are therefore measured as root mean squares: of parameters and
//! moments against the change that the steps made to them, of logits against the logits. In coarse
//! arithmetic a good part of the elements are like that, and a bound that lets them pass would also let a
//! wrong learning rate pass. So the *gain* of a parameter is bounded too: the program's change projected
//! onto the reference's, which rounding hardly moves, and a rate that is off by a tenth moves by a tenth.
//!
//! The bounds stand on what sound arithmetic showed over all cases and four seeds:
//! `cargo run --release -p trainmark-nn --example gpt_rounding` prints it for the reference's own code in
//! float32, and with the factors of all products rounded to tf32 and to bf16. Parameters 3.3e-4, 1.5e-1 and
//! 1.9e-1 (float32: one seed of 44 had 5.0e-3, in 80 position embeddings of which one had no gradient to speak
//! of), moments 3.1e-5, 3.5e-3 and 3.3e-2, losses 2.7e-7, 1.8e-4 and 8.8e-4. The largest are of models
//! of 16 or 24 wide; at 64 wide, two layers, bf16 has 2e-2 (also in PyTorch and JAX).

use super::trial::{Outcome, Trial};
use crate::conformance::{Comparison, Grade, Quantity};
use protocol::grade::quantity;
use protocol::verify::Bounds;

impl Trial<'_> {
    /// Grades what a program made of the first `outcome.losses.len()` steps: the losses, then parameter,
    /// first and second moment of each tensor.
    ///
    /// # Panics
    /// If there are no losses, more than steps, or the state is another model's.
    pub fn grade(&self, outcome: &Outcome) -> Comparison {
        let steps = outcome.losses.len();
        assert!((1..=self.count()).contains(&steps), "{steps} losses");
        assert_eq!(outcome.state.shape(), self.job.shape);
        let expected = &self.losses[..steps];
        let mut quantities =
            vec![quantity("loss", expected, &outcome.losses, None, &Bounds::of_losses(expected))];
        let (expected, actual) = (&self.states[steps - 1], &outcome.state);
        for ((prefix, expected), (_, actual)) in expected.parts().into_iter().zip(actual.parts()) {
            for tensor in self.initial.tensors() {
                let initial = &self.initial.parameters[tensor.range()];
                let initial = prefix.is_empty().then_some(initial);
                let expected: Vec<f64> =
                    expected[tensor.range()].iter().map(|&value| value.into()).collect();
                let bounds = Bounds::of_tensor(&expected, initial);
                let (name, actual) = (format!("{prefix}{}", tensor.name), &actual[tensor.range()]);
                quantities.push(quantity(name, &expected, actual, initial, &bounds));
            }
        }
        // A file of another program may not say.
        if actual.steps != 0 && actual.steps != expected.steps {
            quantities.push(steps_differ(expected.steps, actual.steps));
        }
        Comparison::of(quantities)
    }

    /// Grades the logits at the end.
    pub(super) fn grade_logits(&self, logits: &[f32]) -> Quantity {
        // As wide as those of a moment.
        quantity("logits", &self.logits, logits, None, &Bounds::of_tensor(&self.logits, None))
    }
}

fn steps_differ(expected: u64, actual: u64) -> Quantity {
    Quantity {
        name: "steps".into(),
        grade: Grade::Different,
        of_magnitude: f64::INFINITY,
        of_change: f64::INFINITY,
        place: 0,
        expected: expected as f64,
        actual: actual as f64,
    }
}
