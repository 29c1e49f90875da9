//! Tests of a turn: decisions are simultaneous, the world is told of actions only, messages reach whom they are for, the
//! past is told within the context window, values are what was found.

use serde_json::{Value, json};
use tiltmeter_model::{ChatRequest, Role};

use super::{Left, Stage, decision, folder, small, whole};

/// What is known of every turn of the first run.
fn turns(left: &Left) -> Vec<Value> {
    left.summary.runs[0].done().expect("a finished run").turns.clone()
}

#[test]
fn nobody_sees_what_another_decides_in_the_same_turn() {
    let left = Stage::new(json!({})).run();
    for (own, other) in [("reg", "tech"), ("tech", "reg")] {
        let sent = left.sent(own);
        assert_eq!(sent.len(), 3);
        for (index, messages) in sent.iter().enumerate() {
            let (turn, told) = (index + 1, whole(messages));
            for part in ["goal", "priority", "reason", "action"] {
                assert!(!told.contains(&format!("{other}-{turn}-{part}")), "{own}, turn {turn}:\n{told}");
                if part != "action" {
                    for earlier in 1..turn {
                        let private = format!("{other}-{earlier}-{part}");
                        assert!(!told.contains(&private), "{own} reads {private}");
                    }
                }
            }
            for earlier in 1..turn {
                assert!(
                    told.contains(&format!("{other}-{earlier}-action")),
                    "{own}, turn {turn}: what is over is known"
                );
                assert!(told.contains(&format!("{own}-{earlier}-reason")), "{own} remembers its own words");
            }
        }
    }
    let told =
        left.sent("reg").into_iter().chain(left.sent("tech")).map(|messages| whole(messages)).collect::<String>();
    assert!(
        told.contains("World after turn 2.") && !told.contains("safety_commitment: 2.5"),
        "nobody is told how it is measured"
    );
    // Whoever is asked first or last makes no difference.
    let order: Vec<&str> = left.seen.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(order, ["reg", "tech", "world"].repeat(3));
}

#[test]
fn the_world_is_told_of_the_current_state_and_of_actions_only() {
    let left = Stage::new(json!({})).run();
    for (index, messages) in left.sent("world").iter().enumerate() {
        let (turn, told) = (index + 1, whole(messages));
        assert_eq!(messages.len(), 2, "no history");
        for actor in ["reg", "tech"] {
            assert!(told.contains(&format!("{actor}-{turn}-action")));
            for part in ["goal", "priority", "reason"] {
                assert!(!told.contains(&format!("{actor}-{turn}-{part}")), "{told}");
            }
            assert!(turn == 1 || !told.contains(&format!("{actor}-{}-action", turn - 1)), "actions of this turn only");
        }
        assert!(!told.contains("sixty days instead of ninety"), "private information stays private");
        let state = if turn == 1 {
            "It is the first week of talks".to_owned()
        } else {
            format!("World after turn {}.", turn - 1)
        };
        assert!(told.contains(&state), "{told}");
    }
    assert!(whole(left.sent("reg")[0]).contains("sixty days instead of ninety"), "its own is told to its owner");
    assert!(!whole(left.sent("tech")[2]).contains("sixty days instead of ninety"));
}

#[test]
fn a_conversation_grows_at_its_end_so_that_nothing_is_computed_twice() {
    let dir = folder("turns: 3\n", "");
    let left = Stage::of(small(&dir, json!({}))).run();
    let sent = left.sent("ben");
    for pair in sent.windows(2) {
        assert_eq!(pair[1][..pair[0].len()], pair[0][..], "the earlier request is a prefix of the later one");
        assert_eq!(pair[1].len(), pair[0].len() + 2);
    }
    let roles: Vec<Role> = sent[2].iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::User, Role::Assistant, Role::User]);
}

#[test]
fn older_turns_than_the_context_window_are_told_in_short() {
    let dir = folder("turns: 4\ncontext_window_size: 1\n", "");
    let long = "We do a thing. ".repeat(60);
    let stage = Stage::of(small(&dir, json!({}))).answers("ann", move |_| Ok(decision(&long)));
    let left = stage.run();
    let last = left.sent("ben")[3];
    assert_eq!(last.len(), 4, "one turn word for word, and the question");
    let told = whole(last);
    assert!(told.contains("What happened before, in short:\nTurn 1:"), "{told}");
    assert!(told.contains("- you: ben-1-action") && told.contains("- cay of the test (cay): cay-2-action"), "{told}");
    assert!(!told.contains("ben-1-reason") && told.contains("ben-3-reason"), "{told}");
    let digest = told.split("Turn 4 of").next().unwrap().split("Turn 3 of").next().unwrap();
    assert!(digest.matches("We do a thing.").count() < 40, "the beginning of every action: {digest}");
    assert!(digest.contains("- then: World after turn 2."));
}

