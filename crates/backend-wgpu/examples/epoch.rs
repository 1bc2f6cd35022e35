//! Times training on a device: `epoch [mlp|cnn|attention] [device] [epochs] [samples]`.
//!
//! Prints for each epoch the mean loss, the host's seconds and the device's, then the test
//! accuracy. Software adapters are allowed.

use backend_wgpu::Wgpu;
use nn::backend::{Backend, Job, Options};
use nn::{AttentionShape, MlpShape, Model, Parameters, recipe};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (model, learning_rate) = match arguments.next().as_deref() {
        Some("cnn") => (Model::Cnn, 0.01),
        Some("attention") => (Model::Attention(AttentionShape { d_model: 32, ff: 64 }), 0.1),
        _ => (Model::Mlp(MlpShape { hidden: 512 }), 0.01),
    };
    let device = arguments.next().filter(|device| device != "-");
    let epochs = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let samples = arguments.next().map_or(Ok(usize::MAX), |text| text.parse())?;

    let data = mnist::Source::locate(None)?.load()?;
    let (seed, batch_size) = (42, 32);
    let job = Job { model, batch_size, learning_rate, train: &data.train };
    let options = Options { device, allow_software: true, ..Options::default() };
    let mut session = Wgpu.open(job, &options)?;
    println!("{:?}", session.description());
    let mut parameters = Parameters::zeros(model);
    recipe::initialise(&mut parameters, seed);
    session.set_parameters(&parameters)?;

    let mut before = 0.0;
    for epoch in 0..epochs {
        let mut order = vec![0; data.train.len()];
        recipe::shuffle(&mut order, seed, epoch);
        order.truncate(samples);
        let mut losses = vec![0.0; order.len().div_ceil(batch_size)];
        let clock = Instant::now();
        session.train(&order, &mut losses)?;
        let host_s = clock.elapsed().as_secs_f64();
        let mean = losses.iter().sum::<f32>() / losses.len() as f32;
        let device_s = session.measured().device_s.unwrap_or(f64::NAN);
        let step_us = 1e6 * host_s / losses.len() as f64;
        let on_device_s = device_s - before;
        println!(
            "loss {mean:.4}  host {host_s:.4} s  device {on_device_s:.4} s  step {step_us:.1} us"
        );
        before = device_s;
    }
    let mut labels = vec![0; data.test.len()];
    session.predict(data.test.images(), &mut labels)?;
    let right = labels.iter().zip(data.test.labels()).filter(|(a, b)| a == b).count();
    println!("accuracy {:.2} %", 100.0 * right as f64 / labels.len() as f64);
    println!("{:?}", session.measured());
    Ok(())
}
