//! MLPerf log lines of a program that nobody here wrote.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trainmark::transcript::Transcript;

fuzz_target!(|bytes: &[u8]| {
    let mut said = Transcript::default();
    for line in bytes.split(|&byte| byte == b'\n') {
        // The mark is hard to find by chance: half of the lines get it.
        let line = String::from_utf8_lossy(line);
        match line.strip_prefix('!') {
            Some(rest) => said.line(&format!(":::MLLOG {rest}")),
            None => said.line(&line),
        }
    }
    if let Some(percent) = said.claimed_percent {
        assert!(percent.is_finite());
    }
    for seconds in [said.train_s, said.setup_s].into_iter().flatten() {
        assert!(seconds.is_finite() && seconds >= 0.0);
    }
});
