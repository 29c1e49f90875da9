//! Owns the sorting of what is not a reply: status and body of a refusal, a broken exchange, a reply that cannot be read — each into
//! `failure::Class`, with what is known of its cost and of when to come back.
//! What a provider calls the same thing differs: OpenAI's empty account is a 429 (`insufficient_quota`), Anthropic's a 400 ("credit
//! balance"), Google's wrong key a 400 (`API_KEY_INVALID`), a day's free share a 429 that no minute's wait ends.
//! Must not know: requests, prices, runs.

use reqwest::header::HeaderMap;
use serde_json::Value;
use time::OffsetDateTime;

use super::{http::Broken, name::Provider, retry_after::retry_after};
use tiltmeter_model::failure::{Class, Failure};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::secret::Scrubber;

/// Longest quotation from the other side in a message.
const MAX_QUOTE: usize = 300;

/// A status that is not success.
pub(super) fn refused(
    provider: Provider,
    status: u16,
    headers: &HeaderMap,
    body: &[u8],
    scrubber: &Scrubber,
) -> Failure {
    let json: Value = first_of(serde_json::from_slice(body).unwrap_or(Value::Null));
    let class = class_of(status, &json);
    let quote = quote(&json, body, scrubber);
    let separator = if quote.is_empty() { "" } else { ": " };
    let problem = Problem::new(format!("{} answered {status}{separator}{quote}", provider.title()));
    let mut failure = Failure::new(class, problem.hint(hint(provider, class, status)));
    failure.status = Some(status);
    failure.retry_after = retry_after(headers, &json, OffsetDateTime::now_utc());
    // Turned away at the door: nothing was generated. Of a 500 or a gateway's time-out nobody knows.
    let turned_away = status < 500 && status != 408 || [503, 529].contains(&status);
    failure.cost_micro_usd = turned_away.then_some(0);
    failure
}

/// No whole reply came.
pub(super) fn broken(provider: Provider, broken: Broken) -> Failure {
    let name = provider.title();
    let (class, what, cost) = match broken {
        Broken::TimedOut { waiting_for, limit } => {
            (Class::Transient, format!("{name} kept us waiting {} for {waiting_for}", spoken(limit)), None)
        }
        Broken::NotReached(why) => (Class::Transient, format!("{name} could not be reached: {why}"), Some(0)),
        Broken::Cut(why) => (Class::Transient, format!("the connection to {name} broke: {why}"), None),
        Broken::TooLong { cap } => {
            (Class::Malformed, format!("{name} sent more than {} MiB for one reply", cap >> 20), None)
        }
        Broken::Impossible(why) => {
            (Class::BadRequest, format!("no request to {name} could be made of this: {why}"), Some(0))
        }
    };
    let mut failure = Failure::new(class, Problem::new(what).hint(hint(provider, class, 0)));
    failure.cost_micro_usd = cost;
    failure
}

/// A success that holds no reply.
pub(super) fn unreadable(provider: Provider, status: u16, what: &str, body: &[u8], scrubber: &Scrubber) -> Failure {
    let json: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let shown = quote(&json, body, scrubber);
    let shown = if shown.is_empty() { String::new() } else { format!(" (it says: {shown})") };
    let problem = Problem::new(format!("{} sent a reply that cannot be read: {what}{shown}", provider.title()));
    let mut failure = Failure::new(Class::Malformed, problem.hint(hint(provider, Class::Malformed, status)));
    failure.status = Some(status);
    failure
}

/// Whether a refusal is the provider's filter speaking: that is a result of the experiment, not a failure of the call.
pub(super) fn is_filter(provider: Provider, status: u16, body: &[u8]) -> bool {
    let json: Value = first_of(serde_json::from_slice(body).unwrap_or(Value::Null));
    let filter = ["content_filter", "content_policy_violation", "invalid_prompt"];
    match status {
        400 => words(&json).any(|word| filter.contains(&word)),
        403 => provider == Provider::OpenRouter && json.pointer("/error/metadata/reasons").is_some_and(Value::is_array),
        _ => false,
    }
}

