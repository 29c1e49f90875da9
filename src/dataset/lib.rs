//! Appends finished records to a JSON Lines file of a Hugging Face dataset, and records in the run folder what was sent.
//!
//! | file | |
//! |---|---|
//! | `hub.rs` | [`Dataset`]: the conditional commit, with time-outs and retries |
//! | `merge.rs` | [`Record`], and the file with new records appended |
//! | `uploads.rs` | [`Uploads`]: `uploads.json`, which record went into which commit |
//! | `repo_id.rs` | dataset ids and addresses |
//! | `error.rs` | the Hub's errors as problems with hints |
//!
//! An append reads the file at the head of `main` and commits with `parentCommit`. If another writer commits first, it starts again. So no
//! record is overwritten, and none is added twice: a commit whose reply was lost is recognised by its `run_id`s. No existing byte of the file
//! changes. No token appears in a message.

mod error;
mod hub;
mod merge;
mod repo_id;
mod token;
mod uploads;

pub use hub::{Appended, Dataset, HubOptions};
pub use merge::Record;
pub use repo_id::check_repo_id;
pub use token::{TOKEN_VARIABLE, token};
pub use uploads::{Uploads, records_of, send};
