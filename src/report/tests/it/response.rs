//! The specification of responses: means and intervals by level, by label and by cell against scipy
//! (`tests/fixtures/response.json`, made by `tests/peers/make_response_fixtures.py`), what is missing, what is refused, what lines and
//! tiles show.

use serde_json::{Value, json};
use tiltmeter_report::{
    plot::{Chart, Heatmap, Line, LineChart, Tile},
    *,
};

fn fixture() -> Value {
    serde_json::from_str(include_str!("../../../../tests/fixtures/response.json")).unwrap()
}

fn words(list: &Value) -> Vec<String> {
    serde_json::from_value(list.clone()).unwrap()
}

fn factor(label: &str, menu: Vec<String>) -> Factor {
    Factor { label: label.to_owned(), title: format!("{label} one"), menu }
}

/// The made-up sweep of the fixture: with holes, cells of one run, a run without the number.
fn sweep() -> Response {
    let made = fixture();
    let run = |(index, run): (usize, &Value)| ResponseRun {
        name: format!("run-{index}"),
        value: run["value"].as_f64(),
        level: run["level"].as_f64(),
        labels: ["weak", "strong"].map(|key| (key.to_owned(), run[key].as_str().unwrap().to_owned())).into(),
    };
    Response {
        title: "sweep: Gap".to_owned(),
        metric: "gap".to_owned(),
        unit: "gap (strong − weak)".to_owned(),
        centred: true,
        against: Some(Against {
            metric: "level".to_owned(),
            title: "level of it".to_owned(),
            levels: serde_json::from_value(made["levels"].clone()).unwrap(),
        }),
        by: Some(factor("weak", words(&made["weak"]))),
        rows: Some(factor("weak", words(&made["weak"]))),
        columns: Some(factor("strong", words(&made["strong"]))),
        runs: made["runs"].as_array().unwrap().iter().enumerate().map(run).collect(),
        notes: vec!["Nobody tells how.".to_owned()],
    }
}

fn analysed(response: &Response) -> ResponseAnalysis {
    analyse_response(response, &Options::default()).unwrap()
}

#[track_caller]
fn agrees(found: &RunsMean, expected: &Value) {
    let close = |found: Option<f64>, expected: &Value| match (found, expected.as_f64()) {
        (Some(found), Some(expected)) => {
            assert!((found - expected).abs() <= 1e-11 * expected.abs().max(1.0), "{found} is not {expected}");
        }
        (None, None) => {}
        other => panic!("{other:?}"),
    };
    assert_eq!(json!(found.n), expected["n"]);
    close(found.mean, &expected["mean"]);
    close(found.sem, &expected["sem"]);
    for end in 0..2 {
        close(found.ci95.map(|ci| ci[end]), &expected["ci95"][end]);
    }
}

// ---- numbers against their oracle

#[test]
fn means_and_intervals_by_level_by_label_and_by_cell_agree_with_scipy() {
    let (made, found) = (fixture(), analysed(&sweep()));
    agrees(&found.overall, &made["overall"]);
    assert_eq!(found.missing, 1);
    let labels: Vec<Option<&str>> = found.lines.iter().map(|line| line.label.as_deref()).collect();
    assert_eq!(labels, [None, Some("w0"), Some("w1"), Some("w2")]);
    for (line, expected) in found.lines.iter().zip(made["lines"].as_array().unwrap()) {
        let levels: Vec<f64> = line.levels.iter().map(|at| at.level).collect();
        assert_eq!(json!(levels), made["levels"]);
        for (at, expected) in line.levels.iter().zip(expected.as_array().unwrap()) {
            agrees(&at.runs, expected);
        }
    }
    let table = found.table.unwrap();
    let cells: Vec<&RunsMean> = table.cells.iter().flatten().collect();
    let expected: Vec<&Value> =
        made["cells"].as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap()).collect();
    assert_eq!(cells.len(), 12);
    for (cell, expected) in cells.iter().zip(&expected) {
        agrees(cell, expected);
    }
    assert!(cells.iter().any(|cell| cell.n == 0) && cells.iter().any(|cell| cell.n == 1), "the fixture has both");
}

