//! Stopping while calls wait for their lane.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_calls_that_wait() {
    let bench = Bench::new(1, 4, 1, 10, act(|run, turn, _| async move { Ok((reply(&run, turn), usd(7))) }));
    let lanes = shop(LaneLimits::default());
    lanes[0].admit(&Cost::default()).await.unwrap().failed(&failure(Class::RateLimit, Some(429), Some(seconds(60.0))));
    let stop = StopSignal::new();
    let raised = stop.clone();
    tokio::spawn(async move {
        sleep(Duration::from_millis(50)).await;
        raised.terminate();
    });
    let began = std::time::Instant::now();
    let summary = bench.schedule().stop(stop).lanes(lanes).run(bench.runs()).await.unwrap();
    assert!(began.elapsed() < seconds(20.0), "the lane is closed for a minute");
    assert_eq!((summary.pending, summary.interrupted, summary.ledger.spending.reserved_micro_usd), (4, true, 0));
    assert_eq!(status(&bench.folder()).unwrap().uncertain_steps, 0, "nothing was sent");
}
