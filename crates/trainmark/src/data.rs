//! The data of a run: found, named and hashed once, before any training.
//!
//! A task's data lies where its suite says or, if the task says `[find]`, in one of several usual places; where
//! there are none, data that the program draws may stand in. Files are hashed as streams.

use crate::content::{digest_of_content, file_in, files_below};
use crate::suite::LoadedSuite;
use crate::task::{Download, Find, Task};
use anyhow::{Context, Result, anyhow, bail, ensure};
use measure::provenance::{digest_of_file, hexadecimal};
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::{Path, PathBuf};

/// Bytes whose reading takes some seconds, or minutes over a network: that is said before it.
const MUCH: u64 = 1_000_000_000;

/// Data that has been found and hashed, or none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    /// The file or the folder that trainers are given; empty for a task without data.
    pub directory: PathBuf,
    pub name: String,
    /// The SHA-256 of a file, or of several files as METHOD.md defines it.
    pub sha256: String,
    /// How it was found, in words.
    pub found_by: &'static str,
}

/// For the head of a run.
impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.given() {
            Some((name, _)) => {
                write!(f, "{name} in {} ({})", self.directory.display(), self.found_by)
            }
            None => f.write_str("none"),
        }
    }
}

impl Dataset {
    /// Name and digest, if there is any.
    pub fn given(&self) -> Option<(&str, &str)> {
        (!self.sha256.is_empty()).then_some((&*self.name, &*self.sha256))
    }
}

/// Finds and hashes the data of a suite; the value of `--data`, if there was one, is `explicit`.
///
/// # Errors
/// If it is not where the suite or the user says.
pub fn prepare(loaded: &LoadedSuite, explicit: Option<&Path>) -> Result<Dataset> {
    let task = loaded.suite.task();
    match find(loaded, explicit)? {
        None => Ok(Dataset::default()),
        Some(found) if task.find.is_some() => known(task, found),
        Some(Found { given: directory, name, found_by, .. }) => {
            let sha256 = digest(task, &directory)?;
            Ok(Dataset { directory, name, sha256, found_by })
        }
    }
}

/// Where the data is, if the task has any: nothing is read or drawn.
///
/// # Errors
/// If it is not where the suite or the user says.
pub fn place(loaded: &LoadedSuite, explicit: Option<&Path>) -> Result<Option<PathBuf>> {
    Ok(find(loaded, explicit)?.map(|found| found.given))
}

fn find(loaded: &LoadedSuite, explicit: Option<&Path>) -> Result<Option<Found>> {
    let task = loaded.suite.task();
    let explicit = explicit.filter(|path| !path.as_os_str().is_empty());
    if let Some(find) = &task.find {
        return locate(loaded, find, explicit).map(Some);
    }
    if task.data.is_empty() {
        ensure!(explicit.is_none(), "--data: the task {:?} has no data", task.name);
        return Ok(None);
    }
    let paths: Vec<PathBuf> = task.data.iter().map(|path| loaded.folder.join(path)).collect();
    let (given, found_by) = match (explicit, &paths[..]) {
        (Some(explicit), _) => (absolute(explicit), "--data"),
        (None, [only]) => (only.clone(), "the suite"),
        (None, several) => {
            let common = common_folder(several);
            (common.context("the files of `data` have no common folder")?, "the suite")
        }
    };
    let fetch = match task.files.is_empty() {
        true => String::new(),
        false => format!("; `trainmark fetch --suite {}` downloads it", loaded.named()),
    };
    ensure!(given.exists(), "the data {} is not there{fetch}", given.display());
    Ok(Some(Found { given, files: Vec::new(), name: task.name.clone(), found_by }))
}

/// Data that has been found.
struct Found {
    /// The folder or, of a task with one file, the file; of data that are still to be drawn, their name.
    given: PathBuf,
    /// Those in one of the usual places; none of data that are still to be drawn: they are not written before they
    /// are needed.
    files: Vec<PathBuf>,
    /// Its name, unless its bytes are known.
    name: String,
    found_by: &'static str,
}

