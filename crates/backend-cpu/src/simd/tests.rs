//! Every operation of every instruction set that this CPU has, lane by lane against plain Rust.

use super::*;

/// Calls `check` with each instruction set's token, compiled for it.
macro_rules! on_every_isa {
    ($simd:ident => $body:block) => {{
        struct Check;
        impl Kernel for Check {
            type Output = ();
            #[inline(always)]
            fn run<S: Simd>(self, $simd: S) $body
        }
        for isa in Isa::all() {
            isa.run(Check);
        }
    }};
}

/// Values that differ in sign, size and fraction.
fn values(offset: usize) -> [f32; MAX_LANES] {
    std::array::from_fn(|i| {
        let k = (i * 7 + offset * 13) % 23;
        (k as f32 - 11.0) * 0.37 + 1.0 / (1.0 + k as f32)
    })
}

fn read<S: Simd>(simd: S, vector: S::F32) -> Vec<f32> {
    let mut lanes = [f32::NAN; MAX_LANES];
    // SAFETY: MAX_LANES floats are at least LANES.
    unsafe { simd.store(lanes.as_mut_ptr(), vector) };
    lanes[..S::LANES].to_vec()
}

fn load<S: Simd>(simd: S, lanes: &[f32; MAX_LANES]) -> S::F32 {
    // SAFETY: MAX_LANES floats are at least LANES.
    unsafe { simd.load(lanes.as_ptr()) }
}

#[test]
fn arithmetic_is_lane_by_lane() {
    on_every_isa!(simd => {
        let (a, b, c) = (values(1), values(2), values(3));
        let (va, vb, vc) = (load(simd, &a), load(simd, &b), load(simd, &c));
        for i in 0..S::LANES {
            let name = S::NAME;
            assert_eq!(read(simd, simd.add(va, vb))[i], a[i] + b[i], "{name} add");
            assert_eq!(read(simd, simd.sub(va, vb))[i], a[i] - b[i], "{name} sub");
            assert_eq!(read(simd, simd.mul(va, vb))[i], a[i] * b[i], "{name} mul");
            assert_eq!(read(simd, simd.div(va, vb))[i], a[i] / b[i], "{name} div");
            let root = read(simd, simd.sqrt(simd.mul(vb, vb)))[i];
            assert_eq!(root, (b[i] * b[i]).sqrt(), "{name} sqrt");
            assert_eq!(read(simd, simd.max(va, vb))[i], a[i].max(b[i]), "{name} max");
            assert_eq!(read(simd, simd.min(va, vb))[i], a[i].min(b[i]), "{name} min");
            let fma = f64::from(a[i]) * f64::from(b[i]) + f64::from(c[i]);
            let fnma = f64::from(c[i]) - f64::from(a[i]) * f64::from(b[i]);
            assert!((f64::from(read(simd, simd.fma(va, vb, vc))[i]) - fma).abs() < 2e-6);
            assert!((f64::from(read(simd, simd.fnma(va, vb, vc))[i]) - fnma).abs() < 2e-6);
            assert_eq!(read(simd, simd.round(va))[i], a[i].round_ties_even(), "{name} round");
            assert_eq!(read(simd, simd.splat(a[i])), vec![a[i]; S::LANES], "{name} splat");
            let power = simd.scale_by_power_of_two(va, simd.splat(i as f32 - 8.0));
            assert_eq!(read(simd, power)[i], a[i] * 2f32.powi(i as i32 - 8), "{name} power");
        }
    });
}

#[test]
fn comparisons_select_and_nan_compares_false() {
    on_every_isa!(simd => {
        let (mut a, b) = (values(1), values(2));
        a[0] = f32::NAN;
        a[1] = b[1];
        let (va, vb) = (load(simd, &a), load(simd, &b));
        let (yes, no) = (simd.splat(1.0), simd.splat(0.0));
        let greater = read(simd, simd.select(simd.gt(va, vb), yes, no));
        let equal = read(simd, simd.select(simd.eq(va, vb), yes, no));
        for i in 0..S::LANES {
            assert_eq!(greater[i] == 1.0, a[i] > b[i], "{} gt", S::NAME);
            assert_eq!(equal[i] == 1.0, a[i] == b[i], "{} eq", S::NAME);
        }
    });
}

