//! How a run fails: one line on standard error, and an exit code that says what kind it is.

use nn::backend::TrainError;
use protocol::exit;
use std::io;
use std::process::ExitCode;

/// An error and its exit code.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    pub error: anyhow::Error,
}

impl Failure {
    pub fn new(code: u8, error: impl Into<anyhow::Error>) -> Failure {
        Failure { code, error: error.into() }
    }

    /// Prints the line and returns the exit code.
    pub fn report(&self) -> ExitCode {
        // Whoever reads standard output has gone, and knows it: `mnist-classic | head -3`.
        if !self.is_broken_pipe() {
            eprintln!("error: {:#}", self.error);
        }
        ExitCode::from(self.code)
    }

    fn is_broken_pipe(&self) -> bool {
        let cause = self.error.root_cause().downcast_ref::<io::Error>();
        cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::new(exit::FAILURE, error)
    }
}

/// Of writing to standard output: whatever else is read or written says what it is.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::new(exit::FAILURE, anyhow::Error::new(error).context("standard output"))
    }
}

impl From<TrainError> for Failure {
    fn from(error: TrainError) -> Failure {
        let code = match error {
            TrainError::Unavailable(_) => exit::UNAVAILABLE,
            // Which ones there are depends on the backend and on the machine.
            TrainError::Option { option: "precision", .. } => exit::UNAVAILABLE,
            TrainError::Option { .. } => exit::USAGE,
            TrainError::Mismatch(_) | TrainError::Device { .. } => exit::FAILURE,
        };
        Failure::new(code, error)
    }
}

/// An error of opening a backend. What is unavailable does not know the name it was asked for by.
pub fn named(backend: &'static str, error: TrainError) -> Failure {
    let nameless = matches!(error, TrainError::Unavailable(_));
    let mut failure = Failure::from(error);
    if nameless {
        failure.error = failure.error.context(backend);
    }
    failure
}
