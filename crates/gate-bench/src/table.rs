//! Markdown tables, aligned so that they also read well in a terminal.

use std::fmt;

/// A table with a title; the first column is text, the others are set flush right.
#[derive(Debug)]
pub(crate) struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table that has only its head.
    pub(crate) fn new(title: impl Into<String>, head: &[&str]) -> Self {
        Self { title: title.into(), rows: vec![head.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    /// One row more; cells that it lacks are left empty.
    pub(crate) fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(|cell| cell.into().replace('|', "\\|")).collect());
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.first().map_or(0, Vec::len);
        (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                // A column's rule needs three characters at least.
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(3)
            })
            .collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "## {}\n", self.title)?;
        let widths = self.widths();
        for (number, row) in self.rows.iter().enumerate() {
            for (column, width) in widths.iter().enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                let width = *width;
                if column == 0 { write!(out, "| {cell:<width$} ") } else { write!(out, "| {cell:>width$} ") }?;
            }
            writeln!(out, "|")?;
            if number == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let rule = "-".repeat(width - 1);
                    if column == 0 { write!(out, "| {rule}- ") } else { write!(out, "| {rule}: ") }?;
                }
                writeln!(out, "|")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_markdown_and_aligned() {
        let mut table = Table::new("Speed", &["server", "n"]);
        table.row(["gate", "51000"]);
        table.row(["a|b"]);
        let expected = "\
## Speed

| server |     n |
| ------ | ----: |
| gate   | 51000 |
| a\\|b   |       |
";
        assert_eq!(table.to_string(), expected);
    }
}
