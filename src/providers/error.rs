//! Classifies failed calls: HTTP status and error body, transport errors and malformed replies become a `Failure` with its `Class`, its
//! known cost and when to retry.
//!
//! Providers report the same condition differently: an empty account is a 429 `insufficient_quota` at OpenAI and a 400 ("credit balance")
//! at Anthropic, an invalid key is a 400 `API_KEY_INVALID` at Google, and an exhausted daily quota is a 429 that no short wait ends.

use reqwest::header::HeaderMap;
use serde_json::Value;
use time::OffsetDateTime;

use super::{http::TransportError, profiles::Provider, retry_after::retry_after};
use tiltmeter_model::failure::{Class, Failure};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::secret::Scrubber;

/// Longest quotation of a provider's message, in characters.
const MAX_QUOTE: usize = 300;

/// A reply with an error status.
pub(super) fn from_status(
    provider: &Provider,
    status: u16,
    headers: &HeaderMap,
    body: &[u8],
    scrubber: &Scrubber,
) -> Failure {
    let json = error_document(body);
    let class = classify(status, &json);
    let quote = quote(&json, body, scrubber);
    let separator = if quote.is_empty() { "" } else { ": " };
    let problem = Problem::new(format!("{} answered {status}{separator}{quote}", provider.title));
    let mut failure = Failure::new(class, problem.hint(hint(provider, class, status)));
    failure.status = Some(status);
    failure.retry_after = retry_after(headers, &json, OffsetDateTime::now_utc());
    // These statuses reject a request before anything is generated. After a 500 or a gateway's time-out the cost is unknown.
    let rejected = status < 500 && status != 408 || [503, 529].contains(&status);
    failure.cost_micro_usd = rejected.then_some(0);
    failure
}

/// No complete reply.
pub(super) fn from_transport(provider: &Provider, error: TransportError) -> Failure {
    let name = provider.title;
    let (class, what, cost) = match error {
        TransportError::Timeout { waiting_for, limit } => {
            (Class::Transient, format!("{name} timed out: waited {} for {waiting_for}", in_units(limit)), None)
        }
        TransportError::Connect(why) => (Class::Transient, format!("cannot connect to {name}: {why}"), Some(0)),
        TransportError::Interrupted(why) => (Class::Transient, format!("the connection to {name} broke: {why}"), None),
        TransportError::TooLarge { cap } => {
            (Class::Malformed, format!("the reply of {name} is larger than {} MiB", cap >> 20), None)
        }
        TransportError::InvalidRequest(why) => {
            (Class::BadRequest, format!("the request to {name} cannot be built: {why}"), Some(0))
        }
    };
    let mut failure = Failure::new(class, Problem::new(what).hint(hint(provider, class, 0)));
    failure.cost_micro_usd = cost;
    failure
}

/// A success status without a usable reply.
pub(super) fn malformed(provider: &Provider, status: u16, what: &str, body: &[u8], scrubber: &Scrubber) -> Failure {
    let quote = quote(&error_document(body), body, scrubber);
    let quote = if quote.is_empty() { String::new() } else { format!(" ({quote})") };
    let problem = Problem::new(format!("{} sent a malformed reply: {what}{quote}", provider.title));
    let mut failure = Failure::new(Class::Malformed, problem.hint(hint(provider, Class::Malformed, status)));
    failure.status = Some(status);
    failure
}

/// Whether an error reply reports a content filter, which is a result of the experiment and not a failed call.
pub(super) fn is_content_filter(status: u16, body: &[u8]) -> bool {
    let json = error_document(body);
    let filter = ["content_filter", "content_policy_violation", "invalid_prompt"];
    match status {
        400 => error_codes(&json).any(|code| filter.contains(&code)),
        // OpenRouter's moderation.
        403 => json.pointer("/error/metadata/reasons").is_some_and(Value::is_array),
        _ => false,
    }
}

