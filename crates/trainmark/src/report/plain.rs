//! A result file that says no more than the specification's scripts write, read without serde in a third
//! of the time; of a hundred thousand files that is a tenth of all that reports take. Whatever is unusual,
//! right or wrong, is left to serde, which has the last word: a key more, a key twice, an escape, a sign or
//! an exponent.

use super::headline::Headline;
use crate::report::old_result::Metrics;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Bytes of the longest number that is read here: so long it is finite.
const DIGITS: usize = 30;

/// `None` is no verdict: serde has to look.
pub(super) fn parse(text: &str) -> Option<Headline<'_>> {
    let mut file = Cursor { text, at: 0 };
    let mut headline = Headline::default();
    let mut seen = 0;
    file.object(|file, key| {
        let bit = match key {
            "executable" => {
                headline.executable = Cow::Borrowed(file.string()?);
                1
            }
            "model" => {
                headline.model = Cow::Borrowed(file.string()?);
                2
            }
            "backend" => {
                headline.backend = Cow::Borrowed(file.string()?);
                4
            }
            "metrics" => {
                headline.metrics = file.metrics()?;
                8
            }
            "timestamp" => {
                headline.timestamp = Cow::Borrowed(file.string()?);
                16
            }
            "config" => {
                headline.config = Some(file.flat_object()?);
                32
            }
            "compiled" => {
                headline.compiled = file.boolean()?;
                64
            }
            _ => return None,
        };
        first_time(&mut seen, bit)
    })?;
    let required = seen & 0b1111 == 0b1111;
    (required && file.next().is_none()).then_some(headline)
}

