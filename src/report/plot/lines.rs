//! Owns the drawing of a line chart: heading, legend above the frame (so that it never covers data), axes, and from back
//! to front traces, bands, lines, markers.
//!
//! Must not know: file formats, what the lines mean.

use plotters::style::{RGBColor, WHITE};

use super::canvas::{Align, Canvas, Point, SIZE, Type};
use super::chart::{Line, LineChart};
use super::palette::{self, Marker};
use super::scale::Scale;
use tiltmeter_model::problem::Problem;

pub(super) const TITLE: Type = Type { em: 28.0, bold: true, colour: palette::INK };
pub(super) const LABEL: Type = Type { em: 23.0, bold: false, colour: palette::INK };
pub(super) const LEGEND: Type = Type { em: 22.0, bold: false, colour: palette::INK };
pub(super) const TICK: Type = Type { em: 20.0, bold: false, colour: palette::QUIET };

pub(super) const MARGIN: f64 = 36.0;
const LINE_WIDTH: f64 = 3.4;
const MARKER_RADIUS: f64 = 5.4;
const SWATCH: f64 = 46.0;

/// With more rows than this the legend would leave no room for the data.
const LEGEND_ROWS: usize = 10;

/// A legend's entry takes at most this share of the width.
const LEGEND_SHARE: f64 = 0.42;

