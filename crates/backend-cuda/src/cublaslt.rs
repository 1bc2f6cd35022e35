//! Matrix products through NVIDIA's cuBLASLt, loaded at run time like the driver: row-major matrices,
//! sums in float32, the fastest of the algorithms that the library proposes. Only what the GPT's linear
//! layers need.
//!
//! The types and numbers are those of cublasLt.h, which have not changed since CUDA 11.

use crate::driver::{Address, Gpu};
use crate::scratch::Scratch;
use nn::backend::{TrainError, Unavailable};
use std::ffi::{c_int, c_void};
use std::rc::Rc;

/// Names of the library, the newest first.
const NAMES: [&str; 3] = ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"];

type Status = c_int;
type Handle = *mut c_void;
type Descriptor = *mut c_void;
type Stream = *mut c_void;

const COMPUTE_32F: c_int = 68;
const R_32F: c_int = 0;
const R_16BF: c_int = 14;
const OPERATION_TRANSPOSE: i32 = 1;
// Attributes of a product.
const TRANSPOSE_A: c_int = 3;
const TRANSPOSE_B: c_int = 4;
const EPILOGUE: c_int = 7;
const EPILOGUE_AUX_POINTER: c_int = 11;
const EPILOGUE_AUX_LEADING: c_int = 12;
const PREFERENCE_WORKSPACE_BYTES: c_int = 1;

/// For questions about products whose epilogue has an operand: as aligned as those.
const SOME_ADDRESS: Address = 1 << 20;

/// Scratch memory that an algorithm may use: as much as NVIDIA recommends for Hopper.
pub(crate) const WORKSPACE_BYTES: usize = 32 << 20;
/// Algorithms that are tried for each product.
const CANDIDATES: usize = 16;
/// How often each is timed.
const REPEATS: usize = 3;
/// What another algorithm than the library's first choice has to gain, so that noise does not choose.
pub(crate) const GAIN: f64 = 0.98;

#[repr(C)]
#[derive(Clone, Copy)]
struct Algorithm([u64; 8]);

#[repr(C)]
#[derive(Clone, Copy)]
struct Proposal {
    algorithm: Algorithm,
    workspace_bytes: usize,
    status: Status,
    waves: f32,
    reserved: [c_int; 4],
}

/// The functions of the library.
#[derive(Clone, Copy)]
struct Functions {
    create: unsafe extern "C" fn(*mut Handle) -> Status,
    destroy: unsafe extern "C" fn(Handle) -> Status,
    version: unsafe extern "C" fn() -> usize,
    product_create: unsafe extern "C" fn(*mut Descriptor, c_int, c_int) -> Status,
    product_destroy: unsafe extern "C" fn(Descriptor) -> Status,
    product_set: unsafe extern "C" fn(Descriptor, c_int, *const c_void, usize) -> Status,
    layout_create: unsafe extern "C" fn(*mut Descriptor, c_int, u64, u64, i64) -> Status,
    layout_destroy: unsafe extern "C" fn(Descriptor) -> Status,
    preference_create: unsafe extern "C" fn(*mut Descriptor) -> Status,
    preference_destroy: unsafe extern "C" fn(Descriptor) -> Status,
    preference_set: unsafe extern "C" fn(Descriptor, c_int, *const c_void, usize) -> Status,
    propose: unsafe extern "C" fn(
        Handle,
        Descriptor,
        Descriptor,
        Descriptor,
        Descriptor,
        Descriptor,
        Descriptor,
        c_int,
        *mut Proposal,
        *mut c_int,
    ) -> Status,
    multiply: unsafe extern "C" fn(
        Handle,
        Descriptor,
        *const f32,
        Address,
        Descriptor,
        Address,
        Descriptor,
        *const f32,
        Address,
        Descriptor,
        Address,
        Descriptor,
        *const Algorithm,
        Address,
        usize,
        Stream,
    ) -> Status,
}

/// What computes a product in place of the library, as [`Product::enqueue`] would.
pub(crate) type Replacement = Box<dyn Fn(&Recipe, Operands) -> Result<(), TrainError>>;

/// The library, ready for one device.
pub(crate) struct CublasLt {
    gpu: Rc<Gpu>,
    functions: Functions,
    handle: Handle,
    scratch: Rc<Scratch>,
    /// How much of it algorithms may use.
    workspace_bytes: usize,
    replacement: Option<Replacement>,
    // Dropped last: the functions are in it.
    _library: libloading::Library,
}