impl Found {
    fn to_be_drawn(name: &str, found_by: &'static str) -> Found {
        Found { given: name.into(), files: Vec::new(), name: name.to_owned(), found_by }
    }
}

/// In order: `--data`, the suite's own, `$TRAINMARK_DATA`, `./data`, the user's cache, what stands in. If one of
/// the first three holds no data, that is an error, and nothing else is tried.
fn locate(loaded: &LoadedSuite, find: &Find, explicit: Option<&Path>) -> Result<Found> {
    let task = loaded.suite.task();
    if let Some(chosen) = explicit {
        return choose(task, find, chosen, "--data");
    }
    if let Some(own) = task.data.first() {
        let found = choose(task, find, &loaded.folder.join(own), "the suite")?;
        return Ok(Found { name: task.name.clone(), ..found });
    }
    if let Some(chosen) = std::env::var_os(protocol::env::DATA).filter(|it| !it.is_empty()) {
        return choose(task, find, Path::new(&chosen), "$TRAINMARK_DATA");
    }
    let partly = || format!("./data has only a part of {}", task.name);
    if let Some(found) = search(task, find, Path::new("data"), "./data").with_context(partly)? {
        return Ok(found);
    }
    // A cache with a part of the files is a download that was interrupted: not a choice.
    let cache = files::cache_directory();
    if let Some(Ok(Some(found))) = cache.map(|it| search(task, find, &it, "the user's cache")) {
        return Ok(found);
    }
    let Some(name) = &find.stand_in else {
        bail!("the data of the task {:?} is not here; {}", task.name, fetch_hint(task));
    };
    Ok(Found::to_be_drawn(name, "no other data was found"))
}

fn fetch_hint(task: &Task) -> String {
    format!("`trainmark fetch --task {}` downloads it", task.name)
}

fn choose(task: &Task, find: &Find, chosen: &Path, found_by: &'static str) -> Result<Found> {
    // As a word: with a slash behind it, it is a folder.
    if let Some(name) = find.stand_in.as_ref().filter(|name| chosen.as_os_str() == name.as_str()) {
        return Ok(Found::to_be_drawn(name, found_by));
    }
    if let ([_], true) = (&task.files[..], chosen.is_file()) {
        let (given, files) = (absolute(chosen), vec![chosen.to_owned()]);
        return Ok(Found { given, files, name: name_of(chosen), found_by });
    }
    let named = || format!("{found_by} {}", chosen.display());
    let partly = search(task, find, chosen, found_by);
    let partly = partly.with_context(|| format!("{}: the data is incomplete", named()));
    if let Some(found) = partly.map_err(|it| anyhow!("{it:#}; {}", fetch_hint(task)))? {
        return Ok(found);
    }
    let (named, names) = (named(), names(task));
    let or = |it: &String| format!(", or choose `{it}`, which needs no files");
    let stand_in = find.stand_in.as_ref().map_or(String::new(), or);
    if !chosen.exists() {
        bail!("{named}: does not exist; name a folder that contains {names}{stand_in}");
    }
    let (folders, fetch) = (find.folders.join(", "), fetch_hint(task));
    bail!(
        "{named}: has no data of {}: looked for {names} there and in {folders}; {fetch}{stand_in}",
        task.name
    )
}

fn names(task: &Task) -> String {
    let names: Vec<String> =
        task.files.iter().filter_map(|it| Some(it.path.as_ref()?.display().to_string())).collect();
    names.join(", ")
}

/// Looks in a folder and in those that the task names; the first that has any of the files decides.
///
/// # Errors
/// Says which files are missing if it has only some of them.
fn search(
    task: &Task,
    find: &Find,
    directory: &Path,
    found_by: &'static str,
) -> Result<Option<Found>> {
    for folder in &find.folders {
        let folder = directory.join(folder);
        let paths = || task.files.iter().filter_map(|file| file.path.as_deref());
        let files: Vec<PathBuf> = paths().filter_map(|name| file_in(&folder, name)).collect();
        if files.len() == task.files.len() {
            let given = if let [only] = &files[..] { absolute(only) } else { absolute(&folder) };
            return Ok(Some(Found { name: name_of(&given), given, files, found_by }));
        }
        if !files.is_empty() {
            let missing = paths().filter(|name| file_in(&folder, name).is_none());
            let missing: Vec<String> = missing.map(|name| name.display().to_string()).collect();
            bail!("{} missing in {}", missing.join(", "), folder.display());
        }
    }
    Ok(None)
}

