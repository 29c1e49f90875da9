//! Keys of the readouts: axes, sites, token span.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    fields::{Fields, Reader, name_of},
    tree::{Node, Value},
};
use tiltmeter_model::probe::{LayerConvention, Site, Span};

/// What is read of replies, or of turns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Readouts {
    /// What is projected on; may be empty where a kind does not need one.
    pub axes: Vec<AxisRef>,
    /// Where to read; empty means where each axis says.
    pub sites: Vec<SiteRef>,
    /// Which tokens are measured.
    pub span: Span,
    /// Use an axis that was built from another model.
    pub accept_axis_of_other_model: bool,
}

/// An axis to project on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AxisRef {
    /// The file; it exists.
    pub file: PathBuf,
    /// Name to show; `None` is the axis' own.
    pub name: Option<String>,
    /// Where to read; `None` is the experiment's site, or else the axis' own.
    pub site: Option<SiteRef>,
}

/// A place in the residual stream as the file names it. A layer number becomes a [`Site`] once the model's depth is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SiteRef {
    /// `site: block.20.out`
    Site(Site),
    /// `layer: 21`
    Layer {
        /// The number.
        layer: usize,
        /// What it counts.
        convention: LayerConvention,
    },
}

/// A typo in a count should be an answer.
const MAX_TOKENS: u64 = 1_000_000;

/// Reads the keys; `None` after at least one problem was reported.
pub fn read(fields: &mut Fields<'_>, required: bool) -> Option<Readouts> {
    let reader = fields.reader;
    let axes = axes(fields, required);
    let place_node = fields.get("site").or(fields.get("layer"));
    let sites = sites(fields, |n, read| reader.one_or_list(n, read));
    let span_node = fields.get("span");
    let span = span_node.map_or(Some(Span::default()), |n| span(reader, n));
    let accept = fields.or("accept_axis_of_other_model", false, |n| reader.boolean(n));
    if let (Some(node), Some([])) = (place_node.or(span_node), axes.as_deref()) {
        reader.refuse(node, "there is no axis to read there", "add `axis: data/axes/…`, or remove this key");
    }
    Some(Readouts { axes: axes?, sites: sites?, span: span?, accept_axis_of_other_model: accept? })
}

/// `axis` or `axes`; empty where none is given and none needs to be.
fn axes(fields: &mut Fields<'_>, required: bool) -> Option<Vec<AxisRef>> {
    let reader = fields.reader;
    match (fields.get("axis"), fields.get("axes")) {
        (Some(_), Some(both)) => {
            reader.refuse(both, "`axis` and `axes` are both given", "put every axis into `axes` and remove `axis`");
            None
        }
        (Some(one), None) if matches!(one.value, Value::List(_)) => {
            reader.refuse(one, "`axis` is one axis, found a list", "call the key `axes`");
            None
        }
        (Some(one), None) => axis(reader, one).map(|axis| vec![axis]),
        (None, Some(many)) => {
            let axes = reader.list(many, |n| axis(reader, n).map(|axis| (n.clone(), axis)))?;
            for (i, (node, axis)) in axes.iter().enumerate() {
                if axes[..i].iter().any(|(_, earlier)| earlier == axis) {
                    reader.refuse(node, "this axis is listed twice", "remove one, or give them different sites");
                }
            }
            Some(axes.into_iter().map(|(_, axis)| axis).collect())
        }
        (None, None) if !required => Some(Vec::new()),
        (None, None) => {
            fields.missing("axis", "axis: data/axes/assistant.safetensors");
            None
        }
    }
}

fn axis(reader: &Reader<'_>, node: &Node) -> Option<AxisRef> {
    if matches!(node.value, Value::Text(_)) {
        return reader.existing_file(node).map(|file| AxisRef { file, name: None, site: None });
    }
    let mut fields = Fields::open(reader, node)?;
    let file = fields.required("file", "file: data/axes/assistant.safetensors", |n| reader.existing_file(n));
    let name = fields.maybe("name", |n| reader.file_name(n));
    let sites = sites(&mut fields, |n, read| read(n).map(|site| vec![site]));
    fields.finish();
    Some(AxisRef { file: file?, name: name?, site: sites?.first().copied() })
}

/// `site`, or `layer` with `layer_convention`; empty when none is given. `many` decides whether a list may stand there.
fn sites<'a>(
    fields: &mut Fields<'a>,
    many: impl Fn(&Node, &dyn Fn(&Node) -> Option<SiteRef>) -> Option<Vec<SiteRef>>,
) -> Option<Vec<SiteRef>> {
    let reader = fields.reader;
    let (site, layer, convention_node) = (fields.get("site"), fields.get("layer"), fields.get("layer_convention"));
    let convention = convention_node.map_or(Some(LayerConvention::default()), |n| {
        reader.choice(n, &[("block", LayerConvention::Block), ("hidden_states", LayerConvention::HiddenStates)])
    });
    let sites = match (site, layer) {
        (Some(_), Some(layer)) => {
            reader.refuse(layer, "`site` and `layer` are both given", "keep one: a site needs no convention");
            return None;
        }
        (None, Some(node)) => many(node, &|n| {
            let layer = reader.size(n, 0..=10_000)?;
            Some(SiteRef::Layer { layer, convention: convention? })
        })?,
        (site, None) => {
            if let Some(node) = convention_node {
                let what = "`layer_convention` says what `layer` counts, but there is no `layer`";
                reader.refuse(node, what, "add `layer`, or remove it: a site needs no convention");
                return None;
            }
            site.map_or(Some(Vec::new()), |node| many(node, &|n| one_site(reader, n).map(SiteRef::Site)))?
        }
    };
    if let Some(node) = site.or(layer)
        && sites.iter().enumerate().any(|(i, site)| sites[..i].contains(site))
    {
        reader.refuse(node, format!("{} lists the same place twice", name_of(node)), "remove one of them");
        return None;
    }
    convention.map(|_| sites)
}

fn one_site(reader: &Reader<'_>, node: &Node) -> Option<Site> {
    if let Value::Number { raw, .. } = &node.value {
        let hint =
            format!("write `layer: {raw}` and say what it counts (`layer_convention`), or `site: block.{raw}.out`");
        reader.refuse(node, format!("`site` is a name, found the number {raw}"), hint);
        return None;
    }
    let text = reader.filled_text(node)?;
    text.parse()
        .inspect_err(|problem: &tiltmeter_model::problem::Problem| {
            reader.refuse(node, &problem.what, problem.hint.clone().unwrap_or_default());
        })
        .ok()
}

fn span(reader: &Reader<'_>, node: &Node) -> Option<Span> {
    if matches!(node.value, Value::Map(_)) {
        let mut fields = Fields::open(reader, node)?;
        let k = fields.required("first_k", "first_k: 8", |n| reader.size(n, 1..=MAX_TOKENS));
        fields.finish();
        return k.map(Span::FirstK);
    }
    if let Value::Text(text) = &node.value
        && let Some(rest) = text.strip_prefix("first_k")
    {
        let k =
            rest.trim().strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).and_then(|k| k.trim().parse().ok());
        if let Some(k) = k.filter(|k| *k >= 1) {
            return Some(Span::FirstK(k));
        }
        reader.refuse(node, format!("`span` cannot be `{text}`"), "say how many tokens: first_k(8)");
        return None;
    }
    let spans = [
        ("content", Span::Content),
        ("content+stop", Span::ContentAndStop),
        ("prompt", Span::Prompt),
        ("user", Span::User),
        ("first_k(8)", Span::FirstK(8)),
    ];
    reader.choice(node, &spans)
}
