//! Graphs of operations that NVIDIA's cuDNN fuses into one kernel, through its backend API; the library
//! is loaded at run time, if it is there at all. The numbers are those of cudnn_graph.h, version 9.

use crate::driver::{Address, Gpu};
use nn::backend::TrainError;
use std::ffi::{c_int, c_void};
use std::rc::Rc;

const NAME: &str = "libcudnn.so.9";

type Status = c_int;
type Handle = *mut c_void;
type Pointer = *mut c_void;

// Kinds of descriptors.
const POINTWISE: c_int = 0;
const ENGINE_CONFIGURATION: c_int = 3;
const ENGINE_HEURISTICS: c_int = 4;
const EXECUTION_PLAN: c_int = 5;
const OPERATION_POINTWISE: c_int = 13;
const OPERATION_GRAPH: c_int = 15;
const VARIANT_PACK: c_int = 16;
const TENSOR: c_int = 17;
const MATMUL: c_int = 18;
const OPERATION_MATMUL: c_int = 19;
const REDUCTION: c_int = 21;
const OPERATION_REDUCTION: c_int = 22;
const OPERATION_RESHAPE: c_int = 31;

// Types of attributes.
const TYPE_HANDLE: c_int = 0;
const TYPE_DATA_TYPE: c_int = 1;
const TYPE_BOOLEAN: c_int = 2;
const TYPE_INT64: c_int = 3;
const TYPE_POINTER: c_int = 6;
const TYPE_HEURISTICS_MODE: c_int = 8;
const TYPE_POINTWISE_MODE: c_int = 14;
const TYPE_DESCRIPTOR: c_int = 15;
const TYPE_REDUCTION: c_int = 18;

const HEURISTICS_A: c_int = 3;
/// Engines that are asked for, of which the first that takes the graph is used.
const ENGINES: usize = 8;

/// The functions of the library.
#[derive(Clone, Copy)]
struct Functions {
    create: unsafe extern "C" fn(*mut Handle) -> Status,
    destroy: unsafe extern "C" fn(Handle) -> Status,
    set_stream: unsafe extern "C" fn(Handle, *mut c_void) -> Status,
    version: unsafe extern "C" fn() -> usize,
    descriptor_create: unsafe extern "C" fn(c_int, *mut Pointer) -> Status,
    descriptor_destroy: unsafe extern "C" fn(Pointer) -> Status,
    descriptor_finalize: unsafe extern "C" fn(Pointer) -> Status,
    set: unsafe extern "C" fn(Pointer, c_int, c_int, i64, *const c_void) -> Status,
    get: unsafe extern "C" fn(Pointer, c_int, c_int, i64, *mut i64, *mut c_void) -> Status,
    execute: unsafe extern "C" fn(Handle, Pointer, Pointer) -> Status,
}

/// The library, ready for one device.
pub(crate) struct Cudnn {
    gpu: Rc<Gpu>,
    functions: Functions,
    handle: Handle,
    // Dropped last: the functions are in it.
    _library: libloading::Library,
}

impl Cudnn {
    /// Loads the library; without it there is a reason.
    pub(crate) fn open(gpu: &Rc<Gpu>) -> Result<Rc<Cudnn>, String> {
        // SAFETY: NVIDIA's library has no initialiser with effects that we would notice.
        let library = unsafe { libloading::Library::new(NAME) }
            .map_err(|error| format!("no cuDNN: {error}"))?;
        // SAFETY: the types of the functions are those of the headers.
        let functions = unsafe { functions(&library) }
            .map_err(|error| format!("cuDNN lacks a function: {error}"))?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: it writes a handle; the device's context is current.
        match unsafe { (functions.create)(&mut handle) } {
            0 => Ok(Rc::new(Cudnn { gpu: Rc::clone(gpu), functions, handle, _library: library })),
            status => Err(format!("starting cuDNN: status {status}")),
        }
    }

    /// `9.15.0`
    pub(crate) fn version(&self) -> String {
        // SAFETY: it takes nothing.
        let number = unsafe { (self.functions.version)() };
        format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
    }
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        // SAFETY: made once, destroyed once.
        unsafe { (self.functions.destroy)(self.handle) };
    }
}