fn first_time(seen: &mut u32, bit: u32) -> Option<()> {
    let is_first = *seen & bit == 0;
    *seen |= bit;
    is_first.then_some(())
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    /// The byte behind white space, which stays.
    fn next(&mut self) -> Option<u8> {
        let rest = self.rest();
        let space = rest.iter().position(|byte| !matches!(byte, b' ' | b'\n' | b'\r' | b'\t'));
        self.at += space.unwrap_or(rest.len());
        rest.get(space?).copied()
    }

    fn take(&mut self, expected: u8) -> Option<()> {
        let found = self.next()? == expected;
        self.at += 1;
        found.then_some(())
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let found = self.rest().starts_with(word.as_bytes());
        self.at += word.len();
        found.then_some(())
    }

    /// Each key with its value, which `value` takes.
    fn object(&mut self, mut value: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        self.take(b'{')?;
        loop {
            let key = self.string()?;
            self.take(b':')?;
            value(self, key)?;
            match self.next()? {
                b',' => self.at += 1,
                b'}' => break,
                _ => return None,
            }
        }
        self.at += 1;
        Some(())
    }

    /// One without an escape.
    fn string(&mut self) -> Option<&'a str> {
        self.take(b'"')?;
        let rest = self.rest();
        let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..b' '))?;
        let string = self.text.get(self.at..self.at + end)?;
        self.at += end + 1;
        (rest[end] == b'"').then_some(string)
    }

    fn boolean(&mut self) -> Option<bool> {
        match self.next()? {
            b't' => self.word("true").map(|()| true),
            _ => self.word("false").map(|()| false),
        }
    }

    /// A number without sign and exponent, or null.
    fn figure(&mut self) -> Option<Option<f64>> {
        if self.next()? == b'n' {
            return self.word("null").map(|()| None);
        }
        let rest = self.rest();
        let length = |from: usize| {
            let digits = rest[from..].iter().take(DIGITS).take_while(|byte| byte.is_ascii_digit());
            digits.count()
        };
        let mut end = length(0);
        let whole = end == 1 || (end > 1 && rest[0] != b'0');
        if rest.get(end) == Some(&b'.') {
            let decimals = length(end + 1);
            end = if decimals > 0 { end + 1 + decimals } else { return None };
        }
        let figure = self.text.get(self.at..self.at + end).filter(|_| whole && end <= DIGITS)?;
        self.at += end;
        Some(Some(figure.parse().ok()?))
    }

    fn metrics(&mut self) -> Option<Metrics> {
        let mut metrics = Metrics::default();
        let mut seen = 0;
        self.object(|file, key| {
            let (figure, bit) = match key {
                "training_time_seconds" => (&mut metrics.training_time_seconds, 1),
                "peak_memory_mb" => (&mut metrics.peak_memory_mb, 2),
                "test_accuracy_percent" => (&mut metrics.test_accuracy_percent, 4),
                _ => return None,
            };
            *figure = file.figure()?;
            first_time(&mut seen, bit)
        })?;
        Some(metrics)
    }

    /// An object to its first closing brace, as text: if that closed another one, or stood in a string,
    /// it would not be JSON.
    fn flat_object(&mut self) -> Option<&'a RawValue> {
        (self.next()? == b'{').then_some(())?;
        let end = self.at + memchr::memchr(b'}', self.rest())? + 1;
        let object = serde_json::from_str(self.text.get(self.at..end)?).ok()?;
        self.at = end;
        Some(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILE: &str = r#"{
        "executable": "MNISTClassic", "model": "mlp", "backend": "cpu", "compiled": true,
        "timestamp": "20240315_143022", "config": {"epochs": 5, "note": "é"},
        "metrics": {"training_time_seconds": 123.45, "peak_memory_mb": null,
                    "test_accuracy_percent": 95}
    }
    "#;

    fn by_serde(text: &str) -> Option<Headline<'_>> {
        serde_json::from_str(text).ok()
    }

    #[test]
    fn the_specifications_files_are_read() {
        let headline = parse(FILE).unwrap();
        assert_eq!(format!("{headline:?}"), format!("{:?}", by_serde(FILE).unwrap()));
    }

    #[test]
    fn what_is_unusual_is_left_to_serde() {
        for (from, to) in [
            ("\"mlp\"", "\"m\\u006cp\""),
            ("\"mlp\",", "\"mlp\", \"model\": \"x\","),
            ("\"mlp\",", "\"mlp\", \"schema_version\": 1,"),
            ("\"model\": \"mlp\", ", ""),
            ("\"é\"", "\"}\""),
            ("\"é\"", "{}"),
            ("\"é\"", "é"),
            ("123.45", "-1"),
            ("123.45", "1e5"),
            ("123.45", "01"),
            ("123.45", "1."),
            ("123.45", ".5"),
            ("123.45", "\"1\""),
            ("123.45", "1000000000000000000000000000000"),
            ("true", "1"),
            ("\n    }\n", "\n    }}\n"),
            ("\n    }\n", ""),
        ] {
            assert!(FILE.contains(from), "{from}");
            assert!(parse(&FILE.replacen(from, to, 1)).is_none(), "{to}");
        }
        for end in 0..FILE.trim_ascii_end().len() {
            assert!(FILE.get(..end).is_none_or(|text| parse(text).is_none()), "{end}");
        }
    }

    proptest! {
        /// Bytes put in, out or in place of others anywhere, and any figure.
        #[test]
        fn what_is_read_is_what_serde_reads(
            figure in any::<f64>().prop_map(|it| it.abs().to_string()),
            at in 0..FILE.len(),
            put in "[ -~\n]{0,3}",
            without in 0..3usize,
        ) {
            let mut texts = vec![FILE.replace("123.45", &figure)];
            if let (Some(start), Some(end)) = (FILE.get(..at), FILE.get(at + without..)) {
                texts.push(format!("{start}{put}{end}"));
            }
            for text in texts {
                if let Some(headline) = parse(&text) {
                    let expected = by_serde(&text);
                    prop_assert!(expected.is_some(), "{}", text);
                    prop_assert_eq!(format!("{headline:?}"), format!("{:?}", expected.unwrap()));
                }
            }
        }
    }
}
