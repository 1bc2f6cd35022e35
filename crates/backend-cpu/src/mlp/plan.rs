//! Which way the first layer is computed: chosen by the density of the training images, or asked for
//! with `--plan`.

use mnist::{PIXELS, Split};

/// A way of the first layer; see [`super::first_layer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Pairs of pixels that are zero are skipped.
    Sparse,
    /// All pixels are computed.
    Dense,
}

/// From this share of pairs of pixels with one that is not zero, all are computed: where both ways
/// took the same time on Zen 4 with AVX-512 and 512 hidden units, on images of random pixels
/// (`benches/densities.rs`; with AVX2: 0.97).
const DENSE_FROM: f64 = 0.8;
/// Images that are looked at: enough for a percent, and a fraction of a millisecond.
const LOOKED_AT: usize = 1024;

impl Plan {
    /// The plan of that name, if there is one.
    pub fn parse(name: &str) -> Option<Plan> {
        match name {
            "sparse" => Some(Plan::Sparse),
            "dense" => Some(Plan::Dense),
            _ => None,
        }
    }

    /// The faster plan for images of this density.
    pub fn for_density(density: f64) -> Plan {
        if density < DENSE_FROM { Plan::Sparse } else { Plan::Dense }
    }

    /// For the record.
    pub fn path(self) -> &'static str {
        match self {
            Plan::Sparse => "zero pixels skipped",
            Plan::Dense => "all pixels computed",
        }
    }
}

/// The share of pairs of neighbouring pixels of which one is not zero, in images from all over the
/// set.
pub(super) fn density(data: &Split) -> f64 {
    let step = data.len().div_ceil(LOOKED_AT).max(1);
    let (mut pairs, mut set) = (0, 0);
    for image in data.images().chunks_exact(PIXELS).step_by(step) {
        pairs += PIXELS / 2;
        set += image.as_chunks::<2>().0.iter().filter(|&&pair| pair != [0, 0]).count();
    }
    if pairs == 0 { 0.0 } else { set as f64 / pairs as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_density_counts_pairs_and_decides_the_plan() {
        let split = |image: [u8; PIXELS], count: usize| {
            Split::new(image.repeat(count), vec![0; count]).unwrap()
        };
        let mut image = [0; PIXELS];
        image[..PIXELS / 2].fill(9);
        for count in [1, 5, 3000] {
            assert_eq!(density(&split(image, count)), 0.5);
        }
        let every_second = std::array::from_fn(|pixel| (pixel % 2) as u8);
        assert_eq!(density(&split(every_second, 2)), 1.0);
        assert_eq!(density(&split(image, 0)), 0.0);
        assert_eq!(Plan::for_density(0.2), Plan::Sparse);
        assert_eq!(Plan::for_density(1.0), Plan::Dense);
    }
}
