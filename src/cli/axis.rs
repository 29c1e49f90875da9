//! Owns the arguments of `axis show` and `axis import`.
//! Must not know: inference, HTTP.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{parse_count, parse_site};
use crate::probe::{LayerConvention, Site};

/// Look at axis files and import those of other tools.
#[derive(Clone, Debug, Subcommand)]
pub enum AxisCommand {
    Show(ShowArgs),
    Import(ImportArgs),
}

/// Show what an axis file holds.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter axis show data/axes/assistant.safetensors")]
pub struct ShowArgs {
    /// Axis file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// Import a direction from .pt, .npy, .npz or .safetensors.
///
/// Files of many layers do not say what their index counts: `block` means index i is after block i (from 0), `hidden_states` means
/// index i is Hugging Face's hidden_states[i]. It is never guessed.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter axis import assistant_axis.pt --index-base block --site block.20.out --out data/axes/assistant.safetensors
  tiltmeter axis import evil_response_avg_diff.pt --index-base hidden_states --site block.15.out --name evil --out evil.safetensors
  tiltmeter axis import vectors.npz --tensor warm --site final_norm --num-layers 32 --out warm.safetensors")]
pub struct ImportArgs {
    /// File to import
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What the first index of a file of many layers counts
    #[arg(long, value_enum, value_name = "BASE")]
    pub index_base: Option<IndexBase>,
    /// Which site to take, or where a single direction belongs
    #[arg(long, value_name = "SITE", value_parser = parse_site)]
    pub site: Option<Site>,
    /// Which tensor, where the file holds several
    #[arg(long, value_name = "NAME")]
    pub tensor: Option<String>,
    /// Name of the axis [default: the file's]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Model the direction was made from, recorded in the file
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Blocks of that model, where they cannot be told from the file
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub num_layers: Option<usize>,
    /// Axis file to write
    #[arg(long, value_name = "FILE.safetensors")]
    pub out: PathBuf,
}

/// What the first index of a file of many layers counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum IndexBase {
    /// Index i is the output of block i, counted from 0
    Block,
    /// Index i is hidden_states[i] of Hugging Face
    HiddenStates,
}

impl From<IndexBase> for LayerConvention {
    fn from(base: IndexBase) -> Self {
        match base {
            IndexBase::Block => LayerConvention::Block,
            IndexBase::HiddenStates => LayerConvention::HiddenStates,
        }
    }
}
