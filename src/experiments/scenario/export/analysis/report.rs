//! `analysis-report.md`: renders the numbers of the analysis as Markdown.

use serde_json::Value;

use super::Batch;

/// A number with four digits; a dash for a missing one.
fn number(value: &Value) -> String {
    match value.as_f64() {
        None => "–".to_owned(),
        Some(0.0) => "0".to_owned(),
        Some(x) if x.abs() >= 1e6 || x.abs() < 1e-4 => format!("{x:.3e}"),
        Some(x) => {
            let decimals = (3 - x.abs().log10().floor() as i32).clamp(0, 7) as usize;
            let text = format!("{x:.decimals$}");
            if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
        }
    }
}

fn interval(value: &Value) -> String {
    match (&value[0], &value[1]) {
        (Value::Null, _) | (_, Value::Null) => "–".to_owned(),
        (low, high) => format!("{} to {}", number(low), number(high)),
    }
}

fn percent(value: &Value) -> String {
    value.as_f64().map_or("–".to_owned(), |rate| format!("{:.1}%", 100.0 * rate))
}

fn text(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.replace('|', "\\|").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A Markdown table with padded columns, numbers aligned right.
fn table(heading: &[&str], rows: Vec<Vec<String>>) -> String {
    let width = |text: &str| text.chars().count();
    let heading: Vec<String> = heading.iter().map(|cell| (*cell).to_owned()).collect();
    let cells = |column: usize| rows.iter().filter_map(move |row| row.get(column));
    let columns: Vec<(usize, bool)> = (0..heading.len())
        .map(|column| {
            let widest = cells(column).map(|cell| width(cell)).max().unwrap_or(0);
            let number = |cell: &String| cell.starts_with(|c: char| c.is_ascii_digit() || "-–".contains(c));
            (widest.max(width(&heading[column])).max(3), cells(column).all(number))
        })
        .collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&columns).map(|(cell, (wide, right))| {
            let gap = " ".repeat(wide.saturating_sub(width(cell)));
            if *right { format!("{gap}{cell}") } else { format!("{cell}{gap}") }
        });
        format!("| {} |\n", padded.collect::<Vec<_>>().join(" | "))
    };
    let rule: Vec<String> = columns
        .iter()
        .map(|(wide, right)| if *right { format!("{}:", "-".repeat(wide - 1)) } else { "-".repeat(*wide) })
        .collect();
    let mut text = line(&heading) + &line(&rule);
    text.extend(rows.iter().map(|row| line(row)));
    text + "\n"
}

pub fn markdown(batch: &Batch, metrics: &Value, variations: &Value, patterns: &Value) -> String {
    let mut page = format!("# {}: analysis\n\n", batch.plan.experiment_name);
    let turns = || batch.plan.conditions.iter().map(|variation| batch.plan.scenario_of(variation).turns);
    let turns = match (turns().min(), turns().max()) {
        (Some(least), Some(most)) if least < most => format!("{least} to {most}"),
        (least, _) => least.unwrap_or(batch.plan.scenario.turns).to_string(),
    };
    page += &format!("Scenario: {}. {turns} turns a run.\n\n", text(&Value::from(batch.plan.scenario.name.clone())));
    page += &success(patterns);
    page += &statistics(metrics);
    page += &comparison(variations);
    page += &effects(&variations["effects"]);
    page += &costs(patterns);
    page += &found(patterns);
    page
}

fn success(patterns: &Value) -> String {
    let success = &patterns["success"];
    let mut text = format!(
        "## Overall success rate\n\n{} of {} runs that started are complete: **{}**, 95 % interval {} to {}. {} runs were planned. A run that \
         failed or was stopped by a limit is no success.\n\n",
        success["successes"],
        success["n"],
        percent(&success["rate"]),
        percent(&success["ci95"][0]),
        percent(&success["ci95"][1]),
        patterns["planned_runs"],
    );
    if let Some(best) = patterns["best_variation"].as_str() {
        text += &format!("Best variation (success rate, then the first metric): **{best}**.\n\n");
    }
    text
}

