//! `mnist-classic`: the trainer by its old name.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    native::main()
}
