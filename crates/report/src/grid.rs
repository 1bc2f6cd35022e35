//! Texts in columns that fit a width. The least important columns are left out first. Names are wrapped between words,
//! figures never. A word that is wider than its column is cut.

use crate::style::Style;
use crate::text::width;

/// Columns between two texts, and in front of a line.
const GAP: usize = 2;
/// Columns that names keep at least.
const LEAST_NAME: usize = 14;

/// A column.
#[derive(Clone, Debug, Default)]
pub struct Column {
    /// Over so many lines as it has.
    pub head: String,
    pub right: bool,
    /// Which one is left out first where there is no room: the highest. Those of 0 stay.
    pub rank: u8,
}

/// A text and its colour.
pub type Cell = (String, Color);
/// The code of a terminal's colour, or none.
pub type Color = Option<&'static str>;
pub const GREEN: Color = Some("32");
pub const YELLOW: Color = Some("33");
pub const RED: Color = Some("31");
pub const DIM: Color = Some("2");
pub const BOLD: Color = Some("1");

/// A text in a colour, where the terminal has any.
pub fn painted(text: &str, color: Color, style: Style) -> String {
    match color.filter(|_| style.color && !text.is_empty()) {
        Some(code) => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
        None => text.to_owned(),
    }
}

/// Rows of texts, the first of each a name.
#[derive(Clone, Debug, Default)]
pub struct Grid {
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Cell>>,
}

impl Grid {
    /// The table's lines, and the heads of the columns for which there was no room.
    pub fn draw(mut self, style: Style) -> (String, Vec<String>) {
        let room = usize::from(style.width).max(2 * GAP + LEAST_NAME);
        let mut left_out = Vec::new();
        let mut widths = self.widths();
        // A long name gives way before a figure does.
        let of_name = |first: usize| first.min(LEAST_NAME.max(2 * room / 5));
        let needed = |widths: &[usize]| {
            let first = widths.first().map_or(0, |first| of_name(*first) + GAP);
            first + widths.iter().skip(1).map(|it| it + GAP).sum::<usize>()
        };
        while needed(&widths) > room {
            let last = self.columns.iter().map(|it| it.rank).max().unwrap_or(0);
            let Some(at) = self.columns.iter().rposition(|it| it.rank == last && last > 0) else {
                break;
            };
            let head = self.columns.remove(at).head.replace('\n', " ");
            left_out.extend(Some(head).filter(|head| !head.is_empty()));
            self.rows.iter_mut().for_each(|row| drop(row.remove(at)));
            widths.remove(at);
        }
        let others: usize = widths.iter().skip(1).map(|it| it + GAP).sum();
        if let Some(first) = widths.first_mut() {
            *first = (*first).min(room.saturating_sub(others + GAP).max(LEAST_NAME));
        }
        let mut text = String::new();
        let heads: Vec<Cell> = self.columns.iter().map(|it| (it.head.clone(), DIM)).collect();
        if heads.iter().any(|(head, _)| !head.is_empty()) {
            self.line(&heads, &widths, true, style, &mut text);
        }
        for row in &self.rows {
            self.line(row, &widths, false, style, &mut text);
        }
        left_out.reverse();
        (text, left_out)
    }

    /// The width of the columns that are never left out.
    pub fn least_width(&self) -> usize {
        let widths = self.widths();
        let kept = widths.iter().zip(&self.columns).filter(|(_, column)| column.rank == 0);
        kept.map(|(width, _)| width + GAP).sum()
    }

    fn widths(&self) -> Vec<usize> {
        let of = |at: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(at)).map(|(text, _)| text);
            let texts = cells.chain([&self.columns[at].head]);
            texts.flat_map(|text| text.split('\n')).map(width).max().unwrap_or(0)
        };
        (0..self.columns.len()).map(of).collect()
    }

    /// One row over as many lines as it needs; a head stands at the bottom of its lines.
    fn line(
        &self,
        cells: &[Cell],
        widths: &[usize],
        at_bottom: bool,
        style: Style,
        text: &mut String,
    ) {
        let parts: Vec<Vec<String>> =
            cells.iter().zip(widths).map(|(it, w)| wrapped(&it.0, *w)).collect();
        let height = parts.iter().map(Vec::len).max().unwrap_or(1);
        for at in 0..height {
            // Columns that the line has, and where the next cell begins.
            let (mut taken, mut start) = (0, 0);
            for (index, part) in parts.iter().enumerate() {
                let above = if at_bottom { height - part.len() } else { 0 };
                let shown = at.checked_sub(above).and_then(|at| part.get(at));
                let shown = shown.map_or("", String::as_str);
                let space = widths[index].saturating_sub(width(shown));
                let from = start + GAP + if self.columns[index].right { space } else { 0 };
                if !shown.is_empty() {
                    *text += &" ".repeat(from - taken);
                    *text += &painted(shown, cells[index].1, style);
                    taken = from + width(shown);
                }
                start += GAP + widths[index];
            }
            text.push('\n');
        }
    }
}

/// A text in lines of so many columns: at its line ends, and between words.
pub fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for line in text.split('\n') {
        let mut last = String::new();
        for word in line.split(' ') {
            if !last.is_empty() && width(&last) + 1 + width(word) > room {
                lines.push(std::mem::take(&mut last));
            }
            if !last.is_empty() {
                last.push(' ');
            }
            last += &crate::text::fitted(word, room);
        }
        lines.push(last);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        let column = |head: &str, right, rank| Column { head: head.to_owned(), right, rank };
        let columns = vec![
            column("", false, 0),
            column("Train\nLoop", true, 0),
            column("Status", false, 0),
            column("Peak\nMemory", true, 2),
            column("CPU", true, 3),
        ];
        let row = |cells: [&str; 5]| cells.map(|cell| (cell.to_owned(), None)).into();
        let rows = vec![
            row(["MNISTClassic cnn cpu", "0.34 s", "misreported", "64 MB", "0.4 s"]),
            row(["a-name-that-is-longer-than-its-column", "12.5 s", "", "410 MB", "25 s"]),
        ];
        Grid { columns, rows }
    }

    #[test]
    fn words_stay_whole_at_every_width_and_no_line_is_too_wide() {
        for room in [40, 43, 50, 60, 80, 300] {
            let (text, left_out) = grid().draw(Style { width: room, color: false });
            assert!(text.lines().all(|line| width(line) <= room.into()), "{room}: {text}");
            assert!(text.contains("misreported") && text.contains("12.5 s"), "{room}: {text}");
            assert_eq!(left_out.is_empty(), room >= 80, "{room}: {left_out:?}");
        }
        let (_, left_out) = grid().draw(Style { width: 40, color: false });
        assert_eq!(left_out, ["Peak Memory", "CPU"]);
    }

    #[test]
    fn colours_take_no_room() {
        let mut colored = grid();
        colored.rows[0][0].1 = GREEN;
        let style = Style { width: 80, color: true };
        let plain = |text: String| {
            text.replace("\u{1b}[32m", "").replace("\u{1b}[2m", "").replace("\u{1b}[0m", "")
        };
        assert_eq!(plain(colored.draw(style).0), grid().draw(Style { width: 80, color: false }).0);
    }
}
