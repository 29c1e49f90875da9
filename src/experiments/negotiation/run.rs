//! One game between two bargainers: values are drawn, each turn is one journaled request and one move, partial outcomes are saved, and
//! the judge, if there is one, reads the finished game.
//!
//! Seeds: the run's seed is the base seed plus the run's number; the values are drawn from it. Call n (from 0) of a run uses key = the
//! run's seed and stream = n.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::json;
use time::OffsetDateTime;

use super::dialogue::Dialogue;
use super::game::{Event, Game, Measures, Phase, Turn, names, values};
use super::matrix::{Cell, order_name};
use super::outcome::{Agent, Judgement, ParsedOutcome, Row, Setup, Side, TurnRecord, status};
use super::{Bargainer, Resources, judge, programmed};
use crate::config::SpeakingOrder;
use crate::model_client::OpenConversations;
use crate::reply_record::{ReplyRecord, projections, usage_metrics};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ChatRequest, ConversationId, Message, Role, SeedKey};
use tiltmeter_scheduler::{Run, RunContext, RunError};
use tiltmeter_store::{Outcome, RunKey, timestamp};

/// One repetition of one cell.
pub struct NegotiationRun {
    key: RunKey,
    cell: Cell,
    /// Number of the run.
    index: usize,
    resources: Arc<Resources>,
}

/// The rows of a game under way.
struct Progress {
    /// RFC 3339 in UTC.
    started: String,
    setup: Setup,
    outcome: ParsedOutcome,
    /// Number of public events among the rows.
    recorded: usize,
    calls: u64,
}

impl NegotiationRun {
    pub fn new(resources: &Arc<Resources>, cell: Cell, repetition: usize) -> Self {
        let matrix = &resources.matrix;
        let experiment = resources.spec.experiment.clone();
        let key = RunKey { experiment, cell: matrix.name(cell), sample: repetition };
        Self { key, cell, index: matrix.index(cell, repetition), resources: resources.clone() }
    }

    /// In the order of speaking.
    fn sides(&self) -> [Side; 2] {
        match self.resources.matrix.order(self.cell) {
            SpeakingOrder::WeakFirst => [Side::Weak, Side::Strong],
            SpeakingOrder::StrongFirst => [Side::Strong, Side::Weak],
        }
    }

    fn bargainer(&self, side: Side) -> &Bargainer {
        match side {
            Side::Weak => &self.resources.weak[self.cell.weak],
            Side::Strong => &self.resources.strong[self.cell.strong],
        }
    }

    fn conversation(&self, agent: usize) -> ConversationId {
        ConversationId((2 * self.index + agent) as u64)
    }

    fn seed(&self, call: u64) -> SeedKey {
        SeedKey { key: self.resources.matrix.seed(self.index), stream: call }
    }

    fn setup(&self) -> Result<Setup, Problem> {
        let (matrix, spec) = (&self.resources.matrix, &self.resources.spec);
        let seed = matrix.seed(self.index);
        let pair = values::pair(spec.num_items, matrix.level(self.cell), seed)?;
        let cosine_similarity = values::cosine(&pair[0], &pair[1]);
        let label = |side: Side| match side {
            Side::Weak => matrix.weak[self.cell.weak].clone(),
            Side::Strong => matrix.strong[self.cell.strong].clone(),
        };
        let agents = pair.into_iter().zip(self.sides()).enumerate();
        let agents = agents
            .map(|(i, (values, side))| Agent { name: names::agent(i), side, model: label(side), values })
            .collect();
        Ok(Setup { agents, items: (0..spec.num_items).map(names::item).collect(), cosine_similarity, seed })
    }

