//! The bundled typeface, DejaVu Sans, subset to Latin, Greek and the signs a figure needs (license: `font/LICENSE-DejaVu.txt`):
//! text widths, glyph outlines, and the SVG style sheet that embeds it.
//!
//! It is bundled so that a figure looks the same on every machine: a compute node has no fonts.

use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tiny_skia::{Path, PathBuilder};
use ttf_parser::{Face, GlyphId, OutlineBuilder};

use super::canvas::{Align, Point};
use super::color::Color;

/// Families of the SVG's text: the bundled one, then others of the same width for readers that ignore it.
pub(super) const FAMILIES: &str = "'Tiltmeter Sans', 'DejaVu Sans', Verdana, sans-serif";

const FAMILY: &str = "Tiltmeter Sans";

const REGULAR: &[u8] = include_bytes!("font/DejaVuSans-subset.ttf");
const BOLD: &[u8] = include_bytes!("font/DejaVuSans-Bold-subset.ttf");

/// How text is set: size of the em in pixels, weight, color.
#[derive(Clone, Copy)]
pub(super) struct TextStyle {
    pub em: f64,
    pub bold: bool,
    pub color: Color,
}

impl TextStyle {
    /// Width of `text` in pixels.
    pub(super) fn width(&self, text: &str) -> f64 {
        text.chars().map(|c| self.advance(glyph(face(self.bold), c))).sum()
    }

    /// `text`, or as much of its beginning and end as fits into `room` pixels, with an ellipsis between. Control characters become
    /// spaces.
    pub(super) fn fit(&self, text: &str, room: f64) -> String {
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if self.width(&text) <= room {
            return text;
        }
        let letters: Vec<char> = text.chars().collect();
        let shortened = |keep: usize| -> String {
            let head = keep.div_ceil(2);
            let tail = letters[letters.len() - (keep - head)..].iter();
            letters[..head].iter().chain(&['…']).chain(tail).collect()
        };
        // Widths grow with the letters kept: the most that fit, by bisection.
        let (mut fits, mut too_many) = (0, letters.len());
        while too_many - fits > 1 {
            let keep = (fits + too_many) / 2;
            if self.width(&shortened(keep)) <= room { fits = keep } else { too_many = keep }
        }
        shortened(fits)
    }

    /// `text` in at most `most` lines of `room` pixels, broken between words; text beyond the last line is shortened.
    pub(super) fn lines(&self, text: &str, most: usize, room: f64) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for word in text.split_whitespace() {
            let last = lines.len() == most;
            match lines.last_mut() {
                // Beyond the last line everything is kept, to be shortened in the middle.
                Some(line) if last || self.width(&format!("{line} {word}")) <= room => *line += &format!(" {word}"),
                _ => lines.push(word.to_owned()),
            }
        }
        lines.iter().map(|line| self.fit(line, room)).collect()
    }

    fn advance(&self, glyph: GlyphId) -> f64 {
        f64::from(face(self.bold).glyph_hor_advance(glyph).unwrap_or(0)) * self.scale()
    }

    /// Pixels per font unit.
    fn scale(&self) -> f64 {
        self.em / f64::from(face(self.bold).units_per_em())
    }
}

/// The outlines of a line of text, in pixels; `None` if it has no ink.
pub(super) fn outlines(text: &str, at: Point, align: Align, upwards: bool, style: &TextStyle) -> Option<Path> {
    let face = face(style.bold);
    let along = -[0.0, 0.5, 1.0][align as usize] * style.width(text);
    let mut pen = Pen { path: PathBuilder::new(), at, along, upwards, scale: style.scale() };
    for letter in text.chars() {
        let glyph = glyph(face, letter);
        face.outline_glyph(glyph, &mut pen);
        pen.along += style.advance(glyph);
    }
    pen.path.finish()
}

/// Takes a glyph's outline from font units, y upwards, to its place in the figure.
struct Pen {
    path: PathBuilder,
    at: Point,
    /// Pixels from `at` to the glyph's origin, in the direction of the text.
    along: f64,
    upwards: bool,
    scale: f64,
}

impl Pen {
    fn place(&self, x: f32, y: f32) -> (f32, f32) {
        let (right, up) = (self.along + f64::from(x) * self.scale, f64::from(y) * self.scale);
        let (right, down) = if self.upwards { (-up, -right) } else { (right, -up) };
        ((self.at.0 + right) as f32, (self.at.1 + down) as f32)
    }
}

impl OutlineBuilder for Pen {
    fn move_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.place(x, y);
        self.path.move_to(x, y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.place(x, y);
        self.path.line_to(x, y);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let ((x1, y1), (x, y)) = (self.place(x1, y1), self.place(x, y));
        self.path.quad_to(x1, y1, x, y);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let ((x1, y1), (x2, y2), (x, y)) = (self.place(x1, y1), self.place(x2, y2), self.place(x, y));
        self.path.cubic_to(x1, y1, x2, y2, x, y);
    }

    fn close(&mut self) {
        self.path.close();
    }
}

fn face(bold: bool) -> &'static Face<'static> {
    static FACES: OnceLock<[Face<'static>; 2]> = OnceLock::new();
    let faces = FACES.get_or_init(|| {
        // The bytes are part of the program, and a test reads them: they cannot be wrong.
        [REGULAR, BOLD].map(|bytes| Face::parse(bytes, 0).expect("the bundled typeface is a font"))
    });
    &faces[usize::from(bold)]
}

/// The glyph of a character; the font's empty box for one that it lacks.
fn glyph(face: &Face, c: char) -> GlyphId {
    face.glyph_index(c).unwrap_or(GlyphId(0))
}

/// A style sheet that embeds the typeface in the SVG.
pub(super) fn style_sheet() -> String {
    let face = |weight: &str, bytes: &[u8]| {
        format!(
            "@font-face{{font-family:\"{FAMILY}\";font-weight:{weight};src:url(data:font/ttf;base64,{})}}",
            STANDARD.encode(bytes)
        )
    };
    format!("<style>{}{}</style>", face("normal", REGULAR), face("bold", BOLD))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_em_is_as_wide_as_the_font_says() {
        for bold in [false, true] {
            let style = TextStyle { em: 100.0, bold, color: Color(0, 0, 0) };
            // The em dash is one em wide in this typeface.
            assert!((style.width("—") - 100.0).abs() < 0.1);
            assert_ne!(glyph(face(bold), '−').0, 0, "a real minus sign is in the font");
        }
    }
}
