//! One rollout: the model answers the transcript's user turns, one journaled step a turn. Also the reference trajectory, which reads the
//! transcript's own replies.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Projection, REFERENCE};
use crate::config::{Condition, OverflowPolicy, Placement, ProjectionSpec, Seeding, Transcript};
use tiltmeter_model::probe::{ProbePlan, Readout};
use tiltmeter_model::{
    ChatReply, ChatRequest, ConversationId, Finish, Group, Message, Model, ModelError, ReadRequest, Role, SeedKey,
};
use tiltmeter_scheduler::{Run, RunContext, RunError};
use tiltmeter_store::{Outcome, RunKey, Series};

/// Everything that is known of one turn.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TurnRecord {
    /// From 1.
    pub turn: usize,
    /// `ok`, `length_capped`, `empty` or `context_exhausted`.
    pub status: String,
    pub prompt_tokens: u64,
    pub generated_tokens: u64,
    pub finish: Option<Finish>,
    pub seed_key: u64,
    pub seed_stream: u64,
    /// Oldest messages left out of the prompt by `drop_oldest_turns`.
    pub dropped_messages: usize,
    pub reply: Option<String>,
    pub token_ids: Vec<u32>,
    pub readout: Option<Readout>,
}

/// What a turn asks, as the journal identifies it. The messages stand for themselves: a history that differs is another request.
#[derive(Serialize)]
struct TurnRequest<'a> {
    turn: usize,
    messages: &'a [Message],
    seed: SeedKey,
}

/// One sample of one condition.
pub struct Rollout {
    key: RunKey,
    spec: Arc<ProjectionSpec>,
    transcript: Arc<Transcript>,
    model: Arc<dyn Model>,
    probes: Arc<ProbePlan>,
    condition: Condition,
    conversation: ConversationId,
    group: Group,
}

impl Rollout {
    pub fn new(experiment: &Projection, index: usize, condition: Condition, sample: usize) -> Self {
        let spec = experiment.spec.clone();
        Self {
            key: RunKey { experiment: spec.experiment.clone(), cell: condition.label.clone(), sample },
            conversation: ConversationId((index * spec.samples + sample) as u64),
            group: Group { id: index as u64, cap: spec.micro_batch },
            transcript: experiment.transcript.clone(),
            model: experiment.model.clone(),
            probes: experiment.probes.clone(),
            condition,
            spec,
        }
    }

    fn seed(&self, turn: usize) -> SeedKey {
        let (turn, sample) = (turn as u64, self.key.sample as u64);
        match self.spec.seeding {
            Seeding::PerBatch => {
                let start = sample - sample % self.spec.micro_batch as u64;
                SeedKey { key: self.spec.seed.wrapping_add(turn * 1000 + start), stream: sample - start }
            }
            Seeding::PerSample => SeedKey { key: self.spec.seed, stream: (turn << 32) + sample },
        }
    }

    fn system(&self) -> Option<Message> {
        self.condition.system_prompt.as_ref().map(|text| Message::new(Role::System, text.clone()))
    }

    /// Asks the model for one reply, dropping the oldest turns if the policy says so.
    async fn ask(&self, messages: &[Message], seed: SeedKey) -> Result<(ChatReply, usize), ModelError> {
        let mut request = ChatRequest {
            sampling: self.spec.sampling,
            max_new_tokens: Some(self.spec.max_new_tokens),
            max_seq_len: self.spec.max_seq_len,
            seed,
            probes: Some(self.probes.clone()),
            conversation: Some(self.conversation),
            group: Some(self.group),
            ..ChatRequest::new(messages.to_vec())
        };
        loop {
            match self.model.chat(&request).await {
                Err(ModelError::ContextOverflow { .. })
                    if self.spec.on_context_overflow == OverflowPolicy::DropOldestTurns
                        && drop_oldest_turn(&mut request.messages) => {}
                Ok(reply) => return Ok((reply, messages.len() - request.messages.len())),
                Err(error) => return Err(error),
            }
        }
    }

    async fn turn(&self, turn: usize, messages: &[Message]) -> Result<TurnRecord, RunError> {
        let seed = self.seed(turn);
        let record =
            TurnRecord { turn: turn + 1, seed_key: seed.key, seed_stream: seed.stream, ..TurnRecord::default() };
        match self.ask(messages, seed).await {
            Ok((reply, dropped_messages)) => Ok(TurnRecord {
                status: status(&reply).into(),
                prompt_tokens: reply.usage.prompt_tokens,
                generated_tokens: reply.usage.completion_tokens,
                finish: Some(reply.finish),
                dropped_messages,
                reply: Some(reply.message.content),
                token_ids: reply.token_ids,
                readout: reply.readout,
                ..record
            }),
            Err(ModelError::ContextOverflow { prompt_tokens, .. })
                if self.spec.on_context_overflow != OverflowPolicy::Error =>
            {
                Ok(TurnRecord { status: EXHAUSTED.into(), prompt_tokens: prompt_tokens as u64, ..record })
            }
            Err(error) => {
                let place = format!("{}, turn {}", self.key.id(), turn + 1);
                Err(RunError::Failed(error.problem().at(place)))
            }
        }
    }
}

const EXHAUSTED: &str = "context_exhausted";

fn status(reply: &ChatReply) -> &'static str {
    match reply.finish {
        _ if reply.readout.as_ref().is_none_or(|readout| readout.measured_tokens == 0) => "empty",
        Finish::Stop => "ok",
        Finish::Length => "length_capped",
        Finish::ContentFilter => "content_filter",
    }
}