#[test]
fn no_digit_depends_on_which_run_was_finished_first() {
    let straight = sweep();
    let found = analysed(&straight);
    let mut turned = straight.clone();
    turned.runs.reverse();
    assert_eq!(analysed(&turned), found);
    let third = turned.runs.len() / 3;
    turned.runs.rotate_left(third);
    assert_eq!(response_json(&turned, &analysed(&turned)).to_string(), response_json(&straight, &found).to_string());
}

#[test]
fn ddof_touches_the_shown_error_and_not_the_interval() {
    let (sample, population) =
        (analysed(&sweep()), analyse_response(&sweep(), &Options { ddof: 0, ..Options::default() }).unwrap());
    assert!(population.overall.sem < sample.overall.sem);
    assert_eq!(population.overall.ci95, sample.overall.ci95);
    assert_eq!((sample.ddof, population.ddof), (1, 0));
}

// ---- what is missing

#[test]
fn a_cell_without_a_run_is_a_dash_null_and_hatched_and_never_a_zero() {
    let response = sweep();
    let found = analysed(&response);
    let map = heatmap(&response, &found).unwrap();
    assert_eq!(map.cells[1][2], None);
    assert_eq!(map.cells.iter().flatten().filter(|cell| cell.is_none()).count(), 1);
    let svg = map.svg().unwrap();
    assert!(svg.contains(">–</text>") && !svg.contains(">0.0</text>") && !svg.contains("NaN"), "a dash in the tile");
    let json = response_json(&response, &found);
    assert_eq!(json["table"]["cells"][1][2], json!({"n": 0, "mean": null, "sem": null, "ci95": null}));
    let text = response_terminal(&response, &found);
    let row = text.lines().find(|line| line.starts_with("s2")).unwrap();
    assert_eq!(row.split_whitespace().filter(|word| *word == "–").count(), 1, "{text}");
    assert!(text.contains("1 of 78 finished runs have no `gap`") && text.contains("not counted as 0"), "{text}");
}

#[test]
fn one_run_has_a_mean_and_neither_error_nor_interval_and_that_is_said() {
    let mut response = sweep();
    response.runs.retain(|run| run.labels["weak"] == "w2" && run.labels["strong"] == "s3");
    assert_eq!(response.runs.len(), 1);
    let found = analysed(&response);
    let value = response.runs[0].value;
    let alone = RunsMean { n: 1, mean: value, sem: None, ci95: None };
    assert_eq!((found.overall, found.table.as_ref().unwrap().cells[2][3]), (alone, alone));
    assert!(
        found.notes.iter().any(|note| note.contains("single run") && note.contains("no interval")),
        "{:?}",
        found.notes
    );
    let at = |level: f64| found.lines[0].levels.iter().find(|at| at.level == level).unwrap().runs;
    assert_eq!((at(0.5), at(0.0)), (alone, RunsMean::default()), "a planned level without a run stays visible");
    let chart = response_chart(&response, &found).unwrap();
    assert_eq!((chart.series[0].mean[2], chart.series[0].band[2]), (value, None));
    chart.png().unwrap();
}

#[test]
fn without_any_number_there_is_no_figure_and_the_tables_say_so() {
    let mut response = sweep();
    response.runs.iter_mut().for_each(|run| run.value = None);
    let found = analysed(&response);
    assert!(response_figures(&response, &found).is_empty());
    assert_eq!(found.missing, response.runs.len());
    let page = page_markdown(&[Section::response(&response, &found, Vec::new())]);
    assert!(page.contains("No run has it.") && page.contains("| 0.5 | 0 | – | – |") && !page.contains("!["), "{page}");
}

