//! Tests of a batch of paid calls that is killed: nothing lost, no step twice, no call paid again but those under way
//! at a kill, our books the other side's bill, and results as if nothing had happened. Each trial draws its own shape, faults and
//! moments of SIGKILL from its number, so that a trial that fails can be repeated alone:
//!
//! ```text
//! cargo test --release --test it crash:: -- --nocapture                               the trials of every test run
//! TILTMETER_CRASH_TRIALS=1000 cargo test --release --test it crash:: -- --nocapture   a thousand
//! TILTMETER_CRASH_FIRST=17 TILTMETER_CRASH_TRIALS=1 cargo test …                      number 17 alone
//! ```

pub mod books;
mod shop;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use books::Books;
use shop::{CALL_MICRO_USD, Shop};
use tiltmeter_scheduler::seed_for;

/// What is drawn for one trial.
#[derive(Clone, Copy, Debug)]
struct Shape {
    variants: usize,
    repetitions: usize,
    turns: usize,
    parallel: usize,
    kills: usize,
    /// Of a hundred requests, how many go wrong.
    faults: u64,
    delay: Duration,
}

impl Shape {
    fn of(trial: u64) -> Self {
        let draw = |what: &str, low: u64, high: u64| (low + seed_for(trial, what) % (high - low + 1)) as usize;
        Self {
            variants: draw("variants", 1, 3),
            repetitions: draw("repetitions", 1, 4),
            turns: draw("turns", 1, 6),
            parallel: draw("parallel", 1, 8),
            kills: draw("kills", 1, 4),
            faults: [0, 0, 5, 20][draw("faults", 0, 3)],
            delay: Duration::from_millis(draw("delay", 0, 12) as u64),
        }
    }

    fn planned(&self) -> usize {
        self.variants * self.repetitions * self.turns
    }
}

/// What one trial showed.
struct Shown {
    kills: usize,
    billed: usize,
    planned: usize,
}

