use backend_cpu::buffer::Buffer;
use backend_cpu::gpt::product::*;
use backend_cpu::simd::{Isa, Kernel, Simd};
use std::time::Instant;

struct Run<'a, const R: usize, const C: usize> {
    rows: usize,
    depth: usize,
    columns: usize,
    a: &'a [f32],
    b: &'a [f32],
    c: &'a mut [f32],
    turned: bool,
}
impl<const R: usize, const C: usize> Kernel for Run<'_, R, C> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Run { rows, depth, columns, a, b, c, turned } = self;
        let p = Product {
            left: Matrix { data: a, rows: if turned { depth } else { rows } },
            right: Matrix { data: b, rows: depth },
            rows: 0..rows,
            panels: 0..columns / 16,
            depth: 0..depth,
        };
        if turned {
            by::<S, ByColumns, R, C>(simd, p, &mut Write { to: c, rows })
        } else {
            by::<S, ByRows, R, C>(simd, p, &mut Write { to: c, rows })
        }
    }
}
fn peak() -> f64 {
    struct P;
    impl Kernel for P {
        type Output = f64;
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> f64 {
            let x = simd.splat(std::hint::black_box(0.999));
            let y = simd.splat(std::hint::black_box(1e-3));
            let mut a = [simd.splat(1.0); 12];
            let t = Instant::now();
            for _ in 0..2_000 {
                for v in &mut a {
                    *v = simd.fma(*v, x, y);
                }
            }
            let d = t.elapsed().as_secs_f64();
            for v in a {
                std::hint::black_box(simd.sum(v));
            }
            2_000.0 * 12.0 * 2.0 * S::LANES as f64 / d / 1e9
        }
    }
    Isa::detect().run(P)
}
fn one<const R: usize, const C: usize>(
    out: &mut Vec<(String, f64)>,
    rows: usize,
    depth: usize,
    columns: usize,
    turned: bool,
) {
    static CELL: std::sync::OnceLock<Vec<f32>> = std::sync::OnceLock::new();
    let all = CELL.get_or_init(|| vec![0.5f32; 1 << 20]);
    let a = &all[..rows.max(16) * depth];
    let b = &all[1 << 19..][..columns * depth];
    thread_local! { static C_: std::cell::RefCell<Buffer<f32>> = std::cell::RefCell::new(Buffer::zeroed(1<<18)); }
    let mut c = C_.with(|c| c.replace(Buffer::zeroed(0)));
    let isa = Isa::detect();
    let n = (3e6 / (rows * depth * columns) as f64).ceil() as usize;
    let t = Instant::now();
    for _ in 0..n {
        isa.run(Run::<R, C> { rows, depth, columns, a, b, c: &mut c, turned });
    }
    let d = t.elapsed().as_secs_f64() / n as f64;
    C_.with(|x| x.replace(c));
    out.push((
        format!("{R:02}x{C} {rows}x{depth}x{columns} {turned}"),
        2.0 * (rows * depth * columns) as f64 / d / 1e9,
    ));
}
fn main() {
    let mut best: std::collections::BTreeMap<String, f64> = Default::default();
    for _ in 0..2000 {
        let mut out = vec![("peak".to_string(), peak())];
        for (r, d, c, t) in [
            (64, 128, 384, false),
            (64, 128, 128, false),
            (64, 128, 512, false),
            (64, 512, 128, false),
            (128, 64, 512, true),
            (512, 64, 128, true),
            (128, 64, 384, true),
        ] {
            one::<8, 2>(&mut out, r, d, c, t);
            one::<8, 3>(&mut out, r, d, c, t);
            one::<4, 4>(&mut out, r, d, c, t);
            one::<6, 4>(&mut out, r, d, c, t);
            if !t {
                one::<12, 2>(&mut out, r, d, c, t);
                one::<14, 2>(&mut out, r, d, c, t);
            }
            one::<16, 1>(&mut out, r, d, c, t);
        }
        for (k, v) in out {
            let e = best.entry(k).or_default();
            *e = e.max(v);
        }
    }
    for (k, v) in best {
        println!("{k} {v:.1}");
    }
}
