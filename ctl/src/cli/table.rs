//! Aligned columns of text.

/// How a column's cells stand in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// A cell: what is shown, and how wide that is where colours do not count.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    shown: String,
    width: usize,
}

impl Cell {
    /// `shown` is `plain` with colours around.
    pub(super) fn painted(plain: &str, shown: String) -> Self {
        Self { width: plain.chars().count(), shown }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        let shown = text.to_string();
        Self { width: shown.chars().count(), shown }
    }
}

/// A table with a heading.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<Cell>>,
    indent: usize,
}

impl Table {
    /// Columns from headings; one that starts with `>` stands to the right.
    pub(super) fn new(headings: &[&str]) -> Self {
        let align = |h: &&str| if h.starts_with('>') { Align::Right } else { Align::Left };
        let heading = headings.iter().map(|h| Cell::from(h.trim_start_matches('>'))).collect();
        Self { columns: headings.iter().map(align).collect(), rows: vec![heading], indent: 0 }
    }

    pub(super) fn indent(mut self, by: usize) -> Self {
        self.indent = by;
        self
    }

    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// One line a row, two spaces between columns, none at the end.
    pub(super) fn render(&self) -> String {
        let width = |column: usize| {
            self.rows.iter().filter_map(|r| r.get(column)).map(|c| c.width).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = " ".repeat(self.indent);
            for (i, ((cell, align), width)) in
                row.iter().zip(&self.columns).zip(&widths).enumerate()
            {
                let gap = if i == 0 { 0 } else { 2 };
                let fill = width.saturating_sub(cell.width);
                let (before, after) = if *align == Align::Right { (fill, 0) } else { (0, fill) };
                line.extend(std::iter::repeat_n(' ', gap + before));
                line.push_str(&cell.shown);
                line.extend(std::iter::repeat_n(' ', after));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["PORT", ">PACKETS", "NOTE"]).indent(2);
        table.row(vec!["a".into(), 12345.into(), "x".into()]);
        table.row(vec!["longer".into(), 7.into(), Cell::painted("y", "\x1b[1my\x1b[0m".into())]);
        assert_eq!(
            table.render(),
            "  PORT    PACKETS  NOTE\n  a         12345  x\n  longer        7  \x1b[1my\x1b[0m\n"
        );
    }
}
