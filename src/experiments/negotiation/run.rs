//! Owns one game between two bargainers: values are made, turn after turn is asked for in a journaled step and played, what there is of
//! the outcome is kept, and in the end the judge reads it, where there is one.
//!
//! Seeds: the run's seed is the base seed plus the run's number. It makes the values; call n (from 0) of a run is drawn with key = the
//! run's seed and stream n, whoever is asked.
//! Must not know: engine, provider, run folders, terminal.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::json;
use time::OffsetDateTime;

use super::matrix::Cell;
use super::measures::Measures;
use super::play::Play;
use super::protocol::{Event, Phase, Turn};
use super::rows::{Agent, Judgement, ParsedOutcome, Row, Said, Setup, Side, status};
use super::{Bargainer, Setting, cast, judge, programmed, values};
use crate::config::SpeakingOrder;
use crate::reply_record::ReplyRecord;
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ChatReply, ChatRequest, ConversationId, Message, Model, Role, SeedKey, Usage};
use tiltmeter_scheduler::{Run, RunContext, RunError};
use tiltmeter_store::{Outcome, RunKey, Series, timestamp};

/// One repetition of one cell.
pub struct Bargain {
    key: RunKey,
    cell: Cell,
    /// The run's number.
    index: usize,
    setting: Arc<Setting>,
}

/// The model keeps nothing of a conversation that is over, however it ended.
struct Closing<'a>(Vec<(&'a dyn Model, ConversationId)>);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|(model, conversation)| model.close(*conversation));
    }
}

/// A game as far as it came.
struct Table {
    rows: Vec<Row>,
    /// How much of the public record is among the rows.
    recorded: usize,
    /// Calls so far.
    calls: u64,
}

impl Bargain {
    pub fn new(setting: &Arc<Setting>, cell: Cell, repetition: usize) -> Self {
        let matrix = &setting.matrix;
        let experiment = setting.spec.experiment.clone();
        let key = RunKey { experiment, cell: matrix.name(cell), sample: repetition };
        Self { key, cell, index: matrix.index(cell, repetition), setting: setting.clone() }
    }

    /// In the order of speaking.
    fn sides(&self) -> [Side; 2] {
        match self.setting.matrix.order(self.cell) {
            SpeakingOrder::WeakFirst => [Side::Weak, Side::Strong],
            SpeakingOrder::StrongFirst => [Side::Strong, Side::Weak],
        }
    }

    fn voice(&self, side: Side) -> &Bargainer {
        match side {
            Side::Weak => &self.setting.weak[self.cell.weak],
            Side::Strong => &self.setting.strong[self.cell.strong],
        }
    }

    fn conversation(&self, agent: usize) -> ConversationId {
        ConversationId((2 * self.index + agent) as u64)
    }

    fn setup(&self) -> Result<Setup, Problem> {
        let (matrix, spec) = (&self.setting.matrix, &self.setting.spec);
        let seed = matrix.seed(self.index);
        let pair = values::pair(spec.num_items, matrix.level(self.cell), seed)?;
        let cosine_similarity = values::cosine(&pair[0], &pair[1]);
        let label = |side: Side| match side {
            Side::Weak => matrix.weak[self.cell.weak].clone(),
            Side::Strong => matrix.strong[self.cell.strong].clone(),
        };
        let agents = pair.into_iter().zip(self.sides()).enumerate();
        let agents = agents
            .map(|(i, (values, side))| Agent { name: cast::agent(i), side, model: label(side), values })
            .collect();
        Ok(Setup { agents, items: (0..spec.num_items).map(cast::item).collect(), cosine_similarity, seed })
    }

    /// What the agent replies.
    async fn turn(
        &self,
        ctx: &RunContext,
        play: &mut Play,
        values: &[f64],
        turn: Turn,
        call: u64,
    ) -> Result<Said, RunError> {
        let seed = SeedKey { key: self.setting.matrix.seed(self.index), stream: call };
        let mut said = Said {
            round: turn.round,
            phase: turn.phase,
            agent: turn.agent,
            text: String::new(),
            allocation: None,
            invalid: None,
            votes: None,
            reply_record: ReplyRecord::nothing(status::PROGRAMMED, seed),
        };
        let messages = play.tell(turn).to_vec();
        match self.voice(self.sides()[turn.agent]) {
            // A function of the game alone: there is nothing to journal.
            Bargainer::Programmed(how) => said.text = programmed::reply(*how, &play.game, turn, values),
            Bargainer::Model(voice) => {
                let request = ChatRequest {
                    conversation: Some(self.conversation(turn.agent)),
                    probes: voice.probes.clone(),
                    ..self.setting.request(messages, seed)
                };
                let step = format!("round {} {} {}", turn.round, turn.phase.name(), cast::agent(turn.agent));
                let reply = voice.speaker.ask(ctx, &step, &request).await?;
                ctx.count("replies", 1);
                ctx.count("tokens", reply.usage.completion_tokens);
                said.reply_record = ReplyRecord::of(&reply, seed);
                said.text = reply.message.content;
            }
        }
        let reply_record = play.hear(turn, &said.text)?;
        (said.allocation, said.invalid, said.votes) =
            (reply_record.allocation, reply_record.invalid, reply_record.votes);
        Ok(said)
    }

