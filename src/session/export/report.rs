//! `report.md`, `report.html`, `images/` and `<experiment>_summary.json`: figures and tables of measures, distributions and responses.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::Batch;
use crate::session::report::{Reported, title};
use tiltmeter_model::problem::Problem;
use tiltmeter_report::plot::Chart;
use tiltmeter_report::{
    ResponseFigure, Section, bar_chart, distribution_json, line_chart, page_html, page_markdown, report_html,
    response_figures, response_json, summary_json,
};
use tiltmeter_store::{RunFolder, safe_name, write_atomic, write_json_atomic, write_text_atomic};

pub fn write(batch: &Batch) -> Result<Vec<PathBuf>, Problem> {
    let mut files = Vec::new();
    if let Some(reported) = &batch.reported {
        write_report(title(batch.plan), batch.folder, reported, &mut files)?;
    }
    Ok(files)
}

/// Writes figures, summary and report and adds their paths to `files`. The first measure is the main one, or what comes first where
/// nothing was measured; distributions stand in the report after the measures, then responses. Further measures have pages of their own.
fn write_report(name: &str, folder: &RunFolder, reported: &Reported, files: &mut Vec<PathBuf>) -> Result<(), Problem> {
    let mut stems = Stems { name, taken: Vec::new() };
    let (mut figures, mut places) = (Vec::new(), Vec::new());
    let mut figure = |shown: &str, svg: String, png: &[u8]| -> Result<(), Problem> {
        let stem = stems.next(shown);
        for (ending, bytes) in [("png", png), ("svg", svg.as_bytes())] {
            let path = folder.images_dir().join(safe_name(&format!("{stem}.{ending}"))?);
            write_atomic(&path, bytes)?;
            files.push(path);
        }
        places.push(format!("images/{stem}.png"));
        figures.push(svg);
        Ok(())
    };
    for (comparison, analysis) in &reported.measures {
        let chart = line_chart(comparison, analysis);
        figure(&comparison.unit, chart.svg()?, &chart.png()?)?;
    }
    for (distribution, _) in &reported.distributions {
        let chart = bar_chart(distribution);
        figure(&distribution.label, chart.svg()?, &chart.png()?)?;
    }
    for (shown, chart) in of_responses(reported).into_iter().flatten() {
        figure(&shown, chart.svg()?, &chart.png()?)?;
    }

    let mut main = sections(reported, &figures);
    // Further measures have pages of their own.
    main.drain(1.min(reported.measures.len())..reported.measures.len());
    let (mut pages, mut links) = (Vec::new(), Vec::new());
    for ((comparison, analysis), svg) in reported.measures.iter().zip(&figures).skip(1) {
        let page = format!("report_{}.html", file_safe(&comparison.unit));
        links.push((comparison.title.clone(), page.clone()));
        pages.push((page, report_html(comparison, analysis, Some(svg))));
    }
    if let (Some((first, _)), false) = (reported.measures.first(), links.is_empty()) {
        main.insert(0, Section::pages(&first.title, links));
    }
    pages.insert(0, ("report.html".to_owned(), page_html(&main)));
    for (page, text) in pages {
        let path = folder.dir().join(page);
        write_text_atomic(&path, &text)?;
        files.push(path);
    }
    write_text_atomic(&folder.report(), &page_markdown(&sections(reported, &places)))?;
    files.push(folder.report());

    let path = folder.summary(name)?;
    write_json_atomic(&path, &summary(name, reported))?;
    files.push(path);
    Ok(())
}

/// The figures of each response, with their names.
fn of_responses(reported: &Reported) -> Vec<Vec<(String, ResponseFigure)>> {
    reported.responses.iter().map(|(response, analysis)| response_figures(response, analysis)).collect()
}

/// All sections, measures first, each with its figures.
fn sections<'a>(reported: &'a Reported, figures: &'a [String]) -> Vec<Section<'a>> {
    let mut figures = figures.iter().map(String::as_str);
    let mut sections = Vec::new();
    for (comparison, analysis) in &reported.measures {
        sections.push(Section::measure(comparison, analysis, figures.next()));
    }
    for (distribution, analysis) in &reported.distributions {
        sections.push(Section::distribution(distribution, analysis, figures.next()));
    }
    for ((response, analysis), own) in reported.responses.iter().zip(of_responses(reported)) {
        sections.push(Section::response(response, analysis, figures.by_ref().take(own.len()).collect()));
    }
    sections
}

/// The main measure at the top level, so that one reader fits all; the others, distributions and responses beside it.
fn summary(name: &str, reported: &Reported) -> Value {
    let mut measures = reported.measures.iter().map(|(comparison, analysis)| summary_json(comparison, analysis));
    let mut main = measures.next().unwrap_or_else(|| json!({ "title": name }));
    let further: Vec<Value> = measures.collect();
    if !further.is_empty() {
        main["further_measures"] = json!(further);
    }
    let distributions: Vec<Value> = reported.distributions.iter().map(|(d, a)| distribution_json(d, a)).collect();
    if !distributions.is_empty() {
        main["distributions"] = json!(distributions);
    }
    let responses: Vec<Value> = reported.responses.iter().map(|(r, a)| response_json(r, a)).collect();
    if !responses.is_empty() {
        main["responses"] = json!(responses);
    }
    main
}