/// # Safety
/// The library is cuDNN.
unsafe fn functions(library: &libloading::Library) -> Result<Functions, libloading::Error> {
    // SAFETY: as this function's; each type is the header's.
    unsafe {
        Ok(Functions {
            create: *library.get(b"cudnnCreate\0")?,
            destroy: *library.get(b"cudnnDestroy\0")?,
            set_stream: *library.get(b"cudnnSetStream\0")?,
            version: *library.get(b"cudnnGetVersion\0")?,
            descriptor_create: *library.get(b"cudnnBackendCreateDescriptor\0")?,
            descriptor_destroy: *library.get(b"cudnnBackendDestroyDescriptor\0")?,
            descriptor_finalize: *library.get(b"cudnnBackendFinalize\0")?,
            set: *library.get(b"cudnnBackendSetAttribute\0")?,
            get: *library.get(b"cudnnBackendGetAttribute\0")?,
            execute: *library.get(b"cudnnBackendExecute\0")?,
        })
    }
}

/// One of the library's objects.
struct Descriptor {
    library: Rc<Cudnn>,
    pointer: Pointer,
}

impl Descriptor {
    fn new(library: &Rc<Cudnn>, kind: c_int) -> Result<Descriptor, String> {
        let mut pointer = std::ptr::null_mut();
        // SAFETY: it writes a pointer.
        let status = unsafe { (library.functions.descriptor_create)(kind, &mut pointer) };
        match status {
            0 => Ok(Descriptor { library: Rc::clone(library), pointer }),
            _ => Err(format!("a descriptor of kind {kind}: cuDNN's status {status}")),
        }
    }

    /// Sets an attribute to values of a type that is as large as the library's of this number.
    fn set<T>(self, attribute: c_int, kind: c_int, values: &[T]) -> Result<Descriptor, String> {
        let (count, pointer) = (values.len() as i64, values.as_ptr().cast());
        // SAFETY: the values are there.
        match unsafe { (self.library.functions.set)(self.pointer, attribute, kind, count, pointer) }
        {
            0 => Ok(self),
            status => Err(format!("attribute {attribute}: cuDNN's status {status}")),
        }
    }

    fn link(self, attribute: c_int, other: &Descriptor) -> Result<Descriptor, String> {
        self.set(attribute, TYPE_DESCRIPTOR, &[other.pointer])
    }

    fn finish(self, what: &str) -> Result<Descriptor, String> {
        // SAFETY: the descriptor is alive.
        match unsafe { (self.library.functions.descriptor_finalize)(self.pointer) } {
            0 => Ok(self),
            status => Err(format!("{what}: cuDNN's status {status}")),
        }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made once, destroyed once.
        unsafe { (self.library.functions.descriptor_destroy)(self.pointer) };
    }
}

/// Type of a tensor's elements, or of a computation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Data {
    Float32 = 0,
    Int32 = 4,
    Bf16 = 9,
    Boolean = 11,
}

/// The operation on each element.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pointwise {
    Add = 0,
    Multiply = 1,
    Divide = 6,
    Subtract = 9,
    Exponential = 13,
    Logarithm = 15,
    Identity = 21,
    GreaterOrEqual = 303,
    Index = 501,
    Select = 601,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Reduction {
    Sum = 0,
    Most = 3,
}

/// Where a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    /// In memory, at an address that each run gives.
    Memory,
    /// Within the fused kernel.
    Virtual,
    /// One number, at a host address that each run gives.
    Number,
}

pub(crate) type Four = [i64; 4];

/// A tensor of a graph, by the number that a run's addresses go with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tensor(usize);

/// Operations on their way to a [`Plan`].
pub(crate) struct GraphBuilder {
    library: Rc<Cudnn>,
    tensors: Vec<Descriptor>,
    operations: Vec<Descriptor>,
    kept: Vec<Descriptor>,
}

impl GraphBuilder {
    pub(crate) fn new(library: &Rc<Cudnn>) -> GraphBuilder {
        let library = Rc::clone(library);
        GraphBuilder { library, tensors: Vec::new(), operations: Vec::new(), kept: Vec::new() }
    }

