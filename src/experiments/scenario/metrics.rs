//! Metric values: the last case-insensitive match of a pattern, parsed as the metric's type, or the value of a judge. A missing or
//! malformed value stays missing.

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::{Extraction, Metric, MetricKind};
use tiltmeter_model::problem::Problem;

/// Value of a metric after a turn.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MetricValue {
    /// Of the metric's type; null if it is missing.
    pub value: Value,
    pub status: String,
    /// The matched text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Status of a value.
pub mod status {
    pub const OK: &str = "ok";
    pub const NOT_FOUND: &str = "not_found";
    /// The match is not of the metric's type.
    pub const NOT_OF_TYPE: &str = "not_of_type";
}

/// A metric and its compiled pattern.
pub struct MetricExtractor {
    pub metric: Metric,
    /// `None` for a metric of a judge.
    pattern: Option<Regex>,
}

impl MetricExtractor {
    pub fn new(metric: &Metric) -> Result<Self, Problem> {
        let pattern = match (metric.extraction_method, &metric.pattern) {
            (Extraction::Regex, Some(pattern)) => {
                let built = RegexBuilder::new(pattern).case_insensitive(true).build();
                Some(built.map_err(|error| {
                    Problem::new(format!("the pattern of `{}` is not a valid regular expression: {error}", metric.id))
                        .at("metrics.yaml")
                })?)
            }
            _ => None,
        };
        Ok(Self { metric: metric.clone(), pattern })
    }

    /// The value in a text; `None` for a metric of a judge.
    pub fn extract(&self, text: &str) -> Option<MetricValue> {
        let last = self.pattern.as_ref()?.captures_iter(text).last();
        let group = last.as_ref().and_then(|found| found.get(1).or(found.get(0)));
        Some(match group {
            None => MetricValue { value: Value::Null, status: status::NOT_FOUND.to_owned(), text: None },
            Some(group) => {
                let text = group.as_str().trim().to_owned();
                match typed(&text, self.metric.kind) {
                    Some(value) => MetricValue { value, status: status::OK.to_owned(), text: Some(text) },
                    None => {
                        MetricValue { value: Value::Null, status: status::NOT_OF_TYPE.to_owned(), text: Some(text) }
                    }
                }
            }
        })
    }
}

/// Parses a text as a value of the type.
fn typed(text: &str, kind: MetricKind) -> Option<Value> {
    // What ends the clause a number stands in.
    let bare = text.trim_end_matches(['.', ',', ';', ':']);
    match kind {
        MetricKind::Integer => plain_number(bare)?.parse::<i64>().ok().map(Value::from),
        MetricKind::Float => {
            let bare = bare.strip_suffix('%').map_or(bare, str::trim_end);
            plain_number(bare)?.parse::<f64>().ok().filter(|x| x.is_finite()).map(Value::from)
        }
        MetricKind::String => Some(Value::from(text)),
        MetricKind::Boolean => match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "y" | "1" => Some(Value::from(true)),
            "false" | "no" | "n" | "0" => Some(Value::from(false)),
            _ => None,
        },
    }
}

