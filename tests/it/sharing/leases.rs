//! Tests of a budget that the tasks of a cluster share: at every instant all of them together have spent, reserved and
//! lost track of no more than the limit, whoever is killed; little of it stays unused; our books are the other side's bill.

use std::{fs, process::Child, thread, time::Duration};

use serde_json::json;
use tiltmeter_scheduler::{seed_for, status};
use tiltmeter_store::RunFolder;
use tiltmeter_test_support::{
    fault_server::{Act, FaultServer, PROMPT_TOKENS, REPLY_TOKENS},
    process::Finished,
};

use super::{done, experiment, slurm::Pretended};

/// At a dollar per million tokens.
const CALL_MICRO_USD: u64 = PROMPT_TOKENS + REPLY_TOKENS;
const TASKS: usize = 20;
const RUNS: usize = 600;
const QUESTIONS: usize = 2;

/// A batch on a server that keeps a bill.
struct Bench {
    home: tempfile::TempDir,
    slurm: Pretended,
    server: FaultServer,
    // Last, so that the server is gone before what it runs on.
    _runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new(runs: usize, limit_micro_usd: u64) -> Self {
        let home = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let reply = Act::Late(Duration::from_millis(15), "The lamp is lit.".into());
        let server = runtime.block_on(FaultServer::always(reply));
        let price = json!({"input": 1, "output": 1});
        let steward = json!({"name": "openai-compatible/clerk", "base_url": server.base_url(), "price": price});
        let more = json!({"budget_limit": usd(limit_micro_usd)});
        let file = experiment(home.path(), QUESTIONS, runs, steward, more);
        let slurm = Pretended::new(home.path(), &file);
        Self { home, slurm, server, _runtime: runtime }
    }

    fn billed(&self) -> u64 {
        self.server.bill().len() as u64 * CALL_MICRO_USD
    }

    /// What all journals together say is spent, and how much of that is uncertain or under way.
    fn books(&self) -> (u64, u64) {
        match RunFolder::at(&self.slurm.folder).holds_journal().unwrap() {
            true => {
                let spending = status(&RunFolder::at(&self.slurm.folder)).unwrap().spending;
                (spending.held_micro_usd(), spending.uncertain_micro_usd)
            }
            false => (0, 0),
        }
    }

    /// Our books are the bill, but for calls of which nobody can know.
    fn compare(&self, limit: u64) -> u64 {
        let ((held, uncertain), billed) = (self.books(), self.billed());
        assert!(held <= limit, "{held} of {limit}");
        assert!(
            held - uncertain <= billed && billed <= held,
            "{billed} are billed; books {held}, {uncertain} uncertain"
        );
        held
    }
}

fn usd(micro_usd: u64) -> f64 {
    micro_usd as f64 / 1e6
}

fn signal(children: &[Child], name: &str) {
    let ids: Vec<String> = children.iter().map(|child| child.id().to_string()).collect();
    // Of those that have ended nobody is left to be told.
    let _ = std::process::Command::new("kill").arg(name).args(ids).output();
}

/// Starts tasks, kills as many as there are draws for, of which every other one is requeued, and looks at the books in between with
/// all of them standing still. How many were killed.
fn carry_out(bench: &Bench, submission: usize, tasks: usize, draws: u64, limit: u64) -> usize {
    let mut children: Vec<Child> = (0..tasks).map(|index| bench.slurm.task(submission, index)).collect();
    let (mut kills, mut looks) = (0, 0);
    let mut draw = 0;
    while children.iter_mut().any(|child| child.try_wait().unwrap().is_none()) {
        thread::sleep(Duration::from_millis(40));
        signal(&children, "-STOP");
        let (held, _) = bench.books();
        assert!(held <= limit, "while the tasks run, {held} of {limit} are spent or reserved");
        looks += 1;
        if draw < draws {
            let who = (seed_for(11, &format!("{submission} {draw}")) % tasks as u64) as usize;
            if children[who].try_wait().unwrap().is_none() {
                children[who].kill().unwrap();
                children[who].wait().unwrap();
                kills += 1;
                if draw.is_multiple_of(2) {
                    children[who] = bench.slurm.task(submission, who);
                }
            }
            draw += 1;
        }
        signal(&children, "-CONT");
    }
    for child in children {
        let ended: Finished = child.wait_with_output().unwrap().into();
        assert!([Some(0), Some(3), None].contains(&ended.code), "{}", ended.stderr);
        if ended.code == Some(3) {
            assert!(
                ended.stderr.contains("Budget limit reached") && ended.stderr.contains("slurm retry"),
                "{}",
                ended.stderr
            );
        }
    }
    assert!(looks > 3 || draws == 0, "it was over too soon to look");
    kills
}

