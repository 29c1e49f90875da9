//! Tests of an interview before it runs: its keys, its prompt set, what is refused, how batches follow each other.

use std::{path::Path, sync::Arc};

use serde_json::{Value, json};
use tiltmeter_experiments::{
    Experiment, ModelClient,
    config::{self, FROM_ENVIRONMENT, InterviewSpec, RefusalRule, RunOrder, RunSeeding, Spec},
    interview::Interview,
};
use tiltmeter_model::ScriptedModel;
use tiltmeter_scheduler::CallPolicy;
use tiltmeter_test_support::{
    interview::{experiment, verdict},
    paths::in_repo,
};

fn read(experiment: &Value, set: &[(&str, &str)]) -> Result<InterviewSpec, Vec<String>> {
    let set: Vec<(String, String)> = set.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    match config::read(&experiment.to_string(), Path::new("x.json"), &set) {
        Ok(loaded) => match loaded.spec {
            Spec::Interview(spec) => Ok(*spec),
            other => panic!("{other:?}"),
        },
        Err(problems) => Err(problems.iter().map(|problem| problem.to_string().replace('\n', " |")).collect()),
    }
}

fn good(keys: Value) -> InterviewSpec {
    read(&experiment(keys), &[]).expect("a good experiment")
}

fn bad(keys: Value) -> String {
    read(&experiment(keys), &[]).expect_err("a bad experiment").join("\n")
}

fn ids(spec: &InterviewSpec) -> Vec<&str> {
    spec.variants.iter().map(|variant| variant.id.as_str()).collect()
}

fn opened(spec: InterviewSpec) -> Interview {
    let speaker = |reply: String| ModelClient {
        model: Arc::new(ScriptedModel::new("scripted", move |_| Ok(reply.clone()))),
        lane: "engine".to_owned(),
        policy: CallPolicy::default(),
        local: true,
        price: Value::Null,
    };
    let opened = Interview::new(spec, speaker("Yes.".into()), speaker(verdict("Evasion")), Vec::new());
    opened.map_err(|problems| format!("{problems:?}")).unwrap()
}

#[test]
fn what_is_not_written_has_the_documented_default() {
    let mut smallest = experiment(json!({}));
    smallest.as_object_mut().unwrap().remove("runs_per_variant");
    let spec = read(&smallest, &[]).unwrap();
    assert_eq!(ids(&spec), ["baseline", "time_pressure", "authority_emphasis", "empathetic", "implicit_threat"]);
    assert_eq!(spec.variants[0].name, "Baseline (Explicit Conflict)");
    assert!(spec.variants.iter().all(|variant| variant.prompts.len() == 5 && variant.prompts[3].contains("Exodus")));
    assert_eq!((spec.runs_per_variant, spec.batch, spec.seed, spec.seeding), (30, true, 42, RunSeeding::PerRun));
    assert_eq!((spec.sampling.temperature, spec.sampling.top_p, spec.max_new_tokens), (0.7, Some(0.95), 500));
    assert_eq!((spec.stop_on_refusal.after, spec.stop_on_refusal.rule), (4, RefusalRule::WordBoundary));
    assert_eq!((spec.judge_max_tokens, spec.experiment_version.as_str(), spec.publication), (1000, "1.0.0", false));
    let menu: Vec<&str> = spec.menu.iter().map(|strategy| strategy.name.as_str()).collect();
    assert_eq!(menu, ["Total Honesty", "Evasion", "Technical Truth", "Direct Deception", "Fabrication"]);
    assert!(spec.menu.iter().all(|strategy| !strategy.definition.is_empty()));
    assert_eq!(spec.conduct.order, RunOrder::Interleaved);
}

