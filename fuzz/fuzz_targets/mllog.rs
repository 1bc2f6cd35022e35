#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trainmark_fuzz::mllog(bytes));
