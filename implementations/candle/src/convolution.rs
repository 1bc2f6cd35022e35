//! The convolution's windows, and a max-pool whose gradient goes to the first of the largest values, which
//! candle's own does not do: in 0.11.1 its backward pass gives a maximum a quarter of its gradient, and
//! `maximum` halves it between equals.
//!
//! Rows are (image, place in the pooling window, pooled row, pooled column): the four values that are
//! pooled lie a plane of 14 x 14 x 8 apart.

use crate::layout::{PADDED, PLANE};
use crate::ops::values;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use nn::POOLED;

/// Places in a pooling window.
const PLACES: usize = 4;
/// Factors of an output: a 3x3 window, then the 1 of the bias.
const FACTORS: usize = 10;

/// (batch, 30 x 30) to (batch x 4 x 14 x 14, 10).
pub struct Windows;

impl CustomOp1 for Windows {
    fn name(&self) -> &'static str {
        "windows"
    }

    fn cpu_fwd(&self, images: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let images = values(images, layout)?.chunks(PADDED * PADDED);
        let rows = images.len() * PLACES * PLANE;
        let mut windows = Vec::with_capacity(rows * FACTORS);
        for image in images {
            for place in 0..PLACES {
                for pooled in 0..PLANE {
                    let (y, x) = (pooled / 14 * 2 + place / 2, pooled % 14 * 2 + place % 2);
                    for row in y..y + 3 {
                        windows.extend_from_slice(&image[row * PADDED + x..][..3]);
                    }
                    windows.push(1.0);
                }
            }
        }
        Ok((CpuStorage::F32(windows), (rows, FACTORS).into()))
    }
}

/// The four planes of an image, (4 x 14 x 14 x 8), one by one.
fn planes(image: &[f32]) -> [&[f32]; PLACES] {
    let mut planes = image.chunks(POOLED);
    [(); PLACES].map(|()| planes.next().expect("an image has four planes"))
}

/// (batch x 4 x 14 x 14, 8) to (batch x 14 x 14, 8).
pub struct Pool;

impl CustomOp1 for Pool {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn cpu_fwd(&self, maps: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, filters) = layout.shape().dims2()?;
        let mut pooled = Vec::with_capacity(rows / PLACES * filters);
        for image in values(maps, layout)?.chunks(PLACES * POOLED) {
            let [a, b, c, d] = planes(image);
            let larger = |a: f32, b: f32| if b > a { b } else { a };
            pooled.extend((0..POOLED).map(|at| larger(larger(larger(a[at], b[at]), c[at]), d[at])));
        }
        Ok((CpuStorage::F32(pooled), (rows / PLACES, filters).into()))
    }

    fn bwd(&self, maps: &Tensor, _pooled: &Tensor, d_pooled: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(maps.apply_op2_no_bwd(&d_pooled.contiguous()?, &PoolGradient)?))
    }
}

/// The gradient at the first of the largest, 0 elsewhere.
struct PoolGradient;

impl CustomOp2 for PoolGradient {
    fn name(&self) -> &'static str {
        "pool-gradient"
    }

    fn cpu_fwd(
        &self,
        maps: &CpuStorage,
        layout: &Layout,
        d_pooled: &CpuStorage,
        d_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (maps, d_pooled) = (values(maps, layout)?, values(d_pooled, d_layout)?);
        let mut d_maps = vec![0.0; maps.len()];
        let images = maps.chunks(PLACES * POOLED).zip(d_pooled.chunks(POOLED));
        for (d_image, (image, d_pooled)) in d_maps.chunks_mut(PLACES * POOLED).zip(images) {
            let planes = planes(image);
            for (at, &slope) in d_pooled.iter().enumerate() {
                let mut first = 0;
                for place in 1..PLACES {
                    if planes[place][at] > planes[first][at] {
                        first = place;
                    }
                }
                d_image[first * POOLED + at] = slope;
            }
        }
        Ok((CpuStorage::F32(d_maps), layout.shape().clone()))
    }
}