impl CublasLt {
    /// Loads the library, for algorithms that need at most so much scratch memory.
    pub(crate) fn open(
        gpu: &Rc<Gpu>,
        scratch: &Rc<Scratch>,
        workspace_bytes: usize,
        replacement: Option<Replacement>,
    ) -> Result<Rc<CublasLt>, TrainError> {
        // SAFETY: NVIDIA's library has no initialiser with effects that we would notice.
        let found = NAMES.iter().find_map(|name| unsafe { libloading::Library::new(*name) }.ok());
        let Some(library) = found else {
            let reason = format!(
                "the model gpt needs cuBLASLt, and {} was not found: it comes with CUDA, or as the \
                 Python package nvidia-cublas, whose folder belongs into LD_LIBRARY_PATH",
                NAMES[0]
            );
            return Err(Unavailable(reason).into());
        };
        // SAFETY: the types of the functions are those of cublasLt.h.
        let functions = unsafe { functions(&library) }.map_err(|error| {
            TrainError::from(Unavailable(format!("cuBLASLt lacks a function: {error}")))
        })?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: it writes a handle; the device's context is current.
        let status = unsafe { (functions.create)(&mut handle) };
        if status != 0 {
            return Err(gpu.failure(format!("starting cuBLASLt: status {status}")));
        }
        scratch.reserve(workspace_bytes)?;
        let (gpu, scratch) = (Rc::clone(gpu), Rc::clone(scratch));
        Ok(Rc::new(CublasLt {
            gpu,
            functions,
            handle,
            scratch,
            workspace_bytes,
            replacement,
            _library: library,
        }))
    }

    /// `13.1.0`
    pub(crate) fn version(&self) -> String {
        // SAFETY: it takes nothing.
        let number = unsafe { (self.functions.version)() };
        // 130100 for 13.1; before 12.0 the major number was in thousands.
        format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
    }

    fn check(&self, doing: &str, status: Status) -> Result<(), TrainError> {
        if status == 0 {
            return Ok(());
        }
        Err(self.gpu.failure(format!("{doing}: cuBLASLt's status {status}")))
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        // SAFETY: made once, destroyed once.
        unsafe { (self.functions.destroy)(self.handle) };
    }
}

/// # Safety
/// The library is cuBLASLt.
unsafe fn functions(library: &libloading::Library) -> Result<Functions, libloading::Error> {
    // SAFETY: as this function's; each type is the header's.
    unsafe {
        Ok(Functions {
            create: *library.get(b"cublasLtCreate\0")?,
            destroy: *library.get(b"cublasLtDestroy\0")?,
            version: *library.get(b"cublasLtGetVersion\0")?,
            product_create: *library.get(b"cublasLtMatmulDescCreate\0")?,
            product_destroy: *library.get(b"cublasLtMatmulDescDestroy\0")?,
            product_set: *library.get(b"cublasLtMatmulDescSetAttribute\0")?,
            layout_create: *library.get(b"cublasLtMatrixLayoutCreate\0")?,
            layout_destroy: *library.get(b"cublasLtMatrixLayoutDestroy\0")?,
            preference_create: *library.get(b"cublasLtMatmulPreferenceCreate\0")?,
            preference_destroy: *library.get(b"cublasLtMatmulPreferenceDestroy\0")?,
            preference_set: *library.get(b"cublasLtMatmulPreferenceSetAttribute\0")?,
            propose: *library.get(b"cublasLtMatmulAlgoGetHeuristic\0")?,
            multiply: *library.get(b"cublasLtMatmul\0")?,
        })
    }
}

/// Type of a matrix's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    Float32,
    Bf16,
}

impl Element {
    fn code(self) -> c_int {
        match self {
            Element::Float32 => R_32F,
            Element::Bf16 => R_16BF,
        }
    }

    pub(crate) fn bytes(self) -> usize {
        match self {
            Element::Float32 => 4,
            Element::Bf16 => 2,
        }
    }
}

/// The operation on a product before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Epilogue {
    None,
    /// GELU in its tanh form; what goes in is kept beside it.
    Gelu,
    /// Times GELU's slope at what was kept.
    GeluGradient,
}

/// Which of its operands a product takes transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// (rows, inner) (columns, inner)^T: a linear layer forward.
    Right,
    /// (rows, inner) (inner, columns): the gradient of its inputs.
    Neither,
    /// (inner, rows)^T (inner, columns): the gradient of its weights.
    Left,
}

/// One product: (rows, columns), of row-major matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProductSizes {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) inner: usize,
}

