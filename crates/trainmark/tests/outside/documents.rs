//! The documents' commands do what the documents say: each block marked `console` runs, in the order of its file.
//! `...` stands for lines that differ from machine to machine, `[..]` for a part of one.
#![cfg(unix)]

use std::path::Path;

/// Two programs that train, as docs/get-started.md supposes them.
const PROGRAMS: [(&str, &str); 2] = [
    ("a.py", "print('val_loss: 1.50')\n"),
    ("b.py", "import time\ntime.sleep(0.03)\nprint('val_loss: 1.40')\n"),
];

#[test]
fn the_commands_of_the_documents_do_what_they_say() {
    let place = tempfile::tempdir().unwrap();
    let documents = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let mut cases = 0;
    for entry in std::fs::read_dir(documents).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        if !text.contains("```console\n") {
            continue;
        }
        // A folder of its own, so that no document sees what another one wrote: the commands run in `.in`.
        let folder = place.path().join(path.file_stem().unwrap());
        std::fs::create_dir_all(folder.join("commands.in")).unwrap();
        std::fs::write(folder.join("commands.md"), text).unwrap();
        for (name, program) in PROGRAMS {
            std::fs::write(folder.join("commands.in").join(name), program).unwrap();
        }
        cases += 1;
    }
    assert!(cases > 0, "no document has a console block");
    trycmd::TestCases::new()
        .register_bin("trainmark", Path::new(env!("CARGO_BIN_EXE_trainmark")))
        .env("XDG_CACHE_HOME", place.path().join("cache").display().to_string())
        .env("XDG_DATA_HOME", place.path().join("share").display().to_string())
        .env("XDG_STATE_HOME", place.path().join("state").display().to_string())
        .env("COLUMNS", "120")
        .case(place.path().join("*/commands.md"));
}
