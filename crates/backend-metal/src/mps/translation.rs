//! `kernels.metal` is what naga makes of `kernels.wgsl`, and has the entry points and bindings that
//! the launchers rely on.
//!
//! After a change of `kernels.wgsl` (or of naga), write it anew:
//! `TRAINMARK_WRITE_METAL=1 cargo test -p trainmark-backend-metal kernels_metal`.

use super::kernels::{
    ARGUMENTS_INDEX, Access, Kernel, METAL, SIZES_BYTES, SIZES_INDEX, THREADGROUP_BYTES, WGSL,
};
use super::plan::ARGUMENT_BYTES;
use naga::back::msl;
use naga::valid::{Capabilities, GlobalUse, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ResourceBinding};

/// The first lines of `kernels.metal`.
const HEAD: &str = "\
// naga's translation of kernels.wgsl: not written by hand, kept equal by the tests of
// src/mps/translation.rs, which also say how to write it anew.
";

fn validated() -> (Module, ModuleInfo) {
    let module = match naga::front::wgsl::parse_str(WGSL) {
        Ok(module) => module,
        Err(error) => panic!("{}", error.emit_to_string(WGSL)),
    };
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::IMMEDIATES);
    match validator.validate(&module) {
        Ok(info) => (module, info),
        Err(error) => panic!("{}", error.emit_to_string(WGSL)),
    }
}

/// The access of an entry point to each of its bindings.
fn accesses(module: &Module, info: &ModuleInfo, entry: usize) -> Vec<(u32, GlobalUse)> {
    let uses = info.get_entry_point(entry);
    let bound = module.global_variables.iter().filter_map(|(handle, variable)| {
        let used = uses[handle];
        let binding = variable.binding.filter(|_| !used.is_empty())?;
        Some((binding.binding, used))
    });
    let mut bound: Vec<_> = bound.collect();
    bound.sort_by_key(|&(binding, _)| binding);
    bound
}

fn translated() -> String {
    let (module, info) = validated();
    let entry_point = |entry: &naga::EntryPoint| {
        let target = |binding| msl::BindTarget {
            buffer: Some(binding as u8), // at most 8: checked below
            mutable: true,
            ..Default::default()
        };
        let resources = (0..ARGUMENTS_INDEX as u32)
            .map(|binding| (ResourceBinding { group: 0, binding }, target(binding)))
            .collect();
        let resources = msl::EntryPointResources {
            resources,
            immediates_buffer: Some(ARGUMENTS_INDEX as u8),
            sizes_buffer: Some(SIZES_INDEX as u8),
        };
        (entry.name.clone(), resources)
    };
    let options = msl::Options {
        lang_version: (2, 4), // macOS 12
        per_entry_point_map: module.entry_points.iter().map(entry_point).collect(),
        fake_missing_bindings: false,
        bounds_check_policies: naga::proc::BoundsCheckPolicies::default(), // no checks: see below
        zero_initialize_workgroup_memory: false, // kernels write it before they read it
        force_loop_bounding: false,              // all loops count up to a bound
        emit_int_div_checks: false,              // no divisor is 0
        ..Default::default()
    };
    let pipeline = msl::PipelineOptions::default();
    match msl::write_string(&module, &info, &options, &pipeline) {
        Ok((text, _)) => format!("{HEAD}{text}"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn kernels_metal_is_the_translation_of_kernels_wgsl() {
    let text = translated();
    if std::env::var_os("TRAINMARK_WRITE_METAL").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/kernels.metal");
        std::fs::write(path, &text).unwrap();
        return;
    }
    let differs = METAL.lines().zip(text.lines()).find(|(kept, fresh)| kept != fresh);
    assert!(METAL == text, "write kernels.metal anew, as translation.rs says: {differs:?}");
}

#[test]
fn every_entry_point_is_listed_with_its_threads_and_accesses() {
    let (module, info) = validated();
    assert_eq!(module.entry_points.len(), Kernel::ALL.len());
    for kernel in Kernel::ALL {
        let of_that_name = |entry: &naga::EntryPoint| entry.name == kernel.name();
        let index = module.entry_points.iter().position(of_that_name);
        let index = index.unwrap_or_else(|| panic!("no entry point {}", kernel.name()));
        let size = module.entry_points[index].workgroup_size;
        assert_eq!(size, [kernel.threads() as u32, 1, 1], "{}", kernel.name());
        let found = accesses(&module, &info, index);
        let expected = kernel.accesses();
        assert_eq!(found.len(), expected.len(), "bindings of {}", kernel.name());
        assert!(found.len() <= ARGUMENTS_INDEX);
        for (place, ((binding, used), access)) in found.into_iter().zip(expected).enumerate() {
            assert_eq!(binding as usize, place, "bindings of {}", kernel.name());
            let flags = match access {
                Access::Read => GlobalUse::READ,
                Access::Write => GlobalUse::WRITE,
                Access::ReadWrite => GlobalUse::READ | GlobalUse::WRITE,
            };
            assert_eq!(used, flags, "binding {place} of {}", kernel.name());
        }
    }
}

#[test]
fn the_metal_text_binds_buffers_where_the_launcher_does() {
    for kernel in Kernel::ALL {
        let begin = METAL.find(&format!("kernel void {}(", kernel.name()));
        let begin = begin.unwrap_or_else(|| panic!("no kernel {} in Metal", kernel.name()));
        let signature = &METAL[begin..];
        let signature = &signature[..signature.find(") {").unwrap()];
        for place in 0..kernel.accesses().len() {
            assert!(signature.contains(&format!("[[buffer({place})]]")), "{signature}");
        }
        let beyond = format!("[[buffer({})]]", kernel.accesses().len());
        assert!(!signature.contains(&beyond), "{signature}");
        if let Some((_, arguments)) = signature.split_once("constant Arguments& ") {
            let place = arguments.split_whitespace().nth(1).unwrap();
            assert_eq!(place, format!("[[buffer({ARGUMENTS_INDEX})]]"), "{signature}");
        }
        // The launcher gives memory to one threadgroup argument, of the kernels that have it.
        let shared = signature.matches("threadgroup ").count();
        assert_eq!(shared, usize::from(kernel.exchanges()), "{signature}");
    }
}

#[test]
fn the_metal_text_never_looks_at_the_sizes_of_buffers() {
    // So zeros may stand in for them.
    assert!(!METAL.contains("_buffer_sizes."), "sizes are used");
    let sizes = METAL.matches("    uint size").count();
    assert!(4 * sizes <= SIZES_BYTES, "{sizes} sizes");
}

#[test]
fn the_launcher_gives_as_much_threadgroup_memory_as_any_kernel_takes() {
    let (module, _) = validated();
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).unwrap();
    let shared = |variable: &naga::GlobalVariable| variable.space == AddressSpace::WorkGroup;
    let sizes = module.global_variables.iter().filter(|(_, variable)| shared(variable));
    let sizes: Vec<u32> = sizes.map(|(_, variable)| layouter[variable.ty].size).collect();
    assert_eq!(sizes, [THREADGROUP_BYTES as u32]);
    assert!(THREADGROUP_BYTES.is_multiple_of(16), "as Metal wants it");
}

#[test]
fn the_arguments_are_as_large_as_the_launcher_makes_them() {
    let (module, _) = validated();
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).unwrap();
    let immediate = |variable: &naga::GlobalVariable| variable.space == AddressSpace::Immediate;
    let (_, arguments) = module.global_variables.iter().find(|(_, it)| immediate(it)).unwrap();
    assert_eq!(layouter[arguments.ty].size as usize, ARGUMENT_BYTES);
}
