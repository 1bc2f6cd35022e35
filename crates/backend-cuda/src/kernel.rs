//! Compiled kernels and their launches.

use crate::driver::{Address, Gpu};
use cudarc::driver::result;
use cudarc::driver::sys;
use flate2::read::GzDecoder;
use nn::backend::TrainError;
use std::ffi::{CString, c_void};
use std::io::Read;
use std::rc::Rc;

impl Gpu {
    /// Compiles embedded PTX for this device.
    pub(crate) fn load(self: &Rc<Self>, ptx: &'static Ptx) -> Result<Module, TrainError> {
        self.compile(ptx.name, ptx.text())
    }

    pub(crate) fn compile(
        self: &Rc<Self>,
        name: &str,
        text: Vec<u8>,
    ) -> Result<Module, TrainError> {
        let image = CString::new(text).expect("PTX is text without zeros");
        // SAFETY: the image is a string that ends with a zero byte.
        let handle = unsafe { result::module::load_data(image.as_ptr().cast()) }
            .map_err(|error| self.error(&format!("compiling {name}"), error))?;
        Ok(Module { gpu: Rc::clone(self), handle })
    }
}

/// Embedded machine-independent code: see `ptx/`.
pub(crate) struct Ptx {
    pub(crate) name: &'static str,
    /// Of gzip: a fifth of the text.
    pub(crate) packed: &'static [u8],
}

impl Ptx {
    fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        let read = GzDecoder::new(self.packed).read_to_end(&mut text);
        read.unwrap_or_else(|error| panic!("{} is embedded whole: {error}", self.name));
        text
    }
}

/// Compiled kernels.
pub(crate) struct Module {
    gpu: Rc<Gpu>,
    handle: sys::CUmodule,
}

impl Module {
    /// One kernel, with leave to use so much dynamic shared memory per block.
    pub(crate) fn kernel(
        self: &Rc<Self>,
        name: &'static str,
        shared_bytes: usize,
    ) -> Result<Kernel, TrainError> {
        let failed = |error| self.gpu.error(&format!("looking up {name}"), error);
        let symbol = CString::new(name).expect("kernel names are identifiers");
        // SAFETY: the module is alive, and the kernel keeps it so.
        let function =
            unsafe { result::module::get_function(self.handle, symbol) }.map_err(failed)?;
        if shared_bytes > WITHOUT_ASKING_BYTES {
            let attribute =
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is alive.
            unsafe {
                result::function::set_function_attribute(function, attribute, shared_bytes as i32)
            }
            .map_err(|error| {
                self.gpu.error(&format!("{shared_bytes} bytes of shared memory for {name}"), error)
            })?;
        }
        Ok(Kernel { module: Rc::clone(self), function, name, shared_bytes: shared_bytes as u32 })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.gpu.abandoned.get() {
            return;
        }
        // SAFETY: kernels own a reference to the module: none is left.
        let _ = unsafe { result::module::unload(self.handle) };
    }
}

/// Shared memory that a kernel may use without asking, on every device.
const WITHOUT_ASKING_BYTES: usize = 48 * 1024;

/// One `extern "C" __global__` function.
pub(crate) struct Kernel {
    module: Rc<Module>,
    function: sys::CUfunction,
    name: &'static str,
    shared_bytes: u32,
}

/// How many blocks of how many threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) grid: [u32; 2],
    pub(crate) block: u32,
}

impl Shape {
    /// A row of blocks.
    pub(crate) fn row(blocks: usize, block: u32) -> Shape {
        Shape { grid: [blocks as u32, 1], block }
    }
}

/// How the bulk copy engine finds boxes of a matrix.
pub(crate) type TensorMap = sys::CUtensorMap;

impl Kernel {
    /// A map of a row-major matrix of bf16, for boxes that are 128 bytes wide and swizzled. Both are (rows,
    /// columns).
    pub(crate) fn tensor_map(
        &self,
        matrix: Address,
        [rows, columns]: [usize; 2],
        [box_rows, box_columns]: [usize; 2],
    ) -> Result<TensorMap, TrainError> {
        // SAFETY: numbers, all of which the call below writes.
        let mut map: TensorMap = unsafe { std::mem::zeroed() };
        let sizes = [columns as u64, rows as u64];
        let strides = [2 * columns as u64];
        let boxes = [box_columns as u32, box_rows as u32];
        let steps = [1_u32; 2];
        // SAFETY: two sizes, boxes and steps, one stride; the map is written and nothing is kept.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                2,
                matrix as *mut c_void,
                sizes.as_ptr(),
                strides.as_ptr(),
                boxes.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
        .result()
        .map_err(|error| self.module.gpu.error(&format!("a map for {}", self.name), error))?;
        Ok(map)
    }

