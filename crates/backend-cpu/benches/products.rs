//! Matrix products of the GPT's sizes: ours beside the libraries that one would take.
//!
//!     cargo bench --package trainmark-backend-cpu --features libraries --bench products
//!
//! With `OPENBLAS=/path/to/libopenblas.so.0` OpenBLAS takes part (`OPENBLAS_CORETYPE=SkylakeX` where
//! it does not know the CPU). One thread: in training each has windows of its own. Contestants take
//! turns for many short rounds, and the fastest round of each counts, in GFLOP/s: on a machine that does
//! other things as well, everything else measures these. The first line is what multiply-adds alone reach.
//!
//! Ours is measured as training uses it: 12 windows of 64 tokens, one after the other, each with a
//! region of its own; that costs it the second and third use of what a library has packed for all 768
//! rows. For AMX the time to split operands into parts is in it, but for weights, which are split once a
//! step.
//!
//! Chosen: ours. On two cores of a Xeon with AVX-512 and AMX, of 242 GFLOP/s that multiply-adds reach
//! alone, `gemm` has 161 to 212, `faer` 141 to 198, `matrixmultiply` 150 to 191, OpenBLAS 146 to 179 and
//! ours 176 to 212: as fast as the fastest library, which packs its operands anew in each call. Ours
//! writes what the next product reads, so that nothing is packed, and a tile's finish does what would be
//! passes of their own (GELU, residuals, sums of gradients). On AMX it has 196 to 306 with three parts and
//! 506 to 1037 with one.

use backend_cpu::gpt::amx::{self, Amx, Parts};
use backend_cpu::gpt::product::{Add, ByColumns, ByRows, Matrix, PANEL, Product, Write, product};
use backend_cpu::gpt::tiled::{Blocks, Tiled};
use backend_cpu::simd::{Isa, Kernel, Simd};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

const WINDOWS: usize = 12;
const CONTEXT: usize = 64;
const TOKENS: usize = WINDOWS * CONTEXT;
const ROUNDS: usize = 300;

/// `a b`, or `a^T b`, or `a b^T`, all of plain rows.
#[derive(Clone, Copy)]
enum Form {
    Forward,
    Weights,
    Inputs,
}

/// The three products of a linear layer.
#[derive(Clone, Copy)]
struct Case {
    form: Form,
    inputs: usize,
    outputs: usize,
}

impl Case {
    fn name(self) -> String {
        let Case { form, inputs, outputs } = self;
        match form {
            Form::Forward => format!("{TOKENS} x {inputs} x {outputs}"),
            Form::Weights => format!("{inputs} x {TOKENS} x {outputs}, A^T B"),
            Form::Inputs => format!("{TOKENS} x {outputs} x {inputs}, A B^T"),
        }
    }

    /// Rows, depth and columns of the result.
    fn size(self) -> [usize; 3] {
        let Case { form, inputs, outputs } = self;
        match form {
            Form::Forward => [TOKENS, inputs, outputs],
            Form::Weights => [inputs, TOKENS, outputs],
            Form::Inputs => [TOKENS, outputs, inputs],
        }
    }

    /// From row to row and from column to column of both operands, as (rows, depth) and (depth,
    /// columns).
    fn strides(self) -> [[isize; 2]; 2] {
        let [rows, depth, columns] = self.size().map(|size| size as isize);
        match self.form {
            Form::Forward => [[depth, 1], [columns, 1]],
            Form::Weights => [[1, rows], [columns, 1]],
            Form::Inputs => [[depth, 1], [1, depth]],
        }
    }
}

/// What multiply-adds alone reach.
struct Peak;

impl Kernel for Peak {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        const TIMES: usize = 20_000;
        let (factor, term) = (simd.splat(black_box(0.999)), simd.splat(black_box(1e-3)));
        let mut sums = [simd.splat(1.0); 12];
        let clock = Instant::now();
        for _ in 0..TIMES {
            for sum in &mut sums {
                *sum = simd.fma(*sum, factor, term);
            }
        }
        let flop = (TIMES * 12 * 2 * S::LANES) as f64;
        let rate = flop / clock.elapsed().as_secs_f64() / 1e9;
        for sum in sums {
            black_box(simd.sum(sum));
        }
        rate
    }
}

/// A layer's product by register tiles: operands and result in panels.
struct Ours<'run> {
    case: Case,
    a: &'run [f32],
    b: &'run [f32],
    c: &'run mut [f32],
}

