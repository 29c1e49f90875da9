//! Owns the typeface, DejaVu Sans, reduced to Latin, Greek and the signs a figure needs (licence: `font/LICENSE-DejaVu.txt`).
//!
//! It is bundled so that a figure looks the same on every machine: a compute node has no fonts.
//!
//! Must not know: what is written.

use std::sync::OnceLock;

use ab_glyph::{FontRef, PxScale};

/// Families of the SVG's text: the bundled one, then others of the same width for readers that ignore it.
pub(super) const FAMILIES: &str = "'Tiltmeter Sans', 'DejaVu Sans', Verdana, sans-serif";

const FAMILY: &str = "Tiltmeter Sans";

/// Height of a line (ascent minus descent) in em, from the font's `hhea` table.
const LINE_PER_EM: f64 = 2384.0 / 2048.0;

const REGULAR: &[u8] = include_bytes!("font/DejaVuSans-subset.ttf");
const BOLD: &[u8] = include_bytes!("font/DejaVuSans-Bold-subset.ttf");

/// The typeface, regular or bold.
pub(super) fn face(bold: bool) -> &'static FontRef<'static> {
    static FACES: OnceLock<[FontRef<'static>; 2]> = OnceLock::new();
    let faces = FACES.get_or_init(|| {
        // The bytes are part of the program, and a test reads them: they cannot be wrong.
        [REGULAR, BOLD].map(|bytes| FontRef::try_from_slice(bytes).expect("the bundled typeface is a font"))
    });
    &faces[usize::from(bold)]
}

/// The scale at which an em is `em` pixels.
pub(super) fn scale(em: f64) -> PxScale {
    PxScale::from((em * LINE_PER_EM) as f32)
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
    use ab_glyph::{Font, ScaleFont};

    #[test]
    fn an_em_is_as_wide_as_the_font_says() {
        for bold in [false, true] {
            let face = super::face(bold).as_scaled(super::scale(100.0));
            // The em dash is one em wide in this typeface.
            assert!((face.h_advance(face.glyph_id('—')) - 100.0).abs() < 0.1);
            assert_ne!(face.glyph_id('−').0, 0, "a real minus sign is in the font");
        }
    }

    #[test]
    fn base64_of_the_rfcs_examples() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(super::base64(plain.as_bytes()), coded);
        }
    }
}
