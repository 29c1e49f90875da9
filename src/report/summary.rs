//! `<experiment>_summary.json`: per condition and turn mean, sem, n, ddof; grand means; contrasts; distributions of labels; responses.

use serde_json::{Map, Value, json};

use crate::views::distribution::{Distribution, analysis::DistributionAnalysis};
use crate::views::response::{Against, Factor, Response, analysis::ResponseAnalysis};
use crate::views::trajectory::{Comparison, analysis::Analysis};

/// The summary. Keys: `title`, `unit`, `ddof`, `drop_flagged`, `turns_compared`, `conditions` (name to `n`, `ddof`, `mean`,
/// `sem`, `ci95`, `icc`, `flagged`, `dropped`, `statuses`, `drift`, `system_prompt`, `per_turn`: list of `turn` from 1,
/// `mean`, `sem`, `n`, `ddof`), `reference` (`mean`, `per_turn`) or null, `contrasts` and `mde` as in `Analysis`, `notes`.
pub fn summary_json(comparison: &Comparison, analysis: &Analysis) -> Value {
    let ddof = analysis.options.ddof;
    let mut conditions = Map::new();
    for (group, (label, condition)) in comparison.groups.iter().zip(analysis.conditions.iter()) {
        let per_turn: Vec<Value> = (0..condition.turns)
            .map(|turn| {
                let cells = &condition.per_turn;
                json!({
                    "turn": turn + 1,
                    "mean": cells.mean[turn],
                    "sem": cells.sem[turn],
                    "n": cells.n[turn],
                    "ddof": ddof,
                })
            })
            .collect();
        conditions.insert(
            label.to_owned(),
            json!({
                "n": condition.n,
                "ddof": ddof,
                "mean": condition.mean,
                "sem": condition.sem,
                "ci95": condition.ci95,
                "icc": condition.icc,
                "flagged": condition.flagged,
                "dropped": condition.dropped,
                "statuses": condition.statuses,
                "drift": condition.drift,
                "system_prompt": group.system_prompt,
                "per_turn": per_turn,
            }),
        );
    }
    let reference = comparison.reference.as_ref();
    json!({
        "title": comparison.title,
        "unit": comparison.unit,
        "ddof": ddof,
        "drop_flagged": analysis.options.drop_flagged,
        "turns_compared": analysis.turns_compared,
        "conditions": conditions,
        "reference": reference.map(|values| json!({ "mean": analysis.reference_mean, "per_turn": values })),
        "contrasts": analysis.contrasts,
        "mde": analysis.mde,
        "mde_control": analysis.mde_control,
        "options": analysis.options,
        "notes": comparison.notes.iter().chain(&analysis.notes).collect::<Vec<_>>(),
    })
}

/// The summary of a distribution. Keys: `title`, `label`, `menu`, `groups` (name to `title`, `n`, `missing`, `categories`: name to
/// `count`, `share`, `ci95`), `overall` and `pairs` (`a`, `b`, `test`, `holm_p`) as in `DistributionAnalysis`, `draws`, `seed`, `notes`.
pub fn distribution_json(distribution: &Distribution, analysis: &DistributionAnalysis) -> Value {
    json!({
        "title": distribution.title,
        "label": distribution.label,
        "menu": distribution.menu,
        "groups": analysis.groups,
        "overall": analysis.overall,
        "pairs": analysis.pairs,
        "draws": analysis.draws,
        "seed": analysis.seed,
        "notes": distribution.notes.iter().chain(&analysis.notes).collect::<Vec<_>>(),
    })
}

/// The summary of a response. Keys: `title`, `metric`, `unit`, `against` (`metric`, `title`), `by`, `rows`, `columns` (`label`, `title`) or
/// null, `overall` (`n`, `mean`, `sem`, `ci95`), `missing`, `lines` (`label`, null for all runs, and `levels`: list of `level`, `n`, `mean`,
/// `sem`, `ci95`), `table` (`rows`, `columns`, `cells[row][column]`) or null, `ddof`, `notes`.
pub fn response_json(response: &Response, analysis: &ResponseAnalysis) -> Value {
    let factor = |factor: &Option<Factor>| factor.as_ref().map(|f| json!({ "label": f.label, "title": f.title }));
    let against = |against: &Against| json!({ "metric": against.metric, "title": against.title });
    json!({
        "title": response.title,
        "metric": response.metric,
        "unit": response.unit,
        "against": response.against.as_ref().map(against),
        "by": factor(&response.by),
        "rows": factor(&response.rows),
        "columns": factor(&response.columns),
        "overall": analysis.overall,
        "missing": analysis.missing,
        "lines": analysis.lines,
        "table": analysis.table,
        "ddof": analysis.ddof,
        "notes": response.notes.iter().chain(&analysis.notes).collect::<Vec<_>>(),
    })
}
