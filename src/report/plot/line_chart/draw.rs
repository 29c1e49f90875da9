//! Draws a line chart: heading, legend, axes, and from back to front traces, bands, lines, markers.

use super::{Line, LineChart};
use crate::plot::canvas::{Align, Canvas, Point, SIZE};
use crate::plot::color::{self, Color, Marker, WHITE};
use crate::plot::layout::{Heading, LABEL, MARGIN, MIDDLE, TICK};
use crate::plot::legend::{EntryLayout, Legend};
use crate::plot::scale::Scale;

/// Draws one part of a line in its style.
type DrawLine<'a> = &'a dyn Fn(&mut Canvas, &Line, (Color, Marker), &Frame);

const LINE_WIDTH: f64 = 3.4;
const DASHED_WIDTH: f64 = 2.6;
const MARKER_RADIUS: f64 = 5.4;
const SWATCH: f64 = 46.0;

/// From the lower edge of the frame to that of the figure.
const FOOT: f64 = 104.0;

/// The rectangle that holds the data, and its scales.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    x: Scale,
    y: Scale,
    /// Positions of the values on the horizontal axis.
    positions: Vec<f64>,
    /// Horizontal offset in pixels of the line being drawn.
    shift: f64,
}

impl Frame {
    fn at(&self, turn: usize, y: f64) -> Point {
        let x = self.positions.get(turn).copied().unwrap_or((turn + 1) as f64);
        (self.across(x) + self.shift, self.up(y))
    }

    /// The least distance of two positions, in pixels.
    fn least_gap(&self) -> f64 {
        let gaps = self.positions.windows(2).map(|pair| self.across(pair[1]) - self.across(pair[0]));
        gaps.fold(self.right - self.left, f64::min)
    }

    fn across(&self, x: f64) -> f64 {
        self.left + (self.right - self.left) * self.x.share(x)
    }

    fn up(&self, y: f64) -> f64 {
        self.bottom - (self.bottom - self.top) * self.y.share(y)
    }
}

/// Draws `chart`, which has been checked and whose values are between `low` and `high`.
pub(super) fn draw(chart: &LineChart, (low, high): (f64, f64)) -> Canvas {
    let mut canvas = Canvas::new(SIZE.1);
    let (x, positions) = match chart.positions.as_slice() {
        [] => (Scale::turns(chart.turns()), (1..=chart.turns()).map(|turn| turn as f64).collect()),
        positions => (Scale::positions(positions), positions.to_vec()),
    };
    let y = Scale::values(low, high);
    let tick_width = y.ticks.iter().map(|(_, label)| TICK.width(label)).fold(0.0, f64::max);
    let left = MARGIN + LABEL.em + 22.0 + tick_width + 16.0;
    let right = SIZE.0 - MARGIN;
    let styles = styles(chart);

    let heading = Heading::new(&chart.title, right - left);
    heading.draw(&mut canvas, left);
    let names = chart.series.iter().map(|line| line.label.as_str()).enumerate().filter(|(_, name)| !name.is_empty());
    let entry = EntryLayout { swatch: SWATCH, gap: 12.0, name_share: 0.42, between: 38.0 };
    let legend = Legend::new(&names.collect::<Vec<_>>(), right - left, entry);
    let top = MARGIN + heading.height + legend.height + 20.0;
    legend.draw(&mut canvas, (left, MARGIN + heading.height), |canvas, line, at| {
        swatch(canvas, &chart.series[line], styles[line], at);
    });
    let mut frame = Frame { left, right, top, bottom: SIZE.1 - FOOT, x, y, positions, shift: 0.0 };
    axes(&mut canvas, chart, &frame);

    let shifts = shifts(chart, &frame);
    // Dashed lines lie under the others.
    let (dashed, others): (Vec<usize>, Vec<usize>) =
        (0..chart.series.len()).partition(|&index| chart.series[index].dashed);
    let ordered: Vec<usize> = dashed.into_iter().chain(others).collect();
    let mut layer = |order: &[usize], draw: DrawLine| {
        for &index in order {
            frame.shift = shifts[index];
            draw(&mut canvas, &chart.series[index], styles[index], &frame);
        }
    };
    let as_given: Vec<usize> = (0..chart.series.len()).collect();
    layer(&as_given, &traces);
    layer(&as_given, &band);
    layer(&ordered, &|canvas, line, style, frame| {
        whiskers(canvas, line, style, frame);
        mean_line(canvas, line, style, frame);
    });
    // In front of all lines: where one lies on another its markers still show it.
    layer(&ordered, &markers);
    canvas
}

