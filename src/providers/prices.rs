//! Prices: the table, the cost of a call by its reported usage, and the most a request can cost before it is sent.
//!
//! All integers: a price is micro-dollars per million tokens, a cost is micro-dollars,
//! `ceil((input x price_in + output x price_out) / 10^6)`, rounded up once per call. The worst case takes one token per byte of text
//! (a byte-level tokenizer makes no more) plus the overhead of the chat format, and `max_new_tokens`, which includes thinking.

use super::api_name::ApiName;
use tiltmeter_model::ChatRequest;
use tiltmeter_model::problem::Problem;

/// Micro-dollars per million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Price {
    /// Per million tokens of the prompt.
    pub input: u64,
    /// Per million generated tokens, thinking included.
    pub output: u64,
    /// A higher price for the whole call when its prompt is long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long: Option<LongPrice>,
}

/// Micro-dollars per million tokens of a call with a long prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LongPrice {
    /// Applies to prompts of more tokens than this.
    pub above_tokens: u64,
    /// Per million tokens of the prompt.
    pub input: u64,
    /// Per million generated tokens.
    pub output: u64,
}

/// A price with its source, as recorded in the frozen plan.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PriceNote {
    /// The price.
    pub price: Price,
    /// The day the price was looked up, `YYYY-MM-DD`.
    pub date: String,
    /// Page on which the price was found.
    pub source: String,
}

impl Price {
    /// A model that costs nothing.
    pub const FREE: Price = Price { input: 0, output: 0, long: None };

    /// From US dollars per million tokens.
    ///
    /// # Errors
    /// A price that is negative, not finite, or above a million dollars.
    pub fn from_usd_per_million(input: f64, output: f64) -> Result<Self, Problem> {
        let micro = |name: &str, usd: f64| match usd {
            _ if usd.is_finite() && (0.0..=1e6).contains(&usd) => Ok((usd * 1e6).round() as u64),
            _ => Err(Problem::new(format!("{usd} is not a price for {name} tokens"))
                .hint("prices are US dollars per million tokens: 0 or more, such as 2.50")),
        };
        Ok(Self { input: micro("input", input)?, output: micro("output", output)?, long: None })
    }

