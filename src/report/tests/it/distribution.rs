//! The specification of distributions: intervals and tests of counts against scipy and exact counting
//! (`tests/fixtures/categorical.json`, made by `tests/peers/make_categorical_fixtures.py`), what is said of a distribution, what is
//! refused, what the bars show.

use serde_json::{Value, json};
use tiltmeter_report::{
    plot::{Bar, Chart, StackedBars},
    stats::{Counts, Fisher, chi_square, fisher, wilson},
    *,
};

fn fixtures(key: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../../../../tests/fixtures/categorical.json")).unwrap();
    all[key].as_array().unwrap().clone()
}

fn rows(entry: &Value) -> Vec<Vec<u64>> {
    serde_json::from_value(entry["table"].clone()).unwrap()
}

fn tested(rows: &[Vec<u64>]) -> Fisher {
    fisher(&Counts::new(rows).unwrap(), 9999, 0).unwrap()
}

#[track_caller]
fn close(found: f64, expected: &Value, relative: f64) {
    let expected = expected.as_f64().unwrap();
    let size = expected.abs().max(1e-300);
    assert!((found - expected).abs() <= relative * size || (found - expected).abs() < 1e-14, "{found:e}, {expected:e}");
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn group(label: &str, counts: &[u64]) -> DistributionGroup {
    DistributionGroup { label: label.to_owned(), counts: counts.to_vec(), ..DistributionGroup::default() }
}

/// Three groups; the control is honest, the last one hardly ever.
fn strategies() -> Distribution {
    Distribution {
        title: "stakes: Strategy".to_owned(),
        label: "strategy".to_owned(),
        menu: words(&["Total Honesty", "Evasion", "Active Deception", "Double Bluff"]),
        groups: vec![
            group("baseline", &[16, 3, 1, 0]),
            DistributionGroup { title: Some("High stakes".to_owned()), ..group("stakes", &[9, 6, 5, 0]) },
            DistributionGroup { missing: 2, ..group("threat", &[2, 6, 10, 0]) },
        ],
        notes: vec!["The judge saw no system prompt.".to_owned()],
    }
}

fn analysed(distribution: &Distribution) -> DistributionAnalysis {
    analyse_distribution(distribution, &Options::default()).unwrap()
}

// ---- numbers against their oracles

#[test]
fn wilson_agrees_with_scipy() {
    for entry in fixtures("wilson") {
        let (successes, n) = (entry["successes"].as_u64().unwrap(), entry["n"].as_u64().unwrap());
        let [low, high] = wilson(successes, n, entry["confidence"].as_f64().unwrap()).unwrap();
        close(low, &entry["low"], 1e-11);
        close(high, &entry["high"], 1e-11);
        assert!((0.0..=1.0).contains(&low) && (0.0..=1.0).contains(&high) && low < high);
    }
    for (successes, n, confidence) in [(0, 0, 0.95), (3, 2, 0.95), (1, 2, 0.0), (1, 2, 1.0), (1, 2, f64::NAN)] {
        assert_eq!(wilson(successes, n, confidence), None);
    }
}

#[test]
fn chi_square_and_cramers_v_agree_with_scipy_without_empty_rows_and_columns() {
    for entry in fixtures("tables").iter().chain(&fixtures("large")) {
        let found = chi_square(&Counts::new(&rows(entry)).unwrap()).unwrap();
        close(found.statistic, &entry["statistic"], 1e-11);
        assert_eq!(json!(found.df), entry["df"]);
        close(found.p, &entry["p"], 1e-9);
        close(found.cramers_v, &entry["cramers_v"], 1e-11);
        close(found.smallest_expected, &entry["smallest_expected"], 1e-12);
    }
}

#[test]
fn fishers_test_of_any_size_agrees_with_scipy_and_with_counting_in_whole_numbers() {
    for entry in fixtures("tables") {
        let found = tested(&rows(&entry));
        assert!(found.exact && found.draws == 0, "{entry}");
        close(found.p.unwrap(), &entry["fisher_p"], 1e-9);
    }
    // Agresti (2002), p. 57, as R's documentation prints it.
    assert_eq!(format!("{:.4}", tested(&rows(&fixtures("tables")[0])).p.unwrap()), "0.7827");
}

#[test]
fn too_many_tables_are_drawn_from_and_that_is_said() {
    for entry in fixtures("large") {
        let rows = rows(&entry);
        let found = tested(&rows);
        assert_eq!((found.exact, found.draws), (false, 9999), "{entry}");
        let (p, exact) = (found.p.unwrap(), entry["fisher_p"].as_f64().unwrap());
        let error = (exact * (1.0 - exact) / 9999.0).sqrt();
        assert!((p - exact).abs() < 4.0 * error + 1e-4, "{p} for {exact}");
        let counts = Counts::new(&rows).unwrap();
        assert_eq!(fisher(&counts, 9999, 0), Some(found), "the seed decides");
        assert_ne!(fisher(&counts, 9999, 1), Some(found));
        assert_eq!(fisher(&counts, 0, 0), Some(Fisher { p: None, exact: false, draws: 0 }));
    }
    // Never zero, however clear: p = 1 / (B + 1).
    let clear = tested(&[vec![60, 5, 9, 4, 8, 3], vec![4, 50, 9, 30, 2, 1], vec![9, 9, 70, 3, 3, 20]]);
    assert_eq!((clear.exact, clear.p), (false, Some(1e-4)));
}

#[test]
fn neither_the_order_nor_the_side_of_rows_and_columns_matters() {
    for entry in fixtures("tables").iter().skip(1) {
        let rows = rows(entry);
        let turned: Vec<Vec<u64>> =
            (0..rows[0].len()).map(|column| rows.iter().rev().map(|row| row[column]).collect()).collect();
        let (straight, turned) = (tested(&rows).p.unwrap(), tested(&turned).p.unwrap());
        assert!((straight - turned).abs() <= 1e-12 * straight, "{entry}: {straight} {turned}");
    }
}

#[test]
fn fishers_test_keeps_its_level() {
    // Counts of two groups with the same shares (a 64-bit congruential generator, independent of the one under test).
    let mut state = 7_u64;
    let mut category = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        [0, 0, 0, 1, 1, 2, 3, 3][(state >> 61) as usize]
    };
    let (mut hits, trials) = (0, 2000);
    for _ in 0..trials {
        let mut table = vec![vec![0; 4]; 2];
        for run in 0..24 {
            table[run % 2][category()] += 1;
        }
        hits += usize::from(tested(&table).p.unwrap() <= 0.05);
    }
    let rate = hits as f64 / trials as f64;
    assert!(rate > 0.02 && rate < 0.06, "{rate}");
}