/// The plain name of a file, without its extension, or of a folder.
fn name_of(path: &Path) -> String {
    let resolved = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = if resolved.is_file() { resolved.file_stem() } else { resolved.file_name() };
    files::plain_name(name.unwrap_or_default())
}

/// Draws it, if it is to be drawn, and finds out what it is: only the right bytes bear a name that the task
/// knows.
fn known(task: &Task, found: Found) -> Result<Dataset> {
    let Found { given: mut directory, mut files, name, found_by } = found;
    if files.is_empty() {
        // Trainers in other languages read files.
        let cache = files::cache_directory();
        let cache = cache.unwrap_or_else(|| std::env::temp_dir().join("trainmark"));
        let drawn = stock::draw(&name, &cache);
        let drawn = drawn.with_context(|| format!("this program cannot draw {name:?}"))?;
        directory = absolute(&drawn.map_err(|error| anyhow!(error))?);
        let inside = |file: &Download| file_in(&directory, file.path.as_ref()?);
        files = match directory.is_file() {
            true => vec![directory.clone()],
            false => task.files.iter().filter_map(inside).collect(),
        };
    }
    let digests: Vec<String> =
        files.iter().map(|file| digest_of_content(file)).collect::<Result<_>>()?;
    let sha256 = match &digests[..] {
        [only] => only.clone(),
        several => hexadecimal(&Sha256::digest(several.join("\n"))),
    };
    let known =
        task.datasets.iter().find(|(_, known)| **known == sha256).map(|(name, _)| name.clone());
    let reserved = task.datasets.contains_key(&name);
    let name = known.unwrap_or(if reserved { format!("not-{name}") } else { name });
    Ok(Dataset { directory, name, sha256, found_by })
}

/// The deepest folder that holds all of these.
fn common_folder(paths: &[PathBuf]) -> Option<PathBuf> {
    let holds_all = |folder: &&Path| paths.iter().all(|path| path.starts_with(folder));
    paths.first()?.parent()?.ancestors().find(holds_all).map(Path::to_owned)
}

/// Of one file the SHA-256 of its bytes, which trainers and other programs find too; of several, over the
/// names and bytes of all, in the order of their names.
fn digest(task: &Task, place: &Path) -> Result<String> {
    let common = common_folder(&task.data).unwrap_or_default();
    let within = |path: &PathBuf| place.join(path.strip_prefix(&common).unwrap_or(path));
    let places = match &task.data[..] {
        [_] => vec![place.to_owned()],
        // Of a list, these files and no others.
        several => several.iter().map(within).collect(),
    };
    let mut files = Vec::new();
    for place in places {
        let cannot = || format!("the data {} cannot be read", place.display());
        files.extend(files_below(&place, &|_| true).with_context(cannot)?);
    }
    let folder = if place.is_dir() { place } else { place.parent().unwrap_or(place) };
    let named = |file: PathBuf| {
        let name = file.strip_prefix(folder).unwrap_or(&file).to_string_lossy().replace('\\', "/");
        (name, file)
    };
    let mut files: Vec<(String, PathBuf)> = files.into_iter().map(named).collect();
    files.sort();
    let lengths = files.iter().filter_map(|(_, file)| file.metadata().ok());
    let bytes: u64 = lengths.map(|it| it.len()).sum();
    if bytes >= MUCH {
        eprintln!("Reading {:.1} GB of data", bytes as f64 / 1e9);
    }
    let mut all = Sha256::new();
    for (name, file) in files {
        let cannot = || format!("the data {} cannot be read", file.display());
        let own = digest_of_file(&file).with_context(cannot)?;
        if place.is_file() {
            return Ok(hexadecimal(&own));
        }
        all.update((name.len() as u64).to_le_bytes());
        all.update(name);
        all.update(own);
    }
    Ok(hexadecimal(&all.finalize()))
}