    pub(crate) fn tensor(
        &mut self,
        sizes: Four,
        strides: Four,
        data: Data,
        storage: Storage,
    ) -> Result<Tensor, String> {
        let tensor = Tensor(self.tensors.len());
        let number = tensor.0 as i64 + 1;
        let descriptor = Descriptor::new(&self.library, TENSOR)?
            .set(901, TYPE_DATA_TYPE, &[data as c_int])?
            .set(902, TYPE_INT64, &sizes)?
            .set(903, TYPE_INT64, &strides)?
            .set(906, TYPE_INT64, &[number])?
            .set(900, TYPE_INT64, &[16_i64])?
            .set(907, TYPE_BOOLEAN, &[u8::from(storage == Storage::Virtual)])?
            .set(908, TYPE_BOOLEAN, &[u8::from(storage == Storage::Number)])?
            .finish(&format!("tensor {number} {sizes:?} {strides:?}"))?;
        self.tensors.push(descriptor);
        Ok(tensor)
    }

    /// `out` = `mode` of `x`, and of `y` and `condition` where the mode takes them.
    pub(crate) fn pointwise(
        &mut self,
        mode: Pointwise,
        compute: Data,
        x: Tensor,
        y: Option<Tensor>,
        condition: Option<Tensor>,
        out: Tensor,
    ) -> Result<(), String> {
        self.pointwise_along(mode, compute, None, [Some(x), y, condition], out)
    }

    /// `out` = each element's index along an axis of `like`.
    pub(crate) fn index(&mut self, axis: i64, like: Tensor, out: Tensor) -> Result<(), String> {
        self.pointwise_along(
            Pointwise::Index,
            Data::Int32,
            Some(axis),
            [Some(like), None, None],
            out,
        )
    }

    fn pointwise_along(
        &mut self,
        mode: Pointwise,
        compute: Data,
        axis: Option<i64>,
        operands: [Option<Tensor>; 3],
        out: Tensor,
    ) -> Result<(), String> {
        let mut kind = Descriptor::new(&self.library, POINTWISE)?
            .set(0, TYPE_POINTWISE_MODE, &[mode as c_int])?
            .set(1, TYPE_DATA_TYPE, &[compute as c_int])?;
        if let Some(axis) = axis {
            kind = kind.set(9, TYPE_INT64, &[axis])?;
        }
        let kind = kind.finish(&format!("{mode:?}"))?;
        let mut operation =
            Descriptor::new(&self.library, OPERATION_POINTWISE)?.link(750, &kind)?;
        for (attribute, operand) in [751, 752, 758].into_iter().zip(operands) {
            if let Some(Tensor(index)) = operand {
                operation = operation.link(attribute, &self.tensors[index])?;
            }
        }
        let operation = operation.link(753, &self.tensors[out.0])?.finish(&format!("{mode:?}"))?;
        self.kept.push(kind);
        self.operations.push(operation);
        Ok(())
    }

    pub(crate) fn matmul(&mut self, a: Tensor, b: Tensor, out: Tensor) -> Result<(), String> {
        let kind = Descriptor::new(&self.library, MATMUL)?
            .set(1500, TYPE_DATA_TYPE, &[Data::Float32 as c_int])?
            .finish("a product")?;
        let operation = Descriptor::new(&self.library, OPERATION_MATMUL)?
            .link(1520, &self.tensors[a.0])?
            .link(1521, &self.tensors[b.0])?
            .link(1522, &self.tensors[out.0])?
            .link(1523, &kind)?
            .finish("a product")?;
        self.kept.push(kind);
        self.operations.push(operation);
        Ok(())
    }

    pub(crate) fn reduce(
        &mut self,
        operator: Reduction,
        x: Tensor,
        out: Tensor,
    ) -> Result<(), String> {
        let kind = Descriptor::new(&self.library, REDUCTION)?
            .set(1600, TYPE_REDUCTION, &[operator as c_int])?
            .set(1601, TYPE_DATA_TYPE, &[Data::Float32 as c_int])?
            .finish("a reduction")?;
        let operation = Descriptor::new(&self.library, OPERATION_REDUCTION)?
            .link(1610, &self.tensors[x.0])?
            .link(1611, &self.tensors[out.0])?
            .link(1612, &kind)?
            .finish("a reduction")?;
        self.kept.push(kind);
        self.operations.push(operation);
        Ok(())
    }

    /// The same elements with other sizes and strides.
    pub(crate) fn reshape(&mut self, x: Tensor, out: Tensor) -> Result<(), String> {
        let operation = Descriptor::new(&self.library, OPERATION_RESHAPE)?
            .link(2200, &self.tensors[x.0])?
            .link(2201, &self.tensors[out.0])?
            .finish("a reshape")?;
        self.operations.push(operation);
        Ok(())
    }

