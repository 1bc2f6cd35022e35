//! The kernels without a device: the checked-in PTX is what the sources give, and every kernel
//! compiles to machine code for each generation of devices.
//!
//! Both need NVIDIA's run-time compiler, of the one version that wrote `ptx/`. Without it the tests are
//! skipped; where `TRAINMARK_REQUIRE_NVRTC=1` they fail. It is found as the system finds libraries, or
//! where `TRAINMARK_NVRTC` says:
//!
//! ```text
//! python3 -m pip install --target nvrtc nvidia-cuda-nvrtc-cu12==12.8.93
//! TRAINMARK_NVRTC=nvrtc/nvidia/cuda_nvrtc/lib/libnvrtc.so.12 cargo test -p trainmark-backend-cuda
//! ```
//!
//! After a change to `kernels/`, `TRAINMARK_WRITE_PTX=1` writes those of `ptx/` that it changes.
//! `gzip -dc` shows them.

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// NVRTC's version, as `nvrtcVersion` gives it. Another one would write other PTX.
const VERSION: (c_int, c_int) = (12, 8);
/// The generations: Ampere, Hopper, Blackwell.
const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_90", "sm_100"];

/// The architecture of kernels that use what only Hopper has, and no later one.
const HOPPER_ALONE: u32 = 90_000;

/// A kernel's file without its extension, and the oldest architecture that has what it uses.
const KERNELS: [(&str, u32); 19] = [
    ("attention", 80),
    ("attention_fused", 90),
    ("cnn", 80),
    ("cnn_fused", 80),
    ("epoch", 80),
    ("gpt_attention", 80),
    ("gpt_attention_float32", 80),
    ("gpt_embed", 80),
    ("gpt_head", HOPPER_ALONE),
    ("gpt_narrow", 90),
    ("gpt_narrow_weights", 80),
    ("gpt_others", 80),
    ("gpt_plain", 80),
    ("gpt_products", HOPPER_ALONE),
    ("gpt_rows", 80),
    ("gpt_update", 80),
    ("gpt_weights", HOPPER_ALONE),
    ("mlp", 80),
    ("mlp_fused", 80),
];

type Program = *mut c_void;

/// The compiler's library.
struct Nvrtc(libloading::Library);

impl Nvrtc {
    /// The compiler of the right version; without it the test is skipped, or fails.
    fn find() -> Option<Nvrtc> {
        let skip = |reason: &String| skip::skipped_unless("TRAINMARK_REQUIRE_NVRTC", reason);
        Nvrtc::load().inspect_err(skip).ok()
    }

    fn load() -> Result<Nvrtc, String> {
        let path = std::env::var("TRAINMARK_NVRTC").unwrap_or_else(|_| "libnvrtc.so.12".to_owned());
        // SAFETY: NVIDIA's library has no initialiser with effects.
        let library = unsafe { libloading::Library::new(&path) }
            .map_err(|error| format!("no NVRTC at {path}: {error}"))?;
        let nvrtc = Nvrtc(library);
        let (mut major, mut minor) = (0, 0);
        type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
        // SAFETY: the type is nvrtc.h's; it writes two numbers.
        let status = unsafe { nvrtc.get::<Version>(c"nvrtcVersion")(&mut major, &mut minor) };
        assert_eq!(status, 0);
        if (major, minor) != VERSION {
            return Err(format!(
                "NVRTC at {path} is {major}.{minor}, and ptx/ is of {}.{}",
                VERSION.0, VERSION.1
            ));
        }
        Ok(nvrtc)
    }

    /// A function of the library.
    ///
    /// # Safety
    /// `F` is its type.
    unsafe fn get<F: Copy>(&self, name: &CStr) -> F {
        // SAFETY: as this function's.
        *unsafe { self.0.get::<F>(name.to_bytes_with_nul()) }
            .unwrap_or_else(|error| panic!("NVRTC lacks {name:?}: {error}"))
    }

