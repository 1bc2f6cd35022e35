//! `trainmark run --executor slurm` against a real Slurm: a controller and nine nodes on loopback, started
//! here, in a folder of their own, and ended with the test. Needs Debian's `slurm-wlm` and `munge`, and
//! root; without them it is skipped, loudly, unless `$TRAINMARK_REQUIRE_SLURM` is set.
#![cfg(target_os = "linux")]

use crate::support::harness;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Two for each partition, `all`, which is the default, `fragile` and `slow`, and three for `wide`.
const NODES: [&str; 9] =
    ["node1", "node2", "node3", "node4", "node5", "node6", "node7", "node8", "node9"];

struct Cluster {
    folder: TempDir,
    /// munged, the controller, the nodes in their order.
    daemons: Vec<Child>,
}

impl Cluster {
    fn start() -> Cluster {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path();
        let munge = place.join("munge");
        fs::create_dir(&munge).unwrap();
        fs::set_permissions(&munge, fs::Permissions::from_mode(0o700)).unwrap();
        // munged looks at the whole path: its folder must be reachable, and nobody else's to write.
        fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
        let key = munge.join("key");
        let made = Command::new("mungekey").arg("-c").arg("-k").arg(&key).status().unwrap();
        assert!(made.success());
        let mut cluster = Cluster { folder, daemons: Vec::new() };
        cluster.daemon(
            "munged",
            &[
                "--foreground",
                "--force",
                &format!("--key-file={}", key.display()),
                &format!("--socket={}", munge.join("socket").display()),
                &format!("--pid-file={}", munge.join("pid").display()),
                &format!("--log-file={}", munge.join("log").display()),
                &format!("--seed-file={}", munge.join("seed").display()),
            ],
        );
        eventually("munged listens", || munge.join("socket").exists());
        fs::write(cluster.conf(), cluster.configuration()).unwrap();
        cluster.daemon("slurmctld", &["-D", "-c"]);
        for node in NODES {
            cluster.daemon("slurmd", &["-D", "-N", node]);
        }
        eventually("all nodes are idle", || {
            let idle = cluster.call("sinfo", &["-h", "-N", "-t", "idle", "-o", "%N"]);
            NODES.iter().all(|node| idle.lines().any(|line| line == *node))
        });
        cluster
    }

    fn conf(&self) -> PathBuf {
        self.folder.path().join("slurm.conf")
    }

    fn configuration(&self) -> String {
        let place = self.folder.path().display();
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let host = host.trim().split('.').next().unwrap();
        let ports: Vec<u16> = free_ports(NODES.len() + 1);
        let mut text = format!(
            "ClusterName=trainmark\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={}\n\
             AuthType=auth/munge\nAuthInfo=socket={place}/munge/socket,cred_expire=30\n\
             SlurmUser=root\nSlurmdUser=root\nStateSaveLocation={place}/state\n\
             SlurmdSpoolDir={place}/spool-%n\nSlurmctldPidFile={place}/ctld.pid\n\
             SlurmdPidFile={place}/%n.pid\nProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\n\
             MpiDefault=none\nSwitchType=switch/none\nSchedulerType=sched/backfill\n\
             SchedulerParameters=bf_interval=1,sched_interval=2,defer\n\
             SelectType=select/cons_tres\nSelectTypeParameters=CR_Core_Memory\n\
             JobAcctGatherType=jobacct_gather/linux\nJobAcctGatherFrequency=task=1\n\
             JobAcctGatherParams=OverMemoryKill\nAccountingStorageType=accounting_storage/none\n\
             ReturnToService=2\nSlurmdTimeout=20\nKillWait=5\nMinJobAge=3600\nInactiveLimit=0\n",
            ports[0]
        );
        fs::create_dir(self.folder.path().join("state")).unwrap();
        for (node, port) in NODES.iter().zip(&ports[1..]) {
            fs::create_dir(self.folder.path().join(format!("spool-{node}"))).unwrap();
            writeln!(
                text,
                "NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 \
                 RealMemory=3000 State=UNKNOWN"
            )
            .unwrap();
        }
        text + "PartitionName=all Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP\n\
                PartitionName=fragile Nodes=node3,node4 MaxTime=INFINITE State=UP\n\
                PartitionName=slow Nodes=node5,node6 MaxTime=INFINITE State=UP\n\
                PartitionName=wide Nodes=node7,node8,node9 MaxTime=INFINITE State=UP\n"
    }

