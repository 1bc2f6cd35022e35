//! Where one case takes place: a folder with data, a suite, caches and results of its own, the harness that is
//! run in it and watched, and the oracle of what every case must leave behind.

use crate::{Counts, add};
use anyhow::{Context, Result, bail, ensure};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What the harness may hold, whatever happens to it.
const MOST_BYTES: u64 = 64_000_000;
/// After which something hangs; many times what anything takes, also on a busy machine.
const HANGS: Duration = Duration::from_secs(240);
/// Between two looks at the harness.
const LOOK: Duration = Duration::from_millis(3);

/// Whom to kill.
#[derive(Clone, Copy, PartialEq)]
pub enum Victim {
    Harness,
    Launcher,
    Trainer,
}

/// How a command ended.
pub struct Ended {
    /// `None` if it was killed.
    pub code: Option<i32>,
    /// Both of its streams.
    pub said: String,
    pub killed: bool,
}

pub struct Scene<'a> {
    folder: Option<TempDir>,
    harness: &'a Path,
    pub counts: &'a Counts,
    pub words: ChaCha8Rng,
    /// Stands in the command line of every process of this case.
    pub word: String,
    launchers: BTreeSet<u32>,
}

impl<'a> Scene<'a> {
    pub fn new(harness: &'a Path, counts: &'a Counts, seed: u64, case: u64) -> Result<Self> {
        let mut words = ChaCha8Rng::seed_from_u64(seed);
        words.set_stream(case);
        let folder = TempDir::with_prefix("attack-")?;
        let word = format!("word-of-{}", folder.path().display());
        let launchers = BTreeSet::new();
        let scene = Scene { folder: Some(folder), harness, counts, words, word, launchers };
        for name in ["data", "tmp"] {
            fs::create_dir(scene.path(name))?;
        }
        for (name, count) in [("train", 20u32), ("t10k", 10)] {
            let mut images = [2051u32, count, 28, 28].map(u32::to_be_bytes).concat();
            images.extend((0..count * 784).map(|index| (index % 251) as u8));
            fs::write(scene.path("data").join(format!("{name}-images-idx3-ubyte")), images)?;
            let mut labels = [2049u32, count].map(u32::to_be_bytes).concat();
            labels.extend((0..count).map(|index| (index % 10) as u8));
            fs::write(scene.path("data").join(format!("{name}-labels-idx1-ubyte")), labels)?;
        }
        Ok(scene)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.as_ref().map_or_else(PathBuf::new, |folder| folder.path().join(name))
    }

    /// For a person to look at.
    pub fn keep(&mut self) -> PathBuf {
        self.folder.take().map(TempDir::keep).unwrap_or_default()
    }

    /// One of `count`.
    pub fn any(&mut self, count: usize) -> usize {
        self.words.next_u32() as usize % count.max(1)
    }

    /// A suite whose trainer is a line of shell; it notes each of its starts.
    pub fn suite(&self, script: &str) -> Result<()> {
        let script = format!("echo $1 >> starts; {script}\n# {}", self.word);
        let script = toml::Value::from(script.replace('{', "{{").replace('}', "}}"));
        let text = format!(
            "name = \"attacked\"\nroot = \".\"\nconfig = {{ epochs = 1 }}\n[[trainers]]\nname = \"Shell\"\n\
             program = \"sh\"\nbackends = [\"cpu\"]\nmodels.mlp = {{ prefix = \"shell\" }}\n\
             command = [\"{{program}}\", \"-c\", {script}, \"trainer\", \"{{epochs}}\"]\n"
        );
        Ok(fs::write(self.path("suite.toml"), text)?)
    }

    pub fn starts(&self) -> usize {
        fs::read_to_string(self.path("starts")).unwrap_or_default().lines().count()
    }

