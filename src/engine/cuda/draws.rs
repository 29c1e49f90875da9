//! Owns how the device is told to draw a token.
//! Must not know: passes.

use tiltmeter_kernels::gpu::{Result, Span};

use super::{super::sequence::Drawing, layers::DeviceModel};

/// Words that one draw is told in.
pub const DRAW_WORDS: usize = 16;

/// A row that draws nothing.
pub const REST: [u32; DRAW_WORDS] = [u32::MAX; DRAW_WORDS];

pub fn words(drawing: Option<&Drawing>, index: usize) -> [u32; DRAW_WORDS] {
    let _ = (drawing, index);
    REST
}

pub fn draw(model: &DeviceModel, draws: Span, count: usize, tokens: Span) -> Result<()> {
    let _ = (model, draws, count, tokens);
    Ok(())
}
