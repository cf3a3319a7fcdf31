//! What commands print: data on stdout (a table for people or JSON), all else on stderr.

use std::io::{IsTerminal, Write};

use serde::Serialize;

use crate::failure::{Failure, Result};

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// Machine-readable output was asked for.
    pub(crate) json: bool,
    /// Colours may be used on stdout.
    pub(crate) colour: bool,
    /// Colours may be used on stderr.
    pub(crate) colour_stderr: bool,
}

/// The colours in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// Well.
    Green,
    /// Wrong.
    Red,
    /// Doubtful.
    Yellow,
    /// Names of things.
    Cyan,
    /// Of a second kind.
    Magenta,
    /// Of less weight.
    Dim,
    /// Of more weight.
    Bold,
}

/// Ends every colour.
const RESET: &str = "\x1b[0m";

impl Paint {
    const ALL: [Self; 7] = [
        Self::Green,
        Self::Red,
        Self::Yellow,
        Self::Cyan,
        Self::Magenta,
        Self::Dim,
        Self::Bold,
    ];

    /// What begins it on a terminal.
    fn begin(self) -> String {
        let code = match self {
            Self::Green => "32",
            Self::Red => "31",
            Self::Yellow => "33",
            Self::Cyan => "36",
            Self::Magenta => "35",
            Self::Dim => "2",
            Self::Bold => "1",
        };
        format!("\x1b[{code}m")
    }
}

/// Whether the environment takes colours.
pub(crate) fn colours_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

impl Output {
    /// Decides on colours: none without a terminal, none where `NO_COLOR` is set.
    pub(crate) fn new(json: bool) -> Self {
        let wanted = colours_wanted();
        Self {
            json,
            colour: wanted && std::io::stdout().is_terminal(),
            colour_stderr: wanted && std::io::stderr().is_terminal(),
        }
    }

    /// `text` in a colour, where stdout takes colours.
    pub(crate) fn paint(&self, paint: Paint, text: &str) -> String {
        painted(self.colour, paint, text)
    }

    /// `text` in a colour, where stderr takes colours.
    pub(crate) fn paint_stderr(&self, paint: Paint, text: &str) -> String {
        painted(self.colour_stderr, paint, text)
    }

    /// A line of data.
    pub(crate) fn line(&self, text: impl AsRef<str>) -> Result {
        let mut bytes = Vec::with_capacity(text.as_ref().len() + 1);
        bytes.extend_from_slice(text.as_ref().as_bytes());
        bytes.push(b'\n');
        self.bytes(&bytes)
    }

    /// Data as it is.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result {
        let mut stdout = std::io::stdout().lock();
        stdout
            .write_all(bytes)
            .and_then(|()| stdout.flush())
            .map_err(broken)
    }

    /// Data as indented JSON.
    pub(crate) fn object(&self, value: &impl Serialize) -> Result {
        self.line(serde_json::to_string_pretty(value)?)
    }

    /// Data as one line of JSON, for streams.
    pub(crate) fn object_line(&self, value: &impl Serialize) -> Result {
        self.line(serde_json::to_string(value)?)
    }

    /// A remark for people, on stderr.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        // A remark that cannot be shown is no reason to fail.
        let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
    }

    /// A warning for people, on stderr; what is in it may be of others' making.
    pub(crate) fn warn(&self, text: impl AsRef<str>) {
        let label = self.paint_stderr(Paint::Yellow, "warning:");
        self.note(format!("{label} {}", escaped_lines(text.as_ref())));
    }

    /// A table with a head, on stdout. Without rows, `empty` on stderr. What is in the cells may
    /// be of others' making; each stays one line.
    pub(crate) fn table(&self, head: &[&str], rows: Vec<Vec<String>>, empty: &str) -> Result {
        if rows.is_empty() {
            self.note(empty);
            return Ok(());
        }
        self.table_lines(head, &rows)
            .iter()
            .try_for_each(|line| self.line(line))
    }

    fn table_lines(&self, head: &[&str], rows: &[Vec<String>]) -> Vec<String> {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(head.iter().map(|cell| escaped(&cell.to_uppercase())));
        for row in rows {
            table.add_row(row.iter().map(|cell| self.tamed(cell)));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let text = table.to_string();
        text.lines()
            .map(|line| line.trim_end().to_owned())
            .collect()
    }

    /// Names and values in two columns, on stdout. A value may have lines; what is in them may be
    /// of others' making.
    pub(crate) fn pairs(&self, pairs: &[(&str, String)]) -> Result {
        self.pair_lines(pairs)
            .iter()
            .try_for_each(|line| self.line(line))
    }

    fn pair_lines(&self, pairs: &[(&str, String)]) -> Vec<String> {
        let names: Vec<String> = pairs.iter().map(|(name, _)| escaped(name)).collect();
        let width = names.iter().map(String::len).max().unwrap_or(0);
        let mut lines = Vec::new();
        for (name, (_, value)) in names.iter().zip(pairs) {
            let label = self.paint(Paint::Dim, &format!("{name:width$}"));
            for (index, line) in value.lines().enumerate() {
                let line = self.tamed(line);
                if index == 0 {
                    lines.push(format!("{label}  {line}"));
                } else {
                    lines.push(format!("{:width$}  {line}", ""));
                }
            }
            if value.is_empty() {
                lines.push(format!("{label}  -"));
            }
        }
        lines
    }

    /// [`escaped`], except that it may begin with a piece in one of our colours, where stdout
    /// takes colours. Who forges that has coloured his own text, and no more.
    fn tamed(&self, text: &str) -> String {
        let piece = Paint::ALL.into_iter().find_map(|paint| {
            let (piece, rest) = text.strip_prefix(&paint.begin())?.split_once(RESET)?;
            Some((paint, piece, rest))
        });
        match piece {
            Some((paint, piece, rest)) if self.colour => {
                painted(true, paint, &escaped(piece)) + &escaped(rest)
            }
            _ => escaped(text),
        }
    }

    /// Prints a failure; what is in it may be of others' making.
    pub(crate) fn failure(&self, failure: &Failure) {
        if failure.silent {
            return;
        }
        let label = self.paint_stderr(Paint::Red, "arq:");
        self.note(format!("{label} {}", escaped_lines(&failure.message)));
        if let Some(hint) = &failure.hint {
            let label = self.paint_stderr(Paint::Cyan, "hint:");
            self.note(format!("{label} {}", escaped_lines(hint)));
        }
    }

    /// Asks a yes-or-no question on the terminal; without one, no.
    pub(crate) fn confirm(&self, question: &str) -> bool {
        if !std::io::stdin().is_terminal() {
            return false;
        }
        let _ = write!(std::io::stderr().lock(), "{question} [y/N] ");
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).is_ok()
            && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
    }
}

