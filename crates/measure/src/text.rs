//! Names from elsewhere as text that can break nothing: neither a table nor a terminal.

use std::borrow::Cow;

/// Any text for one line of a terminal.
pub fn one_line(text: &str) -> Cow<'_, str> {
    visible(text, 1000)
}

/// A name on one line, at most `max` characters: line ends and tabs become spaces; what a reader
/// could not see, or what would reorder or erase the text around it, becomes U+FFFD.
pub fn visible(name: &str, max: usize) -> Cow<'_, str> {
    let fits = name.len() <= max || name.chars().nth(max).is_none();
    if fits && !name.chars().any(is_deceptive) {
        return Cow::Borrowed(name);
    }
    let shown = if fits { max } else { max.saturating_sub(1) };
    let mut safe: String = name.chars().take(shown).map(substitute).collect();
    if !fits {
        safe.push('…');
    }
    Cow::Owned(safe)
}

fn substitute(c: char) -> char {
    match c {
        '\t' | '\n' | '\r' | '\u{2028}' | '\u{2029}' => ' ',
        c if is_deceptive(c) => '\u{FFFD}',
        c => c,
    }
}

/// Control characters, Unicode's Default_Ignorable_Code_Point, and the line and paragraph
/// separators; the marks of bidirectional text are among them.
pub fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}'
            | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}' | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}'
            | '\u{FFA0}' | '\u{FFF0}'..='\u{FFFB}' | '\u{1BCA0}'..='\u{1BCA3}'
            | '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E0FFF}')
}
