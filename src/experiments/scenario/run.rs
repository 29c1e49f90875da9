//! One run of a scenario, turn by turn: private messages, decisions, the new world state, metrics; a partial outcome is saved after
//! every turn.
//!
//! Decisions are simultaneous although their calls are sequential: an actor's prompt is built from past turns and this turn's messages,
//! never from decisions of this turn.
//!
//! Seeds: call i of a run (from 0, in the order of the calls) uses key = the run's seed and stream = i. A run's seed is the low 31 bits
//! of `seed_for(base seed, run id)`, a range that all providers accept.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;

use super::metrics::{self, MetricValue};
use super::prompts::{self, Request};
use super::reply::{Layout, sections};
use super::turn::{Decision, MessageReply, ModelReply, Turn, status};
use super::{Resources, Variation, messages};
use crate::config::{Actor, Scenario};
use crate::extract;
use crate::model_client::OpenConversations;
use crate::reply_record::{projections, usage_metrics};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ChatReply, ChatRequest, ConversationId, Message, Model, Role, SeedKey};
use tiltmeter_scheduler::{Run, RunContext, RunError, seed_for};
use tiltmeter_store::{Outcome, RunKey, Series, SourceVersion, timestamp};

/// The seed of a run.
pub fn run_seed(base: u64, run_id: &str) -> u64 {
    seed_for(base, run_id) & 0x7fff_ffff
}

/// Prefix of the series of an actor's private messages.
pub fn message_series_prefix(actor: &Actor) -> String {
    format!("{}.letters.", actor.short_name)
}

/// Start of a run; journaled, so that a resumed run keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct RunStart {
    /// RFC 3339 in UTC.
    timestamp: String,
    runner_version: String,
    code_commit: Option<String>,
}

fn now() -> String {
    timestamp(OffsetDateTime::now_utc())
}

impl RunStart {
    fn now() -> Self {
        Self {
            timestamp: now(),
            runner_version: concat!("tiltmeter ", env!("CARGO_PKG_VERSION")).to_owned(),
            code_commit: SourceVersion::of_program().map(SourceVersion::label),
        }
    }
}

/// One repetition of one variation.
pub struct ScenarioRun {
    key: RunKey,
    /// `var-001`
    variation_id: String,
    /// Index into the variations.
    variation: usize,
    /// Conversation of the first actor; those of the others follow.
    conversation: u64,
    resources: Arc<Resources>,
}

/// Seeds of the calls of a run.
struct SeedSequence {
    key: u64,
    calls: u64,
}

impl SeedSequence {
    fn next(&mut self) -> SeedKey {
        self.calls += 1;
        SeedKey { key: self.key, stream: self.calls - 1 }
    }
}

impl ScenarioRun {
    pub fn new(
        resources: &Arc<Resources>,
        key: RunKey,
        variation_id: String,
        variation: usize,
        conversation: u64,
    ) -> Self {
        Self { key, variation_id, variation, conversation, resources: resources.clone() }
    }

    fn variation(&self) -> &Variation {
        &self.resources.variations[self.variation]
    }

    fn scenario(&self) -> &Scenario {
        &self.variation().scenario
    }

    fn conversation(&self, actor: usize) -> ConversationId {
        ConversationId(self.conversation + actor as u64)
    }

    /// The reply of the actor with this index.
    async fn ask_actor(
        &self,
        ctx: &RunContext,
        actor: usize,
        step: &str,
        messages: Vec<Message>,
        seed: SeedKey,
    ) -> Result<(String, ModelReply), RunError> {
        let model = &self.scenario().actors[actor].llm_model;
        let request = self.resources.actor_request(model, messages, seed);
        let request = ChatRequest { conversation: Some(self.conversation(actor)), ..request };
        let reply = self.resources.model(model)?.ask(ctx, step, &request).await?;
        count(ctx, &reply);
        let record = ModelReply::of(model, &reply, seed);
        Ok((reply.message.content, record))
    }

    /// The private messages of a turn. All messages of a round are written at the same time.
    async fn exchange_messages(
        &self,
        ctx: &RunContext,
        past: &[Turn],
        seeds: &mut SeedSequence,
    ) -> Result<Vec<MessageReply>, RunError> {
        let scenario = self.scenario();
        let Some(rules) = scenario.communication else { return Ok(Vec::new()) };
        let mut replies: Vec<MessageReply> = Vec::new();
        for round in 1..=rules.rounds {
            let before = replies.clone();
            for (index, actor) in scenario.actors.iter().enumerate() {
                let prompt = prompts::actor_messages(scenario, actor, past, &before, Request::Messages(round));
                let step = format!("turn {} messages {round} {}", past.len() + 1, actor.short_name);
                let (text, reply) = self.ask_actor(ctx, index, &step, prompt, seeds.next()).await?;
                let parsed = messages::parse(&text).into_iter();
                replies.push(MessageReply {
                    round,
                    from: actor.short_name.clone(),
                    messages: parsed.map(|message| messages::deliver(scenario, actor, message)).collect(),
                    text,
                    reply,
                });
            }
        }
        Ok(replies)
    }

