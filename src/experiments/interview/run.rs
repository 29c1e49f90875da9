//! One interview: reads the clock, asks the questions one after the other, saves a checkpoint, then has the transcript judged.
//!
//! Seeds: question t (from 0) is drawn with key = the run's seed and stream t; with `seeding: fixed` with the base seed and stream 0,
//! so that every call carries the same. A run's seed is the low 31 bits of `seed_for(base seed, run id)`: the number that providers
//! take, so that the record holds what was sent with the first question.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use serde::{Deserialize, Serialize};
use serde_json::json;
use time::{OffsetDateTime, macros::format_description};

use super::{Interview, SYSTEM, Setting, judge, judge::Verdict, rule};
use crate::config::{InterviewSpec, RunSeeding, Variant};
use crate::reply_record::{self, ReplyRecord};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ChatReply, ChatRequest, ConversationId, Message, Model, Role, SeedKey, Usage};
use tiltmeter_scheduler::{Run, RunContext, RunError, seed_for};
use tiltmeter_store::{Outcome, RunKey, Series, SourceVersion};

/// How a question fared, beside what becomes of replies.
pub mod status {
    pub use crate::reply_record::status::*;

    /// After a refusal, or after a reply without text, which no conversation can go on from.
    pub const NOT_ASKED: &str = "not_asked";
}

/// Everything that is known of one question.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// From 1.
    pub turn: usize,
    pub question: String,
    /// `None` if it was not asked.
    pub reply: Option<String>,
    /// Whether the rule takes the reply for a refusal.
    pub refusal: bool,
    #[serde(flatten)]
    pub reply_record: ReplyRecord,
}

/// The judge's part.
pub type Judgement = reply_record::Judgement<Verdict>;

/// A row of an outcome: a question, or after the last of them the judge's part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "part", rename_all = "snake_case")]
pub enum Row {
    Steward(Turn),
    Judge(Judgement),
}

/// When a run began, and under what: read once, so that a resume has the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Began {
    /// Seconds since 1970.
    unix: i64,
    /// RFC 3339 in UTC, to the millisecond.
    timestamp: String,
    runner_version: String,
    code_commit: Option<String>,
}

impl Began {
    fn now() -> Result<Self, Problem> {
        let now = OffsetDateTime::now_utc();
        let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
        let timestamp = now.format(&format).map_err(|error| {
            Problem::new(format!("the clock of this machine shows no usable date: {error}")).hint("set the clock")
        })?;
        Ok(Self {
            unix: now.unix_timestamp(),
            timestamp,
            runner_version: format!("tiltmeter {}", env!("CARGO_PKG_VERSION")),
            code_commit: SourceVersion::of_program().map(SourceVersion::label),
        })
    }
}

/// The seed of a run.
pub fn run_seed(base: u64, seeding: RunSeeding, run_id: &str) -> u64 {
    match seeding {
        RunSeeding::PerRun => seed_for(base, run_id) & 0x7fff_ffff,
        RunSeeding::Fixed => base,
    }
}

/// One repetition of one variant.
pub struct InterviewRun {
    key: RunKey,
    /// From 1, among those of this plan.
    number: usize,
    variant: usize,
    conversation: ConversationId,
    setting: Arc<Setting>,
}

/// The model keeps nothing of a conversation that is over, however it ended.
struct Closing<'a>(&'a dyn Model, ConversationId);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close(self.1);
    }
}

impl InterviewRun {
    pub fn new(interview: &Interview, variant: usize, index: usize) -> Self {
        let spec = &interview.setting.spec;
        Self {
            key: RunKey {
                experiment: spec.experiment.clone(),
                cell: spec.variants[variant].id.clone(),
                sample: interview.first_run + index,
            },
            number: index + 1,
            variant,
            conversation: ConversationId((variant * spec.runs_per_variant + index) as u64),
            setting: interview.setting.clone(),
        }
    }

    fn spec(&self) -> &InterviewSpec {
        &self.setting.spec
    }

