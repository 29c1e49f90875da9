//! The analysis of a comparison: which cells are included, and the statistics of each condition and contrast.
//!
//! Every condition is summarised, and every contrast made, over the same turns: those at which each condition has at
//! least two cells (`stats::usable_turns`). Missing cells, and with `drop_flagged` flagged cells, are excluded;
//! `stats::grid` defines the mean of a sample with missing cells. `notes` states every exclusion.
//! The minimum detectable effect takes the spread of the sample means of the first condition (the control), for two
//! groups of equal size, power .8, two-sided level .05 (`stats::power`).

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{Comparison, GroupData, OK};
use crate::numbers;
use crate::stats::{self, Grid};
use tiltmeter_model::problem::Problem;

const SAMPLE_SIZES: [usize; 4] = [8, 16, 32, 64];
const POWER: f64 = 0.8;
const LEVEL: f64 = 0.05;

/// How to analyse.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Options {
    /// 1 for unbiased standard errors, 0 for the population formula; touches only the `sem` that is shown.
    pub ddof: u8,
    /// Whether cells that are not ok are left out of everything.
    pub drop_flagged: bool,
    /// Random splits of a permutation test and resamples of a bootstrap; 0 for neither.
    pub permutations: u32,
    /// Seed of both.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { ddof: 1, drop_flagged: false, permutations: 9999, seed: 0 }
    }
}

/// Named values in the order they were given; a JSON object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ordered<T>(pub Vec<(String, T)>);

impl<T> Ordered<T> {
    /// The value called `name`.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

impl<T: Serialize> Serialize for Ordered<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// All numbers of a comparison.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Analysis {
    /// Per condition, in the comparison's order.
    pub conditions: Ordered<Condition>,
    /// Later condition minus earlier: 1-0, 2-0, 2-1, 3-0, ...
    pub contrasts: Vec<Contrast>,
    /// Samples per condition ("8", "16", "32", "64") to the smallest difference they would show; empty if unknown.
    pub mde: Ordered<f64>,
    /// The condition whose spread `mde` rests on.
    pub mde_control: Option<String>,
    /// Turns (from 1) that enter means and contrasts.
    pub turns_compared: Vec<usize>,
    /// Mean of the reference over the turns it has.
    pub reference_mean: Option<f64>,
    /// The options that made this.
    pub options: Options,
    /// What the reader has to know of the numbers.
    pub notes: Vec<String>,
}

/// What is known of one condition.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Condition {
    /// Samples that entered.
    pub n: usize,
    /// Turns of its conversations.
    pub turns: usize,
    /// Per turn, over samples.
    pub per_turn: PerTurn,
    /// Mean over the compared turns, then over samples.
    pub mean: f64,
    /// Its standard error over samples; `None` for one sample.
    pub sem: Option<f64>,
    /// 95 % t interval of the mean; `None` for one sample.
    pub ci95: Option<[f64; 2]>,
    /// Correlation of cells within a sample; `None` if it cannot be estimated.
    pub icc: Option<f64>,
    /// Factor by which the variance of the mean exceeds that of independent cells.
    pub design_effect: Option<f64>,
    /// Cells that are not ok, left out or not.
    pub flagged: usize,
    /// Cells that were left out: missing ones and, with `drop_flagged`, those that are not ok.
    pub dropped: usize,
    /// Number of cells per status other than ok.
    pub statuses: Ordered<usize>,
    /// Change over the turns.
    pub drift: Drift<Estimate>,
}

/// Per turn of a condition.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct PerTurn {
    /// Mean over samples; `None` where there is no cell.
    pub mean: Vec<Option<f64>>,
    /// Standard error over samples; `None` for fewer than two cells.
    pub sem: Vec<Option<f64>>,
    /// Cells that entered.
    pub n: Vec<usize>,
}

/// Change over the turns, of whatever kind; `None` for fewer than two compared turns.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Drift<T> {
    /// Least-squares slope, per turn.
    pub slope: Option<T>,
    /// Mean of the last third of the turns minus mean of the first third.
    pub late_minus_early: Option<T>,
}

/// A mean over samples.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error; `None` for one sample.
    pub sem: Option<f64>,
}

