//! Lists the files that come with the program: all suites and tasks, and the sources of the trainers that run without being
//! compiled. `src/builtin.rs` has the list.

use std::fmt::Write;
use std::path::{Path, PathBuf};

fn main() {
    let root =
        Path::new(&std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../..");
    let mut files = Vec::new();
    for folder in ["suites", "tasks", "implementations"] {
        println!("cargo::rerun-if-changed={}", root.join(folder).display());
        list(&root.join(folder), &mut files);
    }
    files.sort();
    let mut text = "&[\n".to_owned();
    for file in &files {
        let name = file.strip_prefix(&root).expect("they are below it").display().to_string();
        let name = name.replace('\\', "/");
        writeln!(text, "({name:?}, include_bytes!({:?})),", file.display().to_string())
            .expect("memory");
    }
    text += "]\n";
    let place = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets it"));
    std::fs::write(place.join("files.rs"), text).expect("cargo's folder can be written to");
}

/// All files below a folder, but for those of crates, which need the whole workspace, and for what programs made.
fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    for path in entries.map(|entry| entry.expect("a name").path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_file() {
            files.push(path);
        } else if !name.starts_with(['.', '_']) && !path.join("Cargo.toml").exists() {
            list(&path, files);
        }
    }
}
