//! Writes a canvas as SVG, text as text, with the typeface embedded.

use std::fmt::Write;

use super::canvas::{Canvas, DASH, Point, Primitive, SIZE};
use super::color::Color;
use super::font;

/// A complete SVG document.
pub(super) fn document(canvas: &Canvas) -> String {
    let (width, height) = (SIZE.0, canvas.height);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"{}\" font-kerning=\"none\">\n{}\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n",
        font::FAMILIES,
        font::style_sheet(),
    );
    for primitive in &canvas.primitives {
        // Writing to a String cannot fail.
        let _ = match primitive {
            Primitive::Stroke { points, color, opacity, width, dashed } => writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-opacity=\"{opacity:.3}\" \
                 stroke-width=\"{width}\"{} stroke-linejoin=\"round\"/>",
                coordinates(points),
                hex(color),
                if *dashed { format!(" stroke-dasharray=\"{} {}\"", DASH.0, DASH.1) } else { String::new() },
            ),
            Primitive::Area { points, color, opacity } => writeln!(
                svg,
                "<polygon points=\"{}\" fill=\"{}\" fill-opacity=\"{opacity:.3}\"/>",
                coordinates(points),
                hex(color),
            ),
            Primitive::Disc { center: (x, y), radius, color } => {
                writeln!(svg, "<circle cx=\"{x:.2}\" cy=\"{y:.2}\" r=\"{radius}\" fill=\"{}\"/>", hex(color))
            }
            Primitive::Text { text, at: (x, y), align, upwards, style } => writeln!(
                svg,
                "<text x=\"{x:.2}\" y=\"{y:.2}\" text-anchor=\"{}\" font-size=\"{}\"{}{} fill=\"{}\">{}</text>",
                ["start", "middle", "end"][*align as usize],
                style.em,
                if style.bold { " font-weight=\"bold\"" } else { "" },
                if *upwards { format!(" transform=\"rotate(-90 {x:.2} {y:.2})\"") } else { String::new() },
                hex(&style.color),
                escape(text),
            ),
        };
    }
    svg + "</svg>\n"
}

fn coordinates(points: &[Point]) -> String {
    points.iter().map(|(x, y)| format!("{x:.2},{y:.2}")).collect::<Vec<_>>().join(" ")
}

fn hex(color: &Color) -> String {
    format!("#{:02x}{:02x}{:02x}", color.0, color.1, color.2)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
