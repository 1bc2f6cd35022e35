//! The summary and the table on a terminal, for `trainmark report` and for the end of `trainmark run`. The answer comes
//! first, in words and with bars. Nothing in a result file can reach the terminal as a command.

use crate::exhibit::{self, Exhibit};
use crate::grid::{BOLD, Cell, Color, Column as Place, DIM, Grid, wrapped};
pub use crate::grid::{GREEN, RED, YELLOW, painted};
use crate::notes;
pub use crate::style::Style;
use crate::table::{self, Column};
use crate::text::{self, UNKNOWN, count, three_digits, visible};
pub use measure::text::one_line;
use record::figures::Shown;
use record::summary::{Row, Summary};
use record::{Status, Verdict};
use std::fmt::Write;

/// Columns that prose takes at most.
const PROSE: usize = 110;
/// Characters of a name that are shown.
const SHOWN: usize = 40;
/// Rows that are shown; a terminal is no place for more.
const MAX_ROWS: usize = 200;
/// Bars that are shown.
const MAX_BARS: usize = 60;
/// Columns of a status: `not started` on one line, `not converged` on two.
const STATUS: usize = 11;

/// How much is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Detail {
    /// Rows of what this machine lacks too.
    pub all: bool,
    /// Every note in full.
    pub notes: bool,
}

/// Everything: what was trained, the answers, the table, what is missing and what to mind.
pub fn summary(summary: &Summary, detail: Detail, style: Style) -> String {
    let mut out = paragraph("", &table::headline(summary), BOLD, style) + "\n";
    if let Some(badges) = notes::badges(&notes_of(summary)).filter(|_| !detail.notes) {
        out += &(paragraph("Caution: ", &badges, YELLOW, style) + "\n");
    }
    out += &answers(summary, style);
    out += &table(summary, detail.all, style);
    out += &remarks(summary, detail, style);
    out
}

/// The answers of all panels in which several rows are ranked, with bars.
fn answers(summary: &Summary, style: Style) -> String {
    let exhibit = Exhibit::new(summary);
    let mut out = String::new();
    let mut room = MAX_BARS;
    for panel in &exhibit.panels {
        let standings = panel.standings();
        let Some((title, words)) = panel.answer().filter(|_| standings.len() <= room) else {
            continue;
        };
        room -= standings.len();
        let lines = paragraph("", &format!("{title}: {words}"), None, style);
        out += &match lines.strip_prefix(&title) {
            Some(rest) => painted(&title, BOLD, style) + rest,
            None => lines,
        };
        let slowest = standings.iter().map(|it| it.seconds).fold(f64::MIN_POSITIVE, f64::max);
        let names = standings.iter().map(|it| text::width(&it.entry.label)).max().unwrap_or(0);
        let names = names.min(usize::from(style.width) / 2);
        let length = usize::from(style.width).saturating_sub(names + 16).clamp(8, 50);
        let times: Vec<String> =
            standings.iter().map(|it| format!("{} s", three_digits(it.seconds))).collect();
        // Only what is shown to be the fastest of all has a colour.
        let is_shown = exhibit::is_fastest(&standings);
        let widest = times.iter().map(String::len).max().unwrap_or(0);
        for (index, (it, time)) in standings.iter().zip(&times).enumerate() {
            let name = text::fitted(&it.entry.label, names);
            let padding = names - text::width(&name);
            let bar = bar(it.seconds / slowest, length);
            let bar = painted(&bar, GREEN.filter(|_| index == 0 && is_shown), style);
            let _ = writeln!(out, "  {name}{:padding$}  {time:>widest$}  {bar}", "");
        }
        out.push('\n');
    }
    out
}

/// In eighths of a column; nothing is so short that it has none.
fn bar(share: f64, length: usize) -> String {
    let eighths = ((share * 8.0 * length as f64).round() as usize).clamp(1, 8 * length);
    "█".repeat(eighths / 8) + ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8]
}

fn notes_of(summary: &Summary) -> Vec<notes::Note> {
    notes::notes(summary, true, Some(Shown::Everywhere))
}

/// The line of missing devices and the failures; with `detail.notes` every note, which those are among.
pub fn remarks(summary: &Summary, detail: Detail, style: Style) -> String {
    let out: String = if detail.notes {
        notes_of(summary).iter().map(|note| paragraph("- ", &note.text, None, style)).collect()
    } else {
        let absent = table::absent_line(summary).filter(|_| !detail.all);
        let absent = absent.map(|line| paragraph("", &line, DIM, style));
        let failures = notes::failures(summary).into_iter().chain(notes::commands(summary));
        absent.into_iter().chain(failures.map(|line| paragraph("", &line, None, style))).collect()
    };
    if out.is_empty() { out } else { format!("\n{out}") }
}

/// Text after a label, its further lines indented by the label's width. Lines break after ` ·` rather than within
/// the parts that it separates.
pub fn paragraph(label: &str, text: &str, color: Color, style: Style) -> String {
    const BOUND: &str = "\u{a0}"; // no line breaks at this space
    let room = usize::from(style.width).min(PROSE).saturating_sub(label.len()).max(20);
    let text = visible(text, 2000).split_whitespace().collect::<Vec<_>>().join(" ");
    let bound = |part: &str| match text::width(part) <= room / 2 {
        true => part.replace(' ', BOUND),
        false => part.to_owned(),
    };
    let parts: Vec<String> = text.split(" · ").map(bound).collect();
    let lines = wrapped(&parts.join(&format!("{BOUND}· ")), room);
    let lines = format!("{label}{}", lines.join(&format!("\n{:1$}", "", label.len())));
    painted(&lines.replace(BOUND, " "), color, style) + "\n"
}

