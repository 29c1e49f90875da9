//! The specification of `stats`: the published figures of experiment 003b, scipy's numbers (printed by
//! `tests/peers/scipy_stats.py`), false-positive rates on data without an effect, and what happens to bad input.

use tiltmeter_report::stats::*;
/// mean and SEM (ddof 0) of baseline, simple, complex at each of the 18 turns, as published.
const PUBLISHED_TURNS: &str = "
3.2777 0.0508 3.2940 0.0666 3.6584 0.0632
2.7690 0.0395 2.8914 0.0856 3.7174 0.0440
2.2674 0.0441 2.4329 0.0519 3.3528 0.0406
2.8143 0.0525 3.1254 0.0448 3.4433 0.0699
1.5717 0.0659 1.7374 0.0685 2.4837 0.0380
1.2880 0.0438 1.6764 0.0591 2.5490 0.0615
2.2649 0.0702 2.6274 0.0412 3.1092 0.0340
2.2259 0.0479 2.5745 0.0467 3.0279 0.0561
2.1235 0.0554 2.4201 0.0566 2.9374 0.0493
2.2186 0.0537 2.5998 0.0791 3.2342 0.0469
0.8750 0.1327 1.1139 0.1240 1.5143 0.0723
1.9226 0.0915 2.8548 0.0672 3.5501 0.0467
1.5114 0.1391 2.5043 0.1496 3.2820 0.1462
0.2194 0.1210 0.5334 0.0915 1.3282 0.1093
1.0438 0.1113 1.6522 0.1129 2.7313 0.1583
1.3005 0.0588 1.6715 0.0656 2.3668 0.1650
0.8772 0.0738 1.4343 0.1368 2.6834 0.1745
1.2325 0.1078 2.2101 0.1287 3.1319 0.1951";

const A: [f64; 7] = [2.31, 1.94, 2.75, 2.02, 2.48, 1.67, 2.20];
const B: [f64; 5] = [1.81, 1.12, 1.40, 1.95, 1.26];

fn published() -> [Grid; 3] {
    let text = include_str!("golden/003b_published_projections.json");
    let json: serde_json::Value = serde_json::from_str(text).unwrap();
    ["baseline", "simple_sysprompt", "complex_sysprompt"].map(|condition| {
        let rows = json[condition]["projections"].as_array().unwrap();
        let row = |row: &serde_json::Value| row.as_array().unwrap().iter().map(|x| x.as_f64()).collect();
        Grid::new(rows.iter().map(row).collect()).unwrap()
    })
}

fn sample_means(grid: &Grid) -> Vec<f64> {
    grid.scores(&mean_weights(&usable_turns(&[grid])).unwrap()).unwrap()
}

#[track_caller]
fn close(found: f64, expected: f64, relative: f64) {
    assert!((found - expected).abs() <= relative * expected.abs(), "found {found:e}, expected {expected:e}");
}

#[track_caller]
fn printed(found: f64, expected: &str) {
    let digits = expected.split('.').nth(1).map_or(0, str::len);
    assert_eq!(format!("{found:.digits$}"), expected);
}

// ---- the published experiment

#[test]
fn every_published_cell_comes_out_to_the_printed_digit() {
    let mut cells = 0;
    let tables = published().map(|grid| (grid.turn_means(), grid.turn_sems(0).unwrap()));
    for (turn, line) in PUBLISHED_TURNS.trim().lines().enumerate() {
        let figures: Vec<&str> = line.split(' ').collect();
        for (condition, (means, sems)) in tables.iter().enumerate() {
            printed(means[turn].unwrap(), figures[2 * condition]);
            printed(sems[turn].unwrap(), figures[2 * condition + 1]);
            cells += 2;
        }
    }
    assert_eq!(cells, 108);
}

