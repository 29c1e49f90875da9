//! Owns one run of a scenario, turn by turn: private messages where the scenario has them, everybody's decision, the new state of the
//! world, what is measured; after every turn what there is so far is kept.
//!
//! Decisions are simultaneous although the calls follow each other: what an actor is sent is made of turns that are over and of the
//! messages of this turn, so nothing of another's decision can be in it.
//!
//! Seeds: call i of a run (from 0, in the order of the calls) is drawn with key = the run's seed and stream i. A run's seed is the low
//! 31 bits of `seed_for(base seed, run id)`: the number that providers take.
//! Must not know: engine, provider, run folders, terminal.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;

use super::decision::{Layout, letters, sections};
use super::measure::{self, Found, number};
use super::prompt::{Asking, actor_messages, is_judged, judge_messages, world_messages};
use super::turn::{Decision, Sent, Taken, Turn, Written, status};
use super::{Place, Setting};
use crate::config::{Actor, Scenario};
use crate::{ModelClient, extract};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ChatReply, ChatRequest, ConversationId, Message, Model, Role, Sampling, SeedKey, Usage};
use tiltmeter_scheduler::{Run, RunContext, RunError, seed_for};
use tiltmeter_store::{Outcome, RunKey, Series, SourceVersion, timestamp};

/// How every problem with what a judge says begins.
pub const JUDGE_FAILURE: &str = "judge failure";

/// The seed of a run.
pub fn run_seed(base: u64, run_id: &str) -> u64 {
    seed_for(base, run_id) & 0x7fff_ffff
}

/// When a run began, and under what: read once, so that a resume has the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Began {
    /// RFC 3339 in UTC.
    timestamp: String,
    runner_version: String,
    code_commit: Option<String>,
}

fn now() -> String {
    timestamp(OffsetDateTime::now_utc())
}

impl Began {
    fn now() -> Self {
        Self {
            timestamp: now(),
            runner_version: format!("tiltmeter {}", env!("CARGO_PKG_VERSION")),
            code_commit: SourceVersion::of_program().map(SourceVersion::label),
        }
    }
}

/// What stands between an actor's name and an axis' where its private messages are projected.
pub const LETTERS: &str = "letters";

/// One repetition of one variation.
pub struct Play {
    key: RunKey,
    /// `var-001`
    variation_id: String,
    place: usize,
    /// Of the first actor; the others follow.
    conversation: u64,
    setting: Arc<Setting>,
}

/// The models keep nothing of conversations that are over, however they ended.
struct Closing<'a>(Vec<(&'a dyn Model, ConversationId)>);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        for (model, conversation) in &self.0 {
            model.close(*conversation);
        }
    }
}

/// Numbers the calls of a run.
struct Seeds {
    key: u64,
    calls: u64,
}

impl Seeds {
    fn next(&mut self) -> SeedKey {
        self.calls += 1;
        SeedKey { key: self.key, stream: self.calls - 1 }
    }
}

impl Play {
    pub fn new(setting: &Arc<Setting>, key: RunKey, variation_id: String, place: usize, conversation: u64) -> Self {
        Self { key, variation_id, place, conversation, setting: setting.clone() }
    }

    fn place(&self) -> &Place {
        &self.setting.places[self.place]
    }

    fn scenario(&self) -> &Scenario {
        &self.place().scenario
    }

    fn speaker(&self, model: &str) -> Result<&ModelClient, Problem> {
        let speaker = self.setting.speakers.get(model);
        speaker.ok_or_else(|| Problem::new(format!("the model `{model}` was not opened")))
    }

