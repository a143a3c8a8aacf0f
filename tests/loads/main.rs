//! Many locks, long queues, large values, and documented times: tests that need the whole machine, so they run one after
//! another.

mod crowd;
mod mass_loss;
mod scale;
mod sizes;
mod slots;
mod taken;
mod watching;

/// Held by the running test.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
