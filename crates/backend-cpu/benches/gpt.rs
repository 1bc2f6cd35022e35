use backend_cpu::Cpu;
use nn::backend::{Backend, Options};
use nn::gpt::{AdamW, Job, Shape, State};
use std::time::Instant;

fn cpu_s() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn main() {
    let args: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let steps = args.first().copied().unwrap_or(5);
    let rounds = args.get(1).copied().unwrap_or(40);
    let text: Vec<u16> = (0..20000u32).map(|i| ((i * i / 7 + i) % 65) as u16).collect();
    let shape = Shape::small(65);
    let job = Job {
        shape,
        batch_size: 12,
        optimiser: AdamW { learning_rate: 1e-3, warmup: 10, steps: 2000 },
        text: &text,
    };
    let mut state = State::zeros(shape);
    let mut seed = 1u64;
    for t in shape.tensors() {
        for p in &mut state.parameters[t.range()] {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let u = (seed >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
            *p = t.deviation.map_or(1.0, |d| u * 3.46 * d as f32);
        }
    }
    let mut sessions: Vec<_> = [
        ("avx512", "float32", 1),
        ("amx", "float32", 1),
        ("amx", "bf16", 1),
        ("avx512", "float32", 2),
        ("amx", "float32", 2),
        ("amx", "bf16", 2),
    ]
    .map(|(isa, precision, threads)| {
        let mut s = Cpu
            .open_gpt(
                job,
                &Options {
                    threads: Some(threads),
                    isa: Some(isa.into()),
                    precision: Some(precision.into()),
                    ..Options::default()
                },
            )
            .unwrap();
        s.set_state(&state).unwrap();
        (format!("{isa} {precision} {threads}"), s, vec![])
    })
    .into();
    if let Ok(only) = std::env::var("ONLY") {
        sessions.retain(|(name, ..)| *name == only);
    }
    for round in 0..rounds {
        for (threads, s, times) in &mut sessions {
            let starts: Vec<u32> =
                (0..steps * 12).map(|i| ((i * 7919 + round * 104729) % 19000) as u32).collect();
            let mut loss = vec![0.0; steps];
            let (t, c) = (Instant::now(), cpu_s());
            s.train(&starts, &mut loss).unwrap();
            times.push((
                t.elapsed().as_secs_f64() * 1e3 / steps as f64,
                (cpu_s() - c) * 1e3 / steps as f64,
            ));
            if round < 2 || round + 1 == rounds {
                println!("{threads}: {loss:?}");
            }
        }
    }
    let gflop = shape.dense_flop_per_token() * 768.0 / 1e9;
    for (threads, _, times) in &mut sessions {
        let mut wall: Vec<f64> = times.iter().map(|t| t.0).collect();
        let mut cpu: Vec<f64> = times.iter().map(|t| t.1).collect();
        wall.sort_by(f64::total_cmp);
        cpu.sort_by(f64::total_cmp);
        println!(
            "{threads}: min {:.2} ms = {:.0} GFLOP/s, median {:.2} ms; cpu min {:.2} median {:.2}",
            wall[0],
            gflop / wall[0] * 1e3,
            wall[wall.len() / 2],
            cpu[0],
            cpu[cpu.len() / 2]
        );
    }
}
