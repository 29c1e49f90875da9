//! Opens models by name: each model once, one lane per provider account.

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

/// Time limit of a local model's reply; ends only a broken model, because no network is involved.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// Opens models and collects their lanes and problems.
pub struct ModelOpener<'a> {
    options: &'a ModelOptions,
    keys: &'a Keys,
    conduct: &'a Conduct,
    lanes: BTreeMap<String, Lane>,
    local: BTreeMap<String, Arc<dyn Model>>,
    /// In the order in which they were requested.
    pub models: Vec<Arc<dyn Model>>,
    pub problems: Vec<Problem>,
    /// Checks that passed, one line each.
    pub ready: Vec<String>,
    /// Number of problems with keys, addresses and accounts.
    pub unready: usize,
    /// Missing prerequisites that a plan does not need.
    pub warnings: Vec<Problem>,
}

impl<'a> ModelOpener<'a> {
    pub fn new(options: &'a ModelOptions, keys: &'a Keys, conduct: &'a Conduct) -> Self {
        let (lanes, local) = (BTreeMap::new(), BTreeMap::new());
        let (models, problems, ready) = (Vec::new(), Vec::new(), Vec::new());
        Self { options, keys, conduct, lanes, local, models, problems, ready, unready: 0, warnings: Vec::new() }
    }

    /// Opens a model for `part`; `None` if a problem was added.
    pub fn client(&mut self, part: &str, model: &ModelRef) -> Option<ModelClient> {
        let opened = if model.name == SCRIPTED {
            self.scripted(model)
        } else if is_api(&model.name) {
            self.api(model)
        } else {
            self.local(model)
        };
        match opened {
            Ok(client) => {
                self.models.push(client.model.clone());
                Some(client)
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

    /// Adds a warning about something that a run needs and a plan does not.
    pub fn warn(&mut self, problem: Problem) {
        let note = Problem { what: format!("a run needs this: {}", problem.what), ..problem };
        if !self.warnings.iter().any(|known| known.what == note.what) {
            self.warnings.push(note);
        }
    }

    /// The lanes of all opened models. Adds a problem for every configured lane without a model.
    pub fn lanes(&mut self) -> Vec<Lane> {
        for LaneSpec { name, .. } in &self.conduct.lanes {
            // A model that could not be opened has no lane.
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
                let opened: Arc<dyn Model> = open_local(&model.name, self.options.device, &self.options.engine)?;
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
            (Some(written), Some(price)) => {
                json!({"price": price, "date": written.date, "source": "the experiment's file"})
            }
            _ => json!(facts.price),
        };
        let limited = self.conduct.budget_limit.is_some() || self.conduct.cost_per_run_limit.is_some();
        if limited && note.is_null() {
            return Err(Problem::new(format!("the price of `{}` is unknown, so its budget cannot be enforced", model.name)).hint(
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
            // Opening without a key reports every problem but the key.
            Err(problem) if self.options.for_plan => {
                let opened = open_api(&model.name, self.keys, ApiOptions { for_plan: true, ..options })?;
                self.warn(match problem.place {
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

    /// Adds a lane with the limits of the experiment, or else of the preset.
    fn lane(&mut self, name: &str, preset: LanePreset) {
        if self.lanes.contains_key(name) {
            return;
        }
        let configured = self.conduct.lanes.iter().find(|lane| lane.name == name);
        // Each of several processes keeps to its share.
        let share = self.options.rate_share.unwrap_or(1).max(1) as u64;
        let part = |limit: u64| (limit / share).max(1);
        let requests = configured.and_then(|lane| lane.requests_per_minute).or(preset.requests_per_minute);
        let in_flight = configured.and_then(|lane| lane.max_in_flight).or(preset.max_in_flight);
        let limits = LaneLimits {
            requests_per_minute: requests.map(|limit| part(u64::from(limit)) as u32),
            input_tokens_per_minute: configured.and_then(|lane| lane.input_tokens_per_minute).map(part),
            output_tokens_per_minute: configured.and_then(|lane| lane.output_tokens_per_minute).map(part),
            max_in_flight: in_flight.map(|limit| part(limit as u64) as usize),
        };
        self.lanes.insert(name.to_owned(), Lane::new(name, limits));
    }
}