    fn daemon(&mut self, program: &str, words: &[&str]) {
        let log =
            fs::File::create(self.folder.path().join(format!("{program}.{}", self.daemons.len())));
        let log = log.unwrap();
        let child = Command::new(program)
            .args(words)
            .current_dir(self.folder.path()) // for the core of one that breaks down
            .env("SLURM_CONF", self.conf())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        self.daemons.push(child);
    }

    fn call(&self, program: &str, words: &[&str]) -> String {
        let output =
            Command::new(program).args(words).env("SLURM_CONF", self.conf()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// As [`eventually`], with what the queue says, should it never be so.
    fn eventually(&self, what: &str, is_so: impl FnMut() -> bool + std::panic::UnwindSafe) {
        if std::panic::catch_unwind(|| eventually(what, is_so)).is_err() {
            panic!("never: {what}\n{}", self.queue());
        }
    }

    /// What a harness printed at its end, which comes: a job may wait for ever, and a test may not.
    fn end(&self, child: Child) -> Output {
        let (pid, (send, receive)) = (child.id().to_string(), mpsc::channel());
        std::thread::spawn(move || send.send(child.wait_with_output().unwrap()));
        receive.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            let queue = self.queue();
            let _ = Command::new("kill").args(["-KILL", &pid]).status();
            let output = receive.recv().unwrap();
            let said = [output.stderr, output.stdout].concat();
            panic!("never ended:\n{}\n{queue}", String::from_utf8_lossy(&said))
        })
    }

    fn queue(&self) -> String {
        self.call("squeue", &["--states=all", "-o", "%F_%K %P %T %r %N"])
            + &self.call("sinfo", &["-N", "-l"])
    }

    /// A machine that loses its power: the daemon, the step daemons, and all that they had started. All
    /// are stopped first, so that none can tell of another's end.
    fn kill_node(&self, node: &str) {
        let at = NODES.iter().position(|it| *it == node).unwrap();
        let mut doomed = vec![self.daemons[2 + at].id()];
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|it| it.parse::<u32>().ok()) else {
                continue;
            };
            let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
            let marks = format!("SLURM_CONF={}", self.conf().display());
            let text = String::from_utf8_lossy(&environ);
            if text.contains(&marks) && text.contains(&format!("SLURMD_NODENAME={node}\0")) {
                doomed.push(pid);
                doomed.extend(step_daemon_above(pid));
            }
        }
        for signal in ["-STOP", "-KILL"] {
            for pid in &doomed {
                let _ = Command::new("kill").args([signal, &pid.to_string()]).status();
            }
        }
    }
}

/// A process's parent, if it is a step daemon: it leaves the daemon that started it.
fn step_daemon_above(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let parent: u32 = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
    let name = fs::read_to_string(format!("/proc/{parent}/cmdline")).ok()?;
    name.starts_with("slurmstepd").then_some(parent)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.call("scancel", &["--user=root"]);
        std::thread::sleep(Duration::from_secs(1));
        for daemon in self.daemons.iter_mut().rev() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// Outside of those that the system gives to whoever asks for any, as the daemons do all the time: one of
/// these could be taken again before its daemon has bound it.
fn free_ports(count: usize) -> Vec<u16> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let mut range = range.split_whitespace().map(|port| port.parse::<u16>().unwrap());
    let given_away = range.next().unwrap()..=range.next().unwrap();
    let from = 10_000 + (std::process::id() % 20_000) as u16;
    (from..=u16::MAX)
        .chain(2_000..from)
        .filter(|port| {
            !given_away.contains(port) && TcpListener::bind(("127.0.0.1", *port)).is_ok()
        })
        .take(count)
        .collect()
}

/// Long enough for whatever a cluster does here, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(300);

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < give_up, "never: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A suite of lines of shell, and room for what comes of it.
struct Place<'a> {
    cluster: &'a Cluster,
    folder: TempDir,
    /// The output folder.
    out: PathBuf,
}

