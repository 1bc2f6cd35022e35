//! Names and figures as text that can break nothing: neither a table nor a terminal.

pub use measure::text::{is_deceptive, visible};
pub use record::number::{UNKNOWN, count, decimal, digits, three_digits};
use serde::Serialize;
use serde_json::Value;
use std::borrow::Cow;
use unicode_width::UnicodeWidthStr;

/// From almost nothing to all.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A bar for each value, from the smallest to the largest; `?` where there is none.
pub(crate) fn bars(values: &[Option<f64>]) -> Vec<char> {
    let known = || values.iter().flatten().copied();
    let (low, high) = (known().reduce(f64::min), known().reduce(f64::max));
    let (low, spread) = (low.unwrap_or(0.0), high.zip(low).map_or(0.0, |(high, low)| high - low));
    let bar = |value: &Option<f64>| match value {
        None => '?',
        Some(value) if spread > 0.0 => BARS[((value - low) / spread * 7.0).round() as usize],
        Some(_) => BARS[3],
    };
    values.iter().map(bar).collect()
}

/// Columns of a terminal or a fixed-width font.
pub fn width(text: &str) -> usize {
    match text.bytes().fold(true, |it, byte| it & matches!(byte, b' '..=b'~')) {
        true => text.len(),
        false => text.width(),
    }
}

/// A text cut to so many columns.
pub fn fitted(label: &str, columns: usize) -> Cow<'_, str> {
    ::console::truncate_str(label, columns, "…")
}

/// A round figure without digits that say nothing: `0.05`, `20`, `1e9`.
pub fn short(figure: f64) -> String {
    let round: f64 = format!("{figure:.5e}").parse().unwrap_or(figure);
    match figure == 0.0 || (1e-4..1e6).contains(&figure.abs()) {
        true => round.to_string(),
        false => format!("{round:e}"),
    }
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
pub fn scalar(value: Option<&Value>) -> Cow<'_, str> {
    match value {
        None | Some(Value::Null) => Cow::Borrowed(UNKNOWN),
        Some(Value::String(text)) => Cow::Borrowed(text),
        Some(other) => Cow::Owned(other.to_string()),
    }
}

/// A thing's facts by their names, whichever it has: nested ones by their path, sizes in their units.
pub(crate) fn facts(of: &impl Serialize) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    collect("", &serde_json::to_value(of).unwrap_or_default(), &mut facts);
    facts
}

fn collect(path: &str, value: &Value, facts: &mut Vec<(String, String)>) {
    let text = match value {
        Value::Null => return,
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path} {key}") };
                collect(&path, value, facts);
            }
            return;
        }
        Value::Array(values) if values.is_empty() => return,
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(|it| scalar(Some(it))).collect();
            values.join(if path == "command" { " " } else { ", " })
        }
        Value::Number(bytes) if path.ends_with("_bytes") => {
            files::size(bytes.as_f64().unwrap_or(0.0) as u64)
        }
        Value::Number(number) if number.is_f64() => short(number.as_f64().unwrap_or(0.0)),
        value => scalar(Some(value)).into_owned(),
    };
    facts.push((path.trim_end_matches("_bytes").to_owned(), text));
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn long_labels_are_cut_by_their_width() {
        assert_eq!(fitted("abcdef", 6), "abcdef");
        assert_eq!(fitted("abcdefg", 6), "abcde…");
        assert_eq!(width(&fitted("漢漢漢漢", 6)), 5);
    }

    #[test]
    fn titles_read_well() {
        assert_eq!(title("batch_size"), "Batch Size");
        assert_eq!(title("__x__y"), "X Y");
    }

    #[test]
    fn every_fact_of_a_machine_is_shown_whatever_it_is_called() {
        let machine = serde_json::json!({
            "cpu": "c", "memory_bytes": 25_769_803_776u64, "gpus": ["a", "b"], "none": null,
            "caches": {"l1_bytes": 49152}, "empty": [],
        });
        let shown: Vec<_> =
            facts(&machine).iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(shown, ["cpu=c", "memory=25.77 GB", "gpus=a, b", "caches l1=49152 bytes"]);
    }
}
