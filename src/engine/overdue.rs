//! Telling of holds and waits that last suspiciously long.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::Core;
use crate::arbiter::Overdue;
use crate::report::warn;

/// From when on.
const LONG: Duration = Duration::from_secs(60);
/// How often to look.
pub(super) const EVERY: Duration = Duration::from_secs(10);
/// How long the server has to say who holds the key.
const PATIENCE: Duration = Duration::from_secs(1);

impl Core {
    /// Logs each hold and each wait that has lasted for a minute, once.
    pub(super) fn tell_overdue(self: &Arc<Self>) {
        let now = self.now();
        for entry in self.entries_in_use() {
            let Overdue { held, waited, own } = entry.arbiter().overdue(LONG, now);
            let (name, key) = (self.defaults.name.as_ref(), entry.key.as_ref());
            if held {
                warn!(target: "leasehold", name = name, key = key; "{name}: lock {key:?} held for over {LONG:?}");
            }
            if waited {
                let (core, entry) = (self.clone(), entry.clone());
                self.keeper.spawn(async move {
                    let holder = match timeout(PATIENCE, core.look_up(&entry)).await {
                        Ok(Ok(Some(holder))) => format!("held by {holder}"),
                        Ok(Ok(None)) => "held by somebody unknown".to_owned(),
                        Ok(Err(error)) => error.to_string(),
                        Err(_) => core.no_answer(PATIENCE).to_string(),
                    };
                    let (name, key) = (core.defaults.name.as_ref(), entry.key.as_ref());
                    let own = if own { ", by another owner of the same task or thread" } else { "" };
                    warn!(target: "leasehold", name = name, key = key; "{name}: lock {key:?} has been waited for over {LONG:?}: {holder}{own}");
                });
            }
        }
    }
}
