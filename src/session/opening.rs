//! Owns the way from names to models: each model is opened once, each provider account has one lane, and all problems with keys,
//! addresses and prices come at once.
//! Must not know: flags, terminal.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::ModelOptions;
use crate::registry::{ApiOptions, LanePreset, Price, api_facts, is_api, open_api, open_local, open_scripted};
use tiltmeter_experiments::ModelClient;
use tiltmeter_experiments::config::{Conduct, LaneSpec, ModelRef, SCRIPTED};
use tiltmeter_model::Model;
use tiltmeter_model::problem::Problem;
use tiltmeter_model::secret::Keys;
use tiltmeter_scheduler::{CallPolicy, Lane, LaneLimits};

/// The lane of the models on this machine.
const ENGINE_LANE: &str = "engine";

/// Longest time a reply of a model on this machine may take. It cannot hang on a network, so this only ends what is broken.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// Opens models and remembers what was opened.
pub struct ModelOpener<'a> {
    opening: &'a ModelOptions,
    keys: &'a Keys,
    conduct: &'a Conduct,
    lanes: BTreeMap<String, Lane>,
    local: BTreeMap<String, Arc<dyn Model>>,
    /// In the order they were named.
    pub models: Vec<Arc<dyn Model>>,
    pub problems: Vec<Problem>,
    /// What was found to be in order, one line each.
    pub ready: Vec<String>,
    /// How many of the problems are with what is outside the experiment: keys, addresses, accounts.
    pub unready: usize,
    /// What is not there and a plan can do without.
    pub wanting: Vec<Problem>,
}

impl<'a> ModelOpener<'a> {
    pub fn new(opening: &'a ModelOptions, keys: &'a Keys, conduct: &'a Conduct) -> Self {
        let (lanes, local) = (BTreeMap::new(), BTreeMap::new());
        let (models, problems, ready) = (Vec::new(), Vec::new(), Vec::new());
        Self { opening, keys, conduct, lanes, local, models, problems, ready, unready: 0, wanting: Vec::new() }
    }

    /// A model in a part called `part`; `None` after a problem was noted.
    pub fn speaker(&mut self, part: &str, model: &ModelRef) -> Option<ModelClient> {
        let opened = if model.name == SCRIPTED {
            self.scripted(model)
        } else if is_api(&model.name) {
            self.api(model)
        } else {
            self.local(model)
        };
        match opened {
            Ok(speaker) => {
                self.models.push(speaker.model.clone());
                Some(speaker)
            }
            Err(problem) if problem.place.is_some() => {
                self.problems.push(problem);
                None
            }
            Err(problem) => {
                self.problems.push(problem.at(format!("{part}: {}", model.name)));
                None
            }
        }
    }

    /// Notes what a run will need from outside, and a plan does not.
    pub fn wanting(&mut self, problem: Problem) {
        let note = Problem { what: format!("a run will need this: {}", problem.what), ..problem };
        if !self.wanting.iter().any(|known| known.what == note.what) {
            self.wanting.push(note);
        }
    }

    /// The lanes of everything that was opened. A lane that nobody uses is told by its name.
    pub fn lanes(&mut self) -> Vec<Lane> {
        for LaneSpec { name, .. } in &self.conduct.lanes {
            // What could not be opened has no lane either.
            if self.problems.is_empty() && !self.lanes.contains_key(name) {
                let known: Vec<&str> = self.lanes.keys().map(String::as_str).collect();
                self.problems.push(
                    Problem::new(format!("no model of this experiment uses the lane `{name}`"))
                        .at(format!("lanes.{name}"))
                        .hint(format!("its lanes are {}", known.join(", "))),
                );
            }
        }
        self.lanes.values().cloned().collect()
    }

    fn local(&mut self, model: &ModelRef) -> Result<ModelClient, Problem> {
        let opened = match self.local.get(&model.name) {
            Some(opened) => opened.clone(),
            None => {
                let opened: Arc<dyn Model> = open_local(&model.name, self.opening.device, &self.opening.engine)?;
                self.local.insert(model.name.clone(), opened.clone());
                opened
            }
        };
        Ok(self.free(opened, true))
    }

