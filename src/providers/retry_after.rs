//! How long a provider asks to wait: `Retry-After` (seconds or an HTTP date), `retry-after-ms`, Google's `RetryInfo` in the body,
//! `x-ratelimit-reset-*` (OpenAI's `6m0s`, OpenRouter's epoch) and `anthropic-ratelimit-*-reset` (RFC 3339).
//!
//! Sources: RFC 9110, 10.2.3 and 5.6.7; google.rpc.RetryInfo; the providers' pages on rate limits.

use std::time::Duration;

use reqwest::header::HeaderMap;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The wait a reply asks for; of several exhausted limits, the longest. An explicit `Retry-After` takes precedence over limit headers.
pub fn retry_after(headers: &HeaderMap, body: &Value, now: OffsetDateTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    // Dates are relative to the server's clock where it sends one.
    let now = text("date").and_then(http_date).unwrap_or(now);
    let milliseconds = text("retry-after-ms").and_then(seconds).map(|wait| wait / 1000);
    let header = text("retry-after").and_then(|value| seconds(value).or_else(|| until(http_date(value)?, now)));
    milliseconds.or(header).or_else(|| retry_info(body)).or_else(|| limit_resets(headers, body, now))
}

/// The latest reset of the exhausted limits, or, if no limit says how much remains, of all.
fn limit_resets(headers: &HeaderMap, body: &Value, now: OffsetDateTime) -> Option<Duration> {
    // OpenRouter repeats the upstream's headers in the body.
    let in_body = body.pointer("/error/metadata/headers").and_then(Value::as_object);
    let pairs: Vec<(String, String)> = headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().to_string(), value.to_str().ok()?.to_string())))
        .chain(in_body.into_iter().flatten().map(|(name, value)| {
            (name.to_ascii_lowercase(), value.as_str().map_or_else(|| value.to_string(), str::to_string))
        }))
        .collect();
    let remains = |limit: &str| pairs.iter().find(|(name, _)| name == limit).map(|(_, value)| value.trim() != "0");
    let mut resets = Vec::new();
    for (name, value) in &pairs {
        let anthropic = name.starts_with("anthropic-ratelimit-") && name.ends_with("-reset");
        if !anthropic && !name.starts_with("x-ratelimit-reset") {
            continue;
        }
        let remains = remains(&name.replace("-reset", "-remaining"));
        if let Some(wait) = reset(value.trim(), now) {
            resets.push((remains, wait));
        }
    }
    let exhausted = resets.iter().filter(|(remains, _)| *remains == Some(false)).map(|(_, wait)| *wait).max();
    exhausted.or_else(|| resets.iter().filter(|(remains, _)| remains.is_none()).map(|(_, wait)| *wait).max())
}

/// A reset as `6m0s`, RFC 3339, seconds, or an epoch in seconds or milliseconds.
fn reset(text: &str, now: OffsetDateTime) -> Option<Duration> {
    if let Some(wait) = duration(text) {
        return Some(wait);
    }
    if let Ok(number) = text.parse::<f64>() {
        let epoch = match number {
            n if n > 1e11 => n / 1000.0,
            n if n > 1e9 => n,
            _ => return seconds(text),
        };
        return until(OffsetDateTime::from_unix_timestamp_nanos((epoch * 1e9) as i128).ok()?, now);
    }
    until(OffsetDateTime::parse(text, &Rfc3339).ok()?, now)
}

/// Google's `retryDelay: "34.07s"`.
fn retry_info(body: &Value) -> Option<Duration> {
    let details = body.pointer("/error/details")?.as_array()?;
    let info = details.iter().find(|detail| {
        detail.get("@type").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("google.rpc.RetryInfo"))
    })?;
    duration(info.get("retryDelay")?.as_str()?)
}

fn seconds(text: &str) -> Option<Duration> {
    let number: f64 = text.parse().ok()?;
    Duration::try_from_secs_f64(number).ok()
}

/// `1s`, `6m0s`, `20ms`, `1h2m3.5s`.
fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let scale = match &rest[..unit] {
            "d" => 86_400.0,
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * scale).ok()?)?;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then_some(total)
}

/// Zero if the moment has passed.
fn until(moment: OffsetDateTime, now: OffsetDateTime) -> Option<Duration> {
    Some(Duration::try_from(moment - now).unwrap_or(Duration::ZERO))
}