    /// Chooses and compiles the kernel.
    pub(crate) fn build(self) -> Result<Plan, String> {
        let library = &self.library;
        let pointers: Vec<Pointer> = self.operations.iter().map(|it| it.pointer).collect();
        let graph = Descriptor::new(library, OPERATION_GRAPH)?
            .set(800, TYPE_HANDLE, &[library.handle])?
            .set(801, TYPE_DESCRIPTOR, &pointers)?
            .finish("the graph")?;
        let heuristics = Descriptor::new(library, ENGINE_HEURISTICS)?
            .link(201, &graph)?
            .set(200, TYPE_HEURISTICS_MODE, &[HEURISTICS_A])?
            .finish("asking for engines")?;
        let engines = (0..ENGINES)
            .map(|_| Descriptor::new(library, ENGINE_CONFIGURATION))
            .collect::<Result<Vec<_>, _>>()?;
        let mut pointers: Vec<Pointer> = engines.iter().map(|it| it.pointer).collect();
        let mut count = 0;
        let (wanted, into) = (ENGINES as i64, pointers.as_mut_ptr().cast());
        let get = library.functions.get;
        // SAFETY: there are as many descriptors to be filled as is said.
        let status =
            unsafe { get(heuristics.pointer, 202, TYPE_DESCRIPTOR, wanted, &mut count, into) };
        if status != 0 || count == 0 {
            return Err(format!("cuDNN knows no engine for this: status {status}"));
        }
        let mut reason = String::new();
        for engine in engines.iter().take(count as usize) {
            let plan = Descriptor::new(library, EXECUTION_PLAN)?
                .set(400, TYPE_HANDLE, &[library.handle])?
                .link(401, engine)?;
            match plan.finish("a plan") {
                Ok(plan) => {
                    let mut bytes = 0_i64;
                    let into = std::ptr::from_mut(&mut bytes).cast();
                    // SAFETY: it writes one number.
                    let status = unsafe { get(plan.pointer, 402, TYPE_INT64, 1, &mut count, into) };
                    if status != 0 {
                        return Err(format!("size of a plan's scratch: status {status}"));
                    }
                    return Ok(Plan {
                        plan,
                        workspace_bytes: bytes as usize,
                        _operations: self.operations,
                        _tensors: self.tensors,
                        _kept: self.kept,
                    });
                }
                Err(error) => reason = error,
            }
        }
        Err(format!("no engine of cuDNN takes this: {reason}"))
    }
}

/// A compiled graph.
pub(crate) struct Plan {
    plan: Descriptor,
    /// Scratch memory that a run needs.
    pub(crate) workspace_bytes: usize,
    _operations: Vec<Descriptor>,
    _tensors: Vec<Descriptor>,
    _kept: Vec<Descriptor>,
}

impl Plan {
    /// Enqueues a run.
    ///
    /// # Safety
    /// Every tensor in memory has its address, with room for its elements; every number has its host
    /// address, and is there until this returns; `workspace` has `workspace_bytes`. All of it lives
    /// until the run is done.
    pub(crate) unsafe fn enqueue(
        &self,
        addresses: &[(Tensor, u64)],
        workspace: Address,
    ) -> Result<(), TrainError> {
        let library = &self.plan.library;
        let gpu = &library.gpu;
        let numbers: Vec<i64> = addresses.iter().map(|(tensor, _)| tensor.0 as i64 + 1).collect();
        let pointers: Vec<u64> = addresses.iter().map(|&(_, address)| address).collect();
        let failed = |message| gpu.failure(format!("attention by cuDNN: {message}"));
        let pack = Descriptor::new(library, VARIANT_PACK)
            .and_then(|pack| pack.set(1001, TYPE_POINTER, &pointers))
            .and_then(|pack| pack.set(1000, TYPE_INT64, &numbers))
            .and_then(|pack| pack.set(1003, TYPE_POINTER, &[workspace]))
            .and_then(|pack| pack.finish("addresses"))
            .map_err(failed)?;
        // SAFETY: as this function's.
        let status = unsafe {
            let status = (library.functions.set_stream)(library.handle, gpu.stream().cast());
            if status == 0 {
                (library.functions.execute)(library.handle, self.plan.pointer, pack.pointer)
            } else {
                status
            }
        };
        if status == 0 { Ok(()) } else { Err(failed(format!("status {status}"))) }
    }
}