impl Kernel for Ours<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Ours { case, a, b, c } = self;
        let [rows, depth, columns] = case.size();
        let panels = 0..columns / PANEL;
        for window in 0..WINDOWS {
            if let Form::Weights = case.form {
                let part = |data, width: usize| {
                    let data: &[f32] = data;
                    Matrix { data: &data[window * CONTEXT * width..], rows: CONTEXT }
                };
                let (left, right) = (part(a, rows), part(b, columns));
                let product_ = Product {
                    left,
                    right,
                    rows: 0..rows,
                    panels: panels.clone(),
                    depth: 0..CONTEXT,
                };
                match window {
                    0 => product::<S, ByColumns>(simd, product_, &mut Write { to: c, rows }),
                    _ => product::<S, ByColumns>(simd, product_, &mut Add { to: c, rows }),
                }
            } else {
                let left = Matrix { data: &a[window * CONTEXT * depth..], rows: CONTEXT };
                let right = Matrix { data: b, rows: depth };
                let product_ = Product {
                    left,
                    right,
                    rows: 0..CONTEXT,
                    panels: panels.clone(),
                    depth: 0..depth,
                };
                let to = &mut c[window * CONTEXT * columns..][..CONTEXT * columns];
                product::<S, ByRows>(simd, product_, &mut Write { to, rows: CONTEXT });
            }
        }
    }
}

/// The same on AMX.
struct OnTiles<'run> {
    ours: Ours<'run>,
    tiled: &'run mut Tiled,
    /// Of a weight.
    tiles: &'run [u16],
}

impl Kernel for OnTiles<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let OnTiles { ours: Ours { case, a, b, c }, tiled, tiles } = self;
        let [rows, depth, columns] = case.size();
        let panels = columns / PANEL;
        for window in 0..WINDOWS {
            if let Form::Weights = case.form {
                let part = |width| window * CONTEXT * width..(window + 1) * CONTEXT * width;
                tiled.split_columns(simd, &a[part(rows)], CONTEXT, rows);
                tiled.split_right(&b[part(columns)], CONTEXT, columns);
                let size = (rows, panels, CONTEXT);
                match window {
                    0 => {
                        let finish = &mut Write { to: &mut *c, rows };
                        simd.enter(Blocks { tiled, right: None, size, finish });
                    }
                    _ => {
                        let finish = &mut Add { to: &mut *c, rows };
                        simd.enter(Blocks { tiled, right: None, size, finish });
                    }
                }
            } else {
                let part = |width| window * CONTEXT * width..(window + 1) * CONTEXT * width;
                tiled.split_rows(&a[part(depth)], CONTEXT, depth);
                let size = (CONTEXT, panels, depth);
                let finish = &mut Write { to: &mut c[part(columns)], rows: CONTEXT };
                simd.enter(Blocks { tiled, right: Some(tiles), size, finish });
            }
        }
    }
}

/// `cblas_sgemm`.
type Sgemm = unsafe extern "C" fn(
    i32,
    i32,
    i32,
    i32,
    i32,
    i32,
    f32,
    *const f32,
    i32,
    *const f32,
    i32,
    f32,
    *mut f32,
    i32,
);

/// OpenBLAS on one thread, if its place was given.
fn openblas() -> Option<(libloading::Library, Sgemm)> {
    let path = std::env::var_os("OPENBLAS")?;
    // SAFETY: the user's own library; these are its functions' types.
    unsafe {
        let library = libloading::Library::new(path).expect("a library");
        let threads: libloading::Symbol<'_, unsafe extern "C" fn(i32)> =
            library.get(b"openblas_set_num_threads").expect("OpenBLAS");
        threads(1);
        let sgemm = *library.get::<Sgemm>(b"cblas_sgemm").expect("OpenBLAS");
        Some((library, sgemm))
    }
}

