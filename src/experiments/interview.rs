//! The interview experiment: a steward model is briefed and questioned in several framings of one dilemma, each conversation with its
//! history, and a judge model classifies each finished transcript. A local steward's replies can be projected on axes.

mod collect;
mod describe;
mod forecast;
mod judge;
mod methods;
mod plan;
mod record;
mod refusal;
mod run;
mod tally;

use std::sync::{Arc, atomic::AtomicBool};

use regex::Regex;
use serde_json::{Value, json};

use super::{Experiment, Forecast, ModelClient, probe_plan};
use crate::config::{InterviewSpec, StopOnRefusal};
use crate::plan::{AxisPlan, CategoryPlan, JudgePlan};
use tiltmeter_model::Sampling;
use tiltmeter_model::probe::{Axis, ProbePlan};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ChatRequest, Message, Role, SeedKey};
use tiltmeter_scheduler::Run;

pub use judge::{Adherence, LEVELS, OUTCOMES, Verdict};
pub use plan::{InterviewPlan, RefusalPlan, VariantPlan};
pub use run::{Judgement, Row, Turn};

/// Before every line that the experiment itself says.
const SYSTEM: &str = "[SYSTEM]: ";

/// The line around headings.
fn rule() -> String {
    "=".repeat(60)
}

/// What all runs share.
struct Setting {
    spec: InterviewSpec,
    steward: ModelClient,
    judge: ModelClient,
    probes: Option<Arc<ProbePlan>>,
    /// What a refusal is; `None`: nothing.
    refusal: Option<Regex>,
    instructions: String,
    /// `None` if the judge can be held to none.
    schema: Option<Value>,
    judge_sampling: Sampling,
    /// Which variants have been announced.
    announced: Vec<AtomicBool>,
}

impl Setting {
    /// The steward's next question, the last of these messages.
    fn question(&self, messages: &[Message], seed: SeedKey) -> ChatRequest {
        ChatRequest {
            sampling: self.spec.sampling,
            max_new_tokens: Some(self.spec.max_new_tokens),
            seed,
            probes: self.probes.clone(),
            ..ChatRequest::new(messages.to_vec())
        }
    }

    fn verdict_on(&self, turns: &[Turn], seed: SeedKey) -> ChatRequest {
        judge::request(&self.spec, &self.instructions, self.schema.as_ref(), turns, seed, self.judge_sampling)
    }
}

/// An interview experiment with everything it needs opened and checked.
pub struct Interview {
    setting: Arc<Setting>,
    axes: Vec<Axis>,
    forecast: Forecast,
    /// Number of the first repetition: those before it were made in earlier batches.
    first_run: usize,
}

impl Interview {
    /// Whether there is anything to project: a model behind an API does not show its hidden states.
    pub fn can_be_read(spec: &InterviewSpec, steward: &ModelClient) -> Result<(), Problem> {
        if spec.readouts.axes.is_empty() || steward.model.card().hidden_size.is_some() {
            return Ok(());
        }
        Err(Problem::new(format!("{} does not show its hidden states, so nothing can be projected", spec.steward.name))
            .at("axes")
            .hint("remove the axes, or take a steward on this machine: a folder or a hub id"))
    }

    /// Checks everything that can be checked before anything is spent: axes, what the models take, and whether the conversations fit.
    pub fn new(
        spec: InterviewSpec,
        steward: ModelClient,
        judge: ModelClient,
        axes: Vec<Axis>,
    ) -> Result<Self, Vec<Problem>> {
        let mut problems: Vec<Problem> = Self::can_be_read(&spec, &steward).err().into_iter().collect();
        let probes = probe_plan::probe_plan(&axes, spec.readouts.span).unwrap_or_else(|found| {
            problems.extend(found);
            None
        });
        let refusal = refusal::compiled(spec.stop_on_refusal.rule).map_err(|problem| vec![problem])?;
        let instructions = judge::instructions(&spec);
        let schema = Some(judge::schema(&spec.menu));
        let announced = spec.variants.iter().map(|_| AtomicBool::new(false)).collect();
        let judge_sampling = Sampling::default();
        let mut setting =
            Setting { spec, steward, judge, probes, refusal, instructions, schema, judge_sampling, announced };
        let schema = setting.schema.take();
        (setting.judge_sampling, setting.schema) =
            crate::judge::supported(setting.judge.model.as_ref(), schema, |sampling, schema| {
                judge::request(&setting.spec, &setting.instructions, schema, &[], SeedKey::default(), sampling)
            });
        let forecast = forecast::forecast(&setting).map_err(|found| problems.extend(found));
        match forecast {
            Ok(forecast) if problems.is_empty() => {
                Ok(Self { setting: Arc::new(setting), axes, forecast, first_run: 0 })
            }
            _ => Err(problems),
        }
    }

    fn total_runs(&self) -> usize {
        self.setting.spec.variants.len() * self.setting.spec.runs_per_variant
    }
}

