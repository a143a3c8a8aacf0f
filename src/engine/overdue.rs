//! Telling of holds and waits that last suspiciously long.

use std::sync::Arc;
use std::time::Duration;

use super::Core;
use crate::Holder;
use crate::arbiter::Overdue;
use crate::report::warn;

/// From when on.
const LONG: Duration = Duration::from_secs(60);
/// How often to look.
pub(super) const EVERY: Duration = Duration::from_secs(10);

impl Core {
    /// Logs each hold and each wait that has lasted for a minute, once.
    pub(super) fn tell_overdue(self: &Arc<Self>) {
        let now = self.now();
        for entry in self.entries_in_use() {
            let Overdue { held, waited, own } = entry.arbiter().overdue(LONG, now);
            let (name, key) = (self.defaults.name.as_ref(), entry.key.as_ref());
            if held {
                warn!(target: "leasehold", name = name, key = key; "held for over {LONG:?}");
            }
            if waited {
                let (core, key) = (self.clone(), entry.key.clone());
                self.keeper.spawn(async move {
                    let holder = core.holder_of(&key).await;
                    let holder = holder.as_ref().map_or_else(|| "somebody unknown".to_owned(), Holder::to_string);
                    warn!(
                        target: "leasehold", name = core.defaults.name.as_ref(), key = key.as_ref();
                        "waited for over {LONG:?}, held by {holder}{}", if own { ", by another owner of the same task or thread" } else { "" }
                    );
                });
            }
        }
    }

    /// Who holds the key: this process, or whoever the backend knows of.
    pub(crate) async fn holder_of(self: &Arc<Self>, key: &str) -> Option<Holder> {
        let held_here = self.entry(key).arbiter().is_held(self.now());
        if held_here {
            return Some((*self.holder).clone());
        }
        self.backend.inspect(key).await.ok().flatten().and_then(|info| info.holders.into_iter().next())
    }
}
