//! Owns what is said of a comparison: the input type, its analysis, terminal tables, the figure's data, the report as markdown and as
//! one HTML page, and the summary JSON.
//!
//! A comparison is groups of sequences, whatever was measured and wherever it came from.
//!
//! Must not know: engine, provider, kinds.

/// What is compared: groups (conditions) of samples of measured turns.
pub mod comparison;

/// Comparisons out of JSON documents, one per condition.
pub mod load;

/// The numbers of a comparison.
pub mod analysis;

/// Numbers as people read them.
pub mod numbers;

/// One table, as plain text or markdown.
pub mod table;

/// Tables of a comparison, for the terminal and for the markdown report.
pub mod tables;

/// The line chart of a comparison.
pub mod figure;

/// What stands in the report.
mod document;

/// `report.md`.
pub mod markdown;

/// `report.html`.
pub mod html;

/// `<experiment>_summary.json`.
pub mod summary;

pub use analysis::{
    Analysis, Condition, Contrast, ContrastPerTurn, Difference, Drift, Estimate, Options, Ordered, PerTurn, analyse,
};
pub use comparison::{Comparison, Flag, GroupData, OK, SampleData};
pub use figure::line_chart;
pub use html::report_html;
pub use load::load_documents;
pub use markdown::report_markdown;
pub use summary::summary_json;
pub use table::Table;
pub use tables::terminal;
