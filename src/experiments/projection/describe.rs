//! Describes a projection experiment before it runs.

use crate::config::{Condition, OverflowPolicy, Placement, ProjectionSpec, Seeding, SiteRef, Transcript};
use tiltmeter_model::probe::{LayerConvention, Span};

/// One `(what, how)` a line.
pub fn describe(spec: &ProjectionSpec, transcript: &Transcript) -> Vec<(String, String)> {
    let mut rows = vec![("model", spec.model.clone())];
    rows.extend(spec.readouts.axes.iter().map(|axis| {
        let name = axis.name.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
        let site = axis.site.as_ref().map(|site| format!(" at {}", site_name(site))).unwrap_or_default();
        ("axis", format!("{name}{}{site}", axis.file.display()))
    }));
    if !spec.readouts.sites.is_empty() {
        rows.push(("site", spec.readouts.sites.iter().map(site_name).collect::<Vec<_>>().join(", ")));
    }
    let (turns, samples, conditions) = (transcript.turns.len(), spec.samples, spec.conditions.len());
    let total = (turns as u128) * (samples as u128) * (conditions as u128);
    rows.extend([
        ("transcript", format!("{} ({turns} user turns)", transcript.path.display())),
        ("turns", format!("{conditions} conditions x {samples} samples x {turns} turns = {total} replies to measure")),
        ("sampling", sampling(spec)),
        ("seed", seed(spec)),
        ("context", context(spec)),
        ("span", span(spec.readouts.span)),
    ]);
    let kept = [
        (spec.reference, "the transcript's own replies are measured too"),
        (spec.vectors, "mean vectors are kept"),
        (spec.readouts.accept_axis_of_other_model, "an axis of another model is accepted"),
    ];
    let kept: Vec<_> = kept.iter().filter(|(on, _)| *on).map(|(_, what)| *what).collect();
    if !kept.is_empty() {
        rows.push(("also", kept.join("; ")));
    }
    rows.extend(spec.conditions.iter().map(|c| ("condition", format!("{}: {}", c.label, prompt(c)))));
    rows.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn site_name(site: &SiteRef) -> String {
    match site {
        SiteRef::Site(site) => site.to_string(),
        SiteRef::Layer { layer, convention: LayerConvention::Block } => format!("layer {layer} (block)"),
        SiteRef::Layer { layer, .. } => format!("layer {layer} (hidden_states)"),
    }
}

fn sampling(spec: &ProjectionSpec) -> String {
    let s = &spec.sampling;
    let mut parts = vec![s.describe_temperature()];
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
    use crate::config::{self, Spec};

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
        let loaded = config::read(&file.to_string(), &folder.path().join("x.json"), &[]).unwrap();
        let turns = config::transcript::read(r#"[{"role": "user", "content": "a"}]"#, Path::new("t.json")).unwrap();
        #[allow(irrefutable_let_patterns)]
        let Spec::Projection(spec) = &loaded.spec else { panic!("a projection") };
        let rows = describe(spec, &turns);
        let text: String = rows.iter().map(|(key, value)| format!("{key:<12}{value}\n")).collect();
        let text = text.replace(&format!("{}/", folder.path().display()), "");
        let expected = "\
model       m\u{1b}
axis        a
site        layer 3 (block), layer 4 (block)
transcript  t.json (1 user turns)
turns       2 conditions x 4 samples x 1 turns = 8 replies to measure
sampling    greedy (temperature 0), top_k 5, at most 512 new tokens
seed        42 per micro-batch of 4
context     the model's limit; a conversation that outgrows it fails
span        the first 3 sampled tokens
also        the transcript's own replies are measured too; mean vectors are kept
condition   baseline: no system message
condition   calm: after each user message: \"Keep a calm tone. Keep a calm tone. Keep a calm tone. Keep a calm tone. … (+107 characters)\"
";
        assert_eq!(text, expected);
    }
}
