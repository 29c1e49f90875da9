//! A checkpoint's files: where they lie, its configuration, weights, tokenizer and chat template.

pub mod config;
pub mod hub;
pub mod spans;
pub mod template;
pub mod tokenizer;
pub mod weights;
