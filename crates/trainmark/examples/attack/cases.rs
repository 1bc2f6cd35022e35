//! What is done to the harness, and what must come of it.

use crate::scene::{Scene, Victim};
use crate::{Counts, add};
use anyhow::{Result, ensure};
use rand_chacha::rand_core::Rng;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

type Case = fn(&mut Scene, &Base) -> Result<()>;

pub const CASES: [(&str, Case); 5] = [
    ("kills", kills),
    ("a spoilt journal", spoilt_journal),
    ("spoilt results", spoilt_results),
    ("spoilt caches", spoilt_caches),
    ("a hostile trainer", hostile_trainer),
];

/// Three rows of three rounds.
const TRAININGS: usize = 9;
const RUN: [&str; 11] = [
    "run",
    "--suite",
    "suite.toml",
    "--data",
    "data",
    "--out",
    "out",
    "--epochs",
    "1,2,3",
    "--repeats",
    "3",
];
const RESUME: [&str; 4] = ["run", "--resume", "--out", "out"];
const TRAINER: &str = "sleep 0.05; echo Test Accuracy: 95.67%";
/// The exit codes of `protocol::exit` that the harness ends with.
const CODES: [i32; 5] = [0, 1, 2, 65, 75];

/// Good results and caches, to be copied and spoilt.
pub struct Base {
    folder: TempDir,
    /// What a run takes that nothing disturbs.
    run: Duration,
}

impl Base {
    pub fn make(harness: &Path, counts: &Counts) -> Result<Base> {
        let mut scene = Scene::new(harness, counts, 0, 0)?;
        scene.suite(TRAINER)?;
        let began = Instant::now();
        ensure!(scene.run(&RUN, None)?.code == Some(0));
        let run = began.elapsed();
        for words in [
            &["machine"][..],
            &[
                "noise",
                "--suite",
                "suite.toml",
                "--data",
                "data",
                "--rounds",
                "6",
                "--timeout",
                "60s",
            ],
            &["baseline", "save", "before", "--input", "out"],
        ] {
            let ended = scene.run(words, None)?;
            ensure!(ended.code == Some(0), "{words:?}: {}", ended.said);
        }
        scene.is_clean()?;
        let folder = TempDir::with_prefix("attack-base-")?;
        for name in ["out", "kept"] {
            copy(&scene.path(name), &folder.path().join(name))?;
        }
        Ok(Base { folder, run })
    }
}

/// The harness, its launchers and its trainers die again and again until a run is complete.
fn kills(scene: &mut Scene, base: &Base) -> Result<()> {
    scene.suite(TRAINER)?;
    let (mut killed, mut trainings_killed) = (0, 0);
    let mut words = &RUN[..];
    loop {
        let victim =
            [Victim::Harness, Victim::Harness, Victim::Launcher, Victim::Trainer][scene.any(4)];
        let moment = base.run.mul_f64(f64::from(scene.words.next_u32()) / f64::from(u32::MAX));
        let ended = scene.run(words, (killed < 6).then_some((victim, moment)))?;
        killed += usize::from(ended.killed);
        trainings_killed += usize::from(ended.killed && victim != Victim::Harness);
        let journal = fs::read_to_string(scene.path("out/journal.jsonl")).unwrap_or_default();
        match ended.code {
            Some(0) => break,
            // A training that was killed is a result, and the run goes on.
            Some(1) if trainings_killed > 0 && journal.contains("\"finished\"") => break,
            Some(_) => anyhow::bail!("{words:?}: {}", ended.said),
            None if journal.contains("\"finished\"") => break,
            None => words = if journal.contains("\"began\"") { &RESUME } else { &RUN },
        }
    }
    is_complete(scene, TRAININGS + killed, trainings_killed)
}

