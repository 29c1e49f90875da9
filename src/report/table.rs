//! Owns `Table`: a heading and rows, written as plain text or as markdown.
//!
//! Must not know: what stands in the cells.

/// A table; the first column is text, the others are figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Column headings.
    pub header: Vec<String>,
    /// Rows, each as long as the heading.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these headings.
    pub fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(|&heading| heading.to_owned()).collect(), rows: Vec::new() }
    }

    /// Aligned columns, two spaces apart, a rule under the heading. Ends with a newline.
    pub fn text(&self) -> String {
        let lines = || std::iter::once(&self.header).chain(&self.rows);
        let width = |column: usize| lines().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let mut out = String::new();
        for (index, line) in lines().enumerate() {
            let mut text = String::new();
            for (column, cell) in line.iter().enumerate() {
                let pad = " ".repeat(widths[column] - cell.chars().count());
                if column == 0 {
                    text += &format!("{cell}{pad}");
                } else {
                    text += &format!("  {pad}{cell}");
                }
            }
            out += text.trim_end();
            out.push('\n');
            if index == 0 {
                out += &"─".repeat(widths.iter().sum::<usize>() + 2 * (widths.len().max(1) - 1));
                out.push('\n');
            }
        }
        out
    }

    /// A pipe table, figures right-aligned. Ends with a newline.
    pub fn markdown(&self) -> String {
        let row = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| escape(cell)).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule: Vec<&str> = (0..self.header.len()).map(|column| if column == 0 { "---" } else { "---:" }).collect();
        let mut out = row(&self.header);
        out += &format!("| {} |\n", rule.join(" | "));
        for cells in &self.rows {
            out += &row(cells);
        }
        out
    }
}

/// Text that means itself inside a markdown table: labels come from people.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '*' | '`' | '<' | '[' | '\\' | '~' => out.extend(['\\', c]),
            '\n' | '\r' => out.push(' '),
            _ => out.push(c),
        }
    }
    out
}
