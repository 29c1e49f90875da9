//! Forecast of a scenario batch: calls, context tokens, and the cost with replies as long as allowed. A request that a model does not
//! accept or cannot hold is an error.

use std::collections::BTreeMap;

use super::messages::PrivateMessage;
use super::prompts::{self, Request, actor_messages};
use super::reply::Sections;
use super::turn::{Decision, MessageReply, ModelReply, Turn};
use super::{Resources, Variation};
use crate::config::Scenario;
use crate::worst_case::{WorstCase, located};
use crate::{CellForecast, Forecast, ModelClient, TokenForecast};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ChatRequest, SeedKey};

pub fn forecast(resources: &Resources, ids: &[String]) -> Result<Forecast, Vec<Problem>> {
    let spec = &resources.spec;
    let max_new_tokens = spec.max_new_tokens.max(spec.world_max_tokens);
    let mut forecast = Forecast { max_new_tokens, ..Forecast::default() };
    let mut cost = WorstCase::default();
    let mut problems: Vec<Problem> = Vec::new();
    for (variation, id) in resources.variations.iter().zip(ids) {
        let title = &variation.title;
        match RunForecast::of(resources, variation) {
            Ok(run) => {
                cost.add(&run.cost, spec.runs_per_variation);
                if let Some((turn, part)) = run.may_overflow {
                    forecast.notes.push(format!(
                        "{id} ({title}) may exceed the context of {part} from turn {turn} on if replies are as long as allowed; such a run \
                         fails",
                    ));
                }
                forecast.limit = forecast.limit.max(run.limit);
                forecast.cells.push(CellForecast {
                    cell: id.clone(),
                    runs: spec.runs_per_variation,
                    turns: variation.scenario.turns,
                    tokens: run.tokens,
                    first_prompt: run.first_prompt,
                });
            }
            // Problems of a model repeat in every variation.
            Err(problem) if problems.iter().any(|known| known.what == problem.what) => {}
            Err(problem) => problems.push(located(problem, format!("{id}: {title}"))),
        }
    }
    (forecast.paid_calls, forecast.worst_micro_usd) = (cost.paid_calls, cost.micro_usd);
    if problems.is_empty() { Ok(forecast) } else { Err(problems) }
}

/// One run with replies as long as allowed (`long`) and with empty replies (`short`).
#[derive(Default)]
struct RunForecast {
    cost: WorstCase,
    tokens: Option<TokenForecast>,
    limit: Option<usize>,
    /// The first turn at which a local model's context may be too small, and the part that the model plays.
    may_overflow: Option<(usize, String)>,
    first_prompt: String,
}

impl RunForecast {
    fn of(resources: &Resources, variation: &Variation) -> Result<Self, Problem> {
        let (spec, scenario) = (&resources.spec, &variation.scenario);
        let mut forecast = Self::default();
        let seed = SeedKey::default();
        // One byte a token, as in the upper bound on input tokens.
        let (reply, state) = ("x".repeat(spec.max_new_tokens), "x".repeat(spec.world_max_tokens));
        let (mut long_past, mut short_past): (Vec<Turn>, Vec<Turn>) = (Vec::new(), Vec::new());
        let rounds = scenario.communication.map_or(0, |rules| rules.rounds);
        let mut replies: BTreeMap<&str, usize> = BTreeMap::new();
        for number in 1..=scenario.turns {
            let (long, short) = (turn(scenario, number, &reply, &state), turn(scenario, number, "", ""));
            for actor in &scenario.actors {
                let (name, model) = (actor.short_name.as_str(), &actor.llm_model);
                let client = resources.model(model)?;
                for request in (1..=rounds).map(Request::Messages).chain([Request::Decision]) {
                    let messages = actor_messages(scenario, actor, &long_past, &long.messages, request);
                    forecast.add_call(client, &resources.actor_request(model, messages, seed), model)?;
                    *replies.entry(name).or_default() += spec.max_new_tokens;
                }
                let messages = actor_messages(scenario, actor, &short_past, &short.messages, Request::Decision);
                let request = resources.actor_request(model, messages, seed);
                forecast.check_context(client, &request, number, name, replies[name])?;
            }
            let world = |past: &[Turn], turn: &Turn| {
                let state = past.last().map_or(&scenario.initial_world_state, |turn| &turn.world_state);
                resources.world_request(prompts::world_messages(scenario, number, state, &turn.decisions), seed)
            };
            let client = resources.model(&scenario.world_state_model)?;
            forecast.add_call(client, &world(&long_past, &long), &scenario.world_state_model)?;
            let grown = scenario.actors.len() * spec.max_new_tokens + 2 * spec.world_max_tokens;
            forecast.check_context(client, &world(&short_past, &short), number, "the world-state model", grown)?;
            if let Some(judge) = resources.judge() {
                let transcript = prompts::judge_transcript(scenario, number, &long.decisions, &state);
                forecast.add_call(&judge.client, &judge.request(transcript, seed), "judge")?;
            }
            long_past.push(long);
            short_past.push(short);
        }
        Ok(forecast)
    }