impl<'a> Place<'a> {
    /// The trainer runs `script`; a model for each of `names`, which it gets as `$1`.
    fn new(cluster: &'a Cluster, names: &[&str], script: &str) -> Place<'a> {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let place = Place { cluster, folder, out };
        let data = place.path("data");
        fs::create_dir(&data).unwrap();
        for (name, count) in [("train", 20u32), ("t10k", 10)] {
            let mut images = [2051u32, count, 28, 28].map(u32::to_be_bytes).concat();
            images.extend((0..count * 784).map(|index| (index % 251) as u8));
            fs::write(data.join(format!("{name}-images-idx3-ubyte")), images).unwrap();
            let mut labels = [2049u32, count].map(u32::to_be_bytes).concat();
            labels.extend((0..count).map(|index| (index % 10) as u8));
            fs::write(data.join(format!("{name}-labels-idx1-ubyte")), labels).unwrap();
        }
        let script = toml::Value::from(format!(
            "echo $1 $SLURMD_NODENAME >> {}; {script}\necho 'Test Accuracy: 95.00%'",
            place.path("ran").display()
        ));
        let mut suite = format!(
            "name = \"cluster\"\nconfig = {{ epochs = 2, seed = 42 }}\n[[trainers]]\n\
             name = \"Shell\"\nprogram = \"sh\"\nbackends = [\"cpu\"]\n\
             command = [\"{{program}}\", \"-c\", {script}, \"trainer\", \"{{model}}\"]\n"
        );
        for name in names {
            writeln!(suite, "models.{name} = {{ prefix = \"{name}\" }}").unwrap();
        }
        fs::write(place.path("suite.toml"), suite).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs to its end.
    fn output(&self, mut command: Command) -> Output {
        self.cluster.end(command.spawn().unwrap())
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = harness(self.folder.path());
        command
            .args(["run", "--out"])
            .arg(self.out.strip_prefix(self.folder.path()).unwrap_or(&self.out))
            .args(words)
            .env("SLURM_CONF", self.cluster.conf())
            .env_remove("TRAINMARK_DATA")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn begin(&self, more: &[&str]) -> Command {
        let mut words = vec!["--suite", "suite.toml", "--data", "data", "--executor", "slurm"];
        if !more.contains(&"--measure") {
            words.push("--no-node-measure");
        }
        words.extend(more.iter().filter(|word| **word != "--measure"));
        self.command(&words)
    }

    /// Model and node of each time that a trainer ran.
    fn ran(&self) -> Vec<(String, String)> {
        let text = fs::read_to_string(self.path("ran")).unwrap_or_default();
        let line = |line: &str| {
            let (model, node) = line.split_once(' ').unwrap();
            (model.to_owned(), node.to_owned())
        };
        text.lines().map(line).collect()
    }

    /// Result files by their model.
    fn result(&self, model: &str) -> Value {
        let files = fs::read_dir(&self.out).unwrap().flatten();
        let mut found: Vec<Value> = files
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|it| it == "json"))
            .map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap())
            .filter(|result: &Value| result["model"] == model)
            .collect();
        assert_eq!(found.len(), 1, "one file of {model}");
        found.remove(0)
    }

    fn statuses(&self, model: &str) -> Vec<String> {
        let result = self.result(model);
        let samples = result["samples"].as_array().unwrap();
        samples.iter().map(|it| it["status"].as_str().unwrap().to_owned()).collect()
    }
}

fn succeeded(output: &Output) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stdout));
}

fn a_suite_is_spread_over_the_nodes_and_every_repeat_is_collected(cluster: &Cluster) {
    let place = Place::new(cluster, &["a", "b", "c"], "sleep 1");
    let output = place.output(place.begin(&["--repeats", "2", "--measure"]));
    succeeded(&output);
    for model in ["a", "b", "c"] {
        assert_eq!(place.statuses(model), ["measured", "measured"]);
        let result = place.result(model);
        assert!(result["machine"]["cpu"].is_string(), "{result}");
        // Measured on the node, before its first task.
        assert!(result["capability"]["cpu"].is_object(), "{result}");
    }
    let ran = place.ran();
    assert_eq!(ran.len(), 6);
    for node in ["node1", "node2"] {
        assert!(ran.iter().any(|(_, it)| it == node), "{ran:?}");
    }
}

fn a_submitting_process_that_dies_is_replaced_and_nothing_runs_twice(cluster: &Cluster) {
    let place = Place::new(cluster, &["a", "b", "c"], UNTIL_GO);
    let mut child = place.begin(&[]).spawn().unwrap();
    eventually("a task has begun", || !place.ran().is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    fs::write(place.path("go"), "").unwrap();
    let output = place.output(place.command(&["--resume"]));
    succeeded(&output);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("Submitted before and followed: 3 tasks"), "{said}");
    let mut models: Vec<String> = place.ran().into_iter().map(|(model, _)| model).collect();
    models.sort();
    assert_eq!(models, ["a", "b", "c"]);
    for model in ["a", "b", "c"] {
        assert_eq!(place.statuses(model), ["measured"]);
    }
}

