//! `trainmark-native`: the trainer.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    native::main()
}