/// The title at the top of a figure, in two lines if it needs them.
pub(super) struct Heading {
    lines: Vec<String>,
    /// Below the margin, air included.
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

/// The rectangle that holds the data, and its scales.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    x: Scale,
    y: Scale,
    /// Where the values of lines stand on the horizontal axis.
    positions: Vec<f64>,
    /// By how many pixels the line that is drawn now stands beside them.
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

/// Draws `chart`, which has been checked.
pub(super) fn draw(chart: &LineChart) -> Result<Canvas, Problem> {
    let mut canvas = Canvas::new();
    let (low, high) = chart.extent().ok_or_else(|| Problem::new("the figure has no value to draw"))?;
    let (x, positions) = match chart.positions.as_slice() {
        [] => (Scale::turns(chart.turns()), (1..=chart.turns()).map(|turn| turn as f64).collect()),
        positions => (Scale::positions(positions), positions.to_vec()),
    };
    let y = Scale::values(low, high);
    let tick_width = y.ticks.iter().map(|(_, label)| TICK.width(label)).fold(0.0, f64::max);
    let left = MARGIN + LABEL.em + 22.0 + tick_width + 16.0;
    let right = SIZE.0 - MARGIN;

    let heading = Heading::new(&chart.title, right - left);
    heading.draw(&mut canvas, left);
    let top = legend(&mut canvas, chart, left, right, MARGIN + heading.height) + 20.0;
    let mut frame = Frame { left, right, top, bottom: SIZE.1 - 104.0, x, y, positions, shift: 0.0 };
    axes(&mut canvas, chart, &frame);

    let styles = styles(chart);
    let shifts = shifts(chart, &frame);
    for ((line, &(colour, _)), &shift) in chart.series.iter().zip(&styles).zip(&shifts) {
        frame.shift = shift;
        // Many traces are as dark together as few.
        let opacity = (3.2 / line.traces.len().max(1) as f64).clamp(0.05, 0.35);
        for trace in &line.traces {
            for run in runs(trace) {
                canvas.stroke(run.iter().map(|&(turn, y)| frame.at(turn, y)).collect(), colour, opacity, 1.3);
            }
        }
    }
    for ((line, &(colour, _)), &shift) in chart.series.iter().zip(&styles).zip(&shifts) {
        frame.shift = shift;
        band(&mut canvas, line, colour, &frame);
    }
    // What is shown for orientation goes under what was measured.
    let order: Vec<usize> = (0..chart.series.len()).collect();
    let (dashed, others): (Vec<usize>, Vec<usize>) = order.into_iter().partition(|&line| chart.series[line].dashed);
    for &index in dashed.iter().chain(&others) {
        frame.shift = shifts[index];
        whiskers(&mut canvas, &chart.series[index], styles[index].0, &frame);
        mean_line(&mut canvas, &chart.series[index], styles[index].0, &frame);
    }
    // In front of all lines: where one lies on another its markers still show it.
    for index in dashed.into_iter().chain(others) {
        frame.shift = shifts[index];
        markers(&mut canvas, &chart.series[index], styles[index], &frame);
    }
    Ok(canvas)
}

/// By how many pixels each line stands beside its positions: lines with whiskers, and lines that would cover each other, side by side,
/// the others in their place.
fn shifts(chart: &LineChart, frame: &Frame) -> Vec<f64> {
    const APART: f64 = 14.0;
    let whiskered = |line: &Line| !line.whiskers.is_empty();
    // Lines that stand together, by the first of them.
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

/// From mean minus half to mean plus half, with a cap at both ends.
fn whiskers(canvas: &mut Canvas, line: &Line, colour: RGBColor, frame: &Frame) {
    const CAP: f64 = 6.0;
    for (turn, half) in line.whiskers.iter().enumerate() {
        let Some((mean, half)) = line.mean.get(turn).copied().flatten().zip(*half) else { continue };
        let ends = [frame.at(turn, mean - half), frame.at(turn, mean + half)];
        canvas.stroke(ends.to_vec(), colour, 0.75, 2.0);
        for (x, y) in ends {
            canvas.stroke(vec![(x - CAP, y), (x + CAP, y)], colour, 0.75, 2.0);
        }
    }
}

/// Colour and marker of each line; dashed lines take none from the palette.
fn styles(chart: &LineChart) -> Vec<(RGBColor, Marker)> {
    let mut next = 0;
    let style = |line: &Line| {
        if line.dashed {
            return (palette::DASHED, Marker::Circle);
        }
        next += 1;
        palette::style(next - 1)
    };
    chart.series.iter().map(style).collect()
}

/// Entries side by side, wrapped; returns the lower edge. What does not fit into `LEGEND_ROWS` is counted.
fn legend(canvas: &mut Canvas, chart: &LineChart, left: f64, right: f64, top: f64) -> f64 {
    let row = LEGEND.em * 1.6;
    let (mut x, mut y) = (left, top);
    let mut begun = false;
    let mut rows = 1;
    let named: Vec<_> = chart.series.iter().zip(styles(chart)).filter(|(line, _)| !line.label.is_empty()).collect();
    for (index, &(line, (colour, marker))) in named.iter().enumerate() {
        let label = LEGEND.fit(&line.label, LEGEND_SHARE * (right - left));
        let width = SWATCH + 12.0 + LEGEND.width(&label);
        if begun && x + width > right {
            x = left;
            y += row;
            rows += 1;
        }
        if rows > LEGEND_ROWS {
            let more = format!("and {} more", named.len() - index);
            canvas.text(more, (x, y + row / 2.0 + 0.36 * LEGEND.em), Align::Left, LEGEND);
            break;
        }
        begun = true;
        let middle = y + row / 2.0;
        let ends = vec![(x, middle), (x + SWATCH, middle)];
        if line.dashed {
            for dash in dashes(&ends) {
                canvas.stroke(dash, colour, 1.0, 2.6);
            }
        } else {
            if line.band.iter().any(Option::is_some) {
                let (over, under) = (middle - 8.0, middle + 8.0);
                let corners = vec![(x, over), (x + SWATCH, over), (x + SWATCH, under), (x, under)];
                canvas.area(corners, colour, 0.22);
            }
            canvas.stroke(ends, colour, 1.0, LINE_WIDTH);
            point(canvas, (x + SWATCH / 2.0, middle), colour, marker);
        }
        canvas.text(label, (x + SWATCH + 12.0, middle + 0.36 * LEGEND.em), Align::Left, LEGEND);
        x += width + 38.0;
    }
    if begun { y + row } else { y }
}

fn axes(canvas: &mut Canvas, chart: &LineChart, frame: &Frame) {
    let Frame { left, right, top, bottom, .. } = *frame;
    for (value, label) in &frame.y.ticks {
        let y = frame.up(*value);
        let colour = if *value == 0.0 { palette::ZERO } else { palette::GRID };
        canvas.stroke(vec![(left, y), (right, y)], colour, 1.0, 1.3);
        canvas.text(label.clone(), (left - 14.0, y + 0.36 * TICK.em), Align::Right, TICK);
    }
    for (value, label) in &frame.x.ticks {
        let x = frame.across(*value);
        canvas.stroke(vec![(x, bottom), (x, bottom + 7.0)], palette::QUIET, 1.0, 1.3);
        canvas.text(label.clone(), (x, bottom + 12.0 + TICK.em), Align::Centre, TICK);
    }
    canvas.stroke(vec![(left, top), (left, bottom), (right, bottom)], palette::QUIET, 1.0, 1.6);
    let label = LABEL.fit(&chart.x_label, right - left);
    canvas.text(label, ((left + right) / 2.0, SIZE.1 - MARGIN + 4.0), Align::Centre, LABEL);
    let label = LABEL.fit(&chart.y_label, bottom - top);
    canvas.text_upwards(label, (MARGIN + 0.75 * LABEL.em, (top + bottom) / 2.0), LABEL);
}

fn band(canvas: &mut Canvas, line: &Line, colour: RGBColor, frame: &Frame) {
    let half: Vec<Option<(f64, f64)>> =
        (0..line.mean.len()).map(|turn| line.mean[turn].zip(line.band.get(turn).copied().flatten())).collect();
    for run in runs(&half) {
        let edge = |sign: f64| run.iter().map(move |&(turn, (mean, half))| frame.at(turn, mean + sign * half));
        if run.len() == 1 {
            // A lone turn has no area: a whisker instead.
            canvas.stroke(edge(1.0).chain(edge(-1.0)).collect(), colour, 0.6, 2.0);
        } else {
            canvas.area(edge(1.0).chain(edge(-1.0).rev()).collect(), colour, 0.24);
        }
    }
}

fn mean_line(canvas: &mut Canvas, line: &Line, colour: RGBColor, frame: &Frame) {
    for run in runs(&line.mean) {
        let points: Vec<Point> = run.iter().map(|&(turn, y)| frame.at(turn, y)).collect();
        if line.dashed {
            for dash in dashes(&points) {
                canvas.stroke(dash, colour, 1.0, 2.6);
            }
        } else {
            canvas.stroke(points, colour, 1.0, LINE_WIDTH);
        }
    }
}

fn markers(canvas: &mut Canvas, line: &Line, (colour, marker): (RGBColor, Marker), frame: &Frame) {
    // Markers at every turn of a long conversation would be a caterpillar.
    let all = frame.positions.len() < 67 && !line.dashed;
    for run in runs(&line.mean).into_iter().filter(|run| all || run.len() == 1) {
        for (turn, y) in run {
            point(canvas, frame.at(turn, y), colour, marker);
        }
    }
}

/// A marker with a white rim, which keeps crossing lines apart.
fn point(canvas: &mut Canvas, at: Point, colour: RGBColor, marker: Marker) {
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
        canvas.disc(at, MARKER_RADIUS, colour);
    } else {
        canvas.area(shape(MARKER_RADIUS + 1.9), WHITE, 1.0);
        canvas.area(shape(MARKER_RADIUS), colour, 1.0);
    }
}

/// Stretches without a gap, as (turn from 0, value).
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

/// A line cut into dashes that run on around its corners.
fn dashes(points: &[Point]) -> Vec<Vec<Point>> {
    // Three dashes and two gaps are just a legend's swatch.
    const ON: f64 = 10.0;
    const OFF: f64 = 8.0;
    let mut dashes: Vec<Vec<Point>> = Vec::new();
    let mut current: Vec<Point> = points.first().copied().into_iter().collect();
    let (mut on, mut left) = (true, ON);
    for pair in points.windows(2) {
        let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
        let length = (x1 - x0).hypot(y1 - y0);
        let mut done = 0.0;
        while length - done >= left {
            done += left;
            let here = (x0 + (x1 - x0) * done / length, y0 + (y1 - y0) * done / length);
            if on {
                current.push(here);
                dashes.push(std::mem::take(&mut current));
            } else {
                current = vec![here];
            }
            on = !on;
            left = if on { ON } else { OFF };
        }
        left -= length - done;
        if on {
            current.push((x1, y1));
        }
    }
    if on && current.len() > 1 {
        dashes.push(current);
    }
    dashes
}