fn ctrl_c_cancels_the_jobs_and_resume_runs_the_rest(cluster: &Cluster) {
    let place = Place::new(cluster, &["a", "b", "c"], "[ -e go ] || sleep 240");
    let child = place.begin(&[]).spawn().unwrap();
    eventually("a task has begun", || !place.ran().is_empty());
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = cluster.end(child);
    assert_eq!(output.status.code(), Some(i32::from(protocol::exit::INTERRUPTED)));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("trainmark run --resume --out out"), "{said}");
    let batches = fs::read_dir(place.path("out/slurm")).unwrap().flatten();
    for batch in batches {
        let name = format!("--name=trainmark-{}", batch.file_name().to_string_lossy());
        let active = cluster.call("squeue", &["-h", &name]);
        assert_eq!(active, "", "a job is still there");
    }
    fs::write(place.path("go"), "").unwrap();
    succeeded(&place.output(place.command(&["--resume"])));
    for model in ["a", "b", "c"] {
        assert_eq!(place.statuses(model), ["measured"], "{}", place.result(model));
    }
}

fn a_cancelled_job_and_a_task_over_its_limit_are_rows_of_their_own(cluster: &Cluster) {
    let script = "case $1 in hang) sleep 300;; cancelled) sleep 200;; esac";
    let place = Place::new(cluster, &["fine", "hang", "cancelled"], script);
    let child = place
        .begin(&["--timeout", "250s", "--task-time", "1m", "--partition", "slow"])
        .spawn()
        .unwrap();
    eventually("the third task has begun", || place.ran().iter().any(|(it, _)| it == "cancelled"));
    let mut names = fs::read_dir(place.path("out/slurm")).unwrap().flatten();
    let batch = names.next().unwrap().file_name().to_string_lossy().into_owned();
    let job = cluster.call("squeue", &["-h", "-o", "%F", &format!("--name=trainmark-{batch}")]);
    let job = job.lines().next().unwrap();
    cluster.call("scancel", &[&format!("{job}_2")]);
    let output = cluster.end(child);
    assert_eq!(output.status.code(), Some(i32::from(protocol::exit::FAILURE)));
    assert_eq!(place.statuses("fine"), ["measured"]);
    assert_eq!(place.statuses("hang"), ["timed_out"]);
    assert_eq!(place.statuses("cancelled"), ["interrupted"]);
    let reason = place.result("hang")["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("over the scheduler's time limit"), "{reason}");
}

fn a_task_whose_node_dies_runs_again_on_another(cluster: &Cluster) {
    let dying = "if [ ! -e go ]; then touch go; sleep 240; fi";
    let place = Place::new(cluster, &["a"], dying);
    let child = place.begin(&["--partition", "fragile"]).spawn().unwrap();
    let go = place.path("go");
    cluster.eventually("the task has begun", move || go.exists());
    let (_, node) = place.ran().remove(0);
    cluster.kill_node(&node);
    succeeded(&cluster.end(child));
    assert_eq!(place.statuses("a"), ["measured"]);
    let ran = place.ran();
    assert_eq!(ran.len(), 2, "{ran:?}");
    assert_ne!(ran[0].1, ran[1].1);
}

/// As those whose disks are full: Slurm holds the job until somebody releases it.
fn a_task_that_its_nodes_cannot_start_is_tried_three_times(cluster: &Cluster) {
    let place = Place::new(cluster, &["a"], "");
    for node in ["node5", "node6"] {
        let spool = cluster.folder.path().join(format!("spool-{node}"));
        fs::remove_dir_all(&spool).unwrap();
        fs::write(&spool, "").unwrap();
    }
    let output = place.output(place.begin(&["--partition", "slow"]));
    assert_eq!(output.status.code(), Some(i32::from(protocol::exit::FAILURE)));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.matches("launch failed requeued held; submitted again").count(), 2, "{said}");
    assert_eq!(place.statuses("a"), ["not_started"]);
    let reason = place.result("a")["reason"].as_str().unwrap().to_owned();
    assert!(reason.ends_with("launch failed requeued held, 3 times"), "{reason}");
    assert_eq!(cluster.call("squeue", &["-h", "--partition=slow"]), "", "a job is still held");
}

