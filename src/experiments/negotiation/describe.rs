//! Description of a negotiation experiment before it runs.

use super::matrix::order_name;
use super::{Bargainer, Resources, axes_of};
use crate::config::{BargainerRef, SpeakingOrder};
use crate::plan::describe_sampling;

/// Rows `(what, how)`.
pub fn describe(resources: &Resources) -> Vec<(String, String)> {
    let Resources { spec, matrix, .. } = resources;
    let mut sampling = describe_sampling(&spec.sampling);
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
        ("weak", named(&spec.weak_models, &resources.weak)),
        ("strong", named(&spec.strong_models, &resources.strong)),
        ("levels", format!("{} (cosine similarity of the two agents' values)", levels.join(", "))),
        ("game", format!("{} items, at most {} rounds, gamma {}", spec.num_items, spec.max_rounds, spec.gamma)),
        ("order", orders),
        ("runs", format!("{size} = {total} games, numbered from 0 to {}", total.saturating_sub(1))),
        ("sampling", sampling.join(", ")),
        ("seed", format!("{} plus the number of the run", spec.seed)),
    ];
    rows.push(match spec.judge.as_ref().zip(resources.judge.as_ref()) {
        Some((reference, judge)) => ("judge", judge.describe(&reference.name)),
        None => ("judge", "none: strategic behaviours are not judged".to_owned()),
    });
    let axes = [&resources.weak, &resources.strong].map(|side| axes_of(side)).into_iter().find(|axes| !axes.is_empty());
    rows.extend(axes.into_iter().flatten().map(|axis| ("axis", format!("{} at {}", axis.name, axis.site))));
    if spec.publication {
        rows.push(("also", "for publication: the plan must be followed".to_owned()));
    }
    rows.into_iter().map(|(what, how)| (what.to_owned(), how)).collect()
}

/// `gpt-4o (openai/gpt-4o), programmed-fair`
fn named(list: &[BargainerRef], bargainers: &[Bargainer]) -> String {
    let one = |(reference, bargainer): (&BargainerRef, &Bargainer)| match bargainer {
        Bargainer::Model(bargainer) if bargainer.client.model.card().name != reference.label => {
            format!("{} ({})", reference.label, bargainer.client.model.card().name)
        }
        _ => reference.label.clone(),
    };
    list.iter().zip(bargainers).map(one).collect::<Vec<_>>().join(", ")
}
