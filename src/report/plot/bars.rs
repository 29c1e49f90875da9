//! Owns the drawing of stacked bars: heading, legend in the order of the segments, a scale in per cent, one bar a group with its
//! name at the left, its total at the right, and counts in the segments that are wide enough for them.
//!
//! Must not know: file formats, what is counted.

use plotters::style::WHITE;

use super::canvas::{Align, Canvas, Point, SIZE, Type};
use super::lines::{Heading, LABEL, LEGEND, MARGIN, TICK};
use super::palette;
use super::stacked::{Bar, StackedBars};

const NAME: Type = Type { em: 22.0, bold: false, colour: palette::INK };
const COUNT_EM: f64 = 20.0;

/// The names at the left take at most this share of the width.
const NAME_SHARE: f64 = 0.26;

/// Lines of a bar's name, unless there are more bars than `SPACIOUS`.
const NAME_LINES: usize = 2;
const SPACIOUS: usize = 24;

/// With so few bars each has room for one line more.
const FEW: usize = 6;

/// A legend's entry takes at most this share of the width.
const LEGEND_SHARE: f64 = 0.46;

const LEGEND_ROWS: usize = 10;

const SWATCH: f64 = 24.0;

/// The room a bar has with few bars, with many, with more than `SPACIOUS`; and how much of it the bar takes.
const WIDE_SLOT: f64 = 108.0;
const NARROW_SLOT: f64 = 62.0;
const TIGHT_SLOT: f64 = 34.0;
const BAR_SHARE: f64 = 0.66;

/// Draws `chart`, which has been checked.
pub(super) fn draw(chart: &StackedBars) -> Canvas {
    let right_edge = SIZE.0 - MARGIN;
    let (narrowest, lines) = match chart.bars.len() {
        count if count <= FEW => (NARROW_SLOT, NAME_LINES + 1),
        count if count <= SPACIOUS => (NARROW_SLOT, NAME_LINES),
        _ => (TIGHT_SLOT, 1),
    };
    let names: Vec<Vec<String>> =
        chart.bars.iter().map(|bar| NAME.lines(&bar.label, lines, NAME_SHARE * SIZE.0)).collect();
    let name_width = names.iter().flatten().map(|line| NAME.width(line)).fold(0.0, f64::max);
    let totals: Vec<String> = chart.bars.iter().map(|bar| format!("n = {}", total(bar))).collect();
    let total_width = totals.iter().map(|text| TICK.width(text)).fold(0.0, f64::max);
    let left = MARGIN + name_width + 18.0;
    let right = right_edge - total_width - 18.0;

    let legend = Legend::new(chart, right_edge - MARGIN);
    let heading = Heading::new(&chart.title, right_edge - MARGIN);
    let top = MARGIN + heading.height + legend.height + 20.0;
    // Few bars may be thick; many get what is left of the usual height, as long as a name fits beside them.
    let slot = ((SIZE.1 - top - 104.0) / chart.bars.len() as f64).clamp(narrowest, WIDE_SLOT);
    let bottom = top + slot * chart.bars.len() as f64;
    let mut canvas = Canvas::of_height(bottom + 104.0);

    heading.draw(&mut canvas, MARGIN);
    legend.draw(&mut canvas, (MARGIN, MARGIN + heading.height));
    scale(&mut canvas, chart, (left, right), (top, bottom));
    for (index, bar) in chart.bars.iter().enumerate() {
        let middle = top + slot * (index as f64 + 0.5);
        let half = BAR_SHARE * slot / 2.0;
        let first = middle - (names[index].len() as f64 - 1.0) * 0.62 * NAME.em;
        for (line, text) in names[index].iter().enumerate() {
            let y = first + line as f64 * 1.24 * NAME.em + 0.36 * NAME.em;
            canvas.text(text.clone(), (left - 18.0, y), Align::Right, NAME);
        }
        canvas.text(totals[index].clone(), (right_edge, middle + 0.36 * TICK.em), Align::Right, TICK);
        segments(&mut canvas, bar, (left, right), (middle - half, middle + half));
    }
    canvas.stroke(vec![(left, top), (left, bottom), (right, bottom)], palette::QUIET, 1.0, 1.6);
    canvas
}

fn total(bar: &Bar) -> u128 {
    bar.counts.iter().map(|&count| u128::from(count)).sum()
}

