//! Conversations with a server that nobody here wrote, told by the environment whom to ask. The scripts under tests/peers start
//! the server, run this, and compare what stands in the run folder with what the server says.

use std::{env, sync::Arc};

use serde_json::json;
use tiltmeter_model::secret::Keys;
use tiltmeter_providers::{ApiModel, ApiOptions, Price};
use tiltmeter_scheduler::{Budget, Lane, LaneLimits, Plan, Schedule};
use tiltmeter_store::RunFolder;

use crate::asked::{LANE, runs};

/// The argument that makes this program a client.
pub const CONVERSE: &str = "converse";

fn told(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set: the scripts under tests/peers set it"))
}

fn number(name: &str) -> usize {
    told(name).parse().unwrap_or_else(|_| panic!("{name} is not a number"))
}

/// Holds the conversations and prints how they ended as one line of JSON.
pub async fn converse() {
    let (name, in_flight) = (told("PEER_MODEL"), number("PEER_IN_FLIGHT"));
    let price = Price::from_usd_per_million(1.0, 3.0).unwrap();
    let options = ApiOptions { base_url: Some(told("PEER_URL")), price: Some(price), ..ApiOptions::default() };
    let model = Arc::new(ApiModel::open(&name, &Keys::from_environment(None).unwrap(), options).unwrap());
    let requests_per_minute = env::var("PEER_RPM").ok().map(|limit| limit.parse().unwrap());
    let limits = LaneLimits { max_in_flight: Some(in_flight), requests_per_minute, ..LaneLimits::default() };
    let lane = Lane::new(LANE, limits);
    let schedule = Schedule::new(Plan::freeze(json!({ "model": name })), RunFolder::at(told("PEER_FOLDER")))
        .parallel(in_flight)
        .lanes(vec![lane.clone()])
        .budget(Budget::limited(Some(10_000_000), None));
    let summary = schedule.run(runs(model, number("PEER_RUNS"), number("PEER_TURNS"))).await.unwrap();
    let said = json!({
        "completed": summary.completed, "failed": summary.failed, "pending": summary.pending,
        "calls": lane.view().calls, "failed_calls": lane.view().failed, "rate_limited": lane.view().rate_limited,
        "settled_micro_usd": summary.ledger.spending.settled_micro_usd,
        "uncertain_micro_usd": summary.ledger.spending.uncertain_micro_usd,
    });
    println!("{said}");
}