fn class_of(status: u16, json: &Value) -> Class {
    let is = |names: &[&str]| words(json).any(|word| names.contains(&word));
    let message = message_in(json).unwrap_or_default();
    let dry = is(&["insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "billing_error"])
        || message.contains("credit balance")
        || message.contains("free-models-per-day");
    match status {
        402 => Class::Quota,
        400 | 403 | 429 if dry => Class::Quota,
        429 if a_day_is_used_up(json) => Class::Quota,
        429 => Class::RateLimit,
        400 if is(&["API_KEY_INVALID"]) => Class::Auth,
        401 | 403 => Class::Auth,
        408 | 409 | 425 | 500.. => Class::Transient,
        _ => Class::BadRequest,
    }
}

/// Google names the quota that was met.
fn a_day_is_used_up(json: &Value) -> bool {
    let details = json.pointer("/error/details").and_then(Value::as_array).into_iter().flatten();
    let violations = details.filter_map(|detail| detail.get("violations")?.as_array()).flatten();
    violations.filter_map(|violation| violation.get("quotaId")?.as_str()).any(|quota| quota.contains("PerDay"))
}

/// What an error calls itself, in any of the places for it.
fn words(json: &Value) -> impl Iterator<Item = &str> {
    let places = ["/error/code", "/error/type", "/error/status", "/error/innererror/code", "/error/details/0/reason"];
    places.into_iter().filter_map(|place| json.pointer(place)?.as_str())
}

/// Google wraps some errors into a list.
fn first_of(json: Value) -> Value {
    match json {
        Value::Array(mut list) if !list.is_empty() => list.swap_remove(0),
        other => other,
    }
}

fn message_in(json: &Value) -> Option<&str> {
    let places = ["/error/message", "/error", "/message", "/detail", "/errors/0/message"];
    places.into_iter().find_map(|place| json.pointer(place)?.as_str())
}

/// What the other side said, on one line, short, without markup and control characters. Some providers repeat the key they were
/// given: it goes before anything is cut, for half a key would not be known as one.
fn quote(json: &Value, body: &[u8], scrubber: &Scrubber) -> String {
    let raw = match message_in(json) {
        Some(message) => message.to_string(),
        None => String::from_utf8_lossy(body).into_owned(),
    };
    let raw = scrubber.scrub(&raw).into_owned();
    let plain = if raw.trim_start().starts_with('<') { without_markup(&raw) } else { raw };
    let visible: String = plain.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = visible.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_QUOTE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// The title of an error page, or else its text.
fn without_markup(page: &str) -> String {
    // Lower case by ASCII alone, so that the places in both texts stay the same.
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

fn spoken(limit: std::time::Duration) -> String {
    if limit.subsec_nanos() == 0 { format!("{} s", limit.as_secs()) } else { format!("{} ms", limit.as_millis()) }
}

fn hint(provider: Provider, class: Class, status: u16) -> String {
    let variable = provider.key_variable();
    match class {
        Class::RateLimit => "the limit is the account's: lower requests_per_minute, or wait".into(),
        Class::Quota => "the account has run dry: add credit or raise its limit, then run again with --resume".into(),
        Class::Auth => format!("check {variable}: is it this provider's, still valid, and allowed this model?"),
        Class::BadRequest if status == 404 => "check the model's name, and base_url if one is set".into(),
        Class::BadRequest if (300..400).contains(&status) => {
            "the address has moved: set base_url to the new one".into()
        }
        Class::BadRequest => "the same request fails again: change what the message names".into(),
        Class::Transient => {
            "this often passes: run again with --resume; if it stays, look at the provider's status page".into()
        }
        Class::Malformed => {
            "if it stays, look at what answers there: a gateway's page, another API, a base_url off by /v1?".into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn class(status: u16, body: Value) -> Class {
        refused(Provider::OpenAi, status, &HeaderMap::new(), body.to_string().as_bytes(), &Scrubber::default()).class
    }

    #[test]
    fn the_same_thing_is_sorted_alike_whoever_says_it() {
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
    fn a_page_becomes_a_line() {
        let say = |body: &str| {
            refused(Provider::OpenAi, 502, &HeaderMap::new(), body.as_bytes(), &Scrubber::default()).problem.what
        };
        assert_eq!(
            say("<html><head><title>502 Bad\nGateway</title></head><body>x</body></html>"),
            "OpenAI answered 502: 502 Bad Gateway"
        );
        assert_eq!(say("<h1>no</h1><p>way\u{1b}[31m</p>"), "OpenAI answered 502: no way [31m");
        assert_eq!(say(""), "OpenAI answered 502");
        assert!(say(&"é".repeat(5000)).chars().count() < 350);
        assert!(say("<TITLE>İ</title>").ends_with(": İ"));
    }
}