#[test]
fn tables_that_say_nothing_have_no_test_and_broken_ones_are_refused() {
    for rows in [vec![], vec![vec![]], vec![vec![3, 4]], vec![vec![0, 0], vec![3, 4]], vec![vec![3, 0], vec![2, 0]]] {
        let counts = Counts::new(&rows).unwrap();
        assert_eq!((chi_square(&counts), fisher(&counts, 99, 0)), (None, None));
    }
    assert!(Counts::new(&[vec![1, 2], vec![1]]).unwrap_err().what.contains("row 1"));
    assert!(Counts::new(&[vec![u64::MAX, 1]]).is_err());
    let huge = Counts::new(&[vec![200_000, 100], vec![200_000, 150]]).unwrap();
    assert_eq!(fisher(&huge, 99, 0).unwrap().p, None);
    assert!(chi_square(&huge).unwrap().p < 0.05);
}

// ---- what is said of a distribution

#[test]
fn every_group_has_its_counts_shares_and_intervals() {
    let distribution = strategies();
    let json = distribution_json(&distribution, &analysed(&distribution));
    let threat = &json["groups"]["threat"];
    assert_eq!(
        (&threat["n"], &threat["missing"]),
        (&json!(18), &json!(2)),
        "a run without a category is not part of n"
    );
    let deception = &threat["categories"]["Active Deception"];
    assert_eq!((&deception["count"], &deception["share"]), (&json!(10), &json!(10.0 / 18.0)));
    assert_eq!(deception["ci95"], json!(wilson(10, 18, 0.95).unwrap()));
    let never = &json["groups"]["baseline"]["categories"]["Double Bluff"];
    assert_eq!(
        (&never["share"], &never["ci95"][0]),
        (&json!(0.0), &json!(0.0)),
        "what never occurred has an interval too"
    );
    assert_eq!(json["groups"]["stakes"]["title"], "High stakes");
    let order: Vec<&String> = json["groups"]["baseline"]["categories"].as_object().unwrap().keys().collect();
    assert_eq!(order, ["Total Honesty", "Evasion", "Active Deception", "Double Bluff"]);
    let notes = json["notes"].as_array().unwrap();
    assert_eq!(notes[0], "The judge saw no system prompt.");
    assert!(notes[1].as_str().unwrap().contains("2 of 20 runs of `threat` have no category"));
}

