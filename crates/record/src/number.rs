//! Numbers as text, with only the digits that are meaningful.

use std::borrow::Cow;

/// Bytes in the megabyte of `peak_memory_mb`.
pub const MEGABYTE: f64 = 1e6;

/// Stands for a figure or a name that is not known. Readers of tables know it as missing.
pub const UNKNOWN: &str = "n/a";

/// A figure with two decimals, as the specification prints it; with three digits where two decimals
/// would lose them, and in powers of ten where that would not fit a table.
pub fn decimal(figure: Option<f64>) -> String {
    match figure {
        None => UNKNOWN.to_owned(),
        Some(figure) if figure != 0.0 && figure.abs() < 0.095 => three_digits(figure),
        Some(figure) if figure.abs() < 1e9 => format!("{figure:.2}"),
        Some(figure) => format!("{figure:.2e}"),
    }
}

/// A figure with the digits that say something: four, of less than 1 three. `463,800`.
pub fn digits(figure: f64) -> String {
    match figure.abs() {
        size if !(1.0..1e9).contains(&size) => three_digits(figure),
        size if size >= 1e3 => {
            let sign = if figure < 0.0 { "-" } else { "" };
            let round: f64 = format!("{size:.3e}").parse().unwrap_or(size);
            format!("{sign}{}", grouped(round as usize))
        }
        size => {
            let decimals = 3 - size.log10().floor() as usize;
            format!("{figure:.decimals$}")
        }
    }
}

/// A measured figure with three digits.
pub fn three_digits(figure: f64) -> String {
    match figure.abs() {
        0.0 => "0".to_owned(),
        size if !(1e-4..1e6).contains(&size) => format!("{figure:.2e}"),
        size => {
            let decimals = (2 - size.log10().floor() as i32).clamp(0, 6) as usize;
            format!("{figure:.decimals$}")
        }
    }
}

/// The number with the fewest digits that is the same to 15, which every decimal number that was measured has
/// at most: 1.5514860000000001 is a sum of 1.5 and 0.051486.
pub fn tidy(figure: f64) -> f64 {
    format!("{figure:.14e}").parse().unwrap_or(figure)
}

/// A commit or another digest as people read it: twelve digits, the mark of a changed tree kept. Other texts stay.
pub fn short_digest(text: &str) -> Cow<'_, str> {
    let digest = text.trim_end_matches("-dirty");
    match digest.len() >= 40 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Cow::Owned(format!("{}{}", &digest[..12], &text[digest.len()..])),
        false => Cow::Borrowed(text),
    }
}

/// One unit of the last digit of a figure that is not 0, or of the second if there is but one before zeros.
pub fn grain(figure: f64) -> f64 {
    let text = figure.to_string();
    let whole = text.trim_end_matches('0');
    let exponent = match text.split_once('.') {
        Some((_, decimals)) => -(decimals.len() as i32),
        None if figure == 0.0 => 0,
        None => (text.len() - whole.len()) as i32,
    };
    let unit = 10_f64.powi(exponent);
    if exponent > 0 { unit.min(figure.abs() / 10.0) } else { unit }
}

/// `1 row`, `2 rows`, `12,345 rows`.
pub fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(number))
}

/// Some of many, and how many more there are.
pub fn first_few(all: &[impl AsRef<str>], few: usize, between: &str) -> String {
    let mut shown: Vec<String> = all.iter().take(few).map(|it| it.as_ref().to_owned()).collect();
    shown.extend(all.len().checked_sub(few + 1).map(|more| format!("and {} more", more + 1)));
    shown.join(between)
}

/// `12,345`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_as_many_digits_as_say_something() {
        assert_eq!(decimal(Some(123.456)), "123.46");
        assert_eq!(decimal(Some(0.1)), "0.10");
        assert_eq!(decimal(Some(0.0)), "0.00");
        assert_eq!(decimal(Some(0.01234)), "0.0123");
        assert_eq!(decimal(Some(999_999_999.999)), "1000000000.00");
        assert_eq!(decimal(Some(1e300)), "1.00e300");
        assert_eq!(decimal(None), "n/a");
        for (figure, shown) in [
            (0.0, "0"),
            (0.38217, "0.382"),
            (2.6349, "2.635"),
            (123.456, "123.5"),
            (1234.6, "1,235"),
            (463_768.12, "463,800"),
            (-12_345.6, "-12,350"),
            (2e9, "2.00e9"),
        ] {
            assert_eq!(digits(figure), shown);
        }
    }

    #[test]
    fn a_number_has_the_digits_that_were_measured() {
        for (figure, text) in [
            (1.5 + 0.051486, "1.551486"),
            (0.1 + 0.2, "0.3"),
            (1e308, "1e308"),
            (-2.5e-9, "-2.5e-9"),
            (123_456_789.123_456, "123456789.123456"),
        ] {
            assert_eq!(tidy(figure), text.parse::<f64>().unwrap(), "{text}");
        }
    }

    #[test]
    fn the_last_digit_of_a_figure_says_how_well_it_is_known() {
        assert_eq!([12.34, 12.0, 1200.0, 1000.0, 0.0].map(grain), [0.01, 1.0, 100.0, 100.0, 1.0]);
    }

    #[test]
    fn a_digest_has_twelve_digits_for_people_and_another_text_all_its_letters() {
        let commit = "0579ddec2319080a6076bc04c84744c954a54ae3";
        assert_eq!(short_digest(commit), "0579ddec2319");
        assert_eq!(short_digest(&format!("{commit}-dirty")), "0579ddec2319-dirty");
        assert_eq!(short_digest(&"a9".repeat(32)), "a9a9a9a9a9a9");
        for other in ["6d8ca6d", "", "x".repeat(50).as_str()] {
            assert_eq!(short_digest(other), other);
        }
    }

    #[test]
    fn counts_read_well() {
        assert_eq!(count(1, "row"), "1 row");
        assert_eq!(count(1_234_567, "row"), "1,234,567 rows");
    }
}
