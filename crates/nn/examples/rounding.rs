//! Measures how far sound float32 arithmetic strays from the float64 reference: the table in
//! `src/conformance/tolerance.rs`. Takes a minute or two.

use nn::backend::Options;
use nn::conformance::{Case, Plain, Report, Trial, cases};
use nn::recipe;
use std::error::Error;

const SEEDS: u64 = 8;

struct Row {
    model: &'static str,
    name: &'static str,
    largest: Vec<f64>,
    worst: String,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut rows: Vec<Row> = Vec::new();
    for seed in 0..SEEDS {
        for mut case in cases() {
            case.seed += 1000 * seed;
            // A bias of one element that begins at zero may stay there: its error has no scale.
            let single = case.model.tensors().iter().any(|tensor| tensor.len() == 1);
            if let Some(report) = measure(&case, seed % 2 == 1 && !single)? {
                note(&mut rows, &case, &report);
            }
        }
    }
    println!("{:<10} {:<13} {:>8} {:>8}  largest in", "model", "tensor", "median", "largest");
    for Row { model, name, mut largest, worst } in rows {
        largest.sort_by(f64::total_cmp);
        let median = largest[largest.len() / 2];
        let most = largest[largest.len() - 1];
        println!("{model:<10} {name:<13} {median:>8.1e} {most:>8.1e}  {worst}");
    }
    Ok(())
}

/// `None` where a sample comes within rounding of a kink: not every seed can avoid it.
fn measure(case: &Case, biases_begin_at_zero: bool) -> Result<Option<Report>, Box<dyn Error>> {
    let data = case.data();
    let mut initial = case.initial();
    if biases_begin_at_zero {
        recipe::initialise(&mut initial, case.seed);
    }
    let trial = Trial::new(initial, &data, case.steps(), case.seed);
    if trial.kink_distance() < nn::conformance::KINK {
        return Ok(None);
    }
    Ok(Some(trial.run(&Plain::<f32>::new(), &Options::default())?))
}

fn note(rows: &mut Vec<Row>, case: &Case, report: &Report) {
    for deviation in &report.deviations {
        let model = case.model.id();
        let known = rows.iter().position(|row| (row.model, row.name) == (model, deviation.name));
        let row = known.unwrap_or_else(|| {
            let (largest, worst) = (Vec::new(), String::new());
            rows.push(Row { model, name: deviation.name, largest, worst });
            rows.len() - 1
        });
        let row = &mut rows[row];
        if row.largest.iter().all(|&other| other < deviation.largest) {
            row.worst = case.to_string();
        }
        row.largest.push(deviation.largest);
    }
}
