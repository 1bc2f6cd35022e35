//! Lowers the graphs of `mpsgraph` to `MPSGraph`, node by node, and runs their executables.

use super::gpu::Gpu;
use crate::graph::description::{Binary, DataType, Graph, Node, Op, Tensor};
use crate::graph::session::{BufferId, Device};
use crate::graph::step::{Description, Slot};
use crate::seen::Seen;
use nn::backend::{Options, TrainError};
use objc2::AnyThread;
use objc2::rc::{Retained, autoreleasepool};
use objc2_foundation::{NSArray, NSDictionary, NSNumber, NSString};
use objc2_metal::MTLCommandBuffer;
use objc2_metal_performance_shaders::{MPSCommandBuffer, MPSDataType, MPSShape};
use objc2_metal_performance_shaders_graph::{
    MPSGraph, MPSGraphCompilationDescriptor, MPSGraphConvolution2DOpDescriptor, MPSGraphDevice,
    MPSGraphExecutable, MPSGraphLossReductionType, MPSGraphOptimization, MPSGraphPaddingStyle,
    MPSGraphPooling2DOpDescriptor, MPSGraphShapedType, MPSGraphTensor, MPSGraphTensorData,
    MPSGraphTensorNamedDataLayout,
};
use std::collections::BTreeMap;

pub(crate) const ID: &str = "mpsgraph";

type Gradients = Retained<NSDictionary<MPSGraphTensor, MPSGraphTensor>>;

pub(crate) struct Metal {
    gpu: Gpu,
    device: Retained<MPSGraphDevice>,
    commands: Option<Retained<MPSCommandBuffer>>,
}

/// A compiled graph, and where each of its feeds and results is in the description's lists.
pub(crate) struct Executable {
    executable: Retained<MPSGraphExecutable>,
    feeds: Vec<usize>,
    results: Vec<usize>,
}

/// An executable with what it takes and leaves, in its own order.
pub(crate) struct Binding {
    executable: Retained<MPSGraphExecutable>,
    inputs: Retained<NSArray<MPSGraphTensorData>>,
    results: Retained<NSArray<MPSGraphTensorData>>,
}

impl Metal {
    #[allow(unsafe_code)]
    pub(crate) fn open(options: &Options) -> Result<Metal, TrainError> {
        let gpu = Gpu::open(ID, options)?;
        // SAFETY: wraps a device that exists.
        let device = unsafe { MPSGraphDevice::deviceWithMTLDevice(&gpu.device) };
        Ok(Metal { gpu, device, commands: None })
    }

    /// A buffer in the shape of a node.
    #[allow(unsafe_code)]
    fn data(&self, buffer: BufferId, tensor: &Tensor) -> Retained<MPSGraphTensorData> {
        // SAFETY: the session has made the buffer as large as the tensor.
        unsafe {
            MPSGraphTensorData::initWithMTLBuffer_shape_dataType(
                MPSGraphTensorData::alloc(),
                &self.gpu.buffers[buffer.0],
                &shape(&tensor.shape),
                data_type(tensor.data_type),
            )
        }
    }

    /// The buffers of the `nodes`, at the places that the executable wants them in.
    fn all_data(
        &self,
        graph: &Graph,
        nodes: &[(Slot, Node)],
        buffers: &[BufferId],
        places: &[usize],
    ) -> Retained<NSArray<MPSGraphTensorData>> {
        let data = |&place: &usize| self.data(buffers[place], graph.tensor(nodes[place].1));
        let data: Vec<_> = places.iter().map(data).collect();
        NSArray::from_retained_slice(&data)
    }

    /// Of each tensor that the executable wants, its place among the `nodes`.
    fn places(
        &self,
        wanted: Option<Retained<NSArray<MPSGraphTensor>>>,
        nodes: &[(Slot, Node)],
        lowered: &[Retained<MPSGraphTensor>],
    ) -> Result<Vec<usize>, TrainError> {
        let wanted = wanted.ok_or_else(|| self.gpu.failed("an executable without an order"))?;
        let place = |tensor: Retained<MPSGraphTensor>| {
            let same = |(_, node): &(Slot, Node)| lowered[node.0] == tensor;
            nodes.iter().position(same)
        };
        let places: Option<Vec<usize>> = wanted.iter().map(place).collect();
        let places = places.filter(|places| places.len() == nodes.len());
        places.ok_or_else(|| self.gpu.failed("an executable with other feeds than its graph's"))
    }
}