fn statistics(metrics: &Value) -> String {
    let (mut numbers, mut counts) = (Vec::new(), String::new());
    for (id, entry) in entries(metrics) {
        match entry.get("values") {
            Some(values) => {
                let counted: Vec<String> = entries(values).map(|(value, n)| format!("{value}: {n}")).collect();
                let counted = if counted.is_empty() { "none".to_owned() } else { counted.join(", ") };
                counts += &format!("- {id}: {counted} ({} missing)\n", entry["missing"]);
            }
            None => numbers.push(
                [id.clone(), entry["n"].to_string(), entry["missing"].to_string()]
                    .into_iter()
                    .chain(["mean", "std", "min", "max", "median", "sem"].map(|key| number(&entry[key])))
                    .chain([interval(&entry["ci95"])])
                    .collect(),
            ),
        }
    }
    let mut text = "## Metrics after the last turn, all completed runs\n\n".to_owned();
    if numbers.is_empty() && counts.is_empty() {
        return text + "The scenario has no metrics.\n\n";
    }
    if !numbers.is_empty() {
        text += &table(
            &["metric", "n", "missing", "mean", "std", "min", "max", "median", "SEM", "95 % interval of the mean"],
            numbers,
        );
    }
    if !counts.is_empty() {
        text += &format!("{counts}\n");
    }
    text
}

fn comparison(variations: &Value) -> String {
    let mut page = "## Variations\n\n".to_owned();
    let rows = entries(&variations["variations"]).map(|(id, entry)| {
        let success = &entry["success"];
        vec![
            id.clone(),
            text(&entry["description"]),
            format!("{}/{}", entry["runs_completed"], entry["runs_planned"]),
            percent(&success["rate"]),
            number(&entry["avg_cost_usd"]),
            number(&entry["avg_tokens"]),
        ]
    });
    let heading = ["variation", "values", "completed", "success", "USD per completed run", "tokens per completed run"];
    page += &table(&heading, rows.collect());
    for (metric, ranked) in entries(&variations["comparison"]) {
        let rows: Vec<Vec<String>> = list(ranked)
            .map(|entry| {
                let id = text(&entry["variation_id"]);
                let what = text(&entry["description"]);
                vec![
                    id,
                    what,
                    entry["n"].to_string(),
                    number(&entry["mean"]),
                    number(&entry["std"]),
                    interval(&entry["ci95"]),
                ]
            })
            .collect();
        if !rows.is_empty() {
            page += &format!("### {metric}, best first\n\n");
            page += &table(&["variation", "values", "n", "mean", "std", "95 % interval of the mean"], rows);
        }
    }
    page
}

fn effects(effects: &Value) -> String {
    let rows: Vec<Vec<String>> = list(effects)
        .map(|row| {
            vec![
                text(&row["metric"]),
                text(&row["factor"]),
                format!("{} against {}", text(&row["value"]), text(&row["against"])),
                format!("{}, {}", row["n"][0], row["n"][1]),
                number(&row["difference"]),
                interval(&row["ci95"]),
                number(&row["p"]),
                number(&row["p_holm"]),
            ]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let heading = ["metric", "varied", "values", "n", "difference", "95 % interval", "p", "p (Holm)"];
    format!(
        "## Effects of the varied values\n\nEach value against the first of its dimension, over all values of the other dimensions; Welch's \
         test on runs.\n\n{}",
        table(&heading, rows)
    )
}

fn costs(patterns: &Value) -> String {
    let rows = list(&patterns["cost_efficiency"]).map(|entry| {
        vec![
            text(&entry["variation_id"]),
            text(&entry["description"]),
            entry["runs_completed"].to_string(),
            number(&entry["total_cost_usd"]),
            number(&entry["runs_per_dollar"]),
        ]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() {
        return String::new();
    }
    if list(&patterns["cost_efficiency"]).all(|entry| entry["total_cost_usd"] == 0.0) {
        return "## Cost efficiency\n\nNo run cost anything.\n\n".to_owned();
    }
    let heading = ["variation", "values", "completed", "total USD", "completed runs per dollar"];
    format!("## Cost efficiency\n\n{}", table(&heading, rows))
}

fn found(patterns: &Value) -> String {
    let mut page = "## Patterns\n\n".to_owned();
    for factor in list(&patterns["success_factors"]) {
        let levels: Vec<String> = list(&factor["levels"])
            .map(|level| {
                format!("{} {} ({}/{})", text(&level["value"]), percent(&level["rate"]), level["successes"], level["n"])
            })
            .collect();
        let p = match &factor["p"] {
            Value::Null => String::new(),
            p => format!("; Fisher's exact p = {}", number(p)),
        };
        page += &format!("- Success by {}: {}{p}\n", text(&factor["factor"]), levels.join(", "));
    }
    for mode in list(&patterns["failure_modes"]) {
        let runs: Vec<String> = list(&mode["runs"]).take(12).map(text).collect();
        page += &format!("- {} runs ended with `{}`: {}\n", mode["count"], text(&mode["mode"]), runs.join(", "));
    }
    if page.ends_with("\n\n") {
        page += "Nothing is varied, and no run failed.\n";
    }
    page
}