#[test]
fn published_condition_means_and_their_errors() {
    let expected = [("1.7668", "0.0378", "0.0390"), ("2.1863", "0.0447", "0.0462"), ("2.8945", "0.0307", "0.0317")];
    let rounded = [("1.77", "0.04"), ("2.19", "0.04"), ("2.89", "0.03")];
    for ((grid, figures), table) in published().iter().zip(expected).zip(rounded) {
        let means = sample_means(grid);
        let population = summarise(&means, 0).unwrap();
        printed(population.mean, figures.0);
        printed(population.sem.unwrap(), figures.1);
        printed(population.mean, table.0);
        printed(population.sem.unwrap(), table.1);
        printed(sem(&means, 1).unwrap().unwrap(), figures.2);
    }
}

#[test]
fn published_contrasts() {
    let grids = published();
    // a, b, difference, its error, t, df, g, turns (from 1) that Holm does not call significant
    let table = [
        (1, 0, "0.4195", "0.0605", "6.94", "29.2", "2.39", vec![1, 2, 3, 5, 11, 14]),
        (2, 0, "1.1277", "0.0503", "22.4", "28.8", "7.73", vec![]),
        (2, 1, "0.7082", "0.0560", "12.7", "26.6", "4.36", vec![]),
    ];
    for (a, b, diff, se, t, df, g, silent) in table {
        let found = welch(&sample_means(&grids[a]), &sample_means(&grids[b])).unwrap();
        printed(found.diff, diff);
        printed(found.se.unwrap(), se);
        printed(found.t.unwrap(), t);
        printed(found.df.unwrap(), df);
        printed(found.hedges_g.unwrap(), g);
        let p: Vec<Option<f64>> =
            (0..18).map(|turn| welch(&grids[a].column(turn), &grids[b].column(turn)).unwrap().p).collect();
        let adjusted = holm(&p);
        let not_significant: Vec<usize> = (1..=18).filter(|turn| adjusted[turn - 1].unwrap() >= 0.05).collect();
        assert_eq!(not_significant, silent);
    }
}

#[test]
fn published_intraclass_correlations_and_design_effect() {
    for (grid, expected) in published().iter().zip(["0.166", "0.211", "0.036"]) {
        let found = icc(grid).unwrap();
        printed(found, expected);
        close(design_effect(grid, found), 1.0 + 17.0 * found, 1e-12);
    }
}

#[test]
fn published_minimum_detectable_effects_are_those_of_the_baselines_spread() {
    let sd = variance(&sample_means(&published()[0]), 1).unwrap().unwrap().sqrt();
    for (n, expected) in [(8, "0.235"), (16, "0.160"), (32, "0.111"), (64, "0.078")] {
        printed(minimum_detectable_effect(sd, n, 0.8, 0.05).unwrap(), expected);
    }
}

#[test]
fn max_t_agrees_with_holm_where_the_effect_is_plain_and_is_repeatable() {
    let grids = published();
    let found = max_t(&grids[2], &grids[0], 999, 7).unwrap();
    assert!(found.iter().all(|p| *p == Some(0.001)), "{found:?}");
    let weak = max_t(&grids[1], &grids[0], 999, 7).unwrap();
    assert_eq!(weak, max_t(&grids[1], &grids[0], 999, 7).unwrap());
    assert_ne!(weak, max_t(&grids[1], &grids[0], 999, 8).unwrap());
    for turn in 0..18 {
        let alone = permutation_test(&grids[1].column(turn), &grids[0].column(turn), 999, 7).unwrap().p.unwrap();
        assert!(weak[turn].unwrap() >= alone - 0.02, "an adjusted p is no smaller than a raw one (turn {turn})");
    }
    let silent: Vec<usize> = (1..=18).filter(|turn| weak[turn - 1].unwrap() >= 0.05).collect();
    assert_eq!(silent, [1, 2, 3, 5, 11, 14]);
}

// ---- scipy's numbers

