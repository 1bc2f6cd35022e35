//! Products of large matrices through NVIDIA's cuBLASLt, which is loaded when it is asked for: what tensor cores
//! do in practice, in each precision that has them.
//!
//! The types and numbers are those of cublasLt.h, which have not changed since CUDA 11.
//!
//! Not run on a device yet: the choice of values, the names and the reasons are tested, the calls are not.

use cudarc::driver::sys;
use std::ffi::{c_int, c_void};

/// Names of the library, the newest first.
const NAMES: [&str; 3] = ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"];
/// Scratch memory that an algorithm may use: as much as NVIDIA recommends for Hopper.
const WORKSPACE_BYTES: usize = 32 << 20;
const TRANSPOSE_A: c_int = 3;
const TRANSPOSE: i32 = 1;
const WORKSPACE: c_int = 1;
const R_32F: c_int = 0;

type Status = c_int;
type Handle = *mut c_void;
type Address = sys::CUdeviceptr;

/// The type of the factors of a product; sums are float32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    Tf32,
    Bf16,
    Fp16,
}

impl Precision {
    pub(crate) const ALL: [Precision; 3] = [Precision::Tf32, Precision::Bf16, Precision::Fp16];

    /// `cublasComputeType_t` and `cudaDataType_t`.
    fn codes(self) -> (c_int, c_int) {
        match self {
            Precision::Tf32 => (77, R_32F),
            Precision::Bf16 => (68, 14),
            Precision::Fp16 => (68, 2),
        }
    }

    /// Bytes of values between 1/2 and 1 of both signs: power, and so the clock, depends on how many bits flip.
    pub(crate) fn values(self, count: usize) -> Vec<u8> {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u32
        };
        let value = |_| match (self, random()) {
            (Precision::Tf32, word) => (0x3F00_0000 | word & 0x807F_FFFF).to_le_bytes().to_vec(),
            (Precision::Bf16, word) => (0x3F00 | word as u16 & 0x807F).to_le_bytes().to_vec(),
            (Precision::Fp16, word) => (0x3800 | word as u16 & 0x83FF).to_le_bytes().to_vec(),
        };
        (0..count).flat_map(value).collect()
    }
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Proposal {
    algorithm: [u64; 8],
    workspace_bytes: usize,
    status: Status,
    waves: f32,
    reserved: [c_int; 4],
}

/// A function of the library by its name.
macro_rules! call {
    ($library:expr, $name:literal, ($($kind:ty),*), $($value:expr),*) => {{
        let function = $library.get::<unsafe extern "C" fn($($kind),*) -> Status>($name);
        match function.map_err(|error| format!("cuBLASLt: {error}"))?($($value),*) {
            0 => Ok(()),
            status => {
                let name = String::from_utf8_lossy($name).trim_end_matches('\0').to_owned();
                Err(format!("{name}: status {status}"))
            }
        }
    }};
}

/// The library, ready for the current device.
pub(crate) struct Library {
    handle: Handle,
    library: libloading::Library,
}

impl Library {
    /// # Errors
    /// Why it cannot be used.
    pub(crate) fn open() -> Result<Library, String> {
        // SAFETY: NVIDIA's library has no initialiser with effects that we would notice.
        let found = NAMES.iter().find_map(|name| unsafe { libloading::Library::new(*name) }.ok());
        let library = found.ok_or_else(|| {
            format!(
                "{} was not found: it comes with CUDA, or as the Python package nvidia-cublas, whose folder \
                 belongs into LD_LIBRARY_PATH",
                NAMES[0]
            )
        })?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: it writes a handle; the device's context is current.
        unsafe { call!(library, b"cublasLtCreate\0", (*mut Handle), &mut handle) }?;
        Ok(Library { handle, library })
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        let destroy = || -> Result<(), String> {
            // SAFETY: made once, destroyed once.
            unsafe { call!(self.library, b"cublasLtDestroy\0", (Handle), self.handle) }
        };
        let _ = destroy(); // nobody is left to hear it
    }
}

/// The product of two square matrices, the first of them transposed.
pub(crate) struct Product<'library> {
    library: &'library Library,
    descriptor: Handle,
    layout: Handle,
    algorithm: [u64; 8],
    workspace: Address,
}

