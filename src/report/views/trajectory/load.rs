//! Reads a comparison from JSON documents, one per condition.
//!
//! A document is an object with `condition` (a name, kept as given) and `projections` (samples x turns, null for a cell
//! without a measurement). Optional keys: `statuses` (samples x turns), `reference` (one number per turn),
//! `system_prompt`, `rendered_prompt`, `model`, `transcript_source`, `temperature`, `axis`, `site`, `n_samples`,
//! `span` ([negative pole, positive pole]). Other keys are ignored.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{Comparison, GroupData, SampleData};
use tiltmeter_model::input;
use tiltmeter_model::problem::Problem;

#[derive(Deserialize)]
struct Document {
    condition: String,
    projections: Vec<Vec<Option<f64>>>,
    #[serde(default)]
    statuses: Option<Vec<Vec<String>>>,
    #[serde(default)]
    reference: Option<Vec<Option<f64>>>,
    #[serde(default)]
    span: Option<(f64, f64)>,
    #[serde(default)]
    system_prompt: Option<String>,
    #[serde(default)]
    rendered_prompt: Option<String>,
    // Descriptive only: of whatever type, it is no reason to refuse a file.
    #[serde(default)]
    model: Value,
    #[serde(default)]
    transcript_source: Value,
    #[serde(default)]
    temperature: Value,
    #[serde(default)]
    axis: Value,
    #[serde(default)]
    site: Value,
    #[serde(default)]
    n_samples: Value,
}

/// The comparison of the documents at `paths`, conditions in the order given. Errors name every file that cannot be used
/// and what is wrong with it: unreadable, not JSON, a key missing or of the wrong type, rows of unequal length, statuses
/// that do not fit, a name used twice, references or spans that contradict each other.
pub fn load_documents<P: AsRef<Path>>(paths: &[P]) -> Result<Comparison, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut documents: Vec<(String, Document)> = Vec::new();
    for path in paths {
        let place = path.as_ref().display().to_string();
        match read(path.as_ref()) {
            Ok(document) => {
                if let Some((earlier, _)) = documents.iter().find(|(_, other)| other.condition == document.condition) {
                    problems.push(
                        Problem::new(format!("condition `{}` is already in {earlier}", document.condition))
                            .at(place)
                            .hint("give every file its own `condition`, and each file once"),
                    );
                } else {
                    documents.push((place, document));
                }
            }
            Err(problem) => problems.push(problem.at(place)),
        }
    }
    if paths.is_empty() {
        problems.push(Problem::new("there are no files to compare").hint("name one JSON file per condition"));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let reference = agreed(&documents, "reference", |document| document.reference.clone(), &mut problems);
    let span = agreed(&documents, "span", |document| document.span, &mut problems);
    let mut comparison = Comparison {
        title: title(&documents),
        unit: unit(&documents),
        step: None,
        groups: Vec::new(),
        reference,
        span,
        notes: notes(&documents),
    };
    comparison.groups = documents.iter().map(|(_, document)| group(document)).collect();
    if problems.is_empty()
        && let Err(problem) = comparison.check()
    {
        problems.push(problem);
    }
    if problems.is_empty() { Ok(comparison) } else { Err(problems) }
}

fn read(path: &Path) -> Result<Document, Problem> {
    let text = input::read_text(path, input::MAX_DATA)
        .map_err(|error| Problem::new(format!("the file cannot be read: {error}")).hint("check the path"))?;
    let document: Document = serde_json::from_str(&text).map_err(|error| {
        let hint = match error.classify() {
            serde_json::error::Category::Data => {
                "a document holds `condition` (a string) and `projections` (samples x turns of numbers or null)"
            }
            _ if text.contains("NaN") || text.contains("Infinity") => "JSON has no NaN or Infinity: write null instead",
            _ => "the file is not valid JSON",
        };
        Problem::new(format!("the document does not fit: {error}")).hint(hint)
    })?;
    // What cannot be seen from one cell alone.
    if let Some(statuses) = &document.statuses
        && statuses.len() != document.projections.len()
    {
        let (rows, samples) = (statuses.len(), document.projections.len());
        return Err(Problem::new(format!("`statuses` has {rows} rows, `projections` has {samples}"))
            .hint("give one row of statuses per sample"));
    }
    let alone = Comparison { groups: vec![group(&document)], ..Comparison::default() };
    alone.check().map_err(|problem| match &problem.place {
        Some(place) => Problem { what: format!("{} ({place})", problem.what), place: None, hint: problem.hint },
        None => problem,
    })?;
    Ok(document)
}

