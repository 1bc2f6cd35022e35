//! A trainer's output: cut into lines in bounded memory, the last of them kept.

use std::collections::VecDeque;

/// A line longer than this is cut; the rest of it is dropped as it comes.
const LONGEST_LINE: usize = 64 * 1024;
/// The last lines and bytes of one stream that are kept for the record.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: usize = 8 * 1024;
/// The bytes of one line that are kept in the tail, so that one long line does not push out all others.
const TAIL_LINE_BYTES: usize = 2 * 1024;

/// Cuts a stream of any bytes into lines. A line ends with a newline, a carriage return (progress
/// bars) or both, or with the stream.
#[derive(Debug, Default)]
pub struct Lines {
    /// The beginning of a line whose end has not come yet, at most [`LONGEST_LINE`] bytes.
    partial: Vec<u8>,
    /// Whether more of that line was dropped.
    cut: bool,
    /// Whether the last byte was a carriage return, so that a newline ends no second line.
    after_return: bool,
    tail: Tail,
}

impl Lines {
    /// Takes the next bytes and hands on every line that they end, without its end. Invalid UTF-8
    /// is replaced.
    pub fn feed(&mut self, mut chunk: &[u8], on_line: &mut dyn FnMut(&str)) {
        if self.after_return && !chunk.is_empty() {
            self.after_return = false;
            chunk = chunk.strip_prefix(b"\n").unwrap_or(chunk);
        }
        while let Some(end) = memchr::memchr2(b'\n', b'\r', chunk) {
            self.end_line(&chunk[..end], on_line);
            let ending = chunk[end];
            chunk = &chunk[end + 1..];
            if ending == b'\r' {
                self.after_return = chunk.is_empty();
                chunk = chunk.strip_prefix(b"\n").unwrap_or(chunk);
            }
        }
        self.extend_partial(chunk);
    }

    /// The stream has ended: hands on a last line without an end.
    pub fn finish(&mut self, on_line: &mut dyn FnMut(&str)) {
        if !self.partial.is_empty() {
            self.end_line(b"", on_line);
        }
    }

    /// The last lines, joined by newlines.
    pub fn tail(&self) -> String {
        Vec::from_iter(self.tail.lines.iter().map(String::as_str)).join("\n")
    }

    fn end_line(&mut self, rest: &[u8], on_line: &mut dyn FnMut(&str)) {
        self.extend_partial(rest);
        let line = String::from_utf8_lossy(&self.partial);
        self.tail.push(&line, self.cut);
        on_line(&line);
        self.partial.clear();
        self.cut = false;
    }

    fn extend_partial(&mut self, bytes: &[u8]) {
        let room = LONGEST_LINE - self.partial.len();
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.cut |= bytes.len() > room;
    }
}

#[derive(Debug, Default)]
struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Tail {
    fn push(&mut self, line: &str, cut: bool) {
        let mut kept = line.len().min(TAIL_LINE_BYTES);
        while !line.is_char_boundary(kept) {
            kept -= 1;
        }
        let mark = if cut || kept < line.len() { " […]" } else { "" };
        let line = format!("{}{mark}", &line[..kept]);
        self.bytes += line.len() + 1;
        self.lines.push_back(line);
        while self.lines.len() > TAIL_LINES || self.bytes > TAIL_BYTES {
            self.bytes -= self.lines.pop_front().map_or(0, |oldest| oldest.len() + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines_of(chunks: &[&[u8]]) -> (Vec<String>, Lines) {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for chunk in chunks {
            lines.feed(chunk, &mut |line| seen.push(line.to_owned()));
        }
        lines.finish(&mut |line| seen.push(line.to_owned()));
        (seen, lines)
    }

    #[test]
    fn newlines_carriage_returns_and_both_end_a_line_once() {
        let (seen, _) = lines_of(&[b"a\nb\r\nc\rd\r", b"\ne\n\nf"]);
        assert_eq!(seen, ["a", "b", "c", "d", "e", "", "f"]);
    }

    #[test]
    fn invalid_utf8_is_replaced_and_a_character_may_be_split_between_chunks() {
        let (seen, _) = lines_of(&[b"\xff\xfe ok\n", b"gr\xc3", b"\xbcn\n"]);
        assert_eq!(seen, ["\u{fffd}\u{fffd} ok", "grün"]);
    }

    #[test]
    fn a_line_without_end_takes_bounded_memory_and_ends_with_the_stream() {
        let chunk = [b'x'; 40_000];
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for _ in 0..1000 {
            lines.feed(&chunk, &mut |line| seen.push(line.len()));
        }
        assert!(lines.partial.capacity() <= 2 * LONGEST_LINE);
        lines.finish(&mut |line| seen.push(line.len()));
        assert_eq!(seen, [LONGEST_LINE]);
        assert!(lines.tail().ends_with("x […]"));
        lines.feed(b"next\n", &mut |line| assert_eq!(line, "next"));
    }

    #[test]
    fn the_tail_holds_the_last_twenty_lines_and_eight_kibibytes() {
        let many: String = (0..1000).map(|i| format!("line {i}\n")).collect();
        let (_, lines) = lines_of(&[many.as_bytes()]);
        let tail = lines.tail();
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.starts_with("line 980\n") && tail.ends_with("line 999"));

        let wide: String = (0..30).map(|_| "ä".repeat(3000) + "\n").collect();
        let (_, lines) = lines_of(&[wide.as_bytes()]);
        assert!(lines.tail().len() <= TAIL_BYTES);
        assert!(lines.tail().lines().count() >= 2);
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_into_chunks_changes_nothing(
            bytes in proptest::collection::vec(
                prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'a'), any::<u8>()], 0..200),
            cuts in proptest::collection::vec(0usize..200, 0..8),
        ) {
            let (whole, _) = lines_of(&[&bytes]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            let (pieces, _) = lines_of(&chunks);
            prop_assert_eq!(whole, pieces);
        }
    }
}
