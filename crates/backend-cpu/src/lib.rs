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
mod engine;
mod finish;
pub mod gpt;
mod mlp;
mod prefetch;
pub mod simd;
pub mod team;
mod tree;
#[cfg(test)]
mod whole;

pub use engine::{Engine, check_images, check_order};

use engine::device_name;
use nn::Model;
use nn::backend::{Backend, Job, Options, Session, TrainError, Unavailable};
use protocol::DeviceProbe;
use simd::Isa;

/// The CPU as a backend.
pub struct Cpu;

impl Backend for Cpu {
    fn id(&self) -> &'static str {
        "cpu"
    }

    fn devices(&self) -> Result<Vec<DeviceProbe>, Unavailable> {
        let amx = gpt::Amx::detect().map(|_| "amx");
        let isas: Vec<_> = amx.into_iter().chain(Isa::all().iter().map(|isa| isa.name())).collect();
        let detail = format!("{}; {} cores", isas.join(", "), team::available_cores());
        Ok(vec![DeviceProbe { name: device_name(), detail: Some(detail), software: false }])
    }

    fn lacks(&self, options: &Options) -> Option<String> {
        let rest = match gpt::resolve(options) {
            Ok((_, rest)) => rest,
            Err(refused) => return Some(refused.to_string()),
        };
        let isa = rest.isa?;
        Isa::parse(&isa).err().map(|unknown| format!("--isa {isa}: {unknown}"))
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
    fn what_this_cpu_lacks_is_said_before_a_training() {
        let asked = |isa: &str, precision: Option<&str>| {
            let precision = precision.map(str::to_owned);
            Cpu.lacks(&Options { isa: Some(isa.into()), precision, ..Options::default() })
        };
        assert_eq!(asked("scalar", None), None);
        assert!(asked("sse9", None).expect("no such set").starts_with("--isa sse9: this CPU has "));
        let amx = asked("amx", Some("bf16"));
        assert_eq!(amx.is_none(), gpt::Amx::detect().is_some(), "{amx:?}");
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
