//! Owns the negotiation experiment: every weak bargainer plays every strong one for the same items at every level of competition, so
//! that it shows how far the stronger exploits the weaker. With a bargainer on this machine every reply can be projected on axes in the
//! pass that generates it.
//! Must not know: engine, provider, run folders, terminal.

// The game and its numbers; they know no model.
mod values;
mod protocol;
mod utility;
mod measures;
mod matrix;
mod cast;

// What is said in it, and what is made of replies.
mod prompts;
mod parse;
mod programmed;
mod judge;
mod rows;
mod play;

// The kind.
mod collect;
mod describe;
mod forecast;
mod methods;
mod record;
mod run;

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Experiment, Forecast, ModelClient, probe_plan};
use crate::config::{BargainerKind, BargainerRef, Bargaining, NegotiationSpec, PROGRAMMED};
use tiltmeter_model::probe::{Axis, ProbePlan, Span};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ChatRequest, Message, Model, SeedKey};
use tiltmeter_scheduler::Run;
use tiltmeter_store::RunKey;

pub use judge::{Behaviours, MENU, Verdict};
pub use matrix::{Cell, Matrix};
pub use measures::Measures;
pub use protocol::{Allocation, End, Event, Game, Invalid, Move, Phase, Proposal, Rules, Turn};
pub use record::Records;
pub use rows::{Agent, Judgement, ParsedOutcome, Row, Said, Setup, Side};
pub use utility::{discount, utilities, worth};
pub use values::{PIE, cosine, pair};

/// Somebody who bargains, opened.
pub enum Bargainer {
    Model(Box<ModelBargainer>),
    Programmed(Bargaining),
}

/// A model, and what its replies are projected on: nothing if it does not show its hidden states.
pub struct ModelBargainer {
    speaker: ModelClient,
    axes: Vec<Axis>,
    probes: Option<Arc<ProbePlan>>,
}

impl Bargainer {
    pub fn model(speaker: ModelClient) -> Self {
        Self::Model(Box::new(ModelBargainer { speaker, axes: Vec::new(), probes: None }))
    }

    /// The model whose replies can be projected: one behind an API does not show its hidden states.
    pub fn readable(&self) -> Option<Arc<dyn Model>> {
        match self {
            Self::Model(voice) if voice.speaker.model.card().hidden_size.is_some() => Some(voice.speaker.model.clone()),
            _ => None,
        }
    }

    /// Projects every reply of the model on these axes, which were opened for it.
    pub fn read(&mut self, axes: Vec<Axis>, span: Span) -> Result<(), Vec<Problem>> {
        let Self::Model(voice) = self else { return Ok(()) };
        voice.probes = probe_plan::probe_plan(&axes, span)?;
        voice.axes = axes;
        Ok(())
    }
}

/// What all runs share.
struct Setting {
    spec: NegotiationSpec,
    matrix: Matrix,
    weak: Vec<Bargainer>,
    strong: Vec<Bargainer>,
    judge: Option<ModelClient>,
    instructions: String,
    /// `None` if the judge can be held to none.
    schema: Option<Value>,
}

impl Setting {
    fn rules(&self) -> Rules {
        Rules { agents: 2, items: self.spec.num_items, max_rounds: self.spec.max_rounds }
    }

    /// A bargainer's next turn.
    fn request(&self, messages: Vec<Message>, seed: SeedKey) -> ChatRequest {
        ChatRequest {
            sampling: self.spec.sampling,
            max_new_tokens: Some(self.spec.max_new_tokens),
            seed,
            ..ChatRequest::new(messages)
        }
    }

    fn verdict_on(&self, told: &ParsedOutcome, seed: SeedKey) -> ChatRequest {
        let transcript = judge::transcript(told);
        judge::request(&self.instructions, self.schema.as_ref(), transcript, self.spec.judge_max_tokens, seed)
    }

    /// Every model among the bargainers, the weak ones first.
    fn models(&self) -> impl Iterator<Item = &ModelBargainer> {
        self.weak.iter().chain(&self.strong).filter_map(|voice| match voice {
            Bargainer::Model(voice) => Some(voice.as_ref()),
            Bargainer::Programmed(_) => None,
        })
    }

    /// What replies are projected on.
    fn axes(&self) -> &[Axis] {
        match axes_of(&self.weak) {
            [] => axes_of(&self.strong),
            axes => axes,
        }
    }
}

/// What replies of these bargainers are projected on: every model that can be read has the same axes.
fn axes_of(voices: &[Bargainer]) -> &[Axis] {
    let axes = voices.iter().filter_map(|voice| match voice {
        Bargainer::Model(voice) => Some(voice.axes.as_slice()),
        Bargainer::Programmed(_) => None,
    });
    axes.into_iter().find(|axes| !axes.is_empty()).unwrap_or_default()
}

/// A negotiation experiment with everything it needs opened and checked.
pub struct Negotiation {
    setting: Arc<Setting>,
    forecast: Forecast,
}

