//! Files of an experiment: run folders, outcomes, manifests, tables and tensors.
//!
//! `RunFolder` knows all paths; `RunKey` and `Outcome` are identity and result of a run; `Manifest` describes a folder. `Table` is
//! written as Parquet (`turns.parquet` and `tokens.parquet` among others) or CSV, `Tensor` as safetensors. The journal in a run folder
//! belongs to the scheduler crate.
//!
//! Invariants: no file is ever seen half-written (`write_atomic`). No path leaves its folder (`safe_name`). Equal content gives equal
//! bytes. No user name and no host name is written. Nothing here knows the meaning of a label, metric or column.

mod csv_file;
mod files;
mod folder;
mod manifest;
mod outcome;
mod parquet_file;
mod table;
mod tensors_file;

pub use files::{cannot_read, cannot_write, check_output, sync_folder};
pub use files::{safe_name, write_atomic, write_json_atomic, write_text_atomic};
pub use folder::RunFolder;
pub use manifest::{Drift, FileEntry, Host, Manifest, Session, SessionEnd, SourceVersion, Tool, timestamp};
pub use outcome::{Outcome, RunKey, Series};
pub use table::{Column, ColumnData, Table};
pub use tensors_file::{Tensor, TensorData, write_tensors};
