//! Statistics, figures and reports over recorded samples.
//!
//! - [`stats`]: estimates, intervals and tests as pure functions: Welch's t, studentized permutation tests, bootstrap-t intervals, Holm's
//!   and Westfall-Young's corrections for multiplicity, chi-square and Fisher's exact test.
//! - [`plot`]: line charts, stacked bars and heatmaps as PNG and SVG.
//! - [`views`]: what a report shows of an experiment: [`views::trajectory`] (a measure over turns, by condition),
//!   [`views::distribution`] (a label by condition), [`views::response`] (one number per run against a factor).
//! - [`page_markdown`], [`page_html`]: sections of views as `report.md` and `report.html`.
//!
//! Invariants: nothing here writes a file, knows a kind of experiment, or depends on the order in which runs finished; random draws
//! come from a generator of this crate, so that a p value changes neither with the machine nor with the version of a library.

mod block;
mod document;
mod html;
mod markdown;
pub mod numbers;
pub mod plot;
pub mod stats;
mod summary;
mod table;
pub mod views;

pub use document::Section;
pub use html::{page_html, report_html};
pub use markdown::{page_markdown, report_markdown};
pub use summary::{distribution_json, response_json, summary_json};
pub use table::Table;
pub use views::distribution::{
    Distribution, DistributionGroup,
    analysis::{
        DistributionAnalysis, FisherMethod, GroupPair, GroupShares, Independence, Share, TestRead, analyse_distribution,
    },
    figure::bar_chart,
    tables::distribution_terminal,
};
pub use views::response::{
    Against, Factor, Response, ResponseRun,
    analysis::{AtLevel, MOST_LINES, ResponseAnalysis, ResponseLine, ResponseTable, RunsMean, analyse_response},
    figure::{ResponseFigure, heatmap, response_chart, response_figures},
    tables::response_terminal,
};
pub use views::trajectory::{
    Comparison, Flag, GroupData, OK, SampleData,
    analysis::{
        Analysis, Condition, Contrast, ContrastPerTurn, Difference, Drift, Estimate, Options, Ordered, PerTurn, analyse,
    },
    figure::line_chart,
    load::load_documents,
    tables::{terminal, terminal_key},
};