#[test]
fn welch_agrees_with_scipy() {
    let found = welch(&A, &B).unwrap();
    close(found.t.unwrap(), 3.2808940585217643, 1e-12);
    close(found.df.unwrap(), 8.802490914355019, 1e-12);
    close(found.p.unwrap(), 0.009804452120878585, 1e-10);
    close(found.ci95.unwrap()[0], 0.21191252923681714, 1e-10);
    close(found.ci95.unwrap()[1], 1.1635160421917543, 1e-10);
    close(found.hedges_g.unwrap(), 1.7709195140501077, 1e-12);
    let interval = summarise(&A, 0).unwrap().ci95.unwrap();
    close(interval[0], 1.8635904661265563, 1e-12);
    close(interval[1], 2.527838105302015, 1e-12);
}

#[test]
fn t_distribution_agrees_with_scipy_far_into_the_tail() {
    for (t, df, p) in [
        (0.5, 1.0, 0.7048327646991335),
        (2.1, 7.3, 0.0722467134248534),
        (22.4, 28.8, 9.096262355036401e-20),
        (40.0, 5.0, 1.8411962171772954e-07),
        (0.001, 200.0, 0.9992031123011389),
    ] {
        close(student::two_sided_p(t, df), p, 1e-10);
        close(student::two_sided_p(-t, df), p, 1e-10);
    }
    for (q, df, t) in [
        (0.975, 1.0, 12.706204736174694),
        (0.975, 9.7, 2.237515123700105),
        (0.975, 1e4, 1.960201239890626),
        (0.05, 3.0, -2.353363434801824),
        (0.9999, 2.0, 70.70007107496818),
    ] {
        close(student::quantile(q, df), t, 1e-9);
    }
}

#[test]
fn holm_agrees_with_the_definition_and_skips_what_was_not_tested() {
    let p = [0.012, 0.2, 0.003, 0.04, 0.9, 0.011].map(Some);
    let expected = [0.055, 0.4, 0.018, 0.12, 0.9, 0.055];
    for (found, expected) in holm(&p).iter().zip(expected) {
        close(found.unwrap(), expected, 1e-12);
    }
    assert_eq!(holm(&[None, Some(0.04), None]), [None, Some(0.04), None]);
    assert_eq!(holm(&[]), []);
}

#[test]
fn power_and_its_inverse_agree_with_scipys_noncentral_t() {
    for (effect, sd, n, expected) in [
        (0.3, 1.0, 10, 0.09742459135246914),
        (1.2, 1.0, 5, 0.386437261012209),
        (0.5, 2.0, 64, 0.28931207000185605),
        (2.0, 1.0, 2, 0.21830707484678252),
    ] {
        close(power(effect, sd, n, 0.05).unwrap(), expected, 1e-6);
    }
    close(minimum_detectable_effect(1.0, 16, 0.8, 0.05).unwrap(), 1.0236637440015401, 1e-6);
    close(minimum_detectable_effect(0.2, 6, 0.8, 0.05).unwrap(), 0.35910818412339796, 1e-6);
}

#[test]
fn few_splits_are_enumerated_and_agree_with_enumeration_by_scipy() {
    let found = permutation_test(&A, &B, 9999, 1).unwrap();
    assert!(found.exact);
    assert_eq!(found.splits, 792);
    close(found.p.unwrap(), 10.0 / 792.0, 1e-12);
    let drawn = permutation_test(&A, &B, 700, 1).unwrap();
    assert!(!drawn.exact);
    assert!((drawn.p.unwrap() - 10.0 / 792.0).abs() < 0.012, "{drawn:?}");
    // 1/20 of the splits of 3 + 3 are this extreme on either side: a p value cannot be smaller than that.
    close(permutation_test(&[1.0, 2.0, 3.0], &[7.0, 8.0, 9.0], 9999, 1).unwrap().p.unwrap(), 0.1, 1e-12);
}

#[test]
fn bootstrap_interval_is_near_welchs_on_tame_data() {
    let grids = published();
    let (a, b) = (sample_means(&grids[1]), sample_means(&grids[0]));
    let (welch, found) =
        (welch(&a, &b).unwrap().ci95.unwrap(), bootstrap_t_interval(&a, &b, 9999, 3).unwrap().unwrap());
    assert!((welch[0] - found[0]).abs() < 0.02 && (welch[1] - found[1]).abs() < 0.02, "{welch:?} {found:?}");
    assert!(found != welch);
    assert_eq!(bootstrap_t_interval(&A[..4], &B, 9999, 3).unwrap(), None);
}

