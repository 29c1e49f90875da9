//! Owns the typeface, DejaVu Sans, reduced to Latin, Greek and the signs a figure needs (licence: `font/LICENSE-DejaVu.txt`).
//!
//! It is bundled so that a figure looks the same on every machine: a compute node has no fonts.
//!
//! Must not know: what is written.

use std::sync::OnceLock;

use plotters::style::{FontStyle, register_font};

use crate::problem::Problem;

/// Family name, both of the registered font and in the SVG.
pub(super) const FAMILY: &str = "Tiltmeter DejaVu Sans";

/// Height of a line (ascent minus descent) in em, from the font's `hhea` table.
pub(super) const LINE_PER_EM: f64 = 2384.0 / 2048.0;

const REGULAR: &[u8] = include_bytes!("font/DejaVuSans-subset.ttf");
const BOLD: &[u8] = include_bytes!("font/DejaVuSans-Bold-subset.ttf");

/// Makes the typeface known to the drawing library; harmless when repeated.
pub(super) fn register() -> Result<(), Problem> {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    let registered = REGISTERED.get_or_init(|| {
        register_font(FAMILY, FontStyle::Normal, REGULAR).is_ok() && register_font(FAMILY, FontStyle::Bold, BOLD).is_ok()
    });
    registered.then_some(()).ok_or_else(|| Problem::new("the bundled typeface cannot be read"))
}

/// A style sheet that carries the typeface inside the SVG.
pub(super) fn style_sheet() -> String {
    let face = |weight: &str, bytes: &[u8]| {
        format!(
            "@font-face{{font-family:\"{FAMILY}\";font-weight:{weight};src:url(data:font/ttf;base64,{})}}",
            base64(bytes)
        )
    };
    format!("<style>{}{}</style>", face("normal", REGULAR), face("bold", BOLD))
}

/// RFC 4648.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let mut group = [0u8; 3];
        group[..three.len()].copy_from_slice(three);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for position in 0..4 {
            if position <= three.len() {
                out.push(LETTERS[(bits >> (18 - 6 * position) & 63) as usize] as char);
            } else {
                out.push('=');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_of_the_rfcs_examples() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(super::base64(plain.as_bytes()), coded);
        }
    }
}
