//! `trainmark verify` from the outside: trainers that are right, wrong in the ways that trainers really
//! are, loose, lying and silent. Each is a backend of the fake trainer.

use crate::support;
use nn::conformance::cases;
use record::folder;
use record::summary::{Options, Summary};
use report::{console, json, markdown};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::TempDir;
use trainmark::verify::FILE;

/// Writes a small dataset of strokes, as MNIST's files: the same images to train on and to test.
pub fn write_strokes(data: &Path) {
    let split = cases()[0].data();
    for name in ["train", "t10k"] {
        let mut images = [2051, split.len() as u32, 28, 28].map(u32::to_be_bytes).concat();
        images.extend(split.images());
        std::fs::write(data.join(format!("{name}-images-idx3-ubyte")), images).unwrap();
        let mut labels = [2049, split.len() as u32].map(u32::to_be_bytes).concat();
        labels.extend(split.labels());
        std::fs::write(data.join(format!("{name}-labels-idx1-ubyte")), labels).unwrap();
    }
}

/// A folder with a small dataset of strokes and room for the rest.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        let data = place.path("data");
        std::fs::create_dir(&data).unwrap();
        write_strokes(&data);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A suite whose backends are ways of the fake trainer to take the steps.
    fn suite(&self, backends: &[&str]) {
        let program = support::FAKE_TRAINER;
        let text = format!(
            r#"
            name = "steps"
            config = {{ epochs = 3, batch_size = 32, seed = 42, learning_rate = 0.05 }}
            [task]
            name = "strokes"
            like = "mnist"
            [task.verify]
            reference = "Truth"
            config = {{ epochs = 1 }}
            program = {program:?}
            command = ["{{program}}", "verify", "reference", "{{model}}", "{{hidden_size}}",
                       "{{batch_size}}", "{{learning_rate}}"]
            [[trainers]]
            name = "Fake"
            program = {program:?}
            command = ["{{program}}", "verify", "{{backend}}", "{{model}}", "{{hidden_size}}",
                       "{{batch_size}}", "{{learning_rate}}", "{{epochs}}"]
            backends = {backends:?}
            models.mlp = {{ prefix = "fake", matrix = {{ hidden_size = [24] }} }}
            models.cnn = {{ prefix = "fake_cnn", matrix = {{ hidden_size = [0] }} }}
            models.resnet = {{ prefix = "fake_resnet", matrix = {{ hidden_size = [0] }} }}
            "#
        );
        std::fs::write(self.path("suite.toml"), text).unwrap();
    }

    fn trainmark(&self, verb: &str, more: &[&str]) -> Output {
        let mut command = support::harness(self.0.path());
        command.arg(verb);
        command.args(["--suite", "suite.toml", "--data", "data", "--out", "out"]).args(more);
        command.env_remove("TRAINMARK_DATA").output().unwrap()
    }

    /// The verification file.
    fn verifications(&self) -> Vec<Value> {
        let bytes = std::fs::read(self.path("out").join(FILE)).unwrap();
        let file: Value = serde_json::from_slice(&bytes).unwrap();
        check_schema(&file);
        file["verifications"].as_array().unwrap().clone()
    }

    /// Verifies one model with these backends and returns what came of each.
    fn verify(&self, model: &str, backends: &[&str]) -> (Output, Vec<Value>) {
        self.suite(backends);
        let output = self.trainmark("verify", &["--model", model]);
        let found = self.verifications();
        assert_eq!(found.len(), backends.len(), "{}", said(&output));
        (output, found)
    }
}

fn check_schema(file: &Value) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../schema/verification.schema.json");
    let schema: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(file).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))
}

fn reason(found: &Value) -> &str {
    found["reason"].as_str().unwrap_or_default()
}

#[test]
fn sound_trainers_are_graded_by_their_arithmetic_and_the_command_succeeds() {
    for model in ["mlp", "cnn"] {
        let place = Place::new();
        let (output, found) = place.verify(model, &["exact", "right", "tf32", "bf16"]);
        assert!(output.status.success(), "{}", said(&output));
        let grades: Vec<&str> = found.iter().map(|it| it["grade"].as_str().unwrap()).collect();
        assert_eq!(grades[..3], ["bit_equal", "float32", "tf32"], "{}", said(&output));
        // Coarser arithmetic may come out better than its bound.
        assert!(["tf32", "bf16"].contains(&grades[3]), "{}", said(&output));
        for found in &found {
            assert_eq!((&found["deterministic"], &found["steps"]), (&true.into(), &10.into()));
        }
        // Nobody said that it computes in less than float32.
        assert!(
            reason(&found[3]).contains("precision, not within float32"),
            "{}",
            reason(&found[3])
        );
        assert!(said(&output).contains("4 of 4 equal to the reference"), "{}", said(&output));
    }
}