/// `1 room`, `2 rooms`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        more => format!("{more} {noun}s"),
    }
}

/// A text of others' making in one line, with what would steer a terminal, or hide or reorder what
/// stands beside it, as escapes.
pub(crate) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        let hides = matches!(
            u32::from(letter),
            0x00AD                      // soft hyphen
                | 0x061C                // Arabic letter mark
                | 0x200B..=0x200F       // zero width, direction marks
                | 0x2028..=0x202E       // line separators, direction overrides
                | 0x2060..=0x206F       // word joiner, isolates
                | 0xFEFF                // byte order mark
                | 0xFFF0..=0xFFFB       // specials
                | 0xE0000..=0xE0FFF     // tags
        );
        if letter.is_control() || hides {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    shown
}

/// [`escaped`], line by line.
fn escaped_lines(text: &str) -> String {
    text.lines().map(escaped).collect::<Vec<_>>().join("\n")
}

/// `text` in a colour, where `on`.
pub(crate) fn painted(on: bool, paint: Paint, text: &str) -> String {
    if !on {
        return text.to_owned();
    }
    format!("{}{text}{RESET}", paint.begin())
}

/// A reader that went away (`arq … | head`) is no failure.
fn broken(error: std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    Failure::new(format!("cannot write to stdout: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_others_stays_in_its_line() {
        assert_eq!(escaped("plain \"ä\" 日本"), "plain \"ä\" 日本");
        assert_eq!(
            escaped("a\n\x1b[2J\u{202e}b\u{200b}"),
            "a\\n\\u{1b}[2J\\u{202e}b\\u{200b}"
        );
    }

    const PLAIN: Output = Output {
        json: false,
        colour: false,
        colour_stderr: false,
    };
    const COLOURED: Output = Output {
        colour: true,
        ..PLAIN
    };
    /// A title, a bell, CSI as a C1 control, and a row that is none.
    const HOSTILE: &str = "x\x1b]0;me\x07\u{9b}2J\ny";
    const TAMED: &str = "x\\u{1b}]0;me\\u{7}\\u{9b}2J\\ny";

    #[test]
    fn no_cell_steers_the_terminal_or_makes_a_row() {
        let rows = [
            vec![HOSTILE.to_owned(), "1".to_owned()],
            vec!["b".to_owned(), HOSTILE.to_owned()],
        ];
        for output in [PLAIN, COLOURED] {
            let lines = output.table_lines(&["name", "n"], &rows);
            assert_eq!(lines.len(), 3, "{lines:?}");
            assert_eq!(lines[1], format!("{TAMED}  1"));
            assert_eq!(lines[2], format!("{:1$}  {TAMED}", "b", TAMED.len()));
        }
    }

    #[test]
    fn no_value_steers_the_terminal() {
        let pairs = [
            ("a", format!("first\r\n{HOSTILE}")),
            (HOSTILE, String::new()),
        ];
        let width = TAMED.len();
        let tamed: Vec<&str> = TAMED.split("\\n").collect();
        assert_eq!(
            PLAIN.pair_lines(&pairs),
            [
                format!("{:width$}  first", "a"),
                format!("{:width$}  {}", "", tamed[0]),
                format!("{:width$}  {}", "", tamed[1]),
                format!("{TAMED}  -"),
            ]
        );
    }

    #[test]
    fn our_colours_stay_and_nothing_else_does() {
        for paint in Paint::ALL {
            let text = COLOURED.paint(paint, "fine") + ": \x1b[2J";
            assert_eq!(
                COLOURED.tamed(&text),
                COLOURED.paint(paint, "fine") + ": \\u{1b}[2J"
            );
        }
        let text = painted(true, Paint::Red, "a\x1b[2J");
        assert_eq!(COLOURED.tamed(&text), "\x1b[31ma\\u{1b}[2J\x1b[0m");
        assert_eq!(PLAIN.tamed(&text), text.replace('\x1b', "\\u{1b}"));
        assert_eq!(COLOURED.tamed("\x1b[31mopen"), "\\u{1b}[31mopen");
        assert_eq!(COLOURED.tamed("\x1b[5mx\x1b[0m"), "\\u{1b}[5mx\\u{1b}[0m");
    }
}
