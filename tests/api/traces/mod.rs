//! What a subscriber of `tracing` sees: lines as events, each once, and the spans of waits and holds.

mod lines;
mod recorded;
mod spans;
