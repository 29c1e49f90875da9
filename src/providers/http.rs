//! One HTTP exchange with time-outs (connect, first byte, idle, whole attempt) and a size cap. A time-out closes the connection.
//!
//! Nothing is sent twice: reqwest's retries are off and redirects are not followed, so that a key never reaches another host. LLM client
//! crates such as genai hide the pause between bytes, the size of a reply and its headers, all of which are needed here.

use std::time::Duration;

use reqwest::{StatusCode, header::HeaderMap};
use tiltmeter_model::problem::root_cause;
use tokio::time::{Instant, timeout_at};

/// Limits on the time of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// DNS, TCP and TLS.
    pub connect: Duration,
    /// From sending until the headers of the reply, which covers nearly all of the generation.
    pub first_byte: Duration,
    /// Between two chunks of the body.
    pub idle: Duration,
    /// The call as a whole.
    pub attempt: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(10), first_byte: seconds(240), idle: seconds(30), attempt: seconds(300) }
    }
}

/// An undecoded reply.
pub(super) struct RawReply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// Why no complete reply arrived.
pub(super) enum TransportError {
    /// `waiting_for` names the time-out.
    Timeout { waiting_for: &'static str, limit: Duration },
    /// Nothing was sent.
    Connect(String),
    /// The connection broke before or within the reply.
    Interrupted(String),
    /// The body exceeds the cap, in bytes.
    TooLarge { cap: usize },
    /// The request could not be built.
    InvalidRequest(String),
}

/// A client without proxy if the address is `local`.
pub(super) fn client(timeouts: &Timeouts, local: bool) -> Result<reqwest::Client, String> {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("tiltmeter/", env!("CARGO_PKG_VERSION")))
        .retry(reqwest::retry::never())
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(timeouts.connect)
        .pool_idle_timeout(Duration::from_secs(30));
    let builder = if local { builder.no_proxy() } else { builder };
    builder.build().map_err(|error| root_cause(&error))
}

/// Sends the request and reads the body up to `cap` bytes.
pub(super) async fn exchange(
    client: &reqwest::Client,
    request: reqwest::Request,
    timeouts: &Timeouts,
    cap: usize,
) -> Result<RawReply, TransportError> {
    let start = Instant::now();
    let end = start + timeouts.attempt;
    let timeout = |deadline: Instant, waiting_for, limit| match deadline >= end {
        true => TransportError::Timeout { waiting_for: "the whole reply", limit: timeouts.attempt },
        false => TransportError::Timeout { waiting_for, limit },
    };

    let first_byte = start + timeouts.first_byte;
    let mut response = timeout_at(first_byte.min(end), client.execute(request))
        .await
        .map_err(|_| timeout(first_byte, "the first byte", timeouts.first_byte))?
        .map_err(classify)?;
    let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
    if response.content_length().is_some_and(|length| length > cap as u64) {
        return Err(TransportError::TooLarge { cap });
    }
    let mut body = Vec::new();
    loop {
        let idle = Instant::now() + timeouts.idle;
        let chunk = timeout_at(idle.min(end), response.chunk())
            .await
            .map_err(|_| timeout(idle, "more of the reply", timeouts.idle))?
            .map_err(classify)?;
        let Some(chunk) = chunk else { return Ok(RawReply { status, headers, body }) };
        if body.len() + chunk.len() > cap {
            return Err(TransportError::TooLarge { cap });
        }
        body.extend_from_slice(&chunk);
    }
}

fn classify(error: reqwest::Error) -> TransportError {
    // Without the URL, which may be private.
    let error = error.without_url();
    let why = root_cause(&error);
    if error.is_builder() {
        TransportError::InvalidRequest(why)
    } else if error.is_connect() {
        TransportError::Connect(why)
    } else {
        TransportError::Interrupted(why)
    }
}
