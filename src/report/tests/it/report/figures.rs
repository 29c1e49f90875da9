//! Figures as PNG and SVG.

use super::*;

fn chart() -> LineChart {
    let comparison = load(&documents()).unwrap();
    line_chart(&comparison, &analyse(&comparison, &quick()).unwrap())
}

/// Width, height and RGB pixels.
fn decode(png: &[u8]) -> (usize, usize, Vec<u8>) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut pixels = vec![0; 1600 * 1000 * 3];
    let info = reader.next_frame(&mut pixels).unwrap();
    (info.width as usize, info.height as usize, pixels)
}

#[test]
fn the_png_has_its_size_its_colours_and_a_free_margin() {
    let (width, height, pixels) = decode(&chart().png().unwrap());
    assert_eq!((width, height), (1600, 1000));
    let count = |colour: [u8; 3]| pixels.chunks(3).filter(|pixel| *pixel == colour).count();
    for colour in [[0, 114, 178], [213, 94, 0], [0, 158, 115]] {
        assert!(count(colour) > 4000, "{colour:?}: {}", count(colour));
    }
    assert_eq!(count([204, 121, 167]), 0, "no fourth line");
    assert!(count([255, 255, 255]) > 1_000_000);
    let white = |x: usize, y: usize| pixels[3 * (y * width + x)..][..3] == [255; 3];
    assert!((0..width).all(|x| (0..16).all(|y| white(x, y) && white(x, height - 1 - y))), "top and bottom are free");
    assert!((0..height).all(|y| (0..16).all(|x| white(x, y) && white(width - 1 - x, y))), "left and right are free");
}

#[test]
fn the_svg_holds_every_line_its_typeface_and_no_markup_of_labels() {
    let mut chart = chart();
    chart.series[0].label = "a < b & \"c\"".to_owned();
    chart.series.push(Line {
        label: "reference".into(),
        mean: vec![Some(1.0), Some(2.0)],
        dashed: true,
        ..Line::default()
    });
    let svg = chart.svg().unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(svg.contains("a &lt; b &amp; \"c\"") && svg.contains("@font-face"));
    assert_eq!(svg.matches("stroke-opacity=\"0.200\"").count(), 48, "one trace per sample");
    for turn in 1..=18 {
        assert!(svg.contains(&format!(">{turn}</text>")), "turn {turn} has its tick");
    }
    assert!(!svg.contains("1.5</text>"), "turns are whole");
}

#[test]
fn gaps_break_lines_and_lone_turns_are_still_seen() {
    let line = Line {
        label: "gaps".into(),
        mean: vec![Some(1.0), Some(2.0), None, Some(4.0), None],
        band: vec![Some(0.1), Some(0.1), None, Some(0.2), None],
        traces: vec![vec![Some(1.0), None, Some(3.0)]],
        ..Line::default()
    };
    let chart = LineChart { x_label: "turn".into(), y_label: "y".into(), series: vec![line], ..LineChart::default() };
    let svg = chart.svg().unwrap();
    assert_eq!(svg.matches("stroke-width=\"3.4\"").count(), 2, "one stretch, one swatch in the legend");
    assert_eq!(svg.matches("fill=\"#0072b2\"/>").count(), 4, "three markers and the legend's");
    chart.png().unwrap();
}

#[test]
fn hard_figures_are_drawn() {
    let line = |n: usize, scale: f64| Line {
        label: format!("condition number {n} with a very long name that says everything about its system prompt"),
        mean: (0..n).map(|turn| Some(scale * (turn as f64 * 0.3).sin())).collect(),
        band: vec![Some(0.1 * scale); n],
        ..Line::default()
    };
    for (lines, turns, scale) in
        [(14, 20, 1.0), (60, 3, 1.0), (1, 1, 1.0), (2, 300, 1e9), (2, 12, 1e-9), (1, 5, 0.0), (3, 40, 1e250)]
    {
        let series = (0..lines).map(|_| line(turns, scale)).collect();
        let title = "A long title, again and again. ".repeat(9);
        let y_label = "y ".repeat(200);
        let chart = LineChart { title, x_label: "turn".into(), y_label, series, ..LineChart::default() };
        let svg = chart.svg().unwrap();
        assert!(svg.contains('…') && !svg.contains("NaN") && !svg.contains("inf"), "{lines} {turns} {scale}");
        decode(&chart.png().unwrap());
    }
}

#[test]
fn a_figure_of_nothing_is_refused() {
    let mut chart = LineChart::default();
    assert!(chart.png().is_err());
    chart.series.push(Line { mean: vec![None, None], ..Line::default() });
    assert!(chart.svg().is_err());
    chart.series[0].mean[0] = Some(f64::NAN);
    assert!(chart.svg().unwrap_err().what.contains("not finite"));
}
