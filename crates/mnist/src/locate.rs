//! Where the data is.
//!
//! In order: what the user chose (`--data DIR`), `$TRAINMARK_DATA`, `./data`, the user's cache (where
//! `trainmark fetch` puts MNIST), and at last the embedded [`digits`]. The first two are explicit: if
//! such a folder has no dataset, that is an error, and nothing else is tried. The word `digits` in
//! their place chooses the embedded dataset; a folder of that name is `./digits`.

use crate::identity::FILES;
use crate::{Dataset, Error, Split, digits, idx};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// The word that chooses the embedded dataset.
pub const EMBEDDED: &str = "digits";

/// Within a chosen folder: itself, or where others put MNIST in it (torchvision: `MNIST/raw`).
const SUBFOLDERS: [&str; 3] = ["", "mnist", "MNIST/raw"];

/// A dataset that was found and not yet read.
#[derive(Clone, Debug)]
pub struct Source {
    place: Place,
    found_by: &'static str,
}

#[derive(Clone, Debug)]
enum Place {
    Folder { directory: PathBuf, files: [PathBuf; 4] },
    Embedded,
}

/// The settings that decide where the data is: those of the process, or of a test.
struct Surroundings {
    variable: Option<OsString>,
    working: PathBuf,
    cache: Option<PathBuf>,
}

impl Source {
    /// Finds the data; see the order at the head of this module. `explicit` is the value of
    /// `--data`. Nothing is read yet.
    ///
    /// # Errors
    /// If an explicit choice holds no dataset, or if `./data` holds a part of one.
    pub fn locate(explicit: Option<&Path>) -> Result<Self, Error> {
        Surroundings {
            variable: std::env::var_os(protocol::env::DATA).filter(|value| !value.is_empty()),
            working: PathBuf::from("data"),
            cache: files::cache_directory(),
        }
        .locate(explicit)
    }

    /// The dataset in one folder, or in its subfolder `mnist` or `MNIST/raw`.
    ///
    /// # Errors
    /// If there is none, or not all of it.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        choose("the folder", directory)
    }

    /// The digits, which need no files.
    pub fn embedded() -> Self {
        Self { place: Place::Embedded, found_by: "the program itself" }
    }

    /// The folder of the four files; `None` if the dataset is embedded.
    pub fn directory(&self) -> Option<&Path> {
        match &self.place {
            Place::Folder { directory, .. } => Some(directory),
            Place::Embedded => None,
        }
    }

    /// How it was found: `--data`, `$TRAINMARK_DATA`, `./data`, `the user's cache`, ...
    pub fn found_by(&self) -> &'static str {
        self.found_by
    }

    /// Reads all four files, in parallel, or draws the digits. Plain files are mapped.
    ///
    /// Nothing is hashed: [`Dataset::sha256`] is `None`, and [`Dataset::name`] is the folder's name
    /// (or `digits` if embedded) until [`Dataset::identify`] has been called. MNIST from gzip takes
    /// some 40 ms, from plain files less than one.
    ///
    /// # Errors
    /// If a file is missing, damaged, or not what its name says; the message names it.
    pub fn load(&self) -> Result<Dataset, Error> {
        let Place::Folder {
            directory,
            files: [train_images, train_labels, test_images, test_labels],
        } = &self.place
        else {
            return Ok(digits::generate());
        };
        let (train, test) = std::thread::scope(|scope| {
            let test = scope.spawn(|| load_split(test_images, test_labels));
            let train = load_split(train_images, train_labels);
            // Reading reports what is wrong and does not panic.
            (train, test.join().unwrap())
        });
        Ok(Dataset { name: folder_name(directory), sha256: None, train: train?, test: test? })
    }
}

/// Where it is and what led there, for messages: `/data/mnist (--data)`.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Folder { directory, .. } => {
                write!(f, "{} ({})", directory.display(), self.found_by)
            }
            Place::Embedded => write!(f, "embedded digits ({})", self.found_by),
        }
    }
}

impl Surroundings {
    fn locate(&self, explicit: Option<&Path>) -> Result<Source, Error> {
        if let Some(chosen) = explicit {
            return choose("--data", chosen);
        }
        if let Some(chosen) = &self.variable {
            return choose("$TRAINMARK_DATA", Path::new(chosen));
        }
        match search(&self.working) {
            Search::Found(source) => return Ok(Source { found_by: "./data", ..source }),
            Search::Partial { reason } => {
                let path = self.working.clone();
                return Err(Error::NotFound { chosen_by: "found by itself:", path, reason });
            }
            Search::Nothing => {}
        }
        // A cache with a part of the files is a download that was interrupted: not a choice.
        if let Some(Search::Found(source)) = self.cache.as_deref().map(search) {
            return Ok(Source { found_by: "the user's cache", ..source });
        }
        Ok(Source { found_by: "no other data was found", ..Source::embedded() })
    }
}

