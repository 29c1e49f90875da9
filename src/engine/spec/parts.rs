//! Parts that not every backend computes.

use std::fmt;

use super::{Activation, ArchSpec, AttentionSpec, MlpSpec, NormWeight, QkNorm};

/// A part of an architecture beyond a decoder of gated SiLU feed-forwards, grouped-query attention, RoPE, windows and RMS norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    EmbedScale,
    LogitSoftcap,
    AttentionSoftcap,
    Sinks,
    ClipQkv,
    QkNormPerHead,
    MixtureOfExperts,
    Gelu,
    Bias,
    OnePlusNorm,
}

impl Part {
    pub const ALL: [Part; 10] = [
        Part::EmbedScale,
        Part::LogitSoftcap,
        Part::AttentionSoftcap,
        Part::Sinks,
        Part::ClipQkv,
        Part::QkNormPerHead,
        Part::MixtureOfExperts,
        Part::Gelu,
        Part::Bias,
        Part::OnePlusNorm,
    ];

    fn is_in(self, arch: &ArchSpec) -> bool {
        let attention = |has: fn(&AttentionSpec) -> bool| arch.blocks.iter().any(|block| has(&block.attention));
        let mlp = |has: fn(&MlpSpec) -> bool| arch.blocks.iter().any(|block| has(&block.mlp));
        match self {
            Part::EmbedScale => arch.embed.scale.is_some(),
            Part::LogitSoftcap => arch.logit_softcap.is_some(),
            Part::AttentionSoftcap => attention(|attention| attention.softcap.is_some()),
            Part::Sinks => attention(|attention| attention.sinks.is_some()),
            Part::ClipQkv => attention(|attention| attention.clip_qkv.is_some()),
            Part::QkNormPerHead => {
                attention(|attention| attention.qk_norm.as_ref().is_some_and(|norm| norm.extent == QkNorm::PerHead))
            }
            Part::MixtureOfExperts => mlp(|mlp| matches!(mlp, MlpSpec::Moe(_))),
            Part::Gelu => mlp(|mlp| mlp.activation() == Activation::GeluTanh),
            Part::Bias => arch.linears().any(|linear| linear.bias),
            Part::OnePlusNorm => arch.norms().any(|norm| norm.weight == NormWeight::OnePlus),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Part::EmbedScale => "scaled embeddings",
            Part::LogitSoftcap => "a soft cap on logits",
            Part::AttentionSoftcap => "a soft cap on attention scores",
            Part::Sinks => "attention sinks",
            Part::ClipQkv => "clipped q, k and v",
            Part::QkNormPerHead => "RMS norm over each head of q and k",
            Part::MixtureOfExperts => "a mixture of experts",
            Part::Gelu => "GELU",
            Part::Bias => "linear layers with biases",
            Part::OnePlusNorm => "norm weights of 1 + w",
        })
    }
}

impl ArchSpec {
    /// The first part of this architecture that is not among those a backend computes.
    pub fn part_beyond(&self, computed: &[Part]) -> Option<Part> {
        Part::ALL.into_iter().find(|part| part.is_in(self) && !computed.contains(part))
    }
}