/// Horizontal offset of each line in pixels: lines with whiskers, and lines that would cover each other, are spread around their
/// positions; the others have 0.
fn shifts(chart: &LineChart, frame: &Frame) -> Vec<f64> {
    const APART: f64 = 14.0;
    let whiskered = |line: &Line| !line.whiskers.is_empty();
    // Lines to spread around the same positions; the first represents its group.
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (index, line) in chart.series.iter().enumerate().filter(|(_, line)| !line.dashed) {
        let together = |first: &Line| match (whiskered(first), whiskered(line)) {
            (true, true) => true,
            (false, false) => coincide(first, line, frame),
            _ => false,
        };
        match groups.iter_mut().find(|group| together(&chart.series[group[0]])) {
            Some(group) => group.push(index),
            None => groups.push(vec![index]),
        }
    }
    let mut shifts = vec![0.0; chart.series.len()];
    for group in groups {
        let apart = APART.min(frame.least_gap() / (group.len() + 2) as f64);
        for (place, &index) in group.iter().enumerate() {
            shifts[index] = (place as f64 - (group.len() as f64 - 1.0) / 2.0) * apart;
        }
    }
    shifts
}

/// Whether one line would cover the other nearly everywhere.
fn coincide(a: &Line, b: &Line, frame: &Frame) -> bool {
    const NEAR: f64 = 3.0;
    let both = a.mean.iter().zip(&b.mean).filter_map(|(a, b)| Some(((*a)?, (*b)?)));
    let near = both.map(|(a, b)| (frame.up(a) - frame.up(b)).abs() < NEAR).collect::<Vec<bool>>();
    !near.is_empty() && 4 * near.iter().filter(|near| **near).count() >= 3 * near.len()
}

/// Individual samples; many are as dark together as few.
fn traces(canvas: &mut Canvas, line: &Line, (color, _): (Color, Marker), frame: &Frame) {
    let opacity = (3.2 / line.traces.len().max(1) as f64).clamp(0.05, 0.35);
    for run in line.traces.iter().flat_map(|trace| runs(trace)) {
        canvas.stroke(run.iter().map(|&(turn, y)| frame.at(turn, y)).collect(), color, opacity, 1.3);
    }
}

/// From mean minus half to mean plus half, with a cap at both ends.
fn whiskers(canvas: &mut Canvas, line: &Line, (color, _): (Color, Marker), frame: &Frame) {
    const CAP: f64 = 6.0;
    for (turn, half) in line.whiskers.iter().enumerate() {
        let Some((mean, half)) = line.mean.get(turn).copied().flatten().zip(*half) else { continue };
        let ends = [frame.at(turn, mean - half), frame.at(turn, mean + half)];
        canvas.stroke(ends.to_vec(), color, 0.75, 2.0);
        for (x, y) in ends {
            canvas.stroke(vec![(x - CAP, y), (x + CAP, y)], color, 0.75, 2.0);
        }
    }
}

/// Color and marker of each line; dashed lines take none from the palette.
fn styles(chart: &LineChart) -> Vec<(Color, Marker)> {
    let mut next = 0;
    let style = |line: &Line| {
        if line.dashed {
            return (color::DASHED, Marker::Circle);
        }
        next += 1;
        color::style(next - 1)
    };
    chart.series.iter().map(style).collect()
}

/// The sample of a line in the legend, from `x`, the middle of its left edge.
fn swatch(canvas: &mut Canvas, line: &Line, (color, marker): (Color, Marker), (x, middle): Point) {
    let ends = vec![(x, middle), (x + SWATCH, middle)];
    if line.dashed {
        return canvas.dashed_stroke(ends, color, DASHED_WIDTH);
    }
    if line.band.iter().any(Option::is_some) {
        canvas.rectangle((x, middle - 8.0), (SWATCH, 16.0), color, 0.22);
    }
    canvas.stroke(ends, color, 1.0, LINE_WIDTH);
    point(canvas, (x + SWATCH / 2.0, middle), color, marker);
}