/// Two ranks that add up numbers over a socket, one on each node, or one alone. In the middle of the first
/// attempt the second waits to be killed.
const RANKS: &str = r#"
import json, os, socket, sys, time
model, rank, ranks, first, port = sys.argv[1], *map(int, sys.argv[2:4]), sys.argv[4], int(sys.argv[5])
def say(**event): print(":::TRAINMARK " + json.dumps(dict(event, rank=rank)), flush=True)
with open("ran", "a") as ran: ran.write(f"{model}{rank} {os.environ['SLURMD_NODENAME']}\n")
held = b"x" * (40 + 20 * rank) * 1_000_000
say(event="started", protocol=2, ranks=ranks)
peer = None
if ranks > 1 and rank == 0:
    with socket.create_server(("", port)) as server: peer = server.accept()[0]
while ranks > 1 and peer is None:
    try: peer = socket.create_connection((first, port))
    except OSError: time.sleep(0.1)
clock = time.monotonic()
for step in range(10):
    if step == 5 and rank == 1 and not os.path.exists("middle"):
        open("middle", "w").close()
        time.sleep(240)
    if peer:
        peer.sendall(b"%8d" % step)
        assert int(peer.recv(8, socket.MSG_WAITALL) or sys.exit("error: the other rank has gone")) == step
time.sleep(0.4 * rank)
say(event="trained", train_s=time.monotonic() - clock, work=100)
if rank == 0: print("Test Accuracy: 95.00%")
"#;

fn a_row_over_two_nodes_is_one_training_and_a_lost_node_is_replaced(cluster: &Cluster) {
    let place = Place::new(cluster, &["alone", "pair"], "");
    fs::write(place.path("ranks.py"), RANKS).unwrap();
    let port = free_ports(20)[19];
    let suite = format!(
        r#"name = "cluster"
        [models]
        alone.config = {{ nodes = 1 }}
        pair.config = {{ nodes = 2 }}
        [[trainers]]
        name = "Ranks"
        program = "python3"
        backends = ["cpu"]
        nodes = "{{nodes}}"
        command = ["{{program}}", "ranks.py", "{{model}}", "{{node}}", "{{nodes}}", "{{first_node}}", "{port}"]
        models = {{ alone.prefix = "alone", pair.prefix = "pair" }}
        "#
    );
    fs::write(place.path("suite.toml"), suite).unwrap();
    let mut begun = place.begin(&["--partition", "wide"]);
    let child = begun.spawn().unwrap();
    let middle = place.path("middle");
    cluster.eventually("the second rank is in the middle", move || middle.exists());
    let second =
        |ran: &[(String, String)]| ran.iter().find(|it| it.0 == "pair1").unwrap().1.clone();
    let lost = second(&place.ran());
    cluster.kill_node(&lost);
    let output = cluster.end(child);
    succeeded(&output);
    // Slurm takes the job back, or the harness submits it again: whoever notices first.
    let batches = fs::read_dir(place.path("out/slurm")).unwrap().flatten();
    let logs = batches.flat_map(|it| fs::read_dir(it.path().join("logs")).unwrap().flatten());
    let logs: String = logs.map(|it| fs::read_to_string(it.path()).unwrap()).collect();
    let told = format!("Ranks pair cpu (round 1): failed: lost node 1 ({lost})\n");
    assert_eq!(logs.matches(&told).count(), 1, "{logs}");
    let ran = |name: &str| place.ran().iter().filter(|it| it.0 == name).count();
    assert_eq!((ran("alone0"), ran("pair0"), ran("pair1")), (1, 2, 2), "{:?}", place.ran());
    for model in ["alone", "pair"] {
        assert_eq!(place.statuses(model), ["measured"], "{}", place.result(model));
    }
    let alone = place.result("alone");
    assert_eq!(alone["samples"][0]["nodes"], json!([]));
    let pair = place.result("pair");
    assert_eq!(pair["trainer"]["command"][0], "srun");
    let sample = &pair["samples"][0];
    let nodes = sample["nodes"].as_array().unwrap();
    let hosts: Vec<&Value> = nodes.iter().map(|node| &node["host"]).collect();
    assert!(
        hosts.len() == 2 && hosts[0] != hosts[1] && !hosts.contains(&&lost.into()),
        "{hosts:?}"
    );
    let peaks = nodes.iter().map(|node| node["meters"]["peak_memory_bytes"].as_f64().unwrap());
    let peaks: Vec<f64> = peaks.collect();
    assert!(peaks[0] > 40e6 && peaks[1] > peaks[0] + 15e6, "{peaks:?}");
    assert_eq!(sample["peak_memory_bytes"].as_f64(), Some(peaks[0] + peaks[1]));
    let source = pair["sources"]["peak_memory_mb"].as_str().unwrap();
    assert!(source.starts_with("sum of 2 nodes, most on "), "{source}");
    assert_eq!(sample["work"], 200.0, "of both ranks");
    assert!(sample["timing"]["train_s"].as_f64().unwrap() > 0.4, "the slower rank's");
    assert!(sample["timing"]["user_s"].as_f64().unwrap() > 0.0, "{sample}");
}

