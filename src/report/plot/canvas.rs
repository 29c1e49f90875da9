//! Owns the surface of a figure: one list of shapes, written as PNG and as SVG.
//!
//! PNG: the drawing library takes whole coordinates and does not smooth thick lines, so it paints `FINE` times as large
//! and the picture is averaged down. Text is set here from the glyphs' outlines, as the library drops side bearings.
//! SVG: written out shape by shape, fractions of a pixel and all, with the typeface inside.
//!
//! Must not know: charts, axes.

use std::fmt::Write;

use ab_glyph::{Font, ScaleFont};
use plotters::coord::Shift;
use plotters::prelude::{BitMapBackend, Circle, DrawingArea, IntoDrawingArea, PathElement, Polygon};
use plotters::style::{Color, RGBColor, ShapeStyle};

use super::font;
use tiltmeter_model::problem::Problem;

/// Width and height in pixels of a figure that needs no other height.
pub(super) const SIZE: (f64, f64) = (1600.0, 1000.0);

const FINE: usize = 3;

/// A place in pixels from the top left, fractions allowed.
pub(super) type Point = (f64, f64);

/// Which part of a text is at its place.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Align {
    Left,
    Centre,
    Right,
}

/// How a text is written: size of the em in pixels, weight, colour.
#[derive(Clone, Copy)]
pub(super) struct Type {
    pub em: f64,
    pub bold: bool,
    pub colour: RGBColor,
}

impl Type {
    /// Width of `text` in pixels.
    pub(super) fn width(&self, text: &str) -> f64 {
        let face = font::face(self.bold).as_scaled(font::scale(self.em));
        text.chars().map(|c| f64::from(face.h_advance(face.glyph_id(c)))).sum()
    }

    /// `text`, or as much of its beginning and end as fits into `room` pixels, with an ellipsis between.
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
}

impl Type {
    /// `text` in at most `most` lines of `room` pixels, broken between words; what does not fit is shortened.
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
}

enum Shape {
    Stroke { points: Vec<Point>, colour: RGBColor, opacity: f64, width: f64 },
    Area { points: Vec<Point>, colour: RGBColor, opacity: f64 },
    Disc { centre: Point, radius: f64, colour: RGBColor },
    Text { text: String, at: Point, align: Align, upwards: bool, style: Type },
}

/// What has been drawn so far, from back to front.
pub(super) struct Canvas {
    height: f64,
    shapes: Vec<Shape>,
}

impl Canvas {
    /// An empty surface of `SIZE`.
    pub(super) fn new() -> Self {
        Self::of_height(SIZE.1)
    }

    /// An empty surface of `SIZE`'s width and so many whole pixels high.
    pub(super) fn of_height(height: f64) -> Self {
        Self { height: height.round(), shapes: Vec::new() }
    }

    /// A line through `points`, `width` pixels wide.
    pub(super) fn stroke(&mut self, points: Vec<Point>, colour: RGBColor, opacity: f64, width: f64) {
        if points.len() > 1 {
            self.shapes.push(Shape::Stroke { points, colour, opacity, width });
        }
    }

    /// A filled outline.
    pub(super) fn area(&mut self, points: Vec<Point>, colour: RGBColor, opacity: f64) {
        if points.len() > 2 {
            self.shapes.push(Shape::Area { points, colour, opacity });
        }
    }

    /// A filled circle.
    pub(super) fn disc(&mut self, centre: Point, radius: f64, colour: RGBColor) {
        self.shapes.push(Shape::Disc { centre, radius, colour });
    }

    /// A line of text with its baseline at `at`.
    pub(super) fn text(&mut self, text: impl Into<String>, at: Point, align: Align, style: Type) {
        self.shapes.push(Shape::Text { text: text.into(), at, align, upwards: false, style });
    }

    /// A line of text that runs upwards, centred on `at`, its baseline to the right.
    pub(super) fn text_upwards(&mut self, text: impl Into<String>, at: Point, style: Type) {
        self.shapes.push(Shape::Text { text: text.into(), at, align: Align::Centre, upwards: true, style });
    }

    /// As PNG.
    pub(super) fn png(&self) -> Result<Vec<u8>, Problem> {
        let (width, height) = (SIZE.0 as usize, self.height as usize);
        let mut fine = vec![255u8; width * FINE * height * FINE * 3];
        {
            let size = ((width * FINE) as u32, (height * FINE) as u32);
            let area = BitMapBackend::with_buffer(&mut fine, size).into_drawing_area();
            self.paint(&area).map_err(|error| Problem::new(format!("the figure cannot be drawn: {error}")))?;
        }
        for shape in &self.shapes {
            if let Shape::Text { text, at, align, upwards, style } = shape {
                set(&mut fine, text, *at, *align, *upwards, style);
            }
        }
        encode(&average(&fine, width, height), width as u32, height as u32)
            .map_err(|error| Problem::new(format!("the PNG cannot be written: {error}")))
    }

    /// Everything but text, which comes in front of all of it.
    fn paint(&self, area: &DrawingArea<BitMapBackend, Shift>) -> Result<(), Box<dyn std::error::Error>> {
        let pixels = |points: &[Point]| -> Vec<(i32, i32)> { points.iter().map(pixel).collect() };
        for shape in &self.shapes {
            match shape {
                Shape::Stroke { points, colour, opacity, width } => {
                    let style =
                        ShapeStyle { color: colour.mix(*opacity), filled: false, stroke_width: fine(*width) as u32 };
                    area.draw(&PathElement::new(pixels(points), style)).map_err(|error| error.to_string())?;
                }
                Shape::Area { points, colour, opacity } => {
                    let polygon = Polygon::new(pixels(points), colour.mix(*opacity).filled());
                    area.draw(&polygon).map_err(|error| error.to_string())?;
                }
                Shape::Disc { centre, radius, colour } => {
                    let circle = Circle::new(pixel(centre), fine(*radius), colour.filled());
                    area.draw(&circle).map_err(|error| error.to_string())?;
                }
                Shape::Text { .. } => {}
            }
        }
        area.present().map_err(|error| error.to_string().into())
    }

