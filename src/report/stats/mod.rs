//! Owns the statistics of a comparison: summaries, intervals and tests, as pure functions on slices, on `Grid`s
//! (samples x turns) and on `Counts` (groups x categories).
//!
//! The unit is the *sample*, one whole conversation. Turns are crossed and fixed, the cells of one conversation are
//! correlated, so every test works on one number per conversation (or shuffles whole conversations) and none treats
//! cells or turn means as independent. A paired t over turn means and a pooled t over cells are left out on purpose:
//! on data without any effect they reject far more often than they say.
//!
//! Must not know: runs, files, models.

/// Mean, variance, standard error, t interval of a slice.
pub mod moments;

/// Samples x turns with holes, and the one number per sample that every test works on.
pub mod grid;

/// Student's t: tail probabilities and quantiles.
pub mod student;

/// Welch's test and Hedges' g for two groups of samples.
pub mod contrast;

/// Permutation of whole samples: one number per sample, or all turns at once (Westfall-Young).
pub mod permutation;

/// Bootstrap-t interval over whole samples.
pub mod bootstrap;

/// Holm's correction.
pub mod holm;

/// The interval of a share.
pub mod proportion;

/// Counts in rows and columns, and whether the two are independent by chi-square.
pub mod counts;

/// The same question, answered by counting tables (Fisher, Freeman & Halton).
pub mod fisher;

/// How alike the cells of one sample are.
pub mod icc;

/// Power of the two-sample t test and the smallest effect it can be trusted to find.
pub mod power;

/// Weights that turn a sample's turns into its mean, its slope, its late-minus-early difference.
pub mod drift;

/// Random draws that are the same in every build.
mod draw;

pub use bootstrap::bootstrap_t_interval;
pub use contrast::{Welch, welch};
pub use counts::{ChiSquare, Counts, chi_square};
pub use drift::{late_minus_early_weights, mean_weights, slope_weights};
pub use fisher::{Fisher, fisher};
pub use grid::{Grid, pooled_scores, usable_turns};
pub use holm::holm;
pub use icc::{design_effect, icc};
pub use moments::{Summary, mean, sem, summarise, variance};
pub use permutation::{Permutation, max_t, permutation_test};
pub use power::{minimum_detectable_effect, power};
pub use proportion::wilson;
