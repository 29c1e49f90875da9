//! Typed access to config.json and generation_config.json. A value of the wrong type is an error, never a default.

use serde_json::{Map, Value};

use tiltmeter_model::problem::Problem;

/// A JSON object of a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct ConfigJson(Map<String, Value>);

impl ConfigJson {
    /// # Errors
    /// Text that is not a JSON object.
    pub fn parse(text: &str, file: &str) -> Result<Self, Problem> {
        match serde_json::from_str::<Value>(text) {
            Ok(Value::Object(json)) => Ok(Self(json)),
            Ok(_) => Err(damaged(format!("{file} holds no JSON object")).at(file)),
            Err(error) => Err(damaged(format!("{file} is not valid JSON: {error}")).at(file)),
        }
    }

    /// The value of a key; null counts as absent.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Whether a key is there, null or not.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }

    pub fn optional_size(&self, key: &str) -> Result<Option<usize>, Problem> {
        let Some(value) = self.get(key) else { return Ok(None) };
        // No dimension of a model comes near 2³¹; a larger one would only overflow a product later.
        match value.as_u64().filter(|&n| (1..1 << 31).contains(&n)) {
            Some(n) => Ok(Some(n as usize)),
            None => Err(damaged(format!("`{key}` is {value}, not a positive count"))),
        }
    }

    pub fn size(&self, key: &str) -> Result<usize, Problem> {
        self.optional_size(key)?.ok_or_else(|| missing(key))
    }

    pub fn optional_positive(&self, key: &str) -> Result<Option<f64>, Problem> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64().filter(|x| x.is_finite() && *x > 0.0) {
            Some(x) => Ok(Some(x)),
            None => Err(damaged(format!("`{key}` is {value}, not a positive number"))),
        }
    }

    pub fn positive(&self, key: &str) -> Result<f64, Problem> {
        self.optional_positive(key)?.ok_or_else(|| missing(key))
    }

    /// False where absent.
    pub fn flag(&self, key: &str) -> Result<bool, Problem> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(value) => Err(damaged(format!("`{key}` is {value}, neither true nor false"))),
        }
    }

    pub fn object(&self, key: &str) -> Result<Option<ConfigJson>, Problem> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Self(object.clone()))),
            Some(_) => Err(damaged(format!("`{key}` is not an object"))),
        }
    }

    /// The ids of `eos_token_id`, which is one id or a list.
    pub fn eos_ids(&self) -> Result<Vec<u32>, Problem> {
        let id = |value: &Value| {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| damaged(format!("`eos_token_id` holds {value}, which is no token id")))
        };
        match self.get("eos_token_id") {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(value) => Ok(vec![id(value)?]),
        }
    }

    /// generation_config.json's sampling parameters; `None` if it has none.
    pub fn sampling_parameters(&self) -> Option<Value> {
        let other = |key: &str| {
            key.starts_with('_') || key.ends_with("_token_id") || ["transformers_version", "use_cache"].contains(&key)
        };
        let kept: Map<_, _> =
            self.0.iter().filter(|(key, _)| !other(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
        (!kept.is_empty()).then_some(Value::Object(kept))
    }
}

fn missing(key: &str) -> Problem {
    damaged(format!("`{key}` is missing"))
}

/// The problem of a configuration that contradicts itself or lacks something.
pub fn damaged(what: String) -> Problem {
    Problem::new(what).hint("the checkpoint is damaged or incomplete: fetch its config.json again")
}
