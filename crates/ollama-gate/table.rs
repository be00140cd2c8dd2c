//! Text in columns that fits a terminal.
//!
//! Invariant: no line is wider than [`WIDTH`]; what does not fit is cut in the first column, and ends in `…` there.

/// The widest line: two such windows fit side by side on most screens, and a mail holds it.
pub(crate) const WIDTH: usize = 100;

/// Blanks between two columns.
const GAP: usize = 2;

/// Where a column's text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// The rows below their headings.
pub(crate) fn table<const N: usize>(columns: [(&str, Side); N], rows: &[[String; N]]) -> String {
    let mut widths = columns.map(|(heading, _)| heading.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    if let Some((first, others)) = widths.split_first_mut() {
        let taken = others.iter().map(|width| width + GAP).sum::<usize>();
        *first = (*first).min(WIDTH.saturating_sub(taken).max(1));
    }
    let line = |cells: [&str; N]| {
        let mut line = String::new();
        for ((cell, width), (_, side)) in cells.iter().zip(widths).zip(columns) {
            let cell = cut(cell, width);
            let blanks = " ".repeat(width.saturating_sub(cell.chars().count()));
            line += &" ".repeat(if line.is_empty() { 0 } else { GAP });
            line += &match side {
                Side::Left => cell + &blanks,
                Side::Right => blanks + &cell,
            };
        }
        cut(line.trim_end(), WIDTH) + "\n"
    };
    let head = line(columns.map(|(heading, _)| heading));
    rows.iter().fold(head, |text, row| text + &line(row.each_ref().map(String::as_str)))
}

/// At most `width` characters of it.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// Words in lines of at most [`WIDTH`] characters, the later ones behind `indent` blanks; longer words are split.
pub(crate) fn wrapped(text: &str, indent: usize) -> String {
    let line_break = format!("\n{}", " ".repeat(indent));
    let mut out = String::new();
    let mut column = 0;
    for word in text.replace('\n', " ").split_inclusive(' ') {
        let length = word.trim_end().chars().count();
        if column > indent && column + length > WIDTH {
            out.truncate(out.trim_end().len());
            out += &line_break;
            column = indent;
        }
        for letter in word.chars() {
            if column == WIDTH {
                if letter == ' ' {
                    continue;
                }
                out += &line_break;
                column = indent;
            }
            out.push(letter);
            column += 1;
        }
    }
    out.truncate(out.trim_end().len());
    out + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_their_headings() {
        let rows = [["a", "1"], ["bcd", "234567"]].map(|row| row.map(ToOwned::to_owned));
        let text = table([("NAME", Side::Left), ("N", Side::Right)], &rows);
        assert_eq!(text, "NAME       N\na          1\nbcd   234567\n");
        assert_eq!(table([("NAME", Side::Left)], &[]), "NAME\n");
    }

    #[test]
    fn nothing_is_wider_than_a_line() {
        let rows = [["x".repeat(300), "y".repeat(20)], ["é".repeat(90), "y".repeat(120)]];
        for row in rows {
            let text = table([("A", Side::Left), ("B", Side::Right)], &[row]);
            assert!(text.lines().all(|line| line.chars().count() <= WIDTH) && text.contains('…'), "{text}");
        }
        for text in ["word ".repeat(100), "x".repeat(350), format!("{} {}", "x".repeat(99), "y ".repeat(99))] {
            let lines = wrapped(&text, 4);
            assert!(lines.lines().all(|line| line.chars().count() <= WIDTH), "{lines}");
            assert!(lines.lines().skip(1).all(|line| line.starts_with("    ")), "{lines}");
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            assert_eq!(letters(&lines), letters(&text));
        }
    }
}
