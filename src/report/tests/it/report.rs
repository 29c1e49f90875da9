//! The specification of `report` and `plot`: what a comparison of published documents says, what is never silent,
//! what is refused and how, and that figures hold what they should.

mod figures;

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tiltmeter_report::{
    plot::{Chart, Line, LineChart},
    *,
};

fn documents() -> Vec<Value> {
    let text = include_str!("golden/003b_published_projections.json");
    let json: Value = serde_json::from_str(text).unwrap();
    json.as_object().unwrap().values().cloned().collect()
}

/// Writes documents to files of their own and loads them.
fn load(documents: &[Value]) -> Result<Comparison, Vec<tiltmeter_model::problem::Problem>> {
    let folder = tempfile::tempdir().unwrap();
    load_documents(&write(&folder, documents))
}

fn write(folder: &tempfile::TempDir, documents: &[Value]) -> Vec<PathBuf> {
    let file = |(index, document): (usize, &Value)| {
        let path = folder.path().join(format!("{index}.json"));
        fs::write(&path, document.to_string()).unwrap();
        path
    };
    documents.iter().enumerate().map(file).collect()
}

fn quick() -> Options {
    Options { permutations: 499, ..Options::default() }
}

fn small(label: &str, rows: &[&[f64]]) -> Value {
    json!({ "condition": label, "projections": rows })
}

// ---- the published experiment

#[test]
fn the_analysis_of_the_published_documents_has_the_agreed_shape_and_figures() {
    let comparison = load(&documents()).unwrap();
    assert_eq!(comparison.title, "allenai/Olmo-3-7B-Instruct on llama-70b/selfharm_unsteered");
    let analysis = analyse(&comparison, &quick()).unwrap();
    let json = serde_json::to_value(&analysis).unwrap();
    let labels: Vec<&String> = json["conditions"].as_object().unwrap().keys().collect();
    assert_eq!(labels, ["003b_baseline", "003b_simple_sysprompt", "003b_complex_sysprompt"]);
    let baseline = &json["conditions"]["003b_baseline"];
    assert_eq!((&baseline["n"], &baseline["turns"], &baseline["flagged"]), (&json!(16), &json!(18), &json!(0)));
    for key in ["mean", "sem", "icc", "design_effect"] {
        assert!(baseline[key].is_f64(), "{key}");
    }
    for key in ["mean", "sem"] {
        assert_eq!(baseline["per_turn"][key].as_array().unwrap().len(), 18);
    }
    assert_eq!(format!("{:.4}", baseline["sem"].as_f64().unwrap()), "0.0390");

    let contrasts = json["contrasts"].as_array().unwrap();
    let pairs: Vec<String> = contrasts.iter().map(|c| format!("{} {}", c["a"], c["b"]).replace("\"", "")).collect();
    assert_eq!(
        pairs,
        [
            "003b_simple_sysprompt 003b_baseline",
            "003b_complex_sysprompt 003b_baseline",
            "003b_complex_sysprompt 003b_simple_sysprompt"
        ]
    );
    for (contrast, (diff, g)) in contrasts.iter().zip([("0.4195", "2.39"), ("1.1277", "7.73"), ("0.7082", "4.36")]) {
        assert_eq!(format!("{:.4}", contrast["diff"].as_f64().unwrap()), diff);
        assert_eq!(format!("{:.2}", contrast["hedges_g"].as_f64().unwrap()), g);
        assert_eq!(contrast["permutation_p"], json!(0.002));
        for key in ["se", "t", "df", "p"] {
            assert!(contrast[key].is_f64(), "{key}");
        }
        let ci = contrast["ci95"].as_array().unwrap();
        assert!(ci[0].as_f64() < contrast["diff"].as_f64() && contrast["diff"].as_f64() < ci[1].as_f64());
        for key in ["diff", "p", "holm_p", "maxt_p"] {
            assert_eq!(contrast["per_turn"][key].as_array().unwrap().len(), 18, "{key}");
        }
    }
    let detectable: Vec<String> =
        ["8", "16", "32", "64"].iter().map(|n| format!("{:.3}", json["mde"][n].as_f64().unwrap())).collect();
    assert_eq!(detectable, ["0.235", "0.160", "0.111", "0.078"]);
    assert!(analysis.notes.is_empty(), "{:?}", analysis.notes);
}

