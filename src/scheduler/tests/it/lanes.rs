//! The specification of lanes and of calls on them: manners towards the other side, pauses, retries, time limits, replay.

pub mod caller;
mod speed;
mod stop;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tiltmeter_model::failure::{Class, Failure};
use tiltmeter_scheduler::{
    Cost, HaltReason, Lane, LaneLimits, LaneState, OffReason, Progress, StopLevel, StopSignal, seed_for, status,
};
use tiltmeter_store::SessionEnd;
use tokio::time::{Instant, sleep};

use caller::{Act, Bench, act, failure, reply, usd};

fn shop(limits: LaneLimits) -> Vec<Lane> {
    vec![Lane::new("shop", limits)]
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn per_minute(requests: u32) -> LaneLimits {
    LaneLimits { requests_per_minute: Some(requests), ..LaneLimits::default() }
}

/// A server that looks back over the last minute, and says how long to wait where there were too many.
#[derive(Default)]
struct Sliding {
    taken: VecDeque<Instant>,
    refused: usize,
}

impl Sliding {
    fn ask(&mut self, limit: usize) -> Result<(), Failure> {
        let now = Instant::now();
        while self.taken.front().is_some_and(|at| *at + seconds(60.0) <= now) {
            self.taken.pop_front();
        }
        if self.taken.len() < limit {
            self.taken.push_back(now);
            return Ok(());
        }
        self.refused += 1;
        let wait = (self.taken[0] + seconds(60.0)).duration_since(now).as_secs_f64().ceil();
        Err(failure(Class::RateLimit, Some(429), Some(seconds(wait))))
    }
}

/// Makes `calls` calls with `workers` at a time; returns refusals and seconds.
async fn manners(
    lane: Lane,
    workers: usize,
    calls: usize,
    ask: impl Fn() -> Result<(), Failure> + Send + Sync + 'static,
) -> f64 {
    let (began, ask, left) = (Instant::now(), Arc::new(ask), Arc::new(AtomicUsize::new(calls)));
    let work = (0..workers).map(|worker| {
        let (lane, ask, left) = (lane.clone(), Arc::clone(&ask), Arc::clone(&left));
        tokio::spawn(async move {
            let take = || left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
            while let Ok(number) = take() {
                loop {
                    let mut permit = lane.admit(&Cost::default()).await.unwrap();
                    permit.sent();
                    // The way there takes differently long.
                    sleep(Duration::from_millis(seed_for(worker as u64, &number.to_string()) % 300)).await;
                    let answer = ask();
                    sleep(Duration::from_millis(700)).await;
                    match answer {
                        Ok(()) => break permit.succeeded(&Cost::default()),
                        Err(failure) => _ = permit.failed(&failure),
                    }
                }
            }
        })
    });
    futures::future::join_all(work).await;
    began.elapsed().as_secs_f64()
}

#[tokio::test(start_paused = true)]
async fn sixty_a_minute_are_kept_and_used() {
    for workers in [20, 40, 120] {
        let server = Arc::new(Mutex::new(Sliding::default()));
        let asked = Arc::clone(&server);
        let lane = Lane::new("shop", per_minute(60));
        let wall = manners(lane, workers, 120, move || asked.lock().unwrap().ask(60)).await;
        let refused = server.lock().unwrap().refused;
        println!("{workers} workers: {wall:.1} s, {refused} refusals");
        assert!(refused <= 6 && wall <= 75.0, "{workers} workers: {wall} s, {refused} refusals");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_stricter_than_told_is_met_with_a_slower_pace() {
    // One call a second with three to spare, which no burst gets past.
    let bucket = Arc::new(Mutex::new((3.0_f64, Instant::now(), 0_usize)));
    let asked = Arc::clone(&bucket);
    let lane = Lane::new("shop", per_minute(60));
    let ask = move || {
        let mut bucket = asked.lock().unwrap();
        let now = Instant::now();
        bucket.0 = (bucket.0 + now.duration_since(bucket.1).as_secs_f64()).min(3.0);
        bucket.1 = now;
        if bucket.0 >= 1.0 {
            bucket.0 -= 1.0;
            return Ok(());
        }
        bucket.2 += 1;
        Err(failure(Class::RateLimit, Some(429), Some(seconds(1.0))))
    };
    let wall = manners(lane, 20, 120, ask).await;
    let refused = bucket.lock().unwrap().2;
    println!("{wall:.1} s, {refused} refusals");
    assert!(refused <= 24 && wall <= 180.0, "{wall} s, {refused} refusals: one in five at most");
}

#[tokio::test(start_paused = true)]
async fn one_refusal_closes_the_lane_for_all_then_one_probe_then_a_ramp() {
    let lane = Lane::new("shop", LaneLimits { max_in_flight: Some(8), ..LaneLimits::default() });
    let mut permits = Vec::new();
    for _ in 0..8 {
        let mut permit = lane.admit(&Cost::default()).await.unwrap();
        permit.sent();
        permits.push(permit);
    }
    let refused_at = Instant::now();
    permits.pop().unwrap().failed(&failure(Class::RateLimit, Some(429), Some(seconds(7.0))));
    assert!(matches!(lane.view().state, LaneState::Closed { for_s } if (for_s - 7.0).abs() < 0.01));
    // A refusal of the same moment may ask for more, not for less.
    permits.pop().unwrap().failed(&failure(Class::RateLimit, Some(429), Some(seconds(2.0))));
    permits.pop().unwrap().failed(&failure(Class::RateLimit, Some(429), Some(seconds(9.0))));
    permits.drain(..).for_each(|permit| permit.succeeded(&Cost::default()));
    let began = Arc::new(Mutex::new(Vec::new()));
    let work = (0..16).map(|_| {
        let (lane, began) = (lane.clone(), Arc::clone(&began));
        tokio::spawn(async move {
            let mut permit = lane.admit(&Cost::default()).await.unwrap();
            permit.sent();
            began.lock().unwrap().push(refused_at.elapsed().as_secs_f64());
            sleep(seconds(1.0)).await;
            permit.succeeded(&Cost::default());
        })
    });
    let work: Vec<_> = work.collect();
    sleep(seconds(9.5)).await;
    let view = lane.view();
    assert_eq!((view.state, view.in_flight, view.waiting), (LaneState::Probing, 1, 15));
    assert_eq!(view.rate_limited, 3);
    futures::future::join_all(work).await;
    let rounds: Vec<u64> = began.lock().unwrap().iter().map(|at| at.round() as u64).collect();
    assert_eq!(
        rounds,
        [9, 10, 10, 11, 11, 11, 11, 12, 12, 12, 12, 12, 13, 13, 13, 13],
        "1, 2, 4, then one more a round"
    );
}

#[tokio::test(start_paused = true)]
async fn no_call_is_sent_before_the_time_the_other_side_named() {
    for trial in 0..50 {
        let lane = Lane::new("shop", LaneLimits { max_in_flight: Some(12), ..LaneLimits::default() });
        // The latest time named in an answer that has arrived.
        let closed_until = Arc::new(Mutex::new(Instant::now()));
        let work = (0..12_u64).map(|worker| {
            let (lane, closed_until) = (lane.clone(), Arc::clone(&closed_until));
            tokio::spawn(async move {
                for call in 0..10_u64 {
                    let draw = seed_for(trial, &format!("{worker} {call}"));
                    let mut permit = lane.admit(&Cost::default()).await.unwrap();
                    permit.sent();
                    assert!(Instant::now() >= *closed_until.lock().unwrap(), "trial {trial}");
                    sleep(Duration::from_millis(draw % 2000)).await;
                    if draw.is_multiple_of(5) {
                        let asked = Duration::from_millis(draw % 20_000);
                        let mut until = closed_until.lock().unwrap();
                        *until = (*until).max(Instant::now() + asked);
                        drop(until);
                        permit.failed(&failure(Class::RateLimit, Some(429), Some(asked)));
                    } else if draw.is_multiple_of(11) {
                        drop(permit);
                    } else {
                        permit.succeeded(&Cost::default());
                    }
                }
            })
        });
        for ended in futures::future::join_all(work).await {
            ended.unwrap();
        }
        assert_eq!(lane.view().in_flight, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_calls_go_in_the_order_of_asking_and_may_give_up() {
    let lane = Lane::new("shop", LaneLimits { max_in_flight: Some(1), ..LaneLimits::default() });
    let first = lane.admit(&Cost::default()).await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut work = Vec::new();
    for number in 0..6 {
        let (own, order) = (lane.clone(), Arc::clone(&order));
        work.push(tokio::spawn(async move {
            let permit = own.admit(&Cost::default()).await.unwrap();
            order.lock().unwrap().push(number);
            permit.succeeded(&Cost::default());
        }));
        tokio::task::yield_now().await;
    }
    // The first in the queue and one in the middle lose interest.
    work[0].abort();
    work[3].abort();
    tokio::task::yield_now().await;
    drop(first);
    futures::future::join_all(work).await;
    assert_eq!(*order.lock().unwrap(), [1, 2, 4, 5]);
    assert_eq!((lane.view().waiting, lane.view().in_flight), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn tokens_per_minute_are_kept_by_what_was_really_used() {
    let lane = Lane::new("shop", LaneLimits { input_tokens_per_minute: Some(1000), ..LaneLimits::default() });
    let began = Instant::now();
    let expected = Cost { input_tokens: 500, ..Cost::default() };
    let actual = Cost { input_tokens: 100, ..Cost::default() };
    for _ in 0..6 {
        let mut permit = lane.admit(&expected).await.unwrap();
        permit.sent();
        permit.succeeded(&actual);
    }
    assert_eq!(began.elapsed(), Duration::ZERO, "six times 100, where 500 were expected");
    assert_eq!(lane.view().input_tokens_last_minute, 600);
    lane.admit(&expected).await.unwrap().succeeded(&actual);
    assert!(began.elapsed() >= seconds(60.0));
}

#[tokio::test(start_paused = true)]
async fn a_lane_is_off_when_its_patience_is() {
    let lane = Lane::with_patience("shop", LaneLimits::default(), seconds(100.0));
    let began = Instant::now();
    let off = loop {
        match lane.admit(&Cost::default()).await {
            Ok(permit) => assert!(permit.failed(&failure(Class::RateLimit, Some(429), None))),
            Err(off) => break off,
        }
    };
    assert_eq!(off.reason, OffReason::RateLimit);
    assert!(off.problem.what.contains("longer than this program waits (100 s)"), "{}", off.problem);
    assert!(began.elapsed() <= seconds(100.0) && began.elapsed() > seconds(20.0));
    let lane = Lane::new("shop", LaneLimits::default());
    let tomorrow = failure(Class::RateLimit, Some(429), Some(seconds(86_400.0)));
    lane.admit(&Cost::default()).await.unwrap().failed(&tomorrow);
    assert_eq!(lane.off().unwrap().reason, OffReason::RateLimit, "at once");
}

/// Answers after the given failures, which are told by run, turn and attempt.
fn failing(fail: impl Fn(&str, usize, u32) -> Option<Failure> + Send + Sync + 'static, acts: &Arc<AtomicUsize>) -> Act {
    let acts = Arc::clone(acts);
    act(move |run: String, turn, attempt| {
        acts.fetch_add(1, SeqCst);
        let failed = fail(&run, turn, attempt);
        async move { failed.map_or_else(|| Ok((reply(&run, turn), usd(7))), Err) }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_class_is_tried_again_as_often_as_it_should() {
    let class = |class, status, times: u32| {
        move |_: &str, turn: usize, attempt: u32| (turn == 1 && attempt < times).then(|| failure(class, status, None))
    };
    let brief = Some(Duration::from_millis(5));
    let limited = move |_: &str, turn: usize, attempt: u32| {
        (turn == 1 && attempt < 9).then(|| failure(Class::RateLimit, Some(429), brief))
    };
    let acts = Arc::new(AtomicUsize::new(0));
    for (what, answer, expected_acts, done) in [
        ("5 transient", failing(class(Class::Transient, Some(500), 5), &acts), 2 + 5, true),
        ("6 transient", failing(class(Class::Transient, Some(500), 6), &acts), 1 + 6, false),
        ("1 malformed", failing(class(Class::Malformed, Some(200), 1), &acts), 2 + 1, true),
        ("2 malformed", failing(class(Class::Malformed, Some(200), 2), &acts), 1 + 2, false),
        ("bad request", failing(class(Class::BadRequest, Some(400), 1), &acts), 1 + 1, false),
        ("9 rate limits", failing(limited, &acts), 2 + 9, true),
    ] {
        let bench = Bench::new(1, 1, 2, 10, answer);
        let summary = bench.schedule().lanes(shop(LaneLimits::default())).run(bench.runs()).await.unwrap();
        assert_eq!(acts.swap(0, SeqCst), expected_acts, "{what}");
        let failed = summary.runs[0].failure().is_some_and(|problem| problem.what.contains("refused"));
        assert_eq!((summary.completed == 1, failed), (done, !done), "{what}: {summary:?}");
        let seen = status(&bench.folder()).unwrap();
        assert_eq!(seen.uncertain_steps, 0, "{what}: every attempt came to an end");
        assert_eq!(seen.spending.settled_micro_usd, 7 * (1 + u64::from(done)), "{what}");
        let unknown = if what.contains("malformed") { (expected_acts - 1 - usize::from(done)) as u64 * 10 } else { 0 };
        assert_eq!(seen.spending.uncertain_micro_usd, unknown, "{what}: an unreadable reply may be billed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quota_turns_one_lane_off_and_leaves_its_runs_to_be_done() {
    let acts = Arc::new(AtomicUsize::new(0));
    let dry = failing(|run, _, _| run.starts_with("c1").then(|| failure(Class::Quota, Some(402), None)), &acts);
    let mut bench = Bench::new(2, 6, 2, 10, dry);
    bench.callers.iter_mut().filter(|caller| caller.key.cell == "c1").for_each(|caller| caller.lanes = vec!["other"]);
    let lanes = || vec![Lane::new("shop", LaneLimits::default()), Lane::new("other", LaneLimits::default())];
    let progress = Arc::new(Progress::new());
    let schedule = bench.schedule().parallel(2).lanes(lanes()).progress(Arc::clone(&progress));
    let summary = schedule.run(bench.runs()).await.unwrap();
    assert_eq!((summary.completed, summary.failed, summary.pending, summary.interrupted), (6, 0, 6, false));
    let halt = summary.halt.unwrap();
    assert_eq!(halt.reason, HaltReason::Quota);
    assert!(halt.problem.what.contains("6 of 12 are kept"), "{}", halt.problem);
    assert!(halt.problem.hint.unwrap().contains("--resume"));
    assert!(acts.swap(0, SeqCst) <= 12 + 2, "who comes after the first refusal does not ask");
    let snapshot = progress.snapshot();
    assert_eq!(snapshot.lanes[1].state, LaneState::Off { reason: OffReason::Quota });
    assert_eq!((snapshot.lanes[0].state, snapshot.lanes[0].calls), (LaneState::Open, 12));
    assert_eq!(status(&bench.folder()).unwrap().sessions[0].how, SessionEnd::Stopped);

    let healthy = failing(|_, _, _| None, &acts);
    bench.callers.iter_mut().for_each(|caller| caller.act = Arc::clone(&healthy));
    let summary = bench.schedule().lanes(lanes()).run(bench.runs()).await.unwrap();
    assert_eq!((summary.completed, summary.halt, acts.swap(0, SeqCst)), (12, None, 12));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_fails_what_runs_and_starts_nothing_more() {
    let acts = Arc::new(AtomicUsize::new(0));
    let bench = Bench::new(1, 50, 2, 10, failing(|_, _, _| Some(failure(Class::Auth, Some(401), None)), &acts));
    let lanes = shop(LaneLimits { max_in_flight: Some(1), ..LaneLimits::default() });
    let summary = bench.schedule().lanes(lanes).run(bench.runs()).await.unwrap();
    assert_eq!(acts.swap(0, SeqCst), 1, "nobody else asks");
    assert!(summary.failed >= 1 && summary.failed <= 4, "{}", summary.failed);
    assert_eq!((summary.completed, summary.pending), (0, 50 - summary.failed));
}

/// Says when it is dropped.
struct Tell(Arc<AtomicBool>);

impl Drop for Tell {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_takes_too_long_is_dropped_and_a_late_reply_is_not_counted() {
    let (dropped, late) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (tell, answered) = (Arc::clone(&dropped), Arc::clone(&late));
    let answer = act(move |run, turn, attempt| {
        let (tell, answered) = (Tell(Arc::clone(&tell)), Arc::clone(&answered));
        async move {
            if attempt == 0 {
                sleep(Duration::from_millis(150)).await;
                answered.store(true, SeqCst);
            }
            drop(tell);
            Ok((reply(&run, turn), usd(if attempt == 0 { 9 } else { 7 })))
        }
    });
    let mut bench = Bench::new(1, 1, 1, 10, answer);
    bench.callers[0].policy.attempt_timeout = Duration::from_millis(30);
    let summary = bench.schedule().lanes(shop(LaneLimits::default())).run(bench.runs()).await.unwrap();
    sleep(Duration::from_millis(200)).await;
    assert!(dropped.load(SeqCst) && !late.load(SeqCst), "the first attempt was really given up");
    assert_eq!(summary.completed, 1);
    let spending = summary.ledger.spending;
    assert_eq!((spending.settled_micro_usd, spending.uncertain_micro_usd, spending.reserved_micro_usd), (7, 10, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_has_its_time_and_starts_have_their_distance() {
    let starts = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&starts);
    let slow = act(move |run, turn, _| {
        noted.lock().unwrap().push(std::time::Instant::now());
        async move {
            if run == "c0-001" && turn == 1 {
                std::future::pending::<()>().await;
            }
            Ok((reply(&run, turn), usd(7)))
        }
    });
    let bench = Bench::new(1, 3, 2, 10, slow);
    let schedule = bench.schedule().lanes(shop(LaneLimits::default()));
    let limit = Duration::from_millis(300);
    let began = std::time::Instant::now();
    let summary = schedule.run_time_limit(limit).inter_run_delay(Duration::from_millis(40)).run(bench.runs()).await;
    let summary = summary.unwrap();
    assert_eq!((summary.completed, summary.failed), (2, 1));
    let problem = summary.runs[1].failure().expect("a failure");
    assert!(problem.what.contains("longer than 0.3 s"), "{problem}");
    assert_eq!(summary.ledger.spending.uncertain_micro_usd, 10, "nobody knows what came of the dropped call");
    assert_eq!(status(&bench.folder()).unwrap().spending.uncertain_micro_usd, 10);
    let starts = starts.lock().unwrap();
    // Against the schedule's own start: a first call that its journal delays would bring the others nearer to it.
    let last = starts[starts.len() - 1].duration_since(began);
    assert!(last >= Duration::from_millis(80), "{last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_the_journal_is_not_asked_again() {
    let (acts, stop) = (Arc::new(AtomicUsize::new(0)), StopSignal::new());
    let raised = stop.clone();
    let answer = failing(
        move |run, turn, _| {
            if run == "c0-002" && turn == 2 {
                raised.raise(StopLevel::Stop);
            }
            None
        },
        &acts,
    );
    let bench = Bench::new(1, 4, 4, 10, answer);
    let summary = bench.schedule().stop(stop).lanes(shop(LaneLimits::default())).run(bench.runs()).await.unwrap();
    assert!(summary.interrupted && summary.halt.is_none());
    let asked = acts.load(SeqCst);
    assert_eq!(summary.ledger.spending.settled_micro_usd, 7 * asked as u64);
    let summary = bench.schedule().lanes(shop(LaneLimits::default())).run(bench.runs()).await.unwrap();
    assert_eq!((summary.completed, acts.load(SeqCst)), (4, 16));
    assert_eq!((summary.ledger.spending.settled_micro_usd, summary.ledger.spending.uncertain_micro_usd), (7 * 16, 0));
}
