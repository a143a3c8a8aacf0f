//! Waiting for changes of a key.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::Memory;
use super::store::Store;
use crate::backend::{Grant, Result};
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
    pub(super) async fn changed(&mut self) {
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
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.changes = None;
        self.store.unsubscribe(&self.key);
    }
}

impl Memory {
    /// The state of a key once it may have changed.
    pub(super) async fn next_state(&self, observer: &mut Observer) -> Result<Option<LockInfo>> {
        observer.changed().await;
        Ok(self.store()?.inspect(&observer.key))
    }

    pub(super) async fn wait_until_wanted(&self, grant: &Grant) -> Result<()> {
        let mut observer = Observer::new(&self.store, &grant.key);
        loop {
            observer.changed().await;
            match self.store()?.is_wanted(&grant.key, grant.lease.id, grant.attempt) {
                Some(true) => return Ok(()),
                Some(false) => {}
                None => return Err(super::lost()),
            }
        }
    }
}
