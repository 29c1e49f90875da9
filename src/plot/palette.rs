//! Owns colours and markers: the palette of Okabe & Ito (2008) without its yellow and black, which are too pale for a thin
//! line and taken by the text. Each line also has a marker of its own, for print without colour.
//!
//! Must not know: what is drawn.

use plotters::style::RGBColor;

const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// Text and axes.
pub(super) const INK: RGBColor = RGBColor(38, 38, 38);

/// Ticks' labels and other quiet text.
pub(super) const QUIET: RGBColor = RGBColor(90, 90, 90);

/// Lines of the grid.
pub(super) const GRID: RGBColor = RGBColor(228, 228, 228);

/// The line at zero.
pub(super) const ZERO: RGBColor = RGBColor(170, 170, 170);

/// Dashed lines.
pub(super) const DASHED: RGBColor = RGBColor(70, 70, 70);

/// Shape at a line's points.
#[derive(Clone, Copy)]
pub(super) enum Marker {
    Circle,
    Square,
    Triangle,
    Diamond,
}

/// Colour and marker of the n-th line that is not dashed; colours repeat after six, the pair after twelve.
pub(super) fn style(n: usize) -> (RGBColor, Marker) {
    const MARKERS: [Marker; 4] = [Marker::Circle, Marker::Square, Marker::Triangle, Marker::Diamond];
    (COLOURS[n % COLOURS.len()], MARKERS[n % MARKERS.len()])
}
