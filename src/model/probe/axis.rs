//! [`Axis`]: a direction at one site. [`AxisFile`]: the directions of an axis at several sites, with their origin.
//!
//! The file format is safetensors: one f32 tensor `[hidden_size]` per site, named by the site, and metadata `format`, `name`, `method`, `n`,
//! `sign`, `centring`, `model_fingerprint`, `hidden_size`, `num_layers` and `stats`, a JSON object `{site: {mean_pos, mean_neg, auroc?}}`.
//! An empty text means unknown. Equal content gives equal bytes, so that the file's SHA-256 identifies the axis.

use crate::input;
use std::{collections::BTreeMap, path::Path};

use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::readout::Probe;
use super::site::Site;
use crate::card::ModelCard;
use crate::problem::Problem;

const FORMAT: &str = "tiltmeter-axis-v1";

/// Statistics of the examples an axis was built from: projections on the unit direction, in units of the hidden states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AxisStats {
    /// Mean projection of the positive examples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_pos: Option<f64>,
    /// Mean projection of the negative examples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_neg: Option<f64>,
    /// Area under the ROC curve of the projection as a classifier of the two groups, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auroc: Option<f64>,
}

/// How an axis was built; an empty text means unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AxisOrigin {
    /// `difference of means`, `imported from …`.
    pub method: String,
    /// Examples per side.
    pub n: String,
    /// Meaning of the positive direction.
    pub sign: String,
    /// What was subtracted from the hidden states.
    pub centring: String,
}

/// The direction at one site of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteAxis {
    /// `[hidden_size]`, not normalised.
    pub direction: Vec<f32>,
    /// Statistics of the examples at this site.
    pub stats: AxisStats,
}

/// An axis with its direction at one or several sites.
#[derive(Clone, Debug, PartialEq)]
pub struct AxisFile {
    /// Name of the axis.
    pub name: String,
    /// How it was built.
    pub origin: AxisOrigin,
    /// `sha256:<hex>` of the weights the axis was built with; `None` if unknown.
    pub fingerprint: Option<String>,
    /// Length of every direction.
    pub hidden_size: usize,
    /// Number of blocks of that model; `None` if unknown.
    pub num_layers: Option<usize>,
    /// Directions by site, in the order of the forward pass.
    pub sites: BTreeMap<Site, SiteAxis>,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
}

/// One direction at one site.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// Name of the axis.
    pub name: String,
    /// Where it is measured.
    pub site: Site,
    /// `[hidden_size]`, not normalised.
    pub direction: Vec<f32>,
    /// See [`AxisStats::mean_pos`].
    pub mean_pos: Option<f64>,
    /// See [`AxisStats::mean_neg`].
    pub mean_neg: Option<f64>,
    /// See [`AxisStats::auroc`].
    pub auroc: Option<f64>,
    /// How the axis was built.
    pub origin: AxisOrigin,
    /// `sha256:<hex>` of the weights the axis was built with; `None` if unknown.
    pub fingerprint: Option<String>,
    /// SHA-256 of the axis file, lower-case hex.
    pub sha256: String,
}

impl Axis {
    /// The direction divided by its Euclidean norm, `[hidden_size]`.
    ///
    /// # Errors
    /// A direction that is zero or not finite.
    pub fn unit(&self) -> Result<Vec<f32>, Problem> {
        // f64, in which squares of f32 neither overflow nor underflow.
        let norm = self.direction.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        if !norm.is_finite() || norm == 0.0 {
            let why = if norm == 0.0 { "is zero" } else { "contains NaN or infinity" };
            return Err(Problem::new(format!("the direction of the axis `{}` at {} {why}", self.name, self.site))
                .hint("use another site of the axis, or build it again"));
        }
        Ok(self.direction.iter().map(|&x| (f64::from(x) / norm) as f32).collect())
    }

    /// The probe that measures this axis.
    ///
    /// # Errors
    /// See [`unit`](Self::unit).
    pub fn probe(&self) -> Result<Probe, Problem> {
        Ok(Probe { name: self.name.clone(), site: self.site, unit: self.unit()? })
    }

