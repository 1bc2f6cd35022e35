//! How texts from result files and states of rows look.

use crate::text::visible;
use record::Status;
use record::summary::Row;

/// Characters of a name or a value that are shown.
pub const SHOWN: usize = 80;

/// A text of several lines, each without what could not be seen.
pub fn lines(text: &str, max_chars: usize) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let room = max_chars.saturating_sub(out.chars().count());
        if room == 0 {
            out.push('…');
            break;
        }
        out += &visible(&without_colors(line), room);
        out.push('\n');
    }
    out
}

/// Without the sequences that colour a terminal: a log is easier to read without them.
fn without_colors(line: &str) -> String {
    let mut plain = String::new();
    let mut rest = line;
    while let Some(start) = rest.find("\u{1b}[") {
        let after = &rest[start + 2..];
        let end = after.find(|c: char| !(c.is_ascii_digit() || c == ';'));
        plain += &rest[..start];
        match end {
            Some(end) if after[end..].starts_with('m') => rest = &after[end + 1..],
            _ => {
                plain += "\u{1b}[";
                rest = after;
            }
        }
    }
    plain + rest
}

/// A class for the colour and a sign for those who do not see it.
pub fn status_look(status: Status, software: bool) -> (&'static str, &'static str) {
    match status {
        Status::Measured if software => ("unsure", "≈"),
        Status::Measured => ("good", "✓"),
        Status::NotConverged => ("unsure", "▽"),
        Status::Unavailable => ("absent", "–"),
        _ => ("bad", "✕"),
    }
}

/// The same of a row.
pub fn look(row: &Row) -> (&'static str, &'static str) {
    status_look(row.record.status, row.is_software())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_keep_their_lines_and_lose_their_colours_and_commands() {
        assert_eq!(
            lines("\u{1b}[1;31merror\u{1b}[0m: x\nb\u{1b}[2Jc", 100),
            "error: x\nb\u{FFFD}[2Jc\n"
        );
        assert_eq!(lines("abc\ndef\nghi", 4), "abc\n…");
    }
}
