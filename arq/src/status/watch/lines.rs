//! Lines of text with colours, and tables of them that fit a width.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::output::{Paint, escaped, painted};

/// Between two columns.
const GAP: usize = 2;

/// A piece of a line. What comes from elsewhere cannot steer the terminal, nor is there anything in
/// it that takes no column.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Span {
    text: String,
    paint: Option<Paint>,
}

/// One line.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Line(pub(super) Vec<Span>);

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub(super) head: &'static str,
    /// Which columns are left out first where the width does not do: those of the highest number.
    pub(super) rank: u8,
    /// Columns it takes at least, so that it does not move each time a number gets a digit more.
    pub(super) least: usize,
    /// Text, which begins at the left of its place; numbers end at the right.
    pub(super) text: bool,
}

/// A table. The first column names what a row is about.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) columns: &'static [Column],
    pub(super) rows: Vec<Vec<Span>>,
    /// What stands in its place where it has no rows.
    pub(super) empty: &'static str,
    /// What is to be said below it.
    pub(super) note: Option<&'static str>,
}

// === impl Span ===

impl Span {
    /// Without a colour.
    pub(super) fn plain(text: impl AsRef<str>) -> Self {
        Self {
            text: visible(text.as_ref()),
            paint: None,
        }
    }

    /// In a colour.
    pub(super) fn painted(paint: Paint, text: impl AsRef<str>) -> Self {
        Self {
            text: visible(text.as_ref()),
            paint: Some(paint),
        }
    }
}

// === impl Line ===

impl Line {
    /// One span.
    pub(super) fn of(span: Span) -> Self {
        Self(vec![span])
    }

    /// How many columns it takes in full.
    pub(super) fn width(&self) -> usize {
        self.0.iter().map(|span| span.text.width()).sum()
    }

    /// The text, cut to a width.
    pub(super) fn render(&self, width: usize, colour: bool) -> String {
        let all = self.width();
        // The last column says that something is missing.
        let mut left = if all > width {
            width.saturating_sub(1)
        } else {
            width
        };
        let mut line = String::new();
        for span in &self.0 {
            let cut = cut(&span.text, left);
            left = left.saturating_sub(cut.width());
            match span.paint {
                Some(paint) => line.push_str(&painted(colour, paint, &cut)),
                None => line.push_str(&cut),
            }
            if cut.len() < span.text.len() {
                left = 0;
            }
        }
        if all > width && width > 0 {
            line.push('…');
        }
        line
    }
}

/// A text with what a terminal would obey as escapes, and without what else has no width of its
/// own: any number of those would stand in one column.
fn visible(text: &str) -> String {
    let mut text = escaped(text);
    text.retain(|letter| letter.width() != Some(0));
    text
}

/// The beginning of a text that takes no more than `width` columns.
fn cut(text: &str, width: usize) -> String {
    let mut left = width;
    text.chars()
        .take_while(|letter| {
            let wide = letter.width().unwrap_or(0);
            let fits = wide <= left;
            left = left.saturating_sub(wide);
            fits
        })
        .collect()
}

// === impl Table ===

impl Table {
    /// How many lines it takes in full.
    pub(super) fn height(&self) -> usize {
        1 + self.rows.len() + usize::from(self.note.is_some())
    }

    /// At most `height` lines of `width` columns; what finds no place is counted in the last.
    pub(super) fn lines(&self, width: usize, height: usize) -> Vec<Line> {
        if height == 0 {
            return Vec::new();
        }
        if self.rows.is_empty() {
            return vec![Line::of(Span::painted(Paint::Dim, self.empty))];
        }
        let shown = self.shown(height);
        let rows = &self.rows[..shown];
        let columns = self.fitting(rows, width);
        let mut lines = vec![self.head(&columns)];
        lines.extend(rows.iter().map(|row| self.row(row, &columns)));
        let more = self.rows.len() - shown;
        if more > 0 {
            lines.push(Line::of(Span::painted(
                Paint::Dim,
                format!("… {more} more"),
            )));
        } else if let Some(note) = self.note {
            lines.push(Line::of(Span::painted(Paint::Dim, note)));
        }
        lines.truncate(height);
        lines
    }

    /// How many rows find place beside the head and the line that counts the others.
    fn shown(&self, height: usize) -> usize {
        if height > self.rows.len() {
            self.rows.len()
        } else {
            height.saturating_sub(2)
        }
    }

    /// Which columns find place, with their widths.
    fn fitting(&self, rows: &[Vec<Span>], width: usize) -> Vec<(usize, usize)> {
        let widest = |index: usize| {
            let cells = rows.iter().filter_map(|row| row.get(index));
            let cells = cells.map(|cell| cell.text.width()).max().unwrap_or(0);
            let Column { head, least, .. } = self.columns[index];
            cells.max(head.width()).max(least)
        };
        let mut columns: Vec<(usize, usize)> = (0..self.columns.len())
            .map(|index| (index, widest(index)))
            .collect();
        let total = |columns: &[(usize, usize)]| {
            let wide: usize = columns.iter().map(|(_, width)| width + GAP).sum();
            wide.saturating_sub(GAP)
        };
        while total(&columns) > width && columns.len() > 1 {
            let last = columns
                .iter()
                .enumerate()
                .max_by_key(|(_, (index, _))| self.columns[*index].rank)
                .map_or(0, |(place, _)| place);
            columns.remove(last);
        }
        columns
    }