    /// Plays one turn.
    async fn turn(
        &self,
        ctx: &RunContext,
        dialogue: &mut Dialogue,
        values: &[f64],
        turn: Turn,
        call: u64,
    ) -> Result<TurnRecord, RunError> {
        let seed = self.seed(call);
        let messages = dialogue.prompt(turn).to_vec();
        let (text, reply_record) = match self.bargainer(self.sides()[turn.agent]) {
            // A pure function of the game; not journaled.
            Bargainer::Programmed(strategy) => {
                let text = programmed::reply(*strategy, &dialogue.game, turn, values);
                (text, ReplyRecord::nothing(status::PROGRAMMED, seed))
            }
            Bargainer::Model(bargainer) => {
                let request = ChatRequest {
                    conversation: Some(self.conversation(turn.agent)),
                    probes: bargainer.probes.clone(),
                    ..self.resources.request(messages, seed)
                };
                let step = format!("round {} {} {}", turn.round, turn.phase.name(), names::agent(turn.agent));
                let reply = bargainer.client.ask(ctx, &step, &request).await?;
                ctx.count("replies", 1);
                ctx.count("tokens", reply.usage.completion_tokens);
                let record = ReplyRecord::of(&reply, seed);
                (reply.message.content, record)
            }
        };
        let parsed = dialogue.apply(turn, &text)?;
        Ok(TurnRecord {
            round: turn.round,
            phase: turn.phase,
            agent: turn.agent,
            text,
            allocation: parsed.allocation,
            invalid: parsed.invalid,
            votes: parsed.votes,
            reply_record,
        })
    }

    fn outcome(&self, progress: &Progress, game: &Game) -> Outcome {
        let Progress { started, setup, outcome, .. } = progress;
        let order = self.resources.matrix.order(self.cell);
        let position = |side: Side| setup.position(side).unwrap_or_default();
        let (weak, strong) = (position(Side::Weak), position(Side::Strong));
        let judgement = outcome.judgement();
        let state = match (game.end(), &self.resources.judge, judgement) {
            (None, ..) => "under_way",
            (Some(_), Some(_), None) => "not_judged",
            (Some(_), ..) => "completed",
        };
        let text = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut labels = BTreeMap::from([
            text("run_id", &run_id(self.index)),
            text("timestamp", started),
            text("weak_model", &setup.agents[weak].model),
            text("strong_model", &setup.agents[strong].model),
            text("order", order_name(order)),
            text("runner_version", concat!("tiltmeter ", env!("CARGO_PKG_VERSION"))),
            text("status", state),
        ]);
        let replies = outcome.turns().filter(|turn| turn.reply_record.status != status::PROGRAMMED);
        let number = |key: &str, value: f64| (key.to_owned(), value);
        let mut metrics = BTreeMap::from([
            number("competition_level", self.resources.matrix.level(self.cell)),
            number("cosine_similarity", setup.cosine_similarity),
            number("invalid_proposals", game.invalid_proposals().iter().sum::<usize>() as f64),
            number("missing_votes", game.missing_votes().iter().sum::<usize>() as f64),
            number("replies", replies.count() as f64),
        ]);
        let usages = outcome.turns().map(|turn| turn.reply_record.usage);
        metrics.extend(usage_metrics(usages.chain(judgement.map(|judgement| judgement.usage))));
        if let Some(end) = game.end() {
            let values = [setup.agents[0].values.clone(), setup.agents[1].values.clone()];
            let found = Measures::of(&values, end, self.resources.spec.gamma);
            labels.extend([text("agreement", if end.deal.is_some() { "deal" } else { "no deal" })]);
            metrics.extend([
                number("consensus_reached", f64::from(u8::from(end.deal.is_some()))),
                number("final_round", end.round as f64),
                number("weak_utility", found.utilities[weak]),
                number("strong_utility", found.utilities[strong]),
                number("utility_gap", found.utilities[strong] - found.utilities[weak]),
                number("strong_fair_share", found.fair_shares[strong]),
                number("utilitarian_efficiency", found.utilitarian_efficiency),
                number("nash_distance", found.nash_distance),
                number("pareto_optimal", f64::from(u8::from(found.pareto_optimal))),
            ]);
            metrics.extend(found.shares.map(|shares| number("strong_share", shares[strong])));
            metrics.extend(found.exploitation_by(strong).map(|value| number("exploitation", value)));
        }
        // A transcript has two roles: public statements of the weak bargainer are the user's, of the strong one the assistant's.
        let statement = |turn: &TurnRecord| {
            let role = if turn.agent == weak { Role::User } else { Role::Assistant };
            Message::new(role, format!("{}: {}", names::agent(turn.agent), turn.text))
        };
        let transcript = outcome.turns().filter(|turn| turn.phase == Phase::Discussion).map(statement).collect();
        let mut series = Vec::new();
        for (side, agent) in [(Side::Weak, weak), (Side::Strong, strong)] {
            let replies = outcome.turns().filter(|turn| turn.agent == agent).map(|turn| &turn.reply_record);
            let probes = self.bargainer(side).as_model().and_then(|bargainer| bargainer.probes.as_deref());
            series.extend(projections(probes, &format!("{}.", side.name()), &replies.collect::<Vec<_>>()));
        }
        let turns = outcome.rows.iter().map(|row| json!(row)).collect();
        Outcome { labels, metrics, series, transcript, turns }
    }
}

