//! Errors of the Hub as problems with hints.
//!
//! The Hub replies 412 if `parentCommit` is not the head, 409 if two commits collide, and 404 both for a missing dataset and for one that the
//! token cannot see.

use std::time::Duration;

use hf_hub::HFError;

use crate::token::TOKEN_VARIABLE;
use tiltmeter_model::problem::{Problem, root_cause};
use tiltmeter_model::secret::Scrubber;

/// Longest quotation of the Hub's message, in characters.
const MAX_QUOTE: usize = 300;

pub(super) enum HubError {
    /// Another commit came first: try again.
    Conflict,
    /// The dataset does not exist, or the token cannot see it.
    NotFound(Problem),
    Other(Problem),
}

impl HubError {
    pub(super) fn into_problem(self, repo_id: &str) -> Problem {
        match self {
            HubError::Conflict => too_many_conflicts(repo_id, 1),
            HubError::NotFound(problem) | HubError::Other(problem) => problem,
        }
    }
}

/// Unsent records stay pending.
const STILL_PENDING: &str = "nothing is lost: run `tiltmeter upload --pending` to send the records";

fn other(what: impl Into<String>, hint: impl Into<String>) -> HubError {
    HubError::Other(Problem::new(what).hint(hint))
}

pub(super) fn classify(error: HFError, repo_id: &str, endpoint: &str, scrubber: &Scrubber) -> HubError {
    match error {
        HFError::Conflict { .. } => HubError::Conflict,
        HFError::Http { context } if context.status.as_u16() == 412 => HubError::Conflict,
        HFError::AuthRequired { .. } => invalid_token(endpoint),
        HFError::Forbidden { context } => {
            let message = quote(context.server_message.as_deref(), scrubber);
            other(
                format!("the token cannot write to the dataset `{repo_id}`{message}"),
                format!(
                    "give the token write permission for it at {endpoint}/settings/tokens, or use a token of its owner"
                ),
            )
        }
        HFError::RepoNotFound { .. } => not_found(repo_id, endpoint),
        HFError::RevisionNotFound { context, .. } | HFError::EntryNotFound { context, .. }
            if context.as_ref().is_some_and(|context| context.error_code.as_deref() == Some("RepoNotFound")) =>
        {
            not_found(repo_id, endpoint)
        }
        HFError::RevisionNotFound { .. } | HFError::EntryNotFound { .. } => {
            malformed("it lists a commit and a file, then reports them missing")
        }
        HFError::RateLimited { retry_after, context } => {
            let message = quote(context.server_message.as_deref(), scrubber);
            let wait = retry_after.map(|wait| format!(" for {} s", wait.as_secs())).unwrap_or_default();
            other(
                format!("the Hub rejects requests{wait}: too many{message}"),
                format!("wait, then try again; {STILL_PENDING}"),
            )
        }
        HFError::Http { context } => {
            status(endpoint, context.status.as_u16(), context.server_message.as_deref(), scrubber)
        }
        HFError::Request { source, .. } if source.is_decode() => malformed(&root_cause(&source)),
        HFError::Request { source, .. } => unreachable(endpoint, &source),
        HFError::Json(error) => malformed(&error.to_string()),
        error => {
            let message = quote(Some(&error.to_string()), scrubber);
            other(
                format!("uploading to the dataset `{repo_id}` failed{message}"),
                format!("try again; {STILL_PENDING}"),
            )
        }
    }
}

fn not_found(repo_id: &str, endpoint: &str) -> HubError {
    let hint = format!(
        "check the spelling, or create it at {endpoint}/new-dataset; a private dataset needs a token of its owner"
    );
    HubError::NotFound(Problem::new(format!("no dataset `{repo_id}` is visible to this token")).hint(hint))
}

pub(super) fn status(endpoint: &str, status: u16, message: Option<&str>, scrubber: &Scrubber) -> HubError {
    let message = quote(message, scrubber);
    let hint = match status {
        500.. => format!("usually temporary: try again later; {STILL_PENDING}"),
        413 => format!("the file may be too large for one commit: start a new dataset; {STILL_PENDING}"),
        _ => format!("check that HF_ENDPOINT, if set, is the address of a Hub; {STILL_PENDING}"),
    };
    other(format!("the Hub at {endpoint} returned status {status}{message}"), hint)
}

pub(super) fn invalid_token(endpoint: &str) -> HubError {
    other(
        format!("the Hub does not accept the token in {TOKEN_VARIABLE} (401)"),
        format!("create one with write permission at {endpoint}/settings/tokens, and set {TOKEN_VARIABLE} to it"),
    )
}

pub(super) fn read_only_token(endpoint: &str) -> HubError {
    other(
        format!("the token in {TOKEN_VARIABLE} is read-only"),
        format!("create one with write permission at {endpoint}/settings/tokens, and set {TOKEN_VARIABLE} to it"),
    )
}

pub(super) fn timeout(endpoint: &str, doing: &str, limit: Duration) -> HubError {
    let limit =
        if limit.as_secs() > 0 { format!("{} s", limit.as_secs()) } else { format!("{} ms", limit.as_millis()) };
    other(
        format!("the Hub at {endpoint} timed out {doing} after {limit}"),
        format!("check the network, and try again later; {STILL_PENDING}"),
    )
}

pub(super) fn unreachable(endpoint: &str, error: &reqwest::Error) -> HubError {
    let why = root_cause(error);
    let what = match error {
        error if error.is_connect() => format!("the Hub at {endpoint} cannot be reached: {why}"),
        error if error.is_timeout() => format!("the Hub at {endpoint} timed out: {why}"),
        _ => format!("the connection to the Hub at {endpoint} broke: {why}"),
    };
    other(what, format!("check the network, and HF_ENDPOINT if it is set; {STILL_PENDING}"))
}

pub(super) fn malformed(what: &str) -> HubError {
    other(
        format!("the Hub sent a malformed reply: {what}"),
        format!("the dataset is unchanged: try again; {STILL_PENDING}"),
    )
}

pub(super) fn is_folder(file: &str) -> HubError {
    other(
        format!("`{file}` is a folder in the dataset"),
        "rename the folder: records are appended to a file of that name",
    )
}

pub(super) fn too_large(file: &str, size: u64) -> HubError {
    let hint = format!("start a new dataset, or rename {file} in this one; {STILL_PENDING}");
    other(format!("{file} would have {:.1} GB in the dataset, too large to append to", size as f64 / 1e9), hint)
}

pub(super) fn too_many_conflicts(repo_id: &str, attempts: usize) -> Problem {
    Problem::new(format!("other writers keep committing to the dataset `{repo_id}`: {attempts} attempts failed"))
        .hint(format!("try again later; {STILL_PENDING}"))
}

/// `: ` and an excerpt of the Hub's message, or nothing.
fn quote(message: Option<&str>, scrubber: &Scrubber) -> String {
    let line = scrubber.excerpt(message.unwrap_or_default(), MAX_QUOTE);
    if line.is_empty() { line } else { format!(": {line}") }
}