    fn scripted(&mut self, model: &ModelRef) -> Result<ModelClient, Problem> {
        let rules: Vec<_> = model.script.iter().map(|rule| (rule.when.clone(), rule.reply.clone())).collect();
        let opened = open_scripted(&rules)?;
        Ok(ModelClient { price: json!({"script": model.script}), ..self.free(opened, true) })
    }

    fn free(&mut self, model: Arc<dyn Model>, local: bool) -> ModelClient {
        self.lane(ENGINE_LANE, LanePreset::default());
        let policy = CallPolicy { attempt_timeout: LOCAL_TIMEOUT, max_attempts: 1, ..CallPolicy::default() };
        ModelClient { model, lane: ENGINE_LANE.to_owned(), policy, local, price: Value::Null }
    }

    fn api(&mut self, model: &ModelRef) -> Result<ModelClient, Problem> {
        let facts = api_facts(&model.name).ok_or_else(|| Problem::new("not the name of a provider's model"))?;
        let own = match &model.price {
            Some(price) => Some(Price::from_usd_per_million(price.input, price.output)?),
            None => None,
        };
        let note = match (&model.price, own) {
            (Some(said), Some(price)) => json!({"price": price, "date": said.date, "source": "the experiment's file"}),
            _ => json!(facts.price),
        };
        let limited = self.conduct.budget_limit.is_some() || self.conduct.cost_per_run_limit.is_some();
        if limited && note.is_null() {
            return Err(Problem::new(format!("nobody knows what `{}` costs, so no budget can hold", model.name)).hint(
                "write its price, in US dollars per million tokens: model: {name: …, price: {input: 0.10, output: 0.40}}",
            ));
        }
        let defaults = ApiOptions::default();
        let options = ApiOptions { base_url: model.base_url.clone(), price: own, ..defaults };
        let opened = match open_api(&model.name, self.keys, options.clone()) {
            Ok(opened) => {
                self.ready.push(format!("{}: name, key and address are in order", model.name));
                opened
            }
            // What is wrong with more than the key is wrong without one too.
            Err(problem) if self.opening.for_plan => {
                let opened = open_api(&model.name, self.keys, ApiOptions { for_plan: true, ..options })?;
                self.wanting(match problem.place {
                    Some(_) => problem,
                    None => problem.at(model.name.clone()),
                });
                opened
            }
            Err(problem) => {
                self.unready += 1;
                return Err(problem);
            }
        };
        self.lane(&facts.lane, facts.preset);
        let policy = CallPolicy {
            attempt_timeout: Duration::from_secs_f64(model.attempt_timeout),
            max_attempts: model.max_attempts,
            ..CallPolicy::default()
        };
        Ok(ModelClient { model: opened, lane: facts.lane, policy, local: false, price: note })
    }

    /// One lane per name, with what the experiment says of it, else the preset.
    fn lane(&mut self, name: &str, preset: LanePreset) {
        if self.lanes.contains_key(name) {
            return;
        }
        let said = self.conduct.lanes.iter().find(|lane| lane.name == name);
        // Where several processes call at the same time, each keeps to its part.
        let share = self.opening.rate_share.unwrap_or(1).max(1) as u64;
        let part = |limit: u64| (limit / share).max(1);
        let requests = said.and_then(|lane| lane.requests_per_minute).or(preset.requests_per_minute);
        let in_flight = said.and_then(|lane| lane.max_in_flight).or(preset.max_in_flight);
        let limits = LaneLimits {
            requests_per_minute: requests.map(|limit| part(u64::from(limit)) as u32),
            input_tokens_per_minute: said.and_then(|lane| lane.input_tokens_per_minute).map(part),
            output_tokens_per_minute: said.and_then(|lane| lane.output_tokens_per_minute).map(part),
            max_in_flight: in_flight.map(|limit| part(limit as u64) as usize),
        };
        self.lanes.insert(name.to_owned(), Lane::new(name, limits));
    }
}
