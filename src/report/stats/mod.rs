//! Estimates, intervals and tests, as pure functions on slices, on `Grid`s (samples x turns) and on `Counts` (groups x categories).
//!
//! The unit of analysis is the *sample*, one conversation. The turns of a conversation are correlated, so every test works on one number
//! per conversation or permutes whole conversations; none treats cells or turn means as independent. A paired t test over turn means and
//! a pooled t test over cells are absent on purpose: both reject far more often than their level on data without an effect.

pub mod bootstrap;
pub mod contrast;
pub mod counts;
pub mod drift;
pub mod fisher;
pub mod grid;
pub mod holm;
pub mod icc;
pub mod moments;
pub mod permutation;
pub mod power;
pub mod proportion;
pub mod student;

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