/// A difference of two conditions as Welch's test sees it; `None`s where nothing varies.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Difference {
    /// a - b.
    pub diff: f64,
    /// Standard error of `diff`.
    pub se: Option<f64>,
    /// diff / se.
    pub t: Option<f64>,
    /// Satterthwaite's degrees of freedom.
    pub df: Option<f64>,
    /// Two-sided p value.
    pub p: Option<f64>,
    /// 95 % interval of `diff`.
    pub ci95: Option<[f64; 2]>,
    /// Standardised difference, small-sample corrected.
    pub hedges_g: Option<f64>,
}

/// Condition `a` minus condition `b`.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Contrast {
    /// The later condition.
    pub a: String,
    /// The earlier condition.
    pub b: String,
    /// Difference of the means over the compared turns.
    #[serde(flatten)]
    pub welch: Difference,
    /// p by shuffling whole samples.
    pub permutation_p: Option<f64>,
    /// Splits that `permutation_p` rests on.
    pub permutation_splits: u64,
    /// Whether these are all splits there are.
    pub permutation_exact: bool,
    /// 95 % bootstrap-t interval of `diff`.
    pub bootstrap_ci95: Option<[f64; 2]>,
    /// `diff` in units of the axis' span.
    pub span_units: Option<f64>,
    /// Turn by turn; as long as the longest condition.
    pub per_turn: ContrastPerTurn,
    /// Difference of the conditions' drifts.
    pub drift: Drift<Difference>,
}

/// Turn by turn; `None` where a condition has too few cells.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct ContrastPerTurn {
    /// Difference of the turn's means.
    pub diff: Vec<Option<f64>>,
    /// Welch's p.
    pub p: Vec<Option<f64>>,
    /// Holm's correction of it over turns.
    pub holm_p: Vec<Option<f64>>,
    /// Westfall-Young maxT over turns, shuffling whole samples.
    pub maxt_p: Vec<Option<f64>>,
}

/// A drift below this share of the size of the data is rounding noise.
const ROUNDING: f64 = 1e-14;

/// All numbers of `comparison`. Errors if its parts do not fit together, if an option makes no sense, or if leaving cells
/// out leaves nothing to compare.
pub fn analyse(comparison: &Comparison, options: &Options) -> Result<Analysis, Problem> {
    comparison.check()?;
    if options.ddof > 1 {
        return Err(Problem::new(format!("ddof is {}", options.ddof)).hint("use 1, or 0 for the population formula"));
    }
    let turns = comparison.turns();
    let grids: Vec<Grid> =
        comparison.groups.iter().map(|group| grid(group, turns, options)).collect::<Result<_, _>>()?;
    let usable = stats::usable_turns(&grids.iter().collect::<Vec<_>>());
    let Some(weights) = stats::mean_weights(&usable) else {
        return Err(Problem::new("there is no turn at which every condition has two cells left")
            .hint("keep flagged cells, or compare fewer conditions"));
    };
    let level: Vec<Vec<f64>> = scores(&grids, &weights)?;
    let values = comparison.groups.iter().flat_map(|group| &group.samples).flat_map(|sample| &sample.values).flatten();
    let size = values.fold(0.0_f64, |size, value| size.max(value.abs()));
    let drifts = |weights: Option<Vec<Option<f64>>>| -> Result<Option<Vec<Vec<f64>>>, Problem> {
        let Some(weights) = weights else { return Ok(None) };
        let mut drifts = scores(&grids, &weights)?;
        // What does not move has no slope: rounding leaves one.
        drifts.iter_mut().flatten().filter(|drift| drift.abs() < ROUNDING * size).for_each(|drift| *drift = 0.0);
        Ok(Some(drifts))
    };
    let (slopes, shifts) = (drifts(stats::slope_weights(&usable))?, drifts(stats::late_minus_early_weights(&usable))?);

    let mut conditions = Vec::new();
    for (index, group) in comparison.groups.iter().enumerate() {
        let drift = |scores: &Option<Vec<Vec<f64>>>| {
            let scores = scores.as_ref().map(|scores| stats::summarise(&scores[index], options.ddof));
            scores.transpose().map(|found| found.map(|found| Estimate { mean: found.mean, sem: found.sem }))
        };
        let drift = Drift { slope: drift(&slopes)?, late_minus_early: drift(&shifts)? };
        conditions.push((group.label.clone(), condition(group, &grids[index], &level[index], drift, options)?));
    }

    let mut contrasts = Vec::new();
    for a in 1..grids.len() {
        for b in 0..a {
            if level[a].len() < 2 || level[b].len() < 2 {
                continue;
            }
            let pair = Pair { a, b, comparison, grids: &grids, weights: &weights, level: &level, options };
            let drift = |scores: &Option<Vec<Vec<f64>>>| {
                let pair = scores.as_ref().map(|scores| (&scores[a], &scores[b]));
                pair.filter(|(a, b)| a.len() > 1 && b.len() > 1).map(|(a, b)| difference(a, b)).transpose()
            };
            let drift = Drift { slope: drift(&slopes)?, late_minus_early: drift(&shifts)? };
            // Each contrast has three streams of its own: splits of means, splits of turns, resamples.
            contrasts.push(pair.contrast(options.seed.wrapping_add(3 * contrasts.len() as u64), drift)?);
        }
    }

    let (mde, mde_control) = detectable(comparison, &level)?;
    let reference: Vec<f64> = comparison.reference.iter().flatten().flatten().copied().collect();
    let mut analysis = Analysis {
        conditions: Ordered(conditions),
        contrasts,
        mde,
        mde_control,
        turns_compared: (0..turns).filter(|&turn| usable[turn]).map(|turn| turn + 1).collect(),
        reference_mean: stats::mean(&reference).ok(),
        options: options.clone(),
        notes: Vec::new(),
    };
    analysis.notes = notes(comparison, &analysis);
    Ok(analysis)
}

