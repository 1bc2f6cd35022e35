//! Arithmetic as reduced-precision units do it, imitated: the factors of every product are rounded to
//! few bits, products and sums are float32. Tensor cores and matrix units compute so in tf32 and bf16.
//! For measuring how far sound trainers in these precisions stray; see `grade.rs`.

use super::Plain;
use crate::backend::Backend;
use num_traits::{Float, Num, NumCast, One, ToPrimitive, Zero};
use std::iter::Sum;
use std::num::FpCategory;
use std::ops::{
    Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Rem, RemAssign, Sub, SubAssign,
};

/// A float32 of which a product keeps the upper `BITS` bits of the mantissa: 10 for tf32, 7 for bf16.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Short<const BITS: u32>(f32);

/// tf32: 10 bits of mantissa.
pub type Tf32 = Short<10>;
/// bfloat16: 7 bits of mantissa.
pub type Bf16 = Short<7>;

/// The reference in tf32 and in bf16, as backends. Made here, where the code is optimised even in a
/// build for tests.
pub fn short_backends() -> [&'static dyn Backend; 2] {
    static TF32: Plain<Tf32> = Plain::new();
    static BF16: Plain<Bf16> = Plain::new();
    [&TF32, &BF16]
}

impl<const BITS: u32> Short<BITS> {
    /// To the nearest value that has so many bits, ties to even. Infinite and NaN stay what they are.
    fn factor(self) -> f32 {
        if !self.0.is_finite() {
            return self.0;
        }
        let dropped = 23 - BITS;
        let bits = self.0.to_bits();
        let half_less_one = (1 << (dropped - 1)) - 1 + ((bits >> dropped) & 1);
        f32::from_bits((bits + half_less_one) >> dropped << dropped)
    }
}

impl<const BITS: u32> Mul for Short<BITS> {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        Short(self.factor() * other.factor())
    }
}

macro_rules! as_float32 {
    ($($operator:ident $method:ident;)*) => {$(
        impl<const BITS: u32> $operator for Short<BITS> {
            type Output = Self;

            fn $method(self, other: Self) -> Self {
                Short(self.0.$method(other.0))
            }
        }
    )*};
}
as_float32! { Add add; Sub sub; Div div; Rem rem; }

macro_rules! assigning {
    ($($operator:ident $method:ident $plain:ident;)*) => {$(
        impl<const BITS: u32> $operator for Short<BITS> {
            fn $method(&mut self, other: Self) {
                *self = self.$plain(other);
            }
        }
    )*};
}
assigning! {
    AddAssign add_assign add; SubAssign sub_assign sub; MulAssign mul_assign mul;
    DivAssign div_assign div; RemAssign rem_assign rem;
}

impl<const BITS: u32> Neg for Short<BITS> {
    type Output = Self;

    fn neg(self) -> Self {
        Short(-self.0)
    }
}

impl<const BITS: u32> Sum for Short<BITS> {
    fn sum<I: Iterator<Item = Self>>(values: I) -> Self {
        values.fold(Self::default(), Add::add)
    }
}

impl<const BITS: u32> Zero for Short<BITS> {
    fn zero() -> Self {
        Short(0.0)
    }

    fn is_zero(&self) -> bool {
        self.0 == 0.0
    }
}

impl<const BITS: u32> One for Short<BITS> {
    fn one() -> Self {
        Short(1.0)
    }
}

impl<const BITS: u32> From<u8> for Short<BITS> {
    fn from(value: u8) -> Self {
        Short(value.into())
    }
}

impl<const BITS: u32> From<f32> for Short<BITS> {
    fn from(value: f32) -> Self {
        Short(value)
    }
}

impl<const BITS: u32> From<Short<BITS>> for f64 {
    fn from(value: Short<BITS>) -> f64 {
        value.0.into()
    }
}

impl<const BITS: u32> ToPrimitive for Short<BITS> {
    fn to_i64(&self) -> Option<i64> {
        self.0.to_i64()
    }

    fn to_u64(&self) -> Option<u64> {
        self.0.to_u64()
    }

    fn to_f64(&self) -> Option<f64> {
        Some(self.0.into())
    }
}

impl<const BITS: u32> NumCast for Short<BITS> {
    fn from<T: ToPrimitive>(value: T) -> Option<Self> {
        value.to_f32().map(Short)
    }
}

impl<const BITS: u32> Num for Short<BITS> {
    type FromStrRadixErr = num_traits::ParseFloatError;

    fn from_str_radix(text: &str, radix: u32) -> Result<Self, Self::FromStrRadixErr> {
        f32::from_str_radix(text, radix).map(Short)
    }
}

macro_rules! delegated {
    ($(constant $constant:ident;)* $(is $test:ident;)* $(map $map:ident;)* $(pair $pair:ident;)*) => {
        $(fn $constant() -> Self { Short(<f32 as Float>::$constant()) })*
        $(fn $test(self) -> bool { self.0.$test() })*
        $(fn $map(self) -> Self { Short(self.0.$map()) })*
        $(fn $pair(self, other: Self) -> Self { Short(self.0.$pair(other.0)) })*
    };
}

/// Only what the reference uses has to be exact; everything else is float32's.
impl<const BITS: u32> Float for Short<BITS> {
    delegated! {
        constant nan; constant infinity; constant neg_infinity; constant neg_zero;
        constant min_value; constant min_positive_value; constant max_value;
        is is_nan; is is_infinite; is is_finite; is is_normal; is is_sign_positive;
        is is_sign_negative;
        map floor; map ceil; map round; map trunc; map fract; map abs; map signum; map recip;
        map sqrt; map exp; map exp2; map ln; map log2; map log10; map cbrt; map sin; map cos; map tan;
        map asin; map acos; map atan; map exp_m1; map ln_1p; map sinh; map cosh; map tanh; map asinh;
        map acosh; map atanh;
        pair powf; pair log; pair max; pair min; pair hypot; pair atan2;
    }

    fn classify(self) -> FpCategory {
        self.0.classify()
    }

    fn mul_add(self, factor: Self, summand: Self) -> Self {
        self * factor + summand
    }

    fn powi(self, exponent: i32) -> Self {
        Short(self.0.powi(exponent))
    }

    fn abs_sub(self, other: Self) -> Self {
        Short((self.0 - other.0).max(0.0))
    }

    fn sin_cos(self) -> (Self, Self) {
        let (sine, cosine) = self.0.sin_cos();
        (Short(sine), Short(cosine))
    }

    fn integer_decode(self) -> (u64, i16, i8) {
        Float::integer_decode(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_rounded_to_nearest_even_and_sums_are_not() {
        let short = |value: f32| -> Bf16 { value.into() };
        assert_eq!(short(1.0 + 1.0 / 256.0).factor(), 1.0); // a tie
        assert_eq!(short(1.0 + 3.0 / 256.0).factor(), 1.0 + 4.0 / 256.0); // a tie
        assert_eq!(short(-1.005).factor(), -1.0078125);
        assert_eq!(short(f32::MAX).factor(), f32::INFINITY);
        assert_eq!((short(1.0) + short(1.0 / 256.0)).0, 1.0 + 1.0 / 256.0);
        let kept: Tf32 = (1.0 + 1.0 / 256.0_f32).into();
        assert_eq!(kept.factor(), 1.0 + 1.0 / 256.0);
        assert!(short(f32::NAN).factor().is_nan());
    }
}
