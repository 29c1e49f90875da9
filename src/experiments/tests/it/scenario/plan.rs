//! Tests of a scenario batch before it runs: its keys, its folder, the matrix, what is refused.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tiltmeter_experiments::{
    Experiment,
    config::{self, MetricKind, OnRunCostLimit, Spec},
};
use tiltmeter_test_support::paths::in_repo;

use super::{Seen, Stage, batch, folder, good, read, small};

/// The configuration of the scenario guide.
const GUIDE: &str = include_str!("../../../../../tests/fixtures/scenario_guide.yaml");

fn bad(keys: Value) -> String {
    read(&batch(keys)).expect_err("a bad batch").join("\n")
}

fn run_ids(stage: &Stage) -> Vec<String> {
    let batch = stage.open(&Seen::default()).map_err(|problems| format!("{problems:?}")).unwrap();
    batch.runs().iter().map(|run| run.key().id()).collect()
}

#[test]
fn the_guides_file_loads_as_it_stands_and_plans_forty_runs() {
    // Its scenario is looked for beside the file.
    let path = in_repo("experiments/batch-config.yaml");
    let loaded = config::read(GUIDE, Path::new(&path), &[]).map_err(|problems| format!("{problems:?}")).unwrap();
    assert_eq!(loaded.notes, []);
    let Spec::Scenario(spec) = &loaded.spec else { panic!("{:?}", loaded.spec) };
    assert_eq!(
        (spec.experiment.as_str(), spec.experiment_name.as_str()),
        ("model-comparison-study", "Model Comparison Study")
    );
    assert_eq!((spec.runs_per_variation, spec.cells().len()), (10, 4));
    let conduct = loaded.spec.conduct();
    assert_eq!((conduct.parallel, conduct.timeout_per_run), (Some(2), Some(1800.0)));
    assert_eq!((conduct.budget_limit, conduct.cost_per_run_limit), (Some(20_000_000), Some(1_000_000)));
    assert_eq!(conduct.on_run_cost_limit, OnRunCostLimit::StopRun);
    assert_eq!(loaded.spec.output().as_deref(), Some(Path::new("experiments/my-experiment")));
    assert!(spec.save_individual_runs && spec.aggregate_metrics);

    let ids = run_ids(&Stage::of((**spec).clone()));
    assert_eq!(ids.len(), 40);
    assert_eq!(
        (ids[0].as_str(), ids[2].as_str(), ids[39].as_str()),
        ("var-001-run-001", "var-001-run-003", "var-004-run-010")
    );
    let descriptions: Vec<String> = spec.cells().iter().map(|cell| cell.title(&spec.variations)).collect();
    assert_eq!(
        descriptions,
        [
            "regulator=openai/gpt-4o-mini, tech-company=openai/gpt-4o-mini",
            "regulator=openai/gpt-4o-mini, tech-company=anthropic/claude-3-haiku",
            "regulator=anthropic/claude-3-haiku, tech-company=openai/gpt-4o-mini",
            "regulator=anthropic/claude-3-haiku, tech-company=anthropic/claude-3-haiku",
        ]
    );
}

#[test]
fn what_is_not_written_has_the_documented_default() {
    let folder = in_repo("experiments/scenarios/test-regulation-negotiation");
    let spec = read(&json!({"experiment_name": "x", "base_scenario": folder})).unwrap();
    assert_eq!((spec.runs_per_variation, spec.cells().len(), spec.seed), (1, 1, 42));
    assert_eq!(spec.cells()[0].title(&spec.variations), "base scenario");
    assert_eq!((spec.conduct.parallel, spec.conduct.timeout_per_run), (Some(1), Some(1800.0)));
    assert_eq!((spec.conduct.budget_limit, spec.conduct.cost_per_run_limit), (None, None));
    assert_eq!((spec.sampling.temperature, spec.max_new_tokens, spec.world_max_tokens), (0.7, 1000, 1500));
    assert!(spec.save_individual_runs && spec.aggregate_metrics && spec.judge.is_none());
    let names: Vec<&str> = spec.scenario.actors.iter().map(|actor| actor.short_name.as_str()).collect();
    assert_eq!(names, ["regulator", "tech-company"]);
    assert_eq!(spec.scenario.metrics[0].kind, MetricKind::Integer, "`int` is a number");
    assert_eq!(good(json!({"variations": []})).cells().len(), 1);
    let kinded = good(json!({"kind": "scenario"}));
    assert_eq!(kinded, good(json!({})), "the kind may be said");
}

#[test]
fn an_actor_that_nobody_is_is_a_mistake_of_the_plan() {
    let vary = |actor: &str| json!({"variations": [{"type": "actor_model", "actor": actor, "values": ["m"]}]});
    let said = bad(vary("regulater"));
    assert!(said.contains("no actor of the scenario has the short_name `regulater`"), "{said}");
    assert!(
        said.contains("(variations.0.actor)")
            && said.contains("did you mean `regulator`? There are regulator, tech-company"),
        "{said}"
    );
    assert!(bad(vary("parliament")).contains("hint: there are regulator, tech-company"));
}

