//! Tests of the engine: what it reads from a checkpoint, and its numbers against transformers, candle and itself.

mod template;
mod jinja2;
mod checkpoint_files;
mod parity;
mod candle_peer;
mod engine;
mod bitwise;
mod gpu;