    /// Checks that the axis can be measured in a model. Returns a note if the weights cannot be compared, or differ and
    /// `accept_other_model` is set.
    ///
    /// # Errors
    /// Another hidden size, a site the model lacks, or other weights.
    pub fn check(&self, card: &ModelCard, accept_other_model: bool) -> Result<Option<String>, Problem> {
        let (axis, model) = (&self.name, &card.name);
        if let Some(width) = card.hidden_size.filter(|&width| width != self.direction.len()) {
            return Err(Problem::new(format!(
                "the axis `{axis}` has {} dimensions, but {model} has a hidden size of {width}",
                self.direction.len()
            ))
            .hint("use an axis that was built with this model"));
        }
        if let Some(num_layers) = card.num_layers {
            self.site.check(num_layers)?;
        }
        match (&self.fingerprint, &card.fingerprint) {
            (Some(made_with), Some(weights)) if made_with == weights => Ok(None),
            (Some(_), Some(_)) if accept_other_model => Ok(Some(format!(
                "the axis `{axis}` was built with other weights than those of {model}; accepted by accept_axis_of_other_model"
            ))),
            (Some(made_with), Some(weights)) => {
                Err(Problem::new(format!("the axis `{axis}` was built with other weights than those of {model}"))
                    .at(format!("axis {made_with}, model {weights}"))
                    .hint(format!(
                        "if it belongs to this model, import it again with `--model {model}`; \
                         to measure across models, add `--set accept_axis_of_other_model=true`"
                    )))
            }
            (None, _) => Ok(Some(format!("the axis `{axis}` does not record the weights it was built with"))),
            (_, None) => Ok(Some(format!("{model} has no weights to compare with those of the axis `{axis}`"))),
        }
    }
}

impl AxisFile {
    /// Reads an axis file.
    ///
    /// # Errors
    /// A file that cannot be read, is not an axis file, or is inconsistent.
    pub fn open(path: &Path) -> Result<Self, Problem> {
        let place = path.display().to_string();
        let bytes = input::read_bytes(path, input::MAX_DATA).map_err(|error| {
            Problem::new(format!("cannot read the axis: {error}")).at(&place).hint("check the path of the axis file")
        })?;
        Self::from_bytes(&bytes).map_err(|problem| problem.at(place))
    }

    /// Whether the bytes are an axis file.
    pub fn is_axis_file(bytes: &[u8]) -> bool {
        let format = |(_, header): (usize, safetensors::tensor::Metadata)| {
            header.metadata().as_ref().and_then(|texts| texts.get("format")).is_some_and(|format| format == FORMAT)
        };
        SafeTensors::read_metadata(bytes).is_ok_and(format)
    }

