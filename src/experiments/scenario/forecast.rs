//! Owns what a scenario batch will take: calls, tokens of context, and the most it can cost if every reply is as long as it may be
//! and every call is made once. What a model does not take, or cannot hold, is refused before anything is spent.
//! Must not know: engine, provider, run folders, terminal.

use std::collections::BTreeMap;

use super::decision::Sections;
use super::prompt::{Asking, actor_messages, is_judged, judge_messages, world_messages};
use super::turn::{Decision, Turn, Written};
use super::{Place, Setting};
use crate::{CellForecast, Forecast, ModelClient, TokenForecast};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ChatRequest, SeedKey};

pub fn forecast(setting: &Setting, ids: &[String]) -> Result<Forecast, Vec<Problem>> {
    let spec = &setting.spec;
    let longest = spec.max_new_tokens.max(spec.world_max_tokens);
    let mut forecast = Forecast { max_new_tokens: longest, worst_micro_usd: Some(0), ..Forecast::default() };
    let mut problems: Vec<Problem> = Vec::new();
    for (place, id) in setting.places.iter().zip(ids) {
        match Walk::through(setting, place) {
            Ok(walk) => {
                let runs = spec.runs_per_variation as u64;
                let worst = forecast.worst_micro_usd.zip(walk.worst_micro_usd);
                forecast.worst_micro_usd = worst.map(|(all, own)| all.saturating_add(own.saturating_mul(runs)));
                forecast.paid_calls += walk.paid_calls * runs;
                if let Some((turn, part)) = walk.may_overflow {
                    forecast.notes.push(format!(
                        "{id} ({}) may outgrow the context of {part} from turn {turn} on if replies are as long as allowed; such a run fails",
                        place.title
                    ));
                }
                forecast.limit = forecast.limit.max(walk.limit);
                forecast.cells.push(CellForecast {
                    cell: id.clone(),
                    runs: spec.runs_per_variation,
                    turns: place.scenario.turns,
                    tokens: walk.tokens,
                    first_prompt: walk.first_prompt,
                });
            }
            // What is wrong with a model is wrong wherever it plays.
            Err(problem) if problems.iter().any(|known| known.what == problem.what) => {}
            Err(problem) => problems.push(match problem.place {
                Some(_) => problem,
                None => problem.at(format!("{id}: {}", place.title)),
            }),
        }
    }
    if problems.is_empty() { Ok(forecast) } else { Err(problems) }
}

/// One run as it would go with replies of the greatest and of the smallest length.
#[derive(Default)]
struct Walk {
    paid_calls: u64,
    worst_micro_usd: Option<u64>,
    tokens: Option<TokenForecast>,
    limit: Option<usize>,
    /// The first turn at which a local model's context may be too small, and whose.
    may_overflow: Option<(usize, String)>,
    first_prompt: String,
}