/// Removes the oldest user message and all up to the next one; a leading system message stays. False if only one turn is left.
fn drop_oldest_turn(messages: &mut Vec<Message>) -> bool {
    let users: Vec<usize> = messages.iter().enumerate().filter(|(_, m)| m.role == Role::User).map(|(i, _)| i).collect();
    match users[..] {
        [first, second, ..] => {
            messages.drain(first..second);
            true
        }
        _ => false,
    }
}

#[async_trait::async_trait]
impl Run for Rollout {
    fn key(&self) -> &RunKey {
        &self.key
    }

    async fn execute(&self, ctx: &RunContext) -> Result<Outcome, RunError> {
        let mut messages = Vec::new();
        let mut turns: Vec<TurnRecord> = Vec::new();
        if self.condition.placement == Placement::Start {
            messages.extend(self.system());
        }
        for (turn, asked) in self.transcript.turns.iter().enumerate() {
            messages.push(Message::new(Role::User, asked.user.clone()));
            if self.condition.placement == Placement::AfterEachUser {
                messages.extend(self.system());
            }
            let over = turns.last().is_some_and(|last| last.status == EXHAUSTED);
            let record = if over {
                TurnRecord { turn: turn + 1, status: EXHAUSTED.into(), ..TurnRecord::default() }
            } else {
                let request = TurnRequest { turn: turn + 1, messages: &messages, seed: self.seed(turn) };
                let name = format!("turn {}", turn + 1);
                ctx.step_repeatable(&name, &request, || self.turn(turn, &messages)).await?
            };
            ctx.count("turns", 1);
            ctx.count("tokens", record.generated_tokens);
            messages.extend(record.reply.clone().map(|text| Message::new(Role::Assistant, text)));
            turns.push(record);
        }
        self.model.close(self.conversation);
        let labels = BTreeMap::from([("condition".to_owned(), self.condition.label.clone())]);
        Ok(outcome(labels, &self.probes, messages, &turns))
    }
}

/// Turns become series (one per probe), metrics (their means) and rows.
fn outcome(
    labels: BTreeMap<String, String>,
    probes: &ProbePlan,
    transcript: Vec<Message>,
    turns: &[TurnRecord],
) -> Outcome {
    let mut metrics = BTreeMap::new();
    let mut series = Vec::new();
    for (index, probe) in probes.probes.iter().enumerate() {
        let name = format!("{}@{}", probe.name, probe.site);
        let value = |turn: &TurnRecord| turn.readout.as_ref()?.projections.get(index).map(|p| f64::from(p.mean));
        let values: Vec<Option<f64>> = turns.iter().map(value).collect();
        let measured: Vec<f64> = values.iter().copied().flatten().collect();
        if !measured.is_empty() {
            metrics.insert(name.clone(), measured.iter().sum::<f64>() / measured.len() as f64);
        }
        series.push(Series { name, values, statuses: turns.iter().map(|turn| turn.status.clone()).collect() });
    }
    let turns = turns.iter().map(|turn| json!(turn)).collect();
    Outcome { labels, metrics, series, transcript, turns }
}

/// The trajectory of the transcript's own replies: one forward pass, nothing generated.
pub struct ReferenceRun {
    key: RunKey,
    spec: Arc<ProjectionSpec>,
    transcript: Arc<Transcript>,
    model: Arc<dyn Model>,
    probes: Arc<ProbePlan>,
}

impl ReferenceRun {
    pub fn new(experiment: &Projection) -> Self {
        let spec = experiment.spec.clone();
        Self {
            key: RunKey { experiment: spec.experiment.clone(), cell: REFERENCE.to_owned(), sample: 0 },
            transcript: experiment.transcript.clone(),
            model: experiment.model.clone(),
            probes: experiment.probes.clone(),
            spec,
        }
    }

    async fn read(&self, messages: &[Message]) -> Result<Vec<TurnRecord>, RunError> {
        let request = ReadRequest {
            messages: messages.to_vec(),
            max_seq_len: self.spec.max_seq_len,
            probes: self.probes.clone(),
        };
        let reply = self.model.read(&request).await;
        let reply = reply.map_err(|error| RunError::Failed(error.problem().at(REFERENCE)))?;
        let mut readouts = reply.readouts.into_iter();
        let replies = self.transcript.turns.iter().map(|turn| &turn.reply).enumerate();
        Ok(replies
            .map(|(turn, text)| {
                let readout = text.as_ref().and_then(|_| readouts.next().flatten());
                let status = match (&readout, text) {
                    (Some(readout), _) if readout.measured_tokens > 0 => "ok",
                    (_, None) => "empty",
                    (Some(_), _) => "empty",
                    (None, Some(_)) => EXHAUSTED,
                };
                TurnRecord {
                    turn: turn + 1,
                    status: status.into(),
                    reply: text.clone(),
                    readout,
                    ..TurnRecord::default()
                }
            })
            .collect())
    }
}

#[async_trait::async_trait]
impl Run for ReferenceRun {
    fn key(&self) -> &RunKey {
        &self.key
    }

    async fn execute(&self, ctx: &RunContext) -> Result<Outcome, RunError> {
        let mut messages = Vec::new();
        for turn in &self.transcript.turns {
            messages.push(Message::new(Role::User, turn.user.clone()));
            messages.extend(turn.reply.clone().map(|text| Message::new(Role::Assistant, text)));
        }
        let turns = ctx.step_repeatable("read", &messages, || self.read(&messages)).await?;
        let labels = BTreeMap::from([("condition".to_owned(), REFERENCE.to_owned())]);
        Ok(outcome(labels, &self.probes, messages, &turns))
    }
}
