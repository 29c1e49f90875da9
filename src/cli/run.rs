//! Owns the arguments of `run`, `plan` and `status`, and how an experiment is shown before it runs.
//! Must not know: inference, HTTP.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{parse_count, parse_set, progress::ProgressMode, terminal::escape};
use crate::{
    probe::Span,
    spec::{Condition, Loaded, OverflowPolicy, Placement, ProjectionSpec, Seeding, SiteRef, Spec, Transcript},
};

/// Run an experiment.
///
/// Each turn is recorded as soon as it is measured. Ctrl+C once: no new run starts, running ones finish. Twice: stop at the next
/// turn. Three times: stop now. `--resume` goes on where it stopped.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter run experiments/demo.yaml
  tiltmeter run experiments/demo.yaml --resume
  tiltmeter run experiments/demo.yaml --set samples=4 --set sampling.temperature=0.7 --out try
  tiltmeter run experiments/demo.yaml --dry-run
  tiltmeter run experiments/demo.yaml --progress json 2> progress.jsonl")]
pub struct RunArgs {
    /// Experiment file (YAML, or JSON by its ending)
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Go on with the runs that are not finished
    #[arg(long)]
    pub resume: bool,
    /// Folder for the results [default: data/runs/<experiment>]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Change a key of the experiment, by dotted path; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_set)]
    pub set: Vec<(String, String)>,
    /// Where the model runs
    #[arg(long, value_enum, default_value_t)]
    pub device: DeviceChoice,
    /// How progress is shown, on standard error
    #[arg(long, value_enum, default_value_t)]
    pub progress: ProgressMode,
    /// Check everything and show the plan, but run nothing
    #[arg(long)]
    pub dry_run: bool,
    /// With --resume: go on although the experiment has changed; the change is recorded
    #[arg(long, requires = "resume")]
    pub accept_drift: bool,
    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = parse_count, allow_negative_numbers = true)]
    pub threads: Option<usize>,
}

/// Show what an experiment would run, and whether it fits the context.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter plan experiments/demo.yaml
  tiltmeter plan experiments/demo.yaml --set samples=64 --set seeding=per_sample")]
pub struct PlanArgs {
    /// Experiment file (YAML, or JSON by its ending)
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Change a key of the experiment, by dotted path; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_set)]
    pub set: Vec<(String, String)>,
}

/// Show how far a run folder is, from any machine that sees it.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter status data/runs/demo
  watch -n 10 tiltmeter status data/runs/demo")]
pub struct StatusArgs {
    /// Run folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DeviceChoice {
    /// The GPU if there is one, else the CPU
    #[default]
    Auto,
    /// The CPU
    Cpu,
    /// The first GPU; an error if there is none
    Cuda,
}

/// The experiment as it was understood, for `plan` and `run --dry-run`: one `key  value` a line, then the conditions.
pub fn describe(loaded: &Loaded, transcript: &Transcript) -> String {
    let Spec::Projection(spec) = &loaded.spec;
    let mut rows =
        vec![("experiment", format!("{} ({})", spec.experiment, loaded.path.display())), ("model", spec.model.clone())];
    rows.extend(spec.axes.iter().map(|axis| {
        let name = axis.name.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
        let site = axis.site.as_ref().map(|site| format!(" at {}", site_name(site))).unwrap_or_default();
        ("axis", format!("{name}{}{site}", axis.file.display()))
    }));
    if !spec.sites.is_empty() {
        rows.push(("site", spec.sites.iter().map(site_name).collect::<Vec<_>>().join(", ")));
    }
    let (turns, samples, conditions) = (transcript.turns.len(), spec.samples, spec.conditions.len());
    let total = (turns as u128) * (samples as u128) * (conditions as u128);
    rows.extend([
        ("transcript", format!("{} ({turns} user turns)", transcript.path.display())),
        ("turns", format!("{conditions} conditions x {samples} samples x {turns} turns = {total} replies to measure")),
        ("sampling", sampling(spec)),
        ("seed", seed(spec)),
        ("context", context(spec)),
        ("span", span(spec.span)),
    ]);
    let kept = [
        (spec.reference, "the transcript's own replies are measured too"),
        (spec.vectors, "mean vectors are kept"),
        (spec.accept_axis_of_other_model, "an axis of another model is accepted"),
    ];
    let kept: Vec<_> = kept.iter().filter(|(on, _)| *on).map(|(_, what)| *what).collect();
    if !kept.is_empty() {
        rows.push(("also", kept.join("; ")));
    }
    let mut text: String = rows.iter().map(|(key, value)| format!("{key:<12}{}\n", escape(value))).collect();
    text.push_str("conditions\n");
    let width = spec.conditions.iter().map(|condition| condition.label.len()).max().unwrap_or(0);
    for condition in &spec.conditions {
        text.push_str(&format!("  {:<width$}  {}\n", condition.label, escape(&prompt(condition))));
    }
    text
}

