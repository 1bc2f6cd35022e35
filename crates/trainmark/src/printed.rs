//! What programs print: facts, and numbers whose own digits say how well they are known.

use record::number;
use std::str::FromStr;

/// What a program can say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fact {
    /// Of a point of the curve, as are the next three.
    Loss,
    Step,
    /// A position, whole or not.
    Epoch,
    /// Seconds of the epoch that ends here.
    EpochS,
    /// Of the whole training, as are all others.
    SetupS,
    CompileS,
    TrainS,
    EvalS,
    DeviceS,
    Steps,
    Work,
    DenseFlop,
    ExecutedFlop,
    DevicePeakBytes,
    Metric(String),
}

/// All but the metrics, by the names that they have in events and in rules.
static NAMES: [(Fact, &str); 14] = [
    (Fact::Loss, "loss"),
    (Fact::Step, "step"),
    (Fact::Epoch, "epoch"),
    (Fact::EpochS, "epoch_s"),
    (Fact::TrainS, "train_s"),
    (Fact::SetupS, "setup_s"),
    (Fact::CompileS, "compile_s"),
    (Fact::EvalS, "eval_s"),
    (Fact::Work, "work"),
    (Fact::DevicePeakBytes, "device_peak_bytes"),
    // Only events have these.
    (Fact::DeviceS, "device_s"),
    (Fact::Steps, "steps"),
    (Fact::DenseFlop, "dense_flop"),
    (Fact::ExecutedFlop, "executed_flop"),
];

impl Fact {
    pub fn name(&self) -> &str {
        let named = NAMES.iter().find(|(fact, _)| fact == self);
        match self {
            Fact::Metric(name) => name,
            _ => named.map_or("", |(_, name)| *name),
        }
    }

    /// Those that a suite's rules can find besides the task's metrics.
    pub fn of_rules() -> &'static [(Fact, &'static str)] {
        &NAMES[..10]
    }

    pub fn is_seconds(&self) -> bool {
        use Fact::*;
        matches!(self, SetupS | CompileS | TrainS | EvalS | DeviceS)
    }
}

/// A number as it was printed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Printed {
    pub value: f64,
    /// One unit of its last digit: it is known no better.
    pub grain: f64,
}

/// As an event has it: a whole number is exact, and one that was rounded has a point.
impl From<f64> for Printed {
    fn from(value: f64) -> Printed {
        let grain = number::grain(value);
        Printed { value, grain: if grain < 1.0 { grain } else { 0.0 } }
    }
}

impl FromStr for Printed {
    type Err = String;

    fn from_str(text: &str) -> Result<Printed, String> {
        let number = text.trim().trim_end_matches([',', ';', ')', ']', '%', '.', '}', '"', '\'']);
        let value: f64 = number.parse().map_err(|_| format!("{text:?} is not a number"))?;
        let lower = number.to_ascii_lowercase();
        let (digits, power) = lower.split_once('e').unwrap_or((&lower, "0"));
        let decimals = digits.split_once('.').map_or(0, |(_, decimals)| decimals.len()) as i32;
        Ok(Printed { value, grain: 10_f64.powi(power.parse().unwrap_or(0) - decimals) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_known_as_well_as_its_last_digit() {
        assert!("nan".parse::<Printed>().unwrap().value.is_nan());
        assert!(("3e-05".parse::<Printed>().unwrap().grain - 1e-5).abs() < 1e-18);
    }
}
