//! Owns how a negotiation experiment is put into words before it runs, and how bargainers and settings are named in its methods.
//! Must not know: engine, provider, run folders, terminal.

use super::run::order_name;
use super::{Bargainer, Setting};
use crate::config::{BargainerRef, SpeakingOrder};

/// One `(what, how)` a line.
pub fn describe(setting: &Setting) -> Vec<(String, String)> {
    let (spec, matrix) = (&setting.spec, &setting.matrix);
    let s = &spec.sampling;
    let mut sampling = vec![match s.temperature {
        0.0 => "greedy (temperature 0)".to_owned(),
        temperature => format!("temperature {temperature}"),
    }];
    sampling.extend(s.top_p.map(|p| format!("top_p {p}")));
    sampling.extend(s.top_k.map(|k| format!("top_k {k}")));
    sampling.extend(s.min_p.map(|p| format!("min_p {p}")));
    sampling.push(format!("at most {} new tokens", spec.max_new_tokens));
    let levels: Vec<String> = spec.competition_levels.iter().map(f64::to_string).collect();
    let orders = match spec.orders.as_slice() {
        [SpeakingOrder::WeakFirst] => "the weak bargainer speaks first".to_owned(),
        [SpeakingOrder::StrongFirst] => "the strong bargainer speaks first".to_owned(),
        orders => orders.iter().map(|order| order_name(*order)).collect::<Vec<_>>().join(" and "),
    };
    let (weak, strong, l) = (matrix.weak.len(), matrix.strong.len(), matrix.levels.len());
    let mut size = format!("{weak} weak x {strong} strong x {l} levels");
    if matrix.orders.len() > 1 {
        size += &format!(" x {} orders", matrix.orders.len());
    }
    if matrix.repetitions > 1 {
        size += &format!(" x {} repetitions", matrix.repetitions);
    }
    let total = matrix.total_runs();
    let mut rows = vec![
        ("weak", named(&spec.weak_models, &setting.weak)),
        ("strong", named(&spec.strong_models, &setting.strong)),
        ("levels", format!("{} (cosine similarity of the two agents' values)", levels.join(", "))),
        ("game", format!("{} items, at most {} rounds, gamma {}", spec.num_items, spec.max_rounds, spec.gamma)),
        ("order", orders),
        ("runs", format!("{size} = {total} games, numbered from 0 to {}", total.saturating_sub(1))),
        ("sampling", sampling.join(", ")),
        ("seed", format!("{} plus the number of the run", spec.seed)),
    ];
    rows.push(match &spec.judge {
        Some(judge) => {
            let held = if setting.schema.is_some() { "given a JSON schema" } else { "asked for JSON in words" };
            ("judge", format!("{}, temperature 0, at most {} tokens, {held}", judge.name, spec.judge_max_tokens))
        }
        None => ("judge", "none: no strategic behaviours are told".to_owned()),
    });
    rows.extend(setting.axes().iter().map(|axis| ("axis", format!("{} at {}", axis.name, axis.site))));
    if spec.publication {
        rows.push(("also", "for publication: the plan is kept to".to_owned()));
    }
    rows.into_iter().map(|(what, how)| (what.to_owned(), how)).collect()
}

/// `gpt-4o (openai/gpt-4o), programmed-fair`
fn named(list: &[BargainerRef], voices: &[Bargainer]) -> String {
    let one = |(said, voice): (&BargainerRef, &Bargainer)| match voice {
        Bargainer::Model(voice) if voice.speaker.model.card().name != said.label => {
            format!("{} ({})", said.label, voice.speaker.model.card().name)
        }
        _ => said.label.clone(),
    };
    list.iter().zip(voices).map(one).collect::<Vec<_>>().join(", ")
}
