//! Numbers as programs print them: their own digits say how well they are known.

use std::str::FromStr;

/// A number as it was printed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Printed {
    pub value: f64,
    /// One unit of its last digit: it is known no better.
    pub grain: f64,
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
