//! Opens the experiment of a spec: one arm per kind.

use super::{models::ModelOpener, scenario_models};
use tiltmeter_experiments::config::{self, BargainerKind, BargainerRef, ModelRef, Readouts, SiteRef, Spec};
use tiltmeter_experiments::negotiation::{Bargainer, Negotiation};
use tiltmeter_experiments::{Experiment, interview::Interview, projection::Projection};
use tiltmeter_model::Model;
use tiltmeter_model::probe::{Axis, AxisFile, Site};
use tiltmeter_model::problem::Problem;

/// An experiment, and the axes it projects on.
pub type Opened = (Box<dyn Experiment>, Vec<Axis>);

/// Opens the models and axes of a spec.
pub fn open(spec: Spec, opener: &mut ModelOpener<'_>, notes: &mut Vec<Problem>) -> Result<Opened, Vec<Problem>> {
    let all = |opener: &mut ModelOpener<'_>| std::mem::take(&mut opener.problems);
    match spec {
        Spec::Projection(spec) => {
            let transcript = config::transcript::load(&spec.transcript)?;
            notes.extend(transcript.notes.iter().cloned());
            let model = opener.client("model", &ModelRef::named(&spec.model)).ok_or_else(|| all(opener))?;
            let axes = open_axes(&spec.readouts, model.model.as_ref(), notes)?;
            Ok((Box::new(Projection::new(*spec, transcript, model.model, axes.clone())?), axes))
        }
        Spec::Interview(spec) => {
            let opened = (opener.client("steward", &spec.steward), opener.client("judge", &spec.judge));
            let (steward, judge) = opened.0.zip(opened.1).ok_or_else(|| all(opener))?;
            Interview::can_be_read(&spec, &steward).map_err(|problem| vec![problem])?;
            let axes = open_axes(&spec.readouts, steward.model.as_ref(), notes)?;
            Ok((Box::new(Interview::new(*spec, steward, judge, axes.clone())?), axes))
        }
        Spec::Negotiation(spec) => {
            let mut bargainers = |part: &str, list: &[BargainerRef]| -> Vec<Option<Bargainer>> {
                let open = |bargainer: &BargainerRef| match &bargainer.who {
                    BargainerKind::Programmed(how) => Some(Bargainer::Programmed(*how)),
                    BargainerKind::Model(model) => opener.client(part, model).map(Bargainer::model),
                };
                list.iter().map(open).collect()
            };
            let weak: Vec<_> = bargainers("weak_models", &spec.weak_models);
            let strong: Vec<_> = bargainers("strong_models", &spec.strong_models);
            let judge = spec.judge.as_ref().map_or(Some(None), |judge| opener.client("judge", judge).map(Some));
            let (weak, strong): (Option<Vec<_>>, Option<Vec<_>>) =
                (weak.into_iter().collect(), strong.into_iter().collect());
            let ((mut weak, mut strong), judge) = weak.zip(strong).zip(judge).ok_or_else(|| all(opener))?;
            let mut axes = Vec::new();
            for bargainer in weak.iter_mut().chain(&mut strong) {
                let Some(model) = bargainer.readable() else { continue };
                axes = open_axes(&spec.readouts, model.as_ref(), notes)?;
                bargainer.read(axes.clone(), spec.readouts.span)?;
            }
            Ok((Box::new(Negotiation::new(*spec, weak, strong, judge)?), axes))
        }
        Spec::Scenario(spec) => scenario_models::open(*spec, opener, notes),
    }
}

/// Every axis at every requested site, checked against the model.
pub fn open_axes(readouts: &Readouts, model: &dyn Model, notes: &mut Vec<Problem>) -> Result<Vec<Axis>, Vec<Problem>> {
    let Readouts { axes, sites, accept_axis_of_other_model, .. } = readouts;
    let layers = model.card().num_layers.unwrap_or(0);
    let mut opened_axes = Vec::new();
    let mut problems = Vec::new();
    for wanted in axes {
        let sites: Vec<Option<SiteRef>> = match (wanted.site, sites.as_slice()) {
            (Some(site), _) => vec![Some(site)],
            (None, []) => vec![None],
            (None, sites) => sites.iter().copied().map(Some).collect(),
        };
        for site in sites {
            let opened = AxisFile::open(&wanted.file).and_then(|file| {
                let mut axis = file.axis(site.map(|site| resolve(site, layers)).transpose()?)?;
                axis.site.check(layers)?;
                notes.extend(axis.check(model.card(), *accept_axis_of_other_model)?.map(Problem::new));
                axis.name = wanted.name.clone().unwrap_or(axis.name);
                Ok(axis)
            });
            match opened {
                Ok(axis) => opened_axes.push(axis),
                Err(problem) if problem.place.is_some() => problems.push(problem),
                Err(problem) => problems.push(problem.at(wanted.file.display().to_string())),
            }
        }
    }
    if problems.is_empty() { Ok(opened_axes) } else { Err(problems) }
}

fn resolve(site: SiteRef, layers: usize) -> Result<Site, Problem> {
    match site {
        SiteRef::Site(site) => Ok(site),
        SiteRef::Layer { layer, convention } => Site::from_layer(layer, convention, layers),
    }
}
