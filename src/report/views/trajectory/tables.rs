//! The tables of a comparison, and their order in the terminal.

use super::Comparison;
use super::analysis::{Analysis, Difference};
use crate::numbers::{self, fixed, interval, p_value, plain, plus_minus, signed};
use crate::table::Table;

/// Everything for the terminal, without colours: conditions, contrasts, cells that are not ok, notes, and with `per_turn`
/// each turn's figures.
pub fn terminal(comparison: &Comparison, analysis: &Analysis, per_turn: bool) -> String {
    let mut out = format!("{}\n{}\n\n{}", comparison.title, comparison.unit, conditions(analysis).text());
    if let Some(mean) = analysis.reference_mean {
        out += &format!("reference: mean {}\n", plain(mean));
    }
    for (heading, table) in [
        ("Contrasts", contrasts(analysis)),
        ("Drift", drift(analysis)),
        ("Turns with a status other than ok", flags(comparison)),
        ("Per turn", if per_turn { self::per_turn(comparison, analysis) } else { Table::default() }),
        ("Contrasts per turn", if per_turn { contrasts_per_turn(analysis) } else { Table::default() }),
    ] {
        if !table.rows.is_empty() {
            out += &format!("\n{heading}\n\n{}", table.text());
        }
    }
    for note in comparison.notes.iter().chain(&analysis.notes) {
        out += &format!("\nnote: {note}");
    }
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

/// One row per condition.
pub fn conditions(analysis: &Analysis) -> Table {
    let mut table =
        Table::new(&["condition", "n", "turns", "mean ± SEM", "95 % interval", "ICC", "not ok", "left out"]);
    for (label, condition) in analysis.conditions.iter() {
        table.rows.push(vec![
            label.to_owned(),
            condition.n.to_string(),
            condition.turns.to_string(),
            plus_minus(condition.mean, condition.sem),
            interval(condition.ci95),
            fixed(condition.icc, 3),
            condition.flagged.to_string(),
            condition.dropped.to_string(),
        ]);
    }
    table
}

/// One row per contrast of means.
pub fn contrasts(analysis: &Analysis) -> Table {
    let spans = analysis.contrasts.iter().any(|contrast| contrast.span_units.is_some());
    let mut table = Table::new(&["contrast", "difference", "95 % interval", "t (df)", "p", "permutation p", "g"]);
    if spans {
        table.header.push("share of axis span".to_owned());
    }
    for contrast in &analysis.contrasts {
        let mut row = vec![format!("{} − {}", contrast.a, contrast.b)];
        row.extend(welch(&contrast.welch));
        row.insert(5, p_value(contrast.permutation_p));
        if spans {
            row.push(fixed(contrast.span_units, 3));
        }
        table.rows.push(row);
    }
    table
}

/// Slopes and late-minus-early differences: conditions, then contrasts.
pub fn drift(analysis: &Analysis) -> Table {
    let mut table = Table::new(&["", "slope per turn", "p", "late − early", "p"]);
    for (label, condition) in analysis.conditions.iter() {
        let drift = &condition.drift;
        let (Some(slope), Some(shift)) = (&drift.slope, &drift.late_minus_early) else { continue };
        table.rows.push(vec![
            label.to_owned(),
            plus_minus(slope.mean, slope.sem),
            String::new(),
            plus_minus(shift.mean, shift.sem),
            String::new(),
        ]);
    }
    for contrast in &analysis.contrasts {
        let (Some(slope), Some(shift)) = (&contrast.drift.slope, &contrast.drift.late_minus_early) else { continue };
        table.rows.push(vec![
            format!("{} − {}", contrast.a, contrast.b),
            signed(slope.diff, slope.se),
            p_value(slope.p),
            signed(shift.diff, shift.se),
            p_value(shift.p),
        ]);
    }
    table
}

/// One row per condition and status: how many cells, at which turns.
pub fn flags(comparison: &Comparison) -> Table {
    let mut table = Table::new(&["condition", "status", "cells", "of", "turn: cells"]);
    for group in &comparison.groups {
        let flags = group.flags();
        for same in flags.chunk_by(|x, y| x.status == y.status) {
            let turns: Vec<String> = same
                .chunk_by(|x, y| x.turn == y.turn)
                .map(|cells| format!("{}: {}", cells[0].turn + 1, cells.len()))
                .collect();
            table.rows.push(vec![
                group.label.clone(),
                same[0].status.clone(),
                same.len().to_string(),
                (group.samples.len() * group.turns()).to_string(),
                turns.join(", "),
            ]);
        }
    }
    table
}

/// The key of the conditions for the terminal, said once for all measures; empty where every name says what it is.
pub fn terminal_key(comparison: &Comparison) -> String {
    let table = key(comparison);
    if table.rows.is_empty() { String::new() } else { format!("Conditions in words\n\n{}", table.text()) }
}

/// What each condition is, in words; empty where its name says it.
pub fn key(comparison: &Comparison) -> Table {
    let mut table = Table::new(&["condition", "in words"]).of_words();
    let named = comparison.groups.iter().filter_map(|group| Some((group, group.title.as_ref()?)));
    table.rows = named.map(|(group, title)| vec![group.label.clone(), title.clone()]).collect();
    table
}

/// One row per turn: mean ± SEM of each condition, and the reference.
pub fn per_turn(comparison: &Comparison, analysis: &Analysis) -> Table {
    let mut table = Table::new(&[comparison.step()]);
    table.header.extend(analysis.conditions.iter().map(|(label, _)| label.to_owned()));
    if comparison.reference.is_some() {
        table.header.push("reference".to_owned());
    }
    for turn in 0..comparison.turns() {
        let mut row = vec![(turn + 1).to_string()];
        for (_, condition) in analysis.conditions.iter() {
            let mean = condition.per_turn.mean.get(turn).copied().flatten();
            let sem = condition.per_turn.sem.get(turn).copied().flatten();
            row.push(mean.map_or_else(|| numbers::NONE.to_owned(), |mean| plus_minus(mean, sem)));
        }
        if let Some(reference) = &comparison.reference {
            row.push(reference.get(turn).copied().flatten().map_or_else(|| numbers::NONE.to_owned(), plain));
        }
        table.rows.push(row);
    }
    table
}

/// One row per contrast: at which turns it holds after correction.
pub fn contrasts_per_turn(analysis: &Analysis) -> Table {
    let mut table = Table::new(&["contrast", "Holm p < .05", "maxT p < .05", "of turns"]);
    for contrast in &analysis.contrasts {
        let significant = |p: &[Option<f64>]| {
            let turns: Vec<usize> = (1..=p.len()).filter(|turn| p[turn - 1].is_some_and(|p| p < 0.05)).collect();
            if turns.is_empty() { "none".to_owned() } else { numbers::turns(&turns) }
        };
        let tested = |p: &[Option<f64>]| p.iter().flatten().count();
        let maxt = &contrast.per_turn.maxt_p;
        table.rows.push(vec![
            format!("{} − {}", contrast.a, contrast.b),
            significant(&contrast.per_turn.holm_p),
            if tested(maxt) == 0 { numbers::NONE.to_owned() } else { significant(maxt) },
            tested(&contrast.per_turn.p).to_string(),
        ]);
    }
    table
}

fn welch(found: &Difference) -> Vec<String> {
    let t = match (found.t, found.df) {
        (Some(t), Some(df)) => format!("{} ({df:.1})", fixed(Some(t), 2)),
        _ => numbers::NONE.to_owned(),
    };
    vec![signed(found.diff, found.se), interval(found.ci95), t, p_value(found.p), fixed(found.hedges_g, 2)]
}
