//! Draws a heatmap: heading, tiles with their values, hatching where there is none, row names at the left, column names below, a color
//! bar at the right.

use super::{Heatmap, Tile};
use crate::plot::canvas::{Align, Canvas, Point, SIZE};
use crate::plot::color::{self, Color, WHITE};
use crate::plot::font::TextStyle;
use crate::plot::layout::{Heading, LABEL, LEGEND, MARGIN, MIDDLE, TICK};
use crate::plot::scale::Scale;

const NAME: TextStyle = TextStyle { em: 20.0, bold: false, color: color::INK };
const VALUE_EM: f64 = 25.0;
const LEAST_EM: f64 = 13.0;
const NOTE_EM: f64 = 16.0;

/// Names of rows take at most this share of the width.
const NAME_SHARE: f64 = 0.2;

/// Lines of a column's name, before it is turned upwards.
const NAME_LINES: usize = 4;

/// Longest name that is turned upwards, in pixels.
const UPWARD: f64 = 300.0;

/// Limits of the size of a tile: rows share the usual height of a figure.
const HIGHEST: f64 = 150.0;
const LOWEST: f64 = 40.0;
const WIDEST: f64 = 260.0;

/// Width of the color bar, and of the gap between it and the tiles.
const BAR: f64 = 30.0;
const BAR_GAP: f64 = 40.0;

/// Distance between hatching lines.
const HATCH: f64 = 13.0;

/// The mapping of values to colors.
struct ColorScale {
    low: f64,
    high: f64,
    diverging: bool,
}

impl ColorScale {
    fn new(low: f64, high: f64, centered: bool) -> Self {
        if centered || (low < 0.0 && high > 0.0) {
            let most = low.abs().max(high.abs());
            let most = if most > 0.0 { most } else { 1.0 };
            return Self { low: -most, high: most, diverging: true };
        }
        if high > low {
            return Self { low, high, diverging: false };
        }
        // A single value is the middle of its scale.
        let size = low.abs().max(1.0);
        Self { low: low - size / 2.0, high: high + size / 2.0, diverging: false }
    }

    /// From 0 at the lower end to 1 at the upper.
    fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    fn of(&self, value: f64) -> Color {
        if self.diverging { color::shade(value / self.high) } else { color::shade(-0.08 - 0.92 * self.share(value)) }
    }
}

/// Column names: horizontal in wrapped lines, or turned upwards where columns are too narrow.
enum Names {
    Lines(Vec<Vec<String>>),
    Upwards(Vec<String>),
}

impl Names {
    fn new(columns: &[String], width: f64) -> Self {
        let room = width - 12.0;
        let wrapped: Option<Vec<Vec<String>>> = columns.iter().map(|name| wrap(name, room)).collect();
        wrapped.map_or_else(|| Self::Upwards(columns.iter().map(|name| NAME.fit(name, UPWARD)).collect()), Self::Lines)
    }

    fn height(&self) -> f64 {
        match self {
            Self::Lines(names) => names.iter().map(Vec::len).max().unwrap_or(0) as f64 * 1.24 * NAME.em,
            Self::Upwards(names) => names.iter().map(|name| NAME.width(name)).fold(0.0, f64::max),
        }
    }

    fn draw(&self, canvas: &mut Canvas, column: usize, middle: f64, top: f64) {
        match self {
            Self::Lines(names) => {
                for (line, text) in names[column].iter().enumerate() {
                    let y = top + line as f64 * 1.24 * NAME.em + 0.9 * NAME.em;
                    canvas.text(text.clone(), (middle, y), Align::Center, NAME);
                }
            }
            Self::Upwards(names) => {
                let name = &names[column];
                let at = (middle + MIDDLE * NAME.em, top + NAME.width(name) / 2.0);
                canvas.text_upwards(name.clone(), at, NAME);
            }
        }
    }
}

