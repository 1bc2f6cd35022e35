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