    /// Cost of a call in micro-dollars, saturating.
    pub fn cost(&self, input_tokens: u64, output_tokens: u64) -> u64 {
        let (input, output) = match self.long {
            Some(long) if input_tokens > long.above_tokens => (long.input, long.output),
            _ => (self.input, self.output),
        };
        let product = |tokens: u64, price: u64| u128::from(tokens) * u128::from(price);
        let total = product(input_tokens, input).saturating_add(product(output_tokens, output));
        u64::try_from(total.div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }

    /// The most the request can cost, in micro-dollars; `None` if it sets no `max_new_tokens`.
    pub fn worst_case(&self, request: &ChatRequest) -> Option<u64> {
        Some(self.cost(request.most_input_tokens(), request.max_new_tokens? as u64))
    }
}

/// The table's price; `None` if the model is not in it, which a plan with a budget refuses.
pub fn price(name: &ApiName) -> Option<PriceNote> {
    if name.is_free() {
        let source = "OpenRouter: models named `:free` cost nothing".to_string();
        return Some(PriceNote { price: Price::FREE, date: FREE_SINCE.to_string(), source });
    }
    let wanted = if name.provider.is_gateway {
        // The maker's price applies. A gateway writes Anthropic's version numbers with dots.
        let model = name.model.replace("google/gemini", "gemini/gemini");
        if model.starts_with("anthropic/") { model.replace('.', "-") } else { model }
    } else {
        name.to_string()
    };
    let row = TABLE.iter().find(|row| {
        wanted.strip_prefix(row.model).is_some_and(|rest| rest.is_empty() || rest == "-latest" || is_version(rest))
    })?;
    Some(PriceNote { price: row.price, date: row.date.to_string(), source: row.source.to_string() })
}

/// `-2024-08-06`, `-20241022`, `-001`: a dated version of the same model.
fn is_version(rest: &str) -> bool {
    rest.len() >= 4 && rest.starts_with('-') && rest.chars().all(|c| c.is_ascii_digit() || c == '-')
}

struct Row {
    model: &'static str,
    price: Price,
    date: &'static str,
    source: &'static str,
}

const FREE_SINCE: &str = "2026-11-21";

const OPENAI: (&str, &str) =
    ("2026-03-21", "developers.openai.com/api/docs/pricing, standard tier, as copied by deploybase.ai");
const ANTHROPIC: (&str, &str) =
    ("2026-10-10", "platform.claude.com/docs/en/about-claude/pricing, as copied by docs.rs/synaps");
const GEMINI: (&str, &str) = ("2026-10-07", "ai.google.dev/gemini-api/docs/pricing, paid tier, text");

/// Input and output prices in 1/100,000 of a dollar per million tokens.
const fn row(model: &'static str, input: u64, output: u64, (date, source): (&'static str, &'static str)) -> Row {
    Row { model, price: Price { input: input * 10, output: output * 10, long: None }, date, source }
}

const fn long(mut row: Row, above_tokens: u64, input: u64, output: u64) -> Row {
    row.price.long = Some(LongPrice { above_tokens, input: input * 10, output: output * 10 });
    row
}

/// Standard prices, without discounts for cached input tokens.
const TABLE: &[Row] = &[
    row("openai/gpt-5.4", 250_000, 1_500_000, OPENAI),
    row("openai/gpt-5.1", 125_000, 1_000_000, OPENAI),
    row("openai/gpt-5", 125_000, 1_000_000, OPENAI),
    row("openai/gpt-5-mini", 25_000, 200_000, OPENAI),
    row("openai/gpt-5-nano", 5_000, 40_000, OPENAI),
    row("openai/gpt-4.1", 200_000, 800_000, OPENAI),
    row("openai/gpt-4.1-mini", 40_000, 160_000, OPENAI),
    row("openai/gpt-4.1-nano", 10_000, 40_000, OPENAI),
    row("openai/gpt-4o", 250_000, 1_000_000, OPENAI),
    row("openai/gpt-4o-mini", 15_000, 60_000, OPENAI),
    row("openai/o3", 200_000, 800_000, OPENAI),
    row("openai/o3-mini", 110_000, 440_000, OPENAI),
    row("openai/o4-mini", 110_000, 440_000, OPENAI),
    row("anthropic/claude-opus-5-5", 400_000, 2_000_000, ANTHROPIC),
    row("anthropic/claude-opus-5", 500_000, 2_500_000, ANTHROPIC),
    row("anthropic/claude-opus-4-8", 500_000, 2_500_000, ANTHROPIC),
    row("anthropic/claude-opus-4-7", 500_000, 2_500_000, ANTHROPIC),
    row("anthropic/claude-opus-4-6", 500_000, 2_500_000, ANTHROPIC),
    row("anthropic/claude-opus-4-5", 500_000, 2_500_000, ANTHROPIC),
    row("anthropic/claude-opus-4-1", 1_500_000, 7_500_000, ANTHROPIC),
    row("anthropic/claude-opus-4", 1_500_000, 7_500_000, ANTHROPIC),
    row("anthropic/claude-sonnet-5-5", 200_000, 1_000_000, ANTHROPIC),
    row("anthropic/claude-sonnet-5", 200_000, 1_000_000, ANTHROPIC),
    row("anthropic/claude-sonnet-4-6", 300_000, 1_500_000, ANTHROPIC),
    row("anthropic/claude-sonnet-4-5", 300_000, 1_500_000, ANTHROPIC),
    row("anthropic/claude-sonnet-4", 300_000, 1_500_000, ANTHROPIC),
    long(row("anthropic/claude-haiku-5-5", 10_000, 50_000, ANTHROPIC), 100_000, 50_000, 250_000),
    row("anthropic/claude-haiku-4-5", 100_000, 500_000, ANTHROPIC),
    row("anthropic/claude-3-5-haiku", 80_000, 400_000, ANTHROPIC),
    row("anthropic/claude-3-opus", 1_500_000, 7_500_000, ANTHROPIC),
    row("anthropic/claude-3-haiku", 25_000, 125_000, ANTHROPIC),
    row("gemini/gemini-3.5-flash", 150_000, 900_000, GEMINI),
    row("gemini/gemini-3.5-flash-lite", 30_000, 250_000, GEMINI),
    long(row("gemini/gemini-3.1-pro-preview", 200_000, 1_200_000, GEMINI), 200_000, 400_000, 1_800_000),
    long(row("gemini/gemini-2.5-pro", 125_000, 1_000_000, GEMINI), 200_000, 250_000, 1_500_000),
    row("gemini/gemini-2.5-flash", 30_000, 250_000, GEMINI),
    row("gemini/gemini-2.5-flash-lite", 10_000, 40_000, GEMINI),
    row("gemini/gemini-2.0-flash", 10_000, 40_000, GEMINI),
];

#[cfg(test)]
mod tests {
    use super::*;
    use tiltmeter_model::{Message, Role};

