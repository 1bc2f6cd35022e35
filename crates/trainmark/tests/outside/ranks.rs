//! Eight processes that train together, of which one does something wrong: what becomes of the row, and that
//! its reason names the rank.

use crate::support::place::{Place, said};
use serde_json::Value;
use skip::skipped;
use std::process::Command;

/// Forks eight ranks. The third does what the first argument says.
const RANKS: &str = r#"
import json, os, sys, time
N, odd, what = 8, 3, sys.argv[1]
def say(rank, **k):
    os.write(1, (f"[rank{rank}]: :::TRAINMARK " + json.dumps(k) + "\n").encode())
def work(rank):
    if rank == odd and what == "silent": return
    say(rank, event="started", protocol=2, ranks=4 if rank == odd and what == "miscounts" else N)
    if rank == odd and what == "dies":
        os.write(2, b"[rank3]: Traceback (most recent call last):\n[rank3]: RuntimeError: the shard is torn\n")
        os._exit(7)
    if what == "dies":
        time.sleep(0.3)
        os.write(2, f"[rank{rank}]: ConnectionResetError: rank {odd} went away\n".encode())
        os._exit(1)
    if rank == odd and what == "hangs": time.sleep(60)
    train_s = 0.2 if rank != odd else {"slow": 0.5, "lies": 50.0}.get(what, 0.2)
    time.sleep(min(train_s, 0.6))
    say(rank, event="trained", train_s=train_s, work=10, device_peak_bytes=1000)
pids = []
for rank in range(1, N):
    pid = os.fork()
    if not pid: work(rank); os._exit(0)
    pids.append(pid)
if what != "dies": work(0)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
if any(codes):
    # As torchrun ends: its own error, and a footer.
    sys.exit(f"""torch.distributed.elastic.multiprocessing.errors.ChildFailedError: 
train.py FAILED
Root Cause (first observed failure):
  rank      : 3 (local_rank: 3)
  exitcode  : 7""")
say(0, event="evaluated", eval_s=0.0, metrics={"error": 0.25})
if what == "disagrees": say(odd, event="evaluated", eval_s=0.0, metrics={"error": 0.5})
"#;

const SUITE: &str = r#"
name = "ranks"
[task]
name = "sum"
quality = "error"
throughput = { unit = "samples", per_run = "reported" }
[task.metrics.error]
better = "lower"
[[trainers]]
name = "Eight"
program = "python3"
command = ["{program}", "ranks.py", "{what}"]
backends = ["cpu"]
models.sum = { prefix = "eight", matrix = { what = ["WHAT"] } }
"#;

/// The record of eight ranks of which the third does that; `None`, said loudly, without Python.
fn of(what: &str, more: &[&str]) -> Option<Value> {
    by(SUITE, what, more)
}

fn by(suite_text: &str, what: &str, more: &[&str]) -> Option<Value> {
    with(RANKS, suite_text, what, more).map(|it| it.0)
}

/// The record, and what was printed.
fn with(program: &str, suite_text: &str, what: &str, more: &[&str]) -> Option<(Value, String)> {
    if Command::new("python3").arg("--version").output().is_err() {
        skipped("there is no python3");
        return None;
    }
    let place = Place::new();
    std::fs::write(place.path("ranks.py"), program).unwrap();
    let suite = place.path("suite.toml");
    std::fs::write(&suite, suite_text.replace("WHAT", what)).unwrap();
    let mut run = place.trainmark("run");
    let output = run.args(["--suite", "suite.toml", "--out", "out"]).args(more).output().unwrap();
    let results = place.results();
    assert_eq!(results.len(), 1, "{}", said(&output));
    Some((results.into_iter().next()?, said(&output)))
}

fn status(record: &Value) -> (&str, &str) {
    let text = |key: &str| record[key].as_str().unwrap_or_default();
    (text("status"), text("reason"))
}

#[test]
fn eight_ranks_are_one_training_by_the_slowest_time_and_all_the_work() {
    let Some(record) = of("nothing", &[]) else { return };
    assert_eq!(status(&record), ("measured", ""));
    let sample = &record["samples"][0];
    assert_eq!((&sample["work"], &sample["device_peak_bytes"]), (&80.0.into(), &8000.into()));
    assert_eq!(sample["ranks"].as_array().unwrap().len(), 8);
    assert_eq!(sample["ranks"][3]["rank"], 3);
}

#[test]
fn a_slow_rank_is_the_time_of_all_and_a_note_names_it() {
    let Some(record) = of("slow", &[]) else { return };
    assert_eq!(status(&record), ("measured", ""));
    assert_eq!(record["timing"]["train_s"], 0.5);
    let notes = record["samples"][0]["notes"].to_string();
    assert!(notes.contains("rank 3 was the slowest: it trained for 0.5"), "{notes}");
}