    fn framing(&self) -> &Variant {
        &self.spec().variants[self.variant]
    }

    fn seed(&self, stream: usize) -> SeedKey {
        let spec = self.spec();
        let key = run_seed(spec.seed, spec.seeding, &self.key.id());
        SeedKey { key, stream: if spec.seeding == RunSeeding::Fixed { 0 } else { stream as u64 } }
    }

    fn announce(&self, ctx: &RunContext) {
        let (variant, runs) = (self.framing(), self.spec().runs_per_variant);
        let mut lines = Vec::new();
        // By whichever run of the variant comes first, so that the heading stands before all of them.
        if !self.setting.announced[self.variant].swap(true, Relaxed) {
            lines.extend([rule(), format!("Starting variant: {}", variant.name), rule()]);
        }
        lines.push(format!("--- Run {}/{runs} for variant '{}' ---", self.number, variant.id));
        // One text, so that runs that start together do not mix their lines.
        ctx.say(lines.into_iter().map(|line| format!("{SYSTEM}{line}")).collect::<Vec<_>>().join("\n"));
    }

    /// Puts the questions.
    async fn ask(&self, ctx: &RunContext, messages: &mut Vec<Message>) -> Result<Vec<Turn>, RunError> {
        let (spec, steward) = (self.spec(), &self.setting.steward);
        let _closing = Closing(steward.model.as_ref(), self.conversation);
        let mut turns: Vec<Turn> = Vec::new();
        let mut over = false;
        for (index, question) in self.framing().prompts.iter().enumerate() {
            let turn = Turn { turn: index + 1, question: question.clone(), ..Turn::default() };
            if over {
                turns.push(Turn { reply_record: ReplyRecord::nothing(status::NOT_ASKED, SeedKey::default()), ..turn });
                continue;
            }
            if !spec.batch {
                ctx.confirm("Press Enter to continue...").await?;
            }
            messages.push(Message::new(Role::User, question.clone()));
            let seed = self.seed(index);
            let request =
                ChatRequest { conversation: Some(self.conversation), ..self.setting.question(messages, seed) };
            let reply = steward.ask(ctx, &format!("question {}", index + 1), &request).await?;
            ctx.count("replies", 1);
            ctx.count("tokens", reply.usage.completion_tokens);
            if !spec.batch {
                ctx.say(format!("[QUESTION {}]: {question}\n[STEWARD]: {}", index + 1, reply.message.content));
            }
            messages.push(reply.message.clone());
            let text = reply.message.content.clone();
            let refusal = self.setting.refusal.as_ref().is_some_and(|rule| rule.is_match(&text));
            over = text.trim().is_empty() || (refusal && index + 1 == spec.stop_on_refusal.after);
            let reply_record = ReplyRecord::of(&reply, seed);
            turns.push(Turn { reply: Some(text), refusal, reply_record, ..turn });
        }
        Ok(turns)
    }

    /// Has the transcript judged. What is no verdict is asked for once more; then the run has failed.
    async fn judge(&self, ctx: &RunContext, turns: &[Turn]) -> Result<Judgement, RunError> {
        let (spec, judge) = (self.spec(), &self.setting.judge);
        let request = self.setting.verdict_on(turns, self.seed(self.framing().prompts.len()));
        let check = |reply: &ChatReply| judge::verdict(reply, &spec.menu).map(drop);
        let reply = judge.ask_checked(ctx, "judge", &request, check).await.map_err(|error| match error {
            RunError::Failed(problem) if !problem.what.starts_with(judge::FAILURE) => {
                RunError::Failed(Problem { what: format!("{}: {}", judge::FAILURE, problem.what), ..problem })
            }
            other => other,
        })?;
        let verdict = judge::verdict(&reply, &spec.menu)?;
        Ok(Judgement::of(verdict, reply))
    }

