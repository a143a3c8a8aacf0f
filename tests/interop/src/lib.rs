//! Clients of other libraries for the tests, each in a separate process.

pub mod client;