fn choose(chosen_by: &'static str, chosen: &Path) -> Result<Source, Error> {
    // As a word: `digits/` is a folder.
    if chosen.as_os_str() == EMBEDDED {
        return Ok(Source { found_by: chosen_by, ..Source::embedded() });
    }
    let reason = match search(chosen) {
        Search::Found(source) => return Ok(Source { found_by: chosen_by, ..source }),
        Search::Partial { reason } => reason,
        Search::Nothing if !chosen.is_dir() => {
            let what = if chosen.exists() { "is not a folder" } else { "does not exist" };
            format!("{what}; name a folder that holds {} and its three companions", FILES[0])
        }
        Search::Nothing => format!(
            "holds no dataset: looked for {}, {}, {} and {} (also with .gz, or with .idx for -idx), \
             there and in mnist/ and MNIST/raw/; get MNIST with `trainmark fetch`, or choose \
             `{EMBEDDED}`, which needs no files",
            FILES[0], FILES[1], FILES[2], FILES[3]
        ),
    };
    Err(Error::NotFound { chosen_by, path: chosen.to_path_buf(), reason })
}

enum Search {
    Found(Source),
    Partial { reason: String },
    Nothing,
}

/// Looks in a folder and its usual subfolders; the first that has any of the files decides.
fn search(directory: &Path) -> Search {
    for subfolder in SUBFOLDERS {
        // Joining "" would append a slash.
        let folder =
            if subfolder.is_empty() { directory.to_path_buf() } else { directory.join(subfolder) };
        let found = FILES.map(|name| find_file(&folder, name));
        if let [Some(a), Some(b), Some(c), Some(d)] = found {
            let place = Place::Folder { directory: folder, files: [a, b, c, d] };
            return Search::Found(Source { place, found_by: "" });
        }
        if found.iter().any(Option::is_some) {
            let missing: Vec<_> =
                FILES.iter().zip(&found).filter(|(_, path)| path.is_none()).collect();
            let missing: Vec<_> = missing.into_iter().map(|(name, _)| *name).collect();
            let within = if subfolder.is_empty() { "" } else { " in " };
            return Search::Partial {
                reason: format!(
                    "the dataset{within}{subfolder} is incomplete: {} missing; copy what is missing, \
                     or get all with `trainmark fetch`",
                    missing.join(", ")
                ),
            };
        }
    }
    Search::Nothing
}

/// A dataset's file under any of its names; plain before compressed, since it need not be unpacked.
/// Some archives hold a folder under one name and the file under another.
pub fn find_file(folder: &Path, name: &str) -> Option<PathBuf> {
    let dotted = name.replace("-idx", ".idx");
    let names = [name.to_owned(), dotted.clone(), format!("{name}.gz"), format!("{dotted}.gz")];
    let existing = || names.iter().map(|name| folder.join(name)).filter(|path| path.exists());
    existing().find(|path| !path.is_dir()).or_else(|| existing().next())
}

fn load_split(image_path: &Path, label_path: &Path) -> Result<Split, Error> {
    let labels = idx::read_labels(label_path)?;
    let images = idx::read_images(image_path)?;
    Split::from_pixels(images, labels).map_err(|(images, labels)| Error::Unpaired {
        image_path: image_path.to_path_buf(),
        images,
        label_path: label_path.to_path_buf(),
        labels,
    })
}

