//! Owns what each refusal of the Hub means to the user, and which one only means that somebody else was first.
//! Sources: the Hub answers 412 to a `parentCommit` that is not the head any more, and 409 where two commits met; a dataset that a token
//! may not see is a 404, as one that does not exist.
//! Must not know: files, records.

use std::{error::Error, time::Duration};

use hf_hub::HFError;

use super::TOKEN_VARIABLE;
use tiltmeter_model::problem::Problem;
use tiltmeter_model::secret::Scrubber;

/// Longest quotation from the other side in a message.
const MAX_QUOTE: usize = 300;

pub(super) enum Refusal {
    /// The head is not what it was: begin again.
    Moved,
    /// No such dataset, or none that may be seen.
    Missing(Problem),
    Final(Problem),
}

impl Refusal {
    pub(super) fn into_problem(self, repo_id: &str) -> Problem {
        match self {
            Refusal::Moved => always_moved(repo_id, 1),
            Refusal::Missing(problem) | Refusal::Final(problem) => problem,
        }
    }
}

/// What is sent stays pending: every hint that ends in a wait may say so.
const LATER: &str = "nothing is lost: send what is pending once more";

fn refused(what: impl Into<String>, hint: impl Into<String>) -> Refusal {
    Refusal::Final(Problem::new(what).hint(hint))
}

pub(super) fn sort(error: HFError, repo_id: &str, endpoint: &str, scrubber: &Scrubber) -> Refusal {
    match error {
        HFError::Conflict { .. } => Refusal::Moved,
        HFError::Http { context } if context.status.as_u16() == 412 => Refusal::Moved,
        HFError::AuthRequired { .. } => unaccepted(endpoint),
        HFError::Forbidden { context } => {
            let said = quote(context.server_message.as_deref(), scrubber);
            refused(
                format!("the token may not write to the dataset `{repo_id}`{said}"),
                format!(
                    "give the token write permission for it at {endpoint}/settings/tokens, or take one of its owner"
                ),
            )
        }
        HFError::RepoNotFound { .. } => missing(repo_id, endpoint),
        HFError::RevisionNotFound { context, .. } | HFError::EntryNotFound { context, .. }
            if context.as_ref().is_some_and(|context| context.error_code.as_deref() == Some("RepoNotFound")) =>
        {
            missing(repo_id, endpoint)
        }
        HFError::RevisionNotFound { .. } | HFError::EntryNotFound { .. } => {
            unreadable("it names a commit and a file there, and then does not know them")
        }
        HFError::RateLimited { retry_after, context } => {
            let said = quote(context.server_message.as_deref(), scrubber);
            let wait = retry_after.map(|wait| format!(" for {} s", wait.as_secs())).unwrap_or_default();
            refused(format!("the Hub takes no more requests{wait}: too many{said}"), format!("wait; {LATER}"))
        }
        HFError::Http { context } => {
            status(endpoint, context.status.as_u16(), context.server_message.as_deref(), scrubber)
        }
        HFError::Request { source, .. } if source.is_decode() => unreadable(&innermost(&source)),
        HFError::Request { source, .. } => unreached(endpoint, &source),
        HFError::Json(error) => unreadable(&error.to_string()),
        other => {
            let said = quote(Some(&other.to_string()), scrubber);
            refused(format!("sending to the dataset `{repo_id}` failed{said}"), format!("try again; {LATER}"))
        }
    }
}

fn missing(repo_id: &str, endpoint: &str) -> Refusal {
    let hint =
        format!("check the spelling, or make it at {endpoint}/new-dataset; a private one needs a token of its owner");
    Refusal::Missing(Problem::new(format!("there is no dataset `{repo_id}` that this token may see")).hint(hint))
}

pub(super) fn status(endpoint: &str, status: u16, message: Option<&str>, scrubber: &Scrubber) -> Refusal {
    let said = quote(message, scrubber);
    let hint = match status {
        500.. => format!("this often passes: try again later; {LATER}"),
        413 => format!("the file may have grown too large for one commit: begin a new dataset; {LATER}"),
        _ => format!("is {endpoint} the Hub? If HF_ENDPOINT is set, check it; {LATER}"),
    };
    refused(format!("the Hub at {endpoint} answers with status {status}{said}"), hint)
}

pub(super) fn unaccepted(endpoint: &str) -> Refusal {
    refused(
        format!("the Hub does not accept the token in {TOKEN_VARIABLE} (401)"),
        format!("make a new one with write permission at {endpoint}/settings/tokens, and set {TOKEN_VARIABLE} to it"),
    )
}

pub(super) fn only_reads(endpoint: &str) -> Refusal {
    refused(
        format!("the token in {TOKEN_VARIABLE} may only read"),
        format!("make one with write permission at {endpoint}/settings/tokens, and set {TOKEN_VARIABLE} to it"),
    )
}

pub(super) fn late(endpoint: &str, doing: &str, limit: Duration) -> Refusal {
    let limit =
        if limit.as_secs() > 0 { format!("{} s", limit.as_secs()) } else { format!("{} ms", limit.as_millis()) };
    refused(
        format!("the Hub at {endpoint} was not done with {doing} within {limit}"),
        format!("check the network, and try again later; {LATER}"),
    )
}

pub(super) fn unreached(endpoint: &str, error: &reqwest::Error) -> Refusal {
    let why = innermost(error);
    let what = match error {
        error if error.is_connect() => format!("the Hub at {endpoint} cannot be reached: {why}"),
        error if error.is_timeout() => format!("the Hub at {endpoint} does not answer: {why}"),
        _ => format!("the connection to the Hub at {endpoint} broke: {why}"),
    };
    refused(what, format!("check the network, and HF_ENDPOINT if it is set; {LATER}"))
}

pub(super) fn unreadable(what: &str) -> Refusal {
    refused(format!("the Hub's answer is of no use: {what}"), format!("nothing was changed: try again; {LATER}"))
}

pub(super) fn folder(file: &str) -> Refusal {
    refused(format!("`{file}` is a folder in the dataset"), "move it away there: records go into a file of that name")
}

pub(super) fn too_large(file: &str, size: u64) -> Refusal {
    let hint = format!("begin a new dataset, or move {file} aside in this one; {LATER}");
    refused(format!("{file} would have {:.1} GB in the dataset, too much to append to", size as f64 / 1e9), hint)
}

pub(super) fn always_moved(repo_id: &str, rounds: usize) -> Problem {
    Problem::new(format!("others keep committing to the dataset `{repo_id}`: {rounds} attempts came too late"))
        .hint(format!("try again when it is quieter; {LATER}"))
}

/// What the other side said, on one line and short. The token goes before anything is cut, for half a token would not be known as one.
fn quote(message: Option<&str>, scrubber: &Scrubber) -> String {
    let clean = scrubber.scrub(message.unwrap_or_default()).into_owned();
    let visible: String = clean.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = visible.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_QUOTE) {
        _ if line.is_empty() => String::new(),
        Some((end, _)) => format!(": {}…", &line[..end]),
        None => format!(": {line}"),
    }
}

/// The cause at the bottom of the chain: `connection refused` says more than `error sending request`.
pub(super) fn innermost(error: &dyn Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
