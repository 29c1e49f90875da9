//! Types and parsers of command-line arguments that several commands share.

use clap::ValueEnum;

use crate::session::{Device, KvType, WeightType};
use tiltmeter_model::{Problem, Site};

/// `--dtype` and `--kv`
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

pub(super) fn parse_device(text: &str) -> Result<Device, String> {
    match (text, text.strip_prefix("cuda:").map(str::parse)) {
        ("auto", _) => Ok(Device::Auto),
        ("cpu", _) => Ok(Device::Cpu),
        ("cuda", _) => Ok(Device::Cuda(0)),
        (_, Some(Ok(number))) => Ok(Device::Cuda(number)),
        _ => Err(format!("`{text}` is not a device: use auto, cpu, cuda or cuda:N (N counts GPUs from 0)")),
    }
}

/// One `key=value` of `--set`.
pub(super) fn parse_set(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_string(), value.to_string())),
        _ => Err("write key=value, as in --set sampling.temperature=0.7".to_string()),
    }
}

/// `<submission>.<task>`
pub(super) fn parse_task(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once('.').and_then(|(number, task)| Some((number.parse().ok()?, task.parse().ok()?)));
    parts.ok_or_else(|| "write <submission>.<task>, as in 1.17".to_string())
}

/// A site by name; the error includes the hint.
pub(super) fn parse_site(text: &str) -> Result<Site, String> {
    text.parse().map_err(|problem: Problem| match problem.hint {
        Some(hint) => format!("{} ({hint})", problem.what),
        None => problem.what,
    })
}

/// A number of 0 or more.
pub(super) fn parse_temperature(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("write a number from 0 (greedy), as in 0.7".to_string()),
    }
}

/// A whole number of 1 or more.
pub(super) fn parse_count(text: &str) -> Result<usize, String> {
    text.parse::<usize>().ok().filter(|n| *n > 0).ok_or_else(|| "write a whole number from 1".to_string())
}
