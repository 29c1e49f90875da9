//! Owns what a sitting leaves on disk: documents, tables, vectors, figures, report, summary, manifest. All of it can be made again
//! from the journal, and every file is written whole or not at all.
//! Must not know: flags, terminal.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::report::{Reported, analyse_outcomes};
use crate::experiment::{Collected, Experiment, NamedTensor};
use crate::model::Work;
use crate::problem::Problem;
use crate::record::{
    FileEntry, Manifest, Outcome, RunFolder, RunKey, Tensor, TensorData, write_atomic, write_json_atomic,
    write_tensors, write_text_atomic,
};
use crate::report::{Options, line_chart, report_html, report_markdown, summary_json};
use crate::scheduler::Plan;

/// Writes everything that the outcomes give.
pub fn write(
    experiment: &dyn Experiment,
    plan: &Plan,
    folder: &RunFolder,
    outcomes: &[(RunKey, Outcome)],
    work: Work,
    manifest: &mut Manifest,
) -> Result<(Option<Reported>, Vec<PathBuf>), Problem> {
    let Collected { documents, tables, tensors, notes } = experiment.collect(outcomes);
    let mut files = Vec::new();
    for (stem, document) in &documents {
        for path in folder.transcript_places(&format!("{stem}.json"))? {
            write_json_atomic(&path, document)?;
            files.push(path);
        }
    }
    for table in &tables {
        let path = folder.dir().join(format!("{}.parquet", table.name));
        table.write_parquet(&path)?;
        files.push(path);
    }
    if !tensors.is_empty() {
        write_vectors(&folder.vectors(), &tensors)?;
        files.push(folder.vectors());
    }
    let reported = analyse_outcomes(plan, outcomes, &Options::default(), &notes)?;
    if let Some(reported) = &reported {
        write_report(experiment.name(), folder, reported, &mut files)?;
    }
    manifest.work.extend([
        ("forward_tokens".to_owned(), work.forward_tokens),
        ("unique_tokens".to_owned(), work.unique_tokens),
        ("engine_steps".to_owned(), work.steps),
    ]);
    let roots = [folder.dir(), Path::new(".")];
    manifest.files = files.iter().map(|path| FileEntry::of(path, &roots)).collect::<Result<_, _>>()?;
    manifest.write(&folder.manifest())?;
    files.push(folder.manifest());
    Ok((reported, files))
}

/// One figure a measure, one summary, one report; the first measure is the main one.
fn write_report(name: &str, folder: &RunFolder, reported: &Reported, files: &mut Vec<PathBuf>) -> Result<(), Problem> {
    let mut markdown = Vec::new();
    let mut summaries = Vec::new();
    for (index, (comparison, analysis)) in reported.measures.iter().enumerate() {
        let stem = if index == 0 { name.to_owned() } else { format!("{name}_{}", file_safe(&comparison.unit)) };
        let chart = line_chart(comparison, analysis);
        let svg = chart.svg()?;
        let page =
            if index == 0 { "report.html".to_owned() } else { format!("report_{}.html", file_safe(&comparison.unit)) };
        let page = folder.dir().join(page);
        write_text_atomic(&page, &report_html(comparison, analysis, Some(&svg)))?;
        files.push(page);
        let images = [("png", chart.png()?), ("svg", svg.into_bytes())];
        for (ending, bytes) in images {
            for path in folder.image_places(&format!("{stem}.{ending}"))? {
                write_atomic(&path, &bytes)?;
                files.push(path);
            }
        }
        markdown.push(report_markdown(comparison, analysis, Some(&format!("images/{stem}.png"))));
        summaries.push(summary_json(comparison, analysis));
    }
    let summary = match summaries.len() {
        1 => summaries.remove(0),
        // The main measure at the top level, so that one reader fits all; the others beside it.
        _ => {
            let mut main = summaries.remove(0);
            main["further_measures"] = json!(summaries);
            main
        }
    };
    let path = folder.summary(name)?;
    write_json_atomic(&path, &summary)?;
    files.push(path);
    write_text_atomic(&folder.report(), &markdown.join("\n"))?;
    files.push(folder.report());
    Ok(())
}

fn file_safe(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect()
}

/// Turn-mean vectors.
fn write_vectors(path: &Path, tensors: &[NamedTensor]) -> Result<(), Problem> {
    let tensor = |(name, values): &NamedTensor| {
        Tensor::new(name, values.shape(), TensorData::F32(values.iter().copied().collect()))
    };
    let texts =
        [("format", "tiltmeter-vectors-v1"), ("layout", "[samples, turns, hidden]; NaN where a turn was not measured")];
    write_tensors(path, &texts, &tensors.iter().map(tensor).collect::<Vec<_>>())
}