#[test]
fn pairs_are_corrected_over_pairs_and_the_test_to_read_is_named() {
    let analysis = analysed(&strategies());
    let overall = analysis.overall.as_ref().unwrap();
    assert_eq!(overall.df, 4, "a category that never occurs costs no degree of freedom");
    assert!((overall.smallest_expected - 15.0 * 18.0 / 58.0).abs() < 1e-12);
    assert_eq!((overall.read, overall.p), (TestRead::Fisher, overall.fisher_p), "an expected count is below 5");
    let mut more = strategies();
    more.groups.iter_mut().for_each(|group| group.counts.iter_mut().for_each(|count| *count *= 2));
    let more = analysed(&more).overall.unwrap();
    assert_eq!((more.read, more.p), (TestRead::ChiSquare, Some(more.chi_square_p)));
    let pairs: Vec<(&str, &str)> = analysis.pairs.iter().map(|pair| (&*pair.a, &*pair.b)).collect();
    assert_eq!(pairs, [("stakes", "baseline"), ("threat", "baseline"), ("threat", "stakes")]);
    let mut p: Vec<f64> = analysis.pairs.iter().map(|pair| pair.test.as_ref().unwrap().p.unwrap()).collect();
    let clear = &analysis.pairs[1];
    p.sort_by(f64::total_cmp);
    assert_eq!(clear.test.as_ref().unwrap().p, Some(p[0]));
    assert!((clear.holm_p.unwrap() - 3.0 * p[0]).abs() < 1e-15 && clear.holm_p.unwrap() < 0.001);
    // Smallest expected counts: 3, 4.3 and 5.2.
    for (pair, read) in analysis.pairs.iter().zip([TestRead::Fisher, TestRead::Fisher, TestRead::ChiSquare]) {
        let test = pair.test.as_ref().unwrap();
        assert_eq!((test.read, test.fisher_method), (read, FisherMethod::Exact), "{test:?}");
        assert_eq!(test.p, if read == TestRead::Fisher { test.fisher_p } else { Some(test.chi_square_p) });
    }
}

#[test]
fn groups_without_runs_are_shown_with_n_0_and_enter_no_test() {
    let mut distribution = strategies();
    distribution.groups.push(group("later", &[0; 4]));
    distribution.groups.push(DistributionGroup { missing: 5, ..group("broken", &[0; 4]) });
    let analysis = analysed(&distribution);
    assert_eq!(analysis.overall, analysed(&strategies()).overall);
    let later = analysis.groups.get("later").unwrap();
    assert_eq!((later.n, later.categories.0[0].1.share, later.categories.0[0].1.ci95), (0, None, None));
    let holm = |analysis: &DistributionAnalysis| analysis.pairs[..3].iter().map(|p| p.holm_p).collect::<Vec<_>>();
    assert_eq!(holm(&analysis), holm(&analysed(&strategies())), "tests that were not made are not corrected for");
    assert!(analysis.pairs[3..].iter().all(|pair| pair.test.is_none() && pair.holm_p.is_none()));
    let notes = analysis.notes.join("\n");
    assert!(
        notes.contains("`later` has no finished run") && notes.contains("None of the 5 runs of `broken`"),
        "{notes}"
    );
    let json = distribution_json(&distribution, &analysis);
    assert_eq!(json["pairs"][9]["test"], Value::Null);
    let text = distribution_terminal(&distribution, &analysis);
    assert!(text.lines().any(|line| line.starts_with("broken") && line.ends_with('5')), "{text}");
}