#[test]
fn runs_without_a_label_or_a_level_are_part_of_the_whole_and_told_of() {
    let mut response = sweep();
    response.runs[0].labels.remove("weak");
    response.runs[1].level = None;
    let found = analysed(&response);
    assert_eq!(found.overall, analysed(&sweep()).overall);
    let count: usize = found.table.as_ref().unwrap().cells.iter().flatten().map(|cell| cell.n).sum();
    assert_eq!(count, found.overall.n - 1);
    for said in ["1 runs have no `weak`", "1 runs have no `level`"] {
        assert!(found.notes.iter().any(|note| note.contains(said)), "{said}: {:?}", found.notes);
    }
}

#[test]
fn more_lines_than_can_be_read_become_one_and_that_is_said() {
    let mut response = sweep();
    let by = |count: usize| Some(factor("weak", (0..count).map(|i| format!("w{i}")).collect()));
    response.by = by(MOST_LINES);
    assert_eq!(analysed(&response).lines.len(), 1 + MOST_LINES);
    response.by = by(MOST_LINES + 1);
    let found = analysed(&response);
    assert_eq!(found.lines.len(), 1);
    assert!(found.notes.iter().any(|note| note.contains("one line stands for all")), "{:?}", found.notes);
}

// ---- what is refused

#[test]
fn what_does_not_fit_together_is_refused_with_its_place() {
    let refused = |change: &dyn Fn(&mut Response)| {
        let mut response = sweep();
        change(&mut response);
        let problem = analyse_response(&response, &Options::default()).unwrap_err();
        assert!(problem.to_string().contains("gap") && problem.hint.is_some(), "{problem}");
        problem.what
    };
    assert!(refused(&|r| r.rows = None).contains("rows and columns"));
    assert!(refused(&|r| (r.rows, r.columns, r.against) = (None, None, None)).contains("nothing to show"));
    assert!(refused(&|r| r.runs[2].level = Some(0.2)).contains("0.2 is no planned level"));
    assert!(refused(&|r| r.runs[2].value = Some(f64::NAN)).contains("not finite"));
    assert!(refused(&|r| r.against.as_mut().unwrap().levels.push(0.5)).contains("listed twice"));
    assert!(refused(&|r| r.columns.as_mut().unwrap().menu.push("s0".to_owned())).contains("twice"));
    assert!(refused(&|r| r.rows.as_mut().unwrap().menu.clear()).contains("empty"));
    let off = |r: &mut Response| drop(r.runs[2].labels.insert("weak".to_owned(), "w9".to_owned()));
    assert!(refused(&off).contains("`w9` is not on the menu of `weak`"));
}

// ---- what is shown

#[test]
fn the_section_has_both_figures_beside_their_tables_in_markdown_and_on_the_page() {
    let response = sweep();
    let found = analysed(&response);
    let figures = response_figures(&response, &found);
    let names: Vec<&str> = figures.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["gap", "gap_heatmap"]);
    let page = page_markdown(&[Section::response(&response, &found, vec!["a.png", "b.png"])]);
    let at = |what: &str| page.find(what).unwrap_or_else(|| panic!("{what}: {page}"));
    assert!(at("](<a.png>)") < at("## By level of it") && at("## By level of it") < at("](<b.png>)"));
    assert!(at("](<b.png>)") < at("| strong one \\\\ weak one | w0 | w1 | w2 |"), "the longer side goes down");
    assert!(page.contains("- Nobody tells how.") && page.contains("Student's t over runs"));
    let svgs: Vec<String> = figures.iter().map(|(_, figure)| figure.svg().unwrap()).collect();
    let html = page_html(&[Section::response(&response, &found, svgs.iter().map(String::as_str).collect())]);
    assert_eq!(html.matches("<svg ").count(), 2);
}