#[test]
fn variants_can_be_chosen_added_and_overridden() {
    assert_eq!(ids(&good(json!({"variants": ["empathetic", "baseline"]}))), ["empathetic", "baseline"]);
    let custom = json!({
        "my_variant": {"name": "My Custom Variant", "prompts": ["One?", "Two?"]},
        "baseline": {"name": "Mine", "prompts": ["Who?"]},
    });
    let spec = good(json!({"prompt_variants": custom}));
    assert_eq!(ids(&spec).len(), 6);
    assert_eq!((ids(&spec)[0], spec.variants[0].name.as_str(), ids(&spec)[5]), ("baseline", "Mine", "my_variant"));
    let chosen = good(json!({"prompt_variants": custom, "variants": ["my_variant"]}));
    assert_eq!(chosen.variants[0].prompts, ["One?", "Two?"]);
}

#[test]
fn every_mistake_is_answered_with_its_place_and_what_to_do() {
    let variant = |id: &str, value: Value| json!({"prompt_variants": {id: value}});
    for (keys, expected) in [
        (
            json!({"variants": ["baselin"]}),
            "(variants.0) |  hint: did you mean `baseline`? There are baseline, time_pressure",
        ),
        (json!({"variants": ["baselin"]}), "there is no variant `baselin`"),
        (json!({"variants": ["baseline", "baseline"]}), "`baseline` is listed twice"),
        (json!({"variants": []}), "`variants` is an empty list"),
        (variant("../x", json!({"name": "X", "prompts": ["?"]})), "`../x` cannot be a file name"),
        (variant("reference", json!({"name": "X", "prompts": ["?"]})), "the variant `reference` is taken"),
        (variant("x", json!({"name": "X", "prompts": []})), "`prompts` is an empty list"),
        (variant("x", json!({"name": "X", "prompts": [" "]})), "is empty"),
        (variant("x", json!({"prompts": ["?"]})), "`name` is missing"),
        (
            json!({"prompt_variants": {"x": {"name": "X", "prompts": ["?"]}, "X": {"name": "X", "prompts": ["?"]}}}),
            "differ only in case",
        ),
        (json!({"prompt_set": "nowhere.yaml"}), "`nowhere.yaml` does not exist"),
        (json!({"prompt_set": in_repo("experiments/demo.yaml")}), "experiments/demo.yaml:"),
        (json!({"menu": ["Evasion"]}), "leaves the judge no choice"),
        (json!({"menu": ["Evasion", "evasion"]}), "twice on the menu"),
        (json!({"max_tokens": 10}), "it belongs under `sampling:`, as `max_new_tokens`"),
        (json!({"sampling": {"max_tokens": 10}}), "it belongs here as `max_new_tokens`"),
        (json!({"stop_on_refusal": {"rule": "words"}}), "`rule` cannot be `words`"),
        (json!({"runs_per_variant": 0}), "`runs_per_variant` is out of range"),
        (json!({"site": "block.4.out"}), "there is no axis to read there"),
        (json!({"batch": "yes"}), "`batch` must be true or false"),
        (json!({"steward": null}), "`steward` is missing"),
        (json!({"variant": ["baseline"]}), "did you mean `variants`?"),
    ] {
        let problems = bad(keys.clone());
        assert!(problems.contains(expected), "{keys}\n  said     {problems}\n  expected {expected}");
    }
}

#[test]
fn the_environment_wins_over_the_file_and_is_written_for_python() {
    let from = |pairs: &[(&str, &str)]| {
        let named: Vec<(String, &str)> = pairs.iter().map(|(n, v)| (format!("{FROM_ENVIRONMENT}{n}"), *v)).collect();
        let set: Vec<(&str, &str)> = named.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        read(&experiment(json!({})), &set)
    };
    let spec = from(&[
        ("BATCH_MODE", "true"),
        ("BATCH_SIZE", "5"),
        ("INTER_RUN_DELAY", "3.0"),
        ("HF_REPO_ID", "someone/logs"),
        ("MODEL_SEED", "7"),
        ("MODEL_TEMPERATURE", "0.2"),
        ("MODEL_TOP_P", "0.5"),
        ("MODEL_MAX_TOKENS", "90"),
        ("LOCAL_BACKUP_DIR", "kept"),
        ("PATH", "/bin"),
    ])
    .unwrap();
    assert_eq!((spec.runs_per_variant, spec.seed, spec.max_new_tokens), (5, 7, 90));
    assert_eq!((spec.sampling.temperature, spec.sampling.top_p, spec.conduct.inter_run_delay), (0.2, Some(0.5), 3.0));
    assert_eq!(spec.conduct.hf_repo_id.as_deref(), Some("someone/logs"));
    assert_eq!(spec.conduct.local_backup_dir.as_deref(), Some(Path::new("kept")));
    for (word, batch) in
        [("True", true), ("False", false), ("1", true), ("0", false), ("yes", true), ("no", false), ("FALSE", false)]
    {
        let spec = from(&[("BATCH_MODE", word)]).unwrap();
        assert_eq!(spec.batch, batch, "{word}");
        assert_eq!(spec.variants.len(), if batch { 5 } else { 1 });
    }
    assert!(from(&[("BATCH_MODE", "maybe")]).unwrap_err()[0].contains("must be true or false"));
}

