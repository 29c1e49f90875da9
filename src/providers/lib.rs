//! Owns models behind an API: `ApiModel` answers the port over HTTP. One call, one attempt: what fails is sorted into
//! `failure::Class`, and whoever called decides what follows.
//! Must not know: candle, runs, experiments, retries.

// What is asked of whom.
mod name;
mod codec;

// How it gets there, and what comes instead of a reply.
mod http;
mod retry_after;
mod error;

// What it costs.
mod prices;
mod lanes;

pub use http::Timeouts;
pub use lanes::{LanePreset, lane_name, lane_preset};
pub use name::{Provider, ProviderName, parse_name};
pub use prices::{LongPrice, Price, PriceNote, price};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use codec::{BadReply, Completion};
use tiltmeter_model::failure::Failure;
use tiltmeter_model::problem::Problem;
use tiltmeter_model::secret::{ApiKey, Keys, Scrubber};
use tiltmeter_model::{
    ChatReply, ChatRequest, Finish, Message, Model, ModelCard, ModelError, Role, SeedSupport, Usage,
};

/// What may be set for one model; the default is the provider's own address and the table's price.
#[derive(Clone, Debug)]
pub struct ApiOptions {
    /// `http://127.0.0.1:8080/v1`; without the last part of the path.
    pub base_url: Option<String>,
    pub timeouts: Timeouts,
    /// Longest reply that is read.
    pub max_response_bytes: usize,
    /// Instead of the table's.
    pub price: Option<Price>,
    /// Only asked what it would take and cost: it needs no key, and sends nothing.
    pub for_plan: bool,
}

impl Default for ApiOptions {
    fn default() -> Self {
        let timeouts = Timeouts::default();
        Self { base_url: None, timeouts, max_response_bytes: 8 << 20, price: None, for_plan: false }
    }
}

pub struct ApiModel {
    card: ModelCard,
    name: ProviderName,
    url: reqwest::Url,
    /// With the key, marked as sensitive.
    headers: HeaderMap,
    client: reqwest::Client,
    options: ApiOptions,
    price: Option<Price>,
    scrubber: Scrubber,
}

impl ApiModel {
    /// Checks name, key and address; sends nothing.
    pub fn open(name: &str, keys: &Keys, options: ApiOptions) -> Result<Self, Problem> {
        let name = parse_name(name).ok_or_else(|| {
            let known = Provider::ALL.map(Provider::prefix).join(", ");
            Problem::new(format!("`{name}` is not the name of a provider's model"))
                .hint(format!("write provider/model; providers are {known}"))
        })?;
        let key = if options.for_plan { None } else { key_for(keys, name.provider)? };
        let (url, local) = address(&name, options.base_url.as_deref(), key.is_some())?;
        let headers = headers(name.provider, key.as_ref())?;
        let client = http::client(&options.timeouts, local).map_err(|why| {
            Problem::new(format!("no HTTPS on this machine: {why}"))
                .hint("are the system's root certificates installed?")
        })?;
        let card = ModelCard { name: name.to_string(), family: name.provider.prefix().into(), ..ModelCard::default() };
        let price = options.price.or_else(|| price(&name).map(|note| note.price));
        let scrubber = keys.scrubber();
        Ok(Self { card, name, url, headers, client, options, price, scrubber })
    }

    pub fn name(&self) -> &ProviderName {
        &self.name
    }

    /// `None`: unpriced. Then replies say they cost nothing, which is for the plan to forbid under a budget.
    pub fn price(&self) -> Option<Price> {
        self.price
    }

    async fn attempt(&self, request: &ChatRequest) -> Result<ChatReply, Failure> {
        let provider = self.name.provider;
        let body = codec::body(&self.name, request).to_string();
        let post = self.client.post(self.url.clone()).headers(self.headers.clone()).body(body).build();
        let post =
            post.map_err(|error| error::broken(provider, http::Broken::Impossible(error.without_url().to_string())))?;
        let answer = http::exchange(&self.client, post, &self.options.timeouts, self.options.max_response_bytes)
            .await
            .map_err(|broken| error::broken(provider, broken))?;

        let status = answer.status.as_u16();
        if !answer.status.is_success() {
            if error::is_filter(provider, status, &answer.body) {
                return Ok(self.reply(request, filtered()));
            }
            return Err(error::refused(provider, status, &answer.headers, &answer.body, &self.scrubber));
        }
        let json: Value = serde_json::from_slice(&answer.body).map_err(|error| {
            // A reply that broke off was generated, and paid for, all the same: its cost stays unknown.
            let what = if answer.body.is_empty() { "it is empty".to_string() } else { format!("not JSON: {error}") };
            error::unreadable(provider, status, &what, &answer.body, &self.scrubber)
        })?;
        match codec::read(provider, &json) {
            Ok(said) => Ok(self.reply(request, said)),
            Err(BadReply::Refused { status: inner, error }) => {
                let body = serde_json::json!({ "error": error }).to_string();
                let Some(inner) = inner else {
                    return Err(error::unreadable(
                        provider,
                        status,
                        "it holds an error",
                        body.as_bytes(),
                        &self.scrubber,
                    ));
                };
                if error::is_filter(provider, inner, body.as_bytes()) {
                    return Ok(self.reply(request, filtered()));
                }
                // The outside said success: something may have been generated before it failed.
                let failure = error::refused(provider, inner, &answer.headers, body.as_bytes(), &self.scrubber);
                Err(Failure { cost_micro_usd: None, ..failure })
            }
            Err(BadReply::Unreadable { what, usage }) => {
                let mut failure = error::unreadable(provider, status, &what, &answer.body, &self.scrubber);
                failure.cost_micro_usd =
                    self.price.zip(usage).map(|(price, used)| price.cost(used.prompt, used.completion));
                Err(failure)
            }
        }
    }