/// Draws `map`, which has been checked and whose values are from `low` to `high`.
pub(super) fn draw(map: &Heatmap, (low, high): (f64, f64)) -> Canvas {
    let colors = ColorScale::new(low, high, map.centred);
    let scale = Scale::values(colors.low, colors.high);
    let tick_width = scale.ticks.iter().map(|(_, label)| TICK.width(label)).fold(0.0, f64::max);
    let beside = BAR_GAP + BAR + 12.0 + tick_width;

    let names: Vec<String> = map.rows.iter().map(|name| NAME.fit(name, NAME_SHARE * SIZE.0)).collect();
    let name_width = names.iter().map(|name| NAME.width(name)).fold(0.0, f64::max);
    let before = LABEL.em + 18.0 + name_width + 16.0;
    let (rows, columns) = (map.rows.len() as f64, map.columns.len() as f64);
    let width = ((SIZE.0 - 2.0 * MARGIN - before - beside) / columns).min(WIDEST);
    // Space that few columns leave is split between both sides.
    let spare = SIZE.0 - 2.0 * MARGIN - before - beside - width * columns;
    let left = MARGIN + spare / 2.0 + before;
    let right = left + width * columns;

    let below = Names::new(&map.columns, width);
    let foot = 14.0 + below.height() + 20.0 + LABEL.em + MARGIN;
    let heading = Heading::new(&map.title, SIZE.0 - 2.0 * MARGIN);
    let subtitle = MARGIN + heading.height + 0.8 * LEGEND.em;
    let top = MARGIN + heading.height + if map.value_label.is_empty() { 0.0 } else { LEGEND.em + 26.0 };
    let height = ((SIZE.1 - top - foot) / rows).clamp(LOWEST, HIGHEST);
    let bottom = top + height * rows;
    let mut canvas = Canvas::new(bottom + foot);

    heading.draw(&mut canvas, MARGIN);
    let value_label = LEGEND.fit(&map.value_label, SIZE.0 - 2.0 * MARGIN);
    canvas.text(value_label, (MARGIN, subtitle), Align::Left, LEGEND);
    for (row, cells) in map.cells.iter().enumerate() {
        let over = top + height * row as f64;
        canvas.text(names[row].clone(), (left - 16.0, over + height / 2.0 + MIDDLE * NAME.em), Align::Right, NAME);
        for (column, cell) in cells.iter().enumerate() {
            let from = left + width * column as f64;
            match cell {
                Some(value) => tile(&mut canvas, value, colors.of(value.value), (from, over), (width, height)),
                None => empty(&mut canvas, (from, over), (width, height)),
            }
        }
    }
    for column in 0..=map.columns.len() {
        let x = left + width * column as f64;
        canvas.stroke(vec![(x, top), (x, bottom)], WHITE, 1.0, 3.0);
        if column < map.columns.len() {
            below.draw(&mut canvas, column, x + width / 2.0, bottom + 14.0);
        }
    }
    for row in 0..=map.rows.len() {
        let y = top + height * row as f64;
        canvas.stroke(vec![(left, y), (right, y)], WHITE, 1.0, 3.0);
    }
    let x_label = LABEL.fit(&map.x_label, SIZE.0 - 2.0 * MARGIN);
    let half = LABEL.width(&x_label) / 2.0;
    let middle = ((left + right) / 2.0).clamp(MARGIN + half, (SIZE.0 - MARGIN - half).max(MARGIN + half));
    canvas.text(x_label, (middle, bottom + foot - MARGIN + 2.0), Align::Center, LABEL);
    // Turned upwards, the label may take the whole height of the figure.
    let y_label = LABEL.fit(&map.y_label, bottom + foot - 2.0 * MARGIN);
    let half = LABEL.width(&y_label) / 2.0;
    let centre = ((top + bottom) / 2.0).clamp(MARGIN + half, (bottom + foot - MARGIN - half).max(MARGIN + half));
    let at = (left - before + 0.75 * LABEL.em, centre);
    canvas.text_upwards(y_label, at, LABEL);
    color_bar(&mut canvas, &colors, &scale, right + BAR_GAP, (top, bottom));
    canvas
}

fn tile(canvas: &mut Canvas, tile: &Tile, color: Color, at: Point, size: (f64, f64)) {
    canvas.rectangle(at, size, color, 1.0);
    let ink = color::text_on(color);
    let (centre, middle) = (at.0 + size.0 / 2.0, at.1 + size.1 / 2.0);
    let room = size.0 - 12.0;
    let note = TextStyle { em: NOTE_EM, bold: false, color: ink };
    let noted = !tile.note.is_empty() && size.1 >= 62.0 && note.width(&tile.note) <= room;
    let wide = TextStyle { em: VALUE_EM, bold: true, color: ink };
    let em = (VALUE_EM * room / wide.width(&tile.text).max(1.0)).min(VALUE_EM).min(0.7 * size.1);
    if em < LEAST_EM {
        // Too small to read; the color stays.
        return;
    }
    let value = TextStyle { em, ..wide };
    let baseline = middle + MIDDLE * em - if noted { 0.55 * NOTE_EM } else { 0.0 };
    canvas.text(tile.text.clone(), (centre, baseline), Align::Center, value);
    if noted {
        canvas.text(tile.note.clone(), (centre, baseline + 1.45 * NOTE_EM), Align::Center, note);
    }
}