// ---- levels on data without an effect

/// Gaussian draws (Box-Muller on a 64-bit congruential generator, independent of the one under test).
struct Noise(u64);

impl Noise {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// A conversation like the published ones: a level of its own, turns with lag-1 correlation .35, common turn means.
    fn conversation(&mut self, turns: usize) -> Vec<Option<f64>> {
        let level = 0.15 * self.normal();
        let mut wander = 0.3 * self.normal();
        (0..turns)
            .map(|turn| {
                wander = 0.35 * wander + 0.3 * (1.0 - 0.35f64.powi(2)).sqrt() * self.normal();
                Some(2.0 - 0.1 * turn as f64 + level + wander)
            })
            .collect()
    }

    fn group(&mut self, samples: usize, turns: usize) -> Grid {
        Grid::new((0..samples).map(|_| self.conversation(turns)).collect()).unwrap()
    }
}

#[test]
fn tests_on_samples_keep_their_level_and_a_test_on_cells_would_not() {
    let (trials, turns) = (4000, 8);
    let mut noise = Noise(20260215);
    let [mut welch_hits, mut permutation_hits, mut cell_hits] = [0, 0, 0];
    for trial in 0..trials {
        let (a, b) = (noise.group(8, turns), noise.group(8, turns));
        let (means_a, means_b) = (sample_means(&a), sample_means(&b));
        welch_hits += usize::from(welch(&means_a, &means_b).unwrap().p.unwrap() < 0.05);
        // 199 draws: p is a multiple of 1/200, so p <= .05 has level .05 exactly.
        let shuffled = permutation_test(&means_a, &means_b, 199, trial).unwrap();
        permutation_hits += usize::from(shuffled.p.unwrap() <= 0.05);
        let cells = |grid: &Grid| -> Vec<f64> { grid.rows().iter().flatten().copied().flatten().collect() };
        cell_hits += usize::from(welch(&cells(&a), &cells(&b)).unwrap().p.unwrap() < 0.05);
    }
    let rate = |hits: usize| hits as f64 / trials as f64;
    assert!((rate(welch_hits) - 0.05).abs() < 0.01, "Welch on samples: {}", rate(welch_hits));
    assert!((rate(permutation_hits) - 0.05).abs() < 0.01, "permutation: {}", rate(permutation_hits));
    assert!(rate(cell_hits) > 0.12, "cells as if independent: {}", rate(cell_hits));
}

#[test]
fn unequal_spread_and_size_do_not_spoil_the_level() {
    let trials = 4000;
    let mut noise = Noise(77);
    let [mut welch_hits, mut permutation_hits] = [0, 0];
    for trial in 0..trials {
        let a: Vec<f64> = (0..16).map(|_| noise.normal()).collect();
        let b: Vec<f64> = (0..32).map(|_| 3.0 * noise.normal()).collect();
        welch_hits += usize::from(welch(&a, &b).unwrap().p.unwrap() < 0.05);
        permutation_hits += usize::from(permutation_test(&a, &b, 199, trial).unwrap().p.unwrap() <= 0.05);
    }
    for hits in [welch_hits, permutation_hits] {
        assert!((hits as f64 / trials as f64 - 0.05).abs() < 0.01, "{hits} of {trials}");
    }
}

#[test]
fn max_t_errs_in_a_whole_family_of_turns_once_in_twenty() {
    let trials = 2000;
    let mut noise = Noise(5);
    let (mut family, mut any_raw) = (0, 0);
    for trial in 0..trials {
        let (a, b) = (noise.group(8, 6), noise.group(8, 6));
        family += usize::from(max_t(&a, &b, 199, trial).unwrap().iter().any(|p| p.unwrap() <= 0.05));
        any_raw += usize::from((0..6).any(|t| welch(&a.column(t), &b.column(t)).unwrap().p.unwrap() < 0.05));
    }
    let rate = family as f64 / trials as f64;
    assert!((rate - 0.05).abs() < 0.015, "{rate}");
    assert!(any_raw as f64 / trials as f64 > 0.15, "uncorrected turns must err more often: {any_raw}");
}