    /// What the compiler makes of a kernel for an architecture: PTX for a `compute_`, machine code
    /// for an `sm_`.
    fn compile(&self, kernel: &str, architecture: &str) -> Result<Vec<u8>, String> {
        let sources = folder("kernels");
        let mut headers = Vec::new();
        for entry in std::fs::read_dir(&sources).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "cuh") {
                headers.push((c_string(&file_name(&path)), c_string(&read(&path))));
            }
        }
        let file = format!("{kernel}.cu");
        let (text, name) = (c_string(&read(&sources.join(&file))), c_string(&file));
        let texts: Vec<*const c_char> = headers.iter().map(|(_, text)| text.as_ptr()).collect();
        let names: Vec<*const c_char> = headers.iter().map(|(name, _)| name.as_ptr()).collect();
        let option = c_string(&format!("--gpu-architecture={architecture}"));
        let options = [option.as_ptr()];

        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
        type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
        let mut program: Program = std::ptr::null_mut();
        // SAFETY: the types are nvrtc.h's, and all strings outlive the calls.
        unsafe {
            let (text, name) = (text.as_ptr(), name.as_ptr());
            let (texts, names) = (texts.as_ptr(), names.as_ptr());
            let create = self.get::<Create>(c"nvrtcCreateProgram");
            let count = headers.len() as c_int;
            assert_eq!(create(&mut program, text, name, count, texts, names), 0, "{kernel}");
            let compile = self.get::<Compile>(c"nvrtcCompileProgram");
            let status = compile(program, 1, options.as_ptr());
            let output = if status != 0 {
                let log = self.output(program, c"nvrtcGetProgramLogSize", c"nvrtcGetProgramLog");
                Err(String::from_utf8_lossy(&log).into_owned())
            } else if architecture.starts_with("compute_") {
                Ok(self.output(program, c"nvrtcGetPTXSize", c"nvrtcGetPTX"))
            } else {
                Ok(self.output(program, c"nvrtcGetCUBINSize", c"nvrtcGetCUBIN"))
            };
            self.get::<Destroy>(c"nvrtcDestroyProgram")(&mut program);
            output
        }
    }

    /// One of the outputs of a program.
    ///
    /// # Safety
    /// The names are those of functions that write a size and so many bytes.
    unsafe fn output(&self, program: Program, size: &CStr, bytes: &CStr) -> Vec<u8> {
        type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
        type Bytes = unsafe extern "C" fn(Program, *mut u8) -> c_int;
        let mut len = 0;
        // SAFETY: the types are nvrtc.h's; the second writes what the first said.
        unsafe {
            assert_eq!(self.get::<Size>(size)(program, &mut len), 0);
            let mut output = vec![0; len];
            assert_eq!(self.get::<Bytes>(bytes)(program, output.as_mut_ptr()), 0);
            output
        }
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn unpacked(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    GzDecoder::new(std::fs::File::open(path)?).read_to_end(&mut text)?;
    Ok(text)
}

fn c_string(text: &str) -> CString {
    CString::new(text).unwrap()
}

/// Calls `work` for every kernel, each on a thread of its own.
fn for_every_kernel(work: impl Fn(&str, u32) + Sync) {
    std::thread::scope(|scope| {
        for (kernel, oldest) in KERNELS {
            let work = &work;
            scope.spawn(move || work(kernel, oldest));
        }
    });
}

#[test]
fn the_list_of_kernels_is_complete() {
    let stems = |folder_name: &str, extension: &str| {
        let mut stems: Vec<String> = std::fs::read_dir(folder(folder_name))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|it| it == extension))
            .map(|path| file_name(&path).split('.').next().unwrap().to_owned())
            .collect();
        stems.sort();
        stems
    };
    let listed = KERNELS.map(|(kernel, _)| kernel.to_owned());
    assert_eq!(stems("kernels", "cu"), listed);
    assert_eq!(stems("ptx", "gz"), listed);
}

#[test]
fn the_checked_in_ptx_is_what_the_sources_give() {
    let Some(nvrtc) = Nvrtc::find() else { return };
    let write = std::env::var_os("TRAINMARK_WRITE_PTX").is_some();
    for_every_kernel(|kernel, oldest| {
        let architecture = match oldest {
            HOPPER_ALONE => "compute_90a".to_owned(),
            oldest => format!("compute_{oldest}"),
        };
        let mut ptx = match nvrtc.compile(kernel, &architecture) {
            Ok(ptx) => ptx,
            Err(log) => panic!("{kernel}.cu: {log}"),
        };
        assert_eq!(ptx.pop(), Some(0), "PTX is a C string");
        let path = folder("ptx").join(format!("{kernel}.ptx.gz"));
        let same = unpacked(&path).is_ok_and(|checked_in| checked_in == ptx);
        if write && !same {
            // The header holds no time and no name. Another version of flate2 may give other bytes:
            // a file whose text is the same is left as it is.
            let mut file =
                GzEncoder::new(std::fs::File::create(&path).unwrap(), Compression::best());
            file.write_all(&ptx).unwrap();
            file.finish().unwrap();
        }
        assert!(
            write || same,
            "{} is not what kernels/{kernel}.cu gives: TRAINMARK_WRITE_PTX=1 writes it",
            path.display()
        );
    });
}

#[test]
fn every_kernel_compiles_for_every_generation_of_devices() {
    let Some(nvrtc) = Nvrtc::find() else { return };
    for_every_kernel(|kernel, oldest| {
        if oldest == HOPPER_ALONE {
            let code = nvrtc.compile(kernel, "sm_90a");
            assert_eq!(&code.expect(kernel)[..4], b"\x7fELF", "{kernel}.cu for sm_90a");
            return;
        }
        for architecture in ARCHITECTURES {
            let generation: u32 = architecture["sm_".len()..].parse().unwrap();
            if generation < oldest {
                continue;
            }
            match nvrtc.compile(kernel, architecture) {
                Ok(code) => assert_eq!(&code[..4], b"\x7fELF", "{kernel}.cu for {architecture}"),
                Err(log) => panic!("{kernel}.cu for {architecture}: {log}"),
            }
        }
    });
}

#[test]
fn a_broken_kernel_would_be_noticed() {
    let Some(nvrtc) = Nvrtc::find() else { return };
    let error = nvrtc.compile("mlp", "sm_30").unwrap_err();
    assert!(error.contains("sm_30") || error.contains("architecture"), "{error}");
}
