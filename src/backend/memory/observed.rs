//! The keys whose changes are observed.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::wakes::Wakes;

/// The observed keys. Any change of a key's claims is reported.
#[derive(Debug, Default)]
pub(super) struct Observed(HashMap<Arc<str>, watch::Sender<()>, foldhash::fast::RandomState>);

impl Observed {
    pub(super) fn subscribe(&mut self, key: &str) -> watch::Receiver<()> {
        self.0.entry(key.into()).or_default().subscribe()
    }

    /// Forgets a key that has no receivers any more.
    pub(super) fn forget(&mut self, key: &str) {
        if self.0.get(key).is_some_and(|sender| sender.receiver_count() == 0) {
            self.0.remove(key);
        }
    }

    pub(super) fn changed(&self, key: &str, wakes: &mut Wakes) {
        if !self.0.is_empty()
            && let Some(sender) = self.0.get(key)
        {
            wakes.changed(sender.clone());
        }
    }
}
