//! Exports, as committed, and as the programs that they are for read them.

use super::{fixtures, summary};
use parquet::basic::{LogicalType, Type};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use record::{Record, Summary};
use report::{bmf, export, full, openmetrics, parquet as table};
use std::io::Write;
use std::process::{Command, Stdio};

fn written(write: impl FnOnce(&Summary, &mut Vec<u8>) -> std::io::Result<()>, set: &str) -> String {
    let mut bytes = Vec::new();
    write(&summary(set), &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn csv_of_one_run() {
    insta::assert_snapshot!(written(|it, to| export::csv(it, to), "run"));
}

#[test]
fn bmf_of_many_runs() {
    insta::assert_snapshot!(written(|it, to| bmf::write(it, to), "mixed"));
}

#[test]
fn openmetrics_of_one_run() {
    insta::assert_snapshot!(written(|it, to| openmetrics::write(it, to), "run"));
}

#[test]
fn one_file_in_full() {
    let read = |name: &str| -> Record {
        Record::parse(&std::fs::read(fixtures("run").join(name)).unwrap()).unwrap()
    };
    let style = report::console::Style::default();
    insta::assert_snapshot!(full::text(&read("classic_cpu_h512_20261124_101500.json"), style));
    insta::assert_snapshot!(full::text(&read("classic_mps_h512_20261124_101502.json"), style));
}

#[test]
fn csv_has_as_many_fields_in_every_line_and_no_formula_survives_in_it() {
    let text = written(|it, to| export::csv(it, to), "mixed");
    let mut reader = ::csv::Reader::from_reader(text.as_bytes()); // refuses ragged lines
    let mut rows = 0;
    for record in reader.records() {
        for field in &record.unwrap() {
            let formula = field.starts_with(['=', '+', '@', '\t', '\r'])
                || field.starts_with('-') && field.parse::<f64>().is_err();
            assert!(!formula, "{field}");
        }
        rows += 1;
    }
    assert_eq!(rows, summary("mixed").rows.len());
}

#[test]
fn parquet_has_the_columns_types_and_values_of_the_table() {
    let summary = summary("mixed");
    let mut bytes = Vec::new();
    table::write(&summary, &mut bytes).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let schema = reader.metadata().file_metadata().schema_descr();
    let column = |name: &str| {
        schema.columns().iter().find(|it| it.name() == name).unwrap_or_else(|| panic!("{name}"))
    };
    assert_eq!(column("train_s").physical_type(), Type::DOUBLE);
    assert_eq!(column("config.epochs").physical_type(), Type::INT64);
    assert_eq!(column("compiled").physical_type(), Type::BOOLEAN);
    assert_eq!(column("model").logical_type_ref(), Some(&LogicalType::String));
    let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows.len(), summary.rows.len());
    for (read, row) in rows.iter().zip(&summary.rows) {
        let value = |name: &str| read.get_column_iter().find(|(it, _)| *it == name).unwrap().1;
        assert_eq!(value("model"), &Field::Str(row.record.model.clone()));
        match row.record.metrics.training_time_seconds {
            Some(seconds) => {
                assert_eq!(value("training_time_seconds"), &Field::Double(seconds));
            }
            None => assert_eq!(value("training_time_seconds"), &Field::Null),
        }
    }
}

/// Records of version 2 with these keys beside what every one has.
fn summary_of(records: &[serde_json::Value]) -> Summary {
    let entry = |(index, keys): (usize, &serde_json::Value)| {
        let mut record = serde_json::json!({
            "executable": "T", "model": "m", "backend": "cpu", "timestamp": "20240315_143022",
            "schema_version": 2, "status": "measured", "config": {"threads": null},
            "task": {"name": "t", "metrics": {"a_b": {}, "a-b": {}, "train_seconds": {}}}, "metrics": {},
        });
        record.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        let record = Record::parse(record.to_string().as_bytes()).unwrap();
        record::folder::Entry { file: format!("{index}.json"), record }
    };
    let entries = records.iter().enumerate().map(entry).collect();
    let folder = record::folder::Folder { entries, ..Default::default() };
    Summary::new(folder, &record::summary::Options::default()).unwrap()
}

#[test]
fn a_finite_number_is_finite_in_openmetrics_and_no_family_stands_there_twice() {
    let summary = summary_of(&[serde_json::json!({
        "timing": {"train_s": 1e308},
        "metrics": {"peak_memory_mb": 1e308, "a_b": 1e308, "train_seconds": 3.0},
    })]);
    let mut bytes = Vec::new();
    openmetrics::write(&summary, &mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    assert!(!text.to_lowercase().contains("inf") && !text.contains("NaN"), "{text}");
    assert!(text.contains("} 1e308\n"), "{text}");
    let families: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
    let distinct: std::collections::BTreeSet<&&str> = families.iter().collect();
    assert_eq!(families.len(), distinct.len(), "{text}");
    assert!(
        text.contains("trainmark_train_seconds{") && text.contains("trainmark_task_train_seconds{")
    );
}

#[test]
fn in_bmf_two_rows_of_one_name_and_two_metrics_of_one_word_are_all_there() {
    let run = |id: &str, seconds: f64| {
        serde_json::json!({
            "run": {"id": id, "suite": "s", "quick": false, "started": format!("2026-01-0{id}T00:00:00Z"),
                    "harness": "0"},
            "timing": {"train_s": seconds}, "metrics": {"a_b": 1.0, "a-b": 2.0},
        })
    };
    let mut bytes = Vec::new();
    bmf::write(&summary_of(&[run("2", 2.0), run("3", 3.0), run("1", 1.0)]), &mut bytes).unwrap();
    let found: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let newest = found["T/m/cpu threads=n/a"].as_object().unwrap();
    assert_eq!(
        newest["train-s"]["value"], 3.0,
        "the newest has the name that is the same in every run"
    );
    assert_eq!((&newest["a_b"]["value"], &newest["a-b"]["value"]), (&1.0.into(), &2.0.into()));
    let seconds: Vec<f64> = found
        .as_object()
        .unwrap()
        .values()
        .map(|it| it["train-s"]["value"].as_f64().unwrap())
        .collect();
    assert_eq!(seconds, [3.0, 1.0, 2.0]);
}

#[test]
fn csv_has_the_digits_that_were_measured_and_no_0_that_nobody_measured() {
    let summary = summary_of(&[
        serde_json::json!({"timing": {"train_s": 1.5 + 0.051486}, "metrics": {"peak_memory_mb": 0.0}}),
    ]);
    let mut bytes = Vec::new();
    export::csv(&summary, &mut bytes).unwrap();
    let mut reader = ::csv::Reader::from_reader(&bytes[..]);
    let heads = reader.headers().unwrap().clone();
    let row = reader.records().next().unwrap().unwrap();
    let cell = |name: &str| &row[heads.iter().position(|it| it == name).unwrap()];
    assert_eq!(cell("train_s"), "1.551486");
    assert_eq!(cell("peak_memory_mb"), "");
    assert_eq!(cell("timestamp"), "2024-03-15T14:30:22");
}

#[test]
fn empty_columns_keep_their_type_in_parquet_and_a_timestamp_is_a_time() {
    let mut bytes = Vec::new();
    table::write(&summary_of(&[serde_json::json!({})]), &mut bytes).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let schema = reader.metadata().file_metadata().schema_descr();
    let types = |name: &str| {
        let column = schema.columns().iter().find(|it| it.name() == name).unwrap();
        (column.physical_type(), column.logical_type_ref().cloned())
    };
    for figure in ["train_s", "device_peak_mb", "a_b", "speed_up", "target"] {
        assert_eq!(types(figure), (Type::DOUBLE, None), "{figure}");
    }
    assert_eq!(types("rank"), (Type::INT64, None));
    let time = |utc| Some(LogicalType::timestamp(utc, parquet::basic::TimeUnit::MICROS));
    assert_eq!(types("started"), (Type::INT64, time(true)));
    assert_eq!(types("timestamp"), (Type::INT64, time(false)));
    let row = reader.get_row_iter(None).unwrap().next().unwrap().unwrap();
    let value = |name: &str| row.get_column_iter().find(|(it, _)| *it == name).unwrap().1.clone();
    assert_eq!(value("timestamp"), Field::TimestampMicros(1_710_513_022_000_000));
    assert_eq!(value("train_s"), Field::Null);
}

/// What a Python program with the packages says of a file; `None`, loudly, where they are not there.
/// `$TRAINMARK_READERS` is the interpreter of an environment that has them.
fn python(packages: &str, program: &str, input: &[u8]) -> Option<String> {
    let interpreter = std::env::var("TRAINMARK_READERS").unwrap_or_else(|_| "python3".to_owned());
    let imports = format!("import {packages}");
    let there = Command::new(&interpreter).args(["-c", &imports]).stderr(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        let required = std::env::var_os("TRAINMARK_READERS").is_some();
        assert!(!required, "$TRAINMARK_READERS cannot {imports}");
        skip::skipped(format!("no python3 that can {imports}: not read by the program it is for"));
        return None;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), input).unwrap();
    let output = Command::new(&interpreter)
        .args(["-c", &format!("import sys, {packages}\nname = sys.argv[1]\n{program}")])
        .arg(file.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

#[test]
fn duckdb_reads_the_parquet_with_sensible_types() {
    let mut bytes = Vec::new();
    table::write(&summary("run"), &mut bytes).unwrap();
    let program = r#"
rows = duckdb.read_parquet(name)
types = dict(zip(rows.columns, map(str, rows.types)))
wanted = ["model", "config.epochs", "train_s", "compiled", "started"]
print(*[types[column] for column in wanted])
print(duckdb.sql("select model, min(train_s) > 0 from rows where status = 'measured' group by 1").fetchall())
"#;
    if let Some(said) = python("duckdb", program, &bytes) {
        assert_eq!(said, "VARCHAR BIGINT DOUBLE BOOLEAN TIMESTAMP WITH TIME ZONE\n[('mlp', True)]");
    }
}

#[test]
fn pandas_and_polars_read_the_parquet_with_sensible_types() {
    let mut bytes = Vec::new();
    table::write(&summary("run"), &mut bytes).unwrap();
    let program = r#"
columns = ["config.epochs", "train_s", "started"]
print(*[polars.read_parquet(name).schema[column] for column in columns])
print(*[pandas.read_parquet(name).dtypes[column] for column in columns])
"#;
    if let Some(said) = python("pandas, polars, pyarrow", program, &bytes) {
        let (polars, pandas) = said.split_once('\n').unwrap();
        assert_eq!(polars, "Int64 Float64 Datetime(time_unit='us', time_zone='UTC')");
        assert!(pandas.contains("int64") && pandas.contains("float64"), "{pandas}");
        assert!(pandas.contains("datetime64[us, UTC]"), "{pandas}");
    }
}

#[test]
fn prometheus_parser_accepts_the_openmetrics() {
    let text = written(|it, to| openmetrics::write(it, to), "mixed");
    let program = r#"
from prometheus_client.openmetrics.parser import text_string_to_metric_families
families = list(text_string_to_metric_families(open(name).read()))
print(*[family.name for family in families])
print(all(len({tuple(sorted(s.labels.items())) for s in f.samples}) == len(f.samples) for f in families))
"#;
    if let Some(said) = python("prometheus_client", program, text.as_bytes()) {
        assert!(
            said.starts_with("trainmark_training_time_seconds trainmark_peak_memory_bytes"),
            "{said}"
        );
        assert!(said.ends_with("\nTrue"), "{said}");
    }
}
