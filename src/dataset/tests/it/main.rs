//! Tests of appending to a Hugging Face dataset, against an in-memory Hub.

mod dataset;
