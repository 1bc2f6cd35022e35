//! Metal's part, played by any Vulkan device: the same kernels, from the text that Metal's are
//! translated from, and a plain product in place of `MPSMatrixMultiplication`. Everything else of
//! `mps` is then as on a Mac, and is held to the reference.

use super::kernels::{Access, Kernel, WGSL};
use super::plan::{At, BufferId, Buffers, Command, Dispatch, Matrix, Product};
use super::session::{Device, MpsSession};
use crate::job;
use crate::seen::Seen;
use nn::backend::{Backend, Job, Options, Session, TrainError, Unavailable};
use protocol::DeviceProbe;
use std::collections::BTreeMap;
use wgpu::BufferUsages;

const IMMEDIATE_BYTES: u32 = 32;

/// `mps` on Vulkan.
pub(super) struct Imitation;

impl Backend for Imitation {
    fn id(&self) -> &'static str {
        "imitation"
    }

    fn devices(&self) -> Result<Vec<DeviceProbe>, Unavailable> {
        let adapter = adapter().ok_or_else(|| Unavailable("no Vulkan device".to_owned()))?;
        let name = adapter.get_info().name;
        Ok(vec![DeviceProbe { name, detail: None, software: true }])
    }

    fn open<'data>(
        &self,
        job: Job<'data>,
        options: &Options,
    ) -> Result<Box<dyn Session + 'data>, TrainError> {
        job::check(&job, options)?;
        Ok(Box::new(MpsSession::open(job, |buffers| Ok(Gpu::open(buffers)))?))
    }
}

fn adapter() -> Option<wgpu::Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::VULKAN | wgpu::Backends::METAL,
        flags: wgpu::InstanceFlags::empty(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    adapters.into_iter().next()
}

pub(super) struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    buffers: Vec<wgpu::Buffer>,
    kernels: BTreeMap<Kernel, wgpu::ComputePipeline>,
    product: wgpu::ComputePipeline,
    encoder: Option<wgpu::CommandEncoder>,
}

/// A dispatch made ready: its words' first two are the place of the step, where that matters.
pub(super) struct Ready {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    words: Vec<u32>,
    placed: bool,
    groups: u32,
}

impl Gpu {
    fn open(buffers: &Buffers) -> Gpu {
        let adapter = adapter().expect("the test looked for an adapter");
        let limits = wgpu::Limits {
            max_immediate_size: IMMEDIATE_BYTES,
            max_storage_buffers_per_shader_stage: 8,
            ..wgpu::Limits::downlevel_defaults()
        };
        let request = adapter.request_device(&wgpu::DeviceDescriptor {
            required_features: wgpu::Features::IMMEDIATES,
            required_limits: limits,
            ..Default::default()
        });
        let (device, queue) = pollster::block_on(request).unwrap();
        let allocate = |bytes: usize| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: bytes as u64,
                usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        let buffers = buffers.list().iter().map(|buffer| allocate(buffer.bytes)).collect();
        let module = |source: &'static str| {
            device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: None,
                source: wgpu::ShaderSource::Wgsl(source.into()),
            })
        };
        let (kernels, product) = (module(WGSL), module(include_str!("product.wgsl")));
        let pipeline = |module, entry, accesses: &[Access]| {
            let entries: Vec<_> = (0..).zip(accesses).map(|(at, &it)| entry_of(at, it)).collect();
            let group = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: None,
                entries: &entries,
            });
            let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &[Some(&group)],
                immediate_size: IMMEDIATE_BYTES,
            });
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: None,
                layout: Some(&layout),
                module,
                entry_point: Some(entry),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &[],
                    zero_initialize_workgroup_memory: false, // as on Metal
                },
                cache: None,
            })
        };
        let kernels = Kernel::ALL
            .iter()
            .map(|&kernel| (kernel, pipeline(&kernels, kernel.name(), kernel.accesses())))
            .collect();
        let accesses = [Access::Read, Access::Read, Access::ReadWrite];
        let product = pipeline(&product, "multiply", &accesses);
        Gpu { device, queue, buffers, kernels, product, encoder: None }
    }

    /// As the plan says, so that a part that begins or ends elsewhere than planned is refused.
    fn bind(&self, pipeline: &wgpu::ComputePipeline, parts: &[Matrix]) -> wgpu::BindGroup {
        let entries: Vec<_> = (0..)
            .zip(parts)
            .map(|(binding, part)| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &self.buffers[part.buffer.0],
                    offset: part.offset_bytes as u64,
                    size: wgpu::BufferSize::new(part.bytes() as u64),
                }),
            })
            .collect();
        self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        })
    }

    fn product(&self, product: &Product) -> Ready {
        let Product { left, right, result, interior, alpha, beta } = *product;
        let transposed = u32::from(left.transposed) + 2 * u32::from(right.transposed);
        let sizes = [result.rows, result.columns, interior, result.matrices].map(|n| n as u32);
        let scales = [transposed, alpha.to_bits(), beta.to_bits()];
        Ready {
            pipeline: self.product.clone(),
            group: self.bind(&self.product, &[left.matrix, right.matrix, result]),
            words: sizes.into_iter().chain(scales).collect(),
            placed: false,
            groups: result.len().div_ceil(64) as u32,
        }
    }

    fn dispatch(&self, dispatch: &Dispatch) -> Ready {
        let pipeline = self.kernels[&dispatch.kernel].clone();
        Ready {
            group: self.bind(&pipeline, &dispatch.bindings),
            pipeline,
            words: dispatch.arguments.words(At::default()).to_vec(),
            placed: true,
            groups: dispatch.groups as u32,
        }
    }
}

