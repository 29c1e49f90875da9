//! Owns the surface of a figure: one list of shapes, painted as PNG and as SVG.
//!
//! The drawing library takes whole coordinates and does not smooth thick lines, so both are painted `FINE` times as
//! large: the PNG is averaged down, the SVG scaled by its view box. Text is placed by its baseline, for which the
//! library's two backends have conventions of their own (`Ink`).
//!
//! Must not know: charts, axes.

use plotters::prelude::{
    BitMapBackend, Circle, DrawingArea, DrawingBackend, IntoDrawingArea, PathElement, Polygon, SVGBackend,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontStyle, FontTransform, IntoFont, RGBColor, ShapeStyle, TextStyle, WHITE};

use super::font;
use crate::problem::Problem;

/// Width and height of a figure in pixels.
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
        // Measured large, as the library rounds to whole pixels.
        const LARGE: f64 = 1000.0;
        let font = (font::FAMILY, LARGE * font::LINE_PER_EM, self.weight()).into_font();
        font.box_size(text).map_or(0.0, |(width, _)| f64::from(width) / LARGE * self.em)
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

    fn weight(&self) -> FontStyle {
        if self.bold { FontStyle::Bold } else { FontStyle::Normal }
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
    shapes: Vec<Shape>,
}

/// How a backend of the library places text: its size for an em of 1, and the baseline below the given point in em.
struct Ink {
    size_per_em: f64,
    baseline: f64,
}

/// The size is that of a whole line, the baseline is half of it down.
const BITMAP: Ink = Ink { size_per_em: font::LINE_PER_EM, baseline: font::LINE_PER_EM / 2.0 };

/// The em is taken to be the size over 1.24, the baseline is at .76 em.
const VECTOR: Ink = Ink { size_per_em: 1.24, baseline: 0.76 };

impl Canvas {
    /// An empty surface. Errors if the bundled typeface cannot be used.
    pub(super) fn new() -> Result<Self, Problem> {
        font::register()?;
        Ok(Self { shapes: Vec::new() })
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
        let (width, height) = (SIZE.0 as usize, SIZE.1 as usize);
        let mut fine = vec![255u8; width * FINE * height * FINE * 3];
        {
            let size = ((width * FINE) as u32, (height * FINE) as u32);
            let area = BitMapBackend::with_buffer(&mut fine, size).into_drawing_area();
            self.paint(&area, &BITMAP)?;
        }
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
        encode(&pixels, width as u32, height as u32)
            .map_err(|error| Problem::new(format!("the PNG cannot be written: {error}")))
    }

    /// As SVG, typeface included.
    pub(super) fn svg(&self) -> Result<String, Problem> {
        let (width, height) = (SIZE.0 as u32, SIZE.1 as u32);
        let fine = FINE as u32;
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, (width * fine, height * fine)).into_drawing_area();
            self.paint(&area, &VECTOR)?;
        }
        // The library has no word for a view box that differs from the size, nor for a style sheet.
        let head = svg.find("<svg").and_then(|start| svg[start..].find('>').map(|end| (start, start + end + 1)));
        let Some((start, end)) = head else { return Err(Problem::new("the SVG has no head")) };
        let family = format!("font-family=\"{}\"", font::FAMILY);
        let families = format!("font-family=\"'{}', 'DejaVu Sans', Verdana, sans-serif\"", font::FAMILY);
        Ok(format!(
            "<svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {} {}\" xmlns=\"http://www.w3.org/2000/svg\" \
             stroke-linejoin=\"round\" stroke-linecap=\"round\">\n{}{}",
            width * fine,
            height * fine,
            font::style_sheet(),
            svg[..start].to_owned() + &svg[end..].replace(&family, &families),
        ))
    }

    fn paint<DB: DrawingBackend>(
        &self,
        area: &DrawingArea<DB, plotters::coord::Shift>,
        ink: &Ink,
    ) -> Result<(), Problem> {
        let failed = |error: String| Problem::new(format!("the figure cannot be drawn: {error}"));
        area.fill(&WHITE).map_err(|error| failed(error.to_string()))?;
        for shape in &self.shapes {
            match shape {
                Shape::Stroke { points, colour, opacity, width } => {
                    let style = ShapeStyle { color: colour.mix(*opacity), filled: false, stroke_width: fine(*width) as u32 };
                    let points: Vec<(i32, i32)> = points.iter().map(pixel).collect();
                    area.draw(&PathElement::new(points, style))
                }
                Shape::Area { points, colour, opacity } => {
                    let points: Vec<(i32, i32)> = points.iter().map(pixel).collect();
                    area.draw(&Polygon::new(points, colour.mix(*opacity).filled()))
                }
                Shape::Disc { centre, radius, colour } => {
                    area.draw(&Circle::new(pixel(centre), fine(*radius), colour.filled()))
                }
                Shape::Text { text, at, align, upwards, style } => {
                    let em = style.em * FINE as f64;
                    let mut font = (font::FAMILY, em * ink.size_per_em, style.weight()).into_font();
                    let mut at = (at.0 * FINE as f64, at.1 * FINE as f64);
                    if *upwards {
                        font = font.transform(FontTransform::Rotate270);
                        at.0 -= ink.baseline * em;
                    } else {
                        at.1 -= ink.baseline * em;
                    }
                    let side = match align {
                        Align::Left => HPos::Left,
                        Align::Centre => HPos::Center,
                        Align::Right => HPos::Right,
                    };
                    let style = TextStyle::from(font).pos(Pos::new(side, VPos::Top)).color(&style.colour);
                    area.draw_text(text, &style, (at.0.round() as i32, at.1.round() as i32))
                }
            }
            .map_err(|error| failed(error.to_string()))?;
        }
        area.present().map_err(|error| failed(error.to_string()))
    }
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
    // 200 dots per inch: eight inches wide, as a figure over both columns of a page.
    let per_metre = 7874;
    let dims = png::PixelDimensions { xppu: per_metre, yppu: per_metre, unit: png::Unit::Meter };
    encoder.set_pixel_dims(Some(dims));
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(bytes)
}
