//! The style of a terminal: its width and its colours.

use ::console::Term;

/// Columns of a table where nobody says how wide the terminal is, and where there is none.
const WIDTH: u16 = 80;
const PIPED: u16 = 120;
/// Columns that fit a terminal however narrow it is.
const NARROWEST: u16 = 40;

/// The style of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Columns that a table may take.
    pub width: u16,
    pub color: bool,
}

impl Default for Style {
    /// Neither colour nor more than 80 columns.
    fn default() -> Self {
        Style { width: WIDTH, color: false }
    }
}

impl Style {
    /// The style of standard output: colours on a terminal, unless `NO_COLOR` is set or the terminal is dumb.
    pub fn stdout() -> Style {
        Style::of(&Term::stdout())
    }

    /// The style of standard error.
    pub fn stderr() -> Style {
        Style::of(&Term::stderr())
    }

    fn of(terminal: &Term) -> Style {
        if !terminal.is_term() {
            return Style { width: PIPED, color: false };
        }
        let width = terminal.size_checked().map_or(WIDTH, |(_, columns)| columns);
        Style { width: width.max(NARROWEST), color: may_color() }
    }
}

/// Whether a terminal's colours are wanted.
fn may_color() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
