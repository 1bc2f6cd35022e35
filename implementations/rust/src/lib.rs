//! What the trainers in Rust frameworks share, so that each of them is only its framework's code: the
//! command line of `mnist-classic`, the data, the recipe, and the words that the harness understands.
//! A framework's program implements `nn::backend::Backend` and calls [`main`].

mod command;
pub mod gpt;
mod layout;
mod run;

pub use layout::{cpu_name, first_largest, transposed};

use clap::{CommandFactory, FromArgMatches};
use command::Args;
use nn::backend::{Backend, TrainError};
use protocol::exit;
use std::process::ExitCode;

/// Both frameworks allocate every tensor anew, and glibc asks the kernel for each of more than 128 KiB: more
/// than half of candle's time for the cnn went into page faults. One that keeps its pages is what whoever
/// trains with them would link.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A framework's program.
pub struct Program {
    /// As in `--probe`.
    pub name: &'static str,
    /// The framework's version.
    pub version: &'static str,
    /// The first is the default.
    pub backends: &'static [&'static dyn Backend],
}

impl Program {
    /// The backend that the command line names.
    fn backend(&self, args: &Args) -> Result<&'static dyn Backend, Failure> {
        let Some(id) = &args.backend else { return Ok(self.backends[0]) };
        self.backends.iter().copied().find(|it| it.id() == id).ok_or_else(|| {
            let ids: Vec<&str> = self.backends.iter().map(|it| it.id()).collect();
            let error = anyhow::anyhow!("--backend {id}: this program has {}", ids.join(", "));
            Failure { code: exit::USAGE, error }
        })
    }
}

/// An error and its exit code.
struct Failure {
    code: u8,
    error: anyhow::Error,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        let error = error.into();
        let code = match error.downcast_ref::<TrainError>() {
            Some(TrainError::Unavailable(_) | TrainError::Option { option: "precision", .. }) => {
                exit::UNAVAILABLE
            }
            Some(TrainError::Option { .. }) => exit::USAGE,
            _ => exit::FAILURE,
        };
        Failure { code, error }
    }
}

/// Does what the command line asks for.
pub fn main(program: &Program) -> ExitCode {
    let command = Args::command().name(program.name).version(program.version);
    let args = Args::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    match run::run(program, &args) {
        Ok(()) => ExitCode::from(exit::SUCCESS),
        Err(Failure { code, error }) => {
            eprintln!("error: {error:#}");
            ExitCode::from(code)
        }
    }
}