/// A folder's own name, made plain.
fn folder_name(directory: &Path) -> String {
    let resolved = directory.canonicalize().unwrap_or_else(|_| directory.to_path_buf());
    files::plain_name(resolved.file_name().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PIXELS;
    use crate::identity::KINDS;
    use std::fs;

    /// Writes a dataset of `train` and 2 images, under names that `rename` makes.
    fn write(folder: &Path, train: usize, rename: fn(&str) -> String) {
        fs::create_dir_all(folder).unwrap();
        for (index, name) in FILES.iter().enumerate() {
            let count = if index < 2 { train } else { 2 };
            let kind = KINDS[index];
            let data = vec![5; if kind == idx::Kind::Images { count * PIXELS } else { count }];
            fs::write(folder.join(rename(name)), [kind.header(count), data].concat()).unwrap();
        }
    }

    fn plain(folder: &Path, train: usize) {
        write(folder, train, str::to_owned);
    }

    /// Surroundings within a folder of its own: nothing there yet.
    fn surroundings(root: &Path) -> Surroundings {
        let cache = Some(root.join("cache"));
        Surroundings { variable: None, working: root.join("data"), cache }
    }

    #[test]
    fn places_are_tried_in_the_documented_order() {
        let root = tempfile::tempdir().unwrap();
        let mut around = surroundings(root.path());
        let found = |around: &Surroundings, explicit: Option<&Path>| {
            let source = around.locate(explicit).unwrap();
            (source.load().unwrap().train.len(), source.found_by())
        };
        assert_eq!(found(&around, None), (60_000, "no other data was found"));
        plain(&root.path().join("cache/mnist"), 4);
        assert_eq!(found(&around, None), (4, "the user's cache"));
        plain(&root.path().join("data/mnist"), 3);
        assert_eq!(found(&around, None), (3, "./data"));
        plain(&root.path().join("variable"), 2);
        around.variable = Some(root.path().join("variable").into());
        assert_eq!(found(&around, None), (2, "$TRAINMARK_DATA"));
        let explicit = root.path().join("explicit");
        plain(&explicit, 1);
        assert_eq!(found(&around, Some(&explicit)), (1, "--data"));
        assert_eq!(found(&around, Some(Path::new("digits"))), (60_000, "--data"));
        around.variable = Some("digits".into());
        assert_eq!(found(&around, None), (60_000, "$TRAINMARK_DATA"));
    }

    #[test]
    fn an_explicit_choice_without_data_is_an_error_and_never_something_else() {
        let root = tempfile::tempdir().unwrap();
        let mut around = surroundings(root.path());
        plain(&root.path().join("data"), 3);
        let empty = root.path().join("empty");
        fs::create_dir(&empty).unwrap();
        let message = around.locate(Some(&empty)).unwrap_err().to_string();
        assert!(message.starts_with(&format!("--data {}: holds no dataset", empty.display())));
        assert!(FILES.iter().all(|name| message.contains(name)) && !message.contains('\n'));
        let message = around.locate(Some(Path::new("./digits"))).unwrap_err().to_string();
        assert!(message.starts_with("--data ./digits: does not exist"), "{message}");
        around.variable = Some(root.path().join("data/train-images-idx3-ubyte").into());
        let message = around.locate(None).unwrap_err().to_string();
        assert!(message.starts_with("$TRAINMARK_DATA ") && message.contains("is not a folder"));
    }

    #[test]
    fn a_part_of_a_dataset_is_an_error_except_in_the_cache() {
        let root = tempfile::tempdir().unwrap();
        let around = surroundings(root.path());
        plain(&root.path().join("cache/mnist"), 4);
        fs::remove_file(root.path().join("cache/mnist/t10k-labels-idx1-ubyte")).unwrap();
        assert_eq!(around.locate(None).unwrap().directory(), None);
        plain(&root.path().join("data"), 4);
        fs::remove_file(root.path().join("data/t10k-labels-idx1-ubyte")).unwrap();
        let message = around.locate(None).unwrap_err().to_string();
        assert!(message.contains("incomplete: t10k-labels-idx1-ubyte missing"), "{message}");
    }

    #[test]
    fn both_styles_of_names_are_found_compressed_or_not() {
        let root = tempfile::tempdir().unwrap();
        let styles: [fn(&str) -> String; 4] = [
            |name| name.to_owned(),
            |name| name.replace("-idx", ".idx"),
            |name| format!("{name}.gz"),
            |name| format!("{}.gz", name.replace("-idx", ".idx")),
        ];
        for (style, rename) in styles.into_iter().enumerate() {
            let folder = root.path().join(style.to_string());
            write(&folder, 6, rename); // a .gz that is plain is read as what it is
            assert_eq!(Source::open(&folder).unwrap().load().unwrap().train.len(), 6);
        }
        // Kaggle's archive has a folder under the one name and the file under the other.
        let folder = root.path().join("1");
        fs::create_dir(folder.join(FILES[0])).unwrap();
        assert_eq!(Source::open(&folder).unwrap().load().unwrap().train.len(), 6);
        let torchvision = root.path().join("torchvision");
        plain(&torchvision.join("MNIST/raw"), 7);
        assert_eq!(Source::open(&torchvision).unwrap().load().unwrap().train.len(), 7);
    }

    #[test]
    fn images_and_labels_that_differ_in_number_are_an_error_that_names_both() {
        let root = tempfile::tempdir().unwrap();
        plain(root.path(), 4);
        let labels = [idx::Kind::Labels.header(3), vec![1; 3]].concat();
        fs::write(root.path().join(FILES[1]), labels).unwrap();
        let error = Source::open(root.path()).unwrap().load().err().unwrap().to_string();
        assert!(error.contains(&format!("{} holds 4 images but ", FILES[0])), "{error}");
        assert!(error.contains(&format!("{} holds 3 labels", FILES[1])), "{error}");
    }

    #[test]
    fn the_name_is_the_folders_made_harmless() {
        let root = tempfile::tempdir().unwrap();
        for (folder, name) in [("fashion", "fashion"), ("a|b <i>", "a-b--i-"), ("|", "unnamed")] {
            let folder = root.path().join(folder);
            plain(&folder, 1);
            assert_eq!(Source::open(&folder).unwrap().load().unwrap().name, name);
        }
    }
}
