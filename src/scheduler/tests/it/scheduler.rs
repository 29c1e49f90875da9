//! The specification of the scheduler: replay, crashes, damage, stopping, order.

mod speed;
mod talk;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::json;
use tiltmeter_model::problem::Problem;
use tiltmeter_scheduler::{
    Disk, Order, Plan, Progress, Run, RunContext, RunError, RunRecord, Schedule, StopLevel, StopSignal, finished_runs,
    recorded, seed_for, status,
};
use tiltmeter_store::{Outcome, RunKey, SessionEnd};

use crate::breaking_disk::Breaking;
use talk::Bench;

/// What an uninterrupted schedule of the same talks comes to.
async fn uninterrupted(cells: usize, samples: usize, steps: usize) -> Vec<RunRecord> {
    let bench = Bench::new(cells, samples, steps);
    bench.schedule().run(bench.runs()).await.unwrap().runs
}

fn failed(message: &str) -> RunError {
    RunError::Failed(Problem::new(message).at("turn 3").hint("try again"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_runs_are_done_and_kept() {
    let bench = Bench::new(2, 3, 4);
    let progress = Arc::new(Progress::new());
    progress.expect("turns", 24);
    let summary = bench.schedule().progress(Arc::clone(&progress)).run(bench.runs()).await.unwrap();
    assert_eq!((summary.completed, summary.failed, summary.pending, summary.interrupted), (6, 0, 0, false));
    assert_eq!((summary.executed_steps, summary.replayed_steps, bench.acts()), (24, 0, 24));
    assert_eq!(summary.work["turns"], 24);
    let snapshot = progress.snapshot();
    assert_eq!((snapshot.total, snapshot.done, snapshot.running, snapshot.counters[0].total), (6, 6, 0, Some(24)));
    assert_eq!(progress.events_since(0).len(), 6);

    let given: Vec<RunKey> = bench.talks.iter().map(|talk| talk.key.clone()).collect();
    assert_eq!(summary.runs.iter().map(|run| run.key.clone()).collect::<Vec<_>>(), given);
    let (plan, kept) = finished_runs(&bench.folder()).unwrap();
    assert_eq!(plan, Plan::read(&bench.folder().plan()).unwrap());
    for run in &summary.runs {
        assert_eq!(run.done(), Some(&kept[&run.key.id()]));
    }
    let status = status(&bench.folder()).unwrap();
    assert_eq!((status.planned, status.done, status.pending, status.steps, status.writer_active), (6, 6, 0, 24, false));
    assert_eq!((status.work["turns"], status.totals["turns"]), (24, 24));
    assert_eq!(status.sessions[0].how, SessionEnd::Finished);

    let again = bench.resume().await.unwrap();
    assert_eq!(again.runs, summary.runs);
    assert_eq!(
        (bench.acts(), again.executed_steps, again.replayed_steps),
        (0, 0, 0),
        "finished runs are not carried out"
    );
    assert_eq!((again.ledger.sessions.len(), again.work["turns"], again.resumed), (2, 24, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_holds_the_environment_and_the_work_of_every_session() {
    let bench = Bench::new(1, 2, 3);
    let begin = |device: &str, tokens: u64| {
        let work = BTreeMap::from([("forward_tokens".to_owned(), tokens)]);
        bench.schedule().resume(true).environment(json!({ "device": device })).work(move || work.clone())
    };
    begin("cpu", 7).run(bench.runs()).await.unwrap();
    let summary = begin("cuda:0", 0).run(bench.runs()).await.unwrap();
    let recorded = recorded(&bench.folder()).unwrap();
    assert_eq!(recorded.ledger.sessions, summary.ledger.sessions);
    assert_eq!(recorded.work, summary.work);
    let seen: Vec<_> =
        summary.ledger.sessions.iter().map(|s| (&s.environment["device"], s.work["forward_tokens"])).collect();
    assert_eq!(seen, [(&json!("cpu"), 7), (&json!("cuda:0"), 0)]);
    assert!(recorded.ledger.sessions.iter().all(|session| session.ended.is_some()));
    assert_eq!(
        json!(summary.ledger.sessions[0]).as_object().unwrap().len(),
        3,
        "the manifest lists start, end and how"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_schedule_goes_on_in_mid_conversation() {
    let stop = StopSignal::new();
    let raised = stop.clone();
    let mut bench = Bench::new(2, 2, 5).hook(move |run, turn| {
        if (run, turn) == ("c1-000", 2) {
            raised.raise(StopLevel::Stop);
        }
        Ok(())
    });
    let summary = bench.schedule().stop(stop).run(bench.runs()).await.unwrap();
    assert!(summary.interrupted && summary.pending > 0);
    assert_eq!(summary.ledger.sessions[0].how, SessionEnd::Stopped);
    let before = bench.acts();
    assert_eq!(before as u64, status(&bench.folder()).unwrap().steps, "what was carried out is kept");
    bench = bench.hook(|_, _| Ok(()));
    let resumed = bench.resume().await.unwrap();
    assert_eq!(resumed.runs, uninterrupted(2, 2, 5).await);
    assert_eq!(bench.acts() + before, 20, "no step is carried out twice");
    assert!(resumed.replayed_steps >= 3);
    assert_eq!(resumed.work["turns"], 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_request_is_a_desync_and_other_runs_go_on() {
    let mut bench = Bench::new(2, 1, 4).hook(|_, turn| if turn == 2 { Err(failed("no answer")) } else { Ok(()) });
    assert_eq!(bench.schedule().run(bench.runs()).await.unwrap().failed, 2);
    bench = bench.hook(|_, _| Ok(()));
    bench.acts();
    bench.talks[0].setting = "b".to_owned();
    let summary = bench.resume().await.unwrap();
    let problem = summary.runs[0].failure().expect("a failure");
    assert!(problem.what.contains("no longer matches its journal"), "{problem}");
    assert_eq!(problem.place.as_deref(), Some("run c0-000, step 1 (turn)"));
    assert!(summary.runs[1].done().is_some());
    assert_eq!(bench.acts(), 2, "the desynced run carried out nothing");
    bench.talks[0].setting = "a".to_owned();
    assert_eq!(bench.resume().await.unwrap().runs, uninterrupted(2, 1, 4).await, "and its records are intact");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_run_stops_no_other_and_is_tried_again_from_where_it_failed() {
    let mut bench = Bench::new(2, 2, 4).hook(|run, turn| match (run, turn) {
        ("c0-001", 2) => Err(failed("no answer")),
        ("c1-000", 3) => panic!("boom"),
        _ => Ok(()),
    });
    let summary = bench.schedule().run(bench.runs()).await.unwrap();
    assert_eq!((summary.completed, summary.failed, summary.pending, summary.interrupted), (2, 2, 0, false));
    let seen = status(&bench.folder()).unwrap();
    assert_eq!(seen.failures["c0-001"], Problem::new("no answer").at("turn 3").hint("try again"));
    assert!(seen.failures["c1-000"].what.contains("boom"));
    assert_eq!((seen.done, seen.failed, seen.pending), (2, 2, 0));
    assert_eq!(bench.acts(), 4 + 3 + 4 + 4);
    bench = bench.hook(|_, _| Ok(()));
    let resumed = bench.resume().await.unwrap();
    assert_eq!(resumed.runs, uninterrupted(2, 2, 4).await);
    assert_eq!((bench.acts(), resumed.replayed_steps), (2 + 1, 2 + 3));
    assert!(status(&bench.folder()).unwrap().failures.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_last_line_is_left_out_wherever_it_is_torn() {
    let bench = Bench::new(1, 2, 2);
    bench.schedule().run(bench.runs()).await.unwrap();
    let expected = uninterrupted(1, 2, 2).await;
    let whole = bench.journal();
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    // Without the session's end the last line is the outcome of a run; torn, the run has to be finished again.
    let kept: usize = lines[..lines.len() - 2].iter().map(|line| line.len()).sum();
    let last = lines[lines.len() - 2].len();
    bench.acts();
    for cut in 0..last {
        fs::write(bench.folder().journal(), &whole[..kept + cut]).unwrap();
        assert_eq!(status(&bench.folder()).unwrap().done, 1, "cut at {cut}");
        let summary = bench.resume().await.unwrap();
        assert_eq!((summary.replayed_steps, bench.acts()), (2, 0), "cut at {cut}");
        assert_eq!(summary.runs, expected, "cut at {cut}");
        assert_eq!(summary.ledger.sessions[0].how, SessionEnd::Unknown);
        assert!(bench.journal().starts_with(&whole[..kept]), "what was good stays");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_before_the_last_line_is_named_and_nothing_is_touched() {
    let bench = Bench::new(1, 2, 3);
    bench.schedule().run(bench.runs()).await.unwrap();
    let whole = bench.journal();
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    let mut flipped = whole.clone();
    let offset: usize = lines[..2].iter().map(|line| line.len()).sum();
    flipped[offset + 60] ^= 1;
    let without_third: Vec<u8> =
        lines.iter().enumerate().filter(|(i, _)| *i != 2).flat_map(|(_, line)| line.to_vec()).collect();
    let mut twice = lines.clone();
    twice.insert(2, lines[1]);
    let mut edited_end = whole.clone();
    let end = edited_end.len() - 3;
    edited_end[end] ^= 1;
    for (damaged, line) in [(flipped, 3), (without_third, 3), (twice.concat(), 3), (edited_end, lines.len())] {
        fs::write(bench.folder().journal(), &damaged).unwrap();
        for problem in [bench.resume().await.unwrap_err(), status(&bench.folder()).unwrap_err()] {
            assert!(problem.what.contains(&format!("line {line} of the journal is damaged")), "{problem}");
            assert!(problem.place.unwrap().ends_with(&format!("journal.jsonl:{line}")));
        }
        assert_eq!(bench.journal(), damaged, "nothing was cut off");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_finishes_what_runs_and_starts_nothing() {
    let stop = StopSignal::new();
    let raised = stop.clone();
    let bench = Bench::new(1, 9, 3).hook(move |_, turn| {
        if turn == 1 {
            raised.raise(StopLevel::Drain);
        }
        Ok(())
    });
    let summary = bench.schedule().stop(stop).run(bench.runs()).await.unwrap();
    assert_eq!((summary.completed, summary.pending, summary.interrupted), (3, 6, true));
    assert_eq!(summary.ledger.sessions[0].how, SessionEnd::Drained);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aborting_drops_what_runs_at_once_and_loses_no_result() {
    struct Endless(RunKey);
    #[async_trait::async_trait]
    impl Run for Endless {
        fn key(&self) -> &RunKey {
            &self.0
        }
        async fn execute(&self, context: &RunContext) -> Result<Outcome, RunError> {
            let _: u32 = context.step("one", &(), || async { Ok(1) }).await?;
            context.step("two", &(), std::future::pending).await
        }
    }
    let bench = Bench::new(1, 1, 1);
    let stop = StopSignal::new();
    let key = |sample| RunKey { experiment: "e".to_owned(), cell: "c".to_owned(), sample };
    let runs: Vec<Arc<dyn Run>> = (0..4).map(|sample| Arc::new(Endless(key(sample))) as Arc<dyn Run>).collect();
    let raised = stop.clone();
    tokio::spawn(async move {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            raised.press();
        }
    });
    let began = std::time::Instant::now();
    let summary = bench.schedule().stop(stop).run(runs).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!((summary.pending, summary.interrupted), (4, true));
    let seen = status(&bench.folder()).unwrap();
    assert_eq!((seen.steps, seen.uncertain_steps, seen.begun, seen.writer_active), (3, 3, 3, false));
    assert_eq!(seen.sessions[0].how, SessionEnd::Aborted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_writer_per_folder_and_no_new_run_in_a_used_one() {
    let bench = Arc::new(Bench::new(1, 1, 1));
    let inside = Arc::clone(&bench);
    let seen = Arc::new(Mutex::new(None));
    let noted = Arc::clone(&seen);
    let first = Bench::new(1, 1, 1).hook(move |_, _| {
        let looked = status(&inside.folder()).unwrap();
        let refused = std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(inside.resume()).unwrap_err()
            });
            second.join().unwrap()
        });
        *noted.lock().unwrap() = Some((looked, refused));
        Ok(())
    });
    bench.schedule().run(first.runs()).await.unwrap();
    let (looked, refused) = seen.lock().unwrap().take().unwrap();
    assert!(looked.writer_active);
    assert!(refused.what.contains("another process is writing"), "{refused}");
    assert!(!status(&bench.folder()).unwrap().writer_active);
    let refused = bench.schedule().run(bench.runs()).await.unwrap_err();
    assert!(refused.hint.unwrap().contains("--resume"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_start_in_the_order_asked_for() {
    for (order, expected) in [
        (Order::Interleaved, ["c0-000", "c1-000", "c2-000", "c0-001", "c1-001", "c2-001"]),
        (Order::Sequential, ["c0-000", "c0-001", "c1-000", "c1-001", "c2-000", "c2-001"]),
    ] {
        let started = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&started);
        let bench = Bench::new(3, 2, 1).hook(move |run, _| {
            noted.lock().unwrap().push(run.to_owned());
            Ok(())
        });
        bench.schedule().parallel(1).order(order).run(bench.runs()).await.unwrap();
        assert_eq!(*started.lock().unwrap(), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_plan_is_refused_field_by_field_unless_accepted() {
    let bench = Bench::new(1, 2, 2);
    bench.schedule().run(bench.runs()).await.unwrap();
    let changed = || Schedule::new(Plan::freeze(json!({"steps": 5, "temperature": 1.0})), bench.folder()).resume(true);
    let refused = changed().run(bench.runs()).await.unwrap_err();
    for part in ["2 fields differ", "steps: was 4, is 5", "temperature: was 0.7, is 1"] {
        assert!(refused.what.contains(part), "{refused}");
    }
    let summary = changed().accept_drift(true).run(bench.runs()).await.unwrap();
    assert_eq!(summary.accepted_drifts.len(), 2);
    // From now on that is the plan; deleting its file loses nothing.
    fs::remove_file(bench.folder().plan()).unwrap();
    assert_eq!(changed().run(bench.runs()).await.unwrap().accepted_drifts.len(), 2);
    assert!(bench.resume().await.unwrap_err().what.contains("is 4"));
    assert_eq!(Plan::read(&bench.folder().plan()).unwrap().document()["steps"], 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_byte_a_crash_comes_at_the_end_is_the_same() {
    let expected = uninterrupted(3, 2, 4).await;
    for trial in 0..60 {
        let bench = Bench::new(3, 2, 4);
        let (mut crashes, mut acts) = (0, 0);
        let summary = loop {
            let left = (seed_for(trial, &crashes.to_string()) % 2500) as usize;
            let schedule = bench.schedule().resume(true);
            let ended = schedule.disk(move |file| Box::new(Breaking { file, left })).run(bench.runs()).await;
            acts += bench.acts();
            match ended {
                Ok(summary) => break summary,
                Err(problem) => assert!(problem.hint.unwrap().contains("free space"), "trial {trial}"),
            }
            crashes += 1;
            assert!(crashes < 200, "trial {trial} gets nowhere");
        };
        assert_eq!(summary.runs, expected, "trial {trial}");
        assert!(acts <= 24 + 3 * crashes, "trial {trial}: {acts} acts in {crashes} crashes, 3 runs in flight");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_one_clear_problem() {
    let full = |_: File| -> Box<dyn Disk> { Box::new(File::options().write(true).open("/dev/full").unwrap()) };
    let bench = Bench::new(2, 2, 2);
    let problem = bench.schedule().disk(full).run(bench.runs()).await.unwrap_err();
    assert!(problem.what.contains("No space left"), "{problem}");
    assert!(problem.hint.unwrap().contains("--resume"));
    assert_eq!(bench.acts(), 0, "nothing is done that could not be kept");
    assert_eq!(bench.resume().await.unwrap().completed, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn journals_of_several_writers_are_one_set() {
    let (left, right, both) = (Bench::new(2, 3, 2), Bench::new(2, 3, 2), Bench::new(2, 3, 2));
    left.schedule().run(left.runs().split_off(2)).await.unwrap();
    right.schedule().run(right.runs()[..4].to_vec()).await.unwrap();
    fs::create_dir_all(both.folder().dir()).unwrap();
    for (bench, name) in [(&left, "journal-000.jsonl"), (&right, "journal-001.jsonl"), (&left, "journal-002.jsonl")] {
        fs::copy(bench.folder().journal(), both.folder().dir().join(name)).unwrap();
    }
    assert_eq!(status(&both.folder()).unwrap().done, 6);
    let summary = both.resume().await.unwrap();
    assert_eq!((summary.completed, both.acts()), (6, 0));
    assert_eq!(summary.runs, uninterrupted(2, 3, 2).await);
}

/// What a run may do wrong.
enum Wrong {
    SwallowsTheStop(StopSignal),
    OverlapsSteps,
    GoesOnAfterAFailure,
    MeasuresNothing,
}

struct WrongRun(RunKey, Wrong);

#[async_trait::async_trait]
impl Run for WrongRun {
    fn key(&self) -> &RunKey {
        &self.0
    }

    async fn execute(&self, context: &RunContext) -> Result<Outcome, RunError> {
        let answer = || async { Ok(1_u32) };
        let mut outcome = Outcome::default();
        match &self.1 {
            Wrong::SwallowsTheStop(stop) => {
                stop.raise(StopLevel::Stop);
                let _ = context.step("one", &(), answer).await;
            }
            Wrong::OverlapsSteps => {
                let slow = || async {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Ok(1_u32)
                };
                tokio::try_join!(context.step("one", &(), slow), context.step("two", &(), answer))?;
            }
            Wrong::GoesOnAfterAFailure => {
                let refused: Result<u32, _> = context.step("one", &(), || async { Err(failed("no")) }).await;
                assert!(refused.is_err());
                context.step("two", &(), answer).await?;
            }
            Wrong::MeasuresNothing => {
                outcome.metrics.insert("mean".to_owned(), f64::NAN);
            }
        }
        Ok(outcome)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_breaks_the_rules_leaves_no_false_outcome() {
    let key = RunKey { experiment: "e".to_owned(), cell: "c".to_owned(), sample: 0 };
    for (wrong, expected) in [
        (Wrong::OverlapsSteps, "before the previous one had a result"),
        (Wrong::GoesOnAfterAFailure, "before the previous one had a result"),
        (Wrong::MeasuresNothing, "cannot be read back"),
    ] {
        let bench = Bench::new(1, 1, 1);
        let summary = bench.schedule().run(vec![Arc::new(WrongRun(key.clone(), wrong))]).await.unwrap();
        let Some(problem) = summary.runs[0].failure() else { panic!("{expected}: {summary:?}") };
        assert!(problem.what.contains(expected), "{problem}");
        assert!(finished_runs(&bench.folder()).unwrap().1.is_empty());
    }
    let (bench, stop) = (Bench::new(1, 1, 1), StopSignal::new());
    let run = Arc::new(WrongRun(key, Wrong::SwallowsTheStop(stop.clone())));
    let summary = bench.schedule().stop(stop).run(vec![run.clone(), run.clone()]).await.unwrap_err();
    assert!(summary.what.contains("two runs have the id c-000"));
    let stop = StopSignal::new();
    let run = Arc::new(WrongRun(run.0.clone(), Wrong::SwallowsTheStop(stop.clone())));
    let summary = bench.schedule().stop(stop).run(vec![run]).await.unwrap();
    assert_eq!((summary.pending, summary.interrupted), (1, true));
}
