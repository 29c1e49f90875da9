//! The methods section of a negotiation experiment.

use serde_json::json;

use crate::config::SpeakingOrder;
use crate::negotiation::NegotiationPlan;
use crate::negotiation::plan::{BargainerPlan, PlayerPlan};
use crate::plan::{axis_list, span_name};

/// Paragraphs: design, game, measures, sampling, judging, projections.
pub fn methods(plan: &NegotiationPlan) -> Vec<String> {
    let exact = |bargainer: &BargainerPlan| match &bargainer.player {
        PlayerPlan::Model(model) => model.exact_name(),
        PlayerPlan::Programmed { strategy, .. } => {
            format!("a programmed bargainer ({})", json!(strategy).as_str().unwrap_or_default())
        }
    };
    let side = |side: &[BargainerPlan]| side.iter().map(exact).collect::<Vec<_>>().join("; ");
    let levels: Vec<String> = plan.matrix.levels.iter().map(f64::to_string).collect();
    let order = match plan.matrix.orders.as_slice() {
        [SpeakingOrder::StrongFirst] => "with the strong one speaking first",
        [_] => "with the weak one speaking first",
        _ => "once with the weak one speaking first and once with the strong one",
    };
    let mut paragraphs = vec![
        format!(
            "Each of the weak bargainers ({}) played each of the strong ones ({}) at competition levels {}, {order}, {} time(s) each. A \
             game divided {} items in at most {} rounds.",
            side(&plan.weak),
            side(&plan.strong),
            levels.join(", "),
            plan.matrix.repetitions,
            plan.num_items,
            plan.max_rounds,
        ),
        format!(
            "The two agents' values of the items are non-negative vectors of sum 100 whose cosine similarity is the competition level, \
             drawn from the run's seed ({} plus the number of the run) by a construction that treats both agents alike and needs no \
             clipping; each agent knew only its own values. A round consisted of a public discussion, private thinking, one proposal by \
             each agent, which were revealed together, private votes on every valid proposal, and, without an agreement, reflection. A \
             proposal that both accepted was the agreement; of several, the one with the lowest number. A proposal that was unreadable \
             or no partition of the items was invalid and counted; an unreadable vote accepted nothing.",
            plan.seed,
        ),
        format!(
            "An agent's utility is the sum of its values of its items times {} to the power of the round minus one; without an agreement \
             it is 0. The utility gap is the strong agent's utility minus the weak agent's. Exploitation is the strong agent's share of \
             both utilities minus its share at the Nash bargaining solution (averaged over several solutions); it is undefined without \
             an agreement. Utilitarian efficiency is the sum of utilities divided by the sum over the items of the greater value; Nash \
             distance is the Euclidean distance of the undiscounted values to the nearest Nash solution.",
            plan.gamma,
        ),
        format!(
            "Replies were drawn at {}{}, with at most {} tokens a reply.",
            plan.sampling.describe_temperature(),
            plan.sampling.top_p.map(|p| format!(", top-p {p}")).unwrap_or_default(),
            plan.max_new_tokens,
        ),
    ];
    if let Some(judge) = &plan.judge {
        paragraphs.push(format!(
            "Strategic behaviours were judged by {} at {}, {}, from a fixed menu; the judge read both agents' values and private \
             replies. A verdict that was truncated, incomplete or off the menu was requested once more; after that the run counts as \
             failed, and its game is kept.",
            judge.model.exact_name(),
            judge.at_temperature(),
            judge.form(),
        ));
    }
    if !plan.axes.is_empty() {
        paragraphs.push(format!(
            "The hidden states of each reply of a local bargainer (span: {}) were read in the pass that generated it and projected on the \
             unit axis: {}.",
            span_name(plan.token_span),
            axis_list(&plan.axes),
        ));
    }
    paragraphs
}