    fn add_call(&mut self, client: &ModelClient, request: &ChatRequest, part: &str) -> Result<(), Problem> {
        self.cost.add_call(client, request).map_err(|problem| located(problem, part))
    }

    /// Checks that a local model can hold the request, whose earlier replies are empty and may take `replies` tokens.
    fn check_context(
        &mut self,
        client: &ModelClient,
        request: &ChatRequest,
        turn: usize,
        part: &str,
        replies: usize,
    ) -> Result<(), Problem> {
        let Some(limit) = client.context_limit() else { return Ok(()) };
        let (text, least) = client.rendered(request)?;
        let new = request.max_new_tokens.unwrap_or(0);
        if self.first_prompt.is_empty() {
            self.first_prompt = text;
        }
        if least + new > limit {
            return Err(Problem::new(format!(
                "the request to {part} in turn {turn} cannot fit: it needs {} tokens of context even if every reply is empty, and `{}` has \
                 {limit}",
                least + new,
                client.model.card().name
            ))
            .hint("lower sampling.max_new_tokens, turns or context_window_size, or use a model with a longer context"));
        }
        let most = least + replies.max(new);
        if most > limit && self.may_overflow.is_none() {
            self.may_overflow = Some((turn, part.to_owned()));
        }
        self.limit = self.limit.max(Some(limit));
        let known = self.tokens.unwrap_or(TokenForecast { least: 0, most: 0, may_overflow_at: None });
        self.tokens = Some(TokenForecast {
            least: known.least.max(least),
            most: known.most.max(most),
            may_overflow_at: known.may_overflow_at.or((most > limit).then_some(turn)),
        });
        Ok(())
    }
}

/// A turn in which every reply of an actor is `reply`, with a message to all others in every round.
fn turn(scenario: &Scenario, number: usize, reply: &str, state: &str) -> Turn {
    let rounds = scenario.communication.map_or(0, |rules| rules.rounds);
    let mut turn = Turn { turn: number, world_state: state.to_owned(), ..Turn::default() };
    for actor in &scenario.actors {
        let (actor, text) = (actor.short_name.clone(), reply.to_owned());
        let sections = Sections { action: Some(text.clone()), ..Sections::default() };
        let others = scenario.actors.iter().map(|other| other.short_name.clone()).filter(|to| *to != actor);
        let message = PrivateMessage { to: others.collect(), text: text.clone(), rejected: None };
        turn.messages.extend((1..=rounds).map(|round| MessageReply {
            round,
            from: actor.clone(),
            text: text.clone(),
            messages: vec![message.clone()],
            reply: ModelReply::default(),
        }));
        turn.decisions.push(Decision { actor, text, sections, ..Decision::default() });
    }
    turn
}
