//! Parts of frozen plans that kinds share.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use tiltmeter_model::probe::{Axis, Site};
use tiltmeter_model::{ModelCard, SeedSupport};

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

    /// Name of the axis' series: `<axis>@<site>`.
    pub fn series(&self) -> String {
        format!("{}@{}", self.name, self.site)
    }
}

/// A judge as the plan names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgePlan {
    #[serde(flatten)]
    pub model: ModelPlan,
    pub instructions: String,
    /// JSON schema of the verdict; `None` if the judge is asked for JSON in words alone.
    pub schema: Option<Value>,
    pub temperature: f64,
    pub max_new_tokens: usize,
}

/// A label with a fixed set of values, shown as a distribution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CategoryPlan {
    pub label: String,
    pub title: Option<String>,
    pub menu: Vec<String>,
}