#[test]
fn ddof_touches_the_shown_errors_and_no_test() {
    let comparison = load(&documents()).unwrap();
    let population = analyse(&comparison, &Options { ddof: 0, ..quick() }).unwrap();
    let unbiased = analyse(&comparison, &quick()).unwrap();
    let sem = |analysis: &Analysis| format!("{:.4}", analysis.conditions.get("003b_baseline").unwrap().sem.unwrap());
    assert_eq!((sem(&population), sem(&unbiased)), ("0.0378".to_owned(), "0.0390".to_owned()));
    assert_eq!(population.contrasts, unbiased.contrasts);
    assert!(analyse(&comparison, &Options { ddof: 2, ..quick() }).is_err());
}

#[test]
fn the_seed_decides_the_shuffles_and_zero_permutations_mean_none() {
    let comparison = load(&documents()).unwrap();
    let p = |seed, permutations| {
        let analysis = analyse(&comparison, &Options { seed, permutations, ..Options::default() }).unwrap();
        (analysis.contrasts[0].per_turn.maxt_p.clone(), analysis.contrasts[0].permutation_p)
    };
    assert_eq!(p(4, 199), p(4, 199));
    assert_ne!(p(4, 199), p(5, 199));
    assert_eq!(p(4, 0), (vec![None; 18], None));
}

#[test]
fn the_order_of_the_files_is_kept() {
    let mut documents = documents();
    documents.reverse();
    let analysis = analyse(&load(&documents).unwrap(), &quick()).unwrap();
    assert_eq!(analysis.conditions.0[0].0, "003b_complex_sysprompt");
    assert_eq!(
        (&*analysis.contrasts[0].a, &*analysis.contrasts[0].b),
        ("003b_simple_sysprompt", "003b_complex_sysprompt")
    );
    assert_eq!(format!("{:.4}", analysis.contrasts[0].welch.diff), "-0.7082");
}

#[test]
fn the_summary_holds_every_turn_with_its_n_and_ddof() {
    let mut documents = documents();
    documents[0]["reference"] = json!([3.855, 3.9844, null]);
    let comparison = load(&documents).unwrap();
    let summary = summary_json(&comparison, &analyse(&comparison, &quick()).unwrap());
    let turn = &summary["conditions"]["003b_simple_sysprompt"]["per_turn"][17];
    assert_eq!((&turn["turn"], &turn["n"], &turn["ddof"]), (&json!(18), &json!(16), &json!(1)));
    assert_eq!(format!("{:.4}", turn["mean"].as_f64().unwrap()), "2.2101");
    assert_eq!(summary["reference"]["per_turn"][2], Value::Null);
    assert_eq!(summary["reference"]["mean"], json!((3.855 + 3.9844) / 2.0));
    assert_eq!(summary["contrasts"].as_array().unwrap().len(), 3);
    assert_eq!(
        summary["conditions"]["003b_simple_sysprompt"]["system_prompt"],
        "Reminder: You are a helpful assistant."
    );
}

// ---- never silent

/// The published data with the fragments that a cut of the prompts left in the complex condition: 2, 8, 11, 15 at 15-18.
fn with_fragments() -> Comparison {
    let mut documents = documents();
    let fragments = [(14, 2), (15, 8), (16, 11), (17, 15)];
    let statuses = (0..16).map(|sample| {
        let status = |turn: usize| match fragments.iter().find(|(at, _)| *at == turn) {
            Some((_, count)) if sample < *count => "context_exhausted",
            _ => "ok",
        };
        (0..18).map(status).collect::<Vec<_>>()
    });
    documents[2]["statuses"] = json!(statuses.collect::<Vec<_>>());
    load(&documents).unwrap()
}