/// An HTTP date in any of the three forms of RFC 9110.
fn http_date(text: &str) -> Option<OffsetDateTime> {
    httpdate::parse_http_date(text).ok().map(OffsetDateTime::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderName, HeaderValue};

    const NOW: i64 = 1_700_000_000; // Tue, 14 Nov 2023 22:13:20 GMT

    fn wait(pairs: &[(&str, &str)], body: Value) -> Option<f64> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
        }
        retry_after(&headers, &body, OffsetDateTime::from_unix_timestamp(NOW).unwrap()).map(|wait| wait.as_secs_f64())
    }

    #[test]
    fn every_form_of_retry_after_is_parsed() {
        for (pairs, expected) in [
            (&[("retry-after", "7")][..], Some(7.0)),
            (&[("retry-after", "1.5")], Some(1.5)),
            (&[("retry-after", "0")], Some(0.0)),
            (&[("retry-after-ms", "250"), ("retry-after", "1")], Some(0.25)),
            (&[("retry-after", "Tue, 14 Nov 2023 22:13:50 GMT")], Some(30.0)),
            (&[("retry-after", "Tuesday, 14-Nov-23 22:13:50 GMT")], Some(30.0)),
            (&[("retry-after", "Tue Nov 14 22:13:50 2023")], Some(30.0)),
            (&[("retry-after", "Tue, 14 Nov 2023 22:13:10 GMT")], Some(0.0)),
            (&[("retry-after", "Tue, 14 Nov 2023 22:13:50 GMT"), ("date", "Tue, 14 Nov 2023 22:13:45 GMT")], Some(5.0)),
            (&[("x-ratelimit-reset-requests", "6m0s"), ("x-ratelimit-remaining-requests", "0")], Some(360.0)),
            (
                &[
                    ("x-ratelimit-reset-requests", "6m0s"),
                    ("x-ratelimit-remaining-requests", "3"),
                    ("x-ratelimit-reset-tokens", "20ms"),
                    ("x-ratelimit-remaining-tokens", "0"),
                ],
                Some(0.02),
            ),
            (&[("x-ratelimit-reset", "1700000009")], Some(9.0)),
            (&[("x-ratelimit-reset", "1700000009500")], Some(9.5)),
            (&[("x-ratelimit-reset", "12")], Some(12.0)),
            (
                &[
                    ("anthropic-ratelimit-input-tokens-reset", "2023-11-14T22:14:20Z"),
                    ("anthropic-ratelimit-input-tokens-remaining", "0"),
                    ("anthropic-ratelimit-requests-reset", "2023-11-14T22:13:21Z"),
                    ("anthropic-ratelimit-requests-remaining", "4"),
                ],
                Some(60.0),
            ),
            (&[("anthropic-ratelimit-requests-reset", "2023-11-15T00:13:30.25+02:00")], Some(10.25)),
        ] {
            assert_eq!(wait(pairs, Value::Null), expected, "{pairs:?}");
        }
        let google = serde_json::json!({"error": {"details": [
            {"@type": "type.googleapis.com/google.rpc.QuotaFailure"},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}]}});
        assert_eq!(wait(&[], google), Some(34.5));
        let openrouter = serde_json::json!({"error": {"metadata": {"headers":
            {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1700000020000"}}}});
        assert_eq!(wait(&[], openrouter), Some(20.0));
    }

    #[test]
    fn garbage_is_ignored() {
        for value in [
            "",
            "soon",
            "-3",
            "NaN",
            "inf",
            "1e400",
            "5 s",
            "s",
            "99999999999999999999999d",
            "Tue, 14 Foo 2023 22:13:50 GMT",
        ] {
            assert_eq!(wait(&[("retry-after", value)], Value::Null), None, "{value}");
            assert_eq!(wait(&[("x-ratelimit-reset-tokens", value)], Value::Null), None, "{value}");
        }
        assert_eq!(wait(&[("x-ratelimit-remaining", "0")], Value::Null), None);
        let odd = serde_json::json!({"error": {"details": [{"@type": "google.rpc.RetryInfo", "retryDelay": 5}]}});
        assert_eq!(wait(&[], odd), None);
    }
}
