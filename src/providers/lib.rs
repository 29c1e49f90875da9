//! Models behind an API: [`ApiModel`] implements the `Model` port over HTTP for the providers in [`PROVIDERS`].
//!
//! | file | |
//! |---|---|
//! | `profiles.rs` | one [`Provider`] row each: address, key, limits, accepted fields. A new provider goes here |
//! | `api_name.rs` | [`ApiName`]: `provider/model`, its rate-limit lane, and the requests it accepts |
//! | `codec/` | wire formats: OpenAI's chat completions, Anthropic's Messages, Gemini's `generateContent` |
//! | `http.rs` | one exchange, with time-outs and a size cap |
//! | `error.rs` | what went wrong, as a `failure::Class` |
//! | `retry_after.rs` | `Retry-After` and the other ways to ask for a wait |
//! | `prices.rs` | the price table, the cost of a call and its worst case |
//!
//! No retry happens here: one call is one attempt, and the scheduler decides what follows. No request is sent that the provider would
//! reject or partly ignore ([`tiltmeter_model::Model::check`]). No key leaves except in a header, and no reply or error that echoes a key
//! reaches the caller unscrubbed. No cost is a float: prices and costs are integers, and an unknown cost stays unknown.

mod api_model;
mod api_name;
mod codec;
mod error;
mod http;
mod prices;
mod profiles;
mod retry_after;

pub use api_model::{ApiModel, ApiOptions};
pub use api_name::ApiName;
pub use http::Timeouts;
pub use prices::{LongPrice, Price, PriceNote, price};
pub use profiles::{LanePreset, PROVIDERS, Provider};