/// Where `trainmark setup` has installed PyTorch into this checkout.
fn pytorch_trains_over_two_nodes(cluster: &Cluster) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let python = root.join(".trainmark/environments/pytorch/bin/python");
    if !python.exists() {
        return skip::skipped(
            "the GPT over two nodes: PyTorch is not set up (trainmark setup PyTorch)",
        );
    }
    let place = Place::new(cluster, &["gpt"], "");
    let text = "what a row over two nodes learns is of no interest here. ".repeat(40);
    fs::write(place.path("data/tinyshakespeare.txt"), text).unwrap();
    let suite = format!(
        r#"name = "cluster"
        task = "shakespeare"
        config = {{ nodes = 2, steps = 5, batch_size = 4, context = 16 }}
        [[trainers]]
        name = "PyTorch"
        program = {python:?}
        backends = ["cpu"]
        nodes = "{{nodes}}"
        command = [
            "{{program}}", "-m", "torch.distributed.run", "--nnodes", "{{nodes}}", "--node-rank", "{{node}}",
            "--master-addr", "{{first_node}}", "--master-port", "{}", "--nproc-per-node", "1", {:?},
            "--backend", "cpu", "--data", "{{data}}", "--steps", "{{steps}}", "--batch", "{{batch_size}}",
            "--context", "{{context}}", "--layers", "1", "--heads", "2", "--width", "32",
        ]
        models.gpt = {{ prefix = "gpt" }}
        "#,
        free_ports(30)[29],
        root.join("implementations/pytorch/gpt.py")
    );
    fs::write(place.path("suite.toml"), suite).unwrap();
    succeeded(&place.output(place.begin(&["--partition", "wide"])));
    let result = place.result("gpt");
    assert_eq!(place.statuses("gpt"), ["measured"], "{result}");
    let path = result["trainer"]["path"].as_str().unwrap();
    assert!(path.ends_with("DDP of 2 ranks (gloo)"), "{path}");
    assert_eq!(result["samples"][0]["nodes"].as_array().unwrap().len(), 2);
    assert_eq!(result["samples"][0]["work"], 320.0, "of both ranks");
    assert_eq!(result["task"]["metrics"]["val_loss"]["source"], "scored");
}

