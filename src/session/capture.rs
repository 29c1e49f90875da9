//! Writes the hidden states of one conversation to a safetensors file.

use std::path::PathBuf;

use super::ModelOptions;
use crate::registry::open_local;
use tiltmeter_experiments::config::transcript;
use tiltmeter_model::probe::Site;
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{Finish, Message, Model, Rendered, Sampling, SeedKey};
use tiltmeter_store::{Tensor, TensorData, write_tensors};

/// The conversation and the states to capture.
#[derive(Clone, Debug)]
pub struct CaptureRequest {
    pub model: String,
    /// JSON: a list of messages, or `{"conversation": [...]}`.
    pub messages: PathBuf,
    /// `None`: every site.
    pub sites: Option<Vec<Site>>,
    pub with_logits: bool,
    pub max_new_tokens: usize,
    pub temperature: f64,
    pub seed: u64,
    pub out: PathBuf,
}

/// Result of a capture.
pub struct Captured {
    pub prompt: Rendered,
    pub reply: String,
    pub generated: usize,
    pub finish: Finish,
    pub sites: Vec<Site>,
}

/// Continues a conversation and writes `input_ids`, `generated_ids`, one `[tokens, hidden]` f32 per site and, if asked for,
/// `logits` `[tokens, vocab]`, where tokens = prompt + generated.
pub async fn capture(request: &CaptureRequest, options: &ModelOptions) -> Result<Captured, Vec<Problem>> {
    let messages = transcript::load_messages(&request.messages)?;
    states(request, &messages, options).await.map_err(|problem| vec![problem])
}

async fn states(request: &CaptureRequest, messages: &[Message], options: &ModelOptions) -> Result<Captured, Problem> {
    let model = open_local(&request.model, options.device, &options.engine)?;
    let config = model.config();
    let sites = request.sites.clone().unwrap_or_else(|| Site::all(config.arch.num_layers()));
    sites.iter().try_for_each(|site| site.check(config.arch.num_layers()))?;
    let sampling = Sampling { temperature: request.temperature, ..Sampling::default() };
    let seed = SeedKey { key: request.seed, stream: 0 };
    let captured = model
        .capture(messages, sites.clone(), request.with_logits, request.max_new_tokens, sampling, seed)
        .await
        .map_err(|error| error.problem())?;
    let (prompt, raw) = (captured.prompt, captured.raw);
    let tokens = prompt.token_ids.len() + captured.generated_ids.len();
    let ids = |name: &str, ids: &[u32]| {
        Tensor::new(name, [ids.len()], TensorData::I64(ids.iter().map(|&id| i64::from(id)).collect()))
    };
    let mut tensors = vec![ids("input_ids", &prompt.token_ids), ids("generated_ids", &captured.generated_ids)];
    for (site, states) in sites.iter().zip(raw.states) {
        tensors.push(Tensor::new(site.to_string(), [tokens, config.arch.hidden_size], TensorData::F32(states)));
    }
    if request.with_logits {
        tensors.push(Tensor::new("logits", [tokens, config.arch.vocab_size], TensorData::F32(raw.logits)));
    }
    let fingerprint = model.card().fingerprint.clone().unwrap_or_default();
    let texts = [("format", "tiltmeter-capture-v1"), ("model", &request.model), ("model_fingerprint", &fingerprint)];
    write_tensors(&request.out, &texts, &tensors)?;
    Ok(Captured {
        prompt,
        reply: captured.reply,
        generated: captured.generated_ids.len(),
        finish: captured.finish,
        sites,
    })
}
