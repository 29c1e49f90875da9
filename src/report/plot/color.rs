//! Colors and markers: the palette of Okabe & Ito (2008). Lines use neither its yellow, which is too pale, nor its black, which is the
//! text's. Each line also has a marker, for print without color.

/// Red, green, blue.
#[derive(Clone, Copy)]
pub(super) struct Color(pub u8, pub u8, pub u8);

pub(super) const WHITE: Color = Color(255, 255, 255);

const LINES: [Color; 6] = [
    Color(0, 114, 178),
    Color(213, 94, 0),
    Color(0, 158, 115),
    Color(204, 121, 167),
    Color(230, 159, 0),
    Color(86, 180, 233),
];

/// Colors of areas, after those of lines.
const MORE_AREAS: [Color; 2] = [Color(240, 228, 66), Color(128, 128, 128)];

/// Text and axes.
pub(super) const INK: Color = Color(38, 38, 38);

/// Tick labels and other secondary text.
pub(super) const QUIET: Color = Color(90, 90, 90);

/// Lines of the grid.
pub(super) const GRID: Color = Color(228, 228, 228);

/// The line at zero.
pub(super) const ZERO: Color = Color(170, 170, 170);

/// Dashed lines.
pub(super) const DASHED: Color = Color(70, 70, 70);

/// Shape at a line's points.
#[derive(Clone, Copy)]
pub(super) enum Marker {
    Circle,
    Square,
    Triangle,
    Diamond,
}

/// Color and marker of the n-th line that is not dashed; colors repeat after six, the pair after twelve.
pub(super) fn style(n: usize) -> (Color, Marker) {
    const MARKERS: [Marker; 4] = [Marker::Circle, Marker::Square, Marker::Triangle, Marker::Diamond];
    (LINES[n % LINES.len()], MARKERS[n % MARKERS.len()])
}

/// Color of the n-th area: eight colors, then the same eight paler, then both again.
pub(super) fn area(n: usize) -> Color {
    let count = LINES.len() + MORE_AREAS.len();
    let Color(r, g, b) = LINES.iter().chain(&MORE_AREAS).nth(n % count).copied().unwrap_or(INK);
    if (n / count).is_multiple_of(2) {
        return Color(r, g, b);
    }
    let pale = |channel: u8| channel / 2 + 127;
    Color(pale(r), pale(g), pale(b))
}

/// Color of `share` (-1 to 1) of a diverging scale: light gray at 0, orange at 1, blue at -1. The ends are equally dark and stay distinct
/// for readers with color blindness.
pub(super) fn shade(share: f64) -> Color {
    let end = if share < 0.0 { Color(0, 82, 140) } else { Color(176, 62, 0) };
    let share = share.abs().clamp(0.0, 1.0);
    let channel = |end: u8| (242.0 + (f64::from(end) - 242.0) * share).round() as u8;
    Color(channel(end.0), channel(end.1), channel(end.2))
}

/// Black or white, whichever has more contrast with `ground` (relative luminance as in WCAG 2).
pub(super) fn text_on(ground: Color) -> Color {
    let linear = |channel: u8| {
        let share = f64::from(channel) / 255.0;
        if share <= 0.04045 { share / 12.92 } else { ((share + 0.055) / 1.055).powf(2.4) }
    };
    let luminance = 0.2126 * linear(ground.0) + 0.7152 * linear(ground.1) + 0.0722 * linear(ground.2);
    // Contrast with white is 1.05 / (l + .05), with black (l + .05) / .05: equal at l = .179.
    if luminance > 0.179 { Color(0, 0, 0) } else { Color(255, 255, 255) }
}
