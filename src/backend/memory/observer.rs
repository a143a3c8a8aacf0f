//! Waiting for changes of a key.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::store::Store;
use crate::backend::Grant;
use crate::info::LockInfo;

/// One observer of a key.
#[derive(Debug)]
pub(super) struct Observer {
    store: Arc<Store>,
    key: Arc<str>,
    changes: Option<watch::Receiver<()>>,
}

impl Observer {
    pub(super) fn new(store: &Arc<Store>, key: &str) -> Self {
        let mut changes = store.subscribe(key);
        // The present state is new.
        changes.mark_changed();
        Self { store: store.clone(), key: key.into(), changes: Some(changes) }
    }

    /// Waits until the key may have changed since the last call.
    async fn changed(&mut self) {
        let Some(changes) = &mut self.changes else { return };
        loop {
            // There is no background task: a lease ends when a call finds it expired, so an observer makes such calls.
            let ended = self.store.next_end(&self.key).unwrap_or(Duration::from_secs(3600)) + Duration::from_millis(1);
            // The sender lives as long as this receiver.
            if timeout(ended, changes.changed()).await.is_ok() {
                return;
            }
            self.store.purge();
        }
    }

    /// The state of the key once it may have changed.
    pub(super) async fn next(&mut self) -> Option<LockInfo> {
        self.changed().await;
        self.store.inspect(&self.key)
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.changes = None;
        self.store.unsubscribe(&self.key);
    }
}

/// Waits until a claim waits for the key of a grant. False if the grant no longer exists.
pub(super) async fn wait_until_wanted(store: &Arc<Store>, grant: &Grant) -> bool {
    let mut observer = Observer::new(store, &grant.key);
    loop {
        observer.changed().await;
        match store.is_wanted(&grant.key, grant.lease.id, grant.attempt) {
            Some(true) => return true,
            Some(false) => {}
            None => return false,
        }
    }
}