    /// Asks an actor to go on with its conversation.
    async fn ask(
        &self,
        ctx: &RunContext,
        actor: (usize, &Actor),
        step: &str,
        messages: Vec<Message>,
        seed: SeedKey,
    ) -> Result<ChatReply, RunError> {
        let (index, actor) = actor;
        let conversation = ConversationId(self.conversation + index as u64);
        let request = self.setting.of_actor(&actor.llm_model, messages, seed);
        let request = ChatRequest { conversation: Some(conversation), ..request };
        let reply = self.speaker(&actor.llm_model)?.ask(ctx, step, &request).await?;
        count(ctx, &reply);
        Ok(reply)
    }

    /// The messages of a turn, round by round; in a round nobody knows what the others write.
    async fn correspond(&self, ctx: &RunContext, over: &[Turn], seeds: &mut Seeds) -> Result<Vec<Written>, RunError> {
        let scenario = self.scenario();
        let Some(rules) = scenario.communication else { return Ok(Vec::new()) };
        let mut written: Vec<Written> = Vec::new();
        for round in 1..=rules.rounds {
            let before = written.clone();
            for (index, actor) in scenario.actors.iter().enumerate() {
                let messages = actor_messages(scenario, actor, over, &before, Asking::Letters(round));
                let step = format!("turn {} messages {round} {}", over.len() + 1, actor.short_name);
                let seed = seeds.next();
                let reply = self.ask(ctx, (index, actor), &step, messages, seed).await?;
                let text = reply.message.content.clone();
                written.push(Written {
                    round,
                    from: actor.short_name.clone(),
                    letters: letters(&text).into_iter().map(|letter| delivered(scenario, actor, letter)).collect(),
                    taken: Taken::of(&actor.llm_model, &reply, seed),
                    text,
                });
            }
        }
        Ok(written)
    }

    async fn decide(
        &self,
        ctx: &RunContext,
        over: &[Turn],
        written: &[Written],
        seeds: &mut Seeds,
    ) -> Result<Vec<Decision>, RunError> {
        let scenario = self.scenario();
        let mut decisions = Vec::new();
        for (index, actor) in scenario.actors.iter().enumerate() {
            // Made of what was before the turn, and not of `decisions`.
            let messages = actor_messages(scenario, actor, over, written, Asking::Decision);
            let step = format!("turn {} {}", over.len() + 1, actor.short_name);
            let seed = seeds.next();
            let reply = self.ask(ctx, (index, actor), &step, messages, seed).await?;
            let text = reply.message.content.clone();
            let (sections, layout) = sections(&text);
            let mut taken = Taken::of(&actor.llm_model, &reply, seed);
            match layout {
                Layout::NoAction if taken.reply_record.status == status::OK => {
                    taken.reply_record.status = status::NO_ACTION.to_owned()
                }
                Layout::Whole if taken.reply_record.status == status::OK => {
                    taken.reply_record.status = status::UNSTRUCTURED.to_owned()
                }
                _ => {}
            }
            decisions.push(Decision { actor: actor.short_name.clone(), text, sections, taken });
        }
        Ok(decisions)
    }

    /// The new state of the world. An empty one is no state: it is asked for once more, then the run has failed.
    async fn world(
        &self,
        ctx: &RunContext,
        turn: usize,
        state: &str,
        decisions: &[Decision],
        seed: SeedKey,
    ) -> Result<(String, Taken), RunError> {
        let scenario = self.scenario();
        let request = self.setting.of_world(world_messages(scenario, turn, state, decisions), seed);
        let step = format!("turn {turn} world state");
        let speaker = self.speaker(&scenario.world_state_model)?;
        let reply = speaker.ask_checked(ctx, &step, &request, not_empty).await?;
        count(ctx, &reply);
        Ok((reply.message.content.trim().to_owned(), Taken::of(&scenario.world_state_model, &reply, seed)))
    }