fn classify(status: u16, json: &Value) -> Class {
    let is = |names: &[&str]| error_codes(json).any(|code| names.contains(&code));
    let message = message_in(json).unwrap_or_default();
    let out_of_quota = is(&["insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "billing_error"])
        || message.contains("credit balance")
        || message.contains("free-models-per-day");
    match status {
        402 => Class::Quota,
        400 | 403 | 429 if out_of_quota => Class::Quota,
        429 if exceeds_daily_quota(json) => Class::Quota,
        429 => Class::RateLimit,
        400 if is(&["API_KEY_INVALID"]) => Class::Auth,
        401 | 403 => Class::Auth,
        408 | 409 | 425 | 500.. => Class::Transient,
        _ => Class::BadRequest,
    }
}

/// Google's `QuotaFailure` names the quota.
fn exceeds_daily_quota(json: &Value) -> bool {
    let details = json.pointer("/error/details").and_then(Value::as_array).into_iter().flatten();
    let violations = details.filter_map(|detail| detail.get("violations")?.as_array()).flatten();
    violations.filter_map(|violation| violation.get("quotaId")?.as_str()).any(|quota| quota.contains("PerDay"))
}

/// The error's code, type or reason, wherever a provider puts it.
fn error_codes(json: &Value) -> impl Iterator<Item = &str> {
    let pointers = ["/error/code", "/error/type", "/error/status", "/error/innererror/code", "/error/details/0/reason"];
    pointers.into_iter().filter_map(|pointer| json.pointer(pointer)?.as_str())
}

/// The body as JSON, or null. Google wraps some errors in a list.
fn error_document(body: &[u8]) -> Value {
    match serde_json::from_slice(body).unwrap_or_default() {
        Value::Array(mut list) if !list.is_empty() => list.swap_remove(0),
        other => other,
    }
}

fn message_in(json: &Value) -> Option<&str> {
    let pointers = ["/error/message", "/error", "/message", "/detail", "/errors/0/message"];
    pointers.into_iter().find_map(|pointer| json.pointer(pointer)?.as_str())
}

/// An excerpt of the error message, without markup.
fn quote(json: &Value, body: &[u8], scrubber: &Scrubber) -> String {
    let raw = match message_in(json) {
        Some(message) => message.to_string(),
        None => String::from_utf8_lossy(body).into_owned(),
    };
    // Scrubbed first, because removing markup could hide a key from the scrubber.
    let raw = scrubber.scrub(&raw);
    if raw.trim_start().starts_with('<') {
        scrubber.excerpt(&without_markup(&raw), MAX_QUOTE)
    } else {
        scrubber.excerpt(&raw, MAX_QUOTE)
    }
}

/// The title of an HTML page, or its text.
fn without_markup(page: &str) -> String {
    // ASCII case only, so that byte offsets agree.
    let lower = page.to_ascii_lowercase();
    let title = lower.find("<title>").map(|at| at + 7).and_then(|at| Some((at, at + lower[at..].find("</title>")?)));
    if let Some((begin, end)) = title {
        return page[begin..end].to_string();
    }
    let mut text = String::new();
    for part in page.split('<') {
        text.push_str(part.split_once('>').map_or("", |(_, after)| after));
        text.push(' ');
    }
    text
}

fn in_units(limit: std::time::Duration) -> String {
    if limit.subsec_nanos() == 0 { format!("{} s", limit.as_secs()) } else { format!("{} ms", limit.as_millis()) }
}

fn hint(provider: &Provider, class: Class, status: u16) -> String {
    let variable = provider.key_variable;
    match class {
        Class::RateLimit => "lower requests_per_minute, or wait: the limit is the account's".into(),
        Class::Quota => {
            "the account is out of quota: add credit or raise its limit, then run again with --resume".into()
        }
        Class::Auth => format!("check that {variable} is a valid key of this provider with access to this model"),
        Class::BadRequest if status == 404 => "check the model's name, and base_url if one is set".into(),
        Class::BadRequest if (300..400).contains(&status) => {
            "the address redirects: set base_url to the new one".into()
        }
        Class::BadRequest => "the same request would fail again: change what the message names".into(),
        Class::Transient => {
            "usually temporary: run again with --resume; if it persists, check the provider's status page".into()
        }
        Class::Malformed => {
            "if it persists, check base_url: it may lack /v1, or lead to a gateway or another API".into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PROVIDERS;
    use serde_json::json;

    fn class(status: u16, body: Value) -> Class {
        from_status(&PROVIDERS[0], status, &HeaderMap::new(), body.to_string().as_bytes(), &Scrubber::default()).class
    }

    #[test]
    fn providers_errors_map_to_one_class_per_condition() {
        let error = |key: &str, word: &str| json!({"error": {key: word, "message": "m"}});
        assert_eq!(class(429, error("code", "insufficient_quota")), Class::Quota);
        assert_eq!(class(429, error("code", "rate_limit_exceeded")), Class::RateLimit);
        assert_eq!(class(429, json!(null)), Class::RateLimit);
        assert_eq!(class(402, json!({})), Class::Quota);
        assert_eq!(
            class(400, json!({"error": {"message": "Your credit balance is too low to access the API"}})),
            Class::Quota
        );
        assert_eq!(class(429, json!({"error": {"message": "Rate limit exceeded: free-models-per-day"}})), Class::Quota);
        let day = json!([{"error": {"details": [{"violations": [{"quotaId": "GenerateRequestsPerDayPerProject"}]}]}}]);
        assert_eq!(class(429, day), Class::Quota);
        assert_eq!(class(400, json!({"error": {"details": [{"reason": "API_KEY_INVALID"}]}})), Class::Auth);
        for (status, expected) in [
            (401, Class::Auth),
            (403, Class::Auth),
            (400, Class::BadRequest),
            (404, Class::BadRequest),
            (413, Class::BadRequest),
            (422, Class::BadRequest),
            (301, Class::BadRequest),
            (408, Class::Transient),
            (409, Class::Transient),
            (500, Class::Transient),
            (502, Class::Transient),
            (503, Class::Transient),
            (529, Class::Transient),
        ] {
            assert_eq!(class(status, json!({"error": {"message": "no"}})), expected, "{status}");
        }
    }

    #[test]
    fn an_html_page_becomes_one_line() {
        let shown = |body: &str| {
            from_status(&PROVIDERS[0], 502, &HeaderMap::new(), body.as_bytes(), &Scrubber::default()).problem.what
        };
        assert_eq!(
            shown("<html><head><title>502 Bad\nGateway</title></head><body>x</body></html>"),
            "OpenAI answered 502: 502 Bad Gateway"
        );
        assert_eq!(shown("<h1>no</h1><p>way\u{1b}[31m</p>"), "OpenAI answered 502: no way [31m");
        assert_eq!(shown(""), "OpenAI answered 502");
        assert!(shown(&"é".repeat(5000)).chars().count() < 350);
        assert!(shown("<TITLE>İ</title>").ends_with(": İ"));
    }
}