/// Each row has each round once, all measured but for so many, and no more trainings began than that takes. A
/// row is spared the rounds behind one that failed.
fn is_complete(scene: &Scene, most_starts: usize, most_failed: usize) -> Result<()> {
    let (mut rows, mut failed) = (BTreeMap::<String, Vec<(u64, bool)>>::new(), 0);
    for result in scene.results()? {
        let of_row = rows.entry(result["config"]["epochs"].to_string()).or_default();
        for sample in result["samples"].as_array().into_iter().flatten() {
            let is_measured = sample["status"] == "measured";
            failed += usize::from(!is_measured);
            of_row.push((sample["round"].as_u64().unwrap_or(u64::MAX), is_measured));
        }
    }
    for (row, samples) in &mut rows {
        samples.sort_unstable();
        let rounds: Vec<u64> = samples.iter().map(|(round, _)| *round).collect();
        let is_whole = rounds == [0, 1, 2];
        let ended_early =
            samples.last().is_some_and(|(_, measured)| !measured) && [0, 1, 2].starts_with(&rounds);
        ensure!(is_whole || ended_early, "row {row} has the samples {samples:?}");
    }
    ensure!(rows.len() == 3, "there are the rows {:?}", rows.keys());
    ensure!(failed <= most_failed, "{failed} samples are not measured, {most_failed} were killed");
    let starts = scene.starts();
    ensure!(starts <= most_starts, "{starts} trainings began, at most {most_starts} had to");
    Ok(())
}

