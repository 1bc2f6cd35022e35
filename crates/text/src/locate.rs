//! Where the text is.
//!
//! In order: what the user chose (`--data`), `$TRAINMARK_DATA`, `./data`, the user's cache, and at last
//! the embedded [`babble`]. The first two are explicit: if such a place has no text, that is an error, and
//! nothing else is tried. `--data` may also be the file itself, of any name and content, or one of the
//! words `babble` and `tokens` ([`synthetic`]); a file of that name is `./babble`.

use crate::{Error, Text, babble, synthetic};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// Tiny Shakespeare's file within a folder of data.
pub const SHAKESPEARE_FILE: &str = "tinyshakespeare.txt";
/// The files that a folder is looked through for, and the names of what they hold.
const FILES: [(&str, &str); 2] = [(SHAKESPEARE_FILE, "shakespeare"), (babble::FILE, babble::NAME)];

/// Within a chosen folder: itself, a folder for texts in it or beside it (the variable may name
/// MNIST's), or the task's own.
const SUBFOLDERS: [&str; 4] = ["", "text", "shakespeare", "../text"];

/// A text that was found and not yet read.
#[derive(Clone, Debug)]
pub struct Source {
    place: Place,
    found_by: &'static str,
}

#[derive(Clone, Debug)]
enum Place {
    File { path: PathBuf, name: String },
    Babble,
    Tokens,
}

/// The settings that decide where the text is: those of the process, or of a test.
struct Surroundings {
    variable: Option<OsString>,
    working: PathBuf,
    cache: Option<PathBuf>,
}

impl Source {
    /// Finds the text; see the order at the head of this module. `explicit` is the value of `--data`.
    /// Nothing is read yet.
    ///
    /// # Errors
    /// If an explicit choice holds no text.
    pub fn locate(explicit: Option<&Path>) -> Result<Self, Error> {
        Surroundings {
            variable: std::env::var_os(protocol::env::DATA).filter(|value| !value.is_empty()),
            working: PathBuf::from("data"),
            cache: files::cache_directory(),
        }
        .locate(explicit)
    }

    /// The babble, which needs no files.
    pub fn embedded() -> Self {
        Self { place: Place::Babble, found_by: "the program itself" }
    }

    /// Random tokens, for measuring speed alone.
    pub fn tokens() -> Self {
        Self { place: Place::Tokens, found_by: "the program itself" }
    }

    /// How it was found: `--data`, `$TRAINMARK_DATA`, `./data`, `the user's cache`, ...
    pub fn found_by(&self) -> &'static str {
        self.found_by
    }

    /// Reads the file, or draws the text.
    ///
    /// # Errors
    /// If the file cannot be read or is too short.
    pub fn load(&self) -> Result<Text, Error> {
        match &self.place {
            Place::File { path, name } => {
                let bytes =
                    std::fs::read(path).map_err(|cause| Error::io(path, "read it", cause))?;
                let unfit = |reason| Error::Unfit { path: path.clone(), reason };
                Text::from_bytes(name, &bytes).map_err(unfit)
            }
            Place::Babble => Ok(babble::text()),
            Place::Tokens => Ok(synthetic::text()),
        }
    }
}

/// Where it is and what led there, for messages: `/data/text/tinyshakespeare.txt (--data)`.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File { path, .. } => write!(f, "{} ({})", path.display(), self.found_by),
            Place::Babble => write!(f, "embedded babble ({})", self.found_by),
            Place::Tokens => write!(f, "random tokens ({})", self.found_by),
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
        let by_itself =
            [(Some(&self.working), "./data"), (self.cache.as_ref(), "the user's cache")];
        for (folder, found_by) in by_itself {
            if let Some(place) = folder.and_then(|folder| search(folder)) {
                return Ok(Source { place, found_by });
            }
        }
        Ok(Source { found_by: "no other text was found", ..Source::embedded() })
    }
}

fn choose(found_by: &'static str, chosen: &Path) -> Result<Source, Error> {
    // As words: `babble/` is a folder.
    let embedded = [(babble::NAME, Place::Babble), (synthetic::NAME, Place::Tokens)];
    for (word, place) in embedded {
        if chosen.as_os_str() == word {
            return Ok(Source { place, found_by });
        }
    }
    if chosen.is_file() {
        return Ok(Source { place: file(chosen), found_by });
    }
    if let Some(place) = search(chosen) {
        return Ok(Source { place, found_by });
    }
    let reason = match chosen.is_dir() {
        true => format!(
            "holds no text: looked for {SHAKESPEARE_FILE} there, in text/ and in ../text/; name a file, \
             or choose `{}`, which needs none",
            babble::NAME
        ),
        false => "does not exist; name a text file, or a folder that holds one".to_owned(),
    };
    Err(Error::NotFound { chosen_by: found_by, path: chosen.to_path_buf(), reason })
}

/// Looks in a folder and its usual neighbours.
fn search(directory: &Path) -> Option<Place> {
    let folders = SUBFOLDERS.map(|name| directory.join(name));
    let mut paths = FILES.iter().flat_map(|(file, _)| folders.iter().map(move |it| it.join(file)));
    paths.find(|path| path.is_file()).map(|path| file(&path))
}

/// A file, under the name that its bytes will have to earn, or its own without the extension.
fn file(path: &Path) -> Place {
    let own = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let name = match FILES.iter().find(|(file, _)| *file == own) {
        Some((_, name)) => (*name).to_owned(),
        None => files::plain_name(path.file_stem().unwrap_or_default()),
    };
    Place::File { path: path.to_path_buf(), name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn nowhere(folder: &Path) -> Surroundings {
        Surroundings { variable: None, working: folder.join("none"), cache: None }
    }

    #[test]
    fn a_choice_is_a_file_a_folder_or_a_word_and_else_an_error_that_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("my text.txt");
        fs::write(&path, "to be or not to be, that is the question").unwrap();
        let surroundings = nowhere(folder.path());
        let found = surroundings.locate(Some(&path)).unwrap();
        assert_eq!(found.load().unwrap().name, "my-text");
        let error = surroundings.locate(Some(folder.path())).unwrap_err().to_string();
        assert!(error.contains("holds no text") && error.contains("babble"), "{error}");
        let error = surroundings.locate(Some(Path::new("/no/such"))).unwrap_err().to_string();
        assert!(error.starts_with("--data /no/such: does not exist"), "{error}");
        let word = surroundings.locate(Some(Path::new("babble"))).unwrap();
        assert_eq!(word.to_string(), "embedded babble (--data)");
    }

    #[test]
    fn the_variable_may_name_mnists_folder_beside_that_of_the_texts() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["mnist", "text"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("text").join(SHAKESPEARE_FILE), [b'a'; 40]).unwrap();
        for variable in ["mnist", "text", ""] {
            let variable = Some(folder.path().join(variable).into_os_string());
            let source = Surroundings { variable, ..nowhere(folder.path()) }.locate(None).unwrap();
            assert_eq!(source.found_by(), "$TRAINMARK_DATA");
            assert_eq!(source.load().unwrap().name, "not-shakespeare");
        }
    }

    #[test]
    fn without_any_text_there_is_the_babble() {
        let folder = tempfile::tempdir().unwrap();
        let source = nowhere(folder.path()).locate(None).unwrap();
        assert_eq!(source.to_string(), "embedded babble (no other text was found)");
    }
}
