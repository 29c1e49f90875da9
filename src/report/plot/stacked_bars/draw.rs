//! Draws stacked bars: heading, legend in the order of the segments, a percent scale, and one bar per group with its name at the left,
//! its total at the right, and counts in the segments that are wide enough for them.

use super::{Bar, StackedBars};
use crate::plot::canvas::{Align, Canvas, SIZE};
use crate::plot::color::{self, WHITE};
use crate::plot::font::TextStyle;
use crate::plot::layout::{Heading, LABEL, MARGIN, MIDDLE, TICK};
use crate::plot::legend::{EntryLayout, Legend};

const NAME: TextStyle = TextStyle { em: 22.0, bold: false, color: color::INK };
const COUNT_EM: f64 = 20.0;

/// The names at the left take at most this share of the width.
const NAME_SHARE: f64 = 0.26;

/// Lines of a bar's name, unless there are more bars than `SPACIOUS`.
const NAME_LINES: usize = 2;
const SPACIOUS: usize = 24;

/// Up to this many bars, a name may have one more line.
const FEW: usize = 6;

const SWATCH: f64 = 24.0;

/// From the lower edge of the bars to that of the figure.
const FOOT: f64 = 104.0;

/// Height of the slot of a bar if there are few bars, many, more than `SPACIOUS`; and the share of it that the bar fills.
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

    let names_of_categories: Vec<(usize, &str)> = chart.categories.iter().map(String::as_str).enumerate().collect();
    let entry = EntryLayout { swatch: SWATCH, gap: 10.0, name_share: 0.46, between: 34.0 };
    let legend = Legend::new(&names_of_categories, right_edge - MARGIN, entry);
    let heading = Heading::new(&chart.title, right_edge - MARGIN);
    let top = MARGIN + heading.height + legend.height + 20.0;
    // Bars share the usual height; they are no thicker than a wide slot and no thinner than a name needs.
    let slot = ((SIZE.1 - top - FOOT) / chart.bars.len() as f64).clamp(narrowest, WIDE_SLOT);
    let bottom = top + slot * chart.bars.len() as f64;
    let mut canvas = Canvas::new(bottom + FOOT);

    heading.draw(&mut canvas, MARGIN);
    legend.draw(&mut canvas, (MARGIN, MARGIN + heading.height), |canvas, category, (x, middle)| {
        canvas.rectangle((x, middle - SWATCH / 2.0), (SWATCH, SWATCH), color::area(category), 1.0);
    });
    scale(&mut canvas, chart, (left, right), (top, bottom));
    for (index, bar) in chart.bars.iter().enumerate() {
        let middle = top + slot * (index as f64 + 0.5);
        let half = BAR_SHARE * slot / 2.0;
        let first = middle - (names[index].len() as f64 - 1.0) * 0.62 * NAME.em;
        for (line, text) in names[index].iter().enumerate() {
            let y = first + line as f64 * 1.24 * NAME.em + MIDDLE * NAME.em;
            canvas.text(text.clone(), (left - 18.0, y), Align::Right, NAME);
        }
        canvas.text(totals[index].clone(), (right_edge, middle + MIDDLE * TICK.em), Align::Right, TICK);
        segments(&mut canvas, bar, (left, right), (middle - half, middle + half));
    }
    canvas.stroke(vec![(left, top), (left, bottom), (right, bottom)], color::QUIET, 1.0, 1.6);
    canvas
}

fn total(bar: &Bar) -> u128 {
    bar.counts.iter().map(|&count| u128::from(count)).sum()
}

fn scale(canvas: &mut Canvas, chart: &StackedBars, (left, right): (f64, f64), (top, bottom): (f64, f64)) {
    for percent in (0..=100).step_by(20) {
        let x = left + (right - left) * f64::from(percent) / 100.0;
        canvas.stroke(vec![(x, top), (x, bottom)], color::GRID, 1.0, 1.3);
        canvas.stroke(vec![(x, bottom), (x, bottom + 7.0)], color::QUIET, 1.0, 1.3);
        canvas.text(format!("{percent} %"), (x, bottom + 12.0 + TICK.em), Align::Center, TICK);
    }
    let label = LABEL.fit(&chart.x_label, SIZE.0 - 2.0 * MARGIN);
    // Centered below the bars unless it is too long for that.
    let half = LABEL.width(&label) / 2.0;
    let x = ((left + right) / 2.0).clamp(MARGIN + half, (SIZE.0 - MARGIN - half).max(MARGIN + half));
    canvas.text(label, (x, bottom + FOOT - MARGIN + 4.0), Align::Center, LABEL);
}

fn segments(canvas: &mut Canvas, bar: &Bar, (left, right): (f64, f64), (top, bottom): (f64, f64)) {
    let all = total(bar);
    if all == 0 {
        let size = (right - left, bottom - top);
        canvas.rectangle((left, top), size, WHITE, 1.0);
        canvas.frame((left, top), size, color::ZERO, 1.3);
        return;
    }
    let across = |count: u128| left + (right - left) * (count as f64 / all as f64);
    let mut before = 0;
    let mut edges = Vec::new();
    for (category, &count) in bar.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let (from, to) = (across(before), across(before + u128::from(count)));
        let color = color::area(category);
        canvas.rectangle((from, top), (to - from, bottom - top), color, 1.0);
        let style = TextStyle { em: COUNT_EM, bold: true, color: color::text_on(color) };
        let text = count.to_string();
        if style.width(&text) + 12.0 <= to - from {
            canvas.text(text, ((from + to) / 2.0, (top + bottom) / 2.0 + MIDDLE * COUNT_EM), Align::Center, style);
        }
        before += u128::from(count);
        edges.push(to);
    }
    edges.pop();
    // Separates neighbors of similar color.
    for x in edges {
        canvas.stroke(vec![(x, top), (x, bottom)], WHITE, 1.0, 2.0);
    }
}
