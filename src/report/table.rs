//! `Table`: a header and rows, written as plain text or Markdown.

/// A table; the first column is text, the others are figures unless all are words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Column headings.
    pub header: Vec<String>,
    /// Rows, each as long as the heading.
    pub rows: Vec<Vec<String>>,
    /// Whether every column is text.
    pub words: bool,
}

impl Table {
    /// An empty table with these headings.
    pub fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(|&heading| heading.to_owned()).collect(), rows: Vec::new(), words: false }
    }

    /// The same table, every column of text.
    pub fn of_words(self) -> Self {
        Self { words: true, ..self }
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
                } else if self.words {
                    text += &format!("  {cell}{pad}");
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
        let rule: Vec<&str> =
            (0..self.header.len()).map(|column| if column == 0 || self.words { "---" } else { "---:" }).collect();
        let mut out = row(&self.header);
        out += &format!("| {} |\n", rule.join(" | "));
        for cells in &self.rows {
            out += &row(cells);
        }
        out
    }
}

/// Text that means itself in markdown, inside a table too: labels come from people. Only what would be read as markup is
/// escaped, so that the source stays readable.
pub(super) fn escape(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    for (index, &c) in letters.iter().enumerate() {
        let before = index.checked_sub(1).map(|i| letters[i]);
        let after = letters.get(index + 1).copied();
        let word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let markup = match c {
            '|' | '*' | '`' | '\\' => true,
            '<' => after.is_some_and(|c| !c.is_whitespace()),
            '(' => before == Some(']'),
            '_' => !(word(before) && word(after)),
            '~' => before == Some('~') || after == Some('~'),
            _ => false,
        };
        if markup {
            out.push('\\');
        }
        out.push(if c.is_control() { ' ' } else { c });
    }
    out
}
