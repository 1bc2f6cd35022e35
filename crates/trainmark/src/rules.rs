//! Rules by which a suite reads what programs print that know nothing of it: regular expressions with
//! named groups (`read`), and paths into lines of JSON (`read_json`).

use crate::printed::{Fact, Printed};
use crate::task::Task;
use anstream::adapter::strip_str;
use anyhow::{Context, Result, anyhow, ensure};
use regex::Regex;
use serde_json::Value;
use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeMap;

/// One expression or path.
#[derive(Debug)]
struct Rule {
    shown: String,
    how: How,
    /// One for each named group of an expression; the one that a path leads to.
    facts: Vec<Fact>,
    matched: bool,
}

#[derive(Debug)]
enum How {
    Expression(Regex),
    /// A JSON pointer (RFC 6901).
    Json(String),
}

/// A trainer's rules, and which of them have matched.
#[derive(Debug, Default)]
pub struct Rules(Vec<Rule>);

/// What a rule finds under a name.
fn fact(name: &str, task: &Task) -> Result<Fact> {
    if task.metrics.contains_key(name) {
        return Ok(Fact::Metric(name.to_owned()));
    }
    let known = Fact::of_rules();
    let fact = known.iter().find(|(_, known)| *known == name).map(|(fact, _)| fact.clone());
    fact.with_context(|| {
        let names: Vec<&str> = known.iter().map(|(_, name)| *name).collect();
        let (metrics, names) = (task.names(), names.join(", "));
        format!("{name:?} is not a metric of the task ({metrics}), and not one of {names}")
    })
}

/// A regular expression, or in one line why it is none: the lines before the last of that error draw the place.
///
/// # Errors
/// If it is none.
pub fn regex(text: &str) -> Result<Regex> {
    Regex::new(text).map_err(|error| {
        let said = error.to_string();
        let last = said.lines().last().unwrap_or_default();
        anyhow!(last.trim_start_matches("error: ").to_owned())
    })
}

impl Rules {
    /// # Errors
    /// If one is no expression, or finds nothing that there is.
    pub fn new(
        read: &[String],
        read_json: &BTreeMap<String, String>,
        task: &Task,
    ) -> Result<Rules> {
        let expression = |text: &String| {
            let named = || format!("the rule '{text}'");
            let regex = regex(text).with_context(named)?;
            let facts = regex.capture_names().flatten().map(|name| fact(name, task));
            let facts = facts.collect::<Result<Vec<_>>>().with_context(named)?;
            let any = !facts.is_empty();
            ensure!(any, "the rule '{text}' has no named group such as `(?<loss>\\S+)`");
            let how = How::Expression(regex);
            Ok(Rule { shown: text.clone(), how, facts, matched: false })
        };
        let path = |(name, path): (&String, &String)| {
            let fact = fact(name, task).context("read_json")?;
            let escaped = path.replace('~', "~0").replace('/', "~1");
            let keys = escaped.trim_start_matches('$').split(['.', '[', ']']);
            let pointer = keys.filter(|key| !key.is_empty()).map(|key| format!("/{key}")).collect();
            let (shown, how) = (format!("{name} = {path}"), How::Json(pointer));
            Ok(Rule { shown, how, facts: vec![fact], matched: false })
        };
        let rules = read.iter().map(expression).chain(read_json.iter().map(path));
        Ok(Rules(rules.collect::<Result<_, _>>()?))
    }

    /// Whether any of them finds that metric.
    pub fn read(&self, metric: &str) -> bool {
        let is = |fact: &Fact| matches!(fact, Fact::Metric(name) if name == metric);
        self.0.iter().flat_map(|rule| &rule.facts).any(is)
    }

