//! Formats numbers: digits according to the standard error, p values in APA style, ranges of turns.
//!
//! A mean is shown to two significant digits of its standard error (at least two decimals, at most six); without an error
//! to four significant digits.

/// Placeholder for a missing number.
pub const NONE: &str = "–";

/// Decimals that show two significant digits of `error`, between 2 and 6.
pub fn decimals(error: f64) -> usize {
    if error > 0.0 && error.is_finite() { (1.0 - error.log10().floor()).clamp(2.0, 6.0) as usize } else { 4 }
}

/// A number with four significant digits; far from 1 in scientific notation.
pub fn plain(x: f64) -> String {
    if x == 0.0 {
        return "0".to_owned();
    }
    let magnitude = x.abs().log10().floor();
    if !(-4.0..7.0).contains(&magnitude) {
        return minus(format!("{x:.3e}"));
    }
    minus(format!("{x:.*}", (3.0 - magnitude).max(0.0) as usize))
}

/// `1.767 ± 0.039`; without an error just the number.
pub fn plus_minus(mean: f64, sem: Option<f64>) -> String {
    match sem {
        Some(sem) if sem > 0.0 && sem < 1e-5 * mean.abs().max(1.0) => minus(format!("{} ± {sem:.1e}", plain(mean))),
        Some(sem) if sem > 0.0 => {
            let digits = decimals(sem);
            minus(format!("{mean:.digits$} ± {sem:.digits$}"))
        }
        _ => plain(mean),
    }
}

/// `+0.420`, to the digits that `error` allows.
pub fn signed(x: f64, error: Option<f64>) -> String {
    match error {
        Some(error) if error > 0.0 => minus(format!("{x:+.*}", decimals(error))),
        _ if x > 0.0 => format!("+{}", plain(x)),
        _ => plain(x),
    }
}

/// `[0.296, 0.543]`.
pub fn interval(interval: Option<[f64; 2]>) -> String {
    let Some([low, high]) = interval else { return NONE.to_owned() };
    let digits = decimals((high - low) / 4.0);
    minus(format!("[{low:.digits$}, {high:.digits$}]"))
}

/// A number with fixed decimals, or a dash.
pub fn fixed(x: Option<f64>, digits: usize) -> String {
    x.map_or_else(|| NONE.to_owned(), |x| minus(format!("{x:.digits$}")))
}

/// `< .001`, `.032`, `1`; a dash where there is no test.
pub fn p_value(p: Option<f64>) -> String {
    match p {
        None => NONE.to_owned(),
        Some(p) if p < 0.001 => "< .001".to_owned(),
        // Never rounded up to one, nor up to the level.
        Some(p) if p >= 1.0 => "1".to_owned(),
        Some(p) if p > 0.999 => "> .999".to_owned(),
        Some(p) if (0.045..0.055).contains(&p) => format!("{p:.4}")[1..].to_owned(),
        Some(p) => format!("{p:.3}")[1..].to_owned(),
    }
}

/// `turn 3`, `turns 1–4, 7`; turns as given, ascending.
pub fn turns(turns: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &turn in turns {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == turn => *last = turn,
            _ => runs.push((turn, turn)),
        }
    }
    let run = |&(first, last): &(usize, usize)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first}–{last}"),
    };
    let list = runs.iter().map(run).collect::<Vec<_>>().join(", ");
    format!("{} {list}", if turns.len() == 1 { "turn" } else { "turns" })
}

/// A real minus sign: a hyphen is easily lost beside digits. Exponents keep theirs.
fn minus(text: String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut before = ' ';
    for c in text.chars() {
        out.push(if c == '-' && before != 'e' { '−' } else { c });
        before = c;
    }
    out
}
