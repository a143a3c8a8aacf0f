//! One manager at work: the parts that its handles, requests and guards share.
//!
//! Imports go one way: `base` ← `cleanup` ← `sessions` ← `hold` ← `keys` ← this file ← everything that works with the whole.

pub(crate) mod acquire;
pub(crate) mod acquire_all;
mod asked_renewals;
mod background;
mod base;
mod cleanup;
mod close;
mod drop_wait;
mod early_losses;
mod handle;
mod hold;
mod keys;
mod leases;
mod lifecycle;
mod lookup;
mod lookup_gate;
mod losses;
mod observing;
mod options;
mod outage;
mod overdue;
mod recovery;
mod release;
mod releasing;
mod renewals;
mod sessions;
mod share;
mod slow_log;
mod spans;
mod stats;
mod wanted;

use std::sync::Arc;

#[cfg(all(feature = "file", target_os = "linux"))]
pub(crate) use self::base::name;
pub(crate) use self::base::{Base, WithinKeeper};
use self::cleanup::Cleanup;
pub(crate) use self::close::close;
use self::early_losses::EarlyLosses;
pub(crate) use self::handle::EngineHandle;
pub(crate) use self::hold::{HeldGrant, Hold};
pub(crate) use self::keys::{Entry, Keys};
pub(crate) use self::observing::Observation;
pub(crate) use self::options::RequestOptions;
pub(crate) use self::renewals::renew;
use self::sessions::Sessions;
pub(crate) use self::share::Share;
pub use self::stats::{Histogram, Losses, Stats};

/// One manager. Background work holds it; users hold an [`EngineHandle`].
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) base: Arc<Base>,
    pub(crate) cleanup: Arc<Cleanup>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) keys: Arc<Keys>,
    early_losses: EarlyLosses,
}

impl Engine {
    fn new(base: Arc<Base>) -> Arc<Self> {
        let cleanup = Cleanup::new(base.clone());
        Arc::new(Self {
            sessions: Sessions::new(base.clone(), cleanup.clone()),
            keys: Keys::new(base.clone()),
            early_losses: EarlyLosses::default(),
            cleanup,
            base,
        })
    }

    /// Returns the manager's counters.
    pub(crate) fn stats(&self) -> Stats {
        let now = self.base.now();
        // A forked child uses no keys, and the map's mutex may stay locked for ever there.
        let entries = if self.base.is_forked() { Vec::new() } else { self.keys.all() };
        Stats {
            held: entries.iter().filter(|entry| entry.arbiter().is_held(now)).count() as u64,
            waiting: entries.iter().map(|entry| entry.arbiter().waiting() as u64).sum(),
            keys: entries.len() as u64,
            ..self.base.counters.read()
        }
    }
}