fn site_name(site: &SiteRef) -> String {
    match site {
        SiteRef::Site(site) => site.to_string(),
        SiteRef::Layer { layer, convention: crate::probe::LayerConvention::Block } => format!("layer {layer} (block)"),
        SiteRef::Layer { layer, .. } => format!("layer {layer} (hidden_states)"),
    }
}

fn sampling(spec: &ProjectionSpec) -> String {
    let s = &spec.sampling;
    let mut parts = vec![match s.temperature {
        0.0 => "greedy (temperature 0)".to_string(),
        temperature => format!("temperature {temperature}"),
    }];
    parts.extend(s.top_p.map(|p| format!("top_p {p}")));
    parts.extend(s.top_k.map(|k| format!("top_k {k}")));
    parts.extend(s.min_p.map(|p| format!("min_p {p}")));
    parts.push(format!("at most {} new tokens", spec.max_new_tokens));
    parts.join(", ")
}

fn seed(spec: &ProjectionSpec) -> String {
    match spec.seeding {
        Seeding::PerBatch => format!("{} per micro-batch of {}", spec.seed, spec.micro_batch),
        Seeding::PerSample => format!("{} per sample, generated {} at a time", spec.seed, spec.micro_batch),
    }
}

fn context(spec: &ProjectionSpec) -> String {
    let limit = spec.max_seq_len.map_or("the model's limit".to_string(), |length| format!("{length} tokens"));
    let policy = match spec.on_context_overflow {
        OverflowPolicy::Error => "a conversation that outgrows it fails",
        OverflowPolicy::StopConversation => "a conversation that outgrows it stops there",
        OverflowPolicy::DropOldestTurns => "a conversation that outgrows it drops its oldest turns",
    };
    format!("{limit}; {policy}")
}

fn span(span: Span) -> String {
    match span {
        Span::Content => "the sampled tokens without the stop token".into(),
        Span::ContentAndStop => "the sampled tokens and the stop token".into(),
        Span::FirstK(k) => format!("the first {k} sampled tokens"),
        Span::Prompt => "what each turn adds to the prompt".into(),
        Span::User => "the user's messages".into(),
    }
}

/// A system prompt on one line; what does not fit is counted, because two prompts may differ only at their end.
fn prompt(condition: &Condition) -> String {
    let Some(text) = &condition.system_prompt else { return "no system message".to_string() };
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown: String = line.chars().take(72).collect();
    let rest = line.chars().count().saturating_sub(72);
    let more = if rest > 0 { format!("… (+{rest} characters)") } else { String::new() };
    let place = match condition.placement {
        Placement::Start => "",
        Placement::AfterEachUser => "after each user message: ",
    };
    format!("{place}\"{shown}{more}\"")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::spec;

    #[test]
    fn the_plan_says_what_was_understood() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "").unwrap();
        std::fs::write(folder.path().join("t.json"), "").unwrap();
        let prompt = "Keep a calm tone.\n".repeat(10);
        let file = serde_json::json!({
            "kind": "projection", "experiment": "x", "model": "m\u{1b}", "axis": "a", "transcript": "t.json", "layer": [3, 4],
            "conditions": [{"label": "baseline"}, {"label": "calm", "system_prompt": prompt, "placement": "after_each_user"}],
            "samples": 4, "sampling": {"temperature": 0, "top_k": 5}, "span": "first_k(3)", "reference": true,
        });
        let loaded = spec::read(&file.to_string(), &folder.path().join("x.json"), &[]).unwrap();
        let turns = spec::transcript::read(r#"[{"role": "user", "content": "a"}]"#, Path::new("t.json")).unwrap();
        let text = describe(&loaded, &turns).replace(&format!("{}/", folder.path().display()), "");
        let expected = "\
experiment  x (x.json)
model       m\\u{1b}
axis        a
site        layer 3 (block), layer 4 (block)
transcript  t.json (1 user turns)
turns       2 conditions x 4 samples x 1 turns = 8 replies to measure
sampling    greedy (temperature 0), top_k 5, at most 512 new tokens
seed        42 per micro-batch of 4
context     the model's limit; a conversation that outgrows it fails
span        the first 3 sampled tokens
also        the transcript's own replies are measured too; mean vectors are kept
conditions
  baseline  no system message
  calm      after each user message: \"Keep a calm tone. Keep a calm tone. Keep a calm tone. Keep a calm tone. … (+107 characters)\"
";
        assert_eq!(text, expected);
    }
}
