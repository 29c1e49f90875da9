//! [`ApiModel`]: the `Model` port over HTTP. One `chat` is one attempt.

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use crate::api_name::ApiName;
use crate::codec::{BadReply, Completion, TokenCounts};
use crate::error;
use crate::http::{self, Timeouts, TransportError};
use crate::prices::{Price, price};
use crate::profiles::{Auth, PROVIDERS, Provider};
use tiltmeter_model::failure::Failure;
use tiltmeter_model::problem::Problem;
use tiltmeter_model::secret::{ApiKey, Keys, Scrubber, check_address};
use tiltmeter_model::{
    ChatReply, ChatRequest, Finish, Message, Model, ModelCard, ModelError, Role, SeedSupport, Usage,
};

/// Settings of one model. The default is the provider's own address and the table's price.
#[derive(Clone, Debug)]
pub struct ApiOptions {
    /// The address up to the API version, such as `http://127.0.0.1:8080/v1`.
    pub base_url: Option<String>,
    /// Limits on the time of a call.
    pub timeouts: Timeouts,
    /// Longest body that is read.
    pub max_response_bytes: usize,
    /// Overrides the table's price.
    pub price: Option<Price>,
    /// For planning only: needs no key and sends nothing.
    pub for_plan: bool,
}

impl Default for ApiOptions {
    fn default() -> Self {
        let timeouts = Timeouts::default();
        Self { base_url: None, timeouts, max_response_bytes: 8 << 20, price: None, for_plan: false }
    }
}

/// A model behind an API.
pub struct ApiModel {
    card: ModelCard,
    name: ApiName,
    url: reqwest::Url,
    /// Including the key, marked as sensitive.
    headers: HeaderMap,
    client: reqwest::Client,
    options: ApiOptions,
    price: Option<Price>,
    scrubber: Scrubber,
}

impl ApiModel {
    /// Checks name, key and address; sends nothing.
    ///
    /// # Errors
    /// An unknown provider, a missing or unusable key, an invalid `base_url`, or a key that would be sent unencrypted.
    pub fn open(name: &str, keys: &Keys, options: ApiOptions) -> Result<Self, Problem> {
        let name = ApiName::parse(name).ok_or_else(|| {
            let known = PROVIDERS.each_ref().map(|provider| provider.prefix).join(", ");
            Problem::new(format!("`{name}` is not a model of a known provider"))
                .hint(format!("write provider/model; providers are {known}"))
        })?;
        let key = if options.for_plan { None } else { key_for(keys, name.provider)? };
        let (url, local) = address(&name, options.base_url.as_deref(), key.is_some())?;
        let headers = headers(name.provider, key.as_ref())?;
        let client = http::client(&options.timeouts, local).map_err(|why| {
            Problem::new(format!("HTTPS is not available: {why}")).hint("install the system's root certificates")
        })?;
        let card = ModelCard { name: name.to_string(), family: name.provider.prefix.into(), ..ModelCard::default() };
        let price = options.price.or_else(|| price(&name).map(|note| note.price));
        let scrubber = keys.scrubber();
        Ok(Self { card, name, url, headers, client, options, price, scrubber })
    }

    /// Provider and model.
    pub fn name(&self) -> &ApiName {
        &self.name
    }

    /// `None`: unpriced. Replies then report a cost of 0; a plan with a budget refuses such a model.
    pub fn price(&self) -> Option<Price> {
        self.price
    }

    async fn attempt(&self, request: &ChatRequest) -> Result<ChatReply, Failure> {
        let provider = self.name.provider;
        let body = provider.codec.encode(&self.name.model, request).to_string();
        let request_error = |error: reqwest::Error| TransportError::InvalidRequest(error.without_url().to_string());
        let post = self.client.post(self.url.clone()).headers(self.headers.clone()).body(body).build();
        let post = post.map_err(|error| error::from_transport(provider, request_error(error)))?;
        let raw = http::exchange(&self.client, post, &self.options.timeouts, self.options.max_response_bytes)
            .await
            .map_err(|error| error::from_transport(provider, error))?;

        let status = raw.status.as_u16();
        let malformed = |what: &str, body: &[u8]| error::malformed(provider, status, what, body, &self.scrubber);
        if !raw.status.is_success() {
            if error::is_content_filter(status, &raw.body) {
                return Ok(self.reply(request, filtered()));
            }
            return Err(error::from_status(provider, status, &raw.headers, &raw.body, &self.scrubber));
        }
        // A truncated reply was generated and billed: its cost is unknown.
        let json: Value = serde_json::from_slice(&raw.body).map_err(|error| match raw.body.as_slice() {
            [] => malformed("the body is empty", &[]),
            body => malformed(&format!("not JSON: {error}"), body),
        })?;
        match provider.codec.decode(&json) {
            Ok(completion) => Ok(self.reply(request, completion)),
            Err(BadReply::Error { status: inner, error }) => {
                let body = serde_json::json!({ "error": error }).to_string().into_bytes();
                match inner {
                    None => Err(malformed("it contains an error", &body)),
                    Some(inner) if error::is_content_filter(inner, &body) => Ok(self.reply(request, filtered())),
                    // Part of a reply may have been generated before the error.
                    Some(inner) => Err(Failure {
                        cost_micro_usd: None,
                        ..error::from_status(provider, inner, &raw.headers, &body, &self.scrubber)
                    }),
                }
            }
            Err(BadReply::Malformed { what, usage }) => {
                let cost = self.price.zip(usage).map(|(price, used)| price.cost(used.prompt, used.completion));
                Err(Failure { cost_micro_usd: cost, ..malformed(&what, &raw.body) })
            }
        }
    }

