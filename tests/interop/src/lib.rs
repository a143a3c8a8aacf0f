//! What tests with other clients' locks need: those clients, each in a process of its own.

#![allow(clippy::unwrap_used, clippy::panic, clippy::new_without_default, reason = "how a test fails")]

pub mod client;
#[path = "../../support/mod.rs"]
pub mod support;
