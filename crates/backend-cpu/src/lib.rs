//! The CPU backend: kernels written for each model over a small vector trait ([`simd`]), with the
//! instruction set chosen at run time, on a team of persistent threads ([`team`]).
//!
//! Results are equal bit for bit from run to run and at any number of threads (on one instruction
//! set): how a sum is cut into parts depends on the sizes alone, and parts are added in a fixed
//! order.

mod attention;
pub mod buffer;
mod cnn;
mod cross_entropy;
pub mod gpt;
mod mlp;
mod prefetch;
pub mod simd;
pub mod team;
mod tree;
#[cfg(test)]
mod whole;

use nn::Model;
use nn::backend::{Backend, Description, Job, Options, Session, TrainError, Unavailable};
use protocol::DeviceProbe;
use simd::Isa;
use team::Team;

/// The CPU as a backend.
pub struct Cpu;

impl Backend for Cpu {
    fn id(&self) -> &'static str {
        "cpu"
    }

    fn devices(&self) -> Result<Vec<DeviceProbe>, Unavailable> {
        let isas: Vec<_> = Isa::all().iter().map(|isa| isa.name()).collect();
        let detail = format!("{}; {} cores", isas.join(", "), team::available_cores());
        Ok(vec![DeviceProbe { name: device_name(), detail: Some(detail), software: false }])
    }

    fn models(&self) -> &'static [&'static str] {
        &["mlp", "cnn", "attention", nn::gpt::ID]
    }

    fn open<'data>(
        &self,
        job: Job<'data>,
        options: &Options,
    ) -> Result<Box<dyn Session + 'data>, TrainError> {
        check_job(&job)?;
        let engine = Engine::new(options)?;
        if !matches!(job.model, Model::Mlp(_)) {
            engine.refuse_plan(job.model.id())?;
        }
        match job.model {
            Model::Cnn => Ok(Box::new(cnn::CnnSession::new(engine, job))),
            Model::Mlp(shape) => Ok(Box::new(mlp::Mlp::open(job, shape, engine)?)),
            Model::Attention(shape) => {
                Ok(Box::new(attention::AttentionSession::new(engine, job, shape)))
            }
        }
    }

    fn open_gpt<'data>(
        &self,
        job: nn::gpt::Job<'data>,
        options: &Options,
    ) -> Result<Box<dyn nn::gpt::Session + 'data>, TrainError> {
        job.check()?;
        let (amx, options) = gpt::resolve(options)?;
        let engine = Engine::new(&options)?;
        engine.refuse_plan(nn::gpt::ID)?;
        Ok(Box::new(gpt::GptSession::new(engine, job, amx)))
    }
}

/// What every session computes with: the options, checked and resolved.
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
    fn refuse_plan(&self, model: &str) -> Result<(), TrainError> {
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

/// Checks what every session relies on.
fn check_job(job: &Job<'_>) -> Result<(), TrainError> {
    let mismatch = |message: &str| Err(TrainError::Mismatch(message.to_owned()));
    if job.batch_size == 0 {
        return mismatch("a batch has at least one sample");
    }
    if u32::try_from(job.train.len()).is_err() {
        return mismatch("the training set has more than 2^32 samples");
    }
    Ok(())
}

/// Checks the arguments of [`Session::train`], once per call.
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

/// Checks the arguments of [`Session::predict`].
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
fn device_name() -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(options: Options) -> String {
        match Engine::new(&options) {
            Ok(_) => panic!("{options:?} should have been refused"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn options_that_cannot_be_honoured_are_refused_by_name() {
        let isa = refusal(Options { isa: Some("sse9".into()), ..Options::default() });
        assert!(isa.starts_with("--isa sse9: this CPU has "), "{isa}");
        let threads = refusal(Options { threads: Some(0), ..Options::default() });
        assert!(threads.starts_with("--threads 0: "), "{threads}");
        let device = refusal(Options { device: Some("no such".into()), ..Options::default() });
        assert!(device.starts_with("--device no such: the only device is 0, "), "{device}");
        let precision = refusal(Options { precision: Some("tf32".into()), ..Options::default() });
        assert!(precision.starts_with("--precision tf32: "), "{precision}");
    }

    #[test]
    fn the_device_can_be_named_by_part_of_its_name() {
        let devices = Cpu.devices().expect("a CPU");
        let part = devices[0].name[1..].to_uppercase();
        let options = Options { device: Some(part), threads: Some(1), ..Options::default() };
        assert!(Engine::new(&options).is_ok());
    }

    #[test]
    fn losses_and_indices_that_do_not_fit_are_refused() {
        let train = mnist::Split::new(vec![0; 3 * mnist::PIXELS], vec![0; 3]).expect("a split");
        let model = Model::Cnn;
        let job = Job { model, batch_size: 2, learning_rate: 0.1, train: &train };
        assert!(check_order(&job, &[0, 1, 2], &[0.0; 2]).is_ok());
        assert!(check_order(&job, &[0, 1, 2], &[0.0; 3]).is_err());
        assert!(check_order(&job, &[0, 3], &[0.0]).is_err());
        assert!(check_images(&[0; mnist::PIXELS], &[0]).is_ok());
        assert!(check_images(&[0; mnist::PIXELS], &[0, 0]).is_err());
    }
}
