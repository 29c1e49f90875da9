//! Opens models by name. The only module that knows both the engine and the providers.

use std::sync::Arc;

use regex::Regex;

use tiltmeter_engine::{checkpoint::hub::Checkpoint, families::ModelConfig};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::secret::Keys;
use tiltmeter_model::{ModelError, ScriptedModel};
use tiltmeter_providers::{ApiModel, ApiName, price};

pub use tiltmeter_engine::{
    Bench, BenchModel, BenchRequest, Device, EngineOptions, KvType, LocalModel, Rollouts, WeightType, bench,
};
pub use tiltmeter_providers::{ApiOptions, LanePreset, Price, PriceNote};

/// Opens a folder or a hub id; `local/` before a path is allowed, so that a path cannot be taken for a provider's model.
pub fn open_local(name: &str, device: Device, options: &EngineOptions) -> Result<Arc<LocalModel>, Problem> {
    LocalModel::open(path_of(name), &EngineOptions { device, ..*options }).map(Arc::new)
}

fn path_of(name: &str) -> &str {
    name.strip_prefix("local/").unwrap_or(name)
}

/// Whether the name is of a model behind an API: `provider/model`. `local/` before it makes it a path or a hub id.
pub fn is_api(name: &str) -> bool {
    ApiName::parse(name).is_some()
}

/// Opens a model behind an API: checks its name, key and address, and sends nothing.
pub fn open_api(name: &str, keys: &Keys, options: ApiOptions) -> Result<Arc<ApiModel>, Problem> {
    ApiModel::open(name, keys, options).map(Arc::new)
}

/// What a model's files say of it without loading its weights.
pub struct ModelFacts {
    pub num_layers: usize,
    /// `sha256:<hex>`
    pub fingerprint: String,
}

/// Reads the configuration and hashes the weights.
pub fn model_facts(name: &str) -> Result<ModelFacts, Problem> {
    let checkpoint = Checkpoint::open(name)?;
    let config = ModelConfig::parse(&checkpoint.config, checkpoint.generation_config.as_deref())?;
    Ok(ModelFacts { num_layers: config.arch.num_layers(), fingerprint: checkpoint.fingerprint()?.value })
}

/// What is known of a provider's model before its first call.
pub struct ApiFacts {
    /// Calls that share a limit share a lane.
    pub lane: String,
    pub preset: LanePreset,
    pub price: Option<PriceNote>,
}

/// `None`: not the name of a provider's model.
pub fn api_facts(name: &str) -> Option<ApiFacts> {
    let name = ApiName::parse(name)?;
    Some(ApiFacts { lane: name.lane(), preset: name.lane_preset(), price: price(&name) })
}

/// A model that answers by rules: the reply of the first whose pattern matches the last message, or has none.
pub fn open_scripted(rules: &[(Option<String>, String)]) -> Result<Arc<ScriptedModel>, Problem> {
    let mut compiled = Vec::new();
    for (when, reply) in rules {
        let pattern = when.as_deref().map(Regex::new).transpose().map_err(|error| {
            Problem::new(format!("not a regular expression: {error}")).at("the script of a scripted model")
        })?;
        compiled.push((pattern, reply.clone()));
    }
    Ok(Arc::new(ScriptedModel::new("scripted", move |request| {
        let last = request.messages.last().map_or("", |message| message.content.as_str());
        let rule = compiled.iter().find(|(when, _)| when.as_ref().is_none_or(|pattern| pattern.is_match(last)));
        rule.map(|(_, reply)| reply.clone()).ok_or_else(|| {
            ModelError::Refused(
                Problem::new("no rule of the script matches").hint("end the script with a rule that has no `when`"),
            )
        })
    })))
}