/// The table of all rows. A name that is the same in all rows is left out. What a narrow terminal has no room
/// for is named below it.
pub fn table(summary: &Summary, all: bool, style: Style) -> String {
    let columns = table::narrow(summary, Shown::Everywhere, all);
    let groups = table::groups(summary).into_iter();
    let places = groups.flat_map(|group| table::order(summary, group, all));
    let places: Vec<usize> = places.take(MAX_ROWS).collect();
    let rows: Vec<&Row> = places.iter().map(|&place| &summary.rows[place]).collect();
    let mut grid = Grid::default();
    let is_name =
        |it: &&Column| matches!(it, Column::Model | Column::Backend | Column::Difference(_));
    let names = columns.iter().filter(is_name).count();
    // Names in columns of their own only where they leave room: else one that wraps.
    for in_one in [false, true] {
        grid = drawn(summary, &columns, &rows, in_one.then_some(names));
        let least = grid.least_width();
        if least <= usize::from(style.width) {
            break;
        }
    }
    let (mut out, left_out) = if rows.is_empty() { Default::default() } else { grid.draw(style) };
    let shown = summary.rows.iter().filter(|row| all || row.is_there()).count();
    if shown > rows.len() {
        let _ =
            writeln!(out, "... and {} in the JSON report", count(shown - rows.len(), "more row"));
    }
    if !left_out.is_empty() {
        let line = format!("A wider terminal also shows: {}", left_out.join(", "));
        out += &paragraph("  ", &line, DIM, style);
    }
    for panel in crate::panel::panels(summary, true) {
        let head =
            |head: &String| Place { head: visible(head, SHOWN).into_owned(), right: true, rank: 0 };
        let row = |row: &Vec<String>| row.iter().map(|cell| (cell.clone(), None)).collect();
        let grid = Grid {
            columns: panel.heads.iter().map(head).collect(),
            rows: panel.rows.iter().map(row).collect(),
        };
        out += &format!(
            "\n{}{}",
            paragraph(&format!("{}: ", panel.heading), &panel.title, None, style),
            grid.draw(style).0
        );
    }
    out
}

/// `names`: how many names at the beginning stand in one column together.
fn drawn(summary: &Summary, columns: &[Column], rows: &[&Row], names: Option<usize>) -> Grid {
    let mut grid = Grid { rows: vec![Vec::new(); rows.len()], ..Grid::default() };
    let mut add = |place: Place, cell: &dyn Fn(&Row) -> Cell| {
        grid.columns.push(place);
        grid.rows.iter_mut().zip(rows).for_each(|(cells, row)| cells.push(cell(row)));
    };
    if names.is_some() {
        let head = Place { head: "Row".to_owned(), ..Place::default() };
        add(head, &|row| (table::label(summary, row, true), None));
    }
    let clock = summary.clocks().first().map_or("", |clock| &clock.key).to_owned();
    let mut rank = 0;
    for column in &columns[names.unwrap_or(0)..] {
        let is_clock = matches!(column, Column::Figure(figure) if figure.key == *clock);
        // A head takes several lines, so that figures stand close together. `FLOP/s` stays in one piece.
        let breaks: &[char] = if column.is_figure() { &[' '] } else { &[' ', '/'] };
        let head = column.title(summary, false).replace(breaks, "\n");
        let is_status = matches!(column, Column::Status);
        let others = column.is_figure() || matches!(column, Column::Verified | Column::SpeedUp);
        let goes = others && !is_clock;
        rank += u8::from(goes);
        let place = Place { head, right: column.is_figure(), rank: if goes { rank } else { 0 } };
        add(place, &|row| {
            let (text, color) = cell(summary, row, column);
            let widest = text.split(' ').map(text::width).max().unwrap_or(0).max(STATUS);
            (if is_status { wrapped(&text, widest).join("\n") } else { text }, color)
        });
        let interval = |row: &Row| match column {
            Column::Figure(figure) => row.record.intervals.get(&*figure.key).copied(),
            _ => row.speed_up.and_then(|change| table::interval(&change)),
        };
        let has_interval = is_clock || matches!(column, Column::SpeedUp);
        if has_interval && rows.iter().any(|row| interval(row).is_some()) {
            // The quality and the memory matter more.
            add(Place { rank: 4, ..Place::default() }, &|row| {
                let shown = interval(row)
                    .map(|it| format!("[{}, {}]", three_digits(it.low), three_digits(it.high)));
                (shown.unwrap_or_default(), DIM)
            });
        }
    }
    grid
}

fn cell(summary: &Summary, row: &Row, column: &Column) -> Cell {
    let text = match (column, row.speed_up.zip(summary.clock(row))) {
        // Its interval has a column of its own.
        (Column::SpeedUp, Some((change, clock))) if !row.is_reference => {
            table::factor(clock, &change, false)
        }
        _ => column.cell(summary, row, true).into_owned(),
    };
    let color = match column {
        Column::Status => match row.record.status {
            Status::Measured if row.is_ranked() => GREEN,
            Status::Measured | Status::NotConverged => YELLOW,
            Status::Unavailable => DIM,
            _ => RED,
        },
        Column::Verified if row.is_different() => RED,
        // Only what is shown has a colour.
        Column::SpeedUp if row.is_reference => DIM,
        Column::SpeedUp if row.speed_up.is_some_and(|it| it.verdict == Verdict::Faster) => GREEN,
        _ if text == UNKNOWN => return (String::new(), None),
        _ => None,
    };
    (text, color)
}