    /// Parses the bytes of an axis file.
    ///
    /// # Errors
    /// Bytes that are not an axis file, or inconsistent.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Problem> {
        let foreign = |what: String| Problem::new(what).hint("convert it to an axis file with `tiltmeter axis import`");
        let tensors = SafeTensors::deserialize(bytes)
            .map_err(|error| foreign(format!("not an axis file, or a damaged one ({error})")))?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| damaged(error.to_string()))?;
        let texts = header.metadata().clone().unwrap_or_default();
        let text = |key: &str| texts.get(key).cloned().unwrap_or_default();
        match text("format").as_str() {
            FORMAT => {}
            "" => return Err(foreign("a safetensors file, but not an axis file".to_owned())),
            other if other.starts_with("tiltmeter-axis-") => {
                return Err(Problem::new(format!(
                    "the axis file has the format `{other}`, this version reads `{FORMAT}`"
                ))
                .hint("use the version that wrote it, or import the axis again"));
            }
            other => return Err(foreign(format!("not an axis file: its format is `{other}`"))),
        }
        let count = |key: &str| match text(key).as_str() {
            "" => Ok(None),
            digits => digits
                .parse::<usize>()
                .map(Some)
                .map_err(|_| damaged(format!("`{key}` is `{digits}`, not a whole number"))),
        };
        let hidden_size = count("hidden_size")?.ok_or_else(|| damaged("`hidden_size` is missing".to_owned()))?;
        let stats = match text("stats").as_str() {
            "" => BTreeMap::new(),
            json => serde_json::from_str::<BTreeMap<String, AxisStats>>(json)
                .map_err(|error| damaged(format!("`stats` cannot be read: {error}")))?,
        };
        let mut sites = BTreeMap::new();
        for (name, tensor) in tensors.iter() {
            let site: Site =
                name.parse().map_err(|_| damaged(format!("its tensor `{name}` is not named by a site")))?;
            if tensor.dtype() != Dtype::F32 || tensor.shape() != [hidden_size] {
                let (dtype, shape) = (tensor.dtype(), tensor.shape());
                return Err(damaged(format!("its tensor `{name}` is {dtype:?} {shape:?}, not F32 [{hidden_size}]")));
            }
            let direction =
                tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            sites.insert(site, SiteAxis { direction, stats: stats.get(name).copied().unwrap_or_default() });
        }
        let origin =
            AxisOrigin { method: text("method"), n: text("n"), sign: text("sign"), centring: text("centring") };
        let file = Self {
            name: text("name"),
            origin,
            fingerprint: Some(text("model_fingerprint")).filter(|fingerprint| !fingerprint.is_empty()),
            hidden_size,
            num_layers: count("num_layers")?,
            sites,
            sha256: sha256(bytes),
        };
        file.validate()?;
        Ok(file)
    }

    /// The axis at `site`, which may be `None` if the file has one site only.
    ///
    /// # Errors
    /// A site the file lacks, or `None` with several sites.
    pub fn axis(&self, site: Option<Site>) -> Result<Axis, Problem> {
        let list = || self.sites.keys().map(Site::to_string).collect::<Vec<_>>().join(", ");
        let found = match (site, self.sites.first_key_value()) {
            (Some(site), _) => self.sites.get(&site).map(|axis| (site, axis)).ok_or_else(|| {
                Problem::new(format!("the axis `{}` has no direction at {site}", self.name))
                    .hint(format!("it has: {}", list()))
            })?,
            (None, Some((&site, axis))) if self.sites.len() == 1 => (site, axis),
            (None, _) => {
                return Err(Problem::new(format!("the axis `{}` has {} sites", self.name, self.sites.len()))
                    .hint(format!("choose one with `site:`, of {}", list())));
            }
        };
        let (site, SiteAxis { direction, stats }) = found;
        Ok(Axis {
            name: self.name.clone(),
            site,
            direction: direction.clone(),
            mean_pos: stats.mean_pos,
            mean_neg: stats.mean_neg,
            auroc: stats.auroc,
            origin: self.origin.clone(),
            fingerprint: self.fingerprint.clone(),
            sha256: self.sha256.clone(),
        })
    }

    /// Computes `sha256`; for an axis built in memory.
    pub fn with_sha256(mut self) -> Self {
        self.sha256 = sha256(&self.encode());
        self
    }

    /// The bytes of the file.
    ///
    /// # Errors
    /// Directions of different lengths, a site the model lacks, or no site.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Problem> {
        self.validate()?;
        Ok(self.encode())
    }

    fn validate(&self) -> Result<(), Problem> {
        if self.sites.is_empty() {
            return Err(damaged("it has no direction at any site".to_owned()));
        }
        for (site, SiteAxis { direction, .. }) in &self.sites {
            if direction.len() != self.hidden_size {
                let (has, wants) = (direction.len(), self.hidden_size);
                return Err(damaged(format!("its direction at {site} has {has} dimensions instead of {wants}")));
            }
            if let Some(num_layers) = self.num_layers {
                site.check(num_layers)?;
            }
        }
        Ok(())
    }

    /// Writes safetensors by hand: the crate keeps metadata in a hash map, whose order, and thus the file's hash, varies between runs.
    fn encode(&self) -> Vec<u8> {
        let stats: BTreeMap<String, AxisStats> =
            self.sites.iter().map(|(site, axis)| (site.to_string(), axis.stats)).collect();
        let AxisOrigin { method, n, sign, centring } = &self.origin;
        let mut header = serde_json::Map::new();
        let texts = json!({
            "format": FORMAT,
            "name": self.name,
            "method": method,
            "n": n,
            "sign": sign,
            "centring": centring,
            "model_fingerprint": self.fingerprint.as_deref().unwrap_or_default(),
            "hidden_size": self.hidden_size.to_string(),
            "num_layers": self.num_layers.map(|n| n.to_string()).unwrap_or_default(),
            "stats": json!(stats).to_string(),
        });
        header.insert("__metadata__".to_owned(), texts);
        let mut data = Vec::with_capacity(self.sites.len() * self.hidden_size * 4);
        for (site, SiteAxis { direction, .. }) in &self.sites {
            let start = data.len();
            data.extend(direction.iter().flat_map(|x| x.to_le_bytes()));
            let entry = json!({"dtype": "F32", "shape": [direction.len()], "data_offsets": [start, data.len()]});
            header.insert(site.to_string(), entry);
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        // The format aligns the data to 8 bytes and pads the header with spaces.
        text.resize(text.len().next_multiple_of(8), b' ');
        [&(text.len() as u64).to_le_bytes(), text.as_slice(), &data].concat()
    }
}

fn damaged(what: String) -> Problem {
    Problem::new(format!("the axis file is inconsistent: {what}")).hint("build or import the axis again")
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
