//! Extracts a JSON object from a model's reply: the whole reply, a fenced block, or the first balanced object. A truncated object is an
//! error; its inner objects do not count.

use serde_json::{Deserializer, Map, Value};

use tiltmeter_model::problem::Problem;

/// The JSON object that a reply is or holds.
pub fn object(reply: &str) -> Result<Map<String, Value>, Problem> {
    let text = reply.trim();
    if text.is_empty() {
        return Err(Problem::new("the reply is empty where a JSON object was asked for"));
    }
    if let Ok(Value::Object(object)) = serde_json::from_str(text) {
        return Ok(object);
    }
    if let Some(Ok(Value::Object(object))) = fenced(text).map(serde_json::from_str) {
        return Ok(object);
    }
    for (start, _) in text.match_indices('{') {
        match Deserializer::from_str(&text[start..]).into_iter::<Value>().next() {
            Some(Ok(Value::Object(object))) => return Ok(object),
            Some(Err(error)) if error.is_eof() => {
                return Err(Problem::new(format!(
                    "the JSON object of the reply is cut off: {}",
                    excerpt(&text[start..])
                ))
                .hint("allow longer replies"));
            }
            // A brace that begins no JSON.
            _ => {}
        }
    }
    Err(Problem::new(format!("the reply holds no JSON object: {}", excerpt(text))))
}

/// What stands in the first fenced block.
fn fenced(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("```")?;
    // The rest of the fence's line names a language.
    let (_, rest) = rest.split_once('\n')?;
    let (inside, _) = rest.split_once("```")?;
    Some(inside.trim())
}

/// The beginning of a text, on one line and in quotes.
pub fn excerpt(text: &str) -> String {
    const LONGEST: usize = 160;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown: String = line.chars().filter(|c| !c.is_control()).take(LONGEST).collect();
    let more = if line.chars().count() > LONGEST { "…" } else { "" };
    format!("\"{shown}{more}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn found(reply: &str) -> String {
        Value::Object(object(reply).unwrap()).to_string()
    }

    #[test]
    fn the_whole_reply_a_fenced_block_or_the_first_balanced_object() {
        assert_eq!(found("  {\"a\": 1}\n"), r#"{"a":1}"#);
        assert_eq!(found("Here it is:\n```json\n{\"a\": {\"b\": \"}\"}}\n```\nDone."), r#"{"a":{"b":"}"}}"#);
        assert_eq!(found("```\n{\"a\": 1}\n```"), r#"{"a":1}"#);
        assert_eq!(found("I use {braces} like {this}: {\"a\": \"\\\"}\"} and {\"b\": 2}"), r#"{"a":"\"}"}"#);
        assert_eq!(found("```json\nnot json\n```\n{\"a\": 1}"), r#"{"a":1}"#);
    }

    #[test]
    fn what_is_cut_off_is_said_to_be_and_its_inner_objects_do_not_count() {
        for cut in ["{\"a\": {\"b\": 1}", "```json\n{\"a\": {\"b\": 1}, \"c\": \"so", "Well: {\"a\": [1, 2", "{"] {
            assert!(object(cut).unwrap_err().what.contains("cut off"), "{cut}");
        }
    }

    #[test]
    fn no_object_is_an_error() {
        for none in ["", " \n", "no", "[1, 2]", "\"text\"", "{braces}", "{'a': 1}", "{\"a\": NaN}"] {
            assert!(object(none).is_err(), "{none}");
        }
        assert!(object(&"[{".repeat(100_000)).is_err());
        assert!(object(&"{".repeat(100_000)).is_err());
        assert!(excerpt(&"word ".repeat(100)).ends_with("…\""));
    }
}
