//! Names and figures as text that can break nothing: neither a table nor a terminal.

pub use measure::text::{is_deceptive, visible};
use std::borrow::Cow;
use std::fmt::Write;
use unicode_width::UnicodeWidthStr;

/// Stands for a figure or a name that is not known. Readers of tables know it as missing.
pub const UNKNOWN: &str = "n/a";

/// Columns of a terminal or a fixed-width font.
pub fn width(text: &str) -> usize {
    match text.bytes().fold(true, |it, byte| it & matches!(byte, b' '..=b'~')) {
        true => text.len(),
        false => text.width(),
    }
}

/// A figure with two decimals, as the specification prints it; in powers of ten where that would
/// not fit a table.
pub fn decimal(figure: Option<f64>) -> Cow<'static, str> {
    match figure {
        None => Cow::Borrowed(UNKNOWN),
        Some(figure) => {
            let mut text = String::with_capacity(16);
            push_decimal(figure, &mut text);
            Cow::Owned(text)
        }
    }
}

/// Figures from here on are in powers of ten.
pub const FIXED_BELOW: f64 = 1e9;

/// The same behind a text. Tables of a hundred thousand rows are made of little else: where no rounding
/// is close, whole hundredths are written, an eighth of the time that `{:.2}` takes.
pub fn push_decimal(figure: f64, text: &mut String) {
    let hundredths = figure * 100.0;
    let is_close = (hundredths.fract() - 0.5).abs() < 1e-3;
    // Writing to a string cannot fail.
    let _ = match figure {
        0.0..FIXED_BELOW if figure.is_sign_positive() && !is_close => {
            let mut digits = *b"0000000000.00";
            let mut rest = (hundredths + 0.5) as u64;
            let mut start = digits.len();
            while rest > 0 || start > digits.len() - 4 {
                // Over the point between the second digit and the third.
                start -= if start == digits.len() - 2 { 2 } else { 1 };
                digits[start] = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
            text.push_str(str::from_utf8(&digits[start..]).unwrap_or_default());
            Ok(())
        }
        _ if figure > -FIXED_BELOW && figure < FIXED_BELOW => write!(text, "{figure:.2}"),
        _ => write!(text, "{figure:.2e}"),
    };
}

/// `1 row`, `2 rows`, `12,345 rows`.
pub fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(number))
}

/// `12,345`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `batch_size` as `Batch Size`.
pub fn title(key: &str) -> String {
    let words = key.split('_').filter(|word| !word.is_empty());
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>())
    };
    words.filter_map(capital).collect::<Vec<_>>().join(" ")
}

/// A configuration value as a person writes it: texts without quotes.
pub fn scalar(value: Option<&serde_json::Value>) -> Cow<'_, str> {
    match value {
        None | Some(serde_json::Value::Null) => Cow::Borrowed(UNKNOWN),
        Some(serde_json::Value::String(text)) => Cow::Borrowed(text),
        Some(other) => Cow::Owned(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::strategy::Strategy;

    #[test]
    fn what_cannot_be_seen_is_made_visible() {
        assert_eq!(visible("cpu", 10), "cpu");
        assert_eq!(visible("é漢字 عربي", 20), "é漢字 عربي");
        assert_eq!(
            visible("a\u{1b}[31mb\u{202e}c\nd\u{200b}", 20),
            "a\u{FFFD}[31mb\u{FFFD}c d\u{FFFD}"
        );
        assert_eq!(visible("c1 \u{9b}31m", 20), "c1 \u{FFFD}31m");
    }

    #[test]
    fn long_names_are_cut_by_characters() {
        assert_eq!(visible("ééééé", 5), "ééééé");
        assert_eq!(visible("éééééé", 5), "éééé…");
        assert_eq!(visible("", 5), "");
    }

    #[test]
    fn figures_have_two_decimals() {
        assert_eq!(decimal(Some(123.456)), "123.46");
        assert_eq!(decimal(Some(0.0)), "0.00");
        assert_eq!(decimal(Some(-0.0)), "-0.00");
        assert_eq!(decimal(Some(999_999_999.999)), "1000000000.00");
        assert_eq!(decimal(Some(1e300)), "1.00e300");
        assert_eq!(decimal(None), "n/a");
    }

    proptest::proptest! {
        #[test]
        fn the_fast_decimals_are_those_of_the_standard_library(
            figure in proptest::prelude::prop_oneof![
                -2e9..2e9f64,
                0.0..100.0f64,
                (0..200_000_000u32).prop_map(|it| f64::from(it) / 1000.0),
                (0..200_000_000u32).prop_map(|it| f64::from(it) / 200.0 + f64::EPSILON),
                proptest::num::f64::NORMAL,
            ],
        ) {
            let expected = match figure.abs() < 1e9 {
                true => format!("{figure:.2}"),
                false => format!("{figure:.2e}"),
            };
            proptest::prop_assert_eq!(decimal(Some(figure)), expected);
        }
    }

    #[test]
    fn counts_and_titles_read_well() {
        assert_eq!(count(1, "row"), "1 row");
        assert_eq!(count(1_234_567, "row"), "1,234,567 rows");
        assert_eq!(title("batch_size"), "Batch Size");
        assert_eq!(title("__x__y"), "X Y");
    }
}
