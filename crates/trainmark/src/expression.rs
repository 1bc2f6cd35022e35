//! Arithmetic over configuration keys, as suites write it: `{steps} * {batch_size}`. Numbers, keys in
//! braces, `+ - * / ^` and parentheses, with the usual precedence.

use anyhow::{Context, Result, anyhow, ensure};
use exmex::{Express, FlatEx};
use regex::{Captures, Regex};
use serde::Deserialize;
use serde_json::{Map, Value};

/// An expression that has been parsed.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Value")]
pub struct Expression(Box<FlatEx<f64>>); // half a kilobyte and more, moved often while a suite is read

impl TryFrom<Value> for Expression {
    type Error = anyhow::Error;

    fn try_from(value: Value) -> Result<Expression> {
        match value {
            Value::String(text) => Expression::parse(&text),
            other => Expression::parse(&other.to_string()),
        }
    }
}

impl Expression {
    /// # Errors
    /// If it is none.
    pub fn parse(text: &str) -> Result<Expression> {
        // The parser knows no `124e6`; within braces it would be a part of a name.
        let powers = Regex::new(r"\{[^}]*\}|\d+\.?\d*[eE][+-]?\d+")?;
        let plain = powers.replace_all(text, |found: &Captures| match found[0].parse::<f64>() {
            Ok(number) => number.to_string(),
            Err(_) => found[0].to_owned(),
        });
        let unread = |why: &str| anyhow!("the expression {text:?} cannot be read: {why}");
        let parsed = FlatEx::parse(&plain).map_err(|error| unread(error.msg()))?;
        // A name outside of braces is more likely a key that lacks them.
        match parsed.var_names().iter().find(|name| !text.contains(&format!("{{{name}}}"))) {
            Some(name) => Err(unread(&format!("did you mean {{{name}}}?"))),
            None => Ok(Expression(Box::new(parsed))),
        }
    }

    /// Its value for a row.
    ///
    /// # Errors
    /// If it names a key that is no number there, or the value is not finite.
    pub fn value(&self, config: &Map<String, Value>) -> Result<f64> {
        let number = |key: &String| {
            let number = config.get(key).and_then(Value::as_f64);
            number.with_context(|| format!("{{{key}}} is not a number"))
        };
        let numbers = self.0.var_names().iter().map(number).collect::<Result<Vec<f64>>>()?;
        let value = self.0.eval(&numbers).map_err(|error| anyhow!(error.msg().to_owned()))?;
        ensure!(value.is_finite(), "its value is {value}");
        Ok(value)
    }

    /// The keys that it names.
    pub fn keys(&self) -> Vec<&str> {
        self.0.var_names().iter().map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn value(text: &str) -> Result<f64, String> {
        let Value::Object(config) = json!({"steps": 300, "batch_size": 16, "name": "x"}) else {
            unreachable!()
        };
        let value = Expression::parse(text).and_then(|it| it.value(&config));
        value.map_err(|error| error.to_string())
    }

    #[test]
    fn it_computes_as_one_would_by_hand() {
        for (text, expected) in [
            ("{steps} * {batch_size}", 4800.0),
            ("2 + 3 * 4 - 6 / 2", 11.0),
            ("(2 + 3) * -4", -20.0),
            ("2 ^ 3", 8.0),
            ("10 - 3 - 2", 5.0),
            ("6e3 + 1.5e-1 * 10000", 7500.0),
        ] {
            assert_eq!(value(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn it_says_where_it_cannot_be_read_and_which_key_is_no_number() {
        for text in ["", "2 +", "(2", "2 3", "{steps", "steps", "2 // 3", "import os"] {
            assert!(
                Expression::parse(text).unwrap_err().to_string().contains("cannot be read"),
                "{text}"
            );
        }
        assert!(value("{epochs} * 2").unwrap_err().contains("{epochs}"));
        assert!(value("{name}").is_err());
        assert!(value("1 / 0").is_err());
        assert_eq!(Expression::parse("{a}*({b}+1)").unwrap().keys(), ["a", "b"]);
    }
}