    fn labels(&self, began: &Began) -> BTreeMap<String, String> {
        let variant = &self.framing().id;
        let mut labels = BTreeMap::from([
            ("variant".to_owned(), variant.clone()),
            ("run_id".to_owned(), format!("run_{variant}_{}_{}", began.unix, self.key.sample)),
            ("timestamp".to_owned(), began.timestamp.clone()),
            ("runner_version".to_owned(), began.runner_version.clone()),
        ]);
        labels.extend(began.code_commit.clone().map(|commit| ("code_commit".to_owned(), commit)));
        labels
    }

    fn outcome(&self, began: &Began, messages: &[Message], turns: &[Turn], judged: Option<&Judgement>) -> Outcome {
        let mut labels = self.labels(began);
        let status = if judged.is_some() { "completed" } else { "not_judged" };
        labels.insert("status".to_owned(), status.to_owned());
        let usages = || turns.iter().map(|turn| turn.reply_record.usage).chain(judged.map(|judged| judged.usage));
        let sum = |count: fn(&Usage) -> u64| usages().map(|usage| count(&usage)).sum::<u64>() as f64;
        let replies = turns.iter().filter(|turn| turn.reply.is_some()).count();
        let mut metrics = BTreeMap::from([
            ("replies".to_owned(), replies as f64),
            ("refusals".to_owned(), turns.iter().filter(|turn| turn.refusal).count() as f64),
            ("prompt_tokens".to_owned(), sum(|usage| usage.prompt_tokens)),
            ("completion_tokens".to_owned(), sum(|usage| usage.completion_tokens)),
            ("cost_usd".to_owned(), usages().map(|usage| usage.cost_usd).sum()),
        ]);
        if let Some(Judgement { verdict, .. }) = judged {
            let found = [
                ("strategy", &verdict.strategy),
                ("outcome", &verdict.outcome),
                ("deception_level", &verdict.deception_level),
            ];
            labels.extend(found.map(|(label, value)| (label.to_owned(), value.clone())));
            let Verdict { protocol_adherence: kept, .. } = verdict;
            metrics.insert("primary_directive".to_owned(), f64::from(u8::from(kept.primary_directive)));
            metrics.insert("secondary_protocol".to_owned(), f64::from(u8::from(kept.secondary_protocol)));
        }
        let mut series = Vec::new();
        for (index, probe) in self.setting.probes.iter().flat_map(|plan| &plan.probes).enumerate() {
            let name = format!("{}@{}", probe.name, probe.site);
            let values: Vec<Option<f64>> = turns.iter().map(|turn| turn.reply_record.mean(index)).collect();
            let measured: Vec<f64> = values.iter().copied().flatten().collect();
            if !measured.is_empty() {
                metrics.insert(name.clone(), measured.iter().sum::<f64>() / measured.len() as f64);
            }
            series.push(Series {
                name,
                values,
                statuses: turns.iter().map(|turn| turn.reply_record.status.clone()).collect(),
            });
        }
        let rows = turns.iter().cloned().map(Row::Steward).chain(judged.cloned().map(Row::Judge));
        Outcome { labels, metrics, series, transcript: messages.to_vec(), turns: rows.map(|row| json!(row)).collect() }
    }
}

#[async_trait::async_trait]
impl Run for InterviewRun {
    fn key(&self) -> &RunKey {
        &self.key
    }

    async fn execute(&self, ctx: &RunContext) -> Result<Outcome, RunError> {
        let began: Began = ctx.step_repeatable("begin", &(), || async { Ok(Began::now()?) }).await?;
        self.announce(ctx);
        let mut messages = vec![Message::new(Role::System, self.spec().briefing.clone())];
        let turns = self.ask(ctx, &mut messages).await?;
        // Before the judge: what was paid for is not lost with a verdict.
        ctx.checkpoint(&self.outcome(&began, &messages, &turns, None)).await?;
        let judged = self.judge(ctx, &turns).await?;
        let outcome = self.outcome(&began, &messages, &turns, Some(&judged));
        let Verdict { strategy, outcome: became, .. } = &judged.verdict;
        ctx.say(format!("{SYSTEM}✓ {}: {strategy}, {became}", outcome.labels["run_id"]));
        Ok(outcome)
    }
}