/// The cells that enter, as long as the longest condition. Rows that lost everything are no samples any more.
fn grid(group: &GroupData, turns: usize, options: &Options) -> Result<Grid, Problem> {
    let rows = group.samples.iter().map(|sample| {
        let cell = |turn: usize| {
            let value = *sample.values.get(turn)?;
            value.filter(|_| !options.drop_flagged || sample.status(turn) == OK)
        };
        (0..turns).map(cell).collect::<Vec<_>>()
    });
    let rows: Vec<Vec<Option<f64>>> = rows.filter(|row| row.iter().any(Option::is_some)).collect();
    if rows.is_empty() {
        let hint = if options.drop_flagged { "keep flagged cells, or leave it out" } else { "leave it out" };
        return Err(Problem::new(format!("condition `{}` has no cell that can be used", group.label)).hint(hint));
    }
    Grid::new(rows)
}

fn scores(grids: &[Grid], weights: &[Option<f64>]) -> Result<Vec<Vec<f64>>, Problem> {
    grids.iter().map(|grid| grid.scores(weights)).collect()
}

fn condition(
    group: &GroupData,
    grid: &Grid,
    level: &[f64],
    drift: Drift<Estimate>,
    options: &Options,
) -> Result<Condition, Problem> {
    let summary = stats::summarise(level, options.ddof)?;
    let turns = group.turns();
    let mut per_turn = PerTurn {
        mean: grid.turn_means(),
        sem: grid.turn_sems(options.ddof)?,
        n: (0..turns).map(|turn| grid.column(turn).len()).collect(),
    };
    per_turn.mean.truncate(turns);
    per_turn.sem.truncate(turns);
    let flags = group.flags();
    let mut statuses: Vec<(String, usize)> = Vec::new();
    for flag in &flags {
        match statuses.last_mut().filter(|(status, _)| *status == flag.status) {
            Some((_, count)) => *count += 1,
            None => statuses.push((flag.status.clone(), 1)),
        }
    }
    let icc = stats::icc(grid);
    Ok(Condition {
        n: level.len(),
        turns,
        dropped: group.samples.len() * turns - per_turn.n.iter().sum::<usize>(),
        per_turn,
        mean: summary.mean,
        sem: summary.sem,
        ci95: summary.ci95,
        icc,
        design_effect: icc.map(|icc| stats::design_effect(grid, icc)),
        flagged: flags.len(),
        statuses: Ordered(statuses),
        drift,
    })
}

fn difference(a: &[f64], b: &[f64]) -> Result<Difference, Problem> {
    let stats::Welch { diff, se, t, df, p, ci95, hedges_g } = stats::welch(a, b)?;
    Ok(Difference { diff, se, t, df, p, ci95, hedges_g })
}