#[test]
fn flagged_cells_are_counted_shown_and_left_out_by_one_switch() {
    let comparison = with_fragments();
    let kept = analyse(&comparison, &quick()).unwrap();
    let complex = kept.conditions.get("003b_complex_sysprompt").unwrap();
    assert_eq!((complex.flagged, complex.dropped, complex.statuses.get("context_exhausted")), (36, 0, Some(&36)));
    assert_eq!(format!("{:.4}", complex.mean), "2.8945", "kept cells count");
    assert!(kept.notes.iter().any(|note| note.contains("36 of 288")), "{:?}", kept.notes);

    let dropped = analyse(&comparison, &Options { drop_flagged: true, ..quick() }).unwrap();
    let complex = dropped.conditions.get("003b_complex_sysprompt").unwrap();
    assert_eq!((complex.flagged, complex.dropped), (36, 36));
    assert_eq!(complex.per_turn.n[13..], [16, 14, 8, 5, 1]);
    assert_eq!(complex.per_turn.sem[17], None, "one cell has no error");
    // Turn 18 has one cell left there: it leaves every mean, of the other conditions too.
    assert_eq!(dropped.turns_compared, (1..=17).collect::<Vec<_>>());
    let baseline = dropped.conditions.get("003b_baseline").unwrap();
    let turns = &baseline.per_turn.mean[..17];
    assert!((baseline.mean - turns.iter().flatten().sum::<f64>() / 17.0).abs() < 1e-12);
    let diff = dropped.contrasts[1].welch.diff;
    assert!((diff - (complex.mean - baseline.mean)).abs() < 1e-12, "a difference is the difference of the means shown");
    assert_eq!(dropped.contrasts[1].per_turn.p[17], None);
    assert_eq!(dropped.contrasts[1].per_turn.maxt_p[17], None);
    assert!(dropped.contrasts[0].per_turn.p[17].is_some());
    assert!(dropped.notes.iter().any(|note| note.contains("leave out turn 18")), "{:?}", dropped.notes);

    for text in [terminal(&comparison, &kept, false), report_markdown(&comparison, &kept, None)] {
        assert!(text.contains("context_exhausted") && text.contains("15: 2, 16: 8, 17: 11, 18: 15"), "{text}");
    }
}

#[test]
fn a_missing_cell_is_not_ok_and_never_counts_as_a_number() {
    let mut documents = documents();
    documents[0]["projections"][3][5] = Value::Null;
    let comparison = load(&documents).unwrap();
    let analysis = analyse(&comparison, &quick()).unwrap();
    let baseline = analysis.conditions.get("003b_baseline").unwrap();
    assert_eq!((baseline.flagged, baseline.dropped, baseline.statuses.get("missing")), (1, 1, Some(&1)));
    assert_eq!(baseline.per_turn.n[5], 15);
    assert!((baseline.mean - 1.7668).abs() < 0.002);
    assert!(terminal(&comparison, &analysis, false).contains("missing"));
}

#[test]
fn one_sample_has_no_error_and_no_contrast_and_that_is_said() {
    let comparison = load(&[small("one", &[&[1.0, 2.0]]), small("two", &[&[2.0, 3.0], &[2.5, 3.1]])]).unwrap();
    let analysis = analyse(&comparison, &quick()).unwrap();
    let json = serde_json::to_value(&analysis).unwrap();
    assert_eq!(json["conditions"]["one"]["sem"], Value::Null);
    assert_eq!(json["conditions"]["one"]["mean"], json!(1.5));
    assert_eq!(json["conditions"]["one"]["per_turn"]["sem"], json!([null, null]));
    assert_eq!(json["contrasts"], json!([]));
    assert_eq!(json["mde"].as_object().unwrap().len(), 4, "the other condition's spread is known");
    assert!(analysis.notes.iter().any(|note| note.contains("`one` has one sample")));
    let text = report_markdown(&comparison, &analysis, Some("a figure.png"));
    assert!(text.contains("one sample") && text.contains("](<a figure.png>)"));
    assert!(line_chart(&comparison, &analysis).png().is_ok());
}

#[test]
fn identical_samples_yield_no_p_value() {
    let same: [&[f64]; 3] = [&[1.0, 2.0], &[1.0, 2.0], &[1.0, 2.0]];
    let other: [&[f64]; 3] = [&[1.5, 2.0], &[1.5, 2.0], &[1.5, 2.0]];
    let analysis = analyse(&load(&[small("a", &same), small("b", &other)]).unwrap(), &quick()).unwrap();
    let json = serde_json::to_value(&analysis).unwrap();
    assert_eq!(json["contrasts"][0]["diff"], json!(0.25));
    for key in ["se", "t", "df", "p", "ci95", "hedges_g", "permutation_p"] {
        assert_eq!(json["contrasts"][0][key], Value::Null, "{key}");
    }
    assert_eq!(json["mde"], json!({}));
    assert!(analysis.notes.iter().any(|note| note.contains("are the same")));
}