    fn of(name: &str) -> Option<Price> {
        price(&ApiName::parse(name)?).map(|note| note.price)
    }

    #[test]
    fn only_an_exact_name_or_a_dated_version_is_priced() {
        assert_eq!(of("openai/gpt-4o"), Price::from_usd_per_million(2.5, 10.0).ok());
        assert_eq!(of("openai/gpt-4o-2024-08-06"), of("openai/gpt-4o"));
        assert_eq!(of("openai/gpt-4o-mini-2024-07-18"), Price::from_usd_per_million(0.15, 0.6).ok());
        assert_eq!(of("anthropic/claude-opus-4-20250514"), Price::from_usd_per_million(15.0, 75.0).ok());
        assert_eq!(of("anthropic/claude-opus-4-9"), None);
        assert_eq!(of("openrouter/anthropic/claude-sonnet-4.5"), of("anthropic/claude-sonnet-4-5"));
        assert_eq!(of("openrouter/google/gemini-2.5-flash"), of("gemini/gemini-2.5-flash"));
        assert_eq!(of("openrouter/qwen/qwen3-8b:free"), Some(Price::FREE));
        for unpriced in
            ["openai/gpt-4o-audio-preview", "openrouter/qwen/qwen3-8b", "openai-compatible/x", "goodfire/meta/x"]
        {
            assert_eq!(of(unpriced), None, "{unpriced}");
        }
        assert!(TABLE.iter().all(|row| ApiName::parse(row.model).is_some() && row.price.output >= row.price.input));
    }

    #[test]
    fn costs_are_whole_micro_dollars_rounded_up_once() {
        let price = Price::from_usd_per_million(0.15, 0.6).unwrap();
        assert_eq!(price.cost(0, 0), 0);
        assert_eq!(price.cost(1, 0), 1);
        assert_eq!(price.cost(1_000_000, 1_000_000), 750_000);
        assert_eq!(price.cost(7, 3), 3); // 1.05 + 1.8 = 2.85
        assert_eq!(Price::from_usd_per_million(1e6, 1e6).unwrap().cost(u64::MAX, u64::MAX), u64::MAX);
        let long = of("gemini/gemini-2.5-pro").unwrap();
        assert_eq!((long.cost(200_000, 0), long.cost(200_001, 0)), (250_000, 500_003));
        for wrong in [-1.0, f64::NAN, f64::INFINITY, 2e6] {
            assert!(Price::from_usd_per_million(wrong, 1.0).is_err());
        }
    }

    #[test]
    fn the_worst_case_needs_max_new_tokens_and_counts_every_byte() {
        let mut request = ChatRequest::new(vec![Message::new(Role::User, "é".repeat(100))]);
        let price = Price::from_usd_per_million(1.0, 10.0).unwrap();
        assert_eq!(price.worst_case(&request), None);
        request.max_new_tokens = Some(50);
        assert_eq!(price.worst_case(&request), Some(200 + 16 + 64 + 500));
        request.response_schema = Some(serde_json::json!({}));
        assert_eq!(price.worst_case(&request), Some(200 + 16 + 64 + 1024 + 2 + 500));
    }
}
