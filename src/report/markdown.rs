//! Owns `report.md`: tables, the figure's link, what is not ok, the prompts as the model saw them, notes, and how the
//! numbers were made.
//!
//! Must not know: run folders, how the figure is drawn.

use super::analysis::Analysis;
use super::comparison::Comparison;
use super::numbers;
use super::table::{Table, escape};
use super::tables;

/// The report; `figure` is the path of the figure as seen from the report.
pub fn report_markdown(comparison: &Comparison, analysis: &Analysis, figure: Option<&str>) -> String {
    let mut out = format!("# {}\n\nMeasured: {}.\n", escape(&comparison.title), escape(&comparison.unit));
    section(&mut out, "Conditions", &tables::conditions(analysis));
    if let Some(mean) = analysis.reference_mean {
        out += &format!("\nReference: mean {} over the turns it has.\n", numbers::plain(mean));
    }
    if let Some(figure) = figure {
        // Angle brackets: a path may hold spaces and brackets.
        let path = figure.replace('<', "%3C").replace('>', "%3E").replace('\n', "%0A");
        out += &format!("\n![{}](<{path}>)\n\n", escape(&comparison.title).replace(']', "\\]"));
        out += "*Mean per turn; band: standard error over samples; thin lines: samples.*\n";
    }
    section(&mut out, "Contrasts", &tables::contrasts(analysis));
    section(&mut out, "Contrasts per turn", &tables::contrasts_per_turn(analysis));
    section(&mut out, "Drift", &tables::drift(analysis));
    section(&mut out, "Per turn (mean ± SEM)", &tables::per_turn(comparison, analysis));
    out += &not_ok(comparison, analysis);
    out += &detectable(analysis);
    out += &prompts(comparison);
    let notes: Vec<&String> = comparison.notes.iter().chain(&analysis.notes).collect();
    if !notes.is_empty() {
        out += "\n## Notes\n\n";
        for note in notes {
            out += &format!("- {}\n", note.replace('\n', " "));
        }
    }
    out += &method(analysis);
    out
}

fn section(out: &mut String, heading: &str, table: &Table) {
    if !table.rows.is_empty() {
        *out += &format!("\n## {heading}\n\n{}", table.markdown());
    }
}

/// Said even when there is nothing to say: that every cell is ok is a finding.
fn not_ok(comparison: &Comparison, analysis: &Analysis) -> String {
    let table = tables::flags(comparison);
    let mut out = "\n## Cells that are not ok\n\n".to_owned();
    if table.rows.is_empty() {
        return out + "None: every cell of every condition is ok.\n";
    }
    out += &table.markdown();
    out += if analysis.options.drop_flagged {
        "\nThese cells are left out of every number of this report.\n"
    } else {
        "\nThose of these cells that have a value are part of every number of this report.\n"
    };
    out
}

fn detectable(analysis: &Analysis) -> String {
    let Some(control) = &analysis.mde_control else { return String::new() };
    let mut table = Table::new(&["samples per condition", "smallest difference"]);
    for (n, effect) in analysis.mde.iter() {
        table.rows.push(vec![n.to_owned(), numbers::fixed(Some(*effect), numbers::decimals(*effect / 10.0))]);
    }
    format!(
        "\n## What more samples would show\n\nDifference of two means that a two-sided test at level .05 finds with \
         probability .8, if samples spread as in {}.\n\n{}",
        escape(control),
        table.markdown()
    )
}

fn prompts(comparison: &Comparison) -> String {
    let mut out = String::new();
    for group in &comparison.groups {
        let label = escape(&group.label);
        match (&group.rendered_prompt, &group.system_prompt) {
            (Some(prompt), _) => {
                out += &format!("\n### {label}: first prompt as the model saw it\n\n{}", fenced(prompt));
            }
            (None, Some(prompt)) => {
                out += &format!("\n### {label}: system prompt as asked for\n\n{}", fenced(prompt));
            }
            (None, None) => {
                out += &format!("\n### {label}\n\nNo system prompt was asked for; what the model saw is not recorded.\n");
            }
        }
    }
    format!("\n## Prompts\n{out}")
}

/// A fence longer than any run of backticks inside.
fn fenced(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    format!("{fence}text\n{text}{newline}{fence}\n")
}

fn method(analysis: &Analysis) -> String {
    let options = &analysis.options;
    let mut out = format!(
        "\n## How the numbers were made\n\nThe unit is the sample, one whole conversation: its turns are averaged first, and \
         every error and test is over samples. Means and contrasts are over {}. SEM uses ddof {}. Contrasts: Welch's t with \
         Satterthwaite's df; g is Hedges', corrected for small samples; Holm and maxT correct over turns. Slope: least squares over turns; late − early: last third of the turns minus first \
         third.",
        numbers::turns(&analysis.turns_compared),
        options.ddof,
    );
    if options.permutations > 0 {
        out += &format!(
            " Permutation tests shuffle whole samples, {} times (or through all splits where these are fewer), seed {}; \
             the statistic is studentised.",
            options.permutations, options.seed
        );
    }
    out + " Contrasts are not corrected for their number.\n"
}