#[test]
fn every_mistake_is_answered_with_its_place_and_what_to_do() {
    let vary = |entry: Value| json!({"variations": [entry]});
    for (keys, expected) in [
        (json!({"base_scenario": "nowhere"}), "`base_scenario` `nowhere` does not exist"),
        (json!({"base_scenario": in_repo("experiments/scenarios/test-regulation-negotiatoin")}), "did you mean"),
        (json!({"base_scenario": in_repo("experiments/demo.yaml")}), "is a file"),
        (json!({"experiment_name": null}), "`experiment_name` is missing"),
        (json!({"experiment_name": "???"}), "leaves no file name"),
        (json!({"runs_per_variation": 0}), "`runs_per_variation` is out of range"),
        (json!({"runs_per_variant": 3}), "here as `runs_per_variation`"),
        (json!({"parallel": 3}), "here as `max_parallel`"),
        (json!({"turns": 3}), "it belongs in scenario.yaml"),
        (json!({"on_run_cost_limit": "stop_runs"}), "did you mean `stop_run`"),
        (json!({"judge": "openai/gpt-4o-mini", "models": 3}), "`models` must be a mapping"),
        (vary(json!({"type": "actor", "actor": "regulator", "values": ["m"]})), "`type` cannot be `actor`"),
        (vary(json!({"type": "actor_model", "actor": "regulator", "values": []})), "`values` is an empty list"),
        (vary(json!({"type": "actor_model", "actor": "regulator", "values": ["m", "m"]})), "listed twice"),
        (vary(json!({"type": "actor_model", "values": ["m"]})), "`actor` is missing"),
        (vary(json!({"type": "scenario_parameter", "parameter": "turn", "values": [1]})), "did you mean `turns`?"),
        (
            vary(json!({"type": "scenario_parameter", "parameter": "turns", "values": ["three"]})),
            "must be a whole number",
        ),
        (vary(json!({"type": "actor_model", "actor": "regulator", "values": ["scripted"]})), "there is no script"),
        (
            json!({"variations": [
                {"type": "actor_model", "actor": "regulator", "values": ["a"]},
                {"type": "actor_model", "actor": "regulator", "values": ["b"]},
            ]}),
            "`regulator` is varied twice",
        ),
    ] {
        let problems = bad(keys.clone());
        assert!(problems.contains(expected), "{keys}\n  said     {problems}\n  expected {expected}");
    }
}

#[test]
fn a_mistake_in_the_folder_is_located_in_its_own_file() {
    let check = |change: &dyn Fn(&Path), file: &str, expected: &str| {
        let dir = folder("turns: 1\n", "metrics:\n  a: {pattern: 'a (\\d+)', type: int}\n");
        change(dir.path());
        let batch = json!({"experiment_name": "x", "base_scenario": dir.path(), "runs_per_variation": 0});
        let said = read(&batch).expect_err("a bad folder").join("\n");
        assert!(said.contains(expected), "{said}\n  expected {expected}");
        assert!(said.contains(&format!("{file}:")), "{said}\n  expected a place in {file}");
        assert!(said.contains("`runs_per_variation` is out of range"), "all problems come at once: {said}");
    };
    let put = |file: &'static str, text: &'static str| move |dir: &Path| fs::write(dir.join(file), text).unwrap();
    check(
        &put("actors/ann.yaml", "name: Ann\nshort_name: anne\nllm_model: m\nsystem_prompt: x\n"),
        "ann.yaml",
        "the short_name is `anne`",
    );
    check(
        &put("actors/ben.yaml", "name: Ben\nshort_name: ben\nsystem_prompt: x\n"),
        "ben.yaml",
        "`llm_model` is missing",
    );
    check(
        &put("metrics.yaml", "metrics:\n  a: {pattern: '(', type: int}\n"),
        "metrics.yaml",
        "is not a regular expression",
    );
    check(
        &put("metrics.yaml", "metrics:\n  a: {pattern: 'x', type: number}\n"),
        "metrics.yaml",
        "`type` cannot be `number`",
    );
    check(&put("metrics.yaml", "metrics:\n  a: {type: int}\n"), "metrics.yaml", "`pattern` is missing");
    check(&put("scenario.yaml", "name: x\nturn: 3\n"), "scenario.yaml", "did you mean `turns`?");
    check(&|dir| fs::remove_file(dir.join("actors/cay.yaml")).unwrap(), "scenario.yaml", "the actor `cay` has no file");

    let dir = folder("turns: 1\n", "metrics:\n  a: {pattern: 'x', actor: bem}\n");
    let said = read(&json!({"experiment_name": "x", "base_scenario": dir.path()})).unwrap_err().join("\n");
    assert!(said.contains("no actor has that short_name") && said.contains("did you mean `ben`?"), "{said}");
    let dir = folder("turns: 1\n", "metrics:\n  a: {extraction_method: judge}\n");
    let said = read(&json!({"experiment_name": "x", "base_scenario": dir.path()})).unwrap_err().join("\n");
    assert!(said.contains("the metric `a` is found by a judge, and there is none"), "{said}");
}

