//! Owns what is kept of an experiment: a run's identity and outcome, the manifest, every path under a run folder, and the
//! files that come out of it (JSON, text, CSV, Parquet); and how several writers share a folder. The journal inside the folder is the scheduler's.
//! Must not know: what a label or a metric means.

mod csv_file;
mod files;
mod folder;
mod manifest;
mod outcome;
mod parquet_file;
mod table;
mod tensors_file;

pub use files::{cannot_read, cannot_write, sync_folder};
pub use files::{safe_name, write_atomic, write_json_atomic, write_text_atomic};
pub use folder::RunFolder;
pub use manifest::{Drift, FileEntry, Host, Manifest, Session, SessionEnd, SourceVersion, Tool, timestamp};
pub use outcome::{Outcome, RunKey, Series};
pub use table::{Column, ColumnData, Table};
pub use tensors_file::{Tensor, TensorData, write_tensors};