    /// Enqueues the kernel with one argument, a struct.
    ///
    /// # Safety
    /// `A` is the kernel's parameter type as `kernels/` declares it, and what its addresses point
    /// to is as large as the kernel takes it to be for this shape, and lives until it is done.
    pub(crate) unsafe fn launch<A: Copy>(
        &self,
        shape: Shape,
        arguments: &A,
    ) -> Result<(), TrainError> {
        let mut pointers = [std::ptr::from_ref(arguments).cast_mut().cast::<c_void>()];
        let gpu = &self.module.gpu;
        // SAFETY: as this function's; the arguments are copied before the call returns.
        unsafe {
            result::launch_kernel(
                self.function,
                (shape.grid[0], shape.grid[1], 1),
                (shape.block, 1, 1),
                self.shared_bytes,
                gpu.stream(),
                &mut pointers,
            )
        }
        .map_err(|error| gpu.error(&format!("launching {}", self.name), error))
    }

    /// Enqueues the kernel if all its blocks can be resident at once, so that they may wait for
    /// each other.
    ///
    /// # Safety
    /// As [`Kernel::launch`].
    pub(crate) unsafe fn launch_resident<A: Copy>(
        &self,
        shape: Shape,
        arguments: &A,
    ) -> Result<(), TrainError> {
        let resident = attribute(
            sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE,
            sys::CUlaunchAttributeValue { cooperative: 1 },
        );
        // SAFETY: as this function's.
        unsafe { self.launch_with(shape, resident, arguments) }
    }

    /// Enqueues the kernel with its blocks in clusters of so many.
    ///
    /// # Safety
    /// As [`Kernel::launch`].
    pub(crate) unsafe fn launch_in_clusters<A: Copy>(
        &self,
        shape: Shape,
        size: u32,
        arguments: &A,
    ) -> Result<(), TrainError> {
        // SAFETY: as this function's.
        unsafe { self.launch_with(shape, in_clusters(size), arguments) }
    }

    /// # Safety
    /// As [`Kernel::launch`].
    unsafe fn launch_with<A: Copy>(
        &self,
        shape: Shape,
        attribute: sys::CUlaunchAttribute,
        arguments: &A,
    ) -> Result<(), TrainError> {
        let mut pointers = [std::ptr::from_ref(arguments).cast_mut().cast::<c_void>()];
        let mut attributes = [attribute];
        let config = self.config(shape, &mut attributes);
        let pointers = pointers.as_mut_ptr();
        // SAFETY: as this function's; the arguments are copied before the call returns.
        unsafe {
            sys::cuLaunchKernelEx(&raw const config, self.function, pointers, std::ptr::null_mut())
        }
        .result()
        .map_err(|error| self.module.gpu.error(&format!("launching {}", self.name), error))
    }

    fn config(
        &self,
        shape: Shape,
        attributes: &mut [sys::CUlaunchAttribute],
    ) -> sys::CUlaunchConfig {
        sys::CUlaunchConfig {
            gridDimX: shape.grid[0],
            gridDimY: shape.grid[1],
            gridDimZ: 1,
            blockDimX: shape.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shared_bytes,
            hStream: self.module.gpu.stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        }
    }

    /// How many blocks the device holds at a time in clusters of so many; each multiprocessor of a
    /// cluster is of the same group of them.
    pub(crate) fn resident_in_clusters(
        &self,
        size: u32,
        threads: usize,
    ) -> Result<usize, TrainError> {
        let shape = Shape::row(size as usize, threads as u32);
        let mut clusters = [in_clusters(size)];
        let config = self.config(shape, &mut clusters);
        let mut count = 0;
        // SAFETY: the function is alive; it writes one number.
        unsafe {
            sys::cuOccupancyMaxActiveClusters(&raw mut count, self.function, &raw const config)
        }
        .result()
        .map_err(|error| self.module.gpu.error(&format!("placing {}", self.name), error))?;
        Ok(count as usize * size as usize)
    }
}

fn in_clusters(size: u32) -> sys::CUlaunchAttribute {
    attribute(
        sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
        sys::CUlaunchAttributeValue {
            clusterDim: sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: size, y: 1, z: 1 },
        },
    )
}

fn attribute(
    id: sys::CUlaunchAttributeID,
    value: sys::CUlaunchAttributeValue,
) -> sys::CUlaunchAttribute {
    // SAFETY: all zeros is a value of its fields: an identifier that is set next, padding, and numbers.
    let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
    attribute.id = id;
    attribute.value = value;
    attribute
}

impl Kernel {
    /// How many blocks of so many threads the device holds at a time.
    pub(crate) fn resident_blocks(&self, threads: usize) -> Result<usize, TrainError> {
        let gpu = &self.module.gpu;
        let shared = self.shared_bytes as usize;
        // SAFETY: the function is alive.
        let each = unsafe {
            result::occupancy::max_active_block_per_multiprocessor(
                self.function,
                threads as i32,
                shared,
            )
        }
        .map_err(|error| gpu.error(&format!("placing {}", self.name), error))?;
        Ok(each as usize * gpu.device().multiprocessors)
    }
}