#[test]
fn lines_stand_at_their_levels_with_whiskers_apart() {
    let response = sweep();
    let chart = response_chart(&response, &analysed(&response)).unwrap();
    assert_eq!(chart.positions, [0.0, 0.1, 0.5, 1.0]);
    assert_eq!((chart.series.len(), chart.series[0].label.as_str()), (4, "all runs (n = 77)"));
    assert!(chart.series[0].whiskers.is_empty() && chart.series[1].band.is_empty());
    let svg = chart.svg().unwrap();
    for level in ["0", "0.1", "0.5", "1"] {
        assert!(svg.contains(&format!(">{level}</text>")), "level {level} has its tick");
    }
    let mut wrong = chart.clone();
    wrong.positions.swap(0, 1);
    assert!(wrong.svg().unwrap_err().what.contains("upwards"));
    wrong.positions.truncate(2);
    wrong.positions.sort_by(f64::total_cmp);
    assert!(wrong.png().is_err(), "a value without a place");
}

#[test]
fn lines_that_would_cover_each_other_stand_apart_and_others_in_their_place() {
    let line = |y: f64| Line { label: y.to_string(), mean: vec![Some(y); 3], ..Line::default() };
    let places = |series: Vec<Line>| {
        let svg = LineChart { series, ..LineChart::default() }.svg().unwrap();
        let circles = svg.lines().filter(|line| line.starts_with("<circle") && line.contains("0072b2"));
        circles.map(|line| line.split('"').nth(1).unwrap().to_owned()).collect::<Vec<_>>()
    };
    // The last line gives all three the same scale.
    let [alone, beside, over] = [vec![1.0, 5.0], vec![1.0, 3.0, 5.0], vec![1.0, 1.0, 5.0]]
        .map(|lines| places(lines.into_iter().map(line).collect()));
    assert_eq!(alone[1..], beside[1..], "other lines do not move it");
    assert_ne!(alone[1..], over[1..], "the same line does");
}

#[test]
fn labels_from_people_are_no_markup_anywhere() {
    let mut response = sweep();
    let evil = "<script>alert(1)</script> | `x` \u{1b}[31m\n# boo".to_owned();
    response.title = evil.clone();
    response.unit = evil.clone();
    response.against.as_mut().unwrap().title = evil.clone();
    for factor in [&mut response.by, &mut response.rows] {
        factor.as_mut().unwrap().menu[0] = evil.clone();
        factor.as_mut().unwrap().title = evil.clone();
    }
    response.runs.iter_mut().for_each(|run| {
        if run.labels["weak"] == "w0" {
            run.labels.insert("weak".to_owned(), evil.clone());
        }
    });
    let found = analysed(&response);
    let svgs: Vec<String> = response_figures(&response, &found).iter().map(|(_, f)| f.svg().unwrap()).collect();
    assert!(svgs.iter().all(|svg| !svg.contains("<script") && !svg.contains('\u{1b}')));
    let html = page_html(&[Section::response(&response, &found, svgs.iter().map(String::as_str).collect())]);
    assert!(!html.contains("<script"));
    let page = page_markdown(&[Section::response(&response, &found, vec!["a", "b"])]);
    assert!(!page.contains(" <script") && !page.contains("\n# boo"), "{page}");
}

// ---- tiles

fn tiles(rows: usize, columns: usize, value: impl Fn(usize, usize) -> Option<f64>) -> Heatmap {
    let tile = |value: f64| Tile { value, text: format!("{value:.1}"), note: "n = 10".to_owned() };
    Heatmap {
        title: "a sweep: Utility gap".to_owned(),
        x_label: "strong bargainer".to_owned(),
        y_label: "weak bargainer".to_owned(),
        value_label: "utility gap (strong − weak) (mean)".to_owned(),
        rows: (0..rows).map(|row| format!("weak-model-number-{row}")).collect(),
        columns: (0..columns).map(|column| format!("gemini-2-{column}-flash")).collect(),
        cells: (0..rows).map(|row| (0..columns).map(|column| value(row, column).map(tile)).collect()).collect(),
        centred: false,
    }
}

/// Width, height and RGB pixels.
fn decode(png: &[u8]) -> (usize, usize, Vec<u8>) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    (info.width as usize, info.height as usize, pixels)
}