    fn reply(&self, request: &ChatRequest, completion: Completion) -> ChatReply {
        let usage = completion.usage;
        let counted = usage.map(|used| self.price.map_or(0, |price| price.cost(used.prompt, used.completion)));
        // Without usable counts, the worst case is booked.
        let worst = || self.worst_case_micro_usd(request).unwrap_or(0);
        let cost = completion.billed_micro_usd.or(counted).unwrap_or_else(worst);
        ChatReply {
            // A server may echo the request, headers included.
            message: Message::new(Role::Assistant, self.scrubber.scrub(&completion.text)),
            token_ids: Vec::new(),
            finish: completion.finish,
            usage: Usage {
                prompt_tokens: usage.map_or(0, |used| used.prompt),
                completion_tokens: usage.map_or(0, |used| used.completion),
                // f64 is exact for micro-dollars below 2^53.
                cost_usd: cost as f64 / 1e6,
            },
            reused_tokens: 0,
            readout: None,
            version: completion.version.map(|version| self.scrubber.scrub(&version).into_owned()),
        }
    }
}

#[async_trait::async_trait]
impl Model for ApiModel {
    fn card(&self) -> &ModelCard {
        &self.card
    }

    fn check(&self, request: &ChatRequest) -> Result<(), Problem> {
        self.name.check(request)
    }

    fn worst_case_micro_usd(&self, request: &ChatRequest) -> Option<u64> {
        match self.price? {
            Price::FREE => Some(0),
            price => price.worst_case(request),
        }
    }

    fn seed_support(&self) -> SeedSupport {
        self.name.provider.seed_support
    }

    async fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ModelError> {
        self.check(request).map_err(ModelError::Refused)?;
        if self.options.for_plan {
            return Err(ModelError::Refused(Problem::new(format!(
                "{} was opened for planning and sends no requests",
                self.name
            ))));
        }
        self.attempt(request).await.map_err(|mut failure| {
            failure.problem = self.scrubber.scrub_problem(failure.problem);
            ModelError::Call(Box::new(failure))
        })
    }
}

/// The API key; `None` only if the provider does not require one.
fn key_for(keys: &Keys, provider: &Provider) -> Result<Option<ApiKey>, Problem> {
    let variable = provider.key_variable;
    match keys.usable(variable)? {
        None if provider.needs_key => {
            Err(Problem::new(format!("{variable} is not set: {} requires it", provider.title))
                .hint(format!("set it in the environment or write `{variable}=...` into .env")))
        }
        key => Ok(key),
    }
}

/// A prompt rejected by the provider's filter; nothing was generated.
fn filtered() -> Completion {
    let usage = Some(TokenCounts { prompt: 0, completion: 0 });
    Completion { text: String::new(), finish: Finish::ContentFilter, usage, billed_micro_usd: Some(0), version: None }
}

/// The URL of a call, and whether it is on this machine.
fn address(name: &ApiName, base: Option<&str>, keyed: bool) -> Result<(reqwest::Url, bool), Problem> {
    let Some(base) = base.or(name.provider.base_url) else {
        return Err(Problem::new(format!("{name} needs base_url, the address of its server"))
            .hint("set base_url, such as http://127.0.0.1:8080/v1"));
    };
    let url = format!("{}{}", base.trim_end_matches('/'), name.provider.codec.path(&name.model));
    check_address(&url, keyed).map_err(|what| {
        Problem::new(format!("base_url of {name} {what}")).hint("write it like http://127.0.0.1:8080/v1")
    })
}

fn headers(provider: &Provider, key: Option<&ApiKey>) -> Result<HeaderMap, Problem> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for &(name, value) in provider.headers {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let Some(key) = key else { return Ok(headers) };
    let (name, value) = match provider.auth {
        Auth::Bearer => (AUTHORIZATION, format!("Bearer {}", key.reveal())),
        Auth::Header(name) => (HeaderName::from_static(name), key.reveal().to_owned()),
    };
    let mut value = HeaderValue::try_from(value).map_err(|_| {
        Problem::new(format!("{} cannot be sent in a header", provider.key_variable)).hint("copy the key again")
    })?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(headers)
}
