//! The prompt file of an interview, and how custom variants override it:
//!
//! ```yaml
//! briefing: You are the steward of …
//! variants:
//!   baseline:
//!     name: Baseline (Explicit Conflict)
//!     tone: neutral
//!     prompts: ["…", "…"]
//! ```

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::{
    describe,
    fields::{Fields, Reader},
    nearest::nearest,
    parse,
    projection::RESERVED_LABELS,
    read_text,
    tree::{Entry, Node, Value},
};

/// One framing of the interview.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    /// Safe as a file name, unique whatever its case.
    pub id: String,
    /// For people.
    pub name: String,
    /// What the framing does, for people.
    pub tone: Option<String>,
    /// At least one.
    pub prompts: Vec<String>,
}

/// What a prompt set holds.
pub struct PromptSet {
    pub briefing: String,
    pub variants: Vec<Variant>,
}

/// Reads a prompt set; its problems are reported with the places in its own file.
pub fn load(outer: &Reader<'_>, path: &Path) -> Option<PromptSet> {
    let file = path.display().to_string();
    let parsed = read_text(path).map_err(|problem| vec![problem]).and_then(|text| parse(&text, path));
    let (mut root, repeated) = match parsed {
        Ok(parsed) => parsed,
        Err(problems) => {
            outer.absorb_file(problems, Vec::new());
            return None;
        }
    };
    root.name_paths(String::new());
    let reader = Reader::new(&file, path.parent().unwrap_or(Path::new("")));
    reader.absorb(repeated);
    let set = Fields::open(&reader, &root).and_then(|mut fields| {
        let briefing = fields.required("briefing", "briefing: You are the steward of …", |n| reader.filled_text(n));
        let variants = fields.required("variants", "variants: {baseline: {name: Baseline, prompts: [\"…\"]}}", |n| {
            variants(&reader, n)
        });
        fields.finish();
        Some(PromptSet { briefing: briefing?, variants: variants? })
    });
    let (problems, notes) = reader.finish();
    let set = set.filter(|_| problems.is_empty());
    outer.absorb_file(problems, notes);
    set
}

/// A mapping from ids to variants, in its order.
pub fn variants(reader: &Reader<'_>, node: &Node) -> Option<Vec<Variant>> {
    let Value::Map(entries) = &node.value else {
        let what = format!("variants must be a mapping of ids to variants, found {}", describe::found(node));
        reader.refuse(node, what, "write baseline: {name: Baseline, prompts: [\"…\", \"…\"]}");
        return None;
    };
    if entries.is_empty() {
        reader.refuse(node, "there is no variant here", "write baseline: {name: Baseline, prompts: [\"…\", \"…\"]}");
        return None;
    }
    let mut good = true;
    for (i, entry) in entries.iter().enumerate() {
        // The same id twice is refused where the tree is built.
        if let Some(first) = entries[..i].iter().find(|earlier| earlier.key.eq_ignore_ascii_case(&entry.key)) {
            let what = format!("the variants `{}` and `{}` differ only in case", first.key, entry.key);
            reader.refuse(&entry.node, what, "runs are filed by variant: give each its own id");
            good = false;
        }
    }
    let variants: Vec<Option<Variant>> = entries.iter().map(|entry| variant(reader, entry)).collect();
    variants.into_iter().collect::<Option<Vec<_>>>().filter(|_| good)
}

fn variant(reader: &Reader<'_>, entry: &Entry) -> Option<Variant> {
    let mut key = Node::new(Value::Text(entry.key.clone()), entry.key_origin.clone());
    key.path = entry.node.path.clone();
    let id = reader.file_name(&key);
    if RESERVED_LABELS.contains(&entry.key.to_lowercase().as_str()) {
        let what = format!("the variant `{}` is taken: the results have a file of that name", entry.key);
        reader.refuse(&key, what, "choose another id");
        return None;
    }
    let mut fields = Fields::open(reader, &entry.node)?;
    let name = fields.required("name", "name: My Custom Variant", |n| reader.filled_text(n));
    let tone = fields.maybe("tone", |n| reader.filled_text(n));
    let prompts =
        fields.required("prompts", "prompts: [\"…\"]", |n| reader.list(n, |prompt| reader.filled_text(prompt)));
    fields.finish();
    Some(Variant { id: id?, name: name?, tone: tone?, prompts: prompts? })
}

/// Custom variants take the place of those with their id, or come last.
pub fn with_custom(mut variants: Vec<Variant>, custom: Vec<Variant>) -> Vec<Variant> {
    for own in custom {
        match variants.iter_mut().find(|variant| variant.id.eq_ignore_ascii_case(&own.id)) {
            Some(variant) => *variant = own,
            None => variants.push(own),
        }
    }
    variants
}

/// The variants that a list names, in its order.
pub fn chosen(reader: &Reader<'_>, node: &Node, known: &[Variant]) -> Option<Vec<Variant>> {
    let ids = || known.iter().map(|variant| variant.id.as_str());
    let pick = |n: &Node| {
        let id = reader.filled_text(n)?;
        if let Some(variant) = known.iter().find(|variant| variant.id == id.trim()) {
            return Some((n.clone(), variant.clone()));
        }
        let all = ids().collect::<Vec<_>>().join(", ");
        let hint = match nearest(&id, ids()) {
            Some(near) => format!("did you mean `{near}`? There are {all}"),
            None => format!("there are {all}"),
        };
        reader.refuse(n, format!("there is no variant `{}`", describe::short(&id)), hint);
        None
    };
    let chosen = reader.one_or_list(node, pick)?;
    for (i, (n, variant)) in chosen.iter().enumerate() {
        if chosen[..i].iter().any(|(_, earlier)| earlier.id == variant.id) {
            reader.refuse(
                n,
                format!("`{}` is listed twice", variant.id),
                "remove one; runs_per_variant says how often",
            );
        }
    }
    Some(chosen.into_iter().map(|(_, variant)| variant).collect())
}