    async fn decide(
        &self,
        ctx: &RunContext,
        past: &[Turn],
        messages: &[MessageReply],
        seeds: &mut SeedSequence,
    ) -> Result<Vec<Decision>, RunError> {
        let scenario = self.scenario();
        let mut decisions = Vec::new();
        for (index, actor) in scenario.actors.iter().enumerate() {
            // Must not depend on `decisions`.
            let prompt = prompts::actor_messages(scenario, actor, past, messages, Request::Decision);
            let step = format!("turn {} {}", past.len() + 1, actor.short_name);
            let (text, mut reply) = self.ask_actor(ctx, index, &step, prompt, seeds.next()).await?;
            let (sections, layout) = sections(&text);
            let record = &mut reply.reply_record;
            if record.status == status::OK {
                record.status = match layout {
                    Layout::Sections => status::OK,
                    Layout::Whole => status::UNSTRUCTURED,
                    Layout::NoAction => status::NO_ACTION,
                }
                .to_owned();
            }
            decisions.push(Decision { actor: actor.short_name.clone(), text, sections, reply });
        }
        Ok(decisions)
    }

    /// The new world state. An empty reply is requested once more; a second one fails the run.
    async fn world(
        &self,
        ctx: &RunContext,
        turn: usize,
        state: &str,
        decisions: &[Decision],
        seed: SeedKey,
    ) -> Result<(String, ModelReply), RunError> {
        let scenario = self.scenario();
        let request = self.resources.world_request(prompts::world_messages(scenario, turn, state, decisions), seed);
        let step = format!("turn {turn} world state");
        let model = self.resources.model(&scenario.world_state_model)?;
        let reply = model.ask_checked(ctx, &step, &request, not_empty).await?;
        count(ctx, &reply);
        Ok((reply.message.content.trim().to_owned(), ModelReply::of(&scenario.world_state_model, &reply, seed)))
    }

    /// Fills in the metrics of a turn.
    async fn measure(&self, ctx: &RunContext, turn: &mut Turn, seeds: &mut SeedSequence) -> Result<(), RunError> {
        let extractors = &self.resources.extractors;
        for extractor in extractors {
            let text = match &extractor.metric.actor {
                Some(actor) => turn.decision(actor).map_or("", |decision| decision.text.as_str()),
                None => turn.world_state.as_str(),
            };
            if let Some(value) = extractor.extract(text) {
                turn.metrics.insert(extractor.metric.id.clone(), value);
            }
        }
        let Some(judge) = self.resources.judge() else { return Ok(()) };
        let seed = seeds.next();
        let transcript = prompts::judge_transcript(self.scenario(), turn.turn, &turn.decisions, &turn.world_state);
        let parse = |text: &str| metrics::judged(&extract::object(text)?, extractors);
        let step = format!("turn {} judge", turn.turn);
        let (values, reply) = judge.verdict(ctx, &step, &judge.request(transcript, seed), parse).await?;
        count(ctx, &reply);
        turn.metrics.extend(values);
        turn.judge = Some(ModelReply::of(&judge.client.model.card().name, &reply, seed));
        Ok(())
    }

    fn labels(&self, start: &RunStart, finished: bool) -> BTreeMap<String, String> {
        let text = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut labels = BTreeMap::from([
            text("run_id", &self.key.id()),
            text("variation_id", &self.variation_id),
            text("variation", &self.variation().title),
            text("status", if finished { "completed" } else { "running" }),
            text("timestamp", &start.timestamp),
            text("runner_version", &start.runner_version),
        ]);
        labels.extend(start.code_commit.iter().map(|commit| text("code_commit", commit)));
        labels
    }

    fn outcome(&self, start: &RunStart, turns: &[Turn], finished: bool) -> Outcome {
        let usages = || turns.iter().flat_map(Turn::replies).map(|(_, reply)| reply.reply_record.usage);
        let mut labels = self.labels(start, finished);
        let mut metrics =
            BTreeMap::from([("turns".to_owned(), turns.len() as f64), ("replies".to_owned(), usages().count() as f64)]);
        metrics.extend(usage_metrics(usages()));
        let mut series = Vec::new();
        for metric in self.resources.extractors.iter().map(|extractor| &extractor.metric) {
            let values: Vec<MetricValue> =
                turns.iter().map(|turn| turn.metrics.get(&metric.id).cloned().unwrap_or_default()).collect();
            let last = values.last().map(|value| &value.value);
            labels.extend(last.and_then(|last| last.as_bool()).map(|value| (metric.id.clone(), value.to_string())));
            if metric.kind.is_number() {
                let last = last.and_then(|last| last.as_f64());
                metrics.extend(last.map(|value| (format!("metric.{}", metric.id), value)));
                series.push(Series {
                    name: metric.id.clone(),
                    values: values.iter().map(|value| value.value.as_f64()).collect(),
                    statuses: values.into_iter().map(|value| value.status).collect(),
                });
            }
        }
        if !finished {
            // Partial outcomes need the turns only; series and transcript would grow with every save.
            let turns = turns.iter().map(|turn| json!(turn.light())).collect();
            return Outcome { labels, metrics, turns, ..Outcome::default() };
        }
        series.extend(self.projections(turns));
        let transcript = self.transcript(turns);
        Outcome { labels, metrics, series, transcript, turns: turns.iter().map(|turn| json!(turn)).collect() }
    }

