//! Standard output: lines for people and, if a harness listens, events.

use protocol::Event;
use std::fmt::Display;
use std::io::{self, Write};

/// Standard output, or a buffer in a test.
pub struct Output<W> {
    to: W,
    events: bool,
}

impl<W: Write> Output<W> {
    pub fn new(to: W, events: bool) -> Output<W> {
        Output { to, events }
    }

    /// A line for people.
    pub fn line(&mut self, line: impl Display) -> io::Result<()> {
        writeln!(self.to, "{line}")?;
        self.to.flush()
    }

    /// A line for a harness.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        if self.events { self.line(event) } else { Ok(()) }
    }
}

/// 9375 as `9,375`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 thread`, `2 threads`.
pub fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(
            [0, 999, 1000, 407_050, 1_234_567].map(grouped),
            ["0", "999", "1,000", "407,050", "1,234,567"]
        );
        assert_eq!(
            (counted(1, "step"), counted(1875, "step")),
            ("1 step".into(), "1,875 steps".into())
        );
    }

    #[test]
    fn events_are_written_only_where_a_harness_listens() {
        let event = Event::Ready { setup_s: 0.5, compile_s: None };
        for (events, lines) in [(false, 1), (true, 2)] {
            let mut written = Vec::new();
            let mut output = Output::new(&mut written, events);
            output.line("hello").unwrap();
            output.event(&event).unwrap();
            assert_eq!(written.iter().filter(|&&byte| byte == b'\n').count(), lines);
        }
    }
}