#[test]
fn messages_reach_those_they_are_for_before_anybody_decides() {
    let dir = folder("turns: 1\ncommunication: {bilateral: true, coalition: true, rounds: 2}\n", "");
    let writes = |text: &'static str| {
        move |request: &ChatRequest| match request.messages.last().unwrap().content.contains("Decide now") {
            true => Ok(decision("x")),
            false => Ok(text.to_owned()),
        }
    };
    let left = Stage::of(small(&dir, json!({})))
        .answers("ann", writes("TO ben: only-for-ben\nTO ben, cay: for-both\nTO dora: for-nobody\nTO ann: to-myself"))
        .answers("ben", writes("NONE"))
        .answers("cay", writes("TO Ann of the test: by-full-name"))
        .run();
    let told = |actor: &str, request: usize| whole(left.sent(actor)[request]);
    for actor in ["ann", "ben", "cay"] {
        assert_eq!(left.sent(actor).len(), 3, "two rounds and a decision");
        assert!(!told(actor, 0).contains("only-for-ben"), "a round is written by all at the same time");
    }
    assert!(told("ben", 1).contains("From ann of the test (ann):\nonly-for-ben"));
    assert!(told("ben", 1).contains("From ann of the test (ann), also to cay:\nfor-both"));
    assert!(told("cay", 2).contains("for-both") && !told("cay", 2).contains("only-for-ben"));
    assert!(told("ann", 1).contains("by-full-name"));
    assert!(!told("ben", 2).contains("for-nobody") && !told("cay", 2).contains("for-nobody"));
    let world = whole(left.sent("world")[0]);
    assert!(["only-for-ben", "for-both", "by-full-name"].iter().all(|text| !world.contains(text)), "private: {world}");
    let letters = turns(&left)[0]["messages"][0]["messages"].clone();
    assert_eq!(letters[0]["to"], json!(["ben"]));
    assert_eq!((&letters[2]["to"], &letters[2]["rejected"]), (&json!([]), &json!("there is no actor dora")));
    assert_eq!(letters[3]["rejected"], "it is addressed to its sender");

    let dir = folder("turns: 1\ncommunication: {bilateral: true}\n", "");
    let left = Stage::of(small(&dir, json!({}))).answers("ann", writes("TO ben, cay: for-both")).run();
    assert_eq!(
        turns(&left)[0]["messages"][0]["messages"][0]["rejected"],
        "the scenario has no messages to several actors"
    );
}

#[test]
fn int_counts_as_a_number_and_the_last_match_counts() {
    let metrics = "metrics:\n  cooperation_level:\n    description: Level of cooperation between actors\n    extraction_method: regex\n    \
                   pattern: \"cooperation.*?(\\\\d+)\"\n    type: int\n";
    let dir = folder("turns: 2\n", metrics);
    let world = "Cooperation was 1 before.\nNow COOPERATION stands at 7 of 10";
    let left = Stage::of(small(&dir, json!({}))).answers("world", move |_| Ok(world.to_owned())).run();
    let outcome = left.summary.runs[0].done().expect("a finished run");
    assert_eq!(outcome.metrics["metric.cooperation_level"], 7.0);
    assert_eq!(outcome.series[0].values, [Some(7.0), Some(7.0)]);
    assert_eq!(left.json("analysis/metrics-analysis.json")["cooperation_level"]["mean"], 7.0);
    assert_eq!(left.json("analysis/metrics-analysis.json")["cooperation_level"]["type"], "integer");
}

