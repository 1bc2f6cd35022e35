//! Matrix products on AMX, the tiles of bfloat16 products in Intel's server CPUs since 2023.
//!
//! A float32 is split into three bfloat16 numbers whose sum it is, exactly: eight bits each of its 24.
//! The product of two is then the sum of nine products, of which the three smallest are below its last
//! bit (2^-25 of it and less). The other six are summed in float32, by tiles that multiply 16 times as
//! fast as AVX-512: as exact as float32 multiply-adds, and 2.7 times as fast (Henry, Tang and
//! Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision
//! Computations", 2019). With one part instead of three it is a product of bfloat16 numbers.
//!
//! Tiles take the depth in pairs. Here a pair is `(k, k + 16)` of a block of [`DEPTH`]: a row of a panel
//! and the one 16 rows on, or a vector of one panel and of the next, so that two vectors of floats
//! make up one of pairs with a shift and an `or`, and nothing is shuffled.
//!
//! The intrinsics are not stable yet, so the instructions are written out. The system has to allow a
//! process to use tiles, which Linux does when it is asked.

use super::product::PANEL;
use crate::finish::Finish;
use crate::simd::Simd;

/// Steps of the depth that a tile takes: 16 pairs.
pub const DEPTH: usize = 2 * PANEL;
/// Elements of a tile, 16 rows of 16 pairs.
pub const TILE: usize = PANEL * DEPTH;

/// How many bfloat16 numbers stand for a float.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// Rounded.
    One,
    /// Exactly.
    Three,
}

impl Parts {
    pub fn count(self) -> usize {
        match self {
            Parts::One => 1,
            Parts::Three => 3,
        }
    }

    /// Elements that a block of the depth asks for ahead: a sixth of two panels' block with three parts,
    /// an eighth with one.
    pub fn ahead(self) -> usize {
        match self {
            Parts::One => TILE / 4,
            Parts::Three => TILE,
        }
    }
}