    /// Series of each actor and probe: the mean projection of each decision; with private messages also that of each message reply.
    fn projections(&self, turns: &[Turn]) -> Vec<Series> {
        let scenario = self.scenario();
        let mut series = Vec::new();
        for actor in &scenario.actors {
            let own = |name: &str| name == actor.short_name;
            let Some(probes) = self.resources.probes.get(&actor.llm_model) else { continue };
            let messages = turns.iter().flat_map(|turn| &turn.messages).filter(|message| own(&message.from));
            let messages: Vec<_> = messages.map(|message| &message.reply.reply_record).collect();
            let decisions = turns.iter().flat_map(|turn| turn.decision(&actor.short_name));
            let decisions: Vec<_> = decisions.map(|decision| &decision.reply.reply_record).collect();
            let messages = projections(Some(probes.as_ref()), &message_series_prefix(actor), &messages);
            let decisions = projections(Some(probes.as_ref()), &format!("{}.", actor.short_name), &decisions);
            for (messages, decisions) in messages.into_iter().zip(decisions) {
                series.extend(scenario.communication.map(|_| messages));
                series.push(decisions);
            }
        }
        // The layout of a decision does not affect its measurement.
        for status in series.iter_mut().flat_map(|series| &mut series.statuses) {
            if matches!(status.as_str(), status::UNSTRUCTURED | status::NO_ACTION) {
                *status = status::OK.to_owned();
            }
        }
        series
    }

    /// The run for readers: all replies, and the world state after each turn.
    fn transcript(&self, turns: &[Turn]) -> Vec<Message> {
        let message = |role: Role, author: &str, text: &str| Message::new(role, format!("[{author}]\n{}", text.trim()));
        let mut transcript = vec![message(Role::User, "world", &self.scenario().initial_world_state)];
        for turn in turns {
            transcript.extend(
                turn.messages
                    .iter()
                    .map(|reply| message(Role::Assistant, &format!("{}, privately", reply.from), &reply.text)),
            );
            transcript.extend(
                turn.decisions.iter().map(|decision| message(Role::Assistant, &decision.actor, &decision.text)),
            );
            transcript.push(message(Role::User, "world", &turn.world_state));
        }
        transcript
    }
}

fn count(ctx: &RunContext, reply: &ChatReply) {
    ctx.count("replies", 1);
    ctx.count("tokens", reply.usage.completion_tokens);
}

fn not_empty(reply: &ChatReply) -> Result<(), Problem> {
    match reply.message.content.trim().is_empty() {
        false => Ok(()),
        true => Err(Problem::new("the world-state model gave an empty state").hint("use another world_state_model")),
    }
}

#[async_trait::async_trait]
impl Run for ScenarioRun {
    fn key(&self) -> &RunKey {
        &self.key
    }

    async fn execute(&self, ctx: &RunContext) -> Result<Outcome, RunError> {
        let scenario = self.scenario();
        let mut open: Vec<(&dyn Model, ConversationId)> = Vec::new();
        for (index, actor) in scenario.actors.iter().enumerate() {
            let model = self.resources.model(&actor.llm_model)?;
            open.push((model.model.as_ref(), self.conversation(index)));
        }
        let _conversations = OpenConversations(open);
        let start: RunStart = ctx.step_repeatable("begin", &(), || async { Ok(RunStart::now()) }).await?;
        let mut seeds = SeedSequence { key: run_seed(self.resources.spec.seed, &self.key.id()), calls: 0 };
        let mut turns: Vec<Turn> = Vec::new();
        // Creates the run's folder with the initial world state.
        ctx.checkpoint(&self.outcome(&start, &turns, false)).await?;
        for number in 1..=scenario.turns {
            let messages = self.exchange_messages(ctx, &turns, &mut seeds).await?;
            let decisions = self.decide(ctx, &turns, &messages, &mut seeds).await?;
            let state = turns.last().map_or(&scenario.initial_world_state, |turn| &turn.world_state);
            let (world_state, world) = self.world(ctx, number, state, &decisions, seeds.next()).await?;
            let mut turn = Turn { turn: number, messages, decisions, world_state, world, ..Turn::default() };
            self.measure(ctx, &mut turn, &mut seeds).await?;
            turn.ended = ctx.step_repeatable(&format!("turn {number} ends"), &(), || async { Ok(now()) }).await?;
            turns.push(turn);
            ctx.count("turns", 1);
            // A later failure must not lose paid turns.
            if number < scenario.turns {
                ctx.checkpoint(&self.outcome(&start, &turns, false)).await?;
            }
        }
        let outcome = self.outcome(&start, &turns, true);
        let metrics = outcome.metrics.iter().filter_map(|(name, value)| Some((name.strip_prefix("metric.")?, value)));
        let metrics: String = metrics.map(|(name, value)| format!(", {name} {value}")).collect();
        ctx.say(format!("✓ {}: {} turns{metrics}", self.key.id(), turns.len()));
        Ok(outcome)
    }
}