    /// All that a line says.
    ///
    /// # Errors
    /// If what stands in a number's place is none.
    pub fn line(&mut self, line: &str) -> Result<Vec<(Fact, Printed)>, String> {
        let mut found = Vec::new();
        let json: OnceCell<Option<Value>> = OnceCell::new();
        let parse = || serde_json::from_str(line).ok().filter(Value::is_object);
        for Rule { shown, how, facts, matched } in &mut self.0 {
            let mut add = |fact: &Fact, text: &str| {
                *matched = true;
                let printed =
                    text.parse().map_err(|error| format!("the rule '{shown}': {error}"))?;
                found.push((fact.clone(), printed));
                Ok::<(), String>(())
            };
            match how {
                How::Expression(regex) => {
                    for captures in regex.captures_iter(line) {
                        for fact in facts.iter() {
                            if let Some(group) = captures.name(fact.name()) {
                                add(fact, group.as_str())?;
                            }
                        }
                    }
                }
                How::Json(pointer) => {
                    match json.get_or_init(parse).as_ref().and_then(|it| it.pointer(pointer)) {
                        None | Some(Value::Null) => {}
                        Some(Value::String(text)) => add(&facts[0], text)?,
                        Some(other) => add(&facts[0], &other.to_string())?,
                    }
                }
            }
        }
        Ok(found)
    }

    /// Whether there are any.
    pub fn any(&self) -> bool {
        !self.0.is_empty()
    }

    /// Those that have matched no line.
    pub fn idle(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|rule| !rule.matched).map(|rule| rule.shown.as_str())
    }
}

/// A line without the sequences that colour it or name the window.
pub fn plain(line: &str) -> Cow<'_, str> {
    match line.contains(['\x1b', '\x08', '\x07']) {
        true => Cow::Owned(strip_str(line).to_string()),
        false => Cow::Borrowed(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::Suite;

    fn rules(read: &str) -> Result<Rules, String> {
        let text = format!(
            "name = \"s\"\n[task]\nname = \"t\"\n[task.metrics.bpc]\nbetter = \"lower\"\n[[trainers]]\nname = \"T\"\n\
             program = \"p\"\ncommand = [\"p\"]\nbackends = [\"cpu\"]\nmodels.m = {{ prefix = \"m\" }}\n{read}"
        );
        let suite = Suite::parse(&text, "s.toml").map_err(|error| format!("{error:#}"))?;
        suite.rules(&suite.trainers[0]).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn named_groups_find_numbers_and_keep_their_grain() {
        let mut rules =
            rules(r"read = ['step (?<step>\d+): bpc (?<bpc>\S+)', 'never (?<loss>\S+)']").unwrap();
        let found = rules.line("step 20: bpc 3.25,").unwrap();
        assert_eq!(found[0], (Fact::Step, Printed { value: 20.0, grain: 1.0 }));
        assert_eq!(found[1], (Fact::Metric("bpc".into()), Printed { value: 3.25, grain: 0.01 }));
        assert_eq!(rules.idle().collect::<Vec<_>>(), [r"never (?<loss>\S+)"]);
        assert!(rules.line("step 3: bpc high").unwrap_err().contains("\"high\" is not a number"));
    }

    #[test]
    fn paths_find_numbers_in_lines_of_json() {
        let mut rules =
            rules("read_json = { bpc = \"$.eval.bpc\", loss = \"losses[1]\" }").unwrap();
        let found = rules.line(r#"{"eval": {"bpc": 3.5}, "losses": [1, "0.25"]}"#).unwrap();
        assert_eq!(found.iter().map(|it| it.1.value).collect::<Vec<_>>(), [3.5, 0.25]);
        assert!(rules.line("{'bpc': 1}").unwrap().is_empty());
        assert!(rules.line(r#"{"eval": 3}"#).unwrap().is_empty());
    }

    #[test]
    fn a_rule_that_can_find_nothing_is_refused() {
        assert!(
            rules(r"read = ['(?<bpx>\S+)']")
                .unwrap_err()
                .contains("not a metric of the task (bpc)")
        );
        assert!(rules("read = ['no group']").unwrap_err().contains("no named group"));
        assert!(rules("read = ['(?<loss>']").unwrap_err().contains("unclosed group"));
    }

    #[test]
    fn colours_and_window_titles_are_no_part_of_a_line() {
        assert_eq!(plain("\x1b[1m10/10\x1b[0m \x1b[32m==\x1b[0m"), "10/10 ==");
        assert_eq!(plain("\x1b]0;training\x07loss: 1"), "loss: 1");
        assert_eq!(plain("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\"), "link");
    }
}