/// Tiles of parts that a matrix of so many panels by so much depth takes.
pub fn tiles(panels: usize, depth: usize) -> usize {
    panels * depth.div_ceil(DEPTH)
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use linux::Amx;

/// There is none.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub use none::Amx;

/// A product of 32 rows and two panels of the result, or of what there is of them.
#[derive(Clone, Copy)]
pub struct Block<'data> {
    /// (depth blocks, parts, 2, 16 rows, 16 pairs)
    pub left: &'data [u16],
    /// (depth blocks, parts, 16 pairs, 16 columns, 2) of two panels, which may be the same.
    pub right: [&'data [u16]; 2],
    pub depth_blocks: usize,
    /// What is multiplied soon: [`Parts::ahead`] of it is asked for with each block of the depth.
    pub ahead: *const u16,
}

/// Hands a block's sums, (32, 32), to a `Finish`: `rows` of them from `row` on, and the columns
/// of `panels` panels from `panel` on.
///
/// # Panics
/// Unless a vector is a panel wide.
#[inline(always)]
pub fn finish<S: Simd>(
    simd: S,
    (row, rows): (usize, usize),
    (panel, panels): (usize, usize),
    sums: &[f32],
    to: &mut impl Finish,
) {
    assert!(S::LANES == PANEL && sums.len() == DEPTH * DEPTH && rows <= DEPTH && panels <= 2);
    // SAFETY: rows and panels within 32 by 32.
    let load = |r: usize, c: usize| unsafe { simd.load(sums.as_ptr().add(r * DEPTH + c * PANEL)) };
    let mut r = 0;
    while panels == 2 && r + 8 <= rows {
        let mut tile = [[simd.splat(0.0); 2]; 8];
        for (i, tile) in tile.iter_mut().enumerate() {
            *tile = [load(r + i, 0), load(r + i, 1)];
        }
        to.tile(simd, row + r, panel, &tile);
        r += 8;
    }
    while r < rows {
        for c in 0..panels {
            to.tile(simd, row + r, panel + c, &[[load(r, c)]]);
        }
        r += 1;
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod linux {
    use super::{Block, DEPTH, PANEL, Parts, TILE};
    use std::arch::asm;
    use std::arch::x86_64::*;
    use std::sync::OnceLock;

    /// Proof that this CPU has AMX with bfloat16 and AVX-512, and that this process may use it.
    #[derive(Clone, Copy, Debug)]
    pub struct Amx(());

    /// The tiles' shapes, as the instruction `ldtilecfg` reads them.
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    impl Amx {
        /// The token, if there is AMX. Asks the system for it once.
        pub fn detect() -> Option<Amx> {
            static THERE: OnceLock<bool> = OnceLock::new();
            THERE.get_or_init(there).then_some(Amx(()))
        }

        /// Shapes the calling thread's tiles. To be called before its first [`Amx::multiply`] and after
        /// each [`Amx::release`].
        pub fn configure(self) {
            let mut configuration = Configuration {
                palette: 1,
                start_row: 0,
                reserved: [0; 14],
                row_bytes: [0; 16],
                rows: [0; 16],
            };
            configuration.row_bytes[..8].fill(64);
            configuration.rows[..8].fill(16);
            // SAFETY: 64 bytes in the format of palette 1, says the token.
            unsafe {
                asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack));
            }
        }

        /// Lets go of the tiles, so that a switch of threads need not save them.
        pub fn release(self) {
            // SAFETY: the token; no tile is in use outside `multiply`.
            unsafe { asm!("tilerelease", options(nostack, nomem)) };
        }

        /// Sums of a block, (32, 32).
        ///
        /// # Panics
        /// If an operand or the result does not have the elements that it should.
        pub fn multiply(self, parts: Parts, block: Block<'_>, sums: &mut [f32]) {
            let Block { left, right, depth_blocks, ahead } = block;
            let one = depth_blocks * parts.count() * TILE;
            assert!(depth_blocks > 0 && left.len() >= 2 * one && sums.len() == DEPTH * DEPTH);
            assert!(right.iter().all(|right| right.len() >= one));
            let (left, sums) = (left.as_ptr(), sums.as_mut_ptr());
            let right = right.map(<[u16]>::as_ptr);
            // SAFETY: whole tiles of each, see above.
            unsafe {
                match parts {
                    Parts::One => one_part(left, right, depth_blocks, ahead, sums),
                    Parts::Three => three_parts(left, right, depth_blocks, ahead, sums),
                }
            }
        }

        /// The parts of 32 rows of a panel, or of those that there are, as a right matrix: pairs of
        /// rows. `to`: (parts, 16, 16, 2).
        ///
        /// # Panics
        /// If `from` are no rows, or more than 32, or `to` is too short.
        pub fn split_right(self, parts: Parts, from: &[f32], to: &mut [u16]) {
            assert!(from.len().is_multiple_of(PANEL) && from.len() <= DEPTH * PANEL);
            assert!(to.len() >= parts.count() * TILE);
            // SAFETY: the token; whole rows, see above.
            unsafe { split_right(parts, from, to.as_mut_ptr()) }
        }

        /// The parts of 16 rows of two panels, or of those rows that there are, as a left matrix:
        /// pairs of columns. Without a second panel it is zero. Part `p` goes to `p * stride` of `to`.
        ///
        /// # Panics
        /// If a panel's part are no rows, or more than 16, or `to` is too short.
        pub fn split_left(self, parts: Parts, from: [&[f32]; 2], to: &mut [u16], stride: usize) {
            let [first, second] = from;
            assert!(first.len().is_multiple_of(PANEL) && first.len() <= PANEL * PANEL);
            assert!(second.is_empty() || second.len() == first.len());
            assert!(to.len() >= (parts.count() - 1) * stride + TILE);
            // SAFETY: the token; whole rows, see above.
            unsafe { split_left(parts, from, to.as_mut_ptr(), stride) }
        }
    }

    fn there() -> bool {
        /// `ARCH_REQ_XCOMP_PERM` of the system call `arch_prctl`.
        const REQUEST: u64 = 0x1023;
        /// The state component with the tiles' contents.
        const TILE_DATA: u64 = 18;
        #[allow(unused_unsafe)] // a safe function only in later compilers than the oldest supported
        // SAFETY: every x86-64 CPU has the instruction.
        let features = unsafe {
            if __cpuid(0).eax < 7 {
                return false;
            }
            __cpuid_count(7, 0).edx
        };
        let (bf16, tiles) = (features >> 22 & 1 == 1, features >> 24 & 1 == 1);
        if !(bf16 && tiles && is_x86_feature_detected!("avx512bw")) {
            return false;
        }
        let result: i64;
        // SAFETY: the system call takes two numbers and changes nothing but the permission.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") 158_i64 => result,
                in("rdi") REQUEST,
                in("rsi") TILE_DATA,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        result == 0
    }

    /// The part of 8 bits that is nearest to each lane (Veltkamp's splitting), and the rest.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn part(value: __m512) -> (__m512, __m512) {
        let scaled = _mm512_mul_ps(value, _mm512_set1_ps(65_537.0)); // 2^16 + 1
        let high = _mm512_sub_ps(scaled, _mm512_sub_ps(scaled, value));
        (high, _mm512_sub_ps(value, high))
    }

    /// Pairs of bfloat16 numbers from two vectors of floats that have no more bits.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn pairs(first: __m512, second: __m512) -> __m512i {
        let first = _mm512_srli_epi32::<16>(_mm512_castps_si512(first));
        let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
        _mm512_or_si512(first, _mm512_and_si512(_mm512_castps_si512(second), high))
    }

    /// Writes the parts of two vectors as pairs, `stride` elements apart.
    ///
    /// # Safety
    /// `to` must be writable for as many vectors as there are parts.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn split(parts: Parts, first: __m512, second: __m512, to: *mut u16, stride: usize) {
        let ((high1, rest1), (high2, rest2)) = (part(first), part(second));
        // SAFETY: says the caller.
        unsafe {
            _mm512_storeu_si512(to.cast(), pairs(high1, high2));
            if parts == Parts::Three {
                let ((middle1, low1), (middle2, low2)) = (part(rest1), part(rest2));
                _mm512_storeu_si512(to.add(stride).cast(), pairs(middle1, middle2));
                _mm512_storeu_si512(to.add(2 * stride).cast(), pairs(low1, low2));
            }
        }
    }

    /// # Safety
    /// As [`Amx::split_right`] has checked.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn split_right(parts: Parts, from: &[f32], to: *mut u16) {
        let rows = from.len() / PANEL;
        for k in 0..PANEL {
            // SAFETY: rows that are there; 16 vectors for each part.
            unsafe {
                let row = |row: usize| match row < rows {
                    true => _mm512_loadu_ps(from.as_ptr().add(row * PANEL)),
                    false => _mm512_setzero_ps(),
                };
                split(parts, row(k), row(k + PANEL), to.add(k * DEPTH), TILE);
            }
        }
    }

    /// # Safety
    /// As [`Amx::split_left`] has checked.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn split_left(parts: Parts, [first, second]: [&[f32]; 2], to: *mut u16, stride: usize) {
        let rows = first.len() / PANEL;
        for row in 0..PANEL {
            // SAFETY: rows that are there; 16 vectors for each part.
            unsafe {
                let (mut low, mut high) = (_mm512_setzero_ps(), _mm512_setzero_ps());
                if row < rows {
                    low = _mm512_loadu_ps(first.as_ptr().add(row * PANEL));
                    if !second.is_empty() {
                        high = _mm512_loadu_ps(second.as_ptr().add(row * PANEL));
                    }
                }
                split(parts, low, high, to.add(row * DEPTH), stride);
            }
        }
    }

    /// Asks for four lines from `ahead` on.
    macro_rules! fetch {
        ($($offset:literal),+) => {
            concat!($("prefetcht1 [{ahead} + ", $offset, "]\n"),+)
        };
    }

    /// The four products of the tiles that are loaded.
    macro_rules! four {
        () => {
            "tdpbf16ps tmm0, tmm4, tmm6
             tdpbf16ps tmm1, tmm4, tmm7
             tdpbf16ps tmm2, tmm5, tmm6
             tdpbf16ps tmm3, tmm5, tmm7"
        };
    }

    /// Sums of (32, 32) in four tiles over all blocks of the depth, each of which takes these instructions.
    macro_rules! over_depth {
        ([$left:expr, $right:expr, $depth:expr, $ahead:expr, $sums:expr], $($instruction:expr),+ $(,)?) => {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                $($instruction,)+
                "dec {depth}",
                "jnz 2b",
                "add {row}, {row}",
                "tilestored [{sums} + {row}], tmm0",
                "tilestored [{sums} + {row} + 64], tmm1",
                "tilestored [{sums} + {row} + 2048], tmm2",
                "tilestored [{sums} + {row} + 2112], tmm3",
                left = inout(reg) $left => _,
                right0 = inout(reg) $right[0] => _,
                right1 = inout(reg) $right[1] => _,
                depth = inout(reg) $depth => _,
                ahead = inout(reg) $ahead => _,
                sums = in(reg) $sums,
                row = inout(reg) 64_usize => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            )
        };
    }

    /// # Safety
    /// `left` must be readable for `2 * depth` tiles, each of `right` for `depth`, `sums` writable for
    /// (32, 32), and the tiles configured.
    unsafe fn one_part(
        left: *const u16,
        right: [*const u16; 2],
        depth: usize,
        ahead: *const u16,
        sums: *mut f32,
    ) {
        // SAFETY: says the caller.
        unsafe {
            over_depth!(
                [left, right, depth, ahead, sums],
                "tileloadd tmm4, [{left} + {row}]",
                "tileloadd tmm6, [{right0} + {row}]",
                "tileloadd tmm7, [{right1} + {row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{left} + {row} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                fetch!(0, 64, 128, 192),
                "add {ahead}, 256",
                "add {left}, 2048",
                "add {right0}, 1024",
                "add {right1}, 1024",
            );
        }
    }

    /// As [`one_part`], with three times as many tiles. Of each block of the depth, first the parts of
    /// the left matrix that are high with low, middle and high ones of the right matrix, then middle
    /// ones with high and middle ones, then low ones with high ones.
    ///
    /// # Safety
    /// As of [`one_part`], for three times as many tiles.
    unsafe fn three_parts(
        left: *const u16,
        right: [*const u16; 2],
        depth: usize,
        ahead: *const u16,
        sums: *mut f32,
    ) {
        // SAFETY: says the caller.
        unsafe {
            over_depth!(
                [left, right, depth, ahead, sums],
                "tileloadd tmm4, [{left} + {row}]",
                "tileloadd tmm5, [{left} + {row} + 1024]",
                "tileloadd tmm6, [{right0} + {row} + 2048]",
                "tileloadd tmm7, [{right1} + {row} + 2048]",
                four!(),
                fetch!(0, 64, 128, 192),
                "tileloadd tmm6, [{right0} + {row} + 1024]",
                "tileloadd tmm7, [{right1} + {row} + 1024]",
                four!(),
                "tileloadd tmm6, [{right0} + {row}]",
                "tileloadd tmm7, [{right1} + {row}]",
                four!(),
                fetch!(256, 320, 384, 448),
                "tileloadd tmm4, [{left} + {row} + 2048]",
                "tileloadd tmm5, [{left} + {row} + 3072]",
                four!(),
                "tileloadd tmm6, [{right0} + {row} + 1024]",
                "tileloadd tmm7, [{right1} + {row} + 1024]",
                four!(),
                fetch!(512, 576, 640, 704),
                "tileloadd tmm4, [{left} + {row} + 4096]",
                "tileloadd tmm5, [{left} + {row} + 5120]",
                "tileloadd tmm6, [{right0} + {row}]",
                "tileloadd tmm7, [{right1} + {row}]",
                four!(),
                fetch!(768, 832, 896, 960),
                "add {ahead}, 1024",
                "add {left}, 6144",
                "add {right0}, 3072",
                "add {right1}, 3072",
            );
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod none {
    use super::{Block, Parts};

    /// No value: there is no AMX.
    #[derive(Clone, Copy, Debug)]
    pub enum Amx {}

    impl Amx {
        pub fn detect() -> Option<Amx> {
            None
        }

        pub fn configure(self) {
            match self {}
        }

        pub fn release(self) {
            match self {}
        }

        pub fn multiply(self, _: Parts, _: Block<'_>, _: &mut [f32]) {
            match self {}
        }

        pub fn split_right(self, _: Parts, _: &[f32], _: &mut [u16]) {
            match self {}
        }

        pub fn split_left(self, _: Parts, _: [&[f32]; 2], _: &mut [u16], _: usize) {
            match self {}
        }
    }
}
