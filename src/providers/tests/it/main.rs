//! Tests of the API clients against a server that fails on demand.

mod provider;