/// Trainers run in another folder than the harness.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset(folder: &Path, data: &str) -> Result<Dataset> {
        let suite = folder.join("suite.toml");
        std::fs::write(
            &suite,
            format!(
                "name = \"s\"\n[task]\nname = \"t\"\n{data}\n[[trainers]]\nname = \"T\"\nprogram = \"p\"\n\
                 command = [\"p\"]\nbackends = [\"cpu\"]\nmodels.m = {{ prefix = \"m\" }}\n"
            ),
        )
        .unwrap();
        prepare(&LoadedSuite::find(Some(&suite))?, None)
    }

    #[test]
    fn the_digest_is_over_names_and_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (table, other) = (folder.path().join("table"), folder.path().join("other"));
        std::fs::create_dir_all(table.join("deep")).unwrap();
        std::fs::write(table.join("a"), "1").unwrap();
        std::fs::write(table.join("deep/b"), "2").unwrap();
        let first = dataset(folder.path(), "data = \"table\"").unwrap();
        assert_eq!(
            (first.name.as_str(), first.directory.file_name().unwrap()),
            ("t", "table".as_ref())
        );
        std::fs::rename(&table, &other).unwrap();
        let moved = dataset(folder.path(), "data = \"other\"").unwrap();
        assert_eq!(first.sha256, moved.sha256);
        let listed = dataset(folder.path(), "data = [\"other/a\", \"other/deep/b\"]").unwrap();
        assert_eq!((&listed.sha256, listed.directory), (&first.sha256, moved.directory));
        std::fs::write(other.join("a"), "2").unwrap();
        assert_ne!(dataset(folder.path(), "data = \"other\"").unwrap().sha256, first.sha256);
        std::fs::write(other.join("a"), "1").unwrap();
        std::fs::rename(other.join("a"), other.join("c")).unwrap();
        assert_ne!(dataset(folder.path(), "data = \"other\"").unwrap().sha256, first.sha256);
    }

    #[test]
    fn the_digest_of_one_file_is_that_of_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("text"), "abc").unwrap();
        let found = dataset(folder.path(), "data = \"text\"").unwrap();
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(found.sha256, expected);
    }

    #[test]
    fn no_data_is_none_and_missing_data_names_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(dataset(folder.path(), "").unwrap().given(), None);
        let files = format!(
            "data = \"x.bin\"\nfiles = [{{ url = \"u\", sha256 = \"{}\" }}]",
            "a".repeat(64)
        );
        let missing = dataset(folder.path(), &files).unwrap_err().to_string();
        assert!(missing.contains("x.bin is not there; `trainmark fetch --suite "), "{missing}");
    }

    #[test]
    fn usual_places_are_tried_and_only_the_right_bytes_bear_a_known_name() {
        let folder = tempfile::tempdir().unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let both = hexadecimal(&Sha256::digest([abc, abc].join("\n")));
        let task = format!(
            "find = {{ folders = [\"\", \"deep\"] }}\ndatasets = {{ letters = \"{both}\" }}\n\
             files = [{{ path = \"a\" }}, {{ path = \"b\" }}]"
        );
        let at = |place: &str| {
            let own = format!("data = \"{place}\"\n{task}");
            dataset(folder.path(), &own)
        };
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        };
        write("letters/deep/a", b"abc");
        let part = at("letters").unwrap_err().to_string();
        assert!(part.contains("incomplete: b missing"), "{part}");
        // Compressed, it is the same file.
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, b"abc").unwrap();
        write("letters/deep/b.gz", &encoder.finish().unwrap());
        let found = at("letters").unwrap();
        assert_eq!((found.name.as_str(), &found.sha256), ("letters", &both));
        assert!(found.directory.ends_with("letters/deep"));
        write("other/a", b"abc");
        write("other/b", b"abd");
        assert_eq!(at("other").unwrap().name, "t", "the suite's own");
        let nothing = at("nowhere").unwrap_err().to_string();
        assert!(nothing.contains("does not exist; name a folder that contains a, b"), "{nothing}");
    }
}
