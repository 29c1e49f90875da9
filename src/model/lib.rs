//! The port between experiments and models: every model, local or behind an API, implements [`Model`].
//!
//! Main types: [`Model`] in `model.rs`; [`Message`], [`ChatRequest`] and [`ChatReply`]; [`Sampling`] and [`SeedKey`]; [`ProbePlan`], what to measure while
//! generating, and [`Readout`], the result; [`Site`], a point of the residual stream; [`Axis`] and [`AxisFile`], a direction and its file;
//! [`ModelError`] and [`Failure`], a classified error of a provider; [`Problem`], an error as the user sees it; [`Keys`] and [`Scrubber`].
//!
//! No crate of the workspace is a dependency of this one. No type here depends on a tensor library, an HTTP client or an experiment. No
//! key can be printed or serialised. No error reaches a user except as a [`Problem`].

pub mod failure;
pub mod input;
pub mod probe;
pub mod problem;
pub mod secret;

mod card;
mod chat;
mod error;
mod model;
mod scripted;

pub use card::{EngineStats, ModelCard};
pub use chat::{
    ChatReply, ChatRequest, ConversationId, Finish, Group, Message, ReadReply, ReadRequest, Rendered, Role, Sampling,
    SeedKey, SeedSupport, Usage,
};
pub use error::ModelError;
pub use failure::{Class, Failure};
pub use model::Model;
pub use probe::{
    Axis, AxisFile, AxisOrigin, AxisStats, LayerConvention, Probe, ProbePlan, ProbeReadout, Readout, Site, SiteAxis,
    SiteVector, Span,
};
pub use problem::Problem;
pub use scripted::ScriptedModel;
pub use secret::{ApiKey, Keys, Scrubber};