/// A run is killed, its journal is spoilt, and the run goes on or begins anew.
fn spoilt_journal(scene: &mut Scene, base: &Base) -> Result<()> {
    scene.suite(TRAINER)?;
    let moment = base.run.mul_f64(f64::from(scene.words.next_u32()) / f64::from(u32::MAX));
    let ended = scene.run(&RUN, Some((Victim::Harness, moment)))?;
    let path = scene.path("out/journal.jsonl");
    let before = fs::read(&path).unwrap_or_default();
    if ended.code.is_some() || !is_began(&before) {
        return Ok(()); // it was faster, or nothing is there to be spoilt
    }
    add(&scene.counts.journals);
    let after = spoil_lines(scene, &before);
    fs::write(&path, &after)?;
    // A line before that of its run belongs to none; a damaged one of its run begins none.
    let lines = |text: &[u8]| text.split(|&it| it == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
    let of_run = lines(&before).into_iter().skip_while(|it| !is_began(it)).collect::<Vec<_>>();
    let left: Vec<_> =
        lines(&after).into_iter().skip_while(|it| Some(it) != of_run.first()).collect();
    let lost = of_run.iter().filter(|line| !left.contains(line)).count();
    let ended = scene.run(&RESUME, None)?;
    if ended.code != Some(0) {
        // Of the run itself nothing is known any more: it can only begin anew, and says so.
        ensure!(
            lost > 0 && ended.said.starts_with("error: ") || ended.said.contains("\nerror: "),
            "an undamaged journal: {}",
            ended.said
        );
        for name in fs::read_dir(scene.path("out"))?.flatten() {
            if name.path().extension().is_some_and(|it| it == "json") {
                fs::remove_file(name.path())?; // of the run that is given up
            }
        }
        let ended = scene.run(&RUN, None)?;
        ensure!(ended.code == Some(0), "a new run: {}", ended.said);
        return is_complete(scene, 2 * TRAININGS + 1, 0);
    }
    is_complete_or_twice(scene, lost)
}

fn is_began(line: &[u8]) -> bool {
    String::from_utf8_lossy(line).contains("\"began\"")
}

/// A result whose line is damaged is unknown to the journal: its row begins a file of its own.
fn is_complete_or_twice(scene: &Scene, lost: usize) -> Result<()> {
    if lost == 0 {
        return is_complete(scene, TRAININGS + 1, 0);
    }
    let starts = scene.starts();
    ensure!(starts <= TRAININGS + 1 + lost, "{starts} trainings began, {lost} lines were lost");
    let mut complete = 0;
    for result in scene.results()? {
        let rounds = result["samples"].as_array().into_iter().flatten();
        let mut rounds: Vec<u64> = rounds.filter_map(|it| it["round"].as_u64()).collect();
        rounds.sort_unstable();
        let before = rounds.len();
        rounds.dedup();
        ensure!(before == rounds.len(), "a round counts twice: {}", result["samples"]);
        complete += usize::from(rounds == [0, 1, 2]);
    }
    ensure!(complete >= 3, "only {complete} rows are complete");
    Ok(())
}

/// Every command that reads result files meets spoilt ones.
fn spoilt_results(scene: &mut Scene, base: &Base) -> Result<()> {
    for name in ["out", "kept"] {
        copy(&base.folder.path().join(name), &scene.path(name))?;
    }
    for _ in 0..=scene.any(3) {
        let names = files_in(&scene.path("out"), ".json")?;
        let name = &names[scene.any(names.len())];
        add(&scene.counts.files);
        spoil_file(scene, &scene.path("out").join(name))?;
    }
    let names = files_in(&scene.path("out"), ".json")?;
    let file = format!("out/{}", names[scene.any(names.len())]);
    let formats = ["table", "markdown", "json", "junit"];
    let exports = ["csv", "parquet", "bmf", "openmetrics"];
    for words in [
        vec!["compare", "before", "out", "--format", formats[scene.any(4)]],
        vec!["show", &file],
        vec![
            "report",
            "--input",
            "out",
            "--output",
            "x.json",
            "--markdown",
            "x.md",
            "--html",
            "x.html",
        ],
        vec!["export", "--input", "out", "--format", exports[scene.any(4)], "--output", "x"],
        vec!["history", "--input", "out", "--format", formats[scene.any(3)]],
        vec!["baseline", "save", "after", "--input", "out"],
    ] {
        is_orderly(scene, &words)?;
    }
    Ok(())
}

/// The machine's measurement, the noise and a baseline are spoilt: a run works without them.
fn spoilt_caches(scene: &mut Scene, base: &Base) -> Result<()> {
    copy(&base.folder.path().join("kept"), &scene.path("kept"))?;
    copy(&base.folder.path().join("out"), &scene.path("old"))?;
    scene.suite(TRAINER)?;
    for place in ["machine", "noise", "baselines/before"] {
        let folder = [scene.path("kept/trainmark"), scene.path("kept")].map(|it| it.join(place));
        let Some(folder) = folder.into_iter().find(|it| it.is_dir()) else {
            anyhow::bail!("nothing is kept of {place}");
        };
        let names = files_in(&folder, ".json")?;
        ensure!(!names.is_empty(), "nothing is kept in {}", folder.display());
        add(&scene.counts.caches);
        let name = &names[scene.any(names.len())];
        spoil_file(scene, &folder.join(name))?;
    }
    let ended = scene.run(&RUN, None)?;
    ensure!(ended.code == Some(0), "a run on spoilt caches: {}", ended.said);
    is_complete(scene, TRAININGS, 0)?;
    is_orderly(scene, &["machine", "--stored"])?;
    is_orderly(scene, &["compare", "before", "old"])?;
    is_orderly(scene, &["report", "--input", "old", "--output", "x.json"])?;
    is_orderly(scene, &["baseline", "list"])
}

/// A command ends with one of its exit codes, and one that fails says why.
fn is_orderly(scene: &mut Scene, words: &[&str]) -> Result<()> {
    let ended = scene.run(words, None)?;
    ensure!(ended.code.is_some_and(|it| CODES.contains(&it)), "{words:?}: {:?}", ended.code);
    ensure!(
        ended.code == Some(0) || !ended.said.trim().is_empty(),
        "{words:?} fails without a word"
    );
    Ok(())
}

/// What trainers do, two of them at a time. `$LAUNCHER` is what started them, `# WORD` marks a process.
const VICES: [&str; 22] = [
    "kill -9 $LAUNCHER",
    "kill -STOP $LAUNCHER",
    "kill -9 0",
    "kill -SEGV $$",
    "trap '' TERM INT HUP; sleep 300",
    "setsid sh -c 'sleep 301; # WORD' &",
    "setsid env -i sh -c 'exec >&- 2>&-; trap \"\" TERM; sleep 302; # WORD' &",
    "setsid env -i L=$LAUNCHER sh -c 'kill -9 $L; sleep 303; # WORD' &",
    "for i in $(seq 40); do sleep 304 & done",
    "(while :; do (sleep 0.01 &) ; done) & sleep 1",
    "head -c 60000000 /dev/zero",
    "head -c 60000000 /dev/urandom >&2",
    "yes ':::TRAINMARK {\"event\":\"epoch\",\"epoch\":1,\"loss\":0.5,\"seconds\":0.0}' | head -n 100000",
    "for i in 1 2 3; do printf ':::TRAINMARK '; head -c 3000 /dev/urandom; echo; done",
    "echo ':::TRAINMARK {\"event\":\"trained\",\"train_s\":-1e999}'",
    "mkfifo $TRAINMARK_PREDICTIONS",
    "ln -s /dev/zero $TRAINMARK_PREDICTIONS",
    "truncate -s 1T $TRAINMARK_PREDICTIONS",
    "rm -rf \"$(dirname \"$TRAINMARK_PREDICTIONS\")\"",
    "exec >&- 2>&-",
    "x=$(head -c 150000000 /dev/zero | tr '\\0' a); sleep 5",
    "exit $((RANDOM % 256))",
];

/// Trainers with two vices each end as rows, whatever they do.
fn hostile_trainer(scene: &mut Scene, _: &Base) -> Result<()> {
    let vices = [scene.any(VICES.len()), scene.any(VICES.len())].map(|it| VICES[it]);
    add(&scene.counts.hostile);
    let script = format!("LAUNCHER=$PPID\n{}\n{}\necho Test Accuracy: 95.67%", vices[0], vices[1]);
    scene.suite(&script.replace("# WORD", &format!("# {}", scene.word)))?;
    let words =
        ["run", "--suite", "suite.toml", "--data", "data", "--out", "out", "--timeout", "3s"];
    let words = [&words[..], &["--memory-limit", "120M"]].concat();
    let ended = scene.run(&words, None)?;
    ensure!(matches!(ended.code, Some(0 | 1)), "{vices:?}: {:?}: {}", ended.code, ended.said);
    let results = scene.results()?;
    ensure!(results.len() == 1, "{vices:?}: {} results: {}", results.len(), ended.said);
    ensure!(results[0]["status"].is_string(), "{vices:?}: no status");
    Ok(())
}

/// Lines are cut, doubled, swapped, changed and made up.
fn spoil_lines(scene: &mut Scene, text: &[u8]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> =
        text.split_inclusive(|&it| it == b'\n').map(<[u8]>::to_vec).collect();
    for _ in 0..=scene.any(3) {
        let (at, other) = (scene.any(lines.len()), scene.any(lines.len()));
        match scene.any(6) {
            0 => lines.swap(at, other),
            1 => lines.insert(at, lines[other].clone()),
            2 if lines.len() > 1 => drop(lines.remove(at)),
            3 => lines.insert(at, b"{\"ran\": \0 [[[[ \xff\n".to_vec()),
            4 => {
                let length = scene.any(lines[at].len());
                lines[at].truncate(length);
            }
            _ => spoil_bytes(scene, &mut lines[at]),
        }
    }
    lines.concat()
}

fn spoil_bytes(scene: &mut Scene, bytes: &mut [u8]) {
    for _ in 0..=scene.any(4) {
        if !bytes.is_empty() {
            let at = scene.any(bytes.len());
            bytes[at] = scene.words.next_u32() as u8;
        }
    }
}

/// A file becomes another, or something that is no file.
fn spoil_file(scene: &mut Scene, path: &Path) -> Result<()> {
    let mut bytes = files::read(path, files::Kind::RESULT).unwrap_or_default();
    let (at, to) = (scene.any(bytes.len()), scene.any(bytes.len()));
    let text = String::from_utf8_lossy(&bytes).into_owned();
    // It may have been spoilt before.
    if !path.is_file() {
        return Ok(());
    }
    let huge = ["1e999", "-1e308", "18446744073709551616", "null", "\"\"", "[]"][scene.any(6)];
    let digit = text.char_indices().skip(at).find(|(_, it)| it.is_ascii_digit());
    fs::remove_file(path)?;
    match scene.any(11) {
        0 => drop(Command::new("mkfifo").arg(path).status()?),
        1 => symlink("/dev/zero", path)?,
        2 => fs::File::create(path)?.set_len(1 << 40)?,
        3 => fs::create_dir(path)?,
        4 => symlink("nowhere", path)?,
        5 => fs::write(path, "[".repeat(100_000))?,
        6 => fs::write(path, &bytes[..at])?,
        7 => fs::write(path, [&bytes[..at], &bytes[to..]].concat())?,
        8 | 9 => {
            let at = digit.map_or(0, |(at, _)| at);
            fs::write(path, format!("{}{huge}{}", &text[..at], text.get(at + 1..).unwrap_or("")))?;
        }
        _ => {
            spoil_bytes(scene, &mut bytes);
            fs::write(path, bytes)?;
        }
    }
    Ok(())
}

fn files_in(folder: &Path, ending: &str) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder)?.flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| name.ends_with(ending));
    names.sort();
    Ok(names)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    ensure!(Command::new("cp").arg("-a").args([from, to]).status()?.success());
    Ok(())
}