/// A decimal number without its thousands separators; `None` for everything that is not clearly one. A comma separates thousands
/// only where groups of three digits follow a group that does not begin with 0: `0,75` and `1,2,3` are no numbers, since they mean
/// something else to whoever wrote them.
fn plain_number(text: &str) -> Option<String> {
    let text = text.replace('\u{2212}', "-");
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(&text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let grouped = |text: &str| {
        let mut groups = text.split(',');
        let first = groups.next().unwrap_or_default();
        digits(first) && first.len() <= 3 && !first.starts_with('0') && groups.all(|g| digits(g) && g.len() == 3)
    };
    let whole_fits = digits(whole) || grouped(whole) || (whole.is_empty() && fraction.is_some());
    let exponent_fits = exponent.is_none_or(|text| digits(text.strip_prefix(['-', '+']).unwrap_or(text)));
    (whole_fits && fraction.is_none_or(digits) && exponent_fits).then(|| text.replace(',', ""))
}

/// The judge's values of all its metrics.
///
/// # Errors
/// A value is missing or of another type.
pub fn judged(
    object: &Map<String, Value>,
    extractors: &[MetricExtractor],
) -> Result<Vec<(String, MetricValue)>, Problem> {
    let own = extractors.iter().filter(|extractor| extractor.metric.extraction_method == Extraction::Judge);
    own.map(|MetricExtractor { metric, .. }| {
        let value = object.get(&metric.id).ok_or_else(|| Problem::new(format!("the reply lacks `{}`", metric.id)))?;
        let fits = match metric.kind {
            MetricKind::Integer => value.is_i64() || value.as_f64().is_some_and(|x| x.fract() == 0.0 && x.abs() < 1e15),
            MetricKind::Float => value.is_number(),
            MetricKind::String => value.is_string(),
            MetricKind::Boolean => value.is_boolean(),
        };
        match value {
            Value::Null => {
                Ok((metric.id.clone(), MetricValue { status: status::NOT_FOUND.to_owned(), ..MetricValue::default() }))
            }
            _ if fits => {
                let value = match (metric.kind, value.as_f64()) {
                    (MetricKind::Integer, Some(x)) => json!(x as i64),
                    _ => value.clone(),
                };
                Ok((metric.id.clone(), MetricValue { value, status: status::OK.to_owned(), text: None }))
            }
            _ => Err(Problem::new(format!("`{}` is {value}, which is not of its type", metric.id))),
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Better;

    fn metric(pattern: &str, kind: MetricKind) -> MetricExtractor {
        let metric = Metric {
            id: "m".to_owned(),
            description: None,
            extraction_method: Extraction::Regex,
            pattern: Some(pattern.to_owned()),
            kind,
            actor: None,
            better: Better::Higher,
        };
        MetricExtractor::new(&metric).unwrap()
    }

    fn found(pattern: &str, kind: MetricKind, text: &str) -> (Value, String) {
        let found = metric(pattern, kind).extract(text).unwrap();
        (found.value, found.status)
    }

    #[test]
    fn the_last_match_counts_whatever_its_case() {
        let text = "Cooperation was at 3 once.\nCOOPERATION level: 7\nTrust: 2";
        assert_eq!(found(r"cooperation.*?(\d+)", MetricKind::Integer, text), (json!(7), "ok".to_owned()));
        assert_eq!(found(r"\d+", MetricKind::Integer, text).0, json!(2), "without a group the whole match");
    }

    #[test]
    fn a_value_has_its_type_or_is_none() {
        assert_eq!(found(r"cost: ([\d.,]+)", MetricKind::Float, "Cost: 1,250.5.").0, json!(1250.5));
        assert_eq!(found(r"share: (\S+)", MetricKind::Float, "share: 40%").0, json!(40.0));
        assert_eq!(found(r"agreed: (\w+)", MetricKind::Boolean, "Agreed: Yes").0, json!(true));
        for (text, value) in
            [("1,250", 1250.0), ("12,345,678.5", 12345678.5), ("-.5", -0.5), ("\u{2212}3", -3.0), ("2e3", 2000.0)]
        {
            assert_eq!(found(r"v: (.+)", MetricKind::Float, &format!("v: {text}")).0, json!(value), "{text}");
        }
        for text in [
            "0,75", "1.250,50", "1,2,3", "0,750", "1,25", "1234,567", "1,,250", ",5", "1_000", "inf", "NaN", "0x10",
            "1e", "3 4", "½",
        ] {
            let expected = (Value::Null, "not_of_type".to_owned());
            assert_eq!(found(r"v: (.+)", MetricKind::Float, &format!("v: {text}")), expected, "{text}");
            assert_eq!(found(r"v: (.+)", MetricKind::Integer, &format!("v: {text}")), expected, "{text}");
        }
        assert_eq!(
            found(r"agreed: (\w+)", MetricKind::Boolean, "agreed: partly"),
            (Value::Null, "not_of_type".to_owned())
        );
        assert_eq!(found(r"n: (\S+)", MetricKind::Integer, "n: many"), (Value::Null, "not_of_type".to_owned()));
        assert_eq!(found(r"mood: (\w+)", MetricKind::String, "mood: calm").0, json!("calm"));
        assert_eq!(found(r"n: (\d+)", MetricKind::Integer, "nothing here"), (Value::Null, "not_found".to_owned()));
    }

    #[test]
    fn a_judge_answers_for_every_metric_in_its_type() {
        let mut measure = metric("x", MetricKind::Integer);
        measure.metric.extraction_method = Extraction::Judge;
        let all = [measure];
        let says = |value: Value| judged(value.as_object().unwrap(), &all);
        assert_eq!(says(json!({"m": 4.0})).unwrap()[0].1.value, json!(4));
        assert_eq!(says(json!({"m": null})).unwrap()[0].1.status, status::NOT_FOUND);
        assert!(says(json!({})).unwrap_err().what.contains("lacks `m`"));
        assert!(says(json!({"m": "four"})).unwrap_err().what.contains("not of its type"));
    }
}
