//! How texts from result files and states of rows look.

use crate::text::visible;
use maud::{Markup, html};
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
        out += &visible(&::console::strip_ansi_codes(line), room);
        out.push('\n');
    }
    out
}

/// A sentence whose words between backticks are to be typed.
pub fn prose(text: &str, max_chars: usize) -> Markup {
    let text = visible(text, max_chars);
    let parts: Vec<&str> = text.split('`').collect();
    html! {
        @if parts.len().is_multiple_of(2) { (text) } @else {
            @for (at, part) in parts.iter().enumerate() {
                @if at.is_multiple_of(2) { (part) } @else { code { (part) } }
            }
        }
    }
}

/// A class for the colour and a sign for those who do not see it.
pub fn look(row: &Row) -> (&'static str, &'static str) {
    match row.record.status {
        Status::Measured if row.is_software() => ("unsure", "≈"),
        Status::Measured => ("good", "✓"),
        Status::NotConverged => ("unsure", "▽"),
        Status::Unavailable => ("absent", "–"),
        _ => ("bad", "✕"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_to_be_typed_are_code_and_a_lone_backtick_stays() {
        let shown = |text: &str| prose(text, 100).into_string();
        assert_eq!(shown("`a --b` <makes> it"), "<code>a --b</code> &lt;makes&gt; it");
        assert_eq!(shown("it says `x"), "it says `x");
    }

    #[test]
    fn logs_keep_their_lines_and_lose_their_colours_and_commands() {
        assert_eq!(lines("\u{1b}[1;31merror\u{1b}[0m: x\nb\u{1b}[2Jc", 100), "error: x\nbc\n");
        assert_eq!(lines("abc\ndef\nghi", 4), "abc\n…");
    }
}
