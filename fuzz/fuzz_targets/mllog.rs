//! MLPerf log lines of a program that nobody here wrote.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trainmark::facts::Fact;
use trainmark::rules::Rules;
use trainmark::suite::LoadedSuite;
use trainmark::transcript::Transcript;

fuzz_target!(|bytes: &[u8]| {
    let suite = LoadedSuite::built_in("mnist").unwrap().suite;
    let mut said = Transcript::new(suite.task(), Rules::default(), None);
    for line in bytes.split(|&byte| byte == b'\n') {
        // The mark is hard to find by chance: half of the lines get it.
        let line = String::from_utf8_lossy(line);
        match line.strip_prefix('!') {
            Some(rest) => said.line(&format!(":::MLLOG {rest}")),
            None => said.line(&line),
        }
    }
    for fact in [Fact::TrainS, Fact::SetupS] {
        if let Some(seconds) = said.facts.value(&fact) {
            assert!(seconds.is_finite() && seconds >= 0.0);
        }
    }
});
