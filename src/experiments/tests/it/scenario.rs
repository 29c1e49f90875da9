//! Tests of `kind: scenario`: who is sent what in a turn, what is measured, what a run leaves, and what a run that did
//! not come to its end counts for.

mod analysis;
mod halts;
mod plan;
mod turns;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tiltmeter_experiments::{
    Experiment, Ledger, ModelClient, RunRecord,
    config::{self, ScenarioSpec, Spec},
    kind_of,
    scenario::ScenarioBatch,
};
use tiltmeter_model::{
    ChatReply, ChatRequest, Finish, Message, Model, ModelCard, ModelError, Role, Usage,
    failure::{Class, Failure},
    problem::Problem,
};
use tiltmeter_scheduler::{Budget, CallPolicy, Lane, LaneLimits, Plan, Schedule, StopSignal, Summary};
use tiltmeter_store::RunFolder;
use tiltmeter_test_support::paths::{in_repo, json as read_json};

/// The lane of all models here.
const LANE: &str = "engine";

/// What a model answers to a request: a text, or why there is none.
type Answers = dyn Fn(&ChatRequest) -> Result<String, ModelError> + Send + Sync;

/// Messages of every request that somebody was sent, by the model's name, in order.
type Seen = Arc<Mutex<Vec<(String, Vec<Message>)>>>;

/// A model that remembers what it was asked and asks for money.
struct Player {
    card: ModelCard,
    answers: Arc<Answers>,
    seen: Seen,
    micro_usd: u64,
}

#[async_trait::async_trait]
impl Model for Player {
    fn card(&self) -> &ModelCard {
        &self.card
    }

    async fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ModelError> {
        self.seen.lock().unwrap().push((self.card.name.clone(), request.messages.clone()));
        let content = (self.answers)(request)?;
        Ok(ChatReply {
            usage: Usage { prompt_tokens: 10, completion_tokens: 5, cost_usd: self.micro_usd as f64 / 1e6 },
            message: Message::new(Role::Assistant, content),
            token_ids: Vec::new(),
            finish: Finish::Stop,
            reused_tokens: 0,
            readout: None,
            version: None,
        })
    }

    fn worst_case_micro_usd(&self, _request: &ChatRequest) -> Option<u64> {
        Some(self.micro_usd)
    }
}

/// What an API says that has had enough.
fn too_many_requests() -> ModelError {
    let problem = Problem::new("429: too many requests");
    ModelError::Call(Box::new(Failure { cost_micro_usd: Some(0), ..Failure::new(Class::Quota, problem) }))
}

/// A decision with all its parts; `word` marks each.
fn decision(word: &str) -> String {
    format!(
        "LONG-TERM GOALS\n{word}-goal\nSHORT-TERM PRIORITIES\n{word}-priority\nREASONING\n{word}-reason\nACTION\n{word}-action"
    )
}

/// What one sitting of a batch left.
struct Left {
    home: tempfile::TempDir,
    plan: Value,
    summary: Summary,
    seen: Vec<(String, Vec<Message>)>,
}

/// A scenario batch with players in all parts.
struct Stage {
    spec: ScenarioSpec,
    answers: BTreeMap<String, Arc<Answers>>,
    micro_usd: u64,
    limits: (Option<u64>, Option<u64>),
    run_limit_ends_batch: bool,
    stop: StopSignal,
}

impl Stage {
    fn new(keys: Value) -> Self {
        Self::of(good(keys))
    }

    /// Actors whose decisions bear their model's name, and a world that is told by its turn.
    fn of(spec: ScenarioSpec) -> Self {
        let stop = StopSignal::new();
        let mut stage = Self {
            spec,
            answers: BTreeMap::new(),
            micro_usd: 0,
            limits: (None, None),
            run_limit_ends_batch: false,
            stop,
        };
        for name in stage.spec.model_names() {
            let word = name.clone();
            stage.answers.insert(
                name,
                Arc::new(move |request: &ChatRequest| {
                    let last = &request.messages.last().unwrap().content;
                    let turn = last.split("Turn ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("?");
                    Ok(match request.messages[0].content.contains("You keep the state of this world") {
                        true => format!(
                            "World after turn {turn}.\nINDICATORS\ncooperation_level: {turn}\nsafety_commitment: 2.5"
                        ),
                        false => decision(&format!("{word}-{turn}")),
                    })
                }),
            );
        }
        stage
    }

    fn answers(
        mut self,
        model: &str,
        answer: impl Fn(&ChatRequest) -> Result<String, ModelError> + Send + Sync + 'static,
    ) -> Self {
        self.answers.insert(model.to_owned(), Arc::new(answer));
        self
    }

    /// What every call costs.
    fn priced(mut self, micro_usd: u64) -> Self {
        self.micro_usd = micro_usd;
        self
    }

    fn limited(mut self, batch: Option<u64>, run: Option<u64>) -> Self {
        self.limits = (batch, run);
        self
    }

    fn speaker(&self, name: &str, seen: &Seen) -> ModelClient {
        let model = Player {
            card: ModelCard { name: name.to_owned(), family: "player".to_owned(), ..ModelCard::default() },
            answers: self.answers[name].clone(),
            seen: seen.clone(),
            micro_usd: self.micro_usd,
        };
        let policy = CallPolicy { max_attempts: 1, ..CallPolicy::default() };
        ModelClient { model: Arc::new(model), lane: LANE.to_owned(), policy, local: false, price: Value::Null }
    }

    fn open(&self, seen: &Seen) -> Result<ScenarioBatch, Vec<Problem>> {
        let names = self.spec.model_names();
        let speakers = names.iter().map(|name| (name.clone(), self.speaker(name, seen))).collect();
        let judge = self.spec.judge.as_ref().map(|judge| self.speaker(&judge.name, seen));
        ScenarioBatch::new(self.spec.clone(), speakers, judge, BTreeMap::new())
    }

    fn run(&self) -> Left {
        self.run_in(tempfile::tempdir().unwrap())
    }

    /// Goes on with what is in the folder.
    fn run_in(&self, home: tempfile::TempDir) -> Left {
        let seen = Seen::default();
        let mut batch = self.open(&seen).map_err(|problems| format!("{problems:?}")).unwrap();
        let folder = RunFolder::at(home.path());
        let earlier = Plan::read(&folder.plan()).ok();
        batch.continue_numbering(&[], earlier.as_ref().map(Plan::document));
        let plan = Plan::freeze(batch.plan());
        let budget = Budget::limited(self.limits.0, self.limits.1);
        if self.run_limit_ends_batch {
            budget.run_limit_ends_batch();
        }
        let schedule = Schedule::new(plan.clone(), folder)
            .lanes(vec![Lane::new(LANE, LaneLimits::default())])
            .budget(budget)
            .stop(self.stop.clone())
            .resume(true)
            .accept_drift(true);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let summary = runtime.block_on(schedule.run(batch.runs())).expect("it runs");
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        let left = Left { home, plan: plan.document().clone(), summary, seen };
        left.write();
        left
    }
}

impl Left {
    fn ran(&self) -> Vec<RunRecord> {
        self.summary.runs.clone()
    }