#[test]
fn tasks_share_a_budget_and_never_overrun_it_whoever_is_killed() {
    let planned = (RUNS * QUESTIONS) as u64 * CALL_MICRO_USD;
    let limit = planned * 2 / 3;
    let bench = Bench::new(RUNS, limit);
    let (slurm, per_task) = (&bench.slurm, (RUNS / TASKS).to_string());
    slurm.submit(&["--runs-per-task", &per_task]);
    let mut kills = carry_out(&bench, 1, TASKS, 10, limit);
    let first = bench.compare(limit);

    // What the dead held is there for those that are handed in anew.
    let said = slurm.retry(&["--runs-per-task", &per_task]).success();
    let tasks: usize = said.split(" in ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    kills += carry_out(&bench, 2, tasks, 4, limit);
    slurm.retry(&["--runs-per-task", &per_task]).success();
    carry_out(&bench, 3, tasks.min(3), 0, limit);
    let held = bench.compare(limit);
    let used = held as f64 / limit as f64;
    println!(
        "{TASKS} tasks, {kills} times kill -9: of {limit} micro-dollars {first} are spent after the first round, {held} at the end ({:.1} %); billed {}",
        100.0 * used,
        bench.billed()
    );
    assert!(used >= 0.9, "{held} of {limit}");
    assert!(kills >= 5, "{kills}");

    // More money, and all of it is done.
    let lower = slurm.retry(&["--set", &format!("budget_limit={}", usd(limit - 1))]);
    assert!(lower.problems()[0].contains("it cannot become"), "{}", lower.stderr);
    let raised = limit * 2;
    let said = slurm.retry(&["--pull", "6", "--set", &format!("budget_limit={}", usd(raised))]).success();
    assert!(said.contains("in 6 tasks"), "{said}");
    carry_out(&bench, 4, 6, 0, raised);
    assert!(slurm.retry(&[]).success().contains("every run is done"));
    let held = bench.compare(raised);
    let all = done(&slurm.folder);
    assert!(all.len() == RUNS && all.values().all(|times| times.0 == 1));
    let said = slurm.slurm(&["collect", slurm.folder.to_str().unwrap()]).success();
    assert!(said.contains(&format!("Successful: {RUNS}")), "{said}");
    // No call is paid again but those under way at a kill: two runs at a time.
    let most = planned + 2 * kills as u64 * CALL_MICRO_USD;
    assert!(bench.billed() <= most, "{} billed, {planned} planned, {kills} kills; books {held}", bench.billed());
}

#[test]
fn little_of_a_limit_stays_unused_even_without_a_retry() {
    let limit = (RUNS * QUESTIONS) as u64 * CALL_MICRO_USD * 2 / 3;
    let bench = Bench::new(RUNS, limit);
    bench.slurm.submit(&["--runs-per-task", &(RUNS / TASKS).to_string()]);
    carry_out(&bench, 1, TASKS, 0, limit);
    let held = bench.compare(limit);
    println!("{TASKS} tasks at once spent {:.1} % of the limit", 100.0 * held as f64 / limit as f64);
    assert!(held >= limit * 9 / 10, "{held} of {limit}");
    assert_eq!(held, bench.billed(), "nobody was killed, so the books are the bill to the micro-dollar");
}

#[test]
fn workers_begun_by_hand_share_a_budget_too_and_a_damaged_lease_is_told() {
    let limit = 40 * CALL_MICRO_USD + 200;
    let bench = Bench::new(60, limit);
    let folder = bench.slurm.folder.clone();
    let file = bench.home.path().join("night.json");
    let start = |name: &str| super::worker(&file, &folder, name).spawn().unwrap();
    let children = ["a", "b", "c"].map(start);
    for child in children {
        let ended: Finished = child.wait_with_output().unwrap().into();
        assert!([Some(0), Some(3)].contains(&ended.code), "{}", ended.stderr);
    }
    bench.compare(limit);
    // What those that ended last left is there for whoever comes next.
    let ended = Finished::of(&mut super::worker(&file, &folder, "b"));
    assert!([Some(0), Some(3)].contains(&ended.code), "{}", ended.stderr);
    let held = bench.compare(limit);
    assert!(held >= limit * 8 / 10, "{held} of {limit}");
    let fewer = Finished::of(super::worker(&file, &folder, "a").args(["--set", "budget_limit=0.0001"]));
    assert!(fewer.problems()[0].contains("it cannot become"), "{}", fewer.stderr);

    let level = folder.join("claims/budget/level-1");
    let text = fs::read_to_string(&level).unwrap();
    fs::write(&level, &text[..3]).unwrap();
    let cut = Finished::of(&mut super::worker(&file, &folder, "a"));
    assert_eq!(cut.code, Some(2), "{}", cut.stderr);
    assert!(cut.problems()[0].contains("level-1"), "{}", cut.stderr);
    fs::write(&level, text).unwrap();
    // One that is damaged is found by whoever needs more.
    fs::write(folder.join("claims/budget/left/x"), "").unwrap();
    let cut = Finished::of(&mut super::worker(&file, &folder, "b"));
    assert!(cut.problems()[0].contains("this file is not a lease of the budget_limit"), "{}", cut.stderr);
    fs::remove_file(folder.join("claims/budget/left/x")).unwrap();
    let more = Finished::of(super::worker(&file, &folder, "c").args(["--set", "budget_limit=1"]));
    assert_eq!(more.code, Some(0), "{}", more.stderr);
    for name in ["a", "b"] {
        Finished::of(super::worker(&file, &folder, name).args(["--set", "budget_limit=1"])).success();
    }
    super::exactly_once(&folder, 60);
}