impl Device for Metal {
    type Executable = Executable;
    type Binding = Binding;

    fn seen(&self) -> Seen {
        self.gpu.seen()
    }

    fn allocate(&mut self, bytes: usize) -> Result<BufferId, TrainError> {
        Ok(BufferId(self.gpu.allocate("a tensor", bytes)?))
    }

    fn write(&mut self, buffer: BufferId, bytes: &[u8]) -> Result<(), TrainError> {
        self.gpu.write(buffer.0, bytes)
    }

    fn read(&mut self, buffer: BufferId, bytes: &mut [u8]) -> Result<(), TrainError> {
        self.gpu.read(buffer.0, bytes)
    }

    #[allow(unsafe_code)]
    fn compile(&mut self, description: &Description) -> Result<Executable, TrainError> {
        autoreleasepool(|_| {
            let Description { graph, feeds, results } = description;
            // SAFETY: makes an empty graph.
            let target = unsafe { MPSGraph::new() };
            let lowered = self.gpu.guarded("building a graph", || lower(graph, &target))?;
            let shaped = |(_, node): &(Slot, Node)| {
                let tensor = graph.tensor(*node);
                // SAFETY: makes a description.
                unsafe {
                    MPSGraphShapedType::initWithShape_dataType(
                        MPSGraphShapedType::alloc(),
                        Some(&shape(&tensor.shape)),
                        data_type(tensor.data_type),
                    )
                }
            };
            let types: Vec<_> = feeds.iter().map(shaped).collect();
            let types: Vec<&MPSGraphShapedType> = types.iter().map(|it| &**it).collect();
            let keys: Vec<&MPSGraphTensor> =
                feeds.iter().map(|(_, node)| &*lowered[node.0]).collect();
            let feed_types = NSDictionary::from_slices(&keys, &types);
            let targets: Vec<&MPSGraphTensor> =
                results.iter().map(|(_, node)| &*lowered[node.0]).collect();
            let targets = NSArray::from_slice(&targets);
            // SAFETY: feeds and targets are tensors of this graph, and the feeds are all of its
            // placeholders.
            let compile = || unsafe {
                let how = MPSGraphCompilationDescriptor::new();
                // The GPU alone: the next level may move parts to other processors.
                how.setOptimizationLevel(MPSGraphOptimization::Level0);
                how.setWaitForCompilationCompletion(true);
                target.compileWithDevice_feeds_targetTensors_targetOperations_compilationDescriptor(
                    Some(&self.device),
                    &feed_types,
                    &targets,
                    None,
                    Some(&how),
                )
            };
            let executable = self.gpu.guarded("compiling a graph", compile)?;
            // SAFETY: asks the executable for its own lists.
            let wanted = unsafe { (executable.feedTensors(), executable.targetTensors()) };
            let feeds = self.places(wanted.0, feeds, &lowered)?;
            let results = self.places(wanted.1, results, &lowered)?;
            Ok(Executable { executable, feeds, results })
        })
    }

    fn bind(
        &mut self,
        executable: &Executable,
        description: &Description,
        feeds: &[BufferId],
        results: &[BufferId],
    ) -> Result<Binding, TrainError> {
        let graph = &description.graph;
        let inputs = self.all_data(graph, &description.feeds, feeds, &executable.feeds);
        let results = self.all_data(graph, &description.results, results, &executable.results);
        Ok(Binding { executable: executable.executable.clone(), inputs, results })
    }

