//! Owns what is said of a comparison, of a distribution and of a response: the input types, their analysis, terminal tables, the
//! figures' data, the report as markdown and as one HTML page, and the summary JSON.
//!
//! A comparison is groups of sequences, a distribution groups of counts, a response one number a run, whatever was measured or judged
//! and wherever it came from.
//!
//! Must not know: engine, provider, kinds.

/// What is compared: groups (conditions) of samples of measured turns.
pub mod stats;
pub mod plot;
pub mod comparison;

/// What is counted: the categories of a label in groups.
pub mod distribution;

/// What depends on a factor: one number per run.
pub mod response;

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

/// The line chart of a comparison, the bars of a distribution.
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
pub use distribution::{
    Distribution, DistributionGroup,
    analysis::{
        DistributionAnalysis, FisherMethod, GroupPair, GroupShares, Independence, Share, TestRead, analyse_distribution,
    },
    tables::distribution_terminal,
};
pub use document::Section;
pub use figure::{bar_chart, line_chart};
pub use html::{page_html, report_html};
pub use load::load_documents;
pub use markdown::{page_markdown, report_markdown};
pub use response::{
    Against, Factor, Response, ResponseRun,
    analysis::{AtLevel, MOST_LINES, ResponseAnalysis, ResponseLine, ResponseTable, RunsMean, analyse_response},
    figure::{ResponseFigure, heatmap, response_chart, response_figures},
    tables::response_terminal,
};
pub use summary::{distribution_json, response_json, summary_json};
pub use table::Table;
pub use tables::{terminal, terminal_key};
