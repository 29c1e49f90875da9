//! The analysis of a distribution: shares with intervals, and tests of whether they differ between groups.
//!
//! The unit is the run. Each share has Wilson's 95 % interval. Independence of group and category is tested over all groups and for
//! every pair, by chi-square and by Fisher's exact test. Fisher's p is the one to read where the smallest expected count is below 5
//! (Cochran 1954), else that of chi-square; pairs are corrected for their number after Holm. Groups without a run with a category
//! enter no test.

use serde::Serialize;

use super::{Distribution, DistributionGroup};
use crate::stats::{self, Counts};
use crate::views::trajectory::analysis::{Options, Ordered};
use tiltmeter_model::problem::Problem;

const CONFIDENCE: f64 = 0.95;

/// Below this smallest expected count Fisher's p is read.
const EXPECTED: f64 = 5.0;

/// All numbers of a distribution.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DistributionAnalysis {
    /// Per group, in the distribution's order.
    pub groups: Ordered<GroupShares>,
    /// All groups against each other; `None` where fewer than two groups or two categories hold a run.
    pub overall: Option<Independence>,
    /// Later group against earlier: 1-0, 2-0, 2-1, 3-0, ...
    pub pairs: Vec<GroupPair>,
    /// Random tables where a test cannot count them all; 0 for none.
    pub draws: u32,
    /// Seed of the draws.
    pub seed: u64,
    /// What the reader has to know of the numbers.
    pub notes: Vec<String>,
}

/// What is known of one group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupShares {
    /// What people call it.
    pub title: Option<String>,
    /// Runs with a category.
    pub n: u64,
    /// Runs without one, not part of n.
    pub missing: usize,
    /// Per category, in the order of the menu.
    pub categories: Ordered<Share>,
}

/// One category of a group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share {
    /// Runs.
    pub count: u64,
    /// Their share of n, 0 to 1; `None` if n is 0.
    pub share: Option<f64>,
    /// Wilson's 95 % interval of the share; `None` if n is 0.
    pub ci95: Option<[f64; 2]>,
}

/// Whether groups differ, by both tests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Independence {
    /// Pearson's X².
    pub statistic: f64,
    /// Degrees of freedom, of the groups and categories that hold a run.
    pub df: usize,
    /// Its p.
    pub chi_square_p: f64,
    /// Strength of the association, 0 to 1.
    pub cramers_v: f64,
    /// The smallest expected count.
    pub smallest_expected: f64,
    /// Fisher's p; `None` if it was not affordable.
    pub fisher_p: Option<f64>,
    /// How it was made.
    pub fisher_method: FisherMethod,
    /// Random tables that it rests on; 0 if none.
    pub fisher_draws: u32,
    /// Which test is to be read.
    pub read: TestRead,
    /// The p of that test.
    pub p: Option<f64>,
}

/// How Fisher's p was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FisherMethod {
    /// From all tables with the same margins.
    Exact,
    /// From random ones.
    MonteCarlo,
    /// Not made: too many tables, and no draws asked for or too many runs for them.
    None,
}

/// Which test is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TestRead {
    /// Fisher's: an expected count is small.
    Fisher,
    /// Pearson's: all expected counts are large.
    ChiSquare,
}

/// Group `a` against group `b`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupPair {
    /// The later group.
    pub a: String,
    /// The earlier group.
    pub b: String,
    /// The test; `None` where both groups hold but one category, or one of them no run.
    pub test: Option<Independence>,
    /// The p to be read, corrected over pairs after Holm.
    pub holm_p: Option<f64>,
}

/// All numbers of `distribution`; of the options the number of permutations and the seed are used. Errors if its parts do not fit together.
pub fn analyse_distribution(distribution: &Distribution, options: &Options) -> Result<DistributionAnalysis, Problem> {
    distribution.check()?;
    let groups = &distribution.groups;
    let shares = groups.iter().map(|group| (group.label.clone(), shares(group, &distribution.menu))).collect();
    let overall = independence(&groups.iter().collect::<Vec<_>>(), options, options.seed)?;
    let mut pairs = Vec::new();
    for a in 1..groups.len() {
        for b in 0..a {
            // Each test has a stream of draws of its own.
            let seed = options.seed.wrapping_add(1 + pairs.len() as u64);
            let test = independence(&[&groups[a], &groups[b]], options, seed)?;
            pairs.push(GroupPair { a: groups[a].label.clone(), b: groups[b].label.clone(), test, holm_p: None });
        }
    }
    let p: Vec<Option<f64>> = pairs.iter().map(|pair| pair.test.as_ref().and_then(|test| test.p)).collect();
    for (pair, corrected) in pairs.iter_mut().zip(stats::holm(&p)) {
        pair.holm_p = corrected;
    }
    let (draws, seed) = (options.permutations, options.seed);
    let mut analysis = DistributionAnalysis { groups: Ordered(shares), overall, pairs, draws, seed, notes: Vec::new() };
    analysis.notes = notes(distribution, &analysis);
    Ok(analysis)
}

fn shares(group: &DistributionGroup, menu: &[String]) -> GroupShares {
    let n = group.n();
    let share = |count: u64| Share {
        count,
        share: (n > 0).then(|| count as f64 / n as f64),
        ci95: stats::wilson(count, n, CONFIDENCE),
    };
    let categories = menu.iter().cloned().zip(group.counts.iter().map(|&count| share(count))).collect();
    GroupShares { title: group.title.clone(), n, missing: group.missing, categories: Ordered(categories) }
}

/// `None` where there is nothing to test: a pair with an empty group has one row left.
fn independence(groups: &[&DistributionGroup], options: &Options, seed: u64) -> Result<Option<Independence>, Problem> {
    let counts = Counts::new(&groups.iter().map(|group| group.counts.clone()).collect::<Vec<_>>())?;
    let (Some(chi_square), Some(fisher)) =
        (stats::chi_square(&counts), stats::fisher(&counts, options.permutations, seed))
    else {
        return Ok(None);
    };
    let read = if chi_square.smallest_expected < EXPECTED { TestRead::Fisher } else { TestRead::ChiSquare };
    Ok(Some(Independence {
        statistic: chi_square.statistic,
        df: chi_square.df,
        chi_square_p: chi_square.p,
        cramers_v: chi_square.cramers_v,
        smallest_expected: chi_square.smallest_expected,
        fisher_p: fisher.p,
        fisher_method: match fisher.p {
            Some(_) if fisher.exact => FisherMethod::Exact,
            Some(_) => FisherMethod::MonteCarlo,
            None => FisherMethod::None,
        },
        fisher_draws: fisher.draws,
        read,
        p: match read {
            TestRead::Fisher => fisher.p,
            TestRead::ChiSquare => Some(chi_square.p),
        },
    }))
}

fn notes(distribution: &Distribution, analysis: &DistributionAnalysis) -> Vec<String> {
    let mut notes = Vec::new();
    for group in &distribution.groups {
        let (label, n, missing) = (&group.label, group.n(), group.missing);
        let enters = "it enters no test";
        match (n, missing) {
            (0, 0) => notes.push(format!("`{label}` has no finished run: {enters}.")),
            (0, _) => notes.push(format!("None of the {missing} runs of `{label}` has a category: {enters}.")),
            (_, 0) => {}
            _ => notes.push(format!(
                "{missing} of {} runs of `{label}` have no category and are not part of n. The shares are right only if that has \
                 nothing to do with what the category would have been.",
                n + missing as u64,
            )),
        }
    }
    if analysis.overall.is_none() {
        notes.push("There is no test: it takes two groups with categories, and two categories that occur.".to_owned());
    }
    notes
}