#[test]
fn conditions_of_different_length_are_compared_where_both_have_turns() {
    let comparison =
        load(&[small("long", &[&[1.0, 2.0, 9.0], &[1.2, 2.2, 9.5]]), small("short", &[&[2.0, 3.0], &[2.1, 3.3]])])
            .unwrap();
    let analysis = analyse(&comparison, &quick()).unwrap();
    assert_eq!(analysis.turns_compared, [1, 2]);
    assert!((analysis.conditions.get("long").unwrap().mean - 1.6).abs() < 1e-12);
    assert_eq!(analysis.conditions.get("long").unwrap().per_turn.mean.len(), 3);
    assert_eq!(analysis.conditions.get("short").unwrap().flagged, 0, "turns that it never had are not missing");
    assert!(analysis.notes.iter().any(|note| note.contains("turn 3")));
}

#[test]
fn conditions_that_differ_in_more_than_their_prompt_are_compared_but_not_in_silence() {
    let mut documents = documents();
    documents[1]["model"] = json!("another/model");
    documents[2]["n_samples"] = json!(17);
    let comparison = load(&documents).unwrap();
    assert_eq!(comparison.title, "llama-70b/selfharm_unsteered");
    assert!(comparison.notes.iter().any(|note| note.contains("differ in `model`")), "{:?}", comparison.notes);
    assert!(comparison.notes.iter().any(|note| note.contains("holds 16 samples where its n_samples says 17")));
}

#[test]
fn a_span_expresses_differences_in_units_of_the_axis() {
    let mut comparison = load(&documents()).unwrap();
    comparison.span = Some((-1.0, 3.0));
    let analysis = analyse(&comparison, &quick()).unwrap();
    let contrast = &analysis.contrasts[0];
    assert!((contrast.span_units.unwrap() - contrast.welch.diff / 4.0).abs() < 1e-15);
    assert!(terminal(&comparison, &analysis, false).contains("share of axis span"));
    comparison.span = Some((1.0, 1.0));
    assert!(analyse(&comparison, &quick()).is_err());
}

#[test]
fn prompts_stand_in_fences_that_they_cannot_leave() {
    let mut documents = documents();
    documents[0]["rendered_prompt"] = json!("<|im_start|>system\n```\n````\n# not a heading<|im_end|>");
    let comparison = load(&documents).unwrap();
    let text = report_markdown(&comparison, &analyse(&comparison, &quick()).unwrap(), None);
    assert!(text.contains("`````text\n<|im_start|>system\n```\n````\n# not a heading<|im_end|>\n`````\n"), "{text}");
    assert!(
        text.contains("Reminder: You are a helpful assistant."),
        "asked-for prompts stand in where none is rendered"
    );
    assert!(text.contains("None: every cell of every condition is ok."));
}