/// One batch, killed as often as its shape says at moments drawn from the trial's number, then brought to its end.
fn trial(number: u64, shape: Shape) -> Shown {
    let shop = Shop::open(number, shape);
    let mut kills = 0;
    // The first kill falls somewhere into the whole time a run takes; what is left after it is shorter.
    let whole = shop.expected_time();
    for kill in 0..shape.kills {
        let mut child = shop.command().spawn().unwrap();
        let fraction = seed_for(number, &format!("kill {kill}")) as f64 / u64::MAX as f64;
        let until = Instant::now() + whole.mul_f64(fraction * 1.1 / (1.0 + kill as f64 * 0.5));
        while Instant::now() < until && child.try_wait().unwrap().is_none() {
            thread::sleep(Duration::from_micros(500));
        }
        if child.try_wait().unwrap().is_some() {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    // A run that failed for good (two unreadable replies in a row) is taken up again by the next resume.
    let mut codes = Vec::new();
    while codes.last() != Some(&0) {
        assert!(codes.len() < 12, "trial {number}: it never comes to its end: {codes:?}");
        let ended = tiltmeter_test_support::process::Finished::of(&mut shop.command());
        assert!([Some(0), Some(4)].contains(&ended.code), "trial {number}: {}\n{}", ended.stdout, ended.stderr);
        codes.push(ended.code.unwrap_or(-1));
    }

    let books = Books::read(&shop.folder());
    let say = |what: &str| format!("trial {number} ({shape:?}, {kills} kills): {what}");
    assert_eq!(books.done, shape.variants * shape.repetitions, "{}", say("every run is done"));
    assert_eq!(books.done_twice, 0, "{}", say("no run is done twice"));
    assert_eq!(books.steps_twice, 0, "{}", say("no step is committed twice"));
    assert_eq!(books.paid_steps, shape.planned(), "{}", say("every planned call has its reply"));

    let billed = shop.billed();
    let faulty = shop.billed_faults();
    let most = shape.planned() + faulty + kills * shape.parallel;
    assert!(billed <= most, "{}", say(&format!("{billed} calls are billed, at most {most} were planned or under way")));
    // A billed call is in our books as settled, or it is one of those of which nobody can know.
    let bill = billed as u64 * CALL_MICRO_USD;
    assert!(
        books.settled <= bill && bill <= books.settled + books.open_attempts as u64 * CALL_MICRO_USD,
        "{}",
        say(&format!("bill {bill}, settled {}, {} attempts of unknown end", books.settled, books.open_attempts))
    );
    if books.open_attempts == 0 {
        assert_eq!(books.settled, bill, "{}", say("without unknown ends the books are the bill"));
    }
    assert_eq!(shop.conversations(), shop.expected_conversations(), "{}", say("the conversations"));
    assert_same_as_uninterrupted(&shop, number, &say);
    Shown { kills, billed, planned: shape.planned() }
}

/// Every file that is a result, beside those of the same batch that nothing ever happened to.
#[track_caller]
fn assert_same_as_uninterrupted(shop: &Shop, number: u64, say: &dyn Fn(&str) -> String) {
    let quiet = Shop::open(number, Shape { faults: 0, kills: 0, delay: Duration::ZERO, ..shop.shape() });
    tiltmeter_test_support::process::Finished::of(&mut quiet.command()).success();
    let (found, expected) = (shop.results(), quiet.results());
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected), "{}", say("the names of the files"));
    assert!(found.len() > 10, "too few files to compare: {:?}", names(&found));
    let differ: Vec<&String> = expected.keys().filter(|name| found[*name] != expected[*name]).collect();
    assert!(differ.is_empty(), "{}", say(&format!("{differ:?} differ from an uninterrupted run")));
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

#[test]
fn killed_at_any_moment_nothing_is_lost_and_nothing_is_paid_twice() {
    let trials = from_environment("TILTMETER_CRASH_TRIALS", 24);
    let first = from_environment("TILTMETER_CRASH_FIRST", 0);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut shown = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed) as u64;
            if index >= trials {
                return shown;
            }
            shown.push(trial(first + index, Shape::of(first + index)));
        }
    };
    let shown: Vec<Shown> = thread::scope(|scope| {
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    let sum = |count: fn(&Shown) -> usize| shown.iter().map(count).sum::<usize>();
    println!(
        "{} trials, {} kills: {} calls planned, {} billed",
        shown.len(),
        sum(|one| one.kills),
        sum(|one| one.planned),
        sum(|one| one.billed)
    );
    let by_kills = shown.iter().fold(BTreeMap::<usize, usize>::new(), |mut counts, one| {
        *counts.entry(one.kills).or_default() += 1;
        counts
    });
    assert!(sum(|one| one.kills) >= shown.len() / 2, "too few kills to show anything: {by_kills:?}");
}

#[test]
fn twenty_runs_of_twelve_turns_killed_five_times_pay_at_most_twenty_calls_more() {
    let shape = Shape {
        variants: 1,
        repetitions: 20,
        turns: 12,
        parallel: 4,
        kills: 5,
        faults: 0,
        delay: Duration::from_millis(10),
    };
    let shop = Shop::open(7, shape);
    let mut kills = 0;
    for kill in 1..=5_usize {
        let mut child = shop.command().spawn().unwrap();
        // Each kill comes when another sixth of the calls is paid, so that all five fall into the work.
        while shop.billed() < kill * 40 {
            assert!(child.try_wait().unwrap().is_none(), "it ended before kill {kill}");
            thread::sleep(Duration::from_micros(500));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    tiltmeter_test_support::process::Finished::of(&mut shop.command()).success();
    let books = Books::read(&shop.folder());
    println!("20 x 12 calls, {kills} kills: {} billed, {} settled", shop.billed(), books.settled / CALL_MICRO_USD);
    assert_eq!((books.done, books.paid_steps, books.steps_twice), (20, 240, 0));
    assert!(shop.billed() <= 260, "{} calls are billed", shop.billed());
    assert_eq!(shop.conversations(), shop.expected_conversations());
    assert_same_as_uninterrupted(&shop, 7, &str::to_owned);
}
