//! Trainers that take part in verification, soundly or not: the reference's own code with a fault.

use nn::conformance::{Bf16, Steps, Tf32, Trial};
use nn::reference::{Buffer, Real};
use nn::{AttentionShape, MlpShape, Model, Parameters, Reference, recipe};
use protocol::verify::{FINAL, INITIAL, LOSSES, ORDER, REQUEST, Request};
use std::path::{Path, PathBuf};

/// What it is told: the arguments after the mode.
struct Told {
    fault: String,
    model: Model,
    batch_size: usize,
    learning_rate: f32,
}

/// Takes the steps in the way that the first argument says: `FAULT MODEL SIZE BATCH RATE`. What follows is
/// of no concern to it.
pub fn verify(arguments: &[String]) {
    let [fault, model, size, batch_size, learning_rate, ..] = arguments else {
        panic!("verify FAULT MODEL SIZE BATCH RATE, not {arguments:?}");
    };
    let size = size.parse().expect("a size");
    let model = match model.as_str() {
        "mlp" => Model::Mlp(MlpShape { hidden: size }),
        "cnn" => Model::Cnn,
        "attention" => Model::Attention(AttentionShape { d_model: size, ff: size }),
        other => panic!("no model {other}"),
    };
    let told = Told {
        fault: fault.clone(),
        model,
        batch_size: batch_size.parse().expect("a batch size"),
        learning_rate: learning_rate.parse().expect("a learning rate"),
    };
    let folder = std::env::var_os(protocol::env::VERIFY).filter(|_| fault != "silent");
    let Some(folder) = folder else {
        println!("Test Accuracy: 95.67%");
        return;
    };
    match fault.as_str() {
        "exact" => told.answer::<f64>(Path::new(&folder)),
        "tf32" => told.answer::<Tf32>(Path::new(&folder)),
        "bf16" => told.answer::<Bf16>(Path::new(&folder)),
        "breaks" => {
            eprintln!("error: out of luck");
            std::process::exit(3);
        }
        "reference" => told.hand_out(Path::new(&folder)),
        _ => told.answer::<f32>(Path::new(&folder)),
    }
}

fn data() -> mnist::Dataset {
    let data = std::env::var_os(protocol::env::DATA).expect("the harness names the data");
    mnist::Source::open(&PathBuf::from(data)).expect("data").load().expect("data")
}

impl Told {
    /// What the others are compared with.
    fn hand_out(&self, folder: &Path) {
        let request = std::fs::read(folder.join(REQUEST)).expect("a request");
        let request: Request = serde_json::from_slice(&request).expect("of the protocol");
        assert!(request.reference, "it is asked as what it is");
        let mut initial = Parameters::zeros(self.model);
        recipe::initialise(&mut initial, 42);
        let steps = Steps::ten(self.batch_size, self.learning_rate);
        let data = data();
        let trial = Trial::new(initial, &data.train, steps, 42);
        trial.write(folder, request.steps).expect("a folder that can be written to");
    }

    fn answer<R: Real>(&self, folder: &Path) {
        let bytes = std::fs::read(folder.join(INITIAL)).expect("initial weights");
        let initial = Parameters::from_safetensors(self.model, &bytes).expect("of this model");
        let bytes = std::fs::read(folder.join(ORDER)).expect("an order");
        let order: Vec<u32> =
            bytes.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect();
        let (mut losses, mut parameters) = self.train::<R>(&initial, &order);
        match self.fault.as_str() {
            "lies" => (parameters, losses) = (initial, vec![10.0_f32.ln(); losses.len()]),
            "loose" => {
                // Something that is never the same: the folder's own name is random.
                let name = folder.display().to_string();
                let place = name.bytes().fold(0, |sum, byte| (7 * sum + usize::from(byte)) % 997);
                let value = &mut parameters.values_mut()[place];
                *value = f32::from_bits(value.to_bits() + 1);
            }
            "loses-one" => drop(losses.pop()),
            "not-a-number" => parameters.values_mut()[0] = f32::NAN,
            _ => {}
        }
        if self.fault == "nearly" {
            println!(r#":::TRAINMARK {{"event":"started","protocol":1,"precision":"fp32"}}"#);
        }
        let losses: Vec<u8> = losses.iter().flat_map(|loss| loss.to_le_bytes()).collect();
        std::fs::write(folder.join(LOSSES), losses).expect("a folder that can be written to");
        if self.fault != "forgets" {
            let weights = parameters.to_safetensors().expect("weights");
            std::fs::write(folder.join(FINAL), weights).expect("the same folder");
        }
    }

    fn train<R: Real>(&self, initial: &Parameters, order: &[u32]) -> (Vec<f32>, Parameters) {
        let data = data();
        let factor = match self.fault.as_str() {
            "other-rate" => 1.5,
            "nearly" => 1.01,
            _ => 1.0,
        };
        let rate = factor * self.learning_rate;
        let mut reference: Reference<R> = Reference::new(initial);
        let mut losses = Vec::new();
        for batch in order.chunks(self.batch_size) {
            let (loss, mut gradient) = reference.gradient(&data.train, batch);
            self.spoil(&mut gradient);
            if !(self.fault == "drops-last" && batch.len() < self.batch_size) {
                reference.update(&gradient, rate);
            }
            let loss: f64 = loss.into();
            losses.push(loss as f32);
        }
        (losses, reference.rounded())
    }

    /// As candle 0.11.1's `max_pool2d` gives a maximum a quarter of its gradient.
    fn spoil<R: Real>(&self, gradient: &mut Buffer<R>) {
        if self.fault == "quarter" {
            let quarter: R = 0.25_f32.into();
            for name in ["conv.weight", "conv.bias"] {
                gradient.tensor_mut(name).iter_mut().for_each(|slope| *slope *= quarter);
            }
        }
    }
}