/// A product, without the addresses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Recipe {
    pub(crate) turn: Turn,
    pub(crate) sizes: ProductSizes,
    pub(crate) operands: Element,
    pub(crate) result: Element,
    pub(crate) epilogue: Epilogue,
    /// Whether the result is added to another matrix, which may be the result itself.
    pub(crate) add: bool,
}

/// Where the matrices of a product are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operands {
    pub(crate) left: Address,
    pub(crate) right: Address,
    /// What the product is added to, if the recipe says so.
    pub(crate) add: Address,
    pub(crate) result: Address,
    /// What the epilogue keeps or needs, shaped like the result.
    pub(crate) aux: Address,
}

/// A product with its algorithm.
pub(crate) struct Product {
    library: Rc<CublasLt>,
    recipe: Recipe,
    descriptor: Descriptor,
    /// Of the right operand, the left one and the result: the library's matrices are column-major, and
    /// a row-major product is the column-major one of the operands in the other order.
    layouts: [Descriptor; 3],
    algorithm: Algorithm,
    /// Microseconds that the algorithm took, and which of the proposals it was.
    pub(crate) chosen: (f64, usize),
}

impl Product {
    /// The product with the library's first choice of an algorithm.
    pub(crate) fn new(library: &Rc<CublasLt>, recipe: Recipe) -> Result<Product, TrainError> {
        let mut product = Product {
            library: Rc::clone(library),
            recipe,
            descriptor: std::ptr::null_mut(),
            layouts: [std::ptr::null_mut(); 3],
            algorithm: Algorithm([0; 8]),
            chosen: (f64::INFINITY, 0),
        };
        product.describe()?;
        product.algorithm = product.proposals()?[0].algorithm;
        Ok(product)
    }

    fn describe(&mut self) -> Result<(), TrainError> {
        let library = Rc::clone(&self.library);
        let functions = &library.functions;
        let Recipe { turn, sizes, operands, result, epilogue, .. } = self.recipe;
        let ProductSizes { rows, columns, inner } = sizes;
        // Rows and columns in memory, row-major.
        let (left, right) = match turn {
            Turn::Right => ([rows, inner], [columns, inner]),
            Turn::Neither => ([rows, inner], [inner, columns]),
            Turn::Left => ([inner, rows], [inner, columns]),
        };
        let matrices = [(right, operands), (left, operands), ([rows, columns], result)];
        // SAFETY: each call writes one descriptor or reads a number of the size that it is told.
        unsafe {
            let create = functions.product_create;
            let status = create(&mut self.descriptor, COMPUTE_32F, R_32F);
            library.check("describing a product", status)?;
            for (layout, ([down, across], element)) in self.layouts.iter_mut().zip(matrices) {
                let (down, across) = (down as u64, across as u64);
                let create = functions.layout_create;
                let status = create(layout, element.code(), across, down, across as i64);
                library.check("describing a matrix", status)?;
            }
        }
        // The library's A is our right operand.
        match turn {
            Turn::Right => self.set(TRANSPOSE_A, &OPERATION_TRANSPOSE)?,
            Turn::Neither => {}
            Turn::Left => self.set(TRANSPOSE_B, &OPERATION_TRANSPOSE)?,
        }
        let code: i32 = match epilogue {
            Epilogue::None => return Ok(()),
            Epilogue::Gelu => 32 | 128,
            Epilogue::GeluGradient => 64 | 128,
        };
        self.set(EPILOGUE, &code)?;
        self.set(EPILOGUE_AUX_LEADING, &(columns as i64))
    }

    fn set<T>(&self, attribute: c_int, value: &T) -> Result<(), TrainError> {
        let set = self.library.functions.product_set;
        let pointer = std::ptr::from_ref(value).cast();
        // SAFETY: the value has the size that is said.
        let status = unsafe { set(self.descriptor, attribute, pointer, size_of::<T>()) };
        self.library.check("describing a product", status)
    }

