//! `axis show` and `axis import`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{
    Exit, Failure,
    args::{parse_count, parse_site},
    terminal::{escape, path_text, stdout},
};
use crate::session;
use tiltmeter_axis_formats::{ImportRequest, import};
use tiltmeter_model::{AxisFile, LayerConvention, Site};
use tiltmeter_store::{check_output, write_atomic};

/// Inspect axis files and import directions of other tools.
#[derive(Clone, Debug, Subcommand)]
pub enum AxisCommand {
    Show(ShowArgs),
    Import(ImportArgs),
}

/// Show an axis file.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter axis show data/axes/quay_assistant.safetensors")]
pub struct ShowArgs {
    /// Axis file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// Import a direction from .pt, .npy, .npz or .safetensors.
///
/// For a file with one row per layer, --index-base says how rows are counted: with `block`, row i is the output of block i (from 0); with
/// `hidden_states`, row i is Hugging Face's hidden_states[i].
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter axis import assistant.pt --index-base block --out assistant.safetensors
  tiltmeter axis import evil.pt --index-base hidden_states --site block.15.out --out e.safetensors
  tiltmeter axis import warm.npz --tensor warm --site final_norm --out warm.safetensors")]
pub struct ImportArgs {
    /// File to import
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How the rows of a file are counted
    #[arg(long, value_enum, value_name = "BASE")]
    pub index_base: Option<IndexBase>,
    /// Site to import, or the site of a single direction
    #[arg(long, value_name = "SITE", value_parser = parse_site)]
    pub site: Option<Site>,
    /// Tensor to import, if the file contains several
    #[arg(long, value_name = "NAME")]
    pub tensor: Option<String>,
    /// Name of the axis [default: the file name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Model the direction was built from, recorded in the file
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Number of blocks of that model [default: read from --model]
    #[arg(long, value_name = "N", value_parser = parse_count, allow_negative_numbers = true)]
    pub num_layers: Option<usize>,
    /// Axis file to write
    #[arg(long, value_name = "FILE.safetensors")]
    pub out: PathBuf,
}

/// `--index-base`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum IndexBase {
    /// Row i is the output of block i, counted from 0
    Block,
    /// Row i is hidden_states[i] of Hugging Face
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

pub(super) fn execute(command: AxisCommand) -> Result<Exit, Failure> {
    match command {
        AxisCommand::Show(args) => stdout(&render(&AxisFile::open(&args.file)?))?,
        AxisCommand::Import(args) => {
            let facts = args.model.as_deref().map(session::model_facts).transpose()?;
            check_output(&args.out)?;
            let file = import(&ImportRequest {
                path: args.file,
                tensor: args.tensor,
                index_base: args.index_base.map(Into::into),
                site: args.site,
                name: args.name,
                num_layers: args.num_layers.or(facts.as_ref().map(|facts| facts.num_layers)),
                fingerprint: facts.map(|facts| facts.fingerprint),
            })?;
            write_atomic(&args.out, &file.to_bytes()?)?;
            stdout(&render(&AxisFile::open(&args.out)?))?;
            stdout(&format!("wrote {}\n", path_text(&args.out)))?;
        }
    }
    Ok(Exit::Done)
}

/// The origin of an axis, and one line per site.
fn render(file: &AxisFile) -> String {
    let unknown = |text: &str| if text.is_empty() { "unknown".to_string() } else { escape(text).into_owned() };
    let rows = [
        ("name", unknown(&file.name)),
        ("method", unknown(&file.origin.method)),
        ("examples", unknown(&file.origin.n)),
        ("positive", unknown(&file.origin.sign)),
        ("centring", unknown(&file.origin.centring)),
        ("weights", unknown(file.fingerprint.as_deref().unwrap_or_default())),
        ("width", file.hidden_size.to_string()),
        ("blocks", file.num_layers.map_or("unknown".to_string(), |n| n.to_string())),
        ("sha256", file.sha256.clone()),
    ];
    let mut text: String = rows.iter().map(|(key, value)| format!("{key:<10}{value}\n")).collect();
    text.push_str("\nsite            length    mean+    mean-    AUROC\n");
    for (site, axis) in &file.sites {
        let length = axis.direction.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
        let [pos, neg] = [axis.stats.mean_pos, axis.stats.mean_neg].map(|mean| optional(mean, |m| format!("{m:+.3}")));
        let auroc = optional(axis.stats.auroc, |auroc| format!("{auroc:.3}"));
        let row = format!("{:<14} {length:>7.3} {pos:>8} {neg:>8} {auroc:>8}", site.to_string());
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

fn optional(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.map_or("–".to_string(), show)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiltmeter_model::{AxisOrigin, AxisStats, SiteAxis};

    #[test]
    fn unknown_fields_of_an_axis_are_shown_as_unknown() {
        let stats = AxisStats { mean_pos: Some(2.5), mean_neg: Some(-1.0), auroc: None };
        let file = AxisFile {
            name: "warm".into(),
            origin: AxisOrigin { method: "difference of means".into(), ..AxisOrigin::default() },
            fingerprint: None,
            hidden_size: 2,
            num_layers: Some(6),
            sites: [(Site::BlockOut(4), SiteAxis { direction: vec![3.0, 4.0], stats })].into(),
            sha256: "ab".into(),
        };
        let text = render(&file);
        assert!(text.contains("method    difference of means\nexamples  unknown\n"), "{text}");
        let (heading, row) = text.trim_end().rsplit_once('\n').unwrap();
        assert!(heading.ends_with("site            length    mean+    mean-    AUROC"), "{text}");
        assert_eq!(row, "block.4.out      5.000   +2.500   -1.000        –");
    }
}
