//! Names and figures as text that can break nothing: neither a table nor a terminal.

pub use measure::text::{is_deceptive, visible};
pub use record::number::{UNKNOWN, count, decimal, digits, three_digits};
use serde::Serialize;
use serde_json::Value;
use std::borrow::Cow;
use unicode_width::UnicodeWidthStr;

/// From almost nothing to all.
pub(crate) const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Columns of a terminal or a fixed-width font.
pub fn width(text: &str) -> usize {
    match text.bytes().fold(true, |it, byte| it & matches!(byte, b' '..=b'~')) {
        true => text.len(),
        false => text.width(),
    }
}

/// A text cut to so many columns.
pub fn fitted(label: &str, columns: usize) -> String {
    if width(label) <= columns {
        return label.to_owned();
    }
    let mut cut = String::new();
    for c in label.chars() {
        cut.push(c);
        if width(&cut) >= columns {
            cut.pop();
            break;
        }
    }
    cut + "…"
}

/// A round figure without digits that say nothing: `0.05`, `20`, `1e9`.
pub fn short(figure: f64) -> String {
    match figure.abs() {
        0.0 => "0".to_owned(),
        size if !(1e-4..1e6).contains(&size) => {
            format!("{figure:e}").split_once('e').map_or_else(String::new, |(digits, power)| {
                let digits: f64 = digits.parse().unwrap_or(0.0);
                format!("{}e{power}", (digits * 100.0).round() / 100.0)
            })
        }
        size => {
            let decimals = (3 - size.log10().floor() as i32).clamp(0, 7) as usize;
            let text = format!("{figure:.decimals$}");
            match text.contains('.') {
                true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
                false => text,
            }
        }
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
        Value::Number(bytes) if path.ends_with("_bytes") => size(bytes.as_f64().unwrap_or(0.0)),
        value => scalar(Some(value)).into_owned(),
    };
    facts.push((path.trim_end_matches("_bytes").to_owned(), text));
}

fn size(bytes: f64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.iter().find(|(_, power)| bytes >= f64::from(1u32 << power));
    unit.map_or(format!("{bytes} bytes"), |(unit, power)| {
        format!("{} {unit}", three_digits(bytes / f64::from(1u32 << power)))
    })
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
        assert_eq!(shown, ["cpu=c", "memory=24.0 GiB", "gpus=a, b", "caches l1=48.0 KiB"]);
    }
}