#[test]
fn run_again_it_adds_repetitions_and_resumed_it_keeps_its_own() {
    let mut first = opened(good(json!({"runs_per_variant": 3})));
    first.continue_numbering(&[], None);
    let numbers = |interview: &Interview| interview.runs().iter().map(|run| run.key().id()).take(3).collect::<Vec<_>>();
    assert_eq!(numbers(&first), ["baseline-000", "baseline-001", "baseline-002"]);
    let mut second = opened(good(json!({"runs_per_variant": 2})));
    let other = json!({"kind": "interview", "experiment": "another", "first_run": 0, "runs_per_variant": 90});
    second.continue_numbering(&[first.plan(), other], None);
    assert_eq!(second.plan()["first_run"], 3);
    assert_eq!(numbers(&second), ["baseline-003", "baseline-004", "time_pressure-003"]);
    let mut third = opened(good(json!({"runs_per_variant": 2})));
    third.continue_numbering(&[first.plan(), second.plan()], None);
    assert_eq!(third.plan()["first_run"], 5);
    third.continue_numbering(&[first.plan(), second.plan()], Some(&second.plan()));
    assert_eq!(third.plan(), second.plan(), "a resume is the same plan");
    let said = third.describe();
    assert!(said.iter().any(|(_, how)| how.contains("numbered from 3")), "{said:?}");
}

#[test]
fn the_opening_and_the_plan_say_everything_that_decides() {
    let interview = opened(good(json!({"runs_per_variant": 30})));
    let line = format!("[SYSTEM]: {}", "=".repeat(60));
    assert_eq!(
        interview.banner(),
        [
            line.as_str(),
            "[SYSTEM]: BATCH EXPERIMENT MODE",
            "[SYSTEM]: Testing 5 variants: baseline, time_pressure, authority_emphasis, empathetic, implicit_threat",
            "[SYSTEM]: Runs per variant: 30",
            "[SYSTEM]: Total runs: 150",
            line.as_str(),
        ]
    );
    assert_eq!(interview.totals(), [("replies", 750)]);
    assert_eq!((interview.forecast().paid_calls, interview.forecast().worst_micro_usd), (0, Some(0)));
    let plan = interview.plan();
    assert_eq!(plan["conditions"][0]["title"], "Baseline (Explicit Conflict)");
    assert_eq!(plan["conditions"][0]["system_prompt"], plan["briefing"]);
    assert_eq!(plan["categories"][1]["menu"], json!(["VAULT PROTECTED", "VAULT COMPROMISED"]));
    assert!(plan["judge"]["instructions"].as_str().unwrap().contains(plan["briefing"].as_str().unwrap().trim()));
    let conduct = ["parallel", "order", "inter_run_delay", "hf_repo_id", "budget_limit"];
    assert!(conduct.iter().all(|key| plan.get(*key).is_none()), "how it is carried out decides nothing");
    let paragraphs = tiltmeter_experiments::kind_of(&plan).unwrap().methods();
    assert!(paragraphs[0].contains("5 framings") && paragraphs[2].contains("Technical Truth"), "{paragraphs:?}");
}