    /// What is measured after a turn.
    async fn measure(&self, ctx: &RunContext, turn: &mut Turn, seeds: &mut Seeds) -> Result<(), RunError> {
        let scenario = self.scenario();
        for one in &self.setting.measures {
            let text = match &one.metric.actor {
                Some(actor) => turn.decision(actor).map_or("", |decision| decision.text.as_str()),
                None => turn.world_state.as_str(),
            };
            if let Some(found) = one.find(text) {
                turn.metrics.insert(one.metric.id.clone(), found);
            }
        }
        let Some(judge) = self.setting.judge.as_ref().filter(|_| is_judged(scenario)) else { return Ok(()) };
        let seed = seeds.next();
        let messages = judge_messages(scenario, turn.turn, &turn.decisions, &turn.world_state);
        let request = self.setting.of_judge(messages, seed);
        let read = |reply: &ChatReply| -> Result<Vec<(String, Found)>, Problem> {
            let values = extract::object(&reply.message.content);
            let values = values.and_then(|object| measure::judged(&object, &self.setting.measures));
            values.map_err(|problem| Problem { what: format!("{JUDGE_FAILURE}: {}", problem.what), ..problem })
        };
        let step = format!("turn {} judge", turn.turn);
        let reply = judge.ask_checked(ctx, &step, &request, |reply| read(reply).map(drop)).await?;
        count(ctx, &reply);
        turn.metrics.extend(read(&reply)?);
        turn.judge = Some(Taken::of(&judge.model.card().name, &reply, seed));
        Ok(())
    }

    fn labels(&self, began: &Began, finished: bool) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::from([
            ("run_id".to_owned(), self.key.id()),
            ("variation_id".to_owned(), self.variation_id.clone()),
            ("variation".to_owned(), self.place().title.clone()),
            ("status".to_owned(), if finished { "completed" } else { "running" }.to_owned()),
            ("timestamp".to_owned(), began.timestamp.clone()),
            ("runner_version".to_owned(), began.runner_version.clone()),
        ]);
        labels.extend(began.code_commit.clone().map(|commit| ("code_commit".to_owned(), commit)));
        labels
    }

    fn outcome(&self, began: &Began, turns: &[Turn], finished: bool) -> Outcome {
        let usages = || turns.iter().flat_map(Turn::taken).map(|(_, taken)| taken.reply_record.usage);
        let sum = |count: fn(&Usage) -> u64| usages().map(|usage| count(&usage)).sum::<u64>() as f64;
        let mut labels = self.labels(began, finished);
        let mut metrics = BTreeMap::from([
            ("turns".to_owned(), turns.len() as f64),
            ("replies".to_owned(), usages().count() as f64),
            ("prompt_tokens".to_owned(), sum(|usage| usage.prompt_tokens)),
            ("completion_tokens".to_owned(), sum(|usage| usage.completion_tokens)),
            ("cost_usd".to_owned(), usages().map(|usage| usage.cost_usd).sum()),
        ]);
        let mut series = Vec::new();
        for one in &self.setting.measures {
            let (id, kind) = (&one.metric.id, one.metric.kind);
            let found = |turn: &Turn| turn.metrics.get(id).cloned().unwrap_or_default();
            let last = turns.last().map(found).unwrap_or_default();
            if let Some(value) = last.value.as_bool() {
                labels.insert(id.clone(), value.to_string());
            }
            if kind.is_number() {
                metrics.extend(number(&last).map(|value| (format!("metric.{id}"), value)));
                series.push(Series {
                    name: id.clone(),
                    values: turns.iter().map(|turn| number(&found(turn))).collect(),
                    statuses: turns.iter().map(|turn| found(turn).status).collect(),
                });
            }
        }
        if !finished {
            // Of a run that is under way only turns are asked for; what is made of all of them would grow with every turn.
            let turns = turns.iter().map(|turn| json!(turn.light())).collect();
            return Outcome { labels, metrics, turns, ..Outcome::default() };
        }
        series.extend(self.projections(turns));
        let transcript = self.transcript(turns);
        Outcome { labels, metrics, series, transcript, turns: turns.iter().map(|turn| json!(turn)).collect() }
    }

    /// One series an actor and probe: the mean over the span of what it said when it decided, turn by turn; and where actors write to
    /// each other, one of everything that it wrote, in order.
    fn projections(&self, turns: &[Turn]) -> Vec<Series> {
        let mut series = Vec::new();
        for actor in &self.scenario().actors {
            let plan = self.setting.probes.get(&actor.llm_model);
            for (index, probe) in plan.iter().flat_map(|plan| &plan.probes).enumerate() {
                if self.scenario().communication.is_some() {
                    let letters = turns.iter().flat_map(|turn| &turn.written);
                    let own: Vec<&Taken> =
                        letters.filter(|one| one.from == actor.short_name).map(|one| &one.taken).collect();
                    series.push(Series {
                        name: format!("{}.{LETTERS}.{}@{}", actor.short_name, probe.name, probe.site),
                        values: own.iter().map(|taken| taken.reply_record.mean(index)).collect(),
                        statuses: own.iter().map(|taken| spoken(taken)).collect(),
                    });
                }
                let taken = |turn: &Turn| turn.decision(&actor.short_name).map(|decision| decision.taken.clone());
                series.push(Series {
                    name: format!("{}.{}@{}", actor.short_name, probe.name, probe.site),
                    values: turns.iter().map(|turn| taken(turn)?.reply_record.mean(index)).collect(),
                    statuses: turns
                        .iter()
                        .map(|turn| taken(turn).map_or(String::new(), |taken| spoken(&taken)))
                        .collect(),
                });
            }
        }
        series
    }

    /// The run as a reader follows it: what everybody said, and what the world became.
    fn transcript(&self, turns: &[Turn]) -> Vec<Message> {
        let scenario = self.scenario();
        let mut told = vec![Message::new(Role::User, format!("[world]\n{}", scenario.initial_world_state.trim()))];
        for turn in turns {
            let said = |who: &str, text: &str| Message::new(Role::Assistant, format!("[{who}]\n{}", text.trim()));
            told.extend(
                turn.written.iter().map(|written| said(&format!("{}, privately", written.from), &written.text)),
            );
            told.extend(turn.decisions.iter().map(|decision| said(&decision.actor, &decision.text)));
            told.push(Message::new(Role::User, format!("[world]\n{}", turn.world_state)));
        }
        told
    }
}