fn entry_of(binding: u32, access: Access) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only: access == Access::Read },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    }
}

impl Device for Gpu {
    type Sequence = Vec<Ready>;

    fn seen(&self) -> Seen {
        Seen { name: "Vulkan".to_owned(), software: true }
    }

    fn write(&mut self, buffer: BufferId, bytes: &[u8]) -> Result<(), TrainError> {
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(4), 0);
        self.queue.write_buffer(&self.buffers[buffer.0], 0, &padded);
        Ok(())
    }

    fn read(&mut self, buffer: BufferId, bytes: &mut [u8]) -> Result<(), TrainError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let size = bytes.len() as u64;
        let readback = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&self.buffers[buffer.0], 0, &readback, 0, size);
        self.queue.submit([encoder.finish()]);
        readback.slice(..).map_async(wgpu::MapMode::Read, |result| result.unwrap());
        self.wait()?;
        bytes.copy_from_slice(&readback.slice(..).get_mapped_range().unwrap());
        Ok(())
    }

    fn prepare(&mut self, commands: &[Command]) -> Result<Vec<Ready>, TrainError> {
        let ready = |command: &Command| match command {
            Command::Product(product) => self.product(product),
            Command::Dispatch(dispatch) => self.dispatch(dispatch),
        };
        Ok(commands.iter().map(ready).collect())
    }

    fn record(&mut self, sequence: &Vec<Ready>, at: At) -> Result<(), TrainError> {
        let device = &self.device;
        let encoder =
            self.encoder.get_or_insert_with(|| device.create_command_encoder(&Default::default()));
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for ready in sequence {
            pass.set_pipeline(&ready.pipeline);
            pass.set_bind_group(0, &ready.group, &[]);
            let mut words = ready.words.clone();
            if ready.placed {
                words[..2].copy_from_slice(&[at.first, at.step]);
            }
            pass.set_immediates(0, bytemuck::cast_slice(&words));
            pass.dispatch_workgroups(ready.groups, 1, 1);
        }
        Ok(())
    }

    fn submit(&mut self) -> Result<(), TrainError> {
        if let Some(encoder) = self.encoder.take() {
            self.queue.submit([encoder.finish()]);
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), TrainError> {
        self.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        Ok(())
    }

    fn worked_s(&self) -> Option<f64> {
        None
    }
}
