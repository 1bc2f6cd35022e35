//! `trainmark-native`, for those who install both programs at once (the feature `native`). The harness starts it as
//! a program, as it starts every trainer.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    native::main()
}
