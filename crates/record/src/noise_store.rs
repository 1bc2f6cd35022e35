//! The folder of noise records, in the user's state folder: one file for each row and machine, of which the newest
//! replaces the older one.

use crate::noise::{NoiseRecord, SCHEMA_VERSION};
use crate::{state, write};
use measure::machine::Machine;
use std::path::{Path, PathBuf};

/// Keeps a record. Returns its file.
///
/// # Errors
/// If there is no home directory or the disk refuses.
pub fn keep(record: &NoiseRecord) -> std::io::Result<PathBuf> {
    let none = || std::io::Error::other("there is no home directory");
    keep_in(&state::folder("noise").ok_or_else(none)?, record)
}

/// All records of this machine, in no order; those that cannot be read are passed over: noise is
/// measured again in a minute.
pub fn of_machine(machine: &Machine) -> Vec<NoiseRecord> {
    state::folder("noise").map(|folder| read_from(&folder, machine)).unwrap_or_default()
}

fn keep_in(folder: &Path, record: &NoiseRecord) -> std::io::Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let hardware = hardware(&record.machine);
    let row = format!("{}\n{}\n{}\n{hardware}", record.executable, record.model, record.backend);
    let digest = measure::provenance::sha256_of_bytes(row.as_bytes());
    let path = folder.join(format!("{}.json", &digest[..16]));
    write::replace(&path, record)?;
    Ok(path)
}

fn read_from(folder: &Path, machine: &Machine) -> Vec<NoiseRecord> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let paths = paths.filter(|path| path.extension().is_some_and(|it| it == "json"));
    let read = |path: PathBuf| -> Option<NoiseRecord> {
        serde_json::from_slice(&files::read(&path, files::Kind::NOTE).ok()?).ok()
    };
    let is_of_machine = |record: &NoiseRecord| {
        record.schema_version == SCHEMA_VERSION && hardware(&record.machine) == hardware(machine)
    };
    paths.filter_map(read).filter(is_of_machine).collect()
}

/// What makes a machine another one for its noise: folders of users are shared between machines,
/// so the name counts too.
fn hardware(machine: &Machine) -> String {
    let Machine { hostname, cpu, cores, threads, architecture, gpus, .. } = machine;
    format!("{hostname:?} {cpu:?} {cores:?} {threads:?} {architecture:?} {gpus:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_record_of_a_row_replaces_the_one_before_and_machines_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let machine = |cpu: &str| Machine { cpu: Some(cpu.into()), ..Machine::default() };
        let record = |cpu: &str, model: &str, measured: &str| NoiseRecord {
            schema_version: SCHEMA_VERSION,
            machine: machine(cpu),
            model: model.into(),
            measured: measured.into(),
            ..NoiseRecord::default()
        };
        for (cpu, model, measured) in
            [("A", "mlp", "1"), ("A", "mlp", "2"), ("A", "cnn", "1"), ("B", "mlp", "1")]
        {
            keep_in(folder.path(), &record(cpu, model, measured)).unwrap();
        }
        std::fs::write(folder.path().join("broken.json"), "{").unwrap();
        let mut found = read_from(folder.path(), &machine("A"));
        found.sort_by(|a, b| a.model.cmp(&b.model));
        assert_eq!(found, [record("A", "cnn", "1"), record("A", "mlp", "2")]);
        assert_eq!(read_from(folder.path(), &machine("C")), []);
    }
}