#[test]
fn a_matrix_that_grows_keeps_the_numbers_of_what_was_there() {
    let spec = |values: Value| {
        let dimension = json!({"type": "actor_model", "actor": "regulator", "values": values});
        let other = json!({"type": "scenario_parameter", "parameter": "turns", "values": [1, 2]});
        let dir = folder("turns: 1\n", "");
        let mut whole = json!({"experiment_name": "x", "base_scenario": dir.path(), "variations": [dimension, other]});
        whole["variations"][0]["actor"] = "ann".into();
        read(&whole).unwrap()
    };
    let first = Stage::of(spec(json!(["a", "b"]))).open(&Seen::default()).map_err(|p| format!("{p:?}")).unwrap();
    let mut second =
        Stage::of(spec(json!(["new", "a", "b"]))).open(&Seen::default()).map_err(|p| format!("{p:?}")).unwrap();
    let titles = |batch: &dyn Experiment| -> Vec<String> {
        let plan = batch.plan();
        let conditions = plan["conditions"].as_array().unwrap().iter();
        conditions
            .map(|c| format!("{} {}", c["variation_id"].as_str().unwrap(), c["title"].as_str().unwrap()))
            .collect()
    };
    assert_eq!(
        titles(&first),
        ["var-001 ann=a, turns=1", "var-002 ann=a, turns=2", "var-003 ann=b, turns=1", "var-004 ann=b, turns=2"]
    );
    second.continue_numbering(&[], Some(&first.plan()));
    assert_eq!(
        titles(&second)[..3],
        ["var-005 ann=new, turns=1", "var-006 ann=new, turns=2", "var-001 ann=a, turns=1"]
    );
    second.continue_numbering(&[], None);
    assert_eq!(titles(&second)[0], "var-001 ann=new, turns=1");
}

#[test]
fn the_plan_holds_what_decides_and_nothing_of_how_it_is_carried_out() {
    let stage = Stage::new(json!({"runs_per_variation": 2}));
    let batch = stage.open(&Seen::default()).map_err(|problems| format!("{problems:?}")).unwrap();
    let plan = batch.plan();
    assert_eq!((&plan["kind"], &plan["experiment"]), (&json!("scenario"), &json!("regulation-study")));
    assert_eq!(
        plan["conditions"][0]["modifications"]["actor_models"],
        json!({"regulator": "reg", "tech-company": "tech"})
    );
    assert_eq!(
        plan["conditions"][0]["modifications"]["scenario_overrides"],
        json!({"turns": 3, "world_state_model": "world"})
    );
    assert!(plan["scenario"]["actors"][0]["goals"].as_array().unwrap().len() > 1);
    for key in ["max_parallel", "parallel", "budget_limit", "timeout_per_run", "output"] {
        assert!(plan.get(key).is_none(), "{key}");
    }
    assert_eq!(batch.totals(), [("turns", 6)]);
    let forecast = batch.forecast();
    assert_eq!(
        (forecast.paid_calls, forecast.cells[0].turns),
        (18, 3),
        "two actors and the world, three turns, two runs"
    );
    assert_eq!(batch.kept_config(), Some("batch-config.yaml"));
    let methods = tiltmeter_experiments::kind_of(&plan).unwrap().methods();
    assert!(
        methods[0].contains("simultaneously") && methods.iter().any(|p| p.contains("cooperation_level")),
        "{methods:?}"
    );
    assert!(batch.describe().iter().any(|(_, how)| how == "1 variations x 2 runs = 2"));
    let aliased = small(
        &folder("turns: 1\n", ""),
        json!({"models": {"ann": {"name": "openai/gpt-4o", "price": {"input": 1, "output": 2}}}}),
    );
    assert_eq!((aliased.model("ann").name.as_str(), aliased.model("ben").name.as_str()), ("openai/gpt-4o", "ben"));
}

#[test]
fn the_shipped_batches_are_good() {
    tiltmeter_test_support::paths::enter_repo();
    for (name, runs) in [("regulation_batch", 40), ("regulation_local", 6)] {
        let path = in_repo(&format!("experiments/{name}.yaml"));
        let loaded = config::load(Path::new(&path), &[]).map_err(|problems| format!("{problems:?}")).unwrap();
        let Spec::Scenario(spec) = &loaded.spec else { panic!("{:?}", loaded.spec) };
        assert_eq!(spec.cells().len() * spec.runs_per_variation, runs, "{name}");
        assert_eq!(loaded.notes, []);
    }
}