    /// Has the game judged. What is no verdict is asked for once more; then the run has failed.
    async fn judge(&self, ctx: &RunContext, table: &Table) -> Result<Option<Judgement>, RunError> {
        let Some(speaker) = &self.setting.judge else { return Ok(None) };
        let seed = SeedKey { key: self.setting.matrix.seed(self.index), stream: table.calls };
        let request = self.setting.verdict_on(&ParsedOutcome { rows: table.rows.clone() }, seed);
        let check = |reply: &ChatReply| judge::verdict(reply).map(drop);
        let reply = speaker.ask_checked(ctx, "judge", &request, check).await.map_err(|error| match error {
            RunError::Failed(problem) if !problem.what.starts_with(judge::FAILURE) => {
                RunError::Failed(Problem { what: format!("{}: {}", judge::FAILURE, problem.what), ..problem })
            }
            other => other,
        })?;
        let verdict = judge::verdict(&reply)?;
        Ok(Some(Judgement::of(verdict, reply)))
    }

    fn outcome(&self, started: &str, setup: &Setup, play: &Play, table: &Table) -> Outcome {
        let order = self.setting.matrix.order(self.cell);
        let of = |side: Side| setup.agents.iter().position(|agent| agent.side == side).unwrap_or_default();
        let (weak, strong) = (of(Side::Weak), of(Side::Strong));
        let mut labels = BTreeMap::from([
            ("run_id".to_owned(), run_id(self.index)),
            ("timestamp".to_owned(), started.to_owned()),
            ("weak_model".to_owned(), setup.agents[weak].model.clone()),
            ("strong_model".to_owned(), setup.agents[strong].model.clone()),
            ("order".to_owned(), order_name(order).to_owned()),
            ("runner_version".to_owned(), format!("tiltmeter {}", env!("CARGO_PKG_VERSION"))),
        ]);
        let said =
            || table.rows.iter().filter_map(|row| if let Row::Said(said) = row { Some(said.as_ref()) } else { None });
        let judged = table.rows.iter().find_map(|row| if let Row::Judge(judged) = row { Some(judged) } else { None });
        let usages = || said().map(|said| said.reply_record.usage).chain(judged.map(|judged| judged.usage));
        let sum = |count: fn(&Usage) -> u64| usages().map(|usage| count(&usage)).sum::<u64>() as f64;
        let game = &play.game;
        let mut metrics = BTreeMap::from([
            ("competition_level".to_owned(), self.setting.matrix.level(self.cell)),
            ("cosine_similarity".to_owned(), setup.cosine_similarity),
            ("invalid_proposals".to_owned(), game.invalid_proposals().iter().sum::<usize>() as f64),
            ("missing_votes".to_owned(), game.missing_votes().iter().sum::<usize>() as f64),
            ("replies".to_owned(), said().filter(|said| said.reply_record.status != status::PROGRAMMED).count() as f64),
            ("prompt_tokens".to_owned(), sum(|usage| usage.prompt_tokens)),
            ("completion_tokens".to_owned(), sum(|usage| usage.completion_tokens)),
            ("cost_usd".to_owned(), usages().map(|usage| usage.cost_usd).sum()),
        ]);
        if let Some(end) = game.end() {
            let values = [setup.agents[0].values.clone(), setup.agents[1].values.clone()];
            let found = Measures::of(&values, end, self.setting.spec.gamma);
            labels.insert("agreement".to_owned(), if end.deal.is_some() { "deal" } else { "no deal" }.to_owned());
            metrics.extend([
                ("consensus_reached".to_owned(), f64::from(u8::from(end.deal.is_some()))),
                ("final_round".to_owned(), end.round as f64),
                ("weak_utility".to_owned(), found.utilities[weak]),
                ("strong_utility".to_owned(), found.utilities[strong]),
                ("utility_gap".to_owned(), found.utilities[strong] - found.utilities[weak]),
                ("strong_fair_share".to_owned(), found.fair_shares[strong]),
                ("utilitarian_efficiency".to_owned(), found.utilitarian_efficiency),
                ("nash_distance".to_owned(), found.nash_distance),
                ("pareto_optimal".to_owned(), f64::from(u8::from(found.pareto_optimal))),
            ]);
            metrics.extend(found.shares.map(|shares| ("strong_share".to_owned(), shares[strong])));
            metrics.extend(found.exploitation_by(strong).map(|value| ("exploitation".to_owned(), value)));
        }
        let state = match (game.end(), &self.setting.judge, judged) {
            (None, ..) => "under_way",
            (Some(_), Some(_), None) => "not_judged",
            (Some(_), ..) => "completed",
        };
        labels.insert("status".to_owned(), state.to_owned());
        // A transcript has two roles: the weak bargainer's public words stand as the user's, the strong one's as the assistant's.
        let public = said().filter(|said| said.phase == Phase::Discussion);
        let message = |said: &Said| {
            let role = if said.agent == weak { Role::User } else { Role::Assistant };
            Message::new(role, format!("{}: {}", cast::agent(said.agent), said.text))
        };
        let transcript = public.map(message).collect();
        let turns = table.rows.iter().map(|row| json!(row)).collect();
        let series = self.projections(setup, &said().collect::<Vec<_>>());
        Outcome { labels, metrics, series, transcript, turns }
    }

