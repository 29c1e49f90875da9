//! Measuring paid calls: durable one-call runs per second, what is lost against an ideal with slow answers, and how long the
//! journal of many calls takes to read.

use std::{
    fs,
    time::{Duration, Instant},
};

use tiltmeter_scheduler::{Budget, Lane, LaneLimits, status};
use tokio::time::sleep;

use super::caller::{Bench, act, reply, usd};

async fn measure(runs: usize, turns: usize, latency: Duration) -> (Bench, f64) {
    let answer = act(move |run: String, turn, _| async move {
        if !latency.is_zero() {
            sleep(latency).await;
        }
        Ok((reply(&run, turn), usd(7)))
    });
    let bench = Bench::new(1, runs, turns, 10, answer);
    let lane = Lane::new("shop", LaneLimits { max_in_flight: Some(256), ..LaneLimits::default() });
    let schedule = bench.schedule().parallel(256).lanes(vec![lane]).budget(Budget::limited(Some(u64::MAX), None));
    let began = Instant::now();
    schedule.run(bench.runs()).await.unwrap();
    let seconds = began.elapsed().as_secs_f64();
    (bench, seconds)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement; run it with --release --nocapture"]
async fn paid_calls() {
    let (_, seconds) = measure(20_000, 1, Duration::ZERO).await;
    println!("{:.0} durable one-call runs/s", 20_000.0 / seconds);
    let (_, seconds) = measure(256, 40, Duration::from_millis(200)).await;
    println!("at 200 ms and 256 in flight: {:.1} % of ideal", 100.0 * 40.0 * 0.2 / seconds);
    let (bench, _) = measure(5_000, 20, Duration::ZERO).await;
    let bytes = fs::metadata(bench.folder().journal()).unwrap().len();
    let began = Instant::now();
    let seen = status(&bench.folder()).unwrap();
    println!("status of {} calls, {} MB: {:?}", seen.steps, bytes >> 20, began.elapsed());
    let began = Instant::now();
    let schedule = bench.schedule().lanes(vec![Lane::new("shop", LaneLimits::default())]);
    assert_eq!(schedule.run(bench.runs()).await.unwrap().ledger.spending.settled_micro_usd, 700_000);
    println!("resume: {:?}", began.elapsed());
}
