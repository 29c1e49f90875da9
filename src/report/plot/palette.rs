//! Owns colours and markers: the palette of Okabe & Ito (2008) without its yellow and black, which are too pale for a thin
//! line and taken by the text. Each line also has a marker of its own, for print without colour. Areas may be yellow, and grey.
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

/// Colours of areas after those of lines.
const FURTHER_AREAS: [RGBColor; 2] = [RGBColor(240, 228, 66), RGBColor(128, 128, 128)];

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

/// Colour of the n-th area. After eight the colours come again, paler; after sixteen they repeat.
pub(super) fn area(n: usize) -> RGBColor {
    let count = COLOURS.len() + FURTHER_AREAS.len();
    let RGBColor(r, g, b) = COLOURS.iter().chain(&FURTHER_AREAS).nth(n % count).copied().unwrap_or(INK);
    if (n / count).is_multiple_of(2) {
        return RGBColor(r, g, b);
    }
    let pale = |channel: u8| channel / 2 + 127;
    RGBColor(pale(r), pale(g), pale(b))
}

/// Colour of a share of a scale: from a light grey at 0 to orange at 1, to blue at -1. Both ends are as dark as each other, and stay apart
/// without colour vision.
pub(super) fn shade(share: f64) -> RGBColor {
    let end = if share < 0.0 { RGBColor(0, 82, 140) } else { RGBColor(176, 62, 0) };
    let share = share.abs().clamp(0.0, 1.0);
    let channel = |end: u8| (242.0 + (f64::from(end) - 242.0) * share).round() as u8;
    RGBColor(channel(end.0), channel(end.1), channel(end.2))
}

/// Black or white, whichever is read better on `ground` (relative luminance as in WCAG 2).
pub(super) fn text_on(ground: RGBColor) -> RGBColor {
    let linear = |channel: u8| {
        let share = f64::from(channel) / 255.0;
        if share <= 0.04045 { share / 12.92 } else { ((share + 0.055) / 1.055).powf(2.4) }
    };
    let luminance = 0.2126 * linear(ground.0) + 0.7152 * linear(ground.1) + 0.0722 * linear(ground.2);
    // Contrast with white is 1.05 / (l + .05), with black (l + .05) / .05: equal at l = .179.
    if luminance > 0.179 { RGBColor(0, 0, 0) } else { RGBColor(255, 255, 255) }
}