impl<'library> Product<'library> {
    /// With the library's first choice of an algorithm. `workspace` has [`Product::workspace_bytes`].
    ///
    /// # Errors
    /// If the library has none for this device.
    pub(crate) fn new(
        library: &'library Library,
        precision: Precision,
        size: usize,
        workspace: Address,
    ) -> Result<Product<'library>, String> {
        let (compute, element) = precision.codes();
        let null = std::ptr::null_mut();
        let mut product =
            Product { library, descriptor: null, layout: null, algorithm: [0; 8], workspace };
        let open = &library.library;
        let (mut preference, mut count, mut proposal) = (null, 0, Proposal::default());
        // SAFETY: each call writes one descriptor, or reads a value of the size that it is told; at most one
        // proposal is written.
        unsafe {
            let side = size as u64;
            call!(
                open,
                b"cublasLtMatmulDescCreate\0",
                (*mut Handle, c_int, c_int),
                &mut product.descriptor,
                compute,
                R_32F
            )?;
            call!(
                open,
                b"cublasLtMatmulDescSetAttribute\0",
                (Handle, c_int, *const c_void, usize),
                product.descriptor,
                TRANSPOSE_A,
                std::ptr::from_ref(&TRANSPOSE).cast(),
                size_of::<i32>()
            )?;
            call!(
                open,
                b"cublasLtMatrixLayoutCreate\0",
                (*mut Handle, c_int, u64, u64, i64),
                &mut product.layout,
                element,
                side,
                side,
                side as i64
            )?;
            call!(open, b"cublasLtMatmulPreferenceCreate\0", (*mut Handle), &mut preference)?;
            let set = call!(
                open,
                b"cublasLtMatmulPreferenceSetAttribute\0",
                (Handle, c_int, *const c_void, usize),
                preference,
                WORKSPACE,
                std::ptr::from_ref(&WORKSPACE_BYTES).cast(),
                size_of::<usize>()
            );
            let matrix = product.layout;
            let chosen = call!(
                open,
                b"cublasLtMatmulAlgoGetHeuristic\0",
                (
                    Handle,
                    Handle,
                    Handle,
                    Handle,
                    Handle,
                    Handle,
                    Handle,
                    c_int,
                    *mut Proposal,
                    *mut c_int
                ),
                library.handle,
                product.descriptor,
                matrix,
                matrix,
                matrix,
                matrix,
                preference,
                1,
                &mut proposal,
                &mut count
            );
            call!(open, b"cublasLtMatmulPreferenceDestroy\0", (Handle), preference)?;
            set.and(chosen)?;
        }
        if count == 0 || proposal.status != 0 {
            return Err(format!("cuBLASLt has no algorithm for {precision:?} on this device"));
        }
        product.algorithm = proposal.algorithm;
        Ok(product)
    }

    pub(crate) fn workspace_bytes() -> usize {
        WORKSPACE_BYTES
    }

    /// Enqueues it.
    ///
    /// # Errors
    /// If the library refuses.
    ///
    /// # Safety
    /// The addresses are those of matrices of this product's size and precision on the current device, and the
    /// stream is that device's.
    pub(crate) unsafe fn enqueue(
        &self,
        [left, right, result]: [Address; 3],
        stream: sys::CUstream,
    ) -> Result<(), String> {
        let (one, none) = (1.0_f32, 0.0_f32);
        let matrix = self.layout;
        // SAFETY: as this function's; the factors are read before the call returns.
        unsafe {
            call!(
                self.library.library,
                b"cublasLtMatmul\0",
                (
                    Handle,
                    Handle,
                    *const f32,
                    Address,
                    Handle,
                    Address,
                    Handle,
                    *const f32,
                    Address,
                    Handle,
                    Address,
                    Handle,
                    *const [u64; 8],
                    Address,
                    usize,
                    sys::CUstream
                ),
                self.library.handle,
                self.descriptor,
                &one,
                left,
                matrix,
                right,
                matrix,
                &none,
                result,
                matrix,
                result,
                matrix,
                &self.algorithm,
                self.workspace,
                WORKSPACE_BYTES,
                stream
            )
        }
    }
}

impl Drop for Product<'_> {
    fn drop(&mut self) {
        let open = &self.library.library;
        let destroy = || -> Result<(), String> {
            // SAFETY: each was made once, if at all.
            unsafe {
                if !self.layout.is_null() {
                    call!(open, b"cublasLtMatrixLayoutDestroy\0", (Handle), self.layout)?;
                }
                if !self.descriptor.is_null() {
                    call!(open, b"cublasLtMatmulDescDestroy\0", (Handle), self.descriptor)?;
                }
            }
            Ok(())
        };
        let _ = destroy(); // nobody is left to hear it
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_finite_and_between_a_half_and_one() {
        let size = |value: f32| (0.5..1.0).contains(&value.abs());
        let bytes = Precision::Tf32.values(1000);
        assert!(bytes.as_chunks().0.iter().all(|&it| size(f32::from_le_bytes(it))));
        let bytes = Precision::Bf16.values(1000);
        let wide = |it: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*it)) << 16);
        assert!(bytes.as_chunks().0.iter().all(|it| size(wide(it))));
        let negative = bytes.as_chunks().0.iter().filter(|it| wide(it) < 0.0).count();
        assert!((300..700).contains(&negative), "{negative}");
        // Half precision: five bits of exponent, 14 for values from a half to one.
        let bytes = Precision::Fp16.values(1000);
        assert!(bytes.as_chunks().0.iter().all(|&it| u16::from_le_bytes(it) >> 10 & 31 == 14));
        assert_eq!(Precision::ALL.map(|it| it.values(3).len()), [12, 6, 6]);
    }

    #[test]
    fn without_the_library_the_reason_names_what_is_missing() {
        if let Err(reason) = Library::open() {
            assert!(reason.contains("ublasLt"), "{reason}");
        }
    }
}
