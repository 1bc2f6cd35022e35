//! Rules by which a suite reads what programs print that know nothing of it: regular expressions with
//! named groups (`read`), and paths into lines of JSON (`read_json`).

use crate::facts::Fact;
use crate::printed::Printed;
use crate::task::Task;
use anstream::adapter::strip_str;
use regex::Regex;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The kinds of values that a rule can find in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Loss,
    Step,
    /// A position, whole or not.
    Epoch,
    /// Seconds of the epoch that ends here.
    EpochS,
    Fact(Fact),
}

impl Found {
    fn of(name: &str, task: &Task) -> Result<Found, String> {
        Ok(match name {
            "loss" => Found::Loss,
            "step" => Found::Step,
            "epoch" => Found::Epoch,
            "epoch_s" => Found::EpochS,
            "train_s" => Found::Fact(Fact::TrainS),
            "setup_s" => Found::Fact(Fact::SetupS),
            "compile_s" => Found::Fact(Fact::CompileS),
            "eval_s" => Found::Fact(Fact::EvalS),
            "work" => Found::Fact(Fact::Work),
            "device_peak_bytes" => Found::Fact(Fact::DevicePeakBytes),
            name if task.metrics.contains_key(name) => Found::Fact(Fact::Metric(name.to_owned())),
            name => {
                return Err(format!(
                    "{name:?} is not a metric of the task ({}), and not one of loss, step, epoch, epoch_s, \
                     train_s, setup_s, compile_s, eval_s, work, device_peak_bytes",
                    task.names()
                ));
            }
        })
    }
}

/// One expression or path.
#[derive(Debug)]
struct Rule {
    shown: String,
    how: How,
    matched: bool,
}

#[derive(Debug)]
enum How {
    Expression(Regex, Vec<(String, Found)>),
    Json(Vec<String>, Found),
}

/// A trainer's rules, and which of them have matched.
#[derive(Debug, Default)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// # Errors
    /// If one is no expression, or finds nothing that there is.
    pub fn new(
        read: &[String],
        read_json: &BTreeMap<String, String>,
        task: &Task,
    ) -> Result<Rules, String> {
        let expression = |text: &String| {
            let regex = Regex::new(text).map_err(|error| {
                let said = error.to_string();
                let last = said.lines().last().unwrap_or_default();
                format!("the rule {text:?}: {}", last.trim_start_matches("error: "))
            })?;
            let groups = regex.capture_names().flatten().map(|name| {
                let fact =
                    Found::of(name, task).map_err(|error| format!("the rule {text:?}: {error}"))?;
                Ok((name.to_owned(), fact))
            });
            let groups = groups.collect::<Result<Vec<_>, String>>()?;
            if groups.is_empty() {
                return Err(format!(
                    "the rule {text:?} has no named group such as `(?<loss>\\S+)`"
                ));
            }
            Ok(Rule { shown: text.clone(), how: How::Expression(regex, groups), matched: false })
        };
        let path = |(name, path): (&String, &String)| {
            let fact = Found::of(name, task).map_err(|error| format!("read_json: {error}"))?;
            let plain = path.trim_start_matches('$').replace('[', ".").replace(']', "");
            let keys = plain.split('.').filter(|key| !key.is_empty()).map(str::to_owned).collect();
            Ok(Rule {
                shown: format!("{name} = {path}"),
                how: How::Json(keys, fact),
                matched: false,
            })
        };
        let rules = read.iter().map(expression).chain(read_json.iter().map(path));
        Ok(Rules(rules.collect::<Result<_, _>>()?))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any of them finds that metric.
    pub fn read(&self, metric: &str) -> bool {
        let is = |fact: &Found| matches!(fact, Found::Fact(Fact::Metric(name)) if name == metric);
        self.0.iter().any(|rule| match &rule.how {
            How::Expression(_, groups) => groups.iter().any(|(_, fact)| is(fact)),
            How::Json(_, fact) => is(fact),
        })
    }

    /// All that a line says.
    ///
    /// # Errors
    /// If what stands in a number's place is none.
    pub fn line(&mut self, line: &str) -> Result<Vec<(Found, Printed)>, String> {
        let mut found = Vec::new();
        let mut json = None;
        for Rule { shown, how, matched } in &mut self.0 {
            let mut add = |fact: &Found, text: &str| {
                let printed =
                    text.parse().map_err(|error| format!("the rule {shown:?}: {error}"))?;
                found.push((fact.clone(), printed));
                *matched = true;
                Ok::<(), String>(())
            };
            match how {
                How::Expression(regex, groups) => {
                    for captures in regex.captures_iter(line) {
                        for (name, fact) in groups.iter() {
                            if let Some(group) = captures.name(name) {
                                add(fact, group.as_str())?;
                            }
                        }
                    }
                }
                How::Json(keys, fact) => {
                    let parse = || {
                        line.trim_start()
                            .starts_with('{')
                            .then(|| serde_json::from_str(line).ok())
                            .flatten()
                    };
                    let object: &Option<Value> = json.get_or_insert_with(parse);
                    let inner = keys.iter().try_fold(object.as_ref(), |value, key| {
                        let value = value?;
                        Some(value.get(key).or_else(|| value.get(key.parse::<usize>().ok()?)))
                    });
                    match inner.flatten() {
                        None | Some(Value::Null) => {}
                        Some(Value::String(text)) => add(fact, text)?,
                        Some(other) => add(fact, &other.to_string())?,
                    }
                }
            }
        }
        Ok(found)
    }

    /// Those that have found nothing.
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
        let suite = Suite::parse(&text, "s.toml").map_err(|error| error.to_string())?;
        suite.rules(&suite.trainers[0])
    }

    #[test]
    fn named_groups_find_numbers_and_keep_their_grain() {
        let mut rules =
            rules(r"read = ['step (?<step>\d+): bpc (?<bpc>\S+)', 'never (?<loss>\S+)']").unwrap();
        let found = rules.line("step 20: bpc 3.25,").unwrap();
        assert_eq!(found[0], (Found::Step, Printed { value: 20.0, grain: 1.0 }));
        assert_eq!(
            found[1],
            (Found::Fact(Fact::Metric("bpc".into())), Printed { value: 3.25, grain: 0.01 })
        );
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
