//! Every shader, without a device: it is valid, asks for no more than its launcher's limits, and
//! translates to what Vulkan, Metal and DirectX take.

use crate::requirements::{IMMEDIATE_BYTES, limits};
use crate::{attention, cnn, mlp};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module};
use nn::AttentionShape;
use std::borrow::Cow;

/// The names and texts; the attention model's for the default and for the widest shape.
fn shaders() -> [(&'static str, Cow<'static, str>); 4] {
    let attention =
        |d_model, ff, rolled| attention::shader(AttentionShape { d_model, ff }, rolled).into();
    [
        ("mlp.wgsl", mlp::SHADER.into()),
        ("cnn.wgsl", cnn::SHADER.into()),
        ("attention.wgsl", attention(32, 64, false)),
        ("attention.wgsl, wide", attention(attention::MAX_D_MODEL, attention::MAX_FF, true)),
    ]
}

fn validated(name: &str, source: &str) -> (Module, ModuleInfo) {
    let module = match naga::front::wgsl::parse_str(source) {
        Ok(module) => module,
        Err(error) => panic!("{name}: {}", error.emit_to_string(source)),
    };
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::IMMEDIATES);
    match validator.validate(&module) {
        Ok(info) => (module, info),
        Err(error) => panic!("{name}: {}", error.emit_to_string(source)),
    }
}

#[test]
fn every_shader_is_valid_without_any_capability_but_immediate_data() {
    for (name, source) in shaders() {
        let (module, _) = validated(name, &source);
        assert!(!module.entry_points.is_empty(), "{name} has entry points");
    }
}

#[test]
fn every_shader_stays_within_the_limits_that_are_asked_for() {
    let limits = limits();
    for (name, source) in shaders() {
        let (module, info) = validated(name, &source);
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).expect("a valid module has a layout");
        for (index, entry) in module.entry_points.iter().enumerate() {
            let uses = info.get_entry_point(index);
            let of = |space: fn(&AddressSpace) -> bool| {
                let used = module.global_variables.iter().filter(move |(handle, variable)| {
                    space(&variable.space) && !uses[*handle].is_empty()
                });
                used.map(|(_, variable)| layouter[variable.ty].size.next_multiple_of(16))
            };
            let workgroup: u32 = of(|space| matches!(space, AddressSpace::WorkGroup)).sum();
            assert!(
                workgroup <= limits.max_compute_workgroup_storage_size,
                "{name}, {}: {workgroup} bytes of workgroup memory",
                entry.name,
            );
            let immediate: u32 = of(|space| matches!(space, AddressSpace::Immediate)).sum();
            assert!(immediate <= IMMEDIATE_BYTES, "{name}: {immediate} bytes of immediate data");
            let buffers = of(|space| matches!(space, AddressSpace::Storage { .. })).count();
            assert!(buffers <= limits.max_storage_buffers_per_shader_stage as usize);
            let invocations: u32 = entry.workgroup_size.iter().product();
            assert!(invocations <= limits.max_compute_invocations_per_workgroup);
        }
    }
}

#[test]
fn every_shader_translates_to_spir_v_metal_and_hlsl() {
    for (name, source) in shaders() {
        let (module, info) = validated(name, &source);
        // Sizes stand in for those of a job: any will do to translate.
        let sizes = module
            .overrides
            .iter()
            .filter_map(|(_, size)| Some((size.name.clone()?, 16.0)))
            .collect();
        let (module, info) =
            naga::back::pipeline_constants::process_overrides(&module, &info, None, &sizes)
                .unwrap_or_else(|error| panic!("{name}: {error}"));

        let options = naga::back::spv::Options::default();
        let words = naga::back::spv::write_vec(&module, &info, &options, None);
        assert!(words.is_ok_and(|words| !words.is_empty()), "{name} as SPIR-V");

        let options = naga::back::msl::Options {
            lang_version: (2, 4),
            fake_missing_bindings: true,
            ..Default::default()
        };
        let pipeline = naga::back::msl::PipelineOptions::default();
        let metal = naga::back::msl::write_string(&module, &info, &options, &pipeline);
        assert!(metal.is_ok_and(|(text, _)| !text.is_empty()), "{name} as Metal");

        let options = naga::back::hlsl::Options {
            fake_missing_bindings: true,
            immediates_target: Some(naga::back::hlsl::BindTarget::default()),
            ..Default::default()
        };
        let pipeline = naga::back::hlsl::PipelineOptions::default();
        let mut text = String::new();
        let mut writer = naga::back::hlsl::Writer::new(&mut text, &options, &pipeline);
        let hlsl = writer.write(&module, &info, None);
        assert!(hlsl.is_ok(), "{name} as HLSL: {:?}", hlsl.err());
    }
}
