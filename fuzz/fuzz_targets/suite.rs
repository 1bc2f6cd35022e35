#![no_main]
libfuzzer_sys::fuzz_target!(|text: &str| trainmark_fuzz::suite(text));
