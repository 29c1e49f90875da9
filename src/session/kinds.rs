//! Owns the way from a file's kind to an experiment with everything it names opened: one arm a kind.
//! Must not know: flags, terminal.

use super::{cast, opening::ModelOpener};
use tiltmeter_experiments::config::{self, BargainerKind, BargainerRef, ModelRef, Readouts, SiteRef, Spec};
use tiltmeter_experiments::negotiation::{Bargainer, Negotiation};
use tiltmeter_experiments::{Experiment, interview::Interview, projection::Projection};
use tiltmeter_model::Model;
use tiltmeter_model::probe::{Axis, AxisFile, Site};
use tiltmeter_model::problem::Problem;

/// An experiment, and the axes it projects on.
pub type Opened = (Box<dyn Experiment>, Vec<Axis>);

/// The kind of the file with everything it names: one arm a kind.
pub fn open(spec: Spec, opener: &mut ModelOpener<'_>, notes: &mut Vec<Problem>) -> Result<Opened, Vec<Problem>> {
    let all = |opener: &mut ModelOpener<'_>| std::mem::take(&mut opener.problems);
    match spec {
        Spec::Projection(spec) => {
            let transcript = config::transcript::load(&spec.transcript)?;
            notes.extend(transcript.notes.iter().cloned());
            let speaker = opener.speaker("model", &ModelRef::named(&spec.model)).ok_or_else(|| all(opener))?;
            let axes = open_axes(&spec.readouts, speaker.model.as_ref(), notes)?;
            Ok((Box::new(Projection::new(*spec, transcript, speaker.model, axes.clone())?), axes))
        }
        Spec::Interview(spec) => {
            let speakers = (opener.speaker("steward", &spec.steward), opener.speaker("judge", &spec.judge));
            let (steward, judge) = speakers.0.zip(speakers.1).ok_or_else(|| all(opener))?;
            Interview::can_be_read(&spec, &steward).map_err(|problem| vec![problem])?;
            let axes = open_axes(&spec.readouts, steward.model.as_ref(), notes)?;
            Ok((Box::new(Interview::new(*spec, steward, judge, axes.clone())?), axes))
        }
        Spec::Negotiation(spec) => {
            let mut voices = |part: &str, list: &[BargainerRef]| -> Vec<Option<Bargainer>> {
                let voice = |bargainer: &BargainerRef| match &bargainer.who {
                    BargainerKind::Programmed(how) => Some(Bargainer::Programmed(*how)),
                    BargainerKind::Model(model) => opener.speaker(part, model).map(Bargainer::model),
                };
                list.iter().map(voice).collect()
            };
            let weak: Vec<_> = voices("weak_models", &spec.weak_models);
            let strong: Vec<_> = voices("strong_models", &spec.strong_models);
            let judge = spec.judge.as_ref().map_or(Some(None), |judge| opener.speaker("judge", judge).map(Some));
            let (weak, strong): (Option<Vec<_>>, Option<Vec<_>>) =
                (weak.into_iter().collect(), strong.into_iter().collect());
            let ((mut weak, mut strong), judge) = weak.zip(strong).zip(judge).ok_or_else(|| all(opener))?;
            let mut axes = Vec::new();
            for voice in weak.iter_mut().chain(&mut strong) {
                let Some(model) = voice.readable() else { continue };
                axes = open_axes(&spec.readouts, model.as_ref(), notes)?;
                voice.read(axes.clone(), spec.readouts.span)?;
            }
            Ok((Box::new(Negotiation::new(*spec, weak, strong, judge)?), axes))
        }
        Spec::Scenario(spec) => cast::open(*spec, opener, notes),
    }
}

/// Every axis at every site asked for, checked against the model.
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
