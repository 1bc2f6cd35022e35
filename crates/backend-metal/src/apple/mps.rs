//! Carries out the commands of `mps`: products by `MPSMatrixMultiplication`, kernels by compute
//! encoders, all of a submission in one command buffer.

use super::gpu::{Gpu, one_line};
use crate::mps::kernels::{
    ARGUMENTS_INDEX, Kernel, METAL, SIZES_BYTES, SIZES_INDEX, THREADGROUP_BYTES,
};
use crate::mps::plan::{At, BufferId, Buffers, Command, Dispatch, Matrix, Product};
use crate::mps::session::Device;
use crate::seen::Seen;
use nn::backend::{Options, TrainError};
use objc2::AnyThread;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_foundation::NSString;
use objc2_metal::{
    MTLCommandBuffer, MTLCommandEncoder, MTLCommandQueue, MTLCompileOptions,
    MTLComputeCommandEncoder, MTLComputePipelineState, MTLDevice, MTLLanguageVersion, MTLLibrary,
    MTLSize,
};
use objc2_metal_performance_shaders::{
    MPSDataType, MPSMatrix, MPSMatrixDescriptor, MPSMatrixMultiplication,
};
use std::collections::BTreeMap;
use std::ptr::NonNull;

pub(crate) const ID: &str = "mps";

type Pipeline = Retained<ProtocolObject<dyn MTLComputePipelineState>>;

pub(crate) struct Metal {
    gpu: Gpu,
    library: Retained<ProtocolObject<dyn MTLLibrary>>,
    pipelines: BTreeMap<Kernel, Pipeline>,
    commands: Option<Retained<ProtocolObject<dyn MTLCommandBuffer>>>,
    encoder: Option<Retained<ProtocolObject<dyn MTLComputeCommandEncoder>>>,
}

/// A command made ready.
pub(crate) enum Ready {
    Product {
        product: Retained<MPSMatrixMultiplication>,
        left: Retained<MPSMatrix>,
        right: Retained<MPSMatrix>,
        result: Retained<MPSMatrix>,
    },
    Dispatch {
        pipeline: Pipeline,
        dispatch: Dispatch,
    },
}

impl Metal {
    pub(crate) fn open(options: &Options, buffers: &Buffers) -> Result<Metal, TrainError> {
        let mut gpu = Gpu::open(ID, options)?;
        let compile = MTLCompileOptions::new();
        compile.setLanguageVersion(MTLLanguageVersion::Version2_4);
        // Fast mathematics may assume that there is no NaN, and rounds divisions and exponentials
        // as it likes. The newer `mathMode` asks for macOS 15.
        #[allow(deprecated)]
        compile.setFastMathEnabled(false);
        let source = NSString::from_str(METAL);
        let library = gpu
            .device
            .newLibraryWithSource_options_error(&source, Some(&compile))
            .map_err(|error| gpu.failed(one_line(&error.localizedDescription().to_string())))?;
        for buffer in buffers.list() {
            gpu.allocate(buffer.name, buffer.bytes)?;
        }
        Ok(Metal { gpu, library, pipelines: BTreeMap::new(), commands: None, encoder: None })
    }

    fn pipeline(&mut self, kernel: Kernel) -> Result<Pipeline, TrainError> {
        if let Some(pipeline) = self.pipelines.get(&kernel) {
            return Ok(pipeline.clone());
        }
        let name = kernel.name();
        let function = self.library.newFunctionWithName(&NSString::from_str(name));
        let function = function.ok_or_else(|| self.gpu.failed(format!("no kernel {name}")))?;
        let pipeline = self.gpu.device.newComputePipelineStateWithFunction_error(&function);
        let pipeline = pipeline.map_err(|error| {
            let reason = one_line(&error.localizedDescription().to_string());
            self.gpu.failed(format!("kernel {name}: {reason}"))
        })?;
        let most = pipeline.maxTotalThreadsPerThreadgroup();
        if kernel.threads() > most {
            let wanted = kernel.threads();
            let message = format!("kernel {name} has {wanted} threads: this device runs {most}");
            return Err(self.gpu.failed(message));
        }
        self.pipelines.insert(kernel, pipeline.clone());
        Ok(pipeline)
    }

    #[allow(unsafe_code)]
    fn matrix(&self, part: Matrix) -> Retained<MPSMatrix> {
        let Matrix { buffer, offset_bytes, matrices, rows, columns } = part;
        let row_bytes = 4 * columns;
        // SAFETY: the plan has checked that the part lies within the buffer; rows have no padding.
        unsafe {
            let descriptor = MPSMatrixDescriptor::
                matrixDescriptorWithRows_columns_matrices_rowBytes_matrixBytes_dataType(
                    rows,
                    columns,
                    matrices,
                    row_bytes,
                    rows * row_bytes,
                    MPSDataType::Float32,
                );
            MPSMatrix::initWithBuffer_offset_descriptor(
                MPSMatrix::alloc(),
                &self.gpu.buffers[buffer.0],
                offset_bytes,
                &descriptor,
            )
        }
    }