#[test]
fn partial_loads_and_stores_touch_only_the_first_lanes() {
    on_every_isa!(simd => {
        for count in 0..=S::LANES {
            let source = values(4)[..count].to_vec(); // exactly `count`: reading on is a fault
            // SAFETY: `count` floats are readable.
            let vector = unsafe { simd.load_first(source.as_ptr(), count) };
            let lanes = read(simd, vector);
            assert_eq!(lanes[..count], source[..]);
            assert!(lanes[count..].iter().all(|&lane| lane == 0.0));
            let mut target = [7.0; MAX_LANES];
            // SAFETY: `count` floats are writable.
            unsafe { simd.store_first(target.as_mut_ptr(), vector, count) };
            assert_eq!(target[..count], source[..]);
            assert!(target[count..].iter().all(|&lane| lane == 7.0));
        }
    });
}

#[test]
fn bytes_widen_and_their_nonzeros_are_found() {
    on_every_isa!(simd => {
        let bytes: [u8; 32] =
            std::array::from_fn(|i| if i % 3 == 0 { 0 } else { (255 - 8 * i) as u8 });
        // SAFETY: 32 bytes are at least LANES.
        let widened = read(simd, unsafe { simd.load_bytes(bytes.as_ptr()) });
        for i in 0..S::LANES {
            assert_eq!(widened[i], f32::from(bytes[i]));
        }
        // SAFETY: 32 bytes are at least twice LANES.
        let (even, odd) = unsafe { simd.load_byte_pairs(bytes.as_ptr()) };
        let (even, odd) = (read(simd, even), read(simd, odd));
        for i in 0..S::LANES {
            assert_eq!((even[i], odd[i]), (f32::from(bytes[2 * i]), f32::from(bytes[2 * i + 1])));
        }
        let mut narrowed = [0; 32];
        // SAFETY: 32 bytes are at least LANES.
        unsafe { simd.store_bytes(narrowed.as_mut_ptr(), simd.load_bytes(bytes.as_ptr())) };
        assert_eq!(narrowed[..S::LANES], bytes[..S::LANES], "{}", S::NAME);
        assert!(narrowed[S::LANES..].iter().all(|&byte| byte == 0), "{}", S::NAME);
        // SAFETY: 32 bytes.
        let bits = unsafe { simd.nonzero_bytes(bytes.as_ptr()) };
        for (i, &byte) in bytes.iter().enumerate() {
            assert_eq!(bits >> i & 1 == 1, byte != 0, "{} byte {i}", S::NAME);
        }
    });
}

#[test]
fn bytes_are_transposed() {
    on_every_isa!(simd => {
        let images: Vec<Vec<u8>> =
            (0..32).map(|i| (0..20).map(|j| (i * 8 + j * 5) as u8).collect()).collect();
        let rows: [*const u8; 32] = std::array::from_fn(|i| images[i].as_ptr());
        for offset in [0, 4] {
            let mut turned = [0; 512];
            // SAFETY: rows of 20 bytes, and room for 512.
            unsafe { simd.transpose_bytes(&rows, offset, turned.as_mut_ptr()) };
            for (k, &byte) in turned.iter().enumerate() {
                assert_eq!(byte, images[k % 32][offset + k / 32], "{} at {k}", S::NAME);
            }
        }
    });
}

