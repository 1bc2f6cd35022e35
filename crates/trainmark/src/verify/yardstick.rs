//! The reference's own steps, once per model and configuration: what any number of trainers are held
//! against.

use crate::plan::Row;
use mnist::Split;
use nn::conformance::{Steps, Trial};
use nn::{AttentionShape, MlpShape, Model, Parameters, recipe};
use std::collections::HashMap;
use std::rc::Rc;

/// Widths beyond which the reference, which is in plain loops, would take minutes.
const WIDEST: u64 = 65_536;
/// Samples in a step beyond which it would.
const LARGEST_BATCH: u64 = 65_536;

/// The reference's steps of all configurations asked for so far.
pub struct Yardsticks<'data> {
    train: &'data Split,
    trials: HashMap<String, Rc<Trial<'data>>>,
}

impl<'data> Yardsticks<'data> {
    pub fn new(train: &'data Split) -> Yardsticks<'data> {
        Yardsticks { train, trials: HashMap::new() }
    }

    /// Ten steps of the row's model in its configuration, the last with half a batch.
    ///
    /// # Errors
    /// If there is no reference for it; the message says why.
    pub fn trial(&mut self, row: &Row) -> Result<Rc<Trial<'data>>, String> {
        let model = model(row)?;
        let batch_size = number(row, "batch_size", LARGEST_BATCH)?;
        let rate = row.config.get("learning_rate").and_then(serde_json::Value::as_f64);
        let rate = rate.ok_or("the configuration has no learning_rate")? as f32;
        let seed = row.config.get("seed").and_then(serde_json::Value::as_u64).unwrap_or(0);
        let key = format!("{model:?} {batch_size} {rate} {seed}");
        let train = self.train;
        let trial = self.trials.entry(key).or_insert_with(|| {
            let mut initial = Parameters::zeros(model);
            recipe::initialise(&mut initial, seed);
            Rc::new(Trial::new(initial, train, Steps::ten(batch_size, rate), seed))
        });
        Ok(trial.clone())
    }
}

/// The model that a row's names and numbers mean.
fn model(row: &Row) -> Result<Model, String> {
    let size = |key: &str| number(row, key, WIDEST);
    match row.model.as_str() {
        "mlp" => Ok(Model::Mlp(MlpShape { hidden: size("hidden_size")? })),
        "cnn" => Ok(Model::Cnn),
        "attention" => {
            Ok(Model::Attention(AttentionShape { d_model: size("d_model")?, ff: size("ff")? }))
        }
        other => Err(format!(
            "there is no reference for the model {other}; there are {}",
            Model::IDS.join(", ")
        )),
    }
}

fn number(row: &Row, key: &str, most: u64) -> Result<usize, String> {
    let value = row.config.get(key).ok_or_else(|| format!("the configuration has no {key}"))?;
    let number = value.as_u64().filter(|number| (1..=most).contains(number));
    let number = number.ok_or_else(|| format!("{key} = {value} is no number from 1 to {most}"))?;
    Ok(number as usize) // at most `most`
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn row(model: &str, config: Value) -> Row {
        Row {
            trainer: 0,
            model: model.to_owned(),
            backend: "cpu".to_owned(),
            config: config.as_object().unwrap().clone(),
            tags: Vec::new(),
            prefix: String::new(),
        }
    }

    #[test]
    fn a_configuration_means_a_model_or_says_what_it_lacks() {
        let sizes = json!({"hidden_size": 8, "d_model": 4, "ff": 6});
        assert_eq!(model(&row("mlp", sizes.clone())), Ok(Model::Mlp(MlpShape { hidden: 8 })));
        assert_eq!(model(&row("cnn", json!({}))), Ok(Model::Cnn));
        let shape = AttentionShape { d_model: 4, ff: 6 };
        assert_eq!(model(&row("attention", sizes)), Ok(Model::Attention(shape)));
        let refused = |name: &str, config| model(&row(name, config)).unwrap_err();
        assert_eq!(refused("mlp", json!({})), "the configuration has no hidden_size");
        assert!(refused("mlp", json!({"hidden_size": 0})).contains("from 1"));
        assert!(refused("mlp", json!({"hidden_size": "many"})).contains("many"));
        assert!(refused("resnet", json!({})).contains("mlp, cnn, attention"));
    }
}