#[test]
fn ten_columns_have_their_whole_names_and_every_tile_its_value_and_n() {
    let map = tiles(3, 10, |row, column| Some(10.0 * row as f64 + column as f64 - 8.05));
    let svg = map.svg().unwrap();
    assert!(!svg.contains('…'), "no name is shortened");
    assert_eq!(svg.matches(">n = 10</text>").count(), 30);
    for value in
        ["−8.1", "-8.1", "20.9"].iter().filter(|value| map.cells.iter().flatten().flatten().any(|t| t.text == **value))
    {
        assert!(svg.contains(&format!(">{value}</text>")), "{value}");
    }
    assert_eq!(svg.matches(">flash</text>").count() + svg.matches("-flash</text>").count(), 10, "names are wrapped");
    let (width, height, pixels) = decode(&map.png().unwrap());
    assert!(width == 1600 && height < 1000, "{width} {height}");
    let white = |x: usize, y: usize| pixels[3 * (y * width + x)..][..3] == [255; 3];
    assert!((0..width).all(|x| (0..16).all(|y| white(x, y) && white(x, height - 1 - y))), "top and bottom are free");
    assert!((0..height).all(|y| (0..16).all(|x| white(x, y) && white(width - 1 - x, y))), "left and right are free");
}

/// The colours of the tiles.
fn colours(map: &Heatmap) -> Vec<String> {
    let svg = map.svg().unwrap();
    let areas = svg.lines().filter(|line| line.starts_with("<polygon"));
    let count = map.rows.len() * map.columns.len();
    areas.take(count).map(|line| line.split("fill=\"").nth(1).unwrap()[..7].to_owned()).collect()
}

#[test]
fn colours_part_at_zero_where_both_signs_occur_or_somebody_asks_for_it() {
    let values = [-4.0, 0.0, 4.0];
    let both = colours(&tiles(1, 3, |_, column| Some(values[column])));
    assert_eq!(both, ["#00528c", "#f2f2f2", "#b03e00"], "as far from zero, as dark");
    let one_side = tiles(1, 3, |_, column| Some(values[column] + 6.0));
    assert!(colours(&one_side).iter().all(|colour| *colour != "#f2f2f2" && *colour != "#b03e00"));
    let asked = colours(&Heatmap { centred: true, ..one_side });
    assert_eq!(asked[2], "#b03e00", "all above zero, all on its side");
    assert_eq!(colours(&Heatmap { centred: true, ..tiles(1, 1, |_, _| Some(0.0)) }), ["#f2f2f2"]);
}

#[test]
fn hard_maps_are_drawn_and_broken_ones_are_refused() {
    for (rows, columns, scale) in [(1, 1, 0.0), (60, 40, 1.0), (2, 40, 1e9), (30, 2, 1e-9), (1, 3, 1e250)] {
        let mut map = tiles(rows, columns, |row, column| {
            ((row + column) % 3 != 1 || rows == 1).then_some(scale * (row as f64 - column as f64))
        });
        map.columns[0] = "one_name_that_is_by_far_too_long_for_any_column_of_any_figure_whatever_is_done_".repeat(3);
        map.rows[0] = map.columns[0].clone();
        map.title = "A long title, again and again. ".repeat(9);
        let svg = map.svg().unwrap();
        assert!(svg.contains('…') && !svg.contains("NaN") && !svg.contains("inf"), "{rows} {columns} {scale}");
        decode(&map.png().unwrap());
    }
    let ok = || tiles(2, 2, |_, _| Some(1.0));
    assert!(tiles(2, 2, |_, _| None).svg().unwrap_err().what.contains("no value"));
    assert!(tiles(2, 2, |_, _| Some(f64::NAN)).png().unwrap_err().what.contains("not finite"));
    assert!(tiles(61, 2, |_, _| Some(1.0)).svg().unwrap_err().what.contains("do not fit"));
    let mut ragged = ok();
    ragged.cells[1].pop();
    assert!(ragged.svg().unwrap_err().what.contains("not 2 × 2"));
    assert!(Heatmap::default().png().is_err());
}
