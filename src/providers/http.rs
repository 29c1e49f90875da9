//! Owns one exchange over HTTP: time-outs that let go of the socket (connect, first byte, idle between bytes, whole attempt) and a
//! cap on what is read. It is reqwest used directly, without an LLM client crate over it: those (genai among them) hand out a parsed
//! reply and hide the pause between bytes, the size of what comes, and the headers of a reply that went well.
//! Nothing is sent twice from here: reqwest's own retries are off, redirects are not followed (a key must not travel on), and
//! dropping the future closes the connection, so a reply that comes late reaches nobody.
//! Must not know: providers, prices, runs.

use std::time::Duration;

use reqwest::{StatusCode, header::HeaderMap};
use tokio::time::{Instant, timeout_at};

/// How long one call may take, part by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the connection stands (name, TCP, TLS).
    pub connect: Duration,
    /// From sending until the head of the reply: nearly all of a model's thinking falls into it.
    pub first_byte: Duration,
    /// Between two pieces of the reply.
    pub idle: Duration,
    /// The whole call.
    pub attempt: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(10), first_byte: seconds(240), idle: seconds(30), attempt: seconds(300) }
    }
}

/// A reply with nothing made of it yet.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// Why no whole reply came.
pub(super) enum Broken {
    /// Which time-out, and how long it was.
    TimedOut { waiting_for: &'static str, limit: Duration },
    /// Nothing was sent: the other side was not reached.
    NotReached(String),
    /// The connection broke, before or within the reply.
    Cut(String),
    /// The reply is longer than anything a model says.
    TooLong { cap: usize },
    /// The request could not be made.
    Impossible(String),
}

/// `local`: the address is on this machine, where a proxy has no business.
pub(super) fn client(timeouts: &Timeouts, local: bool) -> Result<reqwest::Client, String> {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("tiltmeter/", env!("CARGO_PKG_VERSION")))
        .retry(reqwest::retry::never())
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(timeouts.connect)
        .pool_idle_timeout(Duration::from_secs(30));
    let builder = if local { builder.no_proxy() } else { builder };
    builder.build().map_err(|error| innermost(&error))
}

pub(super) async fn exchange(
    client: &reqwest::Client,
    request: reqwest::Request,
    timeouts: &Timeouts,
    cap: usize,
) -> Result<Answer, Broken> {
    let begin = Instant::now();
    let end = begin + timeouts.attempt;
    let late = |part_end: Instant, waiting_for, limit| match part_end >= end {
        true => Broken::TimedOut { waiting_for: "its whole reply", limit: timeouts.attempt },
        false => Broken::TimedOut { waiting_for, limit },
    };

    let first_byte = begin + timeouts.first_byte;
    let mut response = timeout_at(first_byte.min(end), client.execute(request))
        .await
        .map_err(|_| late(first_byte, "the first byte", timeouts.first_byte))?
        .map_err(sort)?;
    let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
    if response.content_length().is_some_and(|length| length > cap as u64) {
        return Err(Broken::TooLong { cap });
    }
    let mut body = Vec::new();
    loop {
        let idle = Instant::now() + timeouts.idle;
        let piece = timeout_at(idle.min(end), response.chunk())
            .await
            .map_err(|_| late(idle, "more of the reply", timeouts.idle))?
            .map_err(sort)?;
        let Some(piece) = piece else { return Ok(Answer { status, headers, body }) };
        if body.len() + piece.len() > cap {
            return Err(Broken::TooLong { cap });
        }
        body.extend_from_slice(&piece);
    }
}

fn sort(error: reqwest::Error) -> Broken {
    // The address is left out: one's own server may have something private in it.
    let error = error.without_url();
    let why = innermost(&error);
    if error.is_builder() {
        Broken::Impossible(why)
    } else if error.is_connect() {
        Broken::NotReached(why)
    } else {
        Broken::Cut(why)
    }
}

/// The cause at the bottom of the chain: `connection refused` says more than `error sending request`.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
