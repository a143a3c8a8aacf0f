//! Many locks, long queues, large values, and times that are promised: tests that need the machine for themselves, so they go one after
//! another.

mod crowd;
mod mass_loss;
mod scale;
mod sizes;
mod taken;

/// Held by the test whose turn it is.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
