//! Parts of frozen plans that kinds share.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use tiltmeter_model::probe::{Axis, Site, Span};
use tiltmeter_model::{ModelCard, Sampling, SeedSupport};
use tiltmeter_report::{Against, Factor};

/// A model as the plan names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelPlan {
    pub name: String,
    pub family: String,
    /// `sha256:<hex>` of the weights; `None` for a model behind an API.
    pub fingerprint: Option<String>,
    pub template_sha256: Option<String>,
    pub dtype: Option<String>,
    pub kv_dtype: Option<String>,
    pub stop_ids: Vec<u32>,
    #[serde(default)]
    pub base_url: Option<String>,
    /// Price, date and source; null for a model that costs nothing.
    #[serde(default)]
    pub price: Value,
    #[serde(default)]
    pub seed_support: Option<SeedSupport>,
}

impl ModelPlan {
    pub fn of(card: &ModelCard) -> Self {
        Self {
            name: card.name.clone(),
            family: card.family.clone(),
            fingerprint: card.fingerprint.clone(),
            template_sha256: card.template_sha256.clone(),
            dtype: card.dtype.clone(),
            kv_dtype: card.kv_dtype.clone(),
            stop_ids: card.stop_ids.clone(),
            base_url: None,
            price: Value::Null,
            seed_support: None,
        }
    }

    /// Name and, if known, hash of the weights, for the methods section.
    pub fn exact_name(&self) -> String {
        match &self.fingerprint {
            Some(fingerprint) => format!("{} (weights {fingerprint})", self.name),
            None => self.name.clone(),
        }
    }
}

/// An axis as the plan names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AxisPlan {
    /// As in the names of series.
    pub name: String,
    pub site: Site,
    /// Hash of the axis file.
    pub sha256: String,
    /// Mean projections of the negative and the positive examples.
    pub span: Option<(f64, f64)>,
    /// One position of a series, for example `message`; `None` is a turn.
    #[serde(default)]
    pub step: Option<String>,
}

impl AxisPlan {
    pub fn of(axis: &Axis) -> Self {
        Self {
            name: axis.name.clone(),
            site: axis.site,
            sha256: axis.sha256.clone(),
            span: axis.mean_neg.zip(axis.mean_pos),
            step: None,
        }
    }

    /// The axis under another name.
    pub fn named(axis: &Axis, name: String, step: Option<&str>) -> Self {
        Self { name, step: step.map(str::to_owned), ..Self::of(axis) }
    }

    /// Name of the axis' series: `<axis>@<site>`.
    pub fn series(&self) -> String {
        format!("{}@{}", self.name, self.site)
    }
}

/// `<axis> at <site>; …`, for the methods section.
pub fn axis_list(axes: &[AxisPlan]) -> String {
    axes.iter().map(|axis| format!("{} at {}", axis.name, axis.site)).collect::<Vec<_>>().join("; ")
}

/// The span as in the experiment file.
pub fn span_name(span: Span) -> String {
    let name = json!(span);
    name.as_str().map_or_else(|| name.to_string(), str::to_owned)
}

/// A judge as the plan names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgePlan {
    #[serde(flatten)]
    pub model: ModelPlan,
    pub instructions: String,
    /// JSON schema of the verdict; `None` if the judge is asked for JSON in words alone.
    pub schema: Option<Value>,
    /// 0, or null for a judge that takes no temperature.
    pub temperature: Option<f64>,
    pub max_new_tokens: usize,
}

impl JudgePlan {
    /// `temperature 0`, or what a judge has that takes none.
    pub fn at_temperature(&self) -> String {
        self.temperature.map_or_else(|| "its default temperature".to_owned(), |t| format!("temperature {t}"))
    }

    /// How the form of the verdict is enforced, for the methods section.
    pub fn form(&self) -> &'static str {
        if self.schema.is_none() { "asked for JSON in words" } else { "held to a JSON schema" }
    }
}

/// A label with a fixed set of values, shown as a distribution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CategoryPlan {
    pub label: String,
    pub title: Option<String>,
    pub menu: Vec<String>,
}

/// A metric that the report shows against a numeric factor and in a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResponsePlan {
    pub metric: String,
    pub title: String,
    pub unit: String,
    #[serde(default)]
    pub centred: bool,
    #[serde(default)]
    pub against: Option<Against>,
    #[serde(default)]
    pub by: Option<Factor>,
    #[serde(default)]
    pub rows: Option<Factor>,
    #[serde(default)]
    pub columns: Option<Factor>,
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Sampling settings as they are shown before a run.
pub fn describe_sampling(sampling: &Sampling) -> Vec<String> {
    let mut settings = vec![sampling.describe_temperature()];
    settings.extend(sampling.top_p.map(|p| format!("top_p {p}")));
    settings.extend(sampling.top_k.map(|k| format!("top_k {k}")));
    settings.extend(sampling.min_p.map(|p| format!("min_p {p}")));
    settings
}
