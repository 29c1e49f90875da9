//! Interviews with a model on this machine.

use super::*;

#[test]
fn a_steward_on_this_machine_is_projected_in_every_reply() {
    let desk = Desk::new();
    let whole = experiment(json!({
        "steward": in_repo("data/models/quay"), "axis": in_repo("data/axes/quay_assistant.safetensors"),
        "site": "block.4.out", "variants": ["baseline", "empathetic"], "sampling": {"max_new_tokens": 6},
    }));
    let sitting = desk.run(&whole);
    assert_eq!((sitting.summary.completed, sitting.summary.failed), (4, 0));
    let record = desk.records().remove(0);
    let log = record["conversation_log"].as_array().unwrap();
    assert_eq!(log[0]["activations"], Value::Null);
    let read = &log[1]["activations"][0];
    assert_eq!((&read["axis"], &read["site"]), (&json!("quay-assistant"), &json!("block.4.out")));
    let tokens: Vec<f64> = read["per_token"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    let mean = tokens.iter().sum::<f64>() / tokens.len() as f64;
    assert!((mean - read["mean"].as_f64().unwrap()).abs() < 1e-4);
    assert!(record["model_config"]["steward_version"].as_str().unwrap().starts_with("sha256:"));
    let measures = sitting.reported.expect("there is something to compare").measures;
    assert_eq!(
        measures[0].0.groups.iter().map(|group| group.label.as_str()).collect::<Vec<_>>(),
        ["baseline", "empathetic"]
    );
    for name in ["runs.parquet", "turns.parquet", "report.md", "batch_summary.json"] {
        assert!(desk.out().join(name).is_file(), "{name}");
    }
}

#[test]
fn an_added_variant_is_asked_with_its_own_prompts() {
    let custom = json!({"my_variant": {"name": "Mine", "prompts": ["One?", "Two?"]}});
    let desk = Desk::new();
    desk.run(&experiment(json!({"prompt_variants": custom, "variants": ["my_variant"], "runs_per_variant": 1})));
    assert_eq!(texts(&desk.records()[0], "user"), ["One?", "Two?"]);
    assert_eq!(desk.records()[0]["prompt_variant"], "my_variant");
}

#[test]
fn an_axis_needs_hidden_states_and_the_prompts_must_fit_the_context() {
    let desk = Desk::new();
    let axes = json!({"axis": in_repo("data/axes/quay_assistant.safetensors")});
    let refused = desk.refused(&only_baseline(axes));
    assert!(refused[0].what.contains("does not show its hidden states"), "{refused:?}");
    let long = json!({"steward": in_repo("data/models/quay"), "sampling": {"max_new_tokens": 4000}});
    let refused = desk.refused(&only_baseline(long));
    assert!(refused[0].what.contains("the interview cannot fit"), "{refused:?}");
}
