//! [`Site`]: a point of the residual stream. With blocks counted from 0, `block.{i}.out` is Hugging Face's `hidden_states[i + 1]` for
//! i < L - 1; `hidden_states[0]` is `embed` and `hidden_states[L]` is `final_norm`, so that no index yields `block.{L-1}.out`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// A point of the residual stream, written `embed`, `block.{i}.out` or `final_norm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Site {
    /// Token embeddings, before the first block.
    Embed,
    /// The residual stream after a decoder block.
    BlockOut(usize),
    /// After the final norm, before the head.
    FinalNorm,
}

/// How a layer number is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerConvention {
    /// `layer: i` is `block.{i}.out`.
    #[default]
    Block,
    /// `layer: i` is `hidden_states[i]` of Hugging Face.
    HiddenStates,
}

impl Site {
    /// The site of a layer number in a model of `num_layers` blocks.
    ///
    /// # Errors
    /// A layer the model does not have.
    pub fn from_layer(layer: usize, convention: LayerConvention, num_layers: usize) -> Result<Self, Problem> {
        let site = match convention {
            LayerConvention::Block => Site::BlockOut(layer),
            LayerConvention::HiddenStates if layer == 0 => Site::Embed,
            LayerConvention::HiddenStates if layer == num_layers => Site::FinalNorm,
            LayerConvention::HiddenStates => Site::BlockOut(layer - 1),
        };
        site.check(num_layers)?;
        Ok(site)
    }

    /// Checks that a model of `num_layers` blocks has this site.
    ///
    /// # Errors
    /// A block the model does not have.
    pub fn check(&self, num_layers: usize) -> Result<(), Problem> {
        match *self {
            Site::BlockOut(i) if i >= num_layers => Err(Problem::new(format!(
                "{self} does not exist: the model has {num_layers} blocks"
            ))
            .hint(format!("blocks count from 0, so the last one is block.{}.out", num_layers.saturating_sub(1)))),
            _ => Ok(()),
        }
    }

    /// Every site of a model, in the order of the forward pass.
    pub fn all(num_layers: usize) -> Vec<Site> {
        let blocks = (0..num_layers).map(Site::BlockOut);
        std::iter::once(Site::Embed).chain(blocks).chain([Site::FinalNorm]).collect()
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Site::Embed => f.write_str("embed"),
            Site::BlockOut(i) => write!(f, "block.{i}.out"),
            Site::FinalNorm => f.write_str("final_norm"),
        }
    }
}

impl FromStr for Site {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let block = text.strip_prefix("block.").and_then(|rest| rest.strip_suffix(".out"));
        match (text, block.and_then(|number| number.parse().ok())) {
            ("embed", _) => Ok(Site::Embed),
            ("final_norm", _) => Ok(Site::FinalNorm),
            (_, Some(i)) => Ok(Site::BlockOut(i)),
            _ => Err(Problem::new(format!("`{text}` is not a site"))
                .hint("sites are `embed`, `block.{i}.out` (i counts from 0) and `final_norm`")),
        }
    }
}

impl From<Site> for String {
    fn from(site: Site) -> String {
        site.to_string()
    }
}

impl TryFrom<String> for Site {
    type Error = Problem;

    fn try_from(text: String) -> Result<Self, Problem> {
        text.parse()
    }
}
