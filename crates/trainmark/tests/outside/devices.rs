//! Rows on several devices, against a library that stands for NVML: nothing here has seen a real GPU.
#![cfg(target_os = "linux")]

use crate::support::place::{Place, said};
use serde_json::Value;
use skip::skipped;
use std::process::{Command, Output};

/// Computes on the devices that it sees for a while: each later one holds more memory and is less busy. The last of eight is
/// slowed for its heat, and the fourth by its power limit.
const TRAINER: &str = r#"
echo ':::TRAINMARK {"event":"started","protocol":2,"device":"Fake H100"}'
seen=$(echo "$CUDA_VISIBLE_DEVICES" | tr , ' ')
on_each() {
    for uuid in $seen; do
        i=${uuid#GPU-fake-}; mhz=$((1900 - i)); reasons=0
        [ "$1 $i" = "later 3" ] && mhz=1000 reasons=4
        [ "$1 $i" = "later 7" ] && mhz=1000 reasons=64
        echo "$$ $((1000000000 * (i + 1))) $((90 - 10 * i)) $mhz $reasons" > "$FAKE_NVML/.$i"
        mv "$FAKE_NVML/.$i" "$FAKE_NVML/$i"
    done
}
on_each first; sleep 1.2
on_each later; sleep 1.2
for uuid in $seen; do rm "$FAKE_NVML/${uuid#GPU-fake-}"; done
train_s=$(echo "$1" | awk '{ print 0.8 / $1 + 0.1 * ($1 - 1) }')
echo ':::TRAINMARK {"event":"trained","train_s":'$train_s',"work":100,"dense_flop":1e9}'
"#;

fn suite(trainer: &str) -> String {
    format!(
        r#"
name = "devices"
[task]
name = "t"
throughput = {{ unit = "samples", per_run = "reported" }}
[scaling]
over = "gpus"
kind = "strong"
[[trainers]]
name = "Many"
program = "sh"
command = ["{{program}}", "train.sh", "{{gpus}}"]
{trainer}
"#
    )
}

/// A place with so many fake GPUs.
struct Machine {
    place: Place,
    devices: usize,
}

impl Machine {
    /// `None`, said loudly, without a C compiler.
    fn with(devices: usize, matrix: &str) -> Option<Machine> {
        let place = Place::new();
        std::fs::create_dir_all(place.path("use")).unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/fake_nvml.c");
        let library = place.path("libnvidia-ml.so.1");
        let cc =
            Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(library).arg(source).status();
        if cc.is_err() {
            skipped("there is no cc");
            return None;
        }
        assert!(cc.unwrap().success());
        std::fs::write(place.path("train.sh"), TRAINER).unwrap();
        let trainer = format!(
            "devices = \"{{gpus}}\"\nbackends = [\"cuda\"]\nmodels.m = {{ prefix = \"m\", matrix = {{ gpus = {matrix} }} }}"
        );
        std::fs::write(place.path("suite.toml"), suite(&trainer)).unwrap();
        Some(Machine { place, devices })
    }

    fn trainmark(&self, verb: &str) -> Command {
        let mut command = self.place.trainmark(verb);
        command
            .env("LD_LIBRARY_PATH", self.place.path(""))
            .env("FAKE_NVML", self.place.path("use"));
        command
            .env("FAKE_NVML_DEVICES", self.devices.to_string())
            .env_remove("CUDA_VISIBLE_DEVICES");
        command
    }

    fn run(&self, more: &[&str]) -> Output {
        let mut run = self.trainmark("run");
        let out = if more.contains(&"--out") { &[][..] } else { &["--out", "out"] };
        run.args(["--suite", "suite.toml"]).args(out).args(more).output().unwrap()
    }

    /// The records by their number of devices.
    fn records(&self, output: &Output) -> Vec<Value> {
        let mut records = self.place.results();
        assert!(!records.is_empty(), "{}", said(output));
        records.sort_by_key(|record| record["config"]["gpus"].as_u64());
        records
    }
}

#[test]
fn a_row_gets_as_many_devices_as_it_asks_for_and_each_is_metered() {
    let Some(machine) = Machine::with(2, "[1, 2]") else { return };
    let output = machine.run(&[]);
    let records = machine.records(&output);
    for record in &records {
        assert_eq!(record["status"], "measured", "{}", said(&output));
    }
    let visible = |record: &Value| record["trainer"]["environment"]["CUDA_VISIBLE_DEVICES"].clone();
    assert_eq!(visible(&records[0]), "GPU-fake-0");
    assert_eq!(visible(&records[1]), "GPU-fake-0,GPU-fake-1");
    let sample = &records[1]["samples"][0];
    assert_eq!(sample["devices"], serde_json::json!(["GPU-fake-0", "GPU-fake-1"]));
    let gpu = &records[1]["environment"]["gpus"][0];
    assert_eq!((&gpu["name"], &gpu["uuid"]), (&"Fake H100".into(), &"GPU-fake-0".into()));
    assert_eq!((&gpu["links"]["GPU-fake-1"], &gpu["numa_node"]), (&"NVLink".into(), &0.into()));
    let second = &sample["surroundings"]["devices"][1];
    assert_eq!((&second["peak_bytes"], &second["used"]), (&2_000_000_000u64.into(), &true.into()));
    assert_eq!((&second["busy_percent"], &second["sm_mhz_low"]), (&80.0.into(), &1899.into()));
    assert!(second["energy_uj"].as_f64().unwrap() > 1e8, "{second}");
    let meter = |name: &str| records[1]["meters"][name]["value"].as_f64().unwrap();
    assert_eq!(meter("device_memory_bytes"), 3e9);
    assert_eq!(meter("device_memory_largest_bytes"), 2e9);
    assert_eq!(meter("device_busy_least_percent"), 80.0);

    let mut report = machine.trainmark("report");
    let words = ["--input", "out", "--output", "r.json", "--markdown", "r.md", "--html", "r.html"];
    let output = report.args(words).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let read = |name: &str| std::fs::read_to_string(machine.place.path(name)).unwrap();
    let (markdown, page) = (read("r.md"), read("r.html"));
    for text in [&markdown, &page] {
        let line = text.lines().find(|line| line.contains("2 devices"));
        let line = line.unwrap_or_else(|| panic!("no row of two devices: {markdown}"));
        for cell in [
            "NVLink",
            "3,000; 2,000 (GPU 1)",
            "85.00; 80.00 (GPU 1)",
            "1,899 (GPU 1)",
            "none",
            "not valid",
        ] {
            assert!(line.contains(cell), "{cell}: {line}");
        }
    }
    assert!(markdown.contains("## Scaling") && markdown.contains("Of the ideal"), "{markdown}");
    assert!(page.contains("Scaling charts") && page.contains("samples/s"), "no chart");
    let report: Value = serde_json::from_str(&read("r.json")).unwrap();
    let point = &report["summary"]["scaling"][0]["points"][1];
    assert_eq!((&point["number"], &point["speed_up"]), (&2.0.into(), &1.6.into()));
    assert_eq!((&point["efficiency"], &point["interval"]), (&0.8.into(), &Value::Null));
}

#[test]
fn a_row_that_asks_for_more_than_there_is_is_unavailable_with_both_numbers() {
    let Some(machine) = Machine::with(2, "[4]") else { return };
    let output = machine.run(&[]);
    let record = &machine.records(&output)[0];
    assert_eq!(record["status"], "unavailable", "{}", said(&output));
    assert_eq!(record["reason"], "it asks for 4 devices, and there are 2");
    let output = machine.run(&["--devices", "5"]);
    assert!(
        said(&output).contains("--devices 5: NVML knows 2 devices, counted from 0"),
        "{}",
        said(&output)
    );
}

/// What a probe opens on a GPU would disturb whoever trains there.
#[test]
fn a_probe_sees_the_named_devices_alone() {
    let Some(machine) = Machine::with(2, "[1]") else { return };
    let suite = std::fs::read_to_string(machine.place.path("suite.toml")).unwrap();
    let suite = suite.replace("\ndevices = ", "\nprobe = [\"sh\", \"probe.sh\"]\ndevices = ");
    std::fs::write(machine.place.path("suite.toml"), suite).unwrap();
    let probe = r#"echo "<$CUDA_VISIBLE_DEVICES>" >>probed
        echo '{"trainer": "Many", "version": "1", "backends": [{"backend": "cuda"}]}'"#;
    std::fs::write(machine.place.path("probe.sh"), probe).unwrap();
    for devices in [&[][..], &["--devices", "1"]] {
        let output = machine.run(devices);
        assert_eq!(machine.records(&output)[0]["status"], "measured", "{}", said(&output));
    }
    let probed = std::fs::read_to_string(machine.place.path("probed")).unwrap();
    assert_eq!(probed, "<>\n<GPU-fake-1>\n");
    let listed = said(&machine.run(&["--devices", "1", "--dry-run"]));
    assert!(listed.contains("CUDA_VISIBLE_DEVICES=GPU-fake-1 sh probe.sh"), "{listed}");
}

#[test]
fn of_the_devices_that_are_left_to_the_run_a_row_gets_those_that_are_linked_best() {
    let Some(machine) = Machine::with(8, "[2]") else { return };
    let mut run = machine.trainmark("run");
    run.args(["--suite", "suite.toml", "--out", "out"]).env("CUDA_VISIBLE_DEVICES", "1,2,3");
    let output = run.output().unwrap();
    let record = &machine.records(&output)[0];
    assert_eq!(record["samples"][0]["devices"], serde_json::json!(["GPU-fake-2", "GPU-fake-3"]));
}

#[test]
fn named_devices_are_the_ones_that_rows_get_and_heat_disturbs_but_a_power_limit_does_not() {
    let Some(machine) = Machine::with(8, "[2]") else { return };
    let output = machine.run(&["--devices", "3,7"]);
    let record = &machine.records(&output)[0];
    assert_eq!(record["samples"][0]["devices"], serde_json::json!(["GPU-fake-3", "GPU-fake-7"]));
    let gpus = record["environment"]["gpus"].as_array().unwrap();
    assert_eq!(gpus[3]["links"]["GPU-fake-7"], "PCIe between NUMA nodes");
    let disturbances = record["samples"][0]["disturbances"].to_string();
    for expected in ["throttled: hw_thermal_slowdown", "its SM clock fell to 1000 of 1893 MHz"] {
        let expected = format!("GPU 7 (Fake H100): {expected}");
        assert!(disturbances.contains(&expected), "{disturbances}");
    }
    assert!(!disturbances.contains("GPU 3"), "{disturbances}");
    let limited = &record["samples"][0]["surroundings"]["devices"][3];
    let clocks = (&limited["sm_mhz_low"], &limited["sm_mhz_low_without_limit"]);
    assert_eq!(clocks, (&1000.into(), &1897.into()));
}

#[test]
fn a_trainer_that_is_on_its_device_before_nvml_has_answered_is_no_stranger() {
    let Some(machine) = Machine::with(1, "[1]") else { return };
    let mut run = machine.trainmark("run");
    run.args(["--suite", "suite.toml", "--out", "out"]).env("FAKE_NVML_SLOW", "1");
    let output = run.output().unwrap();
    let device = &machine.records(&output)[0]["samples"][0]["surroundings"]["devices"][0];
    assert_eq!((&device["used"], &device["others"]), (&true.into(), &0.into()), "{device}");
}

#[test]
fn a_driver_that_hangs_costs_its_own_figures_and_is_asked_no_more() {
    let Some(machine) = Machine::with(1, "[1]") else { return };
    std::fs::write(machine.place.path("train.sh"), "touch $FAKE_NVML/hangs; sleep 1; echo trained")
        .unwrap();
    let output = machine.run(&["--repeats", "2"]);
    let samples = &machine.records(&output)[0]["samples"];
    for sample in [&samples[0], &samples[1]] {
        let why = &sample["surroundings"]["missing"]["devices"];
        assert_eq!(why, "NVML does not answer", "{}", said(&output));
    }
}

#[test]
fn a_stranger_that_comes_while_a_row_trains_is_a_guess_on_a_gpu_and_nothing_on_the_cpu() {
    let Some(machine) = Machine::with(1, "[1]") else { return };
    // No child of the harness, as everybody's are to whom NVML tells the host's process ids.
    let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
    let process = format!("{} 5000000000 90 1500 0", stranger.id());
    let train =
        format!("sleep 1; echo {process} > $FAKE_NVML/0; sleep 1.5; rm $FAKE_NVML/0; echo trained");
    std::fs::write(machine.place.path("train.sh"), train).unwrap();
    for backend in ["cuda", "cpu"] {
        let trainer = format!(
            "backends = [\"{backend}\"]\nmodels.m = {{ prefix = \"m\", matrix = {{ gpus = [1] }} }}"
        );
        std::fs::write(machine.place.path("suite.toml"), suite(&trainer)).unwrap();
        machine.run(&["--out", backend]);
        let name = std::fs::read_dir(machine.place.path(backend)).unwrap().flatten();
        let path =
            name.map(|it| it.path()).find(|it| it.extension().is_some_and(|it| it == "json"));
        let record: Value = serde_json::from_slice(&std::fs::read(path.unwrap()).unwrap()).unwrap();
        let device = &record["samples"][0]["surroundings"]["devices"][0];
        let memory = &record["meters"]["device_memory_bytes"];
        if backend == "cuda" {
            assert_eq!(
                (&device["used"], &device["guessed"]),
                (&true.into(), &true.into()),
                "{device}"
            );
            assert!(
                memory["source"].as_str().unwrap().contains("none of this system's"),
                "{memory}"
            );
        } else {
            assert_eq!(
                (&device["used"], &device["others"]),
                (&false.into(), &1.into()),
                "{device}"
            );
            assert_eq!(memory["value"], Value::Null, "{memory}");
        }
    }
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn rows_run_side_by_side_on_devices_of_their_own_only_when_asked() {
    let Some(machine) = Machine::with(8, "[2, 3, 4]") else { return };
    let output = machine.run(&["--parallel-rows"]);
    let records = machine.records(&output);
    let devices = |record: &Value| -> Vec<String> {
        serde_json::from_value(record["samples"][0]["devices"].clone()).unwrap()
    };
    // Two and three fit on eight; four have to wait.
    let (two, three, four) = (&records[0], &records[1], &records[2]);
    assert_eq!(
        (devices(two).len(), devices(three).len(), devices(four).len()),
        (2, 3, 4),
        "{}",
        said(&output)
    );
    assert!(devices(two).iter().all(|it| !devices(three).contains(it)), "{}", said(&output));
    let beside = |record: &Value| record["samples"][0]["beside"].clone();
    assert_eq!(beside(two), serde_json::json!(["Many m cuda gpus=3"]));
    assert_eq!(beside(three), serde_json::json!(["Many m cuda gpus=2"]));
    assert_eq!(beside(four), serde_json::json!([]));
    // Nobody's meters count the other's devices.
    let metered = three["samples"][0]["surroundings"]["devices"].as_array().unwrap();
    assert_eq!(metered.len(), 3, "{metered:?}");
    assert_eq!(two["meters"]["device_memory_bytes"]["value"], 3e9);
    // Of the CPU nobody knows whose time and energy it was, and reports say so.
    let seen = |record: &Value| record["samples"][0]["surroundings"].clone();
    assert_eq!(seen(two)["other_cpu_s"], Value::Null);
    assert_eq!(seen(two)["missing"]["other_cpu_s"], "other rows ran beside it");
    assert!(seen(four)["missing"]["other_cpu_s"] != "other rows ran beside it");
    let mut report = machine.trainmark("report");
    report.args(["--input", "out", "--output", "r.json", "--markdown", "r.md"]).output().unwrap();
    let markdown = std::fs::read_to_string(machine.place.path("r.md")).unwrap();
    assert!(markdown.contains("2 of 3 samples. They shared memory"), "{markdown}");
}

#[test]
fn where_a_result_cannot_be_kept_the_rows_beside_it_are_stopped() {
    let place = Place::new();
    // The first ends soon and leaves no folder for its result; the second would go on for a minute.
    let train = "[ $1 = 1 ] && { sleep 0.5; rm -r out; touch out; exit; }; exec sleep 60";
    std::fs::write(place.path("train.sh"), train).unwrap();
    let trainer = "cores = \"1\"\nbackends = [\"cpu\"]\nmodels.m = { prefix = \"m\", matrix = { gpus = [1, 2] } }";
    std::fs::write(place.path("suite.toml"), suite(trainer)).unwrap();
    if std::thread::available_parallelism().unwrap().get() < 2 {
        skipped("there is one core");
        return;
    }
    let start = std::time::Instant::now();
    let mut run = place.trainmark("run");
    let output =
        run.args(["--suite", "suite.toml", "--out", "out", "--parallel-rows"]).output().unwrap();
    assert!(said(&output).contains("cannot be written"), "{}", said(&output));
    assert!(!output.status.success() && start.elapsed().as_secs() < 40, "{}", said(&output));
}

#[test]
fn efficiency_is_a_figure_that_two_runs_are_compared_by() {
    let Some(machine) = Machine::with(2, "[1, 2]") else { return };
    assert!(machine.run(&["--repeats", "4"]).status.success());
    let slower = TRAINER.replace("0.1 * ($1 - 1)", "0.3 * ($1 - 1)");
    std::fs::write(machine.place.path("train.sh"), slower).unwrap();
    assert!(machine.run(&["--repeats", "4", "--out", "new"]).status.success());
    let mut compare = machine.trainmark("compare");
    let output = compare.args(["out", "new", "--metric", "efficiency"]).output().unwrap();
    // 80 % became 57 %: a regression of the row on two devices, and none of the one on one.
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let regressions = said(&output).matches("REGRESSION").count();
    assert!(regressions >= 1 && said(&output).contains("Efficiency (%)"), "{}", said(&output));
}

#[test]
fn a_stranger_that_comes_to_another_device_is_not_taken_for_the_trainer() {
    let Some(machine) = Machine::with(2, "[1]") else { return };
    // Process 1 computes before the trainer does, on both.
    let stranger =
        "for i in 0 1; do echo '1 5000000000 99 1000 0' > \"$FAKE_NVML/$i\"; done; sleep 0.4\n";
    std::fs::write(machine.place.path("train.sh"), format!("{stranger}{TRAINER}")).unwrap();
    let output = machine.run(&[]);
    let sample = &machine.records(&output)[0]["samples"][0];
    let device = |at: usize| &sample["surroundings"]["devices"][at];
    assert_eq!((&device(0)["used"], &device(1)["used"]), (&true.into(), &false.into()));
    assert_eq!(
        (&device(0)["peak_bytes"], &device(1)["others"]),
        (&1_000_000_000.into(), &1.into())
    );
    let notes = sample["notes"].to_string();
    assert!(!notes.contains("it was seen on"), "{notes}");
}

#[test]
fn a_row_is_bound_to_as_many_cores_as_it_asks_for() {
    let place = Place::new();
    let bound =
        r#"echo ':::TRAINMARK {"event":"trained","train_s":0.01,"work":'$(nproc)'}'; sleep 0.1"#;
    std::fs::write(place.path("train.sh"), bound).unwrap();
    let trainer = "cores = \"{gpus} * {each}\"\ndevices = \"{gpus}\"\nbackends = [\"cpu\"]\n\
                   models.m = { prefix = \"m\", matrix = { gpus = [1, 99], each = [1] } }";
    std::fs::write(place.path("suite.toml"), suite(trainer)).unwrap();
    let mut run = place.trainmark("run");
    let output = run.args(["--suite", "suite.toml", "--out", "out"]).output().unwrap();
    let mut records = place.results();
    records.sort_by_key(|record| record["config"]["gpus"].as_u64());
    assert_eq!(records[0]["samples"][0]["work"], 1.0, "{}", said(&output));
    assert_eq!(records[0]["trainer"]["limits"]["cpus"].as_array().unwrap().len(), 1);
    // A row on the CPU asks for no device.
    let reason = records[1]["reason"].as_str().unwrap();
    assert!(reason.starts_with("it asks for 99 cores, and there"), "{reason}");
}
