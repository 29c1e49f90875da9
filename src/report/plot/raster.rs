//! Paints a canvas as PNG, antialiased, glyphs from their outlines.

use tiny_skia::{FillRule, LineJoin, Paint, Path, PathBuilder, Pixmap, Stroke, StrokeDash, Transform};

use super::canvas::{Canvas, DASH, Point, Primitive, SIZE};
use super::color::Color;
use super::font;
use tiltmeter_model::problem::Problem;

/// 200 dots per inch: eight inches wide, a figure over both columns of a page.
const PIXELS_PER_METER: u32 = 7874;

/// The canvas as an RGB PNG. Errors if memory for it cannot be had or it cannot be encoded.
pub(super) fn png(canvas: &Canvas) -> Result<Vec<u8>, Problem> {
    let (width, height) = (SIZE.0 as u32, canvas.height as u32);
    let Some(mut pixmap) = Pixmap::new(width, height) else {
        return Err(Problem::new(format!("a picture of {width} × {height} pixels cannot be painted")));
    };
    pixmap.fill(tiny_skia::Color::WHITE);
    for primitive in &canvas.primitives {
        paint(&mut pixmap, primitive);
    }
    // The ground is opaque, so that every pixel is.
    let rgb: Vec<u8> = pixmap.pixels().iter().flat_map(|pixel| [pixel.red(), pixel.green(), pixel.blue()]).collect();
    encode(&rgb, width, height).map_err(|error| Problem::new(format!("cannot encode the PNG: {error}")))
}

fn paint(pixmap: &mut Pixmap, primitive: &Primitive) {
    let mut fill = |path: Option<Path>, color: Color, opacity: f64| {
        if let Some(path) = path {
            pixmap.fill_path(&path, &ink(color, opacity), FillRule::Winding, Transform::identity(), None);
        }
    };
    match primitive {
        Primitive::Area { points, color, opacity } => fill(polyline(points, true), *color, *opacity),
        Primitive::Disc { center: (x, y), radius, color } => {
            fill(PathBuilder::from_circle(*x as f32, *y as f32, *radius as f32), *color, 1.0);
        }
        Primitive::Text { text, at, align, upwards, style } => {
            fill(font::outlines(text, *at, *align, *upwards, style), style.color, 1.0);
        }
        Primitive::Stroke { points, color, opacity, width, dashed } => {
            let Some(path) = polyline(points, false) else { return };
            let dash = if *dashed { StrokeDash::new(vec![DASH.0 as f32, DASH.1 as f32], 0.0) } else { None };
            let stroke = Stroke { width: *width as f32, line_join: LineJoin::Round, dash, ..Stroke::default() };
            pixmap.stroke_path(&path, &ink(*color, *opacity), &stroke, Transform::identity(), None);
        }
    }
}

fn ink(color: Color, opacity: f64) -> Paint<'static> {
    let mut paint = Paint::default();
    paint.set_color_rgba8(color.0, color.1, color.2, (opacity * 255.0).round() as u8);
    paint
}

fn polyline(points: &[Point], closed: bool) -> Option<Path> {
    let mut path = PathBuilder::new();
    for (index, &(x, y)) in points.iter().enumerate() {
        if index == 0 { path.move_to(x as f32, y as f32) } else { path.line_to(x as f32, y as f32) }
    }
    if closed {
        path.close();
    }
    path.finish()
}

fn encode(rgb: &[u8], width: u32, height: u32) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_filter(png::Filter::Adaptive);
    let dims = png::PixelDimensions { xppu: PIXELS_PER_METER, yppu: PIXELS_PER_METER, unit: png::Unit::Meter };
    encoder.set_pixel_dims(Some(dims));
    let mut writer = encoder.write_header()?;
    writer.write_image_data(rgb)?;
    writer.finish()?;
    Ok(bytes)
}
