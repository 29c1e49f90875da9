//! Kernels that bring rows from one place to another: token embeddings into the residual stream.
//!
//! Must not know: models, engine.

use super::{Address, Element, Gpu, Result, Span};

parameters! {
    struct EmbedParameters {
        table: Address,
        ids: Address,
        residual: Address,
        width: u32,
        vocab: u32,
    }
}

/// `residual[r] = table[ids[r]]` in f32, for `table` `[vocab, width]` and `ids` `[rows]`. An id outside the vocabulary gives zeros.
///
/// # Panics
/// When the width is no multiple of 8, or a span is too short.
pub fn embed(
    gpu: &Gpu,
    element: Element,
    table: Span,
    ids: Span,
    residual: Span,
    rows: usize,
    width: usize,
    vocab: usize,
) -> Result<()> {
    assert!(width > 0 && width.is_multiple_of(8), "the width is a multiple of 8, not {width}");
    if rows == 0 {
        return Ok(());
    }
    let parameters = EmbedParameters {
        table: table.of::<u16>(vocab * width, "the table"),
        ids: ids.of::<u32>(rows, "the ids"),
        residual: residual.of::<f32>(rows * width, "the residual stream"),
        width: width as u32,
        vocab: vocab as u32,
    };
    gpu.launch(element.of("embed_bf16", "embed_f16"), [rows, 1, 1], 256, 0, &parameters)
}
