//! The legend above a frame: entries side by side, wrapped. Above the frame it never covers data.

use super::canvas::{Align, Canvas, Point};
use super::layout::{LEGEND, MIDDLE};

/// With more rows than this the legend would leave no room for the data.
const MAX_ROWS: usize = 10;

const ROW: f64 = 1.6 * LEGEND.em;

/// Sizes of an entry: a swatch, a gap, a name that takes at most `name_share` of the width, and the gap to the next entry, in pixels.
pub(super) struct EntryLayout {
    pub swatch: f64,
    pub gap: f64,
    pub name_share: f64,
    pub between: f64,
}

/// Entries with their places.
pub(super) struct Legend {
    layout: EntryLayout,
    /// Text, the index of the named item (`None`: the count of entries that do not fit), and its place from the legend's top left.
    entries: Vec<(String, Option<usize>, Point)>,
    pub height: f64,
}

impl Legend {
    /// Lays out `names`, each with the index of its item, in rows of `width` pixels.
    pub(super) fn new(names: &[(usize, &str)], width: f64, layout: EntryLayout) -> Self {
        let (mut x, mut rows) = (0.0, usize::from(!names.is_empty()));
        let mut entries = Vec::new();
        for (index, (item, name)) in names.iter().enumerate() {
            let text = LEGEND.fit(name, layout.name_share * width);
            let length = layout.swatch + layout.gap + LEGEND.width(&text);
            if x > 0.0 && x + length > width {
                x = 0.0;
                rows += 1;
            }
            let middle = (rows as f64 - 0.5) * ROW;
            if rows > MAX_ROWS {
                entries.push((format!("and {} more", names.len() - index), None, (0.0, middle)));
                break;
            }
            entries.push((text, Some(*item), (x, middle)));
            x += length + layout.between;
        }
        Self { layout, entries, height: ROW * rows as f64 }
    }

    /// Draws the names; `swatch` draws that of an item at the middle of its left edge.
    pub(super) fn draw(self, canvas: &mut Canvas, (left, top): Point, swatch: impl Fn(&mut Canvas, usize, Point)) {
        for (text, item, (x, middle)) in self.entries {
            let (mut x, middle) = (left + x, top + middle);
            if let Some(item) = item {
                swatch(canvas, item, (x, middle));
                x += self.layout.swatch + self.layout.gap;
            }
            canvas.text(text, (x, middle + MIDDLE * LEGEND.em), Align::Left, LEGEND);
        }
    }
}
