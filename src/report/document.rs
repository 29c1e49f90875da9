//! Sections of the report, independent of their format, and the section of a comparison.

use crate::block::Block;
use crate::numbers;
use crate::table::Table;
use crate::views::distribution::{self, Distribution, analysis::DistributionAnalysis};
use crate::views::response::{self, Response, analysis::ResponseAnalysis};
use crate::views::trajectory::{Comparison, analysis::Analysis, tables};

/// A section of the report, with its figures: as SVG for the HTML page, as paths seen from the report for markdown.
pub struct Section<'a> {
    pub(super) title: &'a str,
    pub(super) blocks: Vec<Block>,
    pub(super) figures: Vec<&'a str>,
}

impl<'a> Section<'a> {
    /// What is said of a comparison.
    pub fn measure(comparison: &'a Comparison, analysis: &Analysis, figure: Option<&'a str>) -> Self {
        let figures = figure.into_iter().collect();
        Self { title: &comparison.title, blocks: report(comparison, analysis), figures }
    }

    /// Pages beside the report: what each holds, and its file.
    pub fn pages(title: &'a str, pages: Vec<(String, String)>) -> Self {
        let blocks = vec![Block::Text("Further measures have pages of their own:".to_owned()), Block::Links(pages)];
        Self { title, blocks, figures: Vec::new() }
    }

    /// What is said of a distribution.
    pub fn distribution(
        distribution: &'a Distribution,
        analysis: &DistributionAnalysis,
        figure: Option<&'a str>,
    ) -> Self {
        let figures = figure.into_iter().collect();
        Self { title: &distribution.title, blocks: distribution::section::blocks(distribution, analysis), figures }
    }

    /// What is said of a response; `figures` are those of `response_figures`, in its order.
    pub fn response(response: &'a Response, analysis: &ResponseAnalysis, figures: Vec<&'a str>) -> Self {
        Self { title: &response.title, blocks: response::section::blocks(response, analysis), figures }
    }
}

/// The blocks of a comparison.
fn report(comparison: &Comparison, analysis: &Analysis) -> Vec<Block> {
    let each = comparison.step.as_ref().map(|step| format!(", once per {step}")).unwrap_or_default();
    let measured = Block::Text(format!("Measured: {}{each}.", comparison.unit));
    let mut blocks = vec![Block::Heading(1, comparison.title.clone()), measured];
    section(&mut blocks, "Conditions", tables::conditions(analysis));
    section(&mut blocks, "Conditions in words", tables::key(comparison));
    if let Some(mean) = analysis.reference_mean {
        blocks.push(Block::Text(format!("Reference: mean {} over the turns it has.", numbers::plain(mean))));
    }
    let step = comparison.step();
    let caption = format!("Mean per {step}; band: standard error over samples; thin lines: samples.");
    blocks.push(Block::Figure(caption));
    section(&mut blocks, "Contrasts", tables::contrasts(analysis));
    section(&mut blocks, "Contrasts per turn", tables::contrasts_per_turn(analysis));
    section(&mut blocks, "Drift", tables::drift(analysis));
    section(&mut blocks, &format!("Per {step} (mean ± SEM)"), tables::per_turn(comparison, analysis));
    not_ok(&mut blocks, comparison, analysis);
    detectable(&mut blocks, analysis);
    prompts(&mut blocks, comparison);
    let notes: Vec<String> = comparison.notes.iter().chain(&analysis.notes).cloned().collect();
    if !notes.is_empty() {
        blocks.push(Block::Heading(2, "Notes".to_owned()));
        blocks.push(Block::List(notes));
    }
    method(&mut blocks, analysis);
    blocks
}

fn section(blocks: &mut Vec<Block>, heading: &str, table: Table) {
    if !table.rows.is_empty() {
        blocks.push(Block::Heading(2, heading.to_owned()));
        blocks.push(Block::Table(table));
    }
}

/// Said even when there is nothing to say: that every cell is ok is a finding.
fn not_ok(blocks: &mut Vec<Block>, comparison: &Comparison, analysis: &Analysis) {
    blocks.push(Block::Heading(2, "Turns with a status other than ok".to_owned()));
    let table = tables::flags(comparison);
    if table.rows.is_empty() {
        blocks.push(Block::Text("None: every cell of every condition is ok.".to_owned()));
        return;
    }
    blocks.push(Block::Table(table));
    let treatment = if analysis.options.drop_flagged {
        "These cells are left out of every number of this report; the figure's thin lines still show those with a value."
    } else {
        "Those of these cells that have a value are part of every number of this report."
    };
    blocks.push(Block::Text(treatment.to_owned()));
}

fn detectable(blocks: &mut Vec<Block>, analysis: &Analysis) {
    let Some(control) = &analysis.mde_control else { return };
    let mut table = Table::new(&["samples per condition", "smallest difference"]);
    for (n, effect) in analysis.mde.iter() {
        table.rows.push(vec![n.to_owned(), numbers::fixed(Some(*effect), numbers::decimals(*effect / 10.0))]);
    }
    blocks.push(Block::Heading(2, "What more samples would show".to_owned()));
    blocks.push(Block::Text(format!(
        "Difference of two means that a two-sided test at level .05 finds with probability .8, if samples spread as in \
         {control}."
    )));
    blocks.push(Block::Table(table));
}

fn prompts(blocks: &mut Vec<Block>, comparison: &Comparison) {
    blocks.push(Block::Heading(2, "Prompts".to_owned()));
    // Conditions that differ in something else share a prompt, which is shown once.
    let mut shown: Vec<(Vec<&str>, &str, Option<&String>)> = Vec::new();
    for group in &comparison.groups {
        let (what, prompt) = match (&group.rendered_prompt, &group.system_prompt) {
            (Some(prompt), _) => (": first prompt as the model saw it", Some(prompt)),
            (None, Some(prompt)) => (": system prompt as asked for", Some(prompt)),
            (None, None) => ("", None),
        };
        match shown.iter_mut().find(|(_, known, text)| (*known, *text) == (what, prompt)) {
            Some((labels, ..)) => labels.push(&group.label),
            None => shown.push((vec![&group.label], what, prompt)),
        }
    }
    for (labels, what, prompt) in shown {
        blocks.push(Block::Heading(3, format!("{}{what}", labels.join(", "))));
        blocks.push(match prompt {
            Some(prompt) => Block::Code(prompt.clone()),
            None => Block::Text("No system prompt was asked for; what the model saw is not recorded.".to_owned()),
        });
    }
}

fn method(blocks: &mut Vec<Block>, analysis: &Analysis) {
    let options = &analysis.options;
    let mut text = format!(
        "The unit is the sample, one whole conversation: its turns are averaged first, and every error and test is over \
         samples. Means and contrasts are over {}. SEM uses ddof {}. Contrasts: Welch's t with Satterthwaite's df; g is \
         Hedges', corrected for small samples; Holm and maxT correct over turns. Slope: least squares over turns; \
         late − early: last third of the turns minus first third.",
        numbers::turns(&analysis.turns_compared),
        options.ddof,
    );
    if options.permutations > 0 {
        text += &format!(
            " Permutation tests shuffle whole samples, {} times (or through all splits where these are fewer), seed {}; \
             the statistic is studentised.",
            options.permutations, options.seed
        );
    }
    text += " Contrasts are not corrected for their number.";
    blocks.push(Block::Heading(2, "How the numbers were made".to_owned()));
    blocks.push(Block::Text(text));
}
