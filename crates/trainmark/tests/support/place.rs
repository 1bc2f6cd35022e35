//! A place for `trainmark run` from the outside: a tiny dataset, suites whose trainers are lines of
//! shell, and the files that come of them.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// The least that a trainer must do.
pub const PLAIN: &str = "echo Test Accuracy: 95.67%";

/// A folder with a tiny dataset (10 test images, of labels 0 to 9) and room for the rest.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        let data = place.path("data");
        std::fs::create_dir(&data).unwrap();
        for (name, count) in [("train", 20u32), ("t10k", 10)] {
            let mut images = [2051u32, count, 28, 28].map(u32::to_be_bytes).concat();
            images.extend((0..count * 784).map(|index| (index % 251) as u8));
            std::fs::write(data.join(format!("{name}-images-idx3-ubyte")), images).unwrap();
            let mut labels = [2049u32, count].map(u32::to_be_bytes).concat();
            labels.extend((0..count).map(|index| (index % 10) as u8));
            std::fs::write(data.join(format!("{name}-labels-idx1-ubyte")), labels).unwrap();
        }
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A suite with one trainer, whose command is a line of shell.
    pub fn suite(&self, script: &str, more: &str) -> PathBuf {
        let script = toml::Value::from(script);
        let text = format!(
            r#"
            name = "shell"
            config = {{ epochs = 2, batch_size = 32, seed = 42 }}
            quick = {{ epochs = 1 }}
            {more}
            [[trainers]]
            name = "Shell"
            program = "sh"
            command = ["{{program}}", "-c", {script}, "trainer", "{{epochs}}"]
            backends = ["cpu"]
            models.mlp = {{ prefix = "shell", matrix = {{ hidden_size = [512] }} }}
            "#
        );
        let path = self.path("suite.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn run(&self, suite: &Path, more: &[&str]) -> Output {
        let mut command = self.trainmark("run");
        for (flag, path) in
            [("--suite", suite), ("--data", &self.path("data")), ("--out", &self.path("out"))]
        {
            if !more.contains(&flag) {
                command.arg(flag).arg(path);
            }
        }
        command.args(more).output().unwrap()
    }

    pub fn trainmark(&self, verb: &str) -> Command {
        let mut command = super::harness(self.0.path());
        command.arg(verb).env_remove("TRAINMARK_DATA");
        command
    }

    /// All result files, in the order of their names.
    pub fn results(&self) -> Vec<Value> {
        let paths = self.result_names().into_iter().map(|name| self.path("out").join(name));
        let read = |path: &PathBuf| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        paths.map(|path| read(&path)).collect()
    }

    /// Their names, sorted. Nothing else but them, the journal and the suite of `time` is ever in the folder.
    pub fn result_names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("out")).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "journal.jsonl" && name != "time.toml");
        names.sort();
        names
    }

    /// Runs a line of shell as a trainer and returns its result file.
    pub fn result_of(&self, script: &str, more: &[&str]) -> Value {
        let output = self.run(&self.suite(script, ""), more);
        let results = self.results();
        assert_eq!(results.len(), 1, "{}", said(&output));
        results.into_iter().next().unwrap()
    }
}

pub fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))
}
