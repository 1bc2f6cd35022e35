//! Texts of a suite with keys in braces, such as `--epochs {epochs}`.

use serde::Deserialize;
use serde_json::Value;

/// One argument, or several that stand or fall together.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Argument {
    Always(String),
    /// Left out where the row has no value for one of the placeholders.
    IfKnown(Vec<String>),
}

impl Argument {
    pub fn words(&self) -> &[String] {
        match self {
            Argument::Always(word) => std::slice::from_ref(word),
            Argument::IfKnown(words) => words,
        }
    }
}

/// A configuration value as an argument.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The placeholders of a command besides configuration keys.
pub const PLACES: [&str; 7] =
    ["program", "data", "predictions", "model", "backend", "node", "first_node"];

/// The keys in braces in a text.
pub fn placeholders(text: &str) -> Vec<String> {
    let mut named = Vec::new();
    // The lookup knows every key.
    let _ = fill(text, |key| {
        named.push(key.to_owned());
        Some(String::new())
    });
    named
}

/// Replaces `{key}`; `{{` and `}}` stand for braces. The error is the key without a value.
pub fn fill(text: &str, mut lookup: impl FnMut(&str) -> Option<String>) -> Result<String, String> {
    let mut filled = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        filled += &rest[..at];
        let brace = &rest[at..at + 1];
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix(brace) {
            filled += brace;
            rest = after;
        } else if brace == "{"
            && let Some(end) = after.find('}')
        {
            let key = &after[..end];
            filled += &lookup(key).ok_or_else(|| key.to_owned())?;
            rest = &after[end + 1..];
        } else {
            filled += brace;
            rest = after;
        }
    }
    Ok(filled + rest)
}
