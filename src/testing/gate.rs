//! [`Gate`]: stops calls between a link and its store.

use std::pin::pin;
use std::sync::Arc;

use futures::future::{BoxFuture, Either, select};
use tokio::sync::watch;

/// A gate between a link and its store. While it is closed, neither requests nor answers pass.
#[derive(Clone, Debug)]
pub(super) struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub(super) fn open() -> Self {
        Self(Arc::new(watch::Sender::new(true)))
    }

    pub(super) fn set_open(&self, open: bool) {
        self.0.send_replace(open);
    }

    pub(super) fn is_open(&self) -> bool {
        *self.0.borrow()
    }

    async fn until(&self, open: bool) {
        // Fails only without a sender, and that is in `self`.
        let _ = self.0.subscribe().wait_for(|now| *now == open).await;
    }

    /// Polls `call` while the gate is open.
    pub(super) async fn pass<T>(&self, mut call: BoxFuture<'_, T>) -> T {
        loop {
            self.until(true).await;
            match select(pin!(self.until(false)), call).await {
                Either::Left(((), unfinished)) => call = unfinished,
                Either::Right((answer, _)) => return answer,
            }
        }
    }
}