#[test]
fn a_rank_that_dies_fails_the_row_with_its_number_and_the_first_error() {
    let Some(record) = of("dies", &[]) else { return };
    let reason = "exit code 1: rank 3 of 8: RuntimeError: the shard is torn";
    assert_eq!(status(&record), ("failed", reason));
}

#[test]
fn a_rank_that_hangs_fails_the_row_with_its_number() {
    let Some(record) = of("hangs", &["--timeout", "4s"]) else { return };
    let (status, reason) = status(&record);
    assert_eq!(status, "failed", "{reason}");
    let words = "rank 3 of 8 did not finish the training, the others did: still running after ";
    assert!(reason.starts_with(words), "{reason}");
}

#[test]
fn a_rank_that_never_speaks_fails_the_row_with_its_number() {
    let Some(record) = of("silent", &[]) else { return };
    assert_eq!(status(&record), ("failed", "rank 3 of 8 never spoke"));
}

#[test]
fn where_the_first_rank_speaks_for_all_the_others_may_be_silent() {
    let suite = SUITE.replace("backends =", "ranks = \"first\"\nbackends =");
    let Some(record) = by(&suite, "silent", &[]) else { return };
    assert_eq!(status(&record), ("measured", ""));
    let sample = &record["samples"][0];
    // All eight trained, so that a share of the peak is of the threads of all.
    assert_eq!((&sample["work"], sample["ranks"].as_array().unwrap().len()), (&10.0.into(), 8));
    assert_eq!(sample["ranks"][3]["train_s"], Value::Null);
}

/// Starts three processes as torchrun does, of which each binds itself to a core, as mpirun would, and holds memory.
#[cfg(target_os = "linux")]
const LAUNCHER: &str = r#"
import os, subprocess, sys, time
if "RANK" in os.environ:
    rank = int(os.environ["RANK"])
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    held = b"\xff" * (40_000_000 * (1 + rank))
    if rank == 2:
        # A worker's memory is its rank's.
        hold = "held = b'x' * 50_000_000; print(flush=True); import time; time.sleep(60)"
        worker = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE)
        worker.stdout.readline()
    open(f"ready{rank}", "w").close()
    while not all(os.path.exists(f"ready{n}") for n in range(3)): time.sleep(0.01)
    time.sleep(1.5)
    if rank == 2: worker.kill()
    print(':::TRAINMARK {"event":"trained","train_s":0.5,"work":1,"rank":%d}' % rank, flush=True)
    sys.exit()
ranks = [subprocess.Popen([sys.executable, __file__], env={**os.environ, "RANK": str(n)}) for n in range(3)]
sys.exit(max(it.wait() for it in ranks))
"#;

#[cfg(target_os = "linux")]
#[test]
fn a_rank_whose_launcher_names_it_has_its_own_memory_and_cores() {
    let launched = SUITE.replace("quality = \"error\"\n", "");
    let Some((record, shown)) = with(LAUNCHER, &launched, "nothing", &[]) else { return };
    assert_eq!(status(&record), ("measured", ""));
    let sample = &record["samples"][0];
    let ranks = sample["ranks"].as_array().unwrap();
    let megabytes = |rank: &Value| rank["peak_memory_bytes"].as_f64().unwrap() / 1e6;
    let held: Vec<f64> = ranks.iter().map(megabytes).collect();
    assert!(held[0] > 40.0 && held[0] < 80.0 && held[1] > 80.0 && held[1] < 120.0, "{held:?}");
    assert!(held[2] > 170.0 && held[2] < 230.0, "{held:?}");
    let all = sample["peak_memory_bytes"].as_f64().unwrap() / 1e6;
    assert!(all >= held.iter().sum::<f64>() * 0.9, "{all} of {held:?}");
    for rank in ranks {
        rank["cpus"].as_str().unwrap().parse::<u32>().unwrap_or_else(|_| panic!("{rank}"));
    }
    let line = shown.lines().find(|line| line.contains("3 ranks") && line.contains("(rank 2)"));
    assert!(line.is_some(), "{shown}");
    // One that is told nothing is not guessed.
    let Some(record) = of("nothing", &[]) else { return };
    assert_eq!(record["samples"][0]["ranks"][3]["peak_memory_bytes"], Value::Null);
}

#[test]
fn a_rank_that_lies_is_found_out() {
    let lies = [
        ("lies", "rank 3's clock says 50.00 s, but its process ran for only"),
        ("disagrees", "error: an event says 0.2500, rank 3 says 0.5000"),
        ("miscounts", "rank 3 says that there are 4 ranks, another 8"),
    ];
    for (what, words) in lies {
        let Some(record) = of(what, &[]) else { return };
        let (status, reason) = status(&record);
        assert_eq!(status, "misreported", "{what}: {reason}");
        // Which of two contradicting ranks spoke first is chance.
        let other = "there are 8 ranks, another 4";
        assert!(reason.starts_with(words) || reason.contains(other), "{what}: {reason}");
    }
}