    #[allow(unsafe_code)]
    fn product(&self, product: &Product) -> Ready {
        let Product { left, right, result, interior, alpha, beta } = *product;
        // SAFETY: the plan has checked that the factors' sizes meet.
        let kernel = unsafe {
            MPSMatrixMultiplication::
                initWithDevice_transposeLeft_transposeRight_resultRows_resultColumns_interiorColumns_alpha_beta(
                    MPSMatrixMultiplication::alloc(),
                    &self.gpu.device,
                    left.transposed,
                    right.transposed,
                    result.rows,
                    result.columns,
                    interior,
                    alpha.into(),
                    beta.into(),
                )
        };
        let [left, right, result] = [left.matrix, right.matrix, result].map(|it| self.matrix(it));
        Ready::Product { product: kernel, left, right, result }
    }

    fn commands(&mut self) -> Result<Retained<ProtocolObject<dyn MTLCommandBuffer>>, TrainError> {
        if self.commands.is_none() {
            self.commands = self.gpu.queue.commandBuffer();
        }
        self.commands.clone().ok_or_else(|| self.gpu.failed("no command buffer"))
    }

    /// The open encoder, or a new one.
    fn encoder(
        &mut self,
    ) -> Result<Retained<ProtocolObject<dyn MTLComputeCommandEncoder>>, TrainError> {
        if self.encoder.is_none() {
            self.encoder = self.commands()?.computeCommandEncoder();
        }
        self.encoder.clone().ok_or_else(|| self.gpu.failed("no command encoder"))
    }

    /// A product has encoders of its own.
    fn end_encoder(&mut self) {
        if let Some(encoder) = self.encoder.take() {
            encoder.endEncoding();
        }
    }

    #[allow(unsafe_code)]
    fn encode(&mut self, ready: &Ready, at: At) -> Result<(), TrainError> {
        match ready {
            Ready::Product { product, left, right, result } => {
                self.end_encoder();
                let commands = self.commands()?;
                // SAFETY: no encoder is open on the command buffer, and the matrices are those
                // that the product was made for.
                unsafe {
                    product.encodeToCommandBuffer_leftMatrix_rightMatrix_resultMatrix(
                        &commands, left, right, result,
                    );
                }
            }
            Ready::Dispatch { pipeline, dispatch } => {
                let encoder = self.encoder()?;
                encoder.setComputePipelineState(pipeline);
                for (index, part) in dispatch.bindings.iter().enumerate() {
                    let buffer = &self.gpu.buffers[part.buffer.0];
                    // SAFETY: the kernel has a buffer at this index, and the plan has checked that
                    // the part lies within the buffer and is as large as the kernel takes it for.
                    unsafe {
                        encoder.setBuffer_offset_atIndex(Some(buffer), part.offset_bytes, index);
                    }
                }
                let words = dispatch.arguments.words(at);
                let sizes = [0_u8; SIZES_BYTES];
                // SAFETY: the bytes are copied at once, as many as there are; the kernels take them
                // at these indices.
                unsafe {
                    encoder.setBytes_length_atIndex(
                        NonNull::from(&words).cast(),
                        size_of_val(&words),
                        ARGUMENTS_INDEX,
                    );
                    encoder.setBytes_length_atIndex(
                        NonNull::from(&sizes).cast(),
                        SIZES_BYTES,
                        SIZES_INDEX,
                    );
                    if dispatch.kernel.exchanges() {
                        encoder.setThreadgroupMemoryLength_atIndex(THREADGROUP_BYTES, 0);
                    }
                }
                let line = |width| MTLSize { width, height: 1, depth: 1 };
                let (groups, threads) = (line(dispatch.groups), line(dispatch.kernel.threads()));
                encoder.dispatchThreadgroups_threadsPerThreadgroup(groups, threads);
            }
        }
        Ok(())
    }
}

impl Device for Metal {
    type Sequence = Vec<Ready>;

    fn seen(&self) -> Seen {
        self.gpu.seen()
    }

    fn write(&mut self, buffer: BufferId, bytes: &[u8]) -> Result<(), TrainError> {
        self.gpu.write(buffer.0, bytes)
    }

    fn read(&mut self, buffer: BufferId, bytes: &mut [u8]) -> Result<(), TrainError> {
        self.gpu.read(buffer.0, bytes)
    }

    fn prepare(&mut self, commands: &[Command]) -> Result<Vec<Ready>, TrainError> {
        let ready = |command: &Command| match command {
            Command::Product(product) => Ok(self.product(product)),
            Command::Dispatch(dispatch) => {
                let pipeline = self.pipeline(dispatch.kernel)?;
                Ok(Ready::Dispatch { pipeline, dispatch: dispatch.clone() })
            }
        };
        commands.iter().map(ready).collect()
    }

    fn record(&mut self, sequence: &Vec<Ready>, at: At) -> Result<(), TrainError> {
        // What Metal makes in passing is freed with each step, not at the end of the program.
        autoreleasepool(|_| sequence.iter().try_for_each(|ready| self.encode(ready, at)))
    }

    fn submit(&mut self) -> Result<(), TrainError> {
        self.end_encoder();
        if let Some(commands) = self.commands.take() {
            commands.commit();
            self.gpu.submitted(commands);
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), TrainError> {
        self.gpu.wait()
    }

    fn worked_s(&self) -> Option<f64> {
        Some(self.gpu.worked_s())
    }
}

impl Drop for Metal {
    /// Metal ends the process if an encoder goes before its `endEncoding`.
    fn drop(&mut self) {
        self.end_encoder();
    }
}
