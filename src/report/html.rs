//! Writes sections as `report.html`, one page that needs no other file.

use super::block::Block;
use super::document::Section;
use super::table::Table;
use crate::views::trajectory::{Comparison, analysis::Analysis};

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#262626}\
h1{font-size:1.5rem;margin-top:3.5rem}h1:first-of-type{margin-top:0}h2{font-size:1.2rem;margin-top:2.2rem}h3{font-size:1rem}\
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums}\
th{border-bottom:1.5px solid #262626}td{border-bottom:1px solid #e4e4e4}th,td{padding:.25rem .7rem;text-align:right;\
white-space:nowrap}th:first-child,td:first-child{text-align:left;padding-left:0}.words th,.words td{text-align:left}\
pre{background:#f5f5f5;padding:.8rem 1rem;white-space:pre-wrap;overflow-wrap:anywhere;font-size:.85rem}\
figure{margin:1.5rem 0}figure svg{width:100%;height:auto}figcaption{font-size:.88rem;color:#5a5a5a}";

/// The report of a comparison as one HTML page; `figure` is the figure as SVG, which becomes part of it.
pub fn report_html(comparison: &Comparison, analysis: &Analysis, figure: Option<&str>) -> String {
    page_html(&[Section::measure(comparison, analysis, figure)])
}

/// Sections one after the other as one HTML page, which has the title of the first; their figures are SVG.
pub fn page_html(sections: &[Section]) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n",
        escape(sections.first().map_or("", |section| section.title))
    );
    for section in sections {
        let mut figures = section.figures.iter();
        for block in &section.blocks {
            match block {
                Block::Heading(level, text) => out += &format!("<h{level}>{}</h{level}>\n", escape(text)),
                Block::Text(text) => out += &format!("<p>{}</p>\n", escape(text)),
                Block::Table(table) => out += &format!("<div class=\"wide\">{}</div>\n", rows(table)),
                Block::Code(text) => out += &format!("<pre>{}</pre>\n", escape(text)),
                Block::List(items) => {
                    let items: String = items.iter().map(|item| format!("<li>{}</li>\n", escape(item))).collect();
                    out += &format!("<ul>\n{items}</ul>\n");
                }
                Block::Links(links) => {
                    let link = |(words, file): &(String, String)| {
                        format!("<li><a href=\"{}\">{}</a></li>\n", escape(&encoded(file)), escape(words))
                    };
                    out += &format!("<ul>\n{}</ul>\n", links.iter().map(link).collect::<String>());
                }
                Block::Figure(caption) => {
                    let Some(figure) = figures.next() else { continue };
                    out += &format!("<figure>\n{figure}<figcaption>{}</figcaption>\n</figure>\n", escape(caption));
                }
            }
        }
    }
    out + "</body>\n</html>\n"
}

fn rows(table: &Table) -> String {
    let row = |cells: &[String], tag: &str| {
        let cells: String = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let body: String = table.rows.iter().map(|cells| row(cells, "td")).collect();
    let class = if table.words { " class=\"words\"" } else { "" };
    format!("<table{class}>\n<thead>{}</thead>\n<tbody>{body}</tbody>\n</table>", row(&table.header, "th"))
}

/// A file's name as part of an address.
fn encoded(file: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    file.bytes().map(|byte| if keep(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