fn axes(canvas: &mut Canvas, chart: &LineChart, frame: &Frame) {
    let Frame { left, right, top, bottom, .. } = *frame;
    for (value, label) in &frame.y.ticks {
        let y = frame.up(*value);
        let color = if *value == 0.0 { color::ZERO } else { color::GRID };
        canvas.stroke(vec![(left, y), (right, y)], color, 1.0, 1.3);
        canvas.text(label.clone(), (left - 14.0, y + MIDDLE * TICK.em), Align::Right, TICK);
    }
    for (value, label) in &frame.x.ticks {
        let x = frame.across(*value);
        canvas.stroke(vec![(x, bottom), (x, bottom + 7.0)], color::QUIET, 1.0, 1.3);
        canvas.text(label.clone(), (x, bottom + 12.0 + TICK.em), Align::Center, TICK);
    }
    canvas.stroke(vec![(left, top), (left, bottom), (right, bottom)], color::QUIET, 1.0, 1.6);
    let label = LABEL.fit(&chart.x_label, right - left);
    canvas.text(label, ((left + right) / 2.0, SIZE.1 - MARGIN + 4.0), Align::Center, LABEL);
    let label = LABEL.fit(&chart.y_label, bottom - top);
    canvas.text_upwards(label, (MARGIN + 0.75 * LABEL.em, (top + bottom) / 2.0), LABEL);
}

fn band(canvas: &mut Canvas, line: &Line, (color, _): (Color, Marker), frame: &Frame) {
    let half: Vec<Option<(f64, f64)>> =
        (0..line.mean.len()).map(|turn| line.mean[turn].zip(line.band.get(turn).copied().flatten())).collect();
    for run in runs(&half) {
        let edge = |sign: f64| run.iter().map(move |&(turn, (mean, half))| frame.at(turn, mean + sign * half));
        if run.len() == 1 {
            // A single turn has no area: draw a whisker instead.
            canvas.stroke(edge(1.0).chain(edge(-1.0)).collect(), color, 0.6, 2.0);
        } else {
            canvas.area(edge(1.0).chain(edge(-1.0).rev()).collect(), color, 0.24);
        }
    }
}

fn mean_line(canvas: &mut Canvas, line: &Line, (color, _): (Color, Marker), frame: &Frame) {
    for run in runs(&line.mean) {
        let points: Vec<Point> = run.iter().map(|&(turn, y)| frame.at(turn, y)).collect();
        if line.dashed {
            canvas.dashed_stroke(points, color, DASHED_WIDTH);
        } else {
            canvas.stroke(points, color, 1.0, LINE_WIDTH);
        }
    }
}

fn markers(canvas: &mut Canvas, line: &Line, (color, marker): (Color, Marker), frame: &Frame) {
    // In a long conversation markers at every turn would hide the line.
    let all = frame.positions.len() < 67 && !line.dashed;
    for run in runs(&line.mean).into_iter().filter(|run| all || run.len() == 1) {
        for (turn, y) in run {
            point(canvas, frame.at(turn, y), color, marker);
        }
    }
}

/// A marker with a white rim, which keeps crossing lines apart.
fn point(canvas: &mut Canvas, at: Point, color: Color, marker: Marker) {
    let shape = |radius: f64| -> Vec<Point> {
        let corners: &[(f64, f64)] = match marker {
            Marker::Circle => return Vec::new(),
            Marker::Square => &[(-0.89, -0.89), (0.89, -0.89), (0.89, 0.89), (-0.89, 0.89)],
            Marker::Triangle => &[(0.0, -1.25), (1.16, 0.8), (-1.16, 0.8)],
            Marker::Diamond => &[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)],
        };
        corners.iter().map(|&(x, y)| (at.0 + radius * x, at.1 + radius * y)).collect()
    };
    if let Marker::Circle = marker {
        canvas.disc(at, MARKER_RADIUS + 1.6, WHITE);
        canvas.disc(at, MARKER_RADIUS, color);
    } else {
        canvas.area(shape(MARKER_RADIUS + 1.9), WHITE, 1.0);
        canvas.area(shape(MARKER_RADIUS), color, 1.0);
    }
}

/// Runs of consecutive values, as (turn from 0, value).
fn runs<T: Copy>(values: &[Option<T>]) -> Vec<Vec<(usize, T)>> {
    let mut runs: Vec<Vec<(usize, T)>> = Vec::new();
    let mut open = false;
    for (turn, value) in values.iter().enumerate() {
        match (value, runs.last_mut()) {
            (Some(value), Some(run)) if open => run.push((turn, *value)),
            (Some(value), _) => runs.push(vec![(turn, *value)]),
            (None, _) => {}
        }
        open = value.is_some();
    }
    runs
}