/// A tile without a value: hatched, with a dash in the middle.
fn empty(canvas: &mut Canvas, at: Point, size: (f64, f64)) {
    canvas.rectangle(at, size, WHITE, 1.0);
    let (width, height) = size;
    // Lines x + y = c from the tile's lower left to its upper right, cut at its edges.
    let mut c = HATCH;
    while c < width + height {
        let from = (at.0 + (c - height).max(0.0), at.1 + c.min(height));
        let to = (at.0 + c.min(width), at.1 + (c - width).max(0.0));
        canvas.stroke(vec![from, to], color::ZERO, 0.75, 1.3);
        c += HATCH;
    }
    let dash = TextStyle { em: VALUE_EM, bold: true, color: color::QUIET };
    let (centre, middle) = (at.0 + width / 2.0, at.1 + height / 2.0);
    let ground = (16.0_f64.min(0.5 * width), 13.0_f64.min(0.5 * height));
    let left_top = (centre - ground.0, middle - ground.1);
    canvas.rectangle(left_top, (2.0 * ground.0, 2.0 * ground.1), WHITE, 1.0);
    canvas.text("–", (centre, middle + 0.3 * dash.em), Align::Center, dash);
}

/// The color bar, with as many ticks as fit.
fn color_bar(canvas: &mut Canvas, colors: &ColorScale, scale: &Scale, left: f64, (top, bottom): (f64, f64)) {
    const STEPS: usize = 120;
    let height = bottom - top;
    let up = |share: f64| bottom - height * share;
    for step in 0..STEPS {
        let (from, to) = (step as f64 / STEPS as f64, (step + 1) as f64 / STEPS as f64);
        let value = colors.low + (colors.high - colors.low) * (from + to) / 2.0;
        // Each step overlaps the next, so that no seam shows between them.
        let over = up((to + 0.5 / STEPS as f64).min(1.0));
        canvas.rectangle((left, over), (BAR, up(from) - over), colors.of(value), 1.0);
    }
    canvas.frame((left, top), (BAR, height), color::QUIET, 1.3);
    let inside = |value: f64| (-1e-9..=1.0 + 1e-9).contains(&colors.share(value));
    let ticks: Vec<&(f64, String)> = scale.ticks.iter().filter(|(value, _)| inside(*value)).collect();
    // Every tick, or every second, ..., such that 0 is among them.
    let most = (height / (1.5 * TICK.em)).max(2.0);
    let every = (ticks.len() as f64 / most).ceil().max(1.0) as usize;
    let zero = ticks.iter().position(|(value, _)| *value == 0.0).unwrap_or(0);
    for (value, label) in ticks.into_iter().skip(zero % every).step_by(every) {
        let y = up(colors.share(*value));
        canvas.stroke(vec![(left + BAR, y), (left + BAR + 7.0, y)], color::QUIET, 1.0, 1.3);
        canvas.text(label.clone(), (left + BAR + 12.0, y + MIDDLE * TICK.em), Align::Left, TICK);
    }
}

/// A name in lines of `room` pixels, broken after spaces and punctuation. `None` if that takes more than `NAME_LINES`, or one part is
/// too long.
fn wrap(name: &str, room: f64) -> Option<Vec<String>> {
    let name: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut lines = vec![String::new()];
    for part in name.split_inclusive([' ', '-', '_', '/', '.', ':']) {
        let last = lines.last_mut()?;
        if last.is_empty() || NAME.width(&format!("{last}{}", part.trim_end())) <= room {
            *last += part;
        } else {
            lines.push(part.to_owned());
        }
        if NAME.width(lines.last()?.trim_end()) > room || lines.len() > NAME_LINES {
            return None;
        }
    }
    Some(lines.into_iter().map(|line| line.trim_end().to_owned()).collect())
}
