//! What tests with other clients' locks need: those clients, each in a process of its own.

pub mod client;
