//! Special tokens as the files beside tokenizer.json name them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Names of special tokens (`bos_token`, `eos_token`, …) and the text of each.
pub type SpecialTokens = BTreeMap<String, String>;

fn text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content").and_then(Value::as_str))
}

/// Named special tokens; tokenizer_config.json has the last word over the older special_tokens_map.json.
pub(super) fn named(special_map: &Value, tokenizer_config: &Value) -> SpecialTokens {
    let mut tokens = SpecialTokens::new();
    for source in [special_map, tokenizer_config] {
        for (name, value) in source.as_object().into_iter().flatten().filter(|(name, _)| name.ends_with("_token")) {
            if let Some(text) = text(value) {
                tokens.insert(name.clone(), text.to_owned());
            }
        }
    }
    tokens
}

/// The text of every token that transformers takes whole, whichever of the three files names it.
pub(super) fn all(special_map: &Value, tokenizer_config: &Value, added_tokens: &Value) -> BTreeSet<String> {
    let mut all: BTreeSet<String> = named(special_map, tokenizer_config).into_values().collect();
    for source in [special_map, tokenizer_config] {
        for key in ["additional_special_tokens", "extra_special_tokens", "added_tokens_decoder"] {
            let texts: Vec<&str> = match source.get(key) {
                Some(Value::Array(list)) => list.iter().filter_map(text).collect(),
                Some(Value::Object(map)) => map.values().filter_map(text).collect(),
                _ => Vec::new(),
            };
            all.extend(texts.into_iter().map(str::to_owned));
        }
    }
    all.extend(added_tokens.as_object().into_iter().flatten().map(|(text, _)| text.clone()));
    all.remove("");
    all
}