    fn books(&self) -> Ledger {
        self.summary.ledger.clone()
    }

    /// Files as a sitting writes them.
    fn write(&self) {
        let kind = kind_of(&self.plan).unwrap();
        let ran = self.ran();
        let of_runs = ran.iter().flat_map(|run| kind.run_files(run));
        for file in of_runs.chain(kind.accounts(&ran, &self.books())) {
            let path = self.home.path().join(&file.path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file.text).unwrap();
        }
    }

    fn json(&self, path: &str) -> Value {
        read_json(self.home.path().join(path))
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.home.path().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Everything a model was sent in its requests, by request.
    fn sent(&self, model: &str) -> Vec<&Vec<Message>> {
        self.seen.iter().filter(|(name, _)| name == model).map(|(_, messages)| messages).collect()
    }
}

/// All that stands in a request.
fn whole(messages: &[Message]) -> String {
    messages.iter().map(|message| format!("{}\n", message.content)).collect()
}

/// The regulation scenario with aliases for its models; the keys given win.
fn batch(keys: Value) -> Value {
    let mut whole = json!({
        "experiment_name": "Regulation Study",
        "base_scenario": in_repo("experiments/scenarios/test-regulation-negotiation"),
        "variations": [
            {"type": "actor_model", "actor": "regulator", "values": ["reg"]},
            {"type": "actor_model", "actor": "tech-company", "values": ["tech"]},
            {"type": "scenario_parameter", "parameter": "world_state_model", "values": ["world"]},
            {"type": "scenario_parameter", "parameter": "turns", "values": [3]},
        ],
    });
    whole.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    whole
}

fn read(batch: &Value) -> Result<ScenarioSpec, Vec<String>> {
    match config::read(&batch.to_string(), Path::new("batch.json"), &[]) {
        Ok(loaded) => match loaded.spec {
            Spec::Scenario(spec) => Ok(*spec),
            other => panic!("{other:?}"),
        },
        Err(problems) => Err(problems.iter().map(|problem| problem.to_string().replace('\n', " |")).collect()),
    }
}

fn good(keys: Value) -> ScenarioSpec {
    read(&batch(keys)).unwrap_or_else(|problems| panic!("{}", problems.join("\n")))
}

/// A scenario folder of the test's own: three actors, each played by the model of its name, and a world `world`.
fn folder(scenario: &str, metrics: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("actors")).unwrap();
    for name in ["ann", "ben", "cay"] {
        let text = format!(
            "name: {name} of the test\nshort_name: {name}\nllm_model: {name}\nsystem_prompt: You are {name}.\nprivate_information: {name}-secret\n"
        );
        fs::write(dir.path().join(format!("actors/{name}.yaml")), text).unwrap();
    }
    let base = "name: Test\nsystem_prompt: A test.\ninitial_world_state: The beginning.\nworld_state_model: world\nactors: [ann, ben, cay]\n";
    fs::write(dir.path().join("scenario.yaml"), format!("{base}{scenario}")).unwrap();
    if !metrics.is_empty() {
        fs::write(dir.path().join("metrics.yaml"), metrics).unwrap();
    }
    dir
}

/// A batch of one variation of such a folder.
fn small(dir: &tempfile::TempDir, keys: Value) -> ScenarioSpec {
    let mut whole = json!({"experiment_name": "small", "base_scenario": dir.path()});
    whole.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    read(&whole).unwrap_or_else(|problems| panic!("{}", problems.join("\n")))
}