fn group(document: &Document) -> GroupData {
    let statuses = |sample: usize| document.statuses.as_ref().map_or(Vec::new(), |rows| rows[sample].clone());
    let samples = document.projections.iter().enumerate();
    GroupData {
        label: document.condition.clone(),
        title: None,
        samples: samples.map(|(index, row)| SampleData { values: row.clone(), statuses: statuses(index) }).collect(),
        system_prompt: document.system_prompt.clone(),
        rendered_prompt: document.rendered_prompt.clone(),
    }
}

/// The one value that the documents give, if any; a second, different one is a problem.
fn agreed<T: PartialEq>(
    documents: &[(String, Document)],
    key: &str,
    get: impl Fn(&Document) -> Option<T>,
    problems: &mut Vec<Problem>,
) -> Option<T> {
    let mut found: Option<(&str, T)> = None;
    for (place, document) in documents {
        let Some(value) = get(document) else { continue };
        match &found {
            None => found = Some((place, value)),
            Some((_, first)) if *first == value => {}
            Some((first, _)) => problems.push(
                Problem::new(format!("`{key}` differs from the one in {first}"))
                    .at(place.clone())
                    .hint(format!("compare runs that share one {key}, or remove it from all files but one")),
            ),
        }
    }
    found.map(|(_, value)| value)
}

fn words(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// What all documents say of a key, if they say the same.
fn shared(documents: &[(String, Document)], get: impl Fn(&Document) -> &Value) -> Option<String> {
    let first = get(&documents.first()?.1);
    documents.iter().all(|(_, document)| get(document) == first).then(|| words(first)).flatten()
}

fn title(documents: &[(String, Document)]) -> String {
    let model = shared(documents, |document| &document.model);
    let source = shared(documents, |document| &document.transcript_source);
    match (model, source) {
        (Some(model), Some(source)) => format!("{model} on {source}"),
        (Some(only), None) | (None, Some(only)) => only,
        (None, None) => "Comparison of conditions".to_owned(),
    }
}

fn unit(documents: &[(String, Document)]) -> String {
    let axis = shared(documents, |document| &document.axis);
    let site = shared(documents, |document| &document.site);
    match (axis, site) {
        (Some(axis), Some(site)) => format!("{axis}@{site}"),
        (Some(axis), None) => axis,
        (None, Some(site)) => format!("projection@{site}"),
        (None, None) => "projection".to_owned(),
    }
}

/// Conditions that differ in more than their prompt are compared, but not in silence.
fn notes(documents: &[(String, Document)]) -> Vec<String> {
    type Get = fn(&Document) -> &Value;
    let keys: [(&str, Get); 5] = [
        ("model", |document| &document.model),
        ("transcript_source", |document| &document.transcript_source),
        ("temperature", |document| &document.temperature),
        ("axis", |document| &document.axis),
        ("site", |document| &document.site),
    ];
    let mut notes = Vec::new();
    for (key, get) in keys {
        let mut seen: Vec<String> = Vec::new();
        for (_, document) in documents {
            let value = words(get(document)).unwrap_or_else(|| "not said".to_owned());
            if !seen.contains(&value) {
                seen.push(value);
            }
        }
        if seen.len() > 1 {
            notes.push(format!("The conditions differ in `{key}`: {}.", seen.join(", ")));
        }
    }
    for (place, document) in documents {
        let rows = document.projections.len() as u64;
        if let Some(said) = document.n_samples.as_u64().filter(|&said| said != rows) {
            notes.push(format!(
                "`{}` holds {rows} samples where its n_samples says {said} ({place}).",
                document.condition
            ));
        }
    }
    notes
}