    /// One series a bargainer and probe: the mean over the span of each of its replies, in the order of speaking.
    fn projections(&self, setup: &Setup, said: &[&Said]) -> Vec<Series> {
        let mut series = Vec::new();
        for side in [Side::Weak, Side::Strong] {
            let Bargainer::Model(voice) = self.voice(side) else { continue };
            let own = |said: &&&Said| setup.agents.get(said.agent).is_some_and(|agent| agent.side == side);
            for (index, probe) in voice.probes.iter().flat_map(|plan| &plan.probes).enumerate() {
                series.push(Series {
                    name: format!("{}.{}@{}", side.name(), probe.name, probe.site),
                    values: said.iter().filter(own).map(|said| said.reply_record.mean(index)).collect(),
                    statuses: said.iter().filter(own).map(|said| said.reply_record.status.clone()).collect(),
                });
            }
        }
        series
    }
}

impl Table {
    /// Adds what became public.
    fn note(&mut self, record: &[Event]) {
        let news = record.iter().skip(self.recorded).filter(|event| !matches!(event, Event::Said { .. }));
        self.rows.extend(news.cloned().map(Row::Public));
        self.recorded = record.len();
    }
}

/// `experiment_42`
pub fn run_id(index: usize) -> String {
    format!("experiment_{index}")
}

pub fn order_name(order: SpeakingOrder) -> &'static str {
    match order {
        SpeakingOrder::WeakFirst => "weak_first",
        SpeakingOrder::StrongFirst => "strong_first",
    }
}

#[async_trait::async_trait]
impl Run for Bargain {
    fn key(&self) -> &RunKey {
        &self.key
    }

    async fn execute(&self, ctx: &RunContext) -> Result<Outcome, RunError> {
        let now = || async { Ok(timestamp(OffsetDateTime::now_utc())) };
        let started: String = ctx.step_repeatable("begin", &(), now).await?;
        let speakers = self.sides().into_iter().enumerate().filter_map(|(agent, side)| match self.voice(side) {
            Bargainer::Model(voice) => Some((voice.speaker.model.as_ref(), self.conversation(agent))),
            Bargainer::Programmed(_) => None,
        });
        let _closing = Closing(speakers.collect());
        let setup = self.setup()?;
        let values: Vec<Vec<f64>> = setup.agents.iter().map(|agent| agent.values.clone()).collect();
        let mut play = Play::new(self.setting.rules(), self.setting.spec.gamma, &values);
        let mut table = Table { rows: vec![Row::Setup(setup.clone())], recorded: 0, calls: 0 };
        while let Some(turn) = play.game.turn() {
            let said = self.turn(ctx, &mut play, &values[turn.agent], turn, table.calls).await?;
            table.calls += 1;
            table.rows.push(Row::Said(Box::new(said)));
            table.note(play.game.record());
            let next_round = play.game.turn().is_some_and(|next| next.round > turn.round);
            // After rounds 1, 2, 4, …: what is kept is kept whole, and so it is at most twice what the run leaves.
            if next_round && turn.round.is_power_of_two() {
                ctx.checkpoint(&self.outcome(&started, &setup, &play, &table)).await?;
            }
        }
        table.rows.extend(play.game.end().cloned().map(Row::End));
        if self.setting.judge.is_some() {
            // What was paid for is not lost with a verdict.
            ctx.checkpoint(&self.outcome(&started, &setup, &play, &table)).await?;
            let judged = self.judge(ctx, &table).await?;
            table.rows.extend(judged.map(Row::Judge));
        }
        Ok(self.outcome(&started, &setup, &play, &table))
    }
}
