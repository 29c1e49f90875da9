//! Limits of what a template may cost, checked in its source before it is compiled. A chain of operators becomes a tree as deep as the
//! chain is long, which the compiler walks by recursion.

use tiltmeter_model::problem::Problem;

/// The largest published templates have some 20 kB.
const MAX_BYTES: usize = 1 << 20;
/// Operators, dots, filters and brackets in one tag.
const MAX_OPERATORS: usize = 1500;
/// Branches of one template: each `elif` is a level of its own.
const MAX_BRANCHES: usize = 500;
/// Instructions of one rendering. A conversation of a thousand turns takes some hundred thousand.
pub(super) const FUEL: u64 = 20_000_000;
/// Of one prompt.
pub(super) const MAX_OUTPUT: usize = 64 << 20;

/// # Errors
/// A source that is too long or too deep.
pub(super) fn check(source: &str) -> Result<(), Problem> {
    let too_much = |what: String, line: usize| {
        Err(Problem::new(format!("the chat template is refused: {what}"))
            .at(format!("chat template, line {line}"))
            .hint("put a simpler chat_template.jinja beside the weights"))
    };
    if source.len() > MAX_BYTES {
        return too_much(format!("it has {} bytes; at most {MAX_BYTES} are compiled", source.len()), 1);
    }
    let bytes = source.as_bytes();
    let (mut at, mut branches) = (0, 0);
    while let Some(start) = source[at..].find('{').map(|found| at + found) {
        let close = match bytes.get(start + 1) {
            Some(b'{') => "}}",
            Some(b'%') => "%}",
            _ => {
                at = start + 1;
                continue;
            }
        };
        let (operators, end) = operators(&source[start + 2..], close);
        let line = || 1 + bytes[..start].iter().filter(|byte| **byte == b'\n').count();
        if operators > MAX_OPERATORS {
            return too_much(format!("a tag has more than {MAX_OPERATORS} operators"), line());
        }
        let tag = source[start + 2..].trim_start_matches(['-', '+']).trim_start();
        branches += usize::from(close == "%}" && tag.starts_with("elif"));
        if branches > MAX_BRANCHES {
            return too_much(format!("it has more than {MAX_BRANCHES} `elif`"), line());
        }
        at = start + 2 + end;
    }
    Ok(())
}

/// Operators up to the end of the tag, outside of texts, and where that end is.
fn operators(tag: &str, close: &str) -> (usize, usize) {
    let mut quote = None;
    let mut escaped = false;
    let mut count = 0;
    let mut word = 0;
    for (i, c) in tag.char_indices() {
        if let Some(open) = quote {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                _ if c == open => quote = None,
                _ => {}
            }
            continue;
        }
        if tag[i..].starts_with(close) {
            return (count, i);
        }
        match c {
            '\'' | '"' => quote = Some(c),
            '+' | '-' | '*' | '/' | '~' | '|' | '.' | '[' | '(' | '{' | '<' | '>' | '=' | '%' => count += 1,
            // Words may be `and`, `or`, `not`, `in`, `is`, `if`.
            _ if c.is_whitespace() => word = i,
            _ if i == word + 1 => count += 1,
            _ => {}
        }
    }
    (count, tag.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_chains_are_refused_and_long_texts_are_not() {
        for chain in
            ["1+".repeat(20_000) + "1", "a|".repeat(2000) + "a", "not ".repeat(2000) + "a", "a.".repeat(2000) + "a"]
        {
            assert!(check(&format!("{{{{ {chain} }}}}")).unwrap_err().what.contains("operators"));
        }
        assert!(check(&("{% if a %}".to_owned() + &"{% elif b %}".repeat(501) + "{% endif %}")).is_err());
        check(&format!("{{{{ '{}' }}}} {}", "+ ".repeat(5000), "{{ a + b }}".repeat(5000))).unwrap();
    }
}
