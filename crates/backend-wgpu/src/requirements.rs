//! The requirements of a device: everything that the kernels rely on.

use wgpu::{Features, Limits};

/// Of one buffer binding: what WebGPU promises of every device.
pub(crate) const BINDING_BYTES: u64 = 128 << 20;
/// Immediate data of a dispatch.
pub(crate) const IMMEDIATE_BYTES: u32 = 32;

/// What is asked of a device, and all that the kernels rely on: WebGPU's promises, less workgroup
/// memory for the oldest devices.
pub(crate) fn limits() -> Limits {
    Limits {
        max_storage_buffers_per_shader_stage: 8,
        max_storage_buffer_binding_size: BINDING_BYTES,
        max_buffer_size: BINDING_BYTES,
        max_immediate_size: IMMEDIATE_BYTES,
        ..Limits::downlevel_defaults()
    }
}

/// What a device must be able to do beyond that: Vulkan's push constants, Metal's `setBytes`,
/// DirectX 12's root constants.
pub(crate) const FEATURES: Features = Features::IMMEDIATES;
