//! Owns the way from a model's name to a model. The only file that knows both engines and providers.
//! Must not know: runs, YAML.

use std::sync::Arc;

use crate::engine::{config::ModelConfig, hub::Checkpoint};
use crate::problem::Problem;
use crate::provider::{ApiModel, ApiOptions, Keys};

pub use crate::engine::{EngineOptions, LocalModel, WeightType};

/// Where a local model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The best there is in this build: today the CPU.
    #[default]
    Auto,
    Cpu,
    Cuda,
}

/// Opens a folder or a hub id; `local/` before a path is allowed, so that a path cannot be taken for a provider's model.
pub fn open_local(name: &str, device: Device, options: &EngineOptions) -> Result<Arc<LocalModel>, Problem> {
    if device == Device::Cuda {
        return Err(Problem::new("this build has no GPU engine").hint("use --device cpu"));
    }
    LocalModel::open(name.strip_prefix("local/").unwrap_or(name), options).map(Arc::new)
}

/// Whether the name is of a model behind an API: `provider/model`. `local/` before it makes it a path or a hub id.
pub fn is_api(name: &str) -> bool {
    crate::provider::parse_name(name).is_some()
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
    Ok(ModelFacts { num_layers: config.num_layers, fingerprint: checkpoint.fingerprint()?.value })
}