    fn proposals(&self) -> Result<Vec<Proposal>, TrainError> {
        if self.recipe.epilogue != Epilogue::None {
            self.set(EPILOGUE_AUX_POINTER, &SOME_ADDRESS)?;
        }
        let functions = &self.library.functions;
        let empty = Proposal {
            algorithm: Algorithm([0; 8]),
            workspace_bytes: 0,
            status: 0,
            waves: 0.0,
            reserved: [0; 4],
        };
        let mut proposals = vec![empty; CANDIDATES];
        let (mut preference, mut count) = (std::ptr::null_mut(), 0);
        let [right, left, result] = self.layouts;
        // SAFETY: descriptors are alive; at most as many proposals are written as there is room for.
        let status = unsafe {
            let status = (functions.preference_create)(&mut preference);
            self.library.check("asking for algorithms", status)?;
            let pointer = std::ptr::from_ref(&self.library.workspace_bytes).cast();
            let set = functions.preference_set;
            set(preference, PREFERENCE_WORKSPACE_BYTES, pointer, size_of::<usize>());
            let status = (functions.propose)(
                self.library.handle,
                self.descriptor,
                right,
                left,
                result,
                result,
                preference,
                CANDIDATES as c_int,
                proposals.as_mut_ptr(),
                &mut count,
            );
            (functions.preference_destroy)(preference);
            status
        };
        let recipe = self.recipe;
        self.library.check(&format!("an algorithm for {recipe:?}"), status)?;
        proposals.truncate(count as usize);
        proposals.retain(|proposal| proposal.status == 0);
        if proposals.is_empty() {
            let message = format!("cuBLASLt has no algorithm for {recipe:?}");
            return Err(self.library.gpu.failure(message));
        }
        Ok(proposals)
    }

    /// Takes the fastest of the library's proposals, by running the product on all `places` in turns, as the
    /// layers of a step do, so that the cache holds no more than it would there. Results are spoilt. Returns
    /// its seconds.
    ///
    /// # Safety
    /// As for [`Product::enqueue`].
    pub(crate) unsafe fn tune(&mut self, places: &[Operands]) -> Result<f64, TrainError> {
        if self.library.replacement.is_some() {
            return Ok(f64::INFINITY); // there is no choice, and all else is faster
        }
        let gpu = Rc::clone(&self.library.gpu);
        let clock = gpu.clock()?;
        let mut fastest: Option<(f64, usize, Algorithm)> = None;
        for (place, proposal) in self.proposals()?.into_iter().enumerate() {
            self.algorithm = proposal.algorithm;
            // SAFETY: as this function's. The first run loads code.
            if unsafe { self.enqueue(places[0]) }.is_err() {
                continue; // proposed, and yet refused
            }
            let mut seconds = f64::INFINITY;
            for _ in 0..REPEATS {
                gpu.record(&clock[0])?;
                for &operands in places {
                    // SAFETY: as before.
                    unsafe { self.enqueue(operands) }?;
                }
                gpu.record(&clock[1])?;
                gpu.synchronize()?;
                seconds = seconds.min(clock[0].seconds_until(&clock[1])? / places.len() as f64);
            }
            if fastest.is_none_or(|(before, first, _)| {
                seconds < if first == 0 { GAIN * before } else { before }
            }) {
                fastest = Some((seconds, place, proposal.algorithm));
            }
        }
        let Some((seconds, place, algorithm)) = fastest else {
            return Err(gpu.failure(format!("no algorithm of cuBLASLt ran for {:?}", self.recipe)));
        };
        self.algorithm = algorithm;
        self.chosen = (seconds * 1e6, place);
        Ok(seconds)
    }

    pub(crate) fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Enqueues the product.
    ///
    /// # Safety
    /// The matrices are as large as the recipe says, aligned to 16 bytes, and live until it is done.
    pub(crate) unsafe fn enqueue(&self, operands: Operands) -> Result<(), TrainError> {
        let library = &self.library;
        if let Some(replacement) = &library.replacement {
            return replacement(&self.recipe, operands);
        }
        if self.recipe.epilogue != Epilogue::None {
            self.set(EPILOGUE_AUX_POINTER, &operands.aux)?;
        }
        let [right, left, result] = self.layouts;
        let added = if self.recipe.add { operands.add } else { operands.result };
        let (one, share) = (1.0_f32, if self.recipe.add { 1.0_f32 } else { 0.0 });
        // SAFETY: as this function's; the factors are read before the call returns.
        let status = unsafe {
            (library.functions.multiply)(
                library.handle,
                self.descriptor,
                &one,
                operands.right,
                right,
                operands.left,
                left,
                &share,
                added,
                result,
                operands.result,
                result,
                &self.algorithm,
                library.scratch.address(),
                library.workspace_bytes,
                library.gpu.stream().cast(),
            )
        };
        library.check("a product", status)
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        let functions = &self.library.functions;
        // SAFETY: each was made once, if at all.
        unsafe {
            for layout in self.layouts.into_iter().filter(|layout| !layout.is_null()) {
                (functions.layout_destroy)(layout);
            }
            if !self.descriptor.is_null() {
                (functions.product_destroy)(self.descriptor);
            }
        }
    }
}
