//! Defects of finished runs that several kinds report to `validate`.

use std::fmt::Display;

use crate::reply_record::{ReplyRecord, status};
use tiltmeter_model::problem::Problem;

/// A defect and its hint.
pub type Defect = (String, &'static str);

pub const DAMAGED: &str = "the journal is damaged or was written by another version: repeat this run in a new folder";

/// The defects of one run as problems at its id.
pub fn problems(run_id: &str, defects: impl IntoIterator<Item = Defect>) -> Vec<Problem> {
    defects.into_iter().map(|(what, hint)| Problem::new(what).at(run_id).hint(hint)).collect()
}

/// Text and hint for a reply status that a reader should check; `None` for any other status.
pub fn reply_status(status: &str) -> Option<(&'static str, &'static str)> {
    match status {
        status::EMPTY => Some(("empty", "check the model, or exclude the run")),
        status::CONTENT_FILTER => Some(("withheld by the provider", "report it: such runs are not missing at random")),
        status::LENGTH_CAPPED => Some(("cut off at the length limit", "raise the limit on new tokens")),
        _ => None,
    }
}

/// A reply whose seed is not the run's own; the run may then repeat another run.
pub fn foreign_seed(what: impl Display, reply: &ReplyRecord, own: u64) -> Option<Defect> {
    let hint = "it may repeat another run: exclude it, or repeat this run in a new folder";
    (reply.seed_key != own)
        .then(|| (format!("{what} was drawn with the seed {}; the seed of the run is {own}", reply.seed_key), hint))
}

/// A model that answered under more than one version during a run.
pub fn changed_version(model: &str, versions: &[&str]) -> Option<Defect> {
    (versions.len() > 1).then(|| {
        let what = format!("{model} changed its version during the run: {}", versions.join(", "));
        (what, "exclude the run, or report both versions")
    })
}