#[test]
fn rounding_that_the_stated_precision_does_not_explain_is_no_success() {
    let place = Place::new();
    let (output, found) = place.verify("mlp", &["nearly", "right"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(reason(&found[0]).contains(" precision, though it says fp32: "), "{found:?}");
    let told = "2 of 2 equal to the reference; 1 only in coarser precision than stated";
    assert!(said(&output).contains(told), "{}", said(&output));
    place.trainmark("run", &["--model", "mlp"]);
    let summary =
        Summary::new(folder::read(&[place.path("out")], None).unwrap(), &Options::default());
    let text =
        console::summary(&summary.unwrap(), console::Detail::default(), console::Style::default());
    let words: Vec<&str> = text.split_whitespace().collect();
    assert!(words.join(" ").contains("1 row in coarser precision than stated"), "{text}");
}

#[test]
fn wrong_trainers_are_different_from_the_step_and_in_the_tensors_where_they_are() {
    let place = Place::new();
    let (output, found) = place.verify("cnn", &["quarter", "other-rate", "drops-last", "lies"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    for found in &found {
        assert_eq!(found["grade"], "different", "{found}");
    }
    let [quarter, rate, last, lies] = &found[..] else { panic!() };
    assert_eq!(quarter["first_step"], 1);
    for name in ["conv.weight", "conv.bias"] {
        assert_eq!(quarter["quantities"][name]["grade"], "different");
        let part = quarter["quantities"][name]["of_change"].as_f64().unwrap();
        assert!((part - 0.75).abs() < 0.01, "{part}");
    }
    assert_eq!(quarter["quantities"]["fc.weight"]["grade"], "float32");
    assert!(reason(quarter).starts_with("different from step 1 on: conv."), "{quarter}");
    assert!(reason(quarter).contains("75 % of its change"), "{quarter}");
    assert_eq!((&rate["first_step"], &last["first_step"]), (&1.into(), &10.into()));
    assert!(reason(rate).contains("by 50 % of its change"), "{rate}");
    assert_eq!(lies["first_step"], 1, "{lies}");
    assert!(said(&output).contains("0 of 4 equal to the reference, 4 different"));
}

#[test]
fn a_trainer_that_is_not_the_same_twice_is_equal_but_not_deterministic() {
    let place = Place::new();
    let (output, found) = place.verify("mlp", &["loose", "right"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(
        (&found[0]["grade"], &found[0]["deterministic"]),
        (&"float32".into(), &false.into())
    );
    let what = found[0]["nondeterminism"].as_str().unwrap();
    assert!(
        what.contains("in fc1.weight, by up to ") && what.matches(" in ").count() <= 3,
        "{what}"
    );
    assert_eq!(found[1]["deterministic"], true);
    assert!(said(&output).contains("1 not deterministic"), "{}", said(&output));
}

#[test]
fn whoever_takes_no_part_breaks_down_or_garbles_has_no_grade_and_a_reason() {
    let place = Place::new();
    let ways = ["silent", "breaks", "forgets", "loses-one", "not-a-number"];
    let (output, found) = place.verify("mlp", &ways);
    let outcomes: Vec<_> =
        found.iter().map(|it| (it["grade"].as_str().unwrap(), reason(it))).collect();
    let expected = [
        ("not_verified", "does not take part"),
        ("failed", "out of luck"),
        ("failed", "losses.f32 but not final.safetensors"),
        ("different", "9 of 10 steps; perhaps it drops a smaller last batch"),
        ("different", "fc1.weight[0] is NaN instead of "),
    ];
    for ((grade, reason), (expected, words)) in outcomes.iter().zip(expected) {
        assert_eq!(*grade, expected, "{}", said(&output));
        assert!(reason.contains(words), "{reason}");
    }
    // A model that nobody here knows is no failure, but nothing is known of it either.
    let (output, found) = Place::new().verify("resnet", &["right"]);
    assert_eq!(output.status.code(), Some(75), "{}", said(&output));
    assert!(said(&output).contains("error: no row was verified"), "{}", said(&output));
    assert_eq!(found[0]["grade"], "not_verified");
    assert!(reason(&found[0]).starts_with("the reference Truth gave no steps: "), "{}", found[0]);
}

#[test]
fn one_row_that_was_verified_is_enough_beside_those_that_take_no_part() {
    let (output, found) = Place::new().verify("mlp", &["silent", "right"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(
        (&found[0]["grade"], &found[1]["grade"]),
        (&"not_verified".into(), &"float32".into())
    );
}

#[test]
fn every_report_marks_what_is_different_and_shows_what_was_never_verified() {
    let place = Place::new();
    place.suite(&["right", "other-rate", "loose"]);
    let output = place.trainmark("run", &["--model", "mlp", "--epochs", "1"]);
    assert!(said(&output).contains("trainmark verify"), "{}", said(&output));
    place.trainmark("verify", &["--model", "mlp", "--backend", "right,other-rate"]);

    let collection = folder::read(&[place.path("out")], None).unwrap();
    assert_eq!(collection.skipped, []);
    let summary = Summary::new(collection, &Options::default()).unwrap();
    let mut bytes = Vec::new();
    json::write(&summary, &mut bytes).unwrap();
    let report: Value = serde_json::from_slice(&bytes).unwrap();
    let of = |backend: &str| {
        let rows = report["results"].as_array().unwrap();
        rows.iter().find(|row| row["backend"] == backend).unwrap()
    };
    assert_eq!(of("right")["verification"]["grade"], "float32");
    assert_eq!(of("loose")["verification"]["grade"], "not_verified");
    let different = &of("other-rate")["verification"];
    assert_eq!((&different["grade"], &different["first_step"]), (&"different".into(), &1.into()));
    assert_eq!(
        (&of("other-rate")["rank"], &of("other-rate")["speed_up"]),
        (&Value::Null, &Value::Null)
    );
    assert_ne!(of("right")["rank"], Value::Null);

    let mut bytes = Vec::new();
    markdown::write(&summary, &[], &mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    for text in [
        text,
        console::summary(
            &summary,
            console::Detail { notes: true, ..console::Detail::default() },
            console::Style { width: 120, color: false },
        ),
    ] {
        let row = |backend: &str| {
            let mut rows = text.lines().filter(|line| line.contains("95.67"));
            rows.find(|line| line.contains(backend)).unwrap_or_default().to_owned()
        };
        assert!(text.contains("Verified"), "{text}");
        assert!(row("other-rate").contains("DIFFERENT"), "{text}");
        assert!(
            row("right").contains("float32") && row("loose").contains("not verified"),
            "{text}"
        );
        assert!(text.contains("different from step 1 on"), "{text}");
    }
}

#[test]
fn a_grade_holds_for_the_configuration_and_the_program_that_were_verified() {
    let place = Place::new();
    place.suite(&["right"]);
    place.trainmark("run", &["--model", "mlp", "--epochs", "1,2"]);
    place.trainmark("run", &["--model", "mlp", "--epochs", "1", "--batch", "16"]);
    place.trainmark("verify", &["--model", "mlp"]);
    let grades = |place: &Place| -> Vec<String> {
        let collection = folder::read(&[place.path("out")], None).unwrap();
        let summary = Summary::new(collection, &Options::default()).unwrap();
        summary.rows.iter().map(|row| row.grade().words().to_owned()).collect()
    };
    let mut known = grades(&place);
    known.sort();
    assert_eq!(known, ["float32", "float32", "not verified"], "batches of 16 were not");

    let path = place.path("out").join(FILE);
    let mut file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    file["verifications"][0]["program_sha256"] = "0".repeat(64).into();
    std::fs::write(&path, file.to_string()).unwrap();
    assert_eq!(grades(&place), ["not verified"; 3], "another build was");
}

#[cfg(unix)]
#[test]
fn a_changed_script_under_the_same_interpreter_has_lost_its_grade() {
    let place = Place::new();
    place.suite(&["right"]);
    let suite = std::fs::read_to_string(place.path("suite.toml")).unwrap();
    let suite =
        suite.replace(&format!("program = {:?}", support::FAKE_TRAINER), "program = \"sh\"");
    let suite =
        suite.replace("\"{program}\", \"verify\"", "\"{program}\", \"train.sh\", \"verify\"");
    std::fs::write(place.path("suite.toml"), suite).unwrap();
    let script = format!("exec '{}' \"$@\"\n", support::FAKE_TRAINER);
    std::fs::write(place.path("train.sh"), &script).unwrap();
    place.trainmark("verify", &["--model", "mlp"]);
    assert_eq!(place.verifications()[0]["grade"], "float32");
    place.trainmark("run", &["--model", "mlp", "--epochs", "2"]);
    std::fs::write(place.path("train.sh"), script + "# edited\n").unwrap();
    place.trainmark("run", &["--model", "mlp", "--epochs", "3"]);

    let collection = folder::read(&[place.path("out")], None).unwrap();
    assert_eq!(collection.skipped, []);
    let summary = Summary::new(collection, &Options::default()).unwrap();
    let mut grades: Vec<&str> = summary.rows.iter().map(|row| row.grade().words()).collect();
    grades.sort();
    assert_eq!(grades, ["float32", "not verified"]);
    // And so it is again when it is verified as it is now.
    place.trainmark("verify", &["--model", "mlp"]);
    let collection = folder::read(&[place.path("out")], None).unwrap();
    let summary = Summary::new(collection, &Options::default()).unwrap();
    let verified = summary.rows.iter().filter(|row| row.grade().words() == "float32");
    assert_eq!(verified.count(), 1, "the newest of the same row is the one that is kept");
}

/// A line through points, by gradient descent in Python alone. `float64` chooses where the others begin.
const LINE: &str = r#"
import array, json, os, struct, sys
way, rate, data = sys.argv[1], float(sys.argv[2]), [float(it) for it in open(sys.argv[3])]
single = lambda x: x if way == "float64" else struct.unpack("f", struct.pack("f", x))[0]
folder = os.environ.get("TRAINMARK_VERIFY")
path = lambda name: os.path.join(folder, name)
def save(name, values):
    header = json.dumps({n: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]}
                         for i, n in enumerate(values)}).encode()
    with open(path(name), "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header + array.array("f", values.values()).tobytes())
if not folder:
    print("mse: 0.5")
    sys.exit()
request = json.load(open(path("request.json")))
if request["reference"]:
    save("initial.safetensors", {"slope": 0.5, "offset": -0.25})
    open(path("order.u32"), "wb").write(array.array("I", range(request["steps"])).tobytes())
order = array.array("I", open(path("order.u32"), "rb").read())
slope, offset = 0.5, -0.25
losses = []
for at in order:
    x, y = float(at) / 10, data[at]
    error = single(single(slope * x) + offset - y)
    losses.append(error * error)
    if way == "wrong" and at >= 2:
        error *= 2
    slope, offset = single(slope - rate * error * x), single(offset - rate * error)
array.array("f", losses).tofile(open(path("losses.f32"), "wb"))
save("final.safetensors", {"slope": slope, "offset": offset})
"#;

#[cfg(unix)]
#[test]
fn the_trainers_of_any_task_are_compared_with_one_of_them_that_it_names() {
    let place = Place::new();
    let points: String = (0..20).map(|at| format!("{}\n", 0.3 * f64::from(at) - 1.0)).collect();
    std::fs::write(place.path("points.txt"), points).unwrap();
    std::fs::write(place.path("line.py"), LINE).unwrap();
    let suite = |reference: &str| {
        let trainer = |way: &str| {
            format!(
                "[[trainers]]\nname = \"{way}\"\nprogram = \"python3\"\nbackends = [\"cpu\"]\n\
                 command = [\"{{program}}\", \"line.py\", \"{way}\", \"{{rate}}\", \"{{data}}\"]\n\
                 models.line = {{ prefix = \"{way}\" }}\n"
            )
        };
        let text = format!(
            "name = \"line\"\nconfig = {{ rate = 0.1 }}\n[task]\nname = \"line\"\ndata = \"points.txt\"\n\
             verify = {{ reference = \"{reference}\", steps = 6 }}\nquality = \"mse\"\n\
             metrics.mse = {{ unit = \"\", better = \"lower\" }}\n{}{}{}",
            trainer("float64"),
            trainer("float32"),
            trainer("wrong")
        );
        std::fs::write(place.path("suite.toml"), text).unwrap();
    };
    let verify = || {
        let mut command = support::harness(place.0.path());
        command.args(["verify", "--suite", "suite.toml", "--out", "out"]).output().unwrap()
    };
    suite("float64");
    let output = verify();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let found = place.verifications();
    let grades: Vec<&str> = found.iter().map(|it| it["grade"].as_str().unwrap()).collect();
    assert_eq!(grades, ["bit_equal", "float32", "different"], "{}", said(&output));
    assert_eq!((&found[2]["first_step"], &found[2]["steps"]), (&3.into(), &6.into()));
    assert!(reason(&found[2]).starts_with("different from step 3 on: "), "{}", found[2]);

    suite("nobody");
    assert!(said(&verify()).contains("the reference \"nobody\" is not a trainer of this suite"));
}