    fn reply(&self, request: &ChatRequest, said: Completion) -> ChatReply {
        // A reply without a usable count was paid for too: the most it can have cost is what is booked.
        let counted = said.usage.map(|used| self.price.map_or(0, |price| price.cost(used.prompt, used.completion)));
        let most = || self.worst_case_micro_usd(request).unwrap_or(0);
        let cost = said.billed_micro_usd.or(counted).unwrap_or_else(most);
        ChatReply {
            // A server may echo what it was sent, headers included.
            message: Message::new(Role::Assistant, self.scrubber.scrub(&said.text)),
            token_ids: Vec::new(),
            finish: said.finish,
            usage: Usage {
                prompt_tokens: said.usage.map_or(0, |used| used.prompt),
                completion_tokens: said.usage.map_or(0, |used| used.completion),
                // Micro-dollars below 2^53 pass through a double unharmed.
                cost_usd: cost as f64 / 1e6,
            },
            reused_tokens: 0,
            readout: None,
            version: said.version.map(|version| self.scrubber.scrub(&version).into_owned()),
        }
    }
}

#[async_trait::async_trait]
impl Model for ApiModel {
    fn card(&self) -> &ModelCard {
        &self.card
    }

    fn check(&self, request: &ChatRequest) -> Result<(), Problem> {
        codec::check(&self.name, request)
    }

    fn worst_case_micro_usd(&self, request: &ChatRequest) -> Option<u64> {
        match self.price? {
            Price::FREE => Some(0),
            price => price.worst_case(request),
        }
    }

    fn seed_support(&self) -> SeedSupport {
        self.name.provider.seed_support()
    }

    async fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ModelError> {
        self.check(request).map_err(ModelError::Refused)?;
        if self.options.for_plan {
            return Err(ModelError::Refused(Problem::new(format!(
                "{} was opened for a plan and sends nothing",
                self.name
            ))));
        }
        self.attempt(request).await.map_err(|mut failure| {
            failure.problem = self.scrubber.scrub_problem(failure.problem);
            ModelError::Call(Box::new(failure))
        })
    }
}

/// The key for a provider; `None` only where the provider asks for none.
///
/// # Errors
/// No key where one is needed; what cannot be a key.
pub fn key_for(keys: &Keys, provider: Provider) -> Result<Option<ApiKey>, Problem> {
    let variable = provider.key_variable();
    match keys.usable(variable)? {
        None if provider.needs_key() => {
            Err(Problem::new(format!("{variable} is not set: {} needs it", provider.title()))
                .hint(format!("set it in the environment or write `{variable}=...` into .env")))
        }
        key => Ok(key),
    }
}

/// A prompt the provider would not let through: nothing was generated.
fn filtered() -> Completion {
    let usage = Some(codec::Counted { prompt: 0, completion: 0 });
    Completion { text: String::new(), finish: Finish::ContentFilter, usage, billed_micro_usd: Some(0), version: None }
}

/// The whole address, and whether it is on this machine.
fn address(name: &ProviderName, base: Option<&str>, keyed: bool) -> Result<(reqwest::Url, bool), Problem> {
    let Some(base) = base.or(name.provider.default_base_url()) else {
        return Err(Problem::new(format!("{name} needs base_url: where does it answer?"))
            .hint("set base_url, such as http://127.0.0.1:8080/v1"));
    };
    // The address itself is not shown in these: a key may have been put into it.
    let wrong = |what: &str| {
        Err(Problem::new(format!("base_url of {name} {what}")).hint("write it like http://127.0.0.1:8080/v1"))
    };
    let Ok(url) = reqwest::Url::parse(&format!("{}{}", base.trim_end_matches('/'), codec::path(name))) else {
        return wrong("is not an address");
    };
    if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
        return wrong("is not an http or https address");
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return wrong("holds more than an address: keys go into headers only");
    }
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_string();
    let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if keyed && url.scheme() == "http" && !local {
        return wrong("would send the key unencrypted over the network: use https");
    }
    Ok((url, local))
}

fn headers(provider: Provider, key: Option<&ApiKey>) -> Result<HeaderMap, Problem> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if provider == Provider::Anthropic {
        headers.insert("anthropic-version", HeaderValue::from_static(codec::anthropic::VERSION));
    }
    let Some(key) = key else { return Ok(headers) };
    let (name, value) = match provider {
        Provider::Anthropic => (HeaderName::from_static("x-api-key"), key.reveal().to_string()),
        Provider::Gemini => (HeaderName::from_static("x-goog-api-key"), key.reveal().to_string()),
        _ => (AUTHORIZATION, format!("Bearer {}", key.reveal())),
    };
    let mut value = HeaderValue::try_from(value).map_err(|_| {
        Problem::new(format!("{} cannot stand in a header", provider.key_variable())).hint("copy the key again")
    })?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(headers)
}