    /// Runs the harness. What every command must keep to is checked here.
    pub fn run(&mut self, words: &[&str], kill: Option<(Victim, Duration)>) -> Result<Ended> {
        add(&self.counts.commands);
        let log = fs::File::create(self.path("said"))?;
        let mut harness = Command::new(self.harness)
            .args(words)
            .current_dir(self.path(""))
            .env("TMPDIR", self.path("tmp"))
            .env("HOME", self.path("home"))
            .envs(
                ["CACHE", "STATE", "DATA"].map(|it| (format!("XDG_{it}_HOME"), self.path("kept"))),
            )
            .env_remove("TRAINMARK_DATA")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let (began, mut due, mut killed, mut peak) = (Instant::now(), kill, false, 0);
        let status = loop {
            let found = children(harness.id());
            let launchers = found.into_iter().filter(|&pid| command(pid).contains("__launch"));
            let launchers: Vec<u32> = launchers.collect();
            self.launchers.extend(&launchers);
            peak = peak.max(peak_bytes(harness.id()).unwrap_or(0));
            if let Some((victim, _)) = due.filter(|(_, moment)| began.elapsed() >= *moment) {
                let launcher = launchers.first().copied();
                let pid = match victim {
                    Victim::Harness => Some(harness.id()),
                    Victim::Launcher => launcher,
                    Victim::Trainer => launcher.and_then(|pid| children(pid).first().copied()),
                };
                if let Some(pid) = pid.and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) {
                    // It may just have ended by itself.
                    killed =
                        rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok();
                    due = None;
                    if killed {
                        add(&self.counts.kills[victim as usize]);
                    }
                }
            }
            if let Some(status) = harness.try_wait()? {
                break status;
            }
            if began.elapsed() > HANGS {
                harness.kill()?;
                harness.wait()?;
                bail!("{words:?} hangs");
            }
            std::thread::sleep(LOOK);
        };
        if words == ["machine"] {
            peak = 0; // it measures the bandwidth of memory on much of it
        }
        self.counts.peak_bytes.fetch_max(peak, Ordering::Relaxed);
        let said = String::from_utf8_lossy(&fs::read(self.path("said"))?).into_owned();
        ensure!(peak < MOST_BYTES, "{words:?} took {peak} bytes");
        let may_be_killed = killed && kill.is_some_and(|(victim, _)| victim == Victim::Harness);
        ensure!(status.code().is_some() || may_be_killed, "{words:?}: {status}: {said}");
        let panicked = status.code() == Some(101) || said.contains("panicked at");
        ensure!(!panicked, "{words:?} panicked: {said}");
        Ok(Ended { code: status.code(), said, killed })
    }

    /// All result files of the output folder, each of them whole.
    pub fn results(&self) -> Result<Vec<Value>> {
        let mut results = Vec::new();
        for entry in fs::read_dir(self.path("out")).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".json") {
                let text = fs::read(entry.path())?;
                results.push(
                    serde_json::from_slice(&text)
                        .with_context(|| format!("{name} of {} bytes is not whole", text.len()))?,
                );
            }
        }
        Ok(results)
    }

    /// That nothing is left of the case: no process, no control group, and, after a last run that nothing
    /// disturbs, no temporary file.
    pub fn is_clean(&mut self) -> Result<()> {
        self.suite("echo Test Accuracy: 95.67%")?;
        let ended =
            self.run(&["run", "--suite", "suite.toml", "--data", "data", "--out", "last"], None)?;
        ensure!(ended.code == Some(0), "a last run fails: {}", ended.said);
        let left = |folder: &Path| fs::read_dir(folder).map_or(0, |entries| entries.count());
        let (word, place) = (self.word.clone(), self.path("").display().to_string());
        eventually("no process is left", || {
            let is_ours = |pid: &u32| {
                let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                command(*pid).contains(&word)
                    || String::from_utf8_lossy(&environment).contains(&place)
            };
            let left: Vec<u32> = processes().into_iter().filter(is_ours).collect();
            left.iter().map(|pid| format!("{pid}: {}", command(*pid))).next()
        })?;
        eventually("no control group is left", || {
            let group = |pid: &u32| {
                let found = Command::new("find")
                    .args(["/sys/fs/cgroup", "-name", &format!("trainmark-{pid}")])
                    .output()
                    .ok()?;
                let found = String::from_utf8_lossy(&found.stdout).trim().to_owned();
                // The process id may have passed to a launcher of somebody else.
                (!found.is_empty() && !command(*pid).contains("__launch")).then_some(found)
            };
            self.launchers.iter().find_map(group)
        })?;
        ensure!(left(&self.path("tmp")) == 0, "temporary files are left");
        let names = fs::read_dir(self.path("out")).into_iter().flatten().flatten();
        let half =
            names.map(|it| it.file_name()).find(|it| it.to_string_lossy().starts_with(".writing"));
        ensure!(half.is_none(), "a file is left half written: {half:?}");
        Ok(())
    }
}

/// Waits until `left` finds nothing more.
fn eventually(what: &str, mut left: impl FnMut() -> Option<String>) -> Result<()> {
    let give_up = Instant::now() + Duration::from_secs(60);
    while let Some(found) = left() {
        ensure!(Instant::now() < give_up, "never so: {what}: {found}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|it| fs::read_to_string(it.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace().filter_map(|it| it.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

/// Of a process that has ended, nothing.
fn command(pid: u32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words).replace('\0', " ")
}

fn peak_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}
