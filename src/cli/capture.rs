//! Owns the arguments of `capture`.
//! Must not know: inference, HTTP.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{
    parse_count, parse_site, parse_temperature,
    run::{DeviceChoice, parse_device},
};
use crate::session::{KvType, WeightType};
use tiltmeter_model::probe::Site;

/// Save the hidden states of a conversation, one tensor a site.
///
/// Reads the conversation in one pass; with --max-new-tokens the model also answers it, and the answer is captured too.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter capture data/models/quay --messages talk.json --logits --out talk.safetensors
  tiltmeter capture data/models/quay --messages talk.json --sites embed --out embed.safetensors
  tiltmeter capture data/models/quay --messages talk.json --max-new-tokens 32 --out b.safetensors")]
pub struct CaptureArgs {
    /// Model: a name on the hub, or a folder
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// JSON file: a list of {role, content}, or {"conversation": [...]}
    #[arg(long, value_name = "FILE")]
    pub messages: PathBuf,
    /// `all`, or sites with commas between: embed, block.{i}.out, final_norm
    #[arg(long, value_name = "SITES", default_value = "all", value_parser = parse_sites)]
    pub sites: SitesChoice,
    /// Save the logits too
    #[arg(long)]
    pub logits: bool,
    /// Let the model answer with at most this many tokens
    #[arg(long, value_name = "N", value_parser = parse_count, allow_negative_numbers = true)]
    pub max_new_tokens: Option<usize>,
    /// Temperature of the answer; 0 is greedy
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = parse_temperature, allow_negative_numbers = true)]
    pub temperature: f64,
    /// Seed of the answer
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
    /// Precision of the weights [default: as the model was saved]
    #[arg(long, value_enum)]
    pub dtype: Option<DtypeChoice>,
    /// Precision in which keys and values are kept [default: bf16 if the weights are, else f32]
    #[arg(long, value_enum)]
    pub kv: Option<DtypeChoice>,
    /// Where the model runs: cpu, cuda (the first GPU), cuda:N, or auto, which is a GPU if there is one
    #[arg(long, value_name = "DEVICE", default_value_t, value_parser = parse_device)]
    pub device: DeviceChoice,
    /// File to write
    #[arg(long, value_name = "FILE.safetensors")]
    pub out: PathBuf,
}

/// Which sites to save.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SitesChoice {
    /// Every site of the model.
    All,
    /// These, in this order.
    These(Vec<Site>),
}

/// A precision of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DtypeChoice {
    /// 32-bit floats
    F32,
    /// bfloat16
    Bf16,
}

impl From<DtypeChoice> for WeightType {
    fn from(choice: DtypeChoice) -> Self {
        match choice {
            DtypeChoice::F32 => Self::F32,
            DtypeChoice::Bf16 => Self::Bf16,
        }
    }
}

impl From<DtypeChoice> for KvType {
    fn from(choice: DtypeChoice) -> Self {
        match choice {
            DtypeChoice::F32 => Self::F32,
            DtypeChoice::Bf16 => Self::Bf16,
        }
    }
}

fn parse_sites(text: &str) -> Result<SitesChoice, String> {
    if text.trim() == "all" {
        return Ok(SitesChoice::All);
    }
    text.split(',').map(|site| parse_site(site.trim())).collect::<Result<_, _>>().map(SitesChoice::These)
}