impl Progress {
    /// Adds the new public events; statements are rows already.
    fn add_events(&mut self, events: &[Event]) {
        let new = events.iter().skip(self.recorded).filter(|event| !matches!(event, Event::Statement { .. }));
        self.outcome.rows.extend(new.cloned().map(Row::Event));
        self.recorded = events.len();
    }
}

/// `experiment_42`
pub fn run_id(index: usize) -> String {
    format!("experiment_{index}")
}

#[async_trait::async_trait]
impl Run for NegotiationRun {
    fn key(&self) -> &RunKey {
        &self.key
    }

    async fn execute(&self, ctx: &RunContext) -> Result<Outcome, RunError> {
        let now = || async { Ok(timestamp(OffsetDateTime::now_utc())) };
        let started: String = ctx.step_repeatable("begin", &(), now).await?;
        let models = self.sides().into_iter().enumerate().filter_map(|(agent, side)| {
            let bargainer = self.bargainer(side).as_model()?;
            Some((bargainer.client.model.as_ref(), self.conversation(agent)))
        });
        let _conversations = OpenConversations(models.collect());
        let setup = self.setup()?;
        let values: Vec<Vec<f64>> = setup.agents.iter().map(|agent| agent.values.clone()).collect();
        let mut dialogue = Dialogue::new(self.resources.rules(), self.resources.spec.gamma, &values);
        let outcome = ParsedOutcome { rows: vec![Row::Setup(setup.clone())] };
        let mut progress = Progress { started, setup, outcome, recorded: 0, calls: 0 };
        while let Some(turn) = dialogue.game.turn() {
            let record = self.turn(ctx, &mut dialogue, &values[turn.agent], turn, progress.calls).await?;
            progress.calls += 1;
            progress.outcome.rows.push(Row::Turn(Box::new(record)));
            progress.add_events(dialogue.game.record());
            let next_round = dialogue.game.turn().is_some_and(|next| next.round > turn.round);
            // After rounds 1, 2, 4, …: each save holds the whole outcome, so all saves together take at most twice its size.
            if next_round && turn.round.is_power_of_two() {
                ctx.checkpoint(&self.outcome(&progress, &dialogue.game)).await?;
            }
        }
        progress.outcome.rows.extend(dialogue.game.end().cloned().map(Row::End));
        if let Some(judge) = &self.resources.judge {
            // A failed verdict must not lose the paid game.
            ctx.checkpoint(&self.outcome(&progress, &dialogue.game)).await?;
            let request = judge.request(judge::transcript(&progress.outcome), self.seed(progress.calls));
            let (verdict, reply) = judge.verdict(ctx, "judge", &request, judge::verdict).await?;
            progress.outcome.rows.push(Row::Judge(Judgement::of(verdict, reply)));
        }
        Ok(self.outcome(&progress, &dialogue.game))
    }
}