    fn head(&self, columns: &[(usize, usize)]) -> Line {
        let cells = columns.iter().map(|&(index, width)| {
            let Column { head, text, .. } = self.columns[index];
            (Span::painted(Paint::Bold, head), text, width)
        });
        Self::line(cells)
    }

    fn row(&self, row: &[Span], columns: &[(usize, usize)]) -> Line {
        let cells = columns.iter().map(|&(index, width)| {
            let cell = row.get(index).cloned();
            let cell = cell.unwrap_or_else(|| Span::plain(""));
            (cell, self.columns[index].text, width)
        });
        Self::line(cells)
    }

    /// Cells in their places.
    fn line(cells: impl Iterator<Item = (Span, bool, usize)>) -> Line {
        let mut spans = Vec::new();
        for (place, (cell, text, width)) in cells.enumerate() {
            let pad = " ".repeat(width.saturating_sub(cell.text.width()));
            let gap = " ".repeat(if place == 0 { 0 } else { GAP });
            if text {
                spans.extend([Span::plain(gap), cell, Span::plain(pad)]);
            } else {
                spans.extend([Span::plain(gap + &pad), cell]);
            }
        }
        Line(spans)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Column] = &[
        Column {
            head: "NAME",
            rank: 0,
            least: 0,
            text: true,
        },
        Column {
            head: "A",
            rank: 2,
            least: 0,
            text: false,
        },
        Column {
            head: "B",
            rank: 1,
            least: 0,
            text: false,
        },
    ];

    fn table(rows: usize) -> Table {
        let row = |number: usize| {
            vec![
                Span::plain(format!("row {number}")),
                Span::plain("12345"),
                Span::painted(Paint::Red, number.to_string()),
            ]
        };
        Table {
            columns: TABLE,
            rows: (0..rows).map(row).collect(),
            empty: "nothing",
            note: None,
        }
    }

    fn text(table: &Table, width: usize, height: usize) -> Vec<String> {
        let lines = table.lines(width, height);
        lines.iter().map(|line| line.render(width, false)).collect()
    }

    #[test]
    fn columns_go_where_the_width_does_not_do() {
        let table = table(1);
        assert_eq!(text(&table, 80, 9), ["NAME       A  B", "row 0  12345  0"]);
        assert_eq!(text(&table, 14, 9), ["NAME   B", "row 0  0"]);
        assert_eq!(text(&table, 4, 9), ["NAM…", "row…"]);
        assert_eq!(text(&table, 1, 9), ["…", "…"]);
        assert_eq!(text(&table, 0, 9), ["", ""]);
    }

    #[test]
    fn rows_that_find_no_place_are_counted() {
        let table = table(5);
        assert_eq!(text(&table, 80, 6).len(), 6);
        assert_eq!(text(&table, 80, 5)[4], "… 2 more");
        assert_eq!(text(&table, 80, 3)[1..], ["row 0  12345  0", "… 4 more"]);
        assert_eq!(text(&table, 80, 1).len(), 1);
        assert_eq!(text(&table, 80, 0).len(), 0);
        assert_eq!(text(&self::table(0), 80, 5), ["nothing"]);
    }

    #[test]
    fn a_line_is_cut_by_columns_and_steers_nothing() {
        let line = Line(vec![
            Span::plain("a\u{7}"),
            Span::painted(Paint::Red, "日本語"),
        ]);
        assert_eq!(line.render(80, false), "a\\u{7}日本語");
        assert_eq!(line.render(10, false), "a\\u{7}日…");
        assert_eq!(line.render(10, true), "a\\u{7}\x1b[31m日\x1b[0m…");
        assert_eq!(line.render(9, false), "a\\u{7}日…");
        assert_eq!(line.render(8, false), "a\\u{7}…");
    }

    #[test]
    fn nothing_is_in_a_line_that_takes_no_column() {
        let reordered = "a\u{202e}b\u{200b}\u{200d}\u{9b}2J";
        assert_eq!(
            Line::of(Span::plain(reordered)).render(80, false),
            "a\\u{202e}b\\u{200b}\\u{200d}\\u{9b}2J"
        );
        for letter in ['\u{202e}', '\u{200b}', '\u{200d}', '\u{301}', '\u{fe0f}'] {
            let long = format!("a{}b", letter.to_string().repeat(10_000));
            for span in [Span::plain(&long), Span::painted(Paint::Red, &long)] {
                let shown = Line::of(span.clone()).render(9, false);
                assert!(shown.chars().count() <= 9, "{letter:?}: {shown}");
                let table = Table {
                    rows: vec![vec![span]],
                    ..table(0)
                };
                let shown = text(&table, 9, 9);
                assert!(shown[1].chars().count() <= 9, "{letter:?}: {shown:?}");
            }
        }
    }
}
