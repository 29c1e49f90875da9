//! Describes an interview experiment before it runs.

use super::Setting;
use crate::config::{RefusalRule, RunSeeding};
use tiltmeter_model::SeedSupport;
use tiltmeter_model::probe::Axis;

/// One `(what, how)` a line.
pub fn describe(setting: &Setting, axes: &[Axis], first_run: usize) -> Vec<(String, String)> {
    let spec = &setting.spec;
    let (variants, runs) = (spec.variants.len(), spec.runs_per_variant);
    let s = &spec.sampling;
    let mut sampling = vec![s.describe_temperature()];
    sampling.extend(s.top_p.map(|p| format!("top_p {p}")));
    sampling.extend(s.top_k.map(|k| format!("top_k {k}")));
    sampling.extend(s.min_p.map(|p| format!("min_p {p}")));
    sampling.push(format!("at most {} new tokens", spec.max_new_tokens));
    let held = if setting.schema.is_some() { "given a JSON schema" } else { "asked for JSON in words" };
    let menu: Vec<&str> = spec.menu.iter().map(|strategy| strategy.name.as_str()).collect();
    let mut rows = vec![
        ("steward", spec.steward.name.clone()),
        (
            "judge",
            format!(
                "{}, {}, at most {} tokens, {held}",
                spec.judge.name,
                setting.judge_sampling.describe_temperature(),
                spec.judge_max_tokens
            ),
        ),
        ("menu", menu.join(", ")),
        ("version", spec.experiment_version.clone()),
        ("prompts", spec.prompt_set.display().to_string()),
    ];
    rows.push(match spec.batch {
        true => ("runs", format!("{variants} variants x {runs} runs = {} interviews", variants * runs)),
        false => ("runs", "one interview, with a pause before every question".to_owned()),
    });
    rows.push((
        "numbers",
        match first_run {
            0 => "runs are numbered from 0; run again, it adds new repetitions with new seeds after those of earlier batches"
                .to_owned(),
            first => format!("runs are numbered from {first}, after those of earlier batches: these are new repetitions"),
        },
    ));
    rows.push(("sampling", sampling.join(", ")));
    let seed = match spec.seeding {
        RunSeeding::PerRun => format!("{}, from which every run gets its own", spec.seed),
        RunSeeding::Fixed => format!("{} for every run and question", spec.seed),
    };
    rows.push(("seed", format!("{seed}; {}", support(setting.steward.model.seed_support()))));
    let after = spec.stop_on_refusal.after;
    rows.push((
        "refusal",
        match spec.stop_on_refusal.rule {
            RefusalRule::WordBoundary => {
                format!("no question after a refusal in reply {after} (whole words and phrases)")
            }
            RefusalRule::Substring => {
                format!("no question after a reply {after} with \"no\" or \"not\" anywhere in it, even in \"know\"")
            }
            RefusalRule::None => "all questions are asked, whatever was replied".to_owned(),
        },
    ));
    rows.extend(axes.iter().map(|axis| ("axis", format!("{} at {}", axis.name, axis.site))));
    if spec.publication {
        rows.push(("also", "for publication: the plan is kept to".to_owned()));
    }
    rows.extend(spec.variants.iter().map(|variant| {
        let tone = variant.tone.as_ref().map(|tone| format!(" ({tone})")).unwrap_or_default();
        ("variant", format!("{}: {}, {} questions{tone}", variant.id, variant.name, variant.prompts.len()))
    }));
    rows.into_iter().map(|(what, how)| (what.to_owned(), how)).collect()
}

/// What a seed is worth.
pub fn support(support: SeedSupport) -> &'static str {
    match support {
        SeedSupport::Exact => "the same seed gives the same reply",
        SeedSupport::BestEffort => "the provider tries to repeat itself and does not promise it",
        SeedSupport::Uncertain => "sent, and nothing is known of what the provider does with it",
        SeedSupport::NotSent => "not sent: the provider takes none",
    }
}
