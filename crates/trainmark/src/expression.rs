//! Arithmetic over configuration keys, as suites write it: `{steps} * {batch_size}`. Numbers, keys in
//! braces, `+ - * / **` and parentheses, with the usual precedence.

use serde::Deserialize;
use serde_json::{Map, Value};

/// An expression that has been parsed.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Value")]
pub struct Expression(Node);

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Number(f64),
    Key(String),
    Operation(char, Box<Node>, Box<Node>),
}

/// `**` while it is parsed.
const POWER: char = '^';

impl TryFrom<Value> for Expression {
    type Error = String;

    fn try_from(value: Value) -> Result<Expression, String> {
        match value {
            Value::Number(number) => {
                Ok(Expression(Node::Number(number.as_f64().unwrap_or(f64::NAN))))
            }
            Value::String(text) => Expression::parse(&text),
            other => Err(format!("{other} is no expression")),
        }
    }
}

impl Expression {
    /// # Errors
    /// If it is none; the message shows where.
    pub fn parse(text: &str) -> Result<Expression, String> {
        let mut parser = Parser { rest: text.trim_start() };
        let node = parser.sum(0).and_then(|node| match parser.rest {
            "" => Ok(node),
            _ => Err("something else"),
        });
        node.map(Expression).map_err(|wanted| {
            let at = if parser.rest.is_empty() { "the end" } else { parser.rest };
            format!("the expression {text:?} cannot be read at {at:?}: expected {wanted}")
        })
    }

    /// Its value for a row.
    ///
    /// # Errors
    /// If it names a key that is no number there, or the value is not finite.
    pub fn value(&self, config: &Map<String, Value>) -> Result<f64, String> {
        let value = self.0.value(config)?;
        value.is_finite().then_some(value).ok_or_else(|| format!("its value is {value}"))
    }

    /// The keys that it names.
    pub fn keys(&self) -> Vec<&str> {
        let mut keys = Vec::new();
        self.0.add_keys(&mut keys);
        keys
    }
}

impl Node {
    fn value(&self, config: &Map<String, Value>) -> Result<f64, String> {
        match self {
            Node::Number(number) => Ok(*number),
            Node::Key(key) => {
                let number = config.get(key).and_then(Value::as_f64);
                number.ok_or_else(|| format!("{{{key}}} is no number here"))
            }
            Node::Operation(operator, left, right) => {
                let (left, right) = (left.value(config)?, right.value(config)?);
                Ok(match operator {
                    '+' => left + right,
                    '-' => left - right,
                    '*' => left * right,
                    '/' => left / right,
                    _ => left.powf(right),
                })
            }
        }
    }

    fn add_keys<'a>(&'a self, keys: &mut Vec<&'a str>) {
        match self {
            Node::Number(_) => {}
            Node::Key(key) => keys.push(key),
            Node::Operation(_, left, right) => {
                left.add_keys(keys);
                right.add_keys(keys);
            }
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    /// Operations that bind at least so tightly.
    fn sum(&mut self, least: u8) -> Result<Node, &'static str> {
        let mut left = self.operand()?;
        while let Some((operator, binding)) = self.operator().filter(|it| it.1 >= least) {
            self.take(if operator == POWER { 2 } else { 1 });
            // Only powers group from the right.
            let right = self.sum(if operator == POWER { binding } else { binding + 1 })?;
            left = Node::Operation(operator, Box::new(left), Box::new(right));
        }
        Ok(left)
    }

    fn operator(&self) -> Option<(char, u8)> {
        match self.rest.chars().next()? {
            '*' if self.rest.starts_with("**") => Some((POWER, 3)),
            operator @ ('*' | '/') => Some((operator, 2)),
            operator @ ('+' | '-') => Some((operator, 1)),
            _ => None,
        }
    }

    fn operand(&mut self) -> Result<Node, &'static str> {
        match self.rest.chars().next() {
            Some('(') => {
                self.take(1);
                let node = self.sum(0)?;
                let closed = self.rest.starts_with(')');
                closed.then(|| self.take(1)).ok_or("`)`")?;
                Ok(node)
            }
            Some('-') => {
                self.take(1);
                let zero = Box::new(Node::Number(0.0));
                Ok(Node::Operation('-', zero, Box::new(self.sum(2)?)))
            }
            Some('{') => {
                let end = self.rest.find('}').ok_or("`}`")?;
                let key = self.take(end + 1);
                Ok(Node::Key(key[1..end].trim().to_owned()))
            }
            _ => {
                let exponent = |at: usize| self.rest[..at].ends_with(['e', 'E']);
                let part = |(at, c): (usize, char)| {
                    c.is_ascii_alphanumeric()
                        || matches!(c, '.' | '_')
                        || ("+-".contains(c) && exponent(at))
                };
                let end = self.rest.char_indices().find(|&next| !part(next)).map(|(at, _)| at);
                let number = self.rest[..end.unwrap_or(self.rest.len())].replace('_', "");
                let number = number.parse().map_err(|_| "a number, a {key} or `(`")?;
                self.take(end.unwrap_or(self.rest.len()));
                Ok(Node::Number(number))
            }
        }
    }

    /// So many bytes, and the blanks behind them.
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest.trim_start();
        taken
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
        Expression::parse(text)?.value(&config)
    }

    #[test]
    fn it_computes_as_one_would_by_hand() {
        for (text, expected) in [
            ("{steps} * {batch_size}", 4800.0),
            ("2 + 3 * 4 - 6 / 2", 11.0),
            ("(2 + 3) * -4", -20.0),
            ("2 ** 3 ** 2", 512.0),
            ("-2 ** 2 + 10 - 3 - 2", 1.0),
            ("6e3 + 1.5e-1 * 10_000", 7500.0),
        ] {
            assert_eq!(value(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn it_says_where_it_cannot_be_read_and_which_key_is_no_number() {
        for text in ["", "2 +", "(2", "2 3", "{steps", "steps", "2 // 3", "import os"] {
            assert!(Expression::parse(text).unwrap_err().contains("cannot be read"), "{text}");
        }
        assert!(value("{epochs} * 2").unwrap_err().contains("{epochs}"));
        assert!(value("{name}").is_err());
        assert!(value("1 / 0").is_err());
        assert_eq!(Expression::parse("{a}*({b}+1)").unwrap().keys(), ["a", "b"]);
    }
}