#[test]
fn holes_do_not_spoil_the_level_nor_shift_the_mean() {
    let trials = 3000;
    let mut noise = Noise(99);
    let [mut welch_hits, mut permutation_hits] = [0, 0];
    for trial in 0..trials {
        let mut grids = [noise.group(12, 6), noise.group(12, 6)];
        for (which, grid) in grids.iter_mut().enumerate() {
            let mut rows = grid.rows().to_vec();
            for row in &mut rows {
                // The second group loses many of its late, low turns: a plain mean of what is left would rise.
                for turn in 3..6 {
                    if noise.uniform() < [0.1, 0.5][which] {
                        row[turn] = None;
                    }
                }
            }
            *grid = Grid::new(rows).unwrap();
        }
        let weights = mean_weights(&usable_turns(&[&grids[0], &grids[1]])).unwrap();
        let scores = [0, 1].map(|which: usize| grids[which].scores(&weights).unwrap());
        welch_hits += usize::from(welch(&scores[0], &scores[1]).unwrap().p.unwrap() < 0.05);
        let (a, b) = pooled_scores(&grids[0], &grids[1], &weights).unwrap();
        permutation_hits += usize::from(permutation_test(&a, &b, 199, trial).unwrap().p.unwrap() <= 0.05);
    }
    let rates = [welch_hits, permutation_hits].map(|hits| hits as f64 / trials as f64);
    assert!((rates[0] - 0.05).abs() < 0.02 && (rates[1] - 0.05).abs() < 0.015, "{rates:?}");
}

// ---- holes, drift

#[test]
fn a_sample_that_lost_its_low_turn_is_not_credited_with_a_high_mean() {
    let full = [[10.0, 0.0], [12.0, 2.0], [11.0, 1.0], [11.0, 1.0]];
    let mut rows: Vec<Vec<Option<f64>>> = full.iter().map(|row| row.map(Some).to_vec()).collect();
    rows[0][1] = None;
    let grid = Grid::new(rows).unwrap();
    let scores = sample_means(&grid);
    // Turn means 11 and 4/3: the estimate is their mean, whatever the hole.
    close(mean(&scores).unwrap(), (11.0 + 4.0 / 3.0) / 2.0, 1e-12);
    assert!(scores[0] < scores[1], "sample 0 was below the others where it was seen: {scores:?}");
    let complete = Grid::new(full.iter().map(|row| row.map(Some).to_vec()).collect()).unwrap();
    assert_eq!(sample_means(&complete), [5.0, 7.0, 6.0, 6.0]);
}

#[test]
fn only_turns_that_every_condition_has_are_compared() {
    let dense = Grid::new(vec![vec![Some(1.0); 3]; 4]).unwrap();
    let mut rows = vec![vec![Some(1.0), Some(2.0), None]; 4];
    rows[0] = vec![None, Some(2.0), Some(3.0)];
    let holed = Grid::new(rows).unwrap();
    assert_eq!(usable_turns(&[&dense, &holed]), [true, true, false]);
    let short = Grid::new(vec![vec![Some(1.0)]; 4]).unwrap();
    assert_eq!(usable_turns(&[&dense, &short]), [true, false, false]);
    assert!(holed.scores(&[Some(0.3), Some(0.3), Some(0.4)]).is_err(), "one cell says nothing of its spread");
}

