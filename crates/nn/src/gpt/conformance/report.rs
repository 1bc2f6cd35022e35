//! The result of a comparison.

use crate::backend::Description;
use crate::conformance::{Comparison, Grade, Quantity};
use crate::gpt::Shape;
use std::fmt;

/// The result of a comparison. Its `Display` is the table that `--check` prints.
#[derive(Clone, Debug)]
pub struct Report {
    pub backend: &'static str,
    pub description: Description,
    pub shape: Shape,
    pub batch_size: usize,
    /// Losses, parameters and moments.
    pub comparison: Comparison,
    /// After the last step.
    pub logits: Quantity,
    /// Whether the same steps, one call each, gave the same bits as one call of all.
    pub same_singly: bool,
    /// Whether predicting left the state as it was.
    pub untouched: bool,
}

impl Report {
    /// Whether all is as equal as the backend's precision promises.
    pub fn passed(&self) -> bool {
        let worst = self.comparison.grade.max(self.logits.grade);
        worst <= self.promised() && self.same_singly && self.untouched
    }

    fn promised(&self) -> Grade {
        match self.description.precision {
            "tf32" => Grade::Tf32,
            "bf16" => Grade::Bf16,
            _ => Grade::Float32,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { layers, heads, width, context, vocabulary } = self.shape;
        writeln!(
            f,
            "{} ({}) beside the float64 reference: gpt, {layers} layers, {heads} heads, width {width}, \
             context {context}, {vocabulary} tokens; {} windows a step",
            self.backend, self.description.path, self.batch_size
        )?;
        writeln!(f, "{:<52}{:>12}{:>12}", "", "rms error", "largest")?;
        for quantity in self.comparison.quantities.iter().chain([&self.logits]) {
            let Quantity { name, grade, of_magnitude, of_change, .. } = quantity;
            write!(f, "{name:<52}{of_change:>12.1e}{of_magnitude:>12.1e}  {grade}")?;
            if *grade > self.promised() {
                let Quantity { place, expected, actual, .. } = quantity;
                write!(f, "; {place} is {actual:e}, should be {expected:e}")?;
            }
            writeln!(f)?;
        }
        if !self.same_singly {
            writeln!(f, "one call for each step gives other bits than one call for all")?;
        }
        if !self.untouched {
            writeln!(f, "predicting changes the state")?;
        }
        match self.passed() {
            true => write!(f, "{}", self.comparison.grade.max(self.logits.grade)),
            false => write!(f, "DIFFERENT from what {} promises", self.description.precision),
        }
    }
}
