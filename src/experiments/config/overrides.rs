//! `--set key=value`: a dotted path into the tree (`sampling.temperature`, `conditions.0.label`) and its new value. A value that starts
//! with `[`, `{` or a quote is parsed as YAML; any other value is a plain scalar, so that `--set conditions.0.system_prompt=Reminder: be
//! kind` needs no YAML quotes.

use super::{
    describe,
    tree::{self, Entry, Node, Origin, Value},
};
use tiltmeter_model::problem::Problem;

/// Puts every override into the tree; a later one wins over an earlier one.
pub(super) fn apply(root: &mut Node, overrides: &[(String, String)]) -> Vec<Problem> {
    overrides.iter().filter_map(|(key, value)| set(root, key, value).err()).collect()
}

fn set(root: &mut Node, key: &str, text: &str) -> Result<(), Problem> {
    let argument = format!("{key}={text}");
    let origin = Origin::Set(argument.clone());
    let problem = |what: String| Problem::new(what).at(describe::place("", &origin, ""));
    let value = value_of(text, &origin)?;
    if key.split('.').any(|part| part.trim().is_empty()) {
        return Err(
            problem("the key is empty".into()).hint("write --set key=value, as in --set sampling.temperature=0.7")
        );
    }
    let mut node = root;
    for part in key.split('.').map(str::trim) {
        if node.value == Value::Null {
            // `sampling:` with nothing below it, or a mapping that the file leaves out.
            *node = Node::new(Value::Map(Vec::new()), origin.clone());
        }
        let found = describe::found(node);
        node = match &mut node.value {
            Value::Map(entries) => {
                let at = entries.iter().position(|entry| entry.key == part).unwrap_or_else(|| {
                    let missing = Node::new(Value::Null, origin.clone());
                    entries.push(Entry { key: part.to_string(), key_origin: origin.clone(), node: missing });
                    entries.len() - 1
                });
                &mut entries[at].node
            }
            Value::List(items) => {
                let n = items.len();
                let entry = part.parse::<usize>().ok().and_then(|i| items.get_mut(i));
                entry.ok_or_else(|| {
                    problem(format!("`{part}` names no entry of a list of {n}")).hint(match n {
                        0 => "the list is empty".to_string(),
                        _ => format!("entries count from 0: use 0 to {}", n - 1),
                    })
                })?
            }
            _ => {
                let what = format!("there is nothing below {found}: `{part}` cannot be set");
                return Err(problem(what).hint("leave the last part of the key out"));
            }
        };
    }
    *node = value;
    Ok(())
}

fn value_of(text: &str, origin: &Origin) -> Result<Node, Problem> {
    let trimmed = text.trim();
    if !trimmed.starts_with(['[', '{', '"', '\'']) {
        return Ok(Node::new(tree::plain(trimmed), origin.clone()));
    }
    let read = tree::from_yaml(trimmed, "value").and_then(|(node, repeated)| match repeated.is_empty() {
        true => Ok(node),
        false => Err(repeated.into_iter().map(|repeated| repeated.problem).collect()),
    });
    match read {
        Ok(mut node) => {
            relocate(&mut node, origin);
            Ok(node)
        }
        Err(problems) => {
            let what = problems.first().map_or("not a YAML value", |problem| &problem.what);
            Err(Problem::new(what)
                .at(describe::place("", origin, ""))
                .hint("close every bracket and quote, and put the whole --set in quotes for the shell"))
        }
    }
}

/// A line and column inside an argument would read like one in the file.
fn relocate(node: &mut Node, origin: &Origin) {
    node.origin = origin.clone();
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| relocate(item, origin)),
        Value::Map(entries) => entries.iter_mut().for_each(|entry| {
            entry.key_origin = origin.clone();
            relocate(&mut entry.node, origin);
        }),
        _ => {}
    }
}