fn scale(canvas: &mut Canvas, chart: &StackedBars, (left, right): (f64, f64), (top, bottom): (f64, f64)) {
    for percent in (0..=100).step_by(20) {
        let x = left + (right - left) * f64::from(percent) / 100.0;
        canvas.stroke(vec![(x, top), (x, bottom)], palette::GRID, 1.0, 1.3);
        canvas.stroke(vec![(x, bottom), (x, bottom + 7.0)], palette::QUIET, 1.0, 1.3);
        canvas.text(format!("{percent} %"), (x, bottom + 12.0 + TICK.em), Align::Centre, TICK);
    }
    let label = LABEL.fit(&chart.x_label, SIZE.0 - 2.0 * MARGIN);
    // In the middle under the bars, unless it is too long to stand there.
    let half = LABEL.width(&label) / 2.0;
    let x = ((left + right) / 2.0).clamp(MARGIN + half, (SIZE.0 - MARGIN - half).max(MARGIN + half));
    canvas.text(label, (x, bottom + 104.0 - MARGIN + 4.0), Align::Centre, LABEL);
}

fn segments(canvas: &mut Canvas, bar: &Bar, (left, right): (f64, f64), (top, bottom): (f64, f64)) {
    let all = total(bar);
    let corners = |from: f64, to: f64| vec![(from, top), (to, top), (to, bottom), (from, bottom)];
    if all == 0 {
        let mut frame = corners(left, right);
        frame.push(frame[0]);
        canvas.area(corners(left, right), WHITE, 1.0);
        canvas.stroke(frame, palette::ZERO, 1.0, 1.3);
        return;
    }
    let across = |count: u128| left + (right - left) * (count as f64 / all as f64);
    let mut before = 0;
    let mut edges = Vec::new();
    for (category, &count) in bar.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let (from, to) = (across(before), across(before + u128::from(count)));
        let colour = palette::area(category);
        canvas.area(corners(from, to), colour, 1.0);
        let style = Type { em: COUNT_EM, bold: true, colour: palette::text_on(colour) };
        let text = count.to_string();
        if style.width(&text) + 12.0 <= to - from {
            canvas.text(text, ((from + to) / 2.0, (top + bottom) / 2.0 + 0.36 * COUNT_EM), Align::Centre, style);
        }
        before += u128::from(count);
        edges.push(to);
    }
    edges.pop();
    // Neighbours stay apart even where their colours look alike.
    for x in edges {
        canvas.stroke(vec![(x, top), (x, bottom)], WHITE, 1.0, 2.0);
    }
}

/// Entries side by side, wrapped. What does not fit into `LEGEND_ROWS` is counted.
struct Legend {
    /// Text, the category whose colour it has, and its place as seen from the legend's top left.
    entries: Vec<(String, Option<usize>, Point)>,
    height: f64,
}

impl Legend {
    fn new(chart: &StackedBars, width: f64) -> Self {
        let row = LEGEND.em * 1.6;
        let (mut x, mut rows) = (0.0, 1);
        let mut entries = Vec::new();
        for (category, name) in chart.categories.iter().enumerate() {
            let text = LEGEND.fit(name, LEGEND_SHARE * width);
            let length = SWATCH + 10.0 + LEGEND.width(&text);
            if x > 0.0 && x + length > width {
                x = 0.0;
                rows += 1;
            }
            let middle = (rows as f64 - 0.5) * row;
            if rows > LEGEND_ROWS {
                let more = format!("and {} more", chart.categories.len() - category);
                entries.push((more, None, (0.0, middle)));
                break;
            }
            entries.push((text, Some(category), (x, middle)));
            x += length + 34.0;
        }
        Self { entries, height: row * rows as f64 }
    }

    fn draw(self, canvas: &mut Canvas, (left, top): Point) {
        for (text, category, (x, middle)) in self.entries {
            let (mut x, middle) = (left + x, top + middle);
            if let Some(category) = category {
                let (over, under) = (middle - SWATCH / 2.0, middle + SWATCH / 2.0);
                let corners = vec![(x, over), (x + SWATCH, over), (x + SWATCH, under), (x, under)];
                canvas.area(corners, palette::area(category), 1.0);
                x += SWATCH + 10.0;
            }
            canvas.text(text, (x, middle + 0.36 * LEGEND.em), Align::Left, LEGEND);
        }
    }
}