/// The status of a measured reply: a decision without headings was spoken all the same.
fn spoken(taken: &Taken) -> String {
    match taken.reply_record.status.as_str() {
        status::UNSTRUCTURED | status::NO_ACTION => status::OK.to_owned(),
        other => other.to_owned(),
    }
}

fn count(ctx: &RunContext, reply: &ChatReply) {
    ctx.count("replies", 1);
    ctx.count("tokens", reply.usage.completion_tokens);
}

fn not_empty(reply: &ChatReply) -> Result<(), Problem> {
    match reply.message.content.trim().is_empty() {
        false => Ok(()),
        true => Err(Problem::new("the world-state model gave an empty state").hint("take another world_state_model")),
    }
}

/// A letter as it reaches others: to actors that there are, other than the writer, in a way the scenario allows.
fn delivered(scenario: &Scenario, from: &Actor, letter: super::decision::Letter) -> Sent {
    let same = |a: &str, b: &str| a.trim().eq_ignore_ascii_case(b);
    let mut to: Vec<String> = Vec::new();
    let mut refused = None;
    for name in &letter.to {
        match scenario.actors.iter().find(|actor| same(name, &actor.short_name) || same(name, &actor.name)) {
            None => refused = Some(format!("there is no {name}")),
            Some(actor) if actor.short_name == from.short_name => refused = Some("it is to the writer".to_owned()),
            Some(actor) if to.contains(&actor.short_name) => {}
            Some(actor) => to.push(actor.short_name.clone()),
        }
    }
    let rules = scenario.communication;
    refused = refused.or(match to.len() {
        1 if rules.is_none_or(|rules| !rules.bilateral) => Some("nobody may write to one other alone".to_owned()),
        2.. if rules.is_none_or(|rules| !rules.coalition) => Some("nobody may write to several at once".to_owned()),
        _ => None,
    });
    if refused.is_some() {
        to.clear();
    }
    Sent { to, text: letter.text, refused }
}