impl Negotiation {
    /// Checks everything that can be checked before anything is spent. `weak` and `strong` are in the order of the file.
    pub fn new(
        spec: NegotiationSpec,
        weak: Vec<Bargainer>,
        strong: Vec<Bargainer>,
        judge: Option<ModelClient>,
    ) -> Result<Self, Vec<Problem>> {
        if !spec.readouts.axes.is_empty() && weak.iter().chain(&strong).all(|voice| voice.readable().is_none()) {
            return Err(vec![
                Problem::new("no bargainer shows its hidden states, so nothing can be projected")
                    .at("axes")
                    .hint("remove the axes, or take a bargainer on this machine: a folder or a hub id"),
            ]);
        }
        let labels = |list: &[BargainerRef]| list.iter().map(|entry| entry.label.clone()).collect();
        let matrix = Matrix {
            weak: labels(&spec.weak_models),
            strong: labels(&spec.strong_models),
            levels: spec.competition_levels.clone(),
            orders: spec.orders.clone(),
            repetitions: spec.repetitions,
            seed: spec.seed,
        };
        let (instructions, schema) = (judge::instructions(), Some(judge::schema()));
        let mut setting = Setting { spec, matrix, weak, strong, judge, instructions, schema };
        let probe = setting.verdict_on(&ParsedOutcome::default(), SeedKey::default());
        if setting.judge.as_ref().is_some_and(|judge| judge.model.check(&probe).is_err()) {
            // Then it is asked for JSON in words alone.
            setting.schema = None;
        }
        let forecast = forecast::forecast(&setting)?;
        Ok(Self { setting: Arc::new(setting), forecast })
    }
}

fn bargainer(said: &BargainerRef, voice: &Bargainer) -> Value {
    let base_url = match &said.who {
        BargainerKind::Model(model) => model.base_url.as_deref(),
        BargainerKind::Programmed(_) => None,
    };
    let mut own = match voice {
        Bargainer::Model(voice) => voice.speaker.part(base_url),
        Bargainer::Programmed(how) => json!({"name": PROGRAMMED, "strategy": how}),
    };
    own["label"] = json!(said.label);
    own
}

/// How much more the strong side gets than the weak one, against the level of competition and pair by pair.
fn utility_gap(matrix: &Matrix) -> Value {
    let weak = json!({"label": "weak_model", "title": "weak bargainer", "menu": matrix.weak});
    json!({
        "metric": "utility_gap",
        "title": "Utility gap",
        "unit": "utility gap (strong − weak)",
        "centred": true,
        "against": {
            "metric": "competition_level", "title": "competition level (cosine similarity of values)", "levels": matrix.levels,
        },
        "by": weak,
        "rows": weak,
        "columns": {"label": "strong_model", "title": "strong bargainer", "menu": matrix.strong},
        "notes": [
            "Both utilities are discounted. A game without a deal gives nobody anything, so its gap is 0; a game that failed is not \
             counted.",
        ],
    })
}

impl Experiment for Negotiation {
    fn name(&self) -> &str {
        &self.setting.spec.experiment
    }

    fn plan(&self) -> Value {
        let setting = self.setting.as_ref();
        let spec = &setting.spec;
        let side = |list: &[BargainerRef], voices: &[Bargainer]| -> Vec<Value> {
            list.iter().zip(voices).map(|(said, voice)| bargainer(said, voice)).collect()
        };
        let judge = setting.judge.as_ref().map(|speaker| {
            let base_url = spec.judge.as_ref().and_then(|judge| judge.base_url.as_deref());
            speaker.judging(base_url, &setting.instructions, setting.schema.as_ref(), spec.judge_max_tokens)
        });
        // One entry a side that somebody on this machine plays: what is measured of each is its own.
        let axes = |side: Side, voices: &[Bargainer]| -> Vec<Value> {
            let name = |axis: &Axis| format!("{}.{}", side.name(), axis.name);
            axes_of(voices).iter().map(|axis| probe_plan::planned(axis, &name(axis), Some("reply"))).collect()
        };
        let axes = [axes(Side::Weak, &setting.weak), axes(Side::Strong, &setting.strong)].concat();
        json!({
            "kind": "negotiation",
            "experiment": spec.experiment,
            "matrix": setting.matrix,
            "cells": setting.matrix.cells().into_iter().map(|cell| setting.matrix.name(cell)).collect::<Vec<_>>(),
            "conditions": setting.matrix.conditions(),
            "responses": [utility_gap(&setting.matrix)],
            "weak": side(&spec.weak_models, &setting.weak),
            "strong": side(&spec.strong_models, &setting.strong),
            "judge": judge,
            "num_items": spec.num_items,
            "max_rounds": spec.max_rounds,
            "gamma": spec.gamma,
            "prompts": prompts::all(setting.rules(), spec.gamma),
            "seed": spec.seed,
            "sampling": spec.sampling,
            "max_new_tokens": spec.max_new_tokens,
            "axes": axes,
            "token_span": spec.readouts.span,
            "publication": spec.publication,
        })
    }

    fn describe(&self) -> Vec<(String, String)> {
        describe::describe(&self.setting)
    }

    fn runs(&self) -> Vec<Arc<dyn Run>> {
        let matrix = &self.setting.matrix;
        let cells = matrix.cells().into_iter().flat_map(|cell| (0..matrix.repetitions).map(move |r| (cell, r)));
        cells.map(|(cell, r)| Arc::new(run::Bargain::new(&self.setting, cell, r)) as Arc<dyn Run>).collect()
    }

    fn numbered(&self, number: usize) -> Option<RunKey> {
        let (cell, sample) = self.setting.matrix.run(number)?;
        let experiment = self.setting.spec.experiment.clone();
        Some(RunKey { experiment, cell: self.setting.matrix.name(cell), sample })
    }

    fn in_flight(&self) -> usize {
        // The file's own `parallel` has a default, so this is only for who does not ask it.
        4.min(self.setting.matrix.total_runs()).max(1)
    }

    /// Nobody knows how many turns games will have.
    fn totals(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    fn forecast(&self) -> &Forecast {
        &self.forecast
    }
}
