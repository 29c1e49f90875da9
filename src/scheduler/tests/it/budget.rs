//! The specification of the budget: that it is never overrun, that it can be used up, what is said and kept at its end, and
//! that its books survive whatever stops the program.

use std::{
    fs::{self, File},
    io, mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use tiltmeter_model::failure::{Class, Failure};
use tiltmeter_scheduler::{
    Budget, Disk, HaltReason, Lane, LaneLimits, Progress, RunEnd, Spending, Summary, seed_for, status,
};

use crate::{
    breaking_disk::Breaking,
    lanes::caller::{Act, Bench, act, failure, reply, usd},
};

fn lanes() -> Vec<Lane> {
    vec![Lane::new("shop", LaneLimits::default())]
}

/// Always answers, at this price.
fn at_price(micro_usd: u64) -> Act {
    act(move |run: String, turn, _| async move { Ok((reply(&run, turn), usd(micro_usd))) })
}

fn held(spending: &Spending) -> u64 {
    spending.settled_micro_usd + spending.uncertain_micro_usd + spending.reserved_micro_usd
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_budget_says_what_is_kept_and_a_higher_limit_completes() {
    let bench = Bench::new(3, 100, 1, 5_000, at_price(4_000));
    let progress = Arc::new(Progress::new());
    let schedule = bench.schedule().lanes(lanes()).progress(Arc::clone(&progress));
    let summary = schedule.budget(Budget::limited(Some(850_000), None)).run(bench.runs()).await.unwrap();
    let halt = summary.halt.unwrap();
    assert_eq!(halt.reason, HaltReason::Budget);
    let words = halt.problem.to_string();
    assert_eq!(summary.completed, 212);
    assert!(words.starts_with("Budget limit reached: $0.848 of $0.85 are spent; "), "{words}");
    assert!(words.contains("raise budget_limit and run --resume: 212 of 300 are kept"), "{words}");
    assert_eq!((summary.failed, summary.pending, summary.interrupted), (0, 88, false));
    assert!(!summary.runs.iter().any(|run| run.failure().is_some()));
    let snapshot = progress.snapshot();
    assert_eq!(snapshot.spending, Some(summary.ledger.spending));
    let seen = status(&bench.folder()).unwrap();
    assert_eq!(seen.spending, summary.ledger.spending);
    assert_eq!((seen.done, seen.failed, seen.pending), (212, 0, 88));

    let raised = bench.schedule().lanes(lanes()).budget(Budget::limited(Some(1_250_000), None));
    let summary = raised.run(bench.runs()).await.unwrap();
    assert_eq!((summary.completed, summary.pending, summary.halt), (300, 0, None));
    assert_eq!(summary.ledger.spending.settled_micro_usd, 300 * 4_000, "no call was paid twice");
    assert_eq!(status(&bench.folder()).unwrap().spending.limit_micro_usd, Some(1_250_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wherever_the_money_ends_the_cells_have_equal_n() {
    for trial in 0..20 {
        let bench = Bench::new(4, 20, 2, 100, at_price(70));
        let limit = 1_000 + seed_for(trial, "limit") % 9_000;
        let schedule = bench.schedule().lanes(lanes()).budget(Budget::limited(Some(limit), None));
        let summary = schedule.run(bench.runs()).await.unwrap();
        let mut done = [0_usize; 4];
        for run in &summary.runs {
            let cell: usize = run.key.cell[1..].parse().unwrap();
            done[cell] += usize::from(run.done().is_some());
        }
        let (least, most) = (done.iter().min().unwrap(), done.iter().max().unwrap());
        // Four runs are in flight, one a cell: each cell is at most one round behind or ahead.
        assert!(most - least <= 2, "trial {trial}: {done:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_uses_up_its_own_limit_stops_no_other() {
    let greedy = act(|run: String, turn, _| async move {
        let price = if run == "c0-001" { 90 } else { 20 };
        Ok((reply(&run, turn), usd(price)))
    });
    let bench = Bench::new(1, 4, 3, 100, greedy);
    let limited = || bench.schedule().lanes(lanes()).budget(Budget::limited(Some(10_000), Some(200)));
    let summary = limited().run(bench.runs()).await.unwrap();
    assert_eq!((summary.completed, summary.failed, summary.pending), (3, 0, 1));
    assert_eq!(summary.runs[1].end, RunEnd::Pending);
    assert_eq!(summary.halt.unwrap().reason, HaltReason::RunBudget);
    let again = limited().run(bench.runs()).await.unwrap();
    assert_eq!((again.pending, again.ledger.spending.settled_micro_usd), (1, 3 * 60 + 2 * 90));
    let raised = bench.schedule().lanes(lanes()).budget(Budget::limited(Some(10_000), Some(300)));
    assert_eq!(raised.run(bench.runs()).await.unwrap().completed, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_of_another_format_is_refused() {
    let bench = Bench::new(1, 2, 3, 100, at_price(20));
    bench.schedule().lanes(lanes()).run(bench.runs()).await.unwrap();
    let text = fs::read_to_string(bench.folder().journal()).unwrap();
    let (first, others) = text.split_once('\n').unwrap();
    let covered = first.split_once(',').unwrap().1.replace("\"format\":1,", "\"format\":2,");
    let checksum = &blake3::hash(covered.as_bytes()).to_hex()[..8];
    let other = format!("{{\"checksum\":\"{checksum}\",{covered}\n{others}");
    fs::write(bench.folder().journal(), &other).unwrap();
    let refusals = [status(&bench.folder()).unwrap_err(), bench.schedule().run(bench.runs()).await.unwrap_err()];
    for refused in refusals {
        assert!(refused.what.contains("format 2"), "{refused}");
        assert!(refused.hint.unwrap().contains("another folder"));
    }
    assert_eq!(fs::read_to_string(bench.folder().journal()).unwrap(), other, "the file is not touched");
}

/// A disk that looks at the books whenever it makes something last.
struct Looking {
    file: File,
    budget: Budget,
    results: u64,
    unsynced: u64,
    looks: Arc<AtomicUsize>,
}

impl Disk for Looking {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.unsynced += String::from_utf8_lossy(bytes).matches(r#""kind":"result""#).count() as u64;
        Disk::append(&mut self.file, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.unsynced > 0 {
            // Long enough for whoever would not wait.
            thread::sleep(Duration::from_millis(20));
            let spending = self.budget.spending();
            if (spending.settled_micro_usd, spending.reserved_micro_usd) == (7 * self.results, 10) {
                self.looks.fetch_add(1, SeqCst);
            }
        }
        self.results += mem::take(&mut self.unsynced);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_is_given_away_only_when_no_crash_can_take_it_back() {
    let bench = Bench::new(1, 2, 3, 10, at_price(7));
    let (budget, looks) = (Budget::limited(Some(1_000), None), Arc::new(AtomicUsize::new(0)));
    let schedule = bench.schedule().parallel(1).lanes(lanes()).budget(budget.clone());
    let looking = Arc::clone(&looks);
    let schedule =
        schedule.disk(move |file| Box::new(Looking { file, budget, results: 0, unsynced: 0, looks: looking }));
    assert_eq!(schedule.run(bench.runs()).await.unwrap().ledger.spending.settled_micro_usd, 6 * 7);
    assert_eq!(looks.load(SeqCst), 6, "as long as a result is not durable, its worst case stays reserved");
}

/// The other side's own books.
#[derive(Default)]
struct Ledger {
    billed: AtomicU64,
    acts: AtomicUsize,
    answered: AtomicUsize,
    /// Of the session under way, for a look at our books in the middle of a call.
    budget: Mutex<Option<Budget>>,
}

impl Ledger {
    /// Whatever happens, the rule holds, and what was billed is among what is charged.
    fn look(&self, what: &str) {
        if let Some(budget) = self.budget.lock().unwrap().clone() {
            // The bill first: it only grows, and so do the charges it is compared with.
            let billed = self.billed.load(SeqCst);
            let spending = budget.spending();
            let (held, limit) = (held(&spending), spending.limit_micro_usd.unwrap());
            assert!(held <= limit, "{what}: {held} of {limit} are charged");
            assert!(billed <= held, "{what}: {billed} are billed and {held} charged");
        }
    }
}

/// What one trial is made of.
struct Trial {
    seed: u64,
    worst: u64,
    samples: usize,
    turns: usize,
    parallel: usize,
    limit: u64,
    crashes: u64,
}

impl Trial {
    fn draw(seed: u64) -> Self {
        let pick = |what: &str, from: u64, to: u64| from + seed_for(seed, what) % (to - from + 1);
        let (samples, turns) = (pick("samples", 2, 12) as usize, pick("turns", 1, 4) as usize);
        let worst = pick("worst", 1, 5_000);
        let planned = worst * (3 * samples * turns) as u64;
        Self {
            seed,
            worst,
            samples,
            turns,
            parallel: pick("parallel", 1, 24) as usize,
            limit: planned * pick("limit", 5, 110) / 100,
            crashes: pick("crashes", 0, 3),
        }
    }

    /// Answers, fails and bills as the seed says; the attempt is drawn anew after a crash.
    fn act(&self, ledger: &Arc<Ledger>) -> Act {
        let (seed, worst, ledger) = (self.seed, self.worst, Arc::clone(ledger));
        act(move |run: String, turn, attempt| {
            let ledger = Arc::clone(&ledger);
            async move {
                let number = ledger.acts.fetch_add(1, SeqCst);
                ledger.look("before");
                let draw = seed_for(seed, &format!("{run} {turn} {attempt} {number}"));
                let price = worst - (draw >> 32) % (worst / 2 + 1);
                let bill = |micro_usd| ledger.billed.fetch_add(micro_usd, SeqCst);
                let refused = |class, status| Err::<(String, _), Failure>(failure(class, status, None));
                let answer = match draw % 100 {
                    0..3 => Err(failure(Class::RateLimit, Some(429), Some(Duration::from_micros(200)))),
                    3..6 => refused(Class::Transient, Some(500)),
                    // The connection broke, and the bill may come all the same.
                    6..9 => {
                        bill(price * (draw >> 20 & 1));
                        refused(Class::Transient, None)
                    }
                    9..11 => {
                        bill(price);
                        Err(Failure { cost_micro_usd: Some(price), ..failure(Class::Malformed, Some(200), None) })
                    }
                    _ => {
                        bill(price);
                        ledger.answered.fetch_add(1, SeqCst);
                        Ok((reply(&run, turn), usd(price)))
                    }
                };
                if draw.is_multiple_of(7) {
                    tokio::task::yield_now().await;
                }
                ledger.look("after");
                answer
            }
        })
    }

    async fn session(&self, bench: &Bench, ledger: &Ledger, limit: u64, left: usize) -> Option<Summary> {
        let budget = Budget::limited(Some(limit), None);
        let schedule = bench.schedule().parallel(self.parallel).lanes(lanes()).budget(budget.clone());
        // The books are empty until the schedule has read the journal, so nobody looks before the first call.
        *ledger.budget.lock().unwrap() = Some(budget.clone());
        let ended = schedule.disk(move |file| Box::new(Breaking { file, left })).run(bench.runs()).await;
        *ledger.budget.lock().unwrap() = None;
        let spending = budget.spending();
        assert_eq!((spending.overshoot_micro_usd, spending.reserved_micro_usd), (0, 0), "trial {}", self.seed);
        assert!(held(&spending) <= limit, "trial {}: {spending:?}", self.seed);
        ended.ok()
    }

    /// Returns whether the money ended before the work, and how much of the limit was used.
    async fn run(&self) -> (bool, f64) {
        let seed = self.seed;
        let ledger = Arc::new(Ledger::default());
        let mut bench = Bench::new(3, self.samples, self.turns, self.worst, self.act(&ledger));
        bench.callers.iter_mut().for_each(|caller| caller.policy.max_attempts = 50);
        for crash in 0..self.crashes {
            let left = seed_for(seed, &format!("crash {crash}")) % (300 * (3 * self.samples * self.turns) as u64);
            // A journal that ends before its first line is durable has nothing to go on with; that is another test.
            self.session(&bench, &ledger, self.limit, 1_000 + left as usize).await;
        }
        let summary = self.session(&bench, &ledger, self.limit, usize::MAX).await.unwrap();
        let spending = summary.ledger.spending;
        assert!(ledger.billed.load(SeqCst) <= held(&spending), "trial {seed}");
        assert_eq!(status(&bench.folder()).unwrap().spending, spending, "trial {seed}: the journal has the same books");
        let halted = summary.halt.is_some();
        assert_eq!(halted, summary.pending > 0, "trial {seed}");
        if halted {
            assert!(held(&spending) + self.worst > self.limit, "trial {seed}: there was room for another call");
        }
        // Malformed twice is a failure; everything else is done in the end.
        let plenty = 100 * self.limit + 100 * self.worst * (3 * self.samples * self.turns) as u64;
        let mut summary = summary;
        for _ in 0..20 {
            if summary.completed == bench.callers.len() {
                break;
            }
            summary = self.session(&bench, &ledger, plenty, usize::MAX).await.unwrap();
        }
        assert_eq!(summary.completed, bench.callers.len(), "trial {seed}: a higher limit completes");
        for run in &summary.runs {
            let Some(outcome) = run.done() else { panic!("trial {seed}: {run:?}") };
            let expected: Vec<serde_json::Value> =
                (0..self.turns).map(|turn| reply(&run.key.id(), turn).into()).collect();
            assert_eq!(outcome.turns, expected, "trial {seed}");
        }
        let planned = 3 * self.samples * self.turns;
        let answered = ledger.answered.load(SeqCst);
        let most = planned + self.parallel * self.crashes as usize;
        assert!(answered >= planned && answered <= most, "trial {seed}: {answered} answers, {planned} were needed");
        (halted, held(&spending) as f64 / self.limit as f64)
    }
}

/// How many batches ended for want of money, and the least part of a limit that was used where calls were small against it.
fn trials(next: &AtomicU64, trials: u64) -> (usize, f64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (mut halted, mut least_used) = (0, 1.0_f64);
    loop {
        let seed = next.fetch_add(1, SeqCst);
        if seed >= trials {
            return (halted, least_used);
        }
        let trial = Trial::draw(seed);
        let (ended, used) = runtime.block_on(trial.run());
        halted += usize::from(ended);
        if ended && trial.worst * 20 <= trial.limit {
            least_used = least_used.min(used);
        }
    }
}

#[test]
fn a_thousand_random_batches_never_overrun_and_use_what_they_may() {
    const TRIALS: u64 = 1_000;
    let next = AtomicU64::new(0);
    let ended: Vec<(usize, f64)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| trials(&next, TRIALS))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let halted: usize = ended.iter().map(|(halted, _)| halted).sum();
    let least_used = ended.iter().map(|(_, used)| *used).fold(1.0, f64::min);
    println!("{halted} of {TRIALS} batches ended for want of money; at least {:.1} % were used", 100.0 * least_used);
    assert!(halted > 300, "{halted}");
    assert!(least_used >= 0.95, "{least_used}");
}
