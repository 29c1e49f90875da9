//! `Canvas`: the primitives of a figure, from back to front.

use super::color::Color;
use super::font::TextStyle;

/// Width and height in pixels of a figure that needs no other height.
pub(super) const SIZE: (f64, f64) = (1600.0, 1000.0);

/// A place in pixels from the top left, fractions allowed.
pub(super) type Point = (f64, f64);

/// Which part of a text is at its place.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Align {
    Left,
    Center,
    Right,
}

pub(super) enum Primitive {
    Stroke { points: Vec<Point>, color: Color, opacity: f64, width: f64, dashed: bool },
    Area { points: Vec<Point>, color: Color, opacity: f64 },
    Disc { center: Point, radius: f64, color: Color },
    Text { text: String, at: Point, align: Align, upwards: bool, style: TextStyle },
}

/// Lengths in pixels of a dash and of the gap after it. Three dashes and two gaps fill a legend's swatch.
pub(super) const DASH: (f64, f64) = (10.0, 8.0);

/// The primitives of a figure on a white ground.
pub struct Canvas {
    pub(super) height: f64,
    pub(super) primitives: Vec<Primitive>,
}

impl Canvas {
    /// An empty canvas as wide as `SIZE` and `height` pixels high, rounded.
    pub(super) fn new(height: f64) -> Self {
        Self { height: height.round(), primitives: Vec::new() }
    }

    /// A line through `points`, `width` pixels wide.
    pub(super) fn stroke(&mut self, points: Vec<Point>, color: Color, opacity: f64, width: f64) {
        self.line(points, color, opacity, width, false);
    }

    /// As `stroke`, opaque and in dashes that continue around corners.
    pub(super) fn dashed_stroke(&mut self, points: Vec<Point>, color: Color, width: f64) {
        self.line(points, color, 1.0, width, true);
    }

    fn line(&mut self, points: Vec<Point>, color: Color, opacity: f64, width: f64, dashed: bool) {
        if points.len() > 1 {
            self.primitives.push(Primitive::Stroke { points, color, opacity, width, dashed });
        }
    }

    /// A filled polygon.
    pub(super) fn area(&mut self, points: Vec<Point>, color: Color, opacity: f64) {
        if points.len() > 2 {
            self.primitives.push(Primitive::Area { points, color, opacity });
        }
    }

    /// A filled rectangle from `corner`, its upper left, `size` = (width, height).
    pub(super) fn rectangle(&mut self, corner: Point, size: (f64, f64), color: Color, opacity: f64) {
        self.area(corners(corner, size), color, opacity);
    }

    /// The outline of a rectangle.
    pub(super) fn frame(&mut self, corner: Point, size: (f64, f64), color: Color, width: f64) {
        let mut outline = corners(corner, size);
        outline.push(corner);
        self.stroke(outline, color, 1.0, width);
    }

    /// A filled circle.
    pub(super) fn disc(&mut self, center: Point, radius: f64, color: Color) {
        self.primitives.push(Primitive::Disc { center, radius, color });
    }

    /// A line of text with its baseline at `at`.
    pub(super) fn text(&mut self, text: impl Into<String>, at: Point, align: Align, style: TextStyle) {
        self.primitives.push(Primitive::Text { text: text.into(), at, align, upwards: false, style });
    }

    /// A line of text that runs upwards, centered on `at`, its baseline to the right.
    pub(super) fn text_upwards(&mut self, text: impl Into<String>, at: Point, style: TextStyle) {
        self.primitives.push(Primitive::Text { text: text.into(), at, align: Align::Center, upwards: true, style });
    }
}

fn corners((x, y): Point, (width, height): (f64, f64)) -> Vec<Point> {
    vec![(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
}