    /// As SVG, typeface included.
    pub(super) fn svg(&self) -> String {
        let (width, height) = (SIZE.0, self.height);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"{}\" font-kerning=\"none\">\n{}\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n",
            font::FAMILIES,
            font::style_sheet(),
        );
        for shape in &self.shapes {
            // Writing to a String cannot fail.
            let _ = match shape {
                Shape::Stroke { points, colour, opacity, width } => writeln!(
                    svg,
                    "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-opacity=\"{opacity:.3}\" \
                     stroke-width=\"{width}\" stroke-linejoin=\"round\"/>",
                    places(points),
                    hex(colour),
                ),
                Shape::Area { points, colour, opacity } => writeln!(
                    svg,
                    "<polygon points=\"{}\" fill=\"{}\" fill-opacity=\"{opacity:.3}\"/>",
                    places(points),
                    hex(colour),
                ),
                Shape::Disc { centre: (x, y), radius, colour } => {
                    writeln!(svg, "<circle cx=\"{x:.2}\" cy=\"{y:.2}\" r=\"{radius}\" fill=\"{}\"/>", hex(colour))
                }
                Shape::Text { text, at: (x, y), align, upwards, style } => writeln!(
                    svg,
                    "<text x=\"{x:.2}\" y=\"{y:.2}\" text-anchor=\"{}\" font-size=\"{}\"{}{} fill=\"{}\">{}</text>",
                    ["start", "middle", "end"][*align as usize],
                    style.em,
                    if style.bold { " font-weight=\"bold\"" } else { "" },
                    if *upwards { format!(" transform=\"rotate(-90 {x:.2} {y:.2})\"") } else { String::new() },
                    hex(&style.colour),
                    escape(text),
                ),
            };
        }
        svg + "</svg>\n"
    }
}

/// Blends one line of text into a picture `FINE` times as large as the figure.
fn set(picture: &mut [u8], text: &str, at: Point, align: Align, upwards: bool, style: &Type) {
    let columns = SIZE.0 as i64 * FINE as i64;
    let rows = picture.len() as i64 / (3 * columns);
    let large = FINE as f64;
    let face = font::face(style.bold).as_scaled(font::scale(style.em * large));
    let mut along = -[0.0, 0.5, 1.0][align as usize] * style.width(text) * large;
    let ink = [style.colour.0, style.colour.1, style.colour.2];
    for letter in text.chars() {
        let glyph = face.glyph_id(letter);
        let placed = glyph.with_scale_and_position(font::scale(style.em * large), ab_glyph::point(along as f32, 0.0));
        along += f64::from(face.h_advance(glyph));
        let Some(outline) = face.outline_glyph(placed) else { continue };
        let bounds = outline.px_bounds();
        outline.draw(|x, y, cover| {
            let (right, down) = (i64::from(x) + bounds.min.x as i64, i64::from(y) + bounds.min.y as i64);
            let (x, y) = if upwards { (down, -right) } else { (right, down) };
            let (x, y) = (x + (at.0 * large).round() as i64, y + (at.1 * large).round() as i64);
            if (0..columns).contains(&x) && (0..rows).contains(&y) {
                let first = 3 * (y * columns + x) as usize;
                for (under, ink) in picture[first..first + 3].iter_mut().zip(ink) {
                    let (low, high) = (f32::from(*under), f32::from(ink));
                    *under = (low + (high - low) * cover.clamp(0.0, 1.0)).round() as u8;
                }
            }
        });
    }
}

fn average(fine: &[u8], width: usize, height: usize) -> Vec<u8> {
    let mut pixels = vec![0u8; width * height * 3];
    for (index, pixel) in pixels.iter_mut().enumerate() {
        let (row, column, channel) = (index / (3 * width), index / 3 % width, index % 3);
        let corner = (row * FINE * width * FINE + column * FINE) * 3 + channel;
        let mut sum = 0;
        for y in 0..FINE {
            for x in 0..FINE {
                sum += usize::from(fine[corner + (y * width * FINE + x) * 3]);
            }
        }
        *pixel = ((sum + FINE * FINE / 2) / (FINE * FINE)) as u8;
    }
    pixels
}

fn places(points: &[Point]) -> String {
    points.iter().map(|(x, y)| format!("{x:.2},{y:.2}")).collect::<Vec<_>>().join(" ")
}

fn hex(colour: &RGBColor) -> String {
    format!("#{:02x}{:02x}{:02x}", colour.0, colour.1, colour.2)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn pixel(point: &Point) -> (i32, i32) {
    ((point.0 * FINE as f64).round() as i32, (point.1 * FINE as f64).round() as i32)
}

fn fine(length: f64) -> i32 {
    (length * FINE as f64).round().max(1.0) as i32
}

fn encode(pixels: &[u8], width: u32, height: u32) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_adaptive_filter(png::AdaptiveFilterType::Adaptive);
    // 200 dots per inch: eight inches wide, as a figure over both columns of a page.
    let per_metre = 7874;
    let dims = png::PixelDimensions { xppu: per_metre, yppu: per_metre, unit: png::Unit::Meter };
    encoder.set_pixel_dims(Some(dims));
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(bytes)
}