#[test]
fn what_is_not_found_is_missing_and_never_made_up() {
    let metrics = "metrics:\n  trust: {pattern: 'trust: (\\S+)', type: integer}\n  mood: {pattern: 'mood: (\\w+)'}\n  \
                   own: {pattern: 'offer (\\d+)', type: float, actor: ann}\n";
    let dir = folder("turns: 2\n", metrics);
    let left = Stage::of(small(&dir, json!({})))
        .answers("world", |request| {
            let first = request.messages[1].content.contains("Turn 1 of");
            Ok(if first { "trust: 4, offer 1" } else { "trust: plenty" }.to_owned())
        })
        .answers("ann", |_| Ok("REASONING\nWe could offer 90.\nACTION\nWe offer 60.".to_owned()))
        .run();
    let metrics = left.json("runs/var-001-run-001/metrics.json");
    assert_eq!(metrics["by_turn"][0]["metrics"], json!({"mood": null, "own": 60.0, "trust": 4}));
    assert_eq!(
        metrics["final_metrics"],
        json!({"mood": null, "own": 60.0, "trust": null}),
        "an earlier value is not carried on"
    );
    assert_eq!(
        metrics["by_turn"][1]["found"]["trust"],
        json!({"value": null, "status": "not_of_type", "text": "plenty"})
    );
    assert_eq!(metrics["last_seen"]["trust"], json!({"turn": 1, "value": 4}));
    let analysis = left.json("analysis/metrics-analysis.json");
    assert_eq!(
        (&analysis["trust"]["n"], &analysis["trust"]["missing"], &analysis["trust"]["mean"]),
        (&json!(0), &json!(1), &Value::Null)
    );
}

#[test]
fn a_judge_finds_what_no_pattern_can_and_what_is_no_answer_is_a_failure() {
    let metrics = "metrics:\n  tone: {extraction_method: judge, description: How civil it is, type: float}\n";
    let dir = folder("turns: 1\n", metrics);
    let spec = || small(&dir, json!({"judge": "openai/gpt-4o-mini"}));
    let left = Stage::of(spec()).answers("openai/gpt-4o-mini", |_| Ok("{\"tone\": 6.5}".to_owned())).run();
    assert_eq!(left.json("runs/var-001-run-001/metrics.json")["final_metrics"], json!({"tone": 6.5}));
    assert!(whole(left.sent("openai/gpt-4o-mini")[0]).contains("tone: <number: How civil it is>"));
    let left = Stage::of(spec()).answers("openai/gpt-4o-mini", |_| Ok("quite civil".to_owned())).run();
    assert_eq!(left.summary.failed, 1);
    assert_eq!(left.json("batch-summary.json")["failed_runs"][0]["status"], "judge_failure");
    assert_eq!(left.sent("openai/gpt-4o-mini").len(), 2, "asked once more");
}

#[test]
fn a_decision_without_an_action_does_nothing_and_is_told_of() {
    let dir = folder("turns: 1\n", "");
    let left = Stage::of(small(&dir, json!({})))
        .answers("ann", |_| Ok("REASONING\nIt was cut off he".to_owned()))
        .answers("ben", |_| Ok("I simply publish it.".to_owned()))
        .run();
    let world = whole(left.sent("world")[0]);
    assert!(world.contains("ann of the test (ann): (no action)") && !world.contains("cut off"), "{world}");
    assert!(world.contains("ben of the test (ben): I simply publish it."));
    let decisions = turns(&left)[0]["decisions"].clone();
    assert_eq!(
        (&decisions[0]["reply"]["status"], &decisions[1]["reply"]["status"]),
        (&json!("no_action"), &json!("unstructured"))
    );
    let defects = tiltmeter_experiments::kind_of(&left.plan).unwrap().defects(&left.ran()[0]);
    let said: Vec<&str> = defects.iter().map(|problem| problem.what.as_str()).collect();
    assert_eq!(said, ["turn 1: the decision of ann has no action"]);
}

#[test]
fn every_call_of_every_run_is_drawn_for_itself() {
    let dir = folder("turns: 2\n", "");
    let left = Stage::of(small(&dir, json!({"runs_per_variation": 2}))).run();
    let mut drawn: Vec<(u64, u64)> = Vec::new();
    for run in &left.summary.runs {
        let outcome = run.done().expect("a finished run");
        for turn in &outcome.turns {
            let taken =
                turn["decisions"].as_array().unwrap().iter().map(|decision| &decision["reply"]).chain([&turn["world"]]);
            drawn.extend(
                taken.map(|taken| (taken["seed_key"].as_u64().unwrap(), taken["seed_stream"].as_u64().unwrap())),
            );
        }
    }
    assert_eq!(drawn.len(), 16);
    assert!(drawn.iter().all(|(key, _)| *key < 1 << 31), "what a provider takes");
    drawn.sort_unstable();
    drawn.dedup();
    assert_eq!(drawn.len(), 16);
}