#[async_trait::async_trait]
impl Run for Play {
    fn key(&self) -> &RunKey {
        &self.key
    }

    async fn execute(&self, ctx: &RunContext) -> Result<Outcome, RunError> {
        let scenario = self.scenario();
        let mut open: Vec<(&dyn Model, ConversationId)> = Vec::new();
        for (index, actor) in scenario.actors.iter().enumerate() {
            let speaker = self.speaker(&actor.llm_model)?;
            open.push((speaker.model.as_ref(), ConversationId(self.conversation + index as u64)));
        }
        let _closing = Closing(open);
        let began: Began = ctx.step_repeatable("begin", &(), || async { Ok(Began::now()) }).await?;
        let mut seeds = Seeds { key: run_seed(self.setting.spec.seed, &self.key.id()), calls: 0 };
        let mut turns: Vec<Turn> = Vec::new();
        // The world before the first turn is a result too, and the files of the run begin with it.
        ctx.checkpoint(&self.outcome(&began, &turns, false)).await?;
        for number in 1..=scenario.turns {
            let written = self.correspond(ctx, &turns, &mut seeds).await?;
            let decisions = self.decide(ctx, &turns, &written, &mut seeds).await?;
            let state = turns.last().map_or(&scenario.initial_world_state, |turn| &turn.world_state);
            let (world_state, world) = self.world(ctx, number, state, &decisions, seeds.next()).await?;
            let mut turn = Turn { turn: number, written, decisions, world_state, world, ..Turn::default() };
            self.measure(ctx, &mut turn, &mut seeds).await?;
            turn.ended = ctx.step_repeatable(&format!("turn {number} ends"), &(), || async { Ok(now()) }).await?;
            turns.push(turn);
            ctx.count("turns", 1);
            // What was paid for is not lost with a later turn.
            if number < scenario.turns {
                ctx.checkpoint(&self.outcome(&began, &turns, false)).await?;
            }
        }
        let outcome = self.outcome(&began, &turns, true);
        let measured = outcome.metrics.iter().filter_map(|(name, value)| Some((name.strip_prefix("metric.")?, value)));
        let measured: Vec<String> = measured.map(|(name, value)| format!("{name} {value}")).collect();
        ctx.say(format!(
            "✓ {}: {} turns{}",
            self.key.id(),
            turns.len(),
            measured.iter().map(|m| format!(", {m}")).collect::<String>()
        ));
        Ok(outcome)
    }
}

impl Setting {
    /// What an actor is asked.
    pub fn of_actor(&self, model: &str, messages: Vec<Message>, seed: SeedKey) -> ChatRequest {
        ChatRequest {
            sampling: self.spec.sampling,
            max_new_tokens: Some(self.spec.max_new_tokens),
            seed,
            probes: self.probes.get(model).cloned(),
            ..ChatRequest::new(messages)
        }
    }

    /// What the world-state model is asked.
    pub fn of_world(&self, messages: Vec<Message>, seed: SeedKey) -> ChatRequest {
        ChatRequest {
            sampling: self.spec.sampling,
            max_new_tokens: Some(self.spec.world_max_tokens),
            seed,
            ..ChatRequest::new(messages)
        }
    }

    /// What the judge is asked.
    pub fn of_judge(&self, messages: Vec<Message>, seed: SeedKey) -> ChatRequest {
        ChatRequest {
            sampling: Sampling::default(),
            max_new_tokens: Some(self.spec.judge_max_tokens),
            seed,
            response_schema: self.schema.clone(),
            ..ChatRequest::new(messages)
        }
    }
}
