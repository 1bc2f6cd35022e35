//! Suite files: an error or a suite, and of a suite every combination's command and environment.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use trainmark::plan::{self, Places, Selection};
use trainmark::suite::Suite;

fuzz_target!(|text: &str| {
    let suite = match Suite::parse(text, "fuzzed.toml") {
        Ok(suite) => suite,
        Err(error) => {
            assert_eq!(error.to_string().lines().count(), 1, "an error is one line: {error}");
            return;
        }
    };
    for quick in [false, true] {
        let Ok(cases) = plan::plan(&suite, &Selection { quick, ..Selection::default() }) else {
            continue;
        };
        for case in cases.iter().take(64) {
            let places = Places {
                program: Path::new("program"),
                data: Path::new("data"),
                predictions: Path::new("predictions"),
                allow_software: true,
            };
            if let Ok(words) = plan::command(&suite, case, &places) {
                assert!(!words.is_empty());
            }
            plan::environment(&suite, case);
            case.label(&suite);
        }
    }
});