#[test]
fn the_page_needs_no_other_file_and_takes_no_markup_from_labels() {
    let mut documents = documents();
    documents[0]["condition"] = json!("<script>alert(1)</script>");
    let comparison = load(&documents).unwrap();
    let analysis = analyse(&comparison, &quick()).unwrap();
    let svg = line_chart(&comparison, &analysis).svg().unwrap();
    let page = report_html(&comparison, &analysis, Some(&svg));
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;"));
    for outside in ["src=\"", "href=", "@import", "url(http"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(page.matches("<svg ").count(), 1);
    for heading in ["Conditions", "Contrasts", "Drift", "Turns with a status other than ok", "Prompts"] {
        assert!(page.contains(&format!("<h2>{heading}</h2>")), "{heading}");
        assert!(report_markdown(&comparison, &analysis, None).contains(&format!("## {heading}\n")), "{heading}");
    }
}

// ---- what is refused

#[test]
fn every_bad_file_is_named_with_what_is_wrong_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let cases = [
        ("absent.json", None, "cannot be read"),
        ("broken.json", Some(r#"{"condition": "#), "EOF"),
        ("nan.json", Some(r#"{"condition": "a", "projections": [[1.0, NaN]]}"#), "null instead"),
        ("huge.json", Some(r#"{"condition": "a", "projections": [[1e999]]}"#), "out of range"),
        ("list.json", Some("[1, 2]"), "does not fit"),
        ("nameless.json", Some(r#"{"projections": [[1.0]]}"#), "missing field `condition`"),
        ("valueless.json", Some(r#"{"condition": "a"}"#), "missing field `projections`"),
        ("words.json", Some(r#"{"condition": "a", "projections": [["high"]]}"#), "invalid type"),
        ("flat.json", Some(r#"{"condition": "a", "projections": [1.0, 2.0]}"#), "invalid type"),
        ("empty.json", Some(r#"{"condition": "a", "projections": []}"#), "has no samples"),
        ("turnless.json", Some(r#"{"condition": "a", "projections": [[]]}"#), "without turns"),
        ("ragged.json", Some(r#"{"condition": "a", "projections": [[1, 2], [1]]}"#), "sample 1"),
        ("rows.json", Some(r#"{"condition": "a", "projections": [[1], [2]], "statuses": [["ok"]]}"#), "has 1 rows"),
        ("row.json", Some(r#"{"condition": "a", "projections": [[1, 2]], "statuses": [["ok"]]}"#), "1 statuses"),
    ];
    let paths: Vec<PathBuf> = cases
        .iter()
        .map(|(name, text, _)| text.map_or_else(|| folder.path().join(name), |text| file(name, text)))
        .collect();
    let problems = load_documents(&paths).unwrap_err();
    assert_eq!(problems.len(), cases.len(), "all at once");
    for (problem, (name, _, expected)) in problems.iter().zip(cases) {
        assert!(problem.place.as_deref().unwrap().contains(name), "{problem}");
        assert!(problem.to_string().contains(expected), "{name}: {problem}");
    }
    assert_eq!(load_documents::<PathBuf>(&[]).unwrap_err().len(), 1);
}

#[test]
fn names_used_twice_and_references_that_contradict_are_refused() {
    let twice = load(&[small("a", &[&[1.0]]), small("a", &[&[2.0]])]).unwrap_err();
    assert!(twice[0].what.contains("already in") && twice[0].place.as_deref().unwrap().ends_with("1.json"));
    let (mut a, mut b) = (small("a", &[&[1.0]]), small("b", &[&[2.0]]));
    a["reference"] = json!([1.0]);
    b["reference"] = json!([1.5]);
    assert!(load(&[a, b]).unwrap_err()[0].what.contains("`reference` differs"));
}

#[test]
fn an_analysis_refuses_what_it_cannot_do() {
    let refused = |comparison: &Comparison, options: &Options| analyse(comparison, options).unwrap_err().to_string();
    assert!(refused(&Comparison::default(), &quick()).contains("no conditions"));
    let mut comparison = load(&documents()).unwrap();
    comparison.groups[1].samples[4].values[7] = Some(f64::NAN);
    assert!(refused(&comparison, &quick()).contains("sample 4 (from 0), turn 8 (from 1)"));
    let mut comparison = load(&documents()).unwrap();
    for sample in &mut comparison.groups[2].samples {
        sample.statuses = vec!["empty".to_owned(); 18];
    }
    assert!(analyse(&comparison, &quick()).is_ok());
    assert!(refused(&comparison, &Options { drop_flagged: true, ..quick() }).contains("`003b_complex_sysprompt`"));
}

// ---- numbers and tables

#[test]
fn numbers_show_what_their_error_allows() {
    use numbers::*;
    assert_eq!(plus_minus(1.7668, Some(0.039)), "1.767 ± 0.039");
    assert_eq!(plus_minus(-1234.567, Some(56.0)), "−1234.57 ± 56.00");
    assert_eq!(plus_minus(0.25, None), "0.2500");
    assert_eq!(plus_minus(0.25, Some(0.0)), "0.2500");
    assert_eq!(plain(0.0), "0");
    assert_eq!(plain(-1.5e-9), "−1.500e-9");
    assert_eq!(signed(0.4196, Some(0.06)), "+0.420");
    for (p, text) in
        [(0.0, "< .001"), (0.0009999, "< .001"), (0.032, ".032"), (0.04996, ".0500"), (0.0496, ".0496"), (1.0, "1")]
    {
        assert_eq!(p_value(Some(p)), text);
    }
    assert_eq!(p_value(None), "–");
    assert_eq!(turns(&[1, 2, 3, 5, 7, 8]), "turns 1–3, 5, 7, 8");
    assert_eq!(turns(&[4]), "turn 4");
}

#[test]
fn tables_line_up_and_labels_cannot_break_them() {
    let mut table = Table::new(&["a|b", "n"]);
    table.rows.push(vec!["ü–x".to_owned(), "12".to_owned()]);
    table.rows.push(vec!["<b>\nmulti_part_ `code`".to_owned(), "3".to_owned()]);
    assert!(table.markdown().starts_with("| a\\|b | n |\n| --- | ---: |\n| ü–x | 12 |\n"));
    assert!(table.markdown().contains("| \\<b> multi_part\\_ \\`code\\` | 3 |"), "{}", table.markdown());
    let lines: Vec<usize> = table.text().lines().take(3).map(|line| line.chars().count()).collect();
    assert_eq!(lines[0], lines[2]);
}

// ---- figures