/// Somebody submits the array once more, and a finished task's result is lost on its way.
fn a_doubled_job_counts_once_and_a_lost_result_is_a_row_that_says_so(cluster: &Cluster) {
    let place = Place::new(cluster, &["a", "b"], UNTIL_GO);
    let mut child = place.begin(&["--partition", "fragile"]).spawn().unwrap();
    eventually("a task has begun", || !place.ran().is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    let mut batches = fs::read_dir(place.path("out/slurm")).unwrap().flatten();
    let batch = batches.next().unwrap().path();
    cluster.call("sbatch", &[&batch.join("job.sh").display().to_string()]);
    fs::write(place.path("go"), "").unwrap();
    let name = format!("--name=trainmark-{}", batch.file_name().unwrap().display());
    eventually("both jobs have ended", || cluster.call("squeue", &["-h", &name]).is_empty());
    assert_eq!(place.ran().len(), 4, "each task ran in both jobs: {:?}", place.ran());
    let results = || fs::read_dir(batch.join("results")).unwrap().flatten().map(|it| it.path());
    let mut paths: Vec<PathBuf> = results().collect();
    paths.sort();
    assert_eq!(paths.len(), 2, "{paths:?}");
    fs::remove_file(&paths[0]).unwrap();
    let output = place.output(place.command(&["--resume"]));
    assert_eq!(output.status.code(), Some(i32::from(protocol::exit::FAILURE)));
    let statuses = [place.statuses("a"), place.statuses("b")];
    let mut statuses = statuses.map(|of_row| of_row.join(" "));
    statuses.sort();
    assert_eq!(statuses, ["failed", "measured"], "each round once");
    let reasons = ["a", "b"].map(|model| place.result(model)["reason"].to_string()).concat();
    assert!(reasons.contains("ended and left no result"), "{reasons}");
    assert_eq!(place.ran().len(), 4, "nothing ran again");
}

/// Slurm kills it (OverMemoryKill, which needs no control groups), and calls it FAILED.
fn a_task_over_its_memory_limit_is_out_of_memory(cluster: &Cluster) {
    // 300 MB in the shell's own memory, and time enough to be seen with them.
    let script = "x=$(head -c 300000000 /dev/zero | tr '\\0' a); sleep 60";
    let more = ["--task-memory", "100M"];
    let place = Place::new(cluster, &["a"], script);
    let output = place.output(place.begin(&more));
    assert_eq!(output.status.code(), Some(i32::from(protocol::exit::FAILURE)));
    assert_eq!(place.statuses("a"), ["out_of_memory"], "{}", place.result("a"));
    let reason = place.result("a")["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("over the scheduler's memory limit"), "{reason}");
}

/// A trainer that waits, in the folder of its suite, to be told.
const UNTIL_GO: &str = "until [ -e go ]; do sleep 0.2; done";

#[test]
fn slurm_runs_suites_and_survives_what_clusters_do() {
    let there = |program: &str| {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .chain(["/usr/sbin".into()])
            .any(|folder| folder.join(program).exists())
    };
    let root =
        fs::metadata("/proc/self").is_ok_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == 0);
    if !["slurmctld", "slurmd", "sbatch", "munged"].into_iter().all(there) || !root {
        let reason = "slurm-wlm and munge are not installed, or this is not root";
        return skip::skipped_unless("TRAINMARK_REQUIRE_SLURM", reason);
    }
    let cluster = Cluster::start();
    std::thread::scope(|scope| {
        let cluster = &cluster;
        scope.spawn(|| {
            a_doubled_job_counts_once_and_a_lost_result_is_a_row_that_says_so(cluster);
            a_task_whose_node_dies_runs_again_on_another(cluster);
        });
        scope.spawn(|| {
            a_row_over_two_nodes_is_one_training_and_a_lost_node_is_replaced(cluster);
            pytorch_trains_over_two_nodes(cluster);
        });
        scope.spawn(|| {
            a_cancelled_job_and_a_task_over_its_limit_are_rows_of_their_own(cluster);
            a_task_that_its_nodes_cannot_start_is_tried_three_times(cluster);
        });
        scope.spawn(|| {
            a_suite_is_spread_over_the_nodes_and_every_repeat_is_collected(cluster);
            a_submitting_process_that_dies_is_replaced_and_nothing_runs_twice(cluster);
            ctrl_c_cancels_the_jobs_and_resume_runs_the_rest(cluster);
            a_task_over_its_memory_limit_is_out_of_memory(cluster);
        });
    });
}

#[test]
fn without_slurm_the_error_says_what_is_missing_and_the_script_can_be_seen() {
    let folder = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| {
        harness(folder.path())
            .args(["run", "--executor", "slurm", "--model", "mlp"])
            .args(words)
            .env("PATH", folder.path()) // where there is no sbatch
            .output()
            .unwrap()
    };
    let output = run(&["--dry-run", "--gpus", "2", "--array-limit", "3", "--repeats", "5"]);
    succeeded(&output);
    let script = String::from_utf8(output.stdout).unwrap();
    assert!(script.starts_with("#!/bin/bash\n#SBATCH --job-name=trainmark-BATCH\n"), "{script}");
    for line in ["#SBATCH --gres=gpu:2", "#SBATCH --nodes=1", "exec \"$TRAINMARK\" task --order"] {
        assert!(script.contains(line), "{script}");
    }
    assert!(script.contains("%3\n"), "{script}");
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(i32::from(protocol::exit::FAILURE)));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("run this on a submission host of the cluster"), "{error}");
    assert_eq!(error.lines().count(), 1, "before anything is built: {error}");
    assert!(!Path::new(&folder.path().join("benchmarks")).exists(), "a dry run writes nothing");
}
