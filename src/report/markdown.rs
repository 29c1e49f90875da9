//! Writes sections as `report.md`.

use super::block::Block;
use super::document::Section;
use super::table::escape;
use crate::views::trajectory::{Comparison, analysis::Analysis};

/// The report of a comparison as markdown; `figure` is the path of the figure as seen from the report.
pub fn report_markdown(comparison: &Comparison, analysis: &Analysis, figure: Option<&str>) -> String {
    page_markdown(&[Section::measure(comparison, analysis, figure)])
}

/// Sections one after the other; their figures are paths as seen from the report.
pub fn page_markdown(sections: &[Section]) -> String {
    sections.iter().map(section_markdown).collect::<Vec<_>>().join("\n")
}

fn section_markdown(section: &Section) -> String {
    let mut out = String::new();
    let mut figures = section.figures.iter();
    for block in &section.blocks {
        match block {
            Block::Heading(level, text) => out += &format!("{} {}\n\n", "#".repeat(*level), escape(text)),
            Block::Text(text) => out += &format!("{}\n\n", escape(text)),
            Block::Table(table) => out += &format!("{}\n", table.markdown()),
            Block::Code(text) => out += &format!("{}\n", fenced(text)),
            Block::List(items) => {
                for item in items {
                    out += &format!("- {}\n", item.replace('\n', " "));
                }
                out.push('\n');
            }
            Block::Links(links) => {
                for (words, file) in links {
                    out += &format!("- [{}](<{}>)\n", bracketed(words), address(file));
                }
                out.push('\n');
            }
            Block::Figure(caption) => {
                let Some(figure) = figures.next() else { continue };
                let (name, path) = (bracketed(section.title), address(figure));
                out += &format!("![{name}](<{path}>)\n\n*{}*\n\n", escape(caption));
            }
        }
    }
    out.truncate(out.trim_end().len());
    out + "\n"
}

/// Text between square brackets.
fn bracketed(text: &str) -> String {
    escape(text).replace('[', "\\[").replace(']', "\\]")
}

/// A path between angle brackets: it may hold spaces and brackets.
fn address(path: &str) -> String {
    path.replace('<', "%3C").replace('>', "%3E").replace('\n', "%0A")
}

/// A fence longer than any run of backticks inside.
fn fenced(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    format!("{fence}text\n{text}{newline}{fence}\n")
}
