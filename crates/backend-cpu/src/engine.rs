//! The engine of every session, and the checks that every session makes.

use crate::simd::Isa;
use crate::team::{self, Team};
use nn::backend::{Description, Job, Options, TrainError};

/// The engine of every session: the options, checked and resolved.
pub struct Engine {
    pub isa: Isa,
    pub team: Team,
    /// `Options::plan`, which the MLP checks; the others have none.
    pub plan: Option<String>,
}

impl Engine {
    /// Resolves the options that all models share.
    ///
    /// # Errors
    /// [`TrainError::Option`] with what could be asked for instead; [`TrainError::Device`] if the
    /// system refuses a thread.
    pub fn new(options: &Options) -> Result<Engine, TrainError> {
        let refused = |option, value: &str, reason: String| TrainError::Option {
            option,
            value: value.to_owned(),
            reason,
        };
        if let Some(device) = &options.device {
            let name = device_name();
            let meant = device == "0" || name.to_lowercase().contains(&device.to_lowercase());
            if !meant {
                return Err(refused("device", device, format!("the only device is 0, {name}")));
            }
        }
        if let Some(precision) = options.precision.as_deref().filter(|&name| name != "float32") {
            return Err(refused("precision", precision, "cpu computes in float32".to_owned()));
        }
        let isa = match &options.isa {
            None => Isa::detect(),
            Some(name) => {
                Isa::parse(name).map_err(|unknown| refused("isa", name, unknown.to_string()))?
            }
        };
        let threads = options.threads.unwrap_or_else(team::available_cores);
        if !(1..=MAX_THREADS).contains(&threads) {
            let reason = format!("there can be 1 to {MAX_THREADS} threads");
            return Err(refused("threads", &threads.to_string(), reason));
        }
        let team = Team::new(threads).map_err(|error| TrainError::Device {
            backend: "cpu",
            message: format!("starting {threads} threads: {error}"),
        })?;
        Ok(Engine { isa, team, plan: options.plan.clone() })
    }

    /// Of a model that has only one.
    pub fn refuse_plan(&self, model: &str) -> Result<(), TrainError> {
        match &self.plan {
            None => Ok(()),
            Some(plan) => Err(TrainError::Option {
                option: "plan",
                value: plan.clone(),
                reason: format!("the {model} has one way on cpu"),
            }),
        }
    }

    /// For the record: `path` says what runs on the instruction set.
    pub fn description(&self, path: &str) -> Description {
        Description {
            device: device_name(),
            path: format!("{}, {path}", self.isa.name()),
            threads: Some(self.team.threads()),
            precision: "float32",
            software: false,
        }
    }
}

/// More threads than any machine has cores; a typing error rather than a wish.
const MAX_THREADS: usize = 1024;

/// Checks the arguments of [`nn::backend::Session::train`], once per call.
///
/// # Errors
/// [`TrainError::Mismatch`] if a loss is missing or an index points outside the training set.
pub fn check_order(job: &Job<'_>, order: &[u32], step_loss: &[f32]) -> Result<(), TrainError> {
    let steps = order.len().div_ceil(job.batch_size);
    if step_loss.len() != steps {
        let given = step_loss.len();
        return Err(TrainError::Mismatch(format!("{given} losses for {steps} steps")));
    }
    let samples = job.train.len();
    match order.iter().find(|&&index| index as usize >= samples) {
        Some(index) => {
            Err(TrainError::Mismatch(format!("sample {index} of a training set of {samples}")))
        }
        None => Ok(()),
    }
}

/// Checks the arguments of [`nn::backend::Session::predict`].
///
/// # Errors
/// [`TrainError::Mismatch`] if there is not one label per image.
pub fn check_images(images: &[u8], labels: &[u8]) -> Result<(), TrainError> {
    if images.len() == labels.len() * mnist::PIXELS {
        return Ok(());
    }
    let (bytes, labels) = (images.len(), labels.len());
    Err(TrainError::Mismatch(format!("{bytes} bytes of images for {labels} labels")))
}

/// The CPU's own name for itself.
pub(crate) fn device_name() -> String {
    cpu_name().unwrap_or_else(|| format!("{} CPU", std::env::consts::ARCH))
}

#[cfg(target_arch = "x86_64")]
fn cpu_name() -> Option<String> {
    #[allow(unused_unsafe)] // a safe function only in later compilers than the oldest supported
    fn cpuid(leaf: u32) -> std::arch::x86_64::CpuidResult {
        // SAFETY: every x86-64 CPU has the instruction.
        unsafe { std::arch::x86_64::__cpuid(leaf) }
    }
    if cpuid(0x8000_0000).eax < 0x8000_0004 {
        return None;
    }
    let mut bytes = Vec::with_capacity(48);
    for leaf in 0x8000_0002..=0x8000_0004 {
        let words = cpuid(leaf);
        for word in [words.eax, words.ebx, words.ecx, words.edx] {
            bytes.extend(word.to_le_bytes());
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    let name = text.trim_matches(['\0', ' ']).to_owned();
    (!name.is_empty()).then_some(name)
}

#[cfg(all(not(target_arch = "x86_64"), target_os = "macos"))]
fn cpu_name() -> Option<String> {
    let output = std::process::Command::new("sysctl")
        .args(["-n", "machdep.cpu.brand_string"])
        .output()
        .ok()?;
    let name = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!name.is_empty()).then_some(name)
}

#[cfg(all(not(target_arch = "x86_64"), not(target_os = "macos")))]
fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
