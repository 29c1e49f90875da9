//! What the tests of several crates share: [`fault_server`] answers like a provider's API and fails on demand, [`hub`] is an in-memory
//! Hugging Face Hub, [`interview`] is the smallest interview, [`process`] runs the program, [`paths`] finds files of the repository, [`keys`] finds an API key in any encoding.
//!
//! Depends on no crate of the workspace, so that a test of one crate builds no other.

pub mod fault_server;
pub mod hub;
pub mod interview;
pub mod keys;
pub mod paths;
pub mod process;