impl Walk {
    fn through(setting: &Setting, place: &Place) -> Result<Self, Problem> {
        let (spec, scenario) = (&setting.spec, &place.scenario);
        let mut walk = Self { worst_micro_usd: Some(0), ..Self::default() };
        // As many bytes as there may be tokens: the bound on input tokens counts one a byte.
        let (reply, state) = ("x".repeat(spec.max_new_tokens), "x".repeat(spec.world_max_tokens));
        let (mut over, mut least): (Vec<Turn>, Vec<Turn>) = (Vec::new(), Vec::new());
        let mut reserved: BTreeMap<&str, usize> = BTreeMap::new();
        for number in 1..=scenario.turns {
            let (long, short) = (turn(place, number, &reply, &state), turn(place, number, "", ""));
            for actor in &scenario.actors {
                let speaker = setting.speaker(&actor.llm_model)?;
                let rounds = scenario.communication.map_or(0, |rules| rules.rounds);
                let askings = (1..=rounds).map(Asking::Letters).chain([Asking::Decision]);
                for asking in askings {
                    let messages = actor_messages(scenario, actor, &over, &long.written, asking);
                    let request = setting.of_actor(&actor.llm_model, messages, SeedKey::default());
                    walk.call(speaker, &request).map_err(|problem| part_of(&actor.llm_model, problem))?;
                    *reserved.entry(actor.short_name.as_str()).or_default() += spec.max_new_tokens;
                }
                let messages = actor_messages(scenario, actor, &least, &short.written, Asking::Decision);
                let request = setting.of_actor(&actor.llm_model, messages, SeedKey::default());
                let replies = reserved.get(actor.short_name.as_str()).copied().unwrap_or(0);
                walk.fits(speaker, &request, number, &actor.short_name, replies)?;
            }
            let before = over.last().map_or(&scenario.initial_world_state, |turn| &turn.world_state);
            let world = setting.speaker(&scenario.world_state_model)?;
            let messages = world_messages(scenario, number, before, &long.decisions);
            let request = setting.of_world(messages, SeedKey::default());
            walk.call(world, &request).map_err(|problem| part_of(&scenario.world_state_model, problem))?;
            let before = least.last().map_or(&scenario.initial_world_state, |turn| &turn.world_state);
            let messages = world_messages(scenario, number, before, &short.decisions);
            let grown = scenario.actors.len() * spec.max_new_tokens + 2 * spec.world_max_tokens;
            walk.fits(world, &setting.of_world(messages, SeedKey::default()), number, "the world-state model", grown)?;
            if let Some(judge) = setting.judge.as_ref().filter(|_| is_judged(scenario)) {
                let messages = judge_messages(scenario, number, &long.decisions, &state);
                walk.call(judge, &setting.of_judge(messages, SeedKey::default())).map_err(|p| part_of("judge", p))?;
            }
            over.push(long);
            least.push(short);
        }
        Ok(walk)
    }

    /// Counts a call at its worst.
    fn call(&mut self, speaker: &ModelClient, request: &ChatRequest) -> Result<(), Problem> {
        speaker.model.check(request)?;
        let worst = speaker.model.worst_case_micro_usd(request);
        self.worst_micro_usd = self.worst_micro_usd.zip(worst).map(|(sum, worst)| sum.saturating_add(worst));
        self.paid_calls += u64::from(!speaker.local);
        Ok(())
    }

    /// Whether a model on this machine can hold the request, whose replies before it are empty and may take `replies` tokens.
    fn fits(
        &mut self,
        speaker: &ModelClient,
        request: &ChatRequest,
        turn: usize,
        part: &str,
        replies: usize,
    ) -> Result<(), Problem> {
        let card = speaker.model.card();
        let Some(limit) = card.hidden_size.and(card.max_positions) else { return Ok(()) };
        let rendered = speaker.model.render(&request.messages).map_err(|error| error.problem())?;
        let (least, new) = (rendered.token_ids.len(), request.max_new_tokens.unwrap_or(0));
        if self.first_prompt.is_empty() {
            self.first_prompt = rendered.text;
        }
        if least + new > limit {
            return Err(Problem::new(format!(
                "{part} cannot be asked in turn {turn}: that needs {} tokens of context even if every reply is empty, and `{}` has {limit}",
                least + new,
                card.name
            ))
            .hint("lower sampling.max_new_tokens, turns or context_window_size, or take a model with a longer context"));
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

/// A turn in which everybody said `reply`.
fn turn(place: &Place, number: usize, reply: &str, state: &str) -> Turn {
    let scenario = &place.scenario;
    let rounds = scenario.communication.map_or(0, |rules| rules.rounds);
    let mut turn = Turn { turn: number, world_state: state.to_owned(), ..Turn::default() };
    for actor in &scenario.actors {
        let sections = Sections { action: Some(reply.to_owned()), ..Sections::default() };
        let from = actor.short_name.clone();
        turn.decisions.push(Decision { actor: from.clone(), text: reply.to_owned(), sections, ..Decision::default() });
        for round in 1..=rounds {
            let everybody = scenario.actors.iter().map(|other| other.short_name.clone()).filter(|to| *to != from);
            let letter = super::turn::Sent { to: everybody.collect(), text: reply.to_owned(), refused: None };
            let (text, taken) = (reply.to_owned(), super::turn::Taken::default());
            turn.written.push(Written { round, from: from.clone(), text, letters: vec![letter], taken });
        }
    }
    turn
}

fn part_of(part: &str, problem: Problem) -> Problem {
    match problem.place {
        Some(_) => problem,
        None => problem.at(part.to_owned()),
    }
}
