//! What reads other people's bytes, given the fuzzer's corpus and thousands of mutations of it, the same each time.
//! libFuzzer itself, which is led by the code that its bytes reach, compiles everything again: `fuzz/README.md`.

#[path = "../../../../fuzz/src/lib.rs"]
mod targets;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

/// Numbers at which parsers err, and the marks of the formats.
const WORDS: &[&[u8]] = &[
    b"-1",
    b"0",
    b"255",
    b"256",
    b"4294967296",
    b"18446744073709551616",
    b"1e999",
    b"-0.0",
    b"NaN",
    b"null",
    b"true",
    b"\"\"",
    b"[]",
    b"{}",
    b"[[",
    b"{{",
    b"}",
    b"\"",
    b"\\",
    b"\\u0000",
    b",",
    b":",
    b"=",
    b"\n",
    b"\r",
    b"#",
    b"!",
    b"\x00",
    b"\xff\xff\xff\xff",
    b"\x1b[2J",
    b"\xe2\x80\xae",
];
/// libFuzzer's own bound in `fuzz/README.md`.
const LONGEST: usize = 16_384;

struct Mutator {
    random: ChaCha8Rng,
    corpus: Vec<Vec<u8>>,
}

impl Mutator {
    fn below(&mut self, end: usize) -> usize {
        self.random.next_u32() as usize % end.max(1)
    }

    /// A part of a file of the corpus: a token, a line, or any bytes.
    fn part(&mut self) -> Vec<u8> {
        let chosen = self.below(self.corpus.len());
        let file = self.corpus[chosen].clone();
        let start = self.below(file.len());
        match self.below(3) {
            0 => file[start..]
                .split_inclusive(|byte| !byte.is_ascii_alphanumeric())
                .next()
                .unwrap_or(&[])
                .to_vec(),
            1 => {
                file[start..].split_inclusive(|&byte| byte == b'\n').next().unwrap_or(&[]).to_vec()
            }
            _ => file[start..(start + 1 + self.below(64)).min(file.len())].to_vec(),
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        let chosen = self.below(self.corpus.len());
        let mut bytes = self.corpus[chosen].clone();
        for _ in 0..=self.below(4) {
            let start = self.below(bytes.len() + 1);
            let end = (start + self.below(16)).min(bytes.len());
            match self.below(6) {
                0 if start < bytes.len() => bytes[start] ^= 1 << self.below(8),
                1 => drop(bytes.drain(start..end)),
                2 => bytes.truncate(start),
                3 => drop(bytes.splice(start..end, WORDS[self.below(WORDS.len())].iter().copied())),
                4 => drop(bytes.splice(start..start, self.part())),
                _ => drop(bytes.splice(start..end, self.part())),
            }
        }
        bytes.truncate(LONGEST);
        bytes
    }
}

/// Each file of the corpus as it is, then that many mutations.
fn hold(target: &str, mutations: usize, check: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut files: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort(); // the same order, hence the same mutations, on every file system
    let corpus: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    let mut mutator = Mutator { random: ChaCha8Rng::seed_from_u64(27), corpus: corpus.clone() };
    for bytes in corpus.into_iter().chain((0..mutations).map(|_| mutator.bytes())) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(&bytes))) {
            eprintln!("{target} fails on:\n{}", bytes.escape_ascii());
            resume_unwind(panic);
        }
    }
}

#[test]
fn data_files_are_refused_or_keep_their_promises() {
    hold("idx", 20_000, targets::idx);
}

#[test]
fn suite_files_are_refused_in_one_line_or_make_every_command() {
    hold("suite", 3_000, |bytes| targets::suite(&String::from_utf8_lossy(bytes)));
}

#[test]
fn result_files_are_refused_or_survive_and_make_every_report() {
    hold("result", 2_000, targets::result);
}

#[test]
fn lines_of_output_never_upset_the_harness() {
    hold("event", 5_000, targets::event);
}

#[test]
fn lines_of_mlperf_logs_never_upset_the_harness() {
    hold("mllog", 5_000, targets::mllog);
}
