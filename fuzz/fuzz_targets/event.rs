//! A trainer's output, line by line: events and plain lines, in any order and number.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trainmark::rules::Rules;
use trainmark::suite::LoadedSuite;
use trainmark::transcript::Transcript;

fuzz_target!(|bytes: &[u8]| {
    let suite = LoadedSuite::built_in("mnist").unwrap().suite;
    let mut said = Transcript::new(suite.task(), Rules::default(), None);
    for line in bytes.split(|&byte| byte == b'\n') {
        let line = String::from_utf8_lossy(line);
        if let Some(Ok(event)) = protocol::Event::parse(&line) {
            let again = event.to_string();
            assert!(protocol::Event::parse(&again).is_some_and(|parsed| parsed.is_ok()), "{again}");
        }
        said.line(&line);
    }
    for metric in suite.task().metrics.keys() {
        assert!(said.facts.metric(metric).is_none_or(|(_, value)| value.is_finite()));
    }
});