#[test]
fn horizontal_sums_add_every_lane_once() {
    on_every_isa!(simd => {
        // Whole numbers: exact in any order.
        let mut rows = [simd.splat(f32::NAN); MAX_LANES];
        let mut expected = Vec::new();
        for (i, row) in rows.iter_mut().enumerate().take(S::LANES) {
            let lanes: [f32; MAX_LANES] = std::array::from_fn(|j| ((i + 1) << (j / 2)) as f32 + j as f32);
            *row = load(simd, &lanes);
            let sum: f32 = lanes[..S::LANES].iter().sum();
            assert_eq!(simd.sum(*row), sum, "{} sum", S::NAME);
            expected.push(sum);
        }
        assert_eq!(read(simd, simd.sum_rows(&rows)), expected, "{} sum_rows", S::NAME);
    });
}

#[test]
fn the_largest_lane_is_found_wherever_it_is() {
    on_every_isa!(simd => {
        for place in 0..S::LANES {
            let mut lanes: [f32; MAX_LANES] = values(5);
            lanes[place] = 100.0;
            assert_eq!(simd.largest(load(simd, &lanes)), 100.0, "{} at {place}", S::NAME);
        }
    });
}

#[test]
fn squares_are_transposed_between_rows_of_any_distance() {
    on_every_isa!(simd => {
        let (from_row, to_row) = (S::LANES + 3, S::LANES + 1);
        let from: Vec<f32> = (0..S::LANES * from_row).map(|i| i as f32).collect();
        let mut to = vec![f32::NAN; S::LANES * to_row];
        // SAFETY: LANES rows of more than LANES elements each.
        unsafe { simd.transpose(from.as_ptr(), from_row, to.as_mut_ptr(), to_row) };
        for (i, j) in (0..S::LANES).flat_map(|i| (0..S::LANES).map(move |j| (i, j))) {
            assert_eq!(to[j * to_row + i], from[i * from_row + j], "{} {i}, {j}", S::NAME);
        }
    });
}

#[test]
fn exp_is_within_two_units_in_the_last_place() {
    on_every_isa!(simd => {
        let mut worst = 0.0f64;
        for step in -8700..=8800 {
            let x = step as f32 * 0.01;
            let got = f64::from(read(simd, exp(simd, simd.splat(x)))[0]);
            let exact = f64::from(x).exp();
            worst = worst.max((got - exact).abs() / (exact * f64::from(f32::EPSILON)));
        }
        assert!(worst <= 2.0, "{}: {worst} units", S::NAME);
    });
}

#[test]
fn exp2_is_within_two_units_in_the_last_place_below_zero() {
    on_every_isa!(simd => {
        let mut worst = 0.0f64;
        for step in 0..=12_600 {
            let x = step as f32 * -0.01;
            let got = f64::from(read(simd, exp2_not_positive(simd, simd.splat(x)))[0]);
            let exact = f64::from(x).exp2();
            worst = worst.max((got - exact).abs() / (exact * f64::from(f32::EPSILON)));
        }
        assert!(worst <= 2.0, "{}: {worst} units", S::NAME);
        let tiny = read(simd, exp2_not_positive(simd, simd.splat(f32::NEG_INFINITY)));
        assert!(tiny.iter().all(|&lane| lane > 0.0 && lane < 2e-38), "{}", S::NAME);
    });
}

#[test]
fn nan_survives_a_maximum_from_the_second_place_and_exp() {
    on_every_isa!(simd => {
        let (zero, nan) = (simd.splat(0.0), simd.splat(f32::NAN));
        for vector in [
            simd.max(zero, nan),
            simd.min(zero, nan),
            exp(simd, nan),
            exp2_not_positive(simd, nan),
        ] {
            assert!(read(simd, vector).iter().all(|lane| lane.is_nan()), "{}", S::NAME);
        }
    });
}

#[test]
fn an_unknown_instruction_set_is_refused_with_what_there_is() {
    let error = Isa::parse("mmx").map(Isa::name).unwrap_err();
    assert_eq!(error.available.last(), Some(&"scalar"));
    assert!(error.to_string().starts_with("this CPU has "));
    for isa in Isa::all() {
        assert_eq!(Isa::parse(isa.name()).map(Isa::name), Ok(isa.name()));
    }
}
