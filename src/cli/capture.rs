//! `capture`: saves the hidden states of a conversation.

use std::{path::PathBuf, time::Instant};

use clap::Args;

use super::{
    Exit, Failure,
    args::{DtypeChoice, parse_count, parse_device, parse_site, parse_temperature},
    terminal::{counted, escape, path_text, runtime, stdout},
};
use crate::session::{self, CaptureRequest, Device, EngineOptions, KvType, ModelOptions, WeightType};
use tiltmeter_model::Site;

/// Save the hidden states of a conversation, one tensor per site.
///
/// With --max-new-tokens the model also generates a reply, whose hidden states are captured too.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter capture data/models/quay --messages talk.json --logits --out talk.safetensors
  tiltmeter capture data/models/quay --messages talk.json --sites embed --out embed.safetensors
  tiltmeter capture data/models/quay --messages talk.json --max-new-tokens 32 --out b.safetensors")]
pub struct CaptureArgs {
    /// Model folder or Hugging Face model id
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// JSON file: a list of {role, content}, or {"conversation": [...]}
    #[arg(long, value_name = "FILE")]
    pub messages: PathBuf,
    /// `all`, or a comma-separated list of embed, block.{i}.out, final_norm
    #[arg(long, value_name = "SITES", default_value = "all", value_parser = parse_sites)]
    pub sites: SitesChoice,
    /// Also save the logits
    #[arg(long)]
    pub logits: bool,
    /// Also generate a reply of at most N tokens
    #[arg(long, value_name = "N", value_parser = parse_count, allow_negative_numbers = true)]
    pub max_new_tokens: Option<usize>,
    /// Temperature of the reply; 0 is greedy
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = parse_temperature, allow_negative_numbers = true)]
    pub temperature: f64,
    /// Seed of the reply
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
    /// Data type of the weights [default: that of the checkpoint]
    #[arg(long, value_enum)]
    pub dtype: Option<DtypeChoice>,
    /// Data type of the KV cache [default: bf16 if the weights are bf16, else f32]
    #[arg(long, value_enum)]
    pub kv: Option<DtypeChoice>,
    /// Device: auto (a GPU if available), cpu, cuda (the first GPU) or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = parse_device)]
    pub device: Device,
    /// File to write
    #[arg(long, value_name = "FILE.safetensors")]
    pub out: PathBuf,
}

/// `--sites`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SitesChoice {
    /// Every site of the model.
    All,
    /// In this order.
    List(Vec<Site>),
}

fn parse_sites(text: &str) -> Result<SitesChoice, String> {
    if text.trim() == "all" {
        return Ok(SitesChoice::All);
    }
    text.split(',').map(|site| parse_site(site.trim())).collect::<Result<_, _>>().map(SitesChoice::List)
}

pub(super) fn execute(args: CaptureArgs) -> Result<Exit, Failure> {
    let (weights, kv) = (args.dtype.map(WeightType::from), args.kv.map(KvType::from));
    let engine = EngineOptions { weights, kv, ..Default::default() };
    let models = ModelOptions { device: args.device, engine, ..Default::default() };
    let request = CaptureRequest {
        model: args.model,
        messages: args.messages,
        sites: match args.sites {
            SitesChoice::All => None,
            SitesChoice::List(sites) => Some(sites),
        },
        with_logits: args.logits,
        max_new_tokens: args.max_new_tokens.unwrap_or(0),
        temperature: args.temperature,
        seed: args.seed,
        out: args.out,
    };
    tiltmeter_store::check_output(&request.out)?;
    let started = Instant::now();
    let captured = runtime()?.block_on(session::capture(&request, &models))?;
    let prompt_tokens = counted(captured.prompt.token_ids.len() as u64, "token");
    stdout(&format!("prompt ({prompt_tokens})\n{}\n", escape(&captured.prompt.text)))?;
    if captured.generated > 0 {
        let reply_tokens = counted(captured.generated as u64, "token");
        stdout(&format!("reply ({reply_tokens})\n{}\n", escape(&captured.reply)))?;
    }
    let sites = counted(captured.sites.len() as u64, "site");
    stdout(&format!("wrote {} ({sites}, {:.1} s)\n", path_text(&request.out), started.elapsed().as_secs_f64()))?;
    Ok(Exit::Done)
}