struct Pair<'a> {
    a: usize,
    b: usize,
    comparison: &'a Comparison,
    grids: &'a [Grid],
    weights: &'a [Option<f64>],
    level: &'a [Vec<f64>],
    options: &'a Options,
}

impl Pair<'_> {
    fn contrast(&self, seed: u64, drift: Drift<Difference>) -> Result<Contrast, Problem> {
        let (a, b) = (&self.grids[self.a], &self.grids[self.b]);
        let (level_a, level_b) = (&self.level[self.a], &self.level[self.b]);
        let draws = self.options.permutations;
        let (shuffle_a, shuffle_b) = stats::pooled_scores(a, b, self.weights)?;
        let permutation = stats::permutation_test(&shuffle_a, &shuffle_b, draws, seed)?;
        let welch = difference(level_a, level_b)?;

        let (mut diffs, mut p) = (Vec::new(), Vec::new());
        for turn in 0..a.turns() {
            let (x, y) = (a.column(turn), b.column(turn));
            let found = if x.len() < 2 || y.len() < 2 { None } else { Some(stats::welch(&x, &y)?) };
            diffs.push(found.map(|found| found.diff));
            p.push(found.and_then(|found| found.p));
        }
        let per_turn = ContrastPerTurn {
            diff: diffs,
            holm_p: stats::holm(&p),
            maxt_p: stats::max_t(a, b, draws, seed.wrapping_add(1))?,
            p,
        };
        Ok(Contrast {
            a: self.comparison.groups[self.a].label.clone(),
            b: self.comparison.groups[self.b].label.clone(),
            span_units: self.comparison.span.map(|(low, high)| welch.diff / (high - low)),
            welch,
            permutation_p: permutation.p,
            permutation_splits: permutation.splits,
            permutation_exact: permutation.exact,
            bootstrap_ci95: stats::bootstrap_t_interval(level_a, level_b, draws, seed.wrapping_add(2))?,
            per_turn,
            drift,
        })
    }
}

fn detectable(comparison: &Comparison, level: &[Vec<f64>]) -> Result<(Ordered<f64>, Option<String>), Problem> {
    for (group, level) in comparison.groups.iter().zip(level) {
        let Some(variance) = stats::variance(level, 1)?.filter(|&variance| variance > 0.0) else { continue };
        let effect = |n: usize| {
            let effect = stats::minimum_detectable_effect(variance.sqrt(), n, POWER, LEVEL)?;
            Ok((n.to_string(), effect))
        };
        let effects = SAMPLE_SIZES.into_iter().map(effect).collect::<Result<_, Problem>>()?;
        return Ok((Ordered(effects), Some(group.label.clone())));
    }
    Ok((Ordered(Vec::new()), None))
}

fn notes(comparison: &Comparison, analysis: &Analysis) -> Vec<String> {
    let mut notes = Vec::new();
    for (group, (label, condition)) in comparison.groups.iter().zip(analysis.conditions.iter()) {
        let lost = group.samples.len() - condition.n;
        if condition.n == 1 {
            notes.push(format!("`{label}` has one sample: it has no standard error, and no contrast is made with it."));
        } else if condition.sem == Some(0.0) {
            notes.push(format!(
                "All samples of `{label}` are the same; without chance there is nothing to test against."
            ));
        }
        if condition.dropped > 0 {
            let lost = if lost > 0 { format!(", with them {lost} whole samples") } else { String::new() };
            notes.push(format!(
                "{} of {} cells of `{label}` were left out{lost}. Its mean is the mean of turn means over the cells that \
                 are left, which is right only if a cell's absence has nothing to do with what its value would have been.",
                condition.dropped,
                group.samples.len() * condition.turns,
            ));
        } else if condition.flagged > 0 {
            notes.push(format!(
                "{} of {} cells of `{label}` are not ok and are part of every number here.",
                condition.flagged,
                group.samples.len() * condition.turns,
            ));
        }
    }
    let all = comparison.turns();
    if analysis.turns_compared.len() < all {
        let out: Vec<usize> = (1..=all).filter(|turn| !analysis.turns_compared.contains(turn)).collect();
        notes.push(format!(
            "Means and contrasts leave out {}: at {} a condition has fewer than two cells.",
            numbers::turns(&out),
            if out.len() == 1 { "it" } else { "each of them" },
        ));
    }
    notes
}