/// Multiplies with a library.
fn by_library(name: &str, case: Case, a: &[f32], b: &[f32], c: &mut [f32], sgemm: Option<Sgemm>) {
    let [m, k, n] = case.size();
    let [[a_row, a_column], [b_row, b_column]] = case.strides();
    let (a, b) = (a.as_ptr(), b.as_ptr());
    // SAFETY: (m, k), (k, n) and (m, n) with these strides lie within the slices.
    unsafe {
        match name {
            "matrixmultiply" => matrixmultiply::sgemm(
                m,
                k,
                n,
                1.0,
                a,
                a_row,
                a_column,
                b,
                b_row,
                b_column,
                0.0,
                c.as_mut_ptr(),
                n as isize,
                1,
            ),
            "gemm" => gemm::gemm(
                m,
                n,
                k,
                c.as_mut_ptr(),
                1,
                n as isize,
                false,
                a,
                a_column,
                a_row,
                b,
                b_column,
                b_row,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            ),
            "faer" => {
                use faer::linalg::matmul::matmul;
                let a = faer::MatRef::from_raw_parts(a, m, k, a_row, a_column);
                let b = faer::MatRef::from_raw_parts(b, k, n, b_row, b_column);
                let c = faer::MatMut::from_raw_parts_mut(c.as_mut_ptr(), m, n, n as isize, 1);
                matmul(c, faer::Accum::Replace, a, b, 1.0, faer::Par::Seq);
            }
            _ => {
                const ROW_MAJOR: i32 = 101;
                let (order_a, lead_a) = if a_column == 1 { (111, a_row) } else { (112, a_column) };
                let (order_b, lead_b) = if b_column == 1 { (111, b_row) } else { (112, b_column) };
                let [m, n, k] = [m, n, k].map(|size| size as i32);
                sgemm.expect("OpenBLAS")(
                    ROW_MAJOR,
                    order_a,
                    order_b,
                    m,
                    n,
                    k,
                    1.0,
                    a,
                    lead_a as i32,
                    b,
                    lead_b as i32,
                    0.0,
                    c.as_mut_ptr(),
                    n,
                );
            }
        }
    }
}

/// The fastest round of each contestant.
fn rates(case: Case, library: Option<Sgemm>, peak: &mut f64) -> BTreeMap<&'static str, f64> {
    let [m, k, n] = case.size();
    let values = |count: usize| -> Vec<f32> {
        (0..count).map(|i| (i * 7 % 23) as f32 / 23.0 - 0.5).collect()
    };
    let (a, b, mut c) = (values(m * k), values(k * n), vec![0.0; m * n]);
    let mut names = vec!["ours", "gemm", "faer", "matrixmultiply"];
    names.extend(library.map(|_| "OpenBLAS"));
    let mut tiled = Amx::detect().map(|amx| {
        [Parts::Three, Parts::One].map(|parts| {
            let mut tiles = vec![0; amx::tiles(n / PANEL, k) * parts.count() * amx::TILE];
            for (rows, to) in
                b.chunks(amx::DEPTH * PANEL).zip(tiles.chunks_mut(parts.count() * amx::TILE))
            {
                amx.split_right(parts, rows, to);
            }
            amx.configure();
            (Tiled::new(amx, parts, CONTEXT, m.max(k).max(n)), tiles)
        })
    });
    if tiled.is_some() {
        names.extend(["ours, AMX, three parts", "ours, AMX, bf16"]);
    }
    let isa = Isa::detect();
    let mut best = BTreeMap::new();
    for round in 0..ROUNDS {
        *peak = peak.max(isa.run(Peak));
        for turn in 0..names.len() {
            let name = names[(round + turn) % names.len()];
            let clock = Instant::now();
            let ours = Ours { case, a: &a, b: &b, c: &mut c };
            match (name, &mut tiled) {
                ("ours", _) => isa.run(ours),
                ("ours, AMX, three parts", Some([(tiled, tiles), _])) => {
                    isa.run(OnTiles { ours, tiled, tiles });
                }
                ("ours, AMX, bf16", Some([_, (tiled, tiles)])) => {
                    isa.run(OnTiles { ours, tiled, tiles });
                }
                _ => by_library(name, case, &a, &b, &mut c, library),
            }
            let rate = 2.0 * (m * k * n) as f64 / clock.elapsed().as_secs_f64() / 1e9;
            let best: &mut f64 = best.entry(name).or_default();
            *best = best.max(rate);
        }
        black_box(&c);
    }
    best
}

fn main() {
    let library = openblas();
    let sgemm = library.as_ref().map(|(_, sgemm)| *sgemm);
    let mut cases = Vec::new();
    for (inputs, outputs) in [(128, 512), (512, 128), (128, 384), (128, 128)] {
        for form in [Form::Forward, Form::Weights, Form::Inputs] {
            cases.push(Case { form, inputs, outputs });
        }
    }
    let mut peak = 0.0;
    let rows: Vec<_> =
        cases.iter().map(|&case| (case.name(), rates(case, sgemm, &mut peak))).collect();
    println!("{}: {peak:.0} GFLOP/s of multiply-adds\n", Isa::detect().name());
    let names: Vec<_> = rows[0].1.keys().copied().collect();
    println!("| product | {} |", names.join(" | "));
    println!("|---|{}", "---|".repeat(names.len()));
    for (name, rates) in &rows {
        let rates: Vec<String> = rates.values().map(|rate| format!("{rate:.0}")).collect();
        println!("| {name} | {} |", rates.join(" | "));
    }
}