#[test]
fn one_group_or_one_category_has_shares_and_no_test() {
    let mut distribution = strategies();
    distribution.groups.truncate(1);
    let alone = analysed(&distribution);
    assert!(alone.overall.is_none() && alone.pairs.is_empty());
    assert!(alone.notes.iter().any(|note| note.contains("There is no test")));
    distribution.groups = vec![group("a", &[4, 0, 0, 0]), group("b", &[9, 0, 0, 0])];
    let same = analysed(&distribution);
    assert!(same.overall.is_none() && same.pairs[0].test.is_none());
    let text = distribution_terminal(&distribution, &same);
    assert!(text.contains("4 (100.0 %)") && text.contains("9 (100.0 %)") && !text.contains("Tests"), "{text}");
}

#[test]
fn a_category_off_the_menu_is_refused_with_the_run_and_the_menu() {
    let menu = words(&["yes", "no"]);
    let runs = [("v1-000".to_owned(), Some("yes")), ("v1-001".to_owned(), None), ("v1-002".to_owned(), Some("maybe"))];
    let good = DistributionGroup::tally("v1", Some("First"), &menu, runs[..2].to_vec()).unwrap();
    assert_eq!((good.counts.as_slice(), good.missing, good.n(), good.name()), (&[1, 0][..], 1, 1, "First"));
    let problem = DistributionGroup::tally("v1", None, &menu, runs).unwrap_err();
    assert_eq!(problem.what, "`maybe` is not on the menu");
    assert_eq!(problem.place.as_deref(), Some("condition `v1`, run v1-002"));
    assert!(problem.hint.unwrap().contains("yes, no"));
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let refused = |change: fn(&mut Distribution)| {
        let mut distribution = strategies();
        change(&mut distribution);
        analyse_distribution(&distribution, &Options::default()).unwrap_err().to_string()
    };
    assert!(refused(|d| d.menu.clear()).contains("menu is empty"));
    assert!(refused(|d| d.menu[1] = "Total Honesty".to_owned()).contains("`Total Honesty` is on the menu twice"));
    assert!(refused(|d| d.groups.clear()).contains("no groups"));
    assert!(refused(|d| d.groups[2].label = "stakes".to_owned()).contains("two groups are called `stakes`"));
    assert!(refused(|d| d.groups[2].counts.push(1)).contains("5 counts for 4 categories"));
}

#[test]
fn the_tables_in_the_terminal_are_as_they_are() {
    let distribution = strategies();
    let text = distribution_terminal(&distribution, &analysed(&distribution));
    let expected = "\
stakes: Strategy
runs by `strategy`

                     baseline      stakes       threat
──────────────────────────────────────────────────────
Total Honesty     16 (80.0 %)  9 (45.0 %)   2 (11.1 %)
Evasion            3 (15.0 %)  6 (30.0 %)   6 (33.3 %)
Active Deception    1 (5.0 %)  5 (25.0 %)  10 (55.6 %)
Double Bluff        0 (0.0 %)   0 (0.0 %)    0 (0.0 %)
n                          20          20           18
no category                 0           0            2
";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.contains("[58.4, 91.9] %") && text.contains("threat – baseline"), "{text}");
    assert!(text.contains("note: The judge saw no system prompt."), "{text}");
}

#[test]
fn the_report_holds_what_the_terminal_says_and_takes_no_markup_from_labels() {
    let mut distribution = strategies();
    distribution.menu[1] = "<script>alert(1)</script>".to_owned();
    let analysis = analysed(&distribution);
    let svg = bar_chart(&distribution).svg().unwrap();
    let page = page_html(&[Section::distribution(&distribution, &analysis, Some(&svg))]);
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;"));
    assert!(page.contains("<title>stakes: Strategy</title>"));
    assert_eq!(page.matches("<svg ").count(), 1);
    let text = page_markdown(&[Section::distribution(&distribution, &analysis, Some("images/stakes.png"))]);
    assert!(text.contains("![stakes: Strategy](<images/stakes.png>)"));
    for heading in ["95 % intervals of the shares", "Tests", "Groups", "Notes", "How the numbers were made"] {
        assert!(page.contains(&format!("<h2>{heading}</h2>")), "{heading}");
        assert!(text.contains(&format!("## {heading}\n")), "{heading}");
    }
    assert!(text.contains("| stakes | High stakes |"), "{text}");
}