    #[allow(unsafe_code)]
    fn record(&mut self, binding: &Binding) -> Result<(), TrainError> {
        autoreleasepool(|_| {
            let queue = &self.gpu.queue;
            let commands = self.commands.get_or_insert_with(|| {
                // SAFETY: a command buffer of a queue that exists.
                unsafe { MPSCommandBuffer::commandBufferFromCommandQueue(queue) }
            });
            let encode = || {
                // SAFETY: the data is in the order, shapes and types of the executable's own lists.
                unsafe {
                    binding
                        .executable
                        .encodeToCommandBuffer_inputsArray_resultsArray_executionDescriptor(
                            commands,
                            &binding.inputs,
                            Some(&binding.results),
                            None,
                        )
                };
            };
            self.gpu.guarded("running a graph", encode)
        })
    }

    #[allow(unsafe_code)]
    fn submit(&mut self) -> Result<(), TrainError> {
        if let Some(commands) = self.commands.take() {
            // The graph may have committed a part and gone on in another one: the last is the root
            // now.
            // SAFETY: asks the command buffer for its own part.
            let root = unsafe { commands.rootCommandBuffer() };
            commands.commit();
            self.gpu.submitted(root);
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), TrainError> {
        self.gpu.wait()
    }

    /// Unknown: a graph may commit what it has encoded so far and go on in another command buffer,
    /// and only the last one's times are seen.
    fn worked_s(&self) -> Option<f64> {
        None
    }
}

fn shape(shape: &[usize]) -> Retained<MPSShape> {
    let numbers: Vec<_> = shape.iter().map(|&size| NSNumber::new_usize(size)).collect();
    NSArray::from_retained_slice(&numbers)
}

fn data_type(data_type: DataType) -> MPSDataType {
    match data_type {
        DataType::Float32 => MPSDataType::Float32,
        DataType::Int32 => MPSDataType::Int32,
        DataType::Int8 => MPSDataType::Int8,
        DataType::Bool => MPSDataType::Bool,
    }
}

/// Of each node, its tensor.
fn lower(graph: &Graph, target: &MPSGraph) -> Vec<Retained<MPSGraphTensor>> {
    let mut lowered = Vec::with_capacity(graph.tensors().len());
    let mut gradients = BTreeMap::new(); // by what they are of
    for tensor in graph.tensors() {
        let next = lower_node(graph, tensor, target, &lowered, &mut gradients);
        lowered.push(next);
    }
    lowered
}

/// # Panics
/// If Metal knows no such convolution, pooling or gradient: that is seen on the first run.
#[allow(unsafe_code)]
fn lower_node(
    graph: &Graph,
    tensor: &Tensor,
    target: &MPSGraph,
    lowered: &[Retained<MPSGraphTensor>],
    gradients: &mut BTreeMap<Node, Gradients>,
) -> Retained<MPSGraphTensor> {
    let of = |node: Node| &*lowered[node.0];
    let to_shape = shape(&tensor.shape);
    let to_type = data_type(tensor.data_type);
    // SAFETY: all operands are tensors of this graph, and the description has checked that their
    // shapes and types fit the operation.
    unsafe {
        match tensor.op {
            Op::Placeholder => {
                let name = NSString::from_str(tensor.name);
                target.placeholderWithShape_dataType_name(Some(&to_shape), to_type, Some(&name))
            }
            Op::Constant(value) => {
                target.constantWithScalar_shape_dataType(value, &to_shape, to_type)
            }
            Op::Coordinate => {
                let place = target.coordinateAlongAxis_withShape_name(0, &to_shape, None);
                // Nothing if it is of that type already, which the documentation leaves open.
                target.castTensor_toType_name(&place, to_type, None)
            }
            Op::Cast(node) => target.castTensor_toType_name(of(node), to_type, None),
            Op::Gather { from, at } => target
                .gatherWithUpdatesTensor_indicesTensor_axis_batchDimensions_name(
                    of(from),
                    of(at),
                    0,
                    0,
                    None,
                ),
            Op::OneHot(node) => {
                let depth = tensor.shape[1];
                target.oneHotWithIndicesTensor_depth_axis_dataType_name(
                    of(node),
                    depth,
                    1,
                    to_type,
                    None,
                )
            }
            Op::Binary(operation, left, right) => {
                let (left, right) = (of(left), of(right));
                match operation {
                    Binary::Add => {
                        target.additionWithPrimaryTensor_secondaryTensor_name(left, right, None)
                    }
                    Binary::Multiply => target
                        .multiplicationWithPrimaryTensor_secondaryTensor_name(left, right, None),
                    Binary::Divide => {
                        target.divisionWithPrimaryTensor_secondaryTensor_name(left, right, None)
                    }
                }
            }
            Op::Equal(left, right) => {
                target.equalWithPrimaryTensor_secondaryTensor_name(of(left), of(right), None)
            }
            Op::Select { condition, yes, no } => target
                .selectWithPredicateTensor_truePredicateTensor_falsePredicateTensor_name(
                    of(condition),
                    of(yes),
                    of(no),
                    None,
                ),
            Op::MatMul(left, right) => target
                .matrixMultiplicationWithPrimaryTensor_secondaryTensor_name(
                    of(left),
                    of(right),
                    None,
                ),
            Op::Transpose(node, one, other) => {
                target.transposeTensor_dimension_withDimension_name(of(node), one, other, None)
            }
            Op::Reshape(node) => target.reshapeTensor_withShape_name(of(node), &to_shape, None),
            Op::Relu(node) => target.reLUWithTensor_name(of(node), None),
            Op::Softmax(node) => target.softMaxWithTensor_axis_name(of(node), -1, None),
            Op::Sum(node, dimension) => {
                target.reductionSumWithTensor_axis_name(of(node), dimension as isize, None)
            }
            Op::CrossEntropy { logits, labels } => {
                let sum = target
                    .softMaxCrossEntropyWithSourceTensor_labelsTensor_axis_reductionType_name(
                        of(logits),
                        of(labels),
                        -1,
                        MPSGraphLossReductionType::Sum,
                        None,
                    );
                // One number, of whatever rank.
                target.reshapeTensor_withShape_name(&sum, &to_shape, None)
            }
            Op::Convolve { images, weights } => {
                let how = MPSGraphConvolution2DOpDescriptor::
                    descriptorWithStrideInX_strideInY_dilationRateInX_dilationRateInY_groups_paddingLeft_paddingRight_paddingTop_paddingBottom_paddingStyle_dataLayout_weightsLayout(
                        1, 1, 1, 1, 1, 1, 1, 1, 1,
                        MPSGraphPaddingStyle::Explicit,
                        MPSGraphTensorNamedDataLayout::NCHW,
                        MPSGraphTensorNamedDataLayout::OIHW,
                    )
                    .expect("a convolution of 3x3 with padding 1");
                target.convolution2DWithSourceTensor_weightsTensor_descriptor_name(
                    of(images),
                    of(weights),
                    &how,
                    None,
                )
            }
            Op::MaxPool(node) => {
                let how = MPSGraphPooling2DOpDescriptor::
                    descriptorWithKernelWidth_kernelHeight_strideInX_strideInY_paddingStyle_dataLayout(
                        2, 2, 2, 2,
                        MPSGraphPaddingStyle::TF_VALID,
                        MPSGraphTensorNamedDataLayout::NCHW,
                    )
                    .expect("a pooling of 2x2");
                target.maxPooling2DWithSourceTensor_descriptor_name(of(node), &how, None)
            }
            Op::Gradient { of: loss, by } => {
                let all = gradients.entry(loss).or_insert_with(|| {
                    let wanted = graph.tensors().iter().filter_map(|other| match other.op {
                        Op::Gradient { of, by } if of == loss => Some(&*lowered[by.0]),
                        _ => None,
                    });
                    let wanted: Vec<&MPSGraphTensor> = wanted.collect();
                    let wanted = NSArray::from_slice(&wanted);
                    target.gradientForPrimaryTensor_withTensors_name(of(loss), &wanted, None)
                });
                all.objectForKey(of(by)).expect("a gradient by each tensor that was asked for")
            }
            Op::Descend { rate, values, gradient } => target
                .stochasticGradientDescentWithLearningRateTensor_valuesTensor_gradientTensor_name(
                    of(rate),
                    of(values),
                    of(gradient),
                    None,
                ),
        }
    }
}
