//! Speed of paid calls on the whole way: `Schedule` -> `RunContext::call` -> `ApiModel` over HTTP -> journal, with intent, result and
//! outcome each durable before the run goes on. The server is a process of its own, and so is each measurement, so that CPU time and
//! peak memory are of our side of one case alone (start of the program included).
//!
//! `cargo bench --bench calls -- [folder]`; the journal is written in the folder (else under target/), whose disk is measured beside.
//! Since a fast disk may hide how often it is asked, one case has a disk that takes 5 ms longer to make anything last.
//!
//! Ideal at 200 ms and 256 in flight is 256 / 0.2 s; the wall time is that of the whole schedule, from an empty folder to the closed
//! journal, so that opening 256 connections at the start and the last calls' tail are lost time here as they are for a person.

#[path = "calls/asked.rs"]
mod asked;
#[path = "calls/machine.rs"]
mod machine;
#[path = "calls/peer.rs"]
mod peer;
#[path = "calls/server.rs"]
mod server;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use tiltmeter_model::secret::Keys;
use tiltmeter_providers::{ApiModel, ApiOptions, Price};
use tiltmeter_scheduler::{Budget, Disk, Lane, LaneLimits, Plan, Schedule};
use tiltmeter_store::RunFolder;

use asked::{LANE, runs};
use server::Server;

/// The argument that makes this program measure one case.
const MEASURE: &str = "measure";
const IN_FLIGHT: usize = 256;

struct Case {
    name: &'static str,
    runs: usize,
    latency: Duration,
    /// What the disk takes longer.
    disk: Duration,
}

const fn case(name: &'static str, runs: usize, latency_ms: u64, disk_ms: u64) -> Case {
    Case { name, runs, latency: Duration::from_millis(latency_ms), disk: Duration::from_millis(disk_ms) }
}

const CASES: &[Case] = &[
    case("0 ms", 10_000, 0, 0),
    case("0 ms", 50_000, 0, 0),
    case("0 ms, slow disk", 10_000, 0, 5),
    case("200 ms", IN_FLIGHT * 60, 200, 0),
    case("200 ms, slow disk", IN_FLIGHT * 60, 200, 5),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [server::SERVE, milliseconds] => server::serve(Duration::from_millis(milliseconds.parse().unwrap())),
        [MEASURE, case, base_url, folder] => {
            measure(&CASES[case.parse::<usize>().unwrap()], base_url, Path::new(folder));
        }
        [peer::CONVERSE] => runtime().block_on(peer::converse()),
        // Cargo passes `--bench` as well.
        _ => all(arguments.iter().find(|argument| !argument.starts_with('-')).map(PathBuf::from)),
    }
}

fn all(folder: Option<PathBuf>) {
    let parent = folder.unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    let cores = thread::available_parallelism().map_or(0, usize::from);
    println!("{cores} cores, {IN_FLIGHT} runs of one call in flight, journal in {}", parent.display());
    let rates = [600, 64 << 10].map(|bytes| machine::durable_appends_per_second(&parent, bytes));
    println!("this disk alone: {:.0} durable appends/s of 600 bytes, {:.0} of 64 KiB\n", rates[0], rates[1]);
    println!("| server | runs | s | runs/s | of ideal | CPU ms a call | peak MiB | load |");
    println!("|---|---|---|---|---|---|---|---|");
    for (index, case) in CASES.iter().enumerate() {
        let server = Server::start(case.latency);
        let folder = tempfile::tempdir_in(&parent).unwrap();
        let mut own = Command::new(std::env::current_exe().unwrap());
        own.args([MEASURE, &index.to_string(), &server.base_url]).arg(folder.path().join("run"));
        assert!(own.status().unwrap().success(), "{} failed", case.name);
    }
}

/// As the program itself has it.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn measure(case: &Case, base_url: &str, folder: &Path) {
    let seconds = runtime().block_on(carry_out(case, base_url, folder));
    let ideal = match case.latency.as_secs_f64() {
        0.0 => "–".to_owned(),
        latency => format!("{:.1} %", 100.0 * case.runs as f64 / IN_FLIGHT as f64 * latency / seconds),
    };
    println!(
        "| {} | {} | {seconds:.2} | {:.0} | {ideal} | {:.3} | {:.1} | {} |",
        case.name,
        case.runs,
        case.runs as f64 / seconds,
        1e3 * machine::cpu_seconds().unwrap_or(f64::NAN) / case.runs as f64,
        machine::peak_mib().unwrap_or(f64::NAN),
        machine::load(),
    );
}

async fn carry_out(case: &Case, base_url: &str, folder: &Path) -> f64 {
    let price = Price::from_usd_per_million(0.15, 0.6).unwrap();
    let options = ApiOptions { base_url: Some(base_url.to_owned()), price: Some(price), ..ApiOptions::default() };
    let model = Arc::new(ApiModel::open("openai-compatible/fixed", &Keys::default(), options).unwrap());
    let lane = Lane::new(LANE, LaneLimits { max_in_flight: Some(IN_FLIGHT), ..LaneLimits::default() });
    let plan = Plan::freeze(json!({ "calls": case.runs }));
    let mut schedule = Schedule::new(plan, RunFolder::at(folder))
        .parallel(IN_FLIGHT)
        .lanes(vec![lane])
        .budget(Budget::limited(Some(1_000_000_000), None));
    if !case.disk.is_zero() {
        let longer = case.disk;
        schedule = schedule.disk(move |file| Box::new(Slow { file, longer }));
    }
    let runs = runs(model, case.runs, 1);
    let began = Instant::now();
    let summary = schedule.run(runs).await.unwrap();
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!((summary.completed, summary.ledger.spending.uncertain_micro_usd), (case.runs, 0));
    let bill = price.cost(server::PROMPT_TOKENS, server::REPLY_TOKENS) * case.runs as u64;
    assert_eq!(summary.ledger.spending.settled_micro_usd, bill, "the books are the server's bill");
    seconds
}

/// A disk that takes longer.
struct Slow {
    file: File,
    longer: Duration,
}

impl Disk for Slow {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        thread::sleep(self.longer);
        Disk::sync(&mut self.file)
    }
}
