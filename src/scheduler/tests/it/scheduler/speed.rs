//! Measuring the scheduler: durable runs per second, and how long a journal takes to read.

use std::{fs, time::Instant};

use tiltmeter_scheduler::status;

use super::talk::Bench;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement; run it with --release --nocapture"]
async fn throughput() {
    for (paid, parallel) in [(false, 48), (true, 48), (false, 256), (true, 256)] {
        let mut bench = Bench::new(1, 20_000, 1);
        bench.talks.iter_mut().for_each(|talk| talk.paid = paid);
        let began = Instant::now();
        bench.schedule().parallel(parallel).run(bench.runs()).await.unwrap();
        let rate = 20_000.0 / began.elapsed().as_secs_f64();
        println!("paid {paid}, {parallel} in flight: {rate:.0} durable one-step runs/s");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement; run it with --release --nocapture"]
async fn reading_a_journal_of_100_000_lines() {
    let bench = Bench::new(1, 5_000, 13);
    bench.schedule().parallel(256).run(bench.runs()).await.unwrap();
    let text = fs::read(bench.folder().journal()).unwrap();
    let lines = text.iter().filter(|byte| **byte == b'\n').count();
    let began = Instant::now();
    let seen = status(&bench.folder()).unwrap();
    println!("status of {lines} lines, {} MB, {} steps: {:?}", text.len() >> 20, seen.steps, began.elapsed());
    let began = Instant::now();
    let summary = bench.resume().await.unwrap();
    println!("resume of {} finished runs: {:?}", summary.completed, began.elapsed());
}