impl Experiment for Interview {
    fn name(&self) -> &str {
        &self.setting.spec.experiment
    }

    fn plan(&self) -> Value {
        let Setting { spec, steward, judge, instructions, schema, judge_sampling, .. } = self.setting.as_ref();
        let category = |label: &str, title: &str, menu: Vec<String>| CategoryPlan {
            label: label.to_owned(),
            title: Some(title.to_owned()),
            menu,
        };
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        let StopOnRefusal { after, rule } = spec.stop_on_refusal;
        json!(InterviewPlan {
            kind: "interview".to_owned(),
            experiment: spec.experiment.clone(),
            experiment_version: spec.experiment_version.clone(),
            steward: steward.plan(spec.steward.base_url.as_deref()),
            judge: JudgePlan {
                model: judge.plan(spec.judge.base_url.as_deref()),
                instructions: instructions.clone(),
                schema: schema.clone(),
                temperature: (!judge_sampling.default_temperature).then_some(judge_sampling.temperature),
                max_new_tokens: spec.judge_max_tokens,
            },
            batch: spec.batch,
            briefing: spec.briefing.clone(),
            conditions: spec.variants.iter().map(|variant| VariantPlan::of(variant, &spec.briefing)).collect(),
            menu: spec.menu.clone(),
            categories: vec![
                category("strategy", "Strategy", spec.menu.iter().map(|strategy| strategy.name.clone()).collect()),
                category("outcome", "Outcome", words(&OUTCOMES)),
                category("deception_level", "Level of deception", words(&LEVELS)),
            ],
            runs_per_variant: spec.runs_per_variant,
            first_run: self.first_run,
            seed: spec.seed,
            seeding: spec.seeding,
            sampling: spec.sampling,
            max_new_tokens: spec.max_new_tokens,
            stop_on_refusal: RefusalPlan { after, rule, pattern: refusal::pattern(rule).map(str::to_owned) },
            axes: self.axes.iter().map(AxisPlan::of).collect(),
            token_span: spec.readouts.span,
            publication: spec.publication,
            other: serde_json::Map::new(),
        })
    }

    fn describe(&self) -> Vec<(String, String)> {
        describe::describe(&self.setting, &self.axes, self.first_run)
    }

    fn banner(&self) -> Vec<String> {
        let spec = &self.setting.spec;
        if !spec.batch {
            return vec![format!("{SYSTEM}SINGLE RUN of variant '{}'", spec.variants[0].id)];
        }
        let ids: Vec<&str> = spec.variants.iter().map(|variant| variant.id.as_str()).collect();
        let lines = [
            rule(),
            "BATCH EXPERIMENT MODE".to_owned(),
            format!("Testing {} variants: {}", ids.len(), ids.join(", ")),
            format!("Runs per variant: {}", spec.runs_per_variant),
            format!("Total runs: {}", self.total_runs()),
            rule(),
        ];
        lines.into_iter().map(|line| format!("{SYSTEM}{line}")).collect()
    }

    fn continue_numbering(&mut self, earlier: &[Value], resumed: Option<&Value>) {
        let number = |plan: &Value, key: &str| plan[key].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let own = |plan: &&Value| plan["kind"] == "interview" && plan["experiment"] == *self.name();
        self.first_run = match resumed {
            Some(plan) => number(plan, "first_run"),
            None => {
                let after = |plan: &Value| number(plan, "first_run") + number(plan, "runs_per_variant");
                earlier.iter().filter(own).map(after).max().unwrap_or(0)
            }
        };
    }

    fn runs(&self) -> Vec<Arc<dyn Run>> {
        let spec = &self.setting.spec;
        let cells = (0..spec.variants.len()).flat_map(|variant| (0..spec.runs_per_variant).map(move |i| (variant, i)));
        cells.map(|(variant, index)| Arc::new(run::InterviewRun::new(self, variant, index)) as Arc<dyn Run>).collect()
    }

    fn in_flight(&self) -> usize {
        // Enough for this machine to compute several at once; few enough for an account that nothing is known of.
        let most = if self.setting.steward.local { 16 } else { 4 };
        most.min(self.total_runs()).max(1)
    }

    fn totals(&self) -> Vec<(&'static str, u64)> {
        let spec = &self.setting.spec;
        let questions: usize = spec.variants.iter().map(|variant| variant.prompts.len()).sum();
        vec![("replies", (questions * spec.runs_per_variant) as u64)]
    }

    fn forecast(&self) -> &Forecast {
        &self.forecast
    }
}

/// The steward's briefing and the first questions, with these replies between them.
fn conversation(briefing: &str, questions: &[String], reply: &str) -> Vec<Message> {
    let mut messages = vec![Message::new(Role::System, briefing)];
    for (index, question) in questions.iter().enumerate() {
        if index > 0 {
            messages.push(Message::new(Role::Assistant, reply));
        }
        messages.push(Message::new(Role::User, question.clone()));
    }
    messages
}
