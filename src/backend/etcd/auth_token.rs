//! The token that identifies the user to the server.

use std::sync::atomic::{AtomicU64, Ordering};

use etcd_client::Client;
use tokio::sync::Mutex;

/// The renewals of the token, which requests that find it stale share: each costs the server a tenth of a second.
#[derive(Debug, Default)]
pub(super) struct Token {
    renewals: AtomicU64,
    renewing: Mutex<()>,
}

impl Token {
    /// Returns how many times the token was renewed.
    pub(super) fn generation(&self) -> u64 {
        self.renewals.load(Ordering::Acquire)
    }

    /// Replaces the token of this generation, unless another request has done so, and returns whether there is a new one. If this
    /// fails, the next request fails too, and its error says why.
    pub(super) async fn renew(&self, client: Client, generation: u64) -> bool {
        let _alone = self.renewing.lock().await;
        if self.generation() == generation {
            if client.refresh_token().await.is_err() {
                return false;
            }
            self.renewals.fetch_add(1, Ordering::AcqRel);
        }
        true
    }
}