// ---- figures

/// Width, height and RGB pixels.
fn decode(png: &[u8]) -> (usize, usize, Vec<u8>) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    (info.width as usize, info.height as usize, pixels)
}

#[test]
fn a_bar_is_cut_in_proportion_to_its_counts() {
    let (width, height, pixels) = decode(&bar_chart(&strategies()).png().unwrap());
    assert_eq!(width, 1600);
    let count = |colour: [u8; 3]| pixels.chunks(3).filter(|pixel| *pixel == colour).count() as f64;
    let [honest, evasive, deceptive] = [[0, 114, 178], [213, 94, 0], [0, 158, 115]].map(count);
    let [a, b, c] = [16.0 / 20.0 + 9.0 / 20.0 + 2.0 / 18.0, 9.0 / 20.0 + 6.0 / 18.0, 6.0 / 20.0 + 10.0 / 18.0];
    for (found, expected) in [(honest / deceptive, a / c), (evasive / deceptive, b / c)] {
        assert!((found / expected - 1.0).abs() < 0.05, "{found} {expected}");
    }
    let white = |x: usize, y: usize| pixels[3 * (y * width + x)..][..3] == [255; 3];
    assert!((0..width).all(|x| (0..16).all(|y| white(x, y) && white(x, height - 1 - y))), "top and bottom are free");
    assert!((0..height).all(|y| (0..16).all(|x| white(x, y) && white(width - 1 - x, y))), "left and right are free");
}

#[test]
fn the_svg_holds_names_counts_and_totals_and_no_markup_of_labels() {
    let mut distribution = strategies();
    distribution.menu[0] = "a < b & \"c\"".to_owned();
    distribution.groups.push(group("later", &[0; 4]));
    let svg = bar_chart(&distribution).svg().unwrap();
    for text in ["a &lt; b &amp; \"c\"", "High stakes", "threat", "n = 20", "n = 18", "n = 0", ">16<", ">100 %<"] {
        assert!(svg.contains(text), "{text}");
    }
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.contains("@font-face"));
    assert!(!svg.contains("NaN"));
}

#[test]
fn hard_bars_are_drawn() {
    let long = "a very long name that says everything about its system prompt and then some more of it";
    for (bars, categories, scale) in [(2, 2, 1), (12, 8, 3), (1, 1, 0), (60, 20, 1), (3, 2, u64::MAX / 8), (24, 40, 7)]
    {
        let bar = |b: u64| Bar {
            label: format!("{b} {long}"),
            counts: (0..categories).map(|c| scale * ((b * 7 + c * 3) % 5)).collect(),
        };
        let chart = StackedBars {
            title: long.repeat(3),
            x_label: long.repeat(3),
            categories: (0..categories).map(|c| format!("{c} {long}")).collect(),
            bars: (0..bars).map(bar).collect(),
        };
        let svg = chart.svg().unwrap();
        assert!(svg.contains('…') && !svg.contains("NaN") && !svg.contains("inf"), "{bars} {categories} {scale}");
        decode(&chart.png().unwrap());
    }
    let nameless = StackedBars {
        categories: words(&[""]),
        bars: vec![Bar { label: String::new(), counts: vec![1] }],
        ..Default::default()
    };
    decode(&nameless.png().unwrap());
}

#[test]
fn bars_that_cannot_be_drawn_are_refused_and_too_many_groups_are_said_to_be_left_out() {
    let mut chart = StackedBars::default();
    assert!(chart.png().is_err());
    chart.categories = words(&["a"]);
    chart.bars = vec![Bar { label: "x".to_owned(), counts: vec![1, 2] }];
    assert!(chart.svg().unwrap_err().what.contains("2 counts for 1 categories"));
    let mut distribution = strategies();
    distribution.groups = (0..=StackedBars::MAX_BARS).map(|n| group(&n.to_string(), &[1, 2, 3, 4])).collect();
    let chart = bar_chart(&distribution);
    assert!(chart.title.ends_with("(the first 120 of 121 groups)") && chart.svg().is_ok());
    chart.png().unwrap();
}
