//! Type sizes, margins and the heading that all charts share.

use super::canvas::{Align, Canvas};
use super::color;
use super::font::TextStyle;

pub(super) const TITLE: TextStyle = TextStyle { em: 28.0, bold: true, color: color::INK };
pub(super) const LABEL: TextStyle = TextStyle { em: 23.0, bold: false, color: color::INK };
pub(super) const LEGEND: TextStyle = TextStyle { em: 22.0, bold: false, color: color::INK };
pub(super) const TICK: TextStyle = TextStyle { em: 20.0, bold: false, color: color::QUIET };

/// Pixels kept free at every edge.
pub(super) const MARGIN: f64 = 36.0;

/// From the middle of a line of text down to its baseline, in em.
pub(super) const MIDDLE: f64 = 0.36;

/// The title at the top of a figure, in two lines if it needs them.
pub(super) struct Heading {
    lines: Vec<String>,
    /// Pixels below the margin, the gap under the heading included.
    pub height: f64,
}

impl Heading {
    const LINE: f64 = 1.25 * TITLE.em;

    pub(super) fn new(title: &str, room: f64) -> Self {
        let lines = TITLE.lines(title, 2, room);
        let height = match lines.len() {
            0 => 0.0,
            count => TITLE.em * 0.8 + Self::LINE * (count - 1) as f64 + 24.0,
        };
        Self { lines, height }
    }

    pub(super) fn draw(&self, canvas: &mut Canvas, left: f64) {
        for (index, line) in self.lines.iter().enumerate() {
            let y = MARGIN + TITLE.em * 0.8 + Self::LINE * index as f64;
            canvas.text(line.clone(), (left, y), Align::Left, TITLE);
        }
    }
}