#[test]
fn slopes_and_late_minus_early_are_those_of_each_sample() {
    let rows = vec![
        vec![Some(1.0), Some(3.0), Some(5.0), Some(7.0), Some(9.0), Some(11.0)],
        vec![Some(4.0), Some(4.0), Some(4.0), Some(4.0), Some(4.0), Some(4.0)],
    ];
    let grid = Grid::new(rows).unwrap();
    let slopes = grid.scores(&slope_weights(&[true; 6]).unwrap()).unwrap();
    close(slopes[0], 2.0, 1e-12);
    assert!(slopes[1].abs() < 1e-12);
    let shifts = grid.scores(&late_minus_early_weights(&[true; 6]).unwrap()).unwrap();
    close(shifts[0], 8.0, 1e-12);
    // A turn that is left out keeps its distance on the clock.
    let gapped = grid.scores(&slope_weights(&[true, true, false, true, true, true]).unwrap()).unwrap();
    close(gapped[0], 2.0, 1e-12);
    assert_eq!(slope_weights(&[true, false]), None);
    assert_eq!(late_minus_early_weights(&[false, true]), None);
    assert_eq!(mean_weights(&[false, false]), None);
}

// ---- bad input never yields a number that looks right

#[test]
fn one_sample_has_no_standard_error_with_either_ddof() {
    for ddof in [0, 1] {
        let one = summarise(&[3.5], ddof).unwrap();
        assert_eq!((one.mean, one.sd, one.sem, one.ci95), (3.5, None, None, None));
    }
    assert!(welch(&[1.0], &[1.0, 2.0]).is_err());
    assert!(permutation_test(&[1.0], &[1.0, 2.0], 99, 0).is_err());
    assert_eq!(icc(&Grid::new(vec![vec![Some(1.0), Some(2.0)]]).unwrap()), None);
}

#[test]
fn not_a_number_is_an_error_everywhere() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert!(mean(&[1.0, bad]).is_err());
        assert!(variance(&[1.0, bad], 1).is_err());
        assert!(welch(&[1.0, 2.0, bad], &[1.0, 2.0]).is_err());
        assert!(permutation_test(&[1.0, 2.0], &[bad, 2.0], 99, 0).is_err());
        assert!(bootstrap_t_interval(&[1.0, 2.0], &[bad, 2.0], 99, 0).is_err());
        let problem = Grid::new(vec![vec![Some(1.0)], vec![Some(bad)]]).unwrap_err();
        assert!(problem.place.unwrap().contains("sample 1"));
        assert!(minimum_detectable_effect(bad, 16, 0.8, 0.05).is_err());
        assert!(power(bad, 1.0, 16, 0.05).is_err());
    }
    assert!(mean(&[]).is_err());
    assert!(variance(&[1.0, 2.0], 2).is_err());
    assert!(variance(&[1e200, -1e200], 1).is_err());
    assert!(Grid::new(vec![]).is_err());
    assert!(Grid::new(vec![vec![]]).is_err());
    assert!(Grid::new(vec![vec![Some(1.0)], vec![Some(1.0), None]]).is_err());
    assert!(minimum_detectable_effect(0.0, 16, 0.8, 0.05).is_err());
    assert!(minimum_detectable_effect(1.0, 1, 0.8, 0.05).is_err());
}

#[test]
fn identical_samples_give_a_difference_and_no_p_value() {
    // 0.1 + 0.2 style noise: the variance of identical numbers is zero, not 1e-33.
    let found = welch(&[0.3, 0.1 + 0.2, 0.3], &[0.1, 0.1, 0.1]).unwrap();
    assert!((found.diff - 0.2).abs() < 1e-12);
    assert_eq!((found.se, found.t, found.p, found.ci95, found.hedges_g), (None, None, None, None, None));
    assert_eq!(permutation_test(&[0.3; 8], &[0.1; 8], 999, 0).unwrap().p, None);
    assert_eq!(bootstrap_t_interval(&[0.3; 8], &[0.1; 8], 999, 0).unwrap(), None);
    assert_eq!(icc(&Grid::new(vec![vec![Some(0.3), Some(0.7)]; 4]).unwrap()), None);
    assert_eq!(permutation_test(&A, &B, 0, 0).unwrap().p, None, "no splits asked for, none reported");
}