/// Names of figures: the experiment's, then with what is shown; no two are the same.
struct Stems<'a> {
    name: &'a str,
    taken: Vec<String>,
}

impl Stems<'_> {
    fn next(&mut self, further: &str) -> String {
        let mut stem =
            if self.taken.is_empty() { self.name.to_owned() } else { format!("{}_{}", self.name, file_safe(further)) };
        while self.taken.contains(&stem) {
            stem.push('_');
        }
        self.taken.push(stem.clone());
        stem
    }
}

fn file_safe(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::report::analyse_outcomes;
    use tiltmeter_report::Options;
    use tiltmeter_scheduler::Plan;
    use tiltmeter_store::{Outcome, RunKey, Series};

    fn outcome(cell: &str, sample: usize, tone: &str, series: &[&str]) -> (RunKey, Outcome) {
        let mut outcome = Outcome::default();
        outcome.labels.insert("tone".to_owned(), tone.to_owned());
        outcome.labels.insert("to ne".to_owned(), tone.to_owned());
        for name in series {
            let values = vec![Some(sample as f64), Some(1.0)];
            outcome.series.push(Series { name: (*name).to_owned(), values, statuses: vec!["ok".to_owned(); 2] });
        }
        (RunKey { experiment: "e".to_owned(), cell: cell.to_owned(), sample }, outcome)
    }

    /// Names of what is written in a folder of its own, and the folder.
    fn written(series: &[&str], labels: &[&str]) -> (tempfile::TempDir, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let category = |label: &&str| json!({"label": label, "title": "Tone", "menu": ["kind", "cold"]});
        let categories: Vec<Value> = labels.iter().map(category).collect();
        let plan = Plan::freeze(json!({
            "experiment": "e", "conditions": [{"label": "a"}, {"label": "b"}], "categories": categories,
        }));
        let runs = [("a", 0, "kind"), ("a", 1, "kind"), ("b", 0, "cold"), ("b", 1, "kind")];
        let outcomes: Vec<_> = runs.iter().map(|(cell, sample, tone)| outcome(cell, *sample, tone, series)).collect();
        let options = Options { permutations: 99, ..Options::default() };
        let reported = analyse_outcomes(&plan, &outcomes, &options, &["said once".to_owned()]).unwrap().unwrap();
        let mut files = Vec::new();
        write_report("e", &RunFolder::at(dir.path()), &reported, &mut files).unwrap();
        let name = |path: &PathBuf| path.strip_prefix(dir.path()).unwrap().display().to_string();
        let mut names: Vec<String> = files.iter().map(name).collect();
        names.sort();
        (dir, names)
    }

    fn text(dir: &tempfile::TempDir, name: &str) -> String {
        std::fs::read_to_string(dir.path().join(name)).unwrap()
    }

    #[test]
    fn categories_alone_have_the_experiments_figure_and_a_report() {
        let (dir, names) = written(&[], &["tone"]);
        assert_eq!(names, ["e_summary.json", "images/e.png", "images/e.svg", "report.html", "report.md"]);
        let summary: Value = serde_json::from_str(&text(&dir, "e_summary.json")).unwrap();
        assert_eq!(summary["title"], "e");
        assert_eq!(summary["distributions"][0]["groups"]["b"]["categories"]["cold"]["count"], 1);
        let report = text(&dir, "report.md");
        assert!(report.starts_with("# e: Tone\n") && report.contains("](<images/e.png>)"), "{report}");
        assert!(report.contains("- said once"), "{report}");
        assert_eq!(text(&dir, "report.html").matches("<svg ").count(), 1);
    }

    #[test]
    fn measures_come_first_and_one_report_holds_both() {
        let (dir, names) = written(&["warmth", "pride"], &["tone"]);
        let stems = ["e", "e_pride", "e_tone"];
        for stem in stems {
            assert!(names.contains(&format!("images/{stem}.svg")), "{names:?}");
        }
        assert!(names.contains(&"report_pride.html".to_owned()));
        let report = text(&dir, "report.md");
        let at = |stem: &str| report.find(&format!("images/{stem}.png")).unwrap();
        assert!(at("e") < at("e_pride") && at("e_pride") < at("e_tone"));
        assert_eq!(report.matches("- said once").count(), 2, "under the measures");
        let page = text(&dir, "report.html");
        assert_eq!(page.matches("<svg ").count(), 2);
        assert!(page.find("Measured: warmth.").unwrap() < page.find("Counted: runs by tone.").unwrap());
        assert!(!page.contains("Measured: pride."));
        let summary: Value = serde_json::from_str(&text(&dir, "e_summary.json")).unwrap();
        assert_eq!((&summary["unit"], &summary["further_measures"][0]["unit"]), (&json!("warmth"), &json!("pride")));
        assert_eq!(summary["distributions"][0]["label"], "tone");
    }

    #[test]
    fn labels_that_look_alike_in_a_file_name_do_not_overwrite_each_other() {
        let (_dir, names) = written(&["to_ne", "to.ne"], &["to ne", "tone"]);
        assert_eq!(names.iter().filter(|name| name.ends_with(".png")).count(), 4);
        let mut stems = Stems { name: "e", taken: Vec::new() };
        assert_eq!(["a", "a b", "a_b", "a b"].map(|shown| stems.next(shown)), ["e", "e_a_b", "e_a_b_", "e_a_b__"]);
    }
}
