//! Grants that are valid for a short time only, because they were handed over by a message: they are confirmed in the background.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::attempt::Attempt;
use super::losses::Losses;
use super::router::Router;
use crate::backend::{Clock, ErrorKind, Limit};

/// The age at which a grant is confirmed. Shorter holds are not worth it.
const AGE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Confirmations {
    /// The unconfirmed grants, oldest first, with the time at which to confirm each.
    unconfirmed: Mutex<VecDeque<(Instant, Arc<Attempt>)>>,
    /// Notified when the queue is no longer empty.
    added: Notify,
    clock: Arc<dyn Clock>,
    router: Arc<Router>,
    losses: Arc<Losses>,
    handle: Handle,
}

impl Confirmations {
    pub(super) fn new(clock: Arc<dyn Clock>, router: Arc<Router>, losses: Arc<Losses>, handle: Handle) -> Arc<Self> {
        Arc::new(Self { unconfirmed: Mutex::default(), added: Notify::new(), clock, router, losses, handle })
    }

    pub(super) fn add(&self, attempt: &Arc<Attempt>) {
        let mut unconfirmed = self.unconfirmed.lock();
        unconfirmed.push_back((Instant::now() + AGE.min(attempt.ttl / 8), attempt.clone()));
        if unconfirmed.len() == 1 {
            self.added.notify_one();
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.unconfirmed.lock().front().map(|(due, _)| *due)
    }

    fn take_due(&self) -> Vec<Arc<Attempt>> {
        let (mut due, now) = (Vec::new(), Instant::now());
        let mut unconfirmed = self.unconfirmed.lock();
        while unconfirmed.front().is_some_and(|(at, _)| *at <= now) {
            due.extend(unconfirmed.pop_front().map(|(_, attempt)| attempt));
        }
        due
    }

    /// Confirms grants without end. Sleeps while there are none.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            self.added.notified().await;
            while let Some(due) = self.next_due() {
                tokio::time::sleep_until(due).await;
                for attempt in self.take_due() {
                    if let (Some(epoch), Some(limit)) = (attempt.held(), attempt.limit()) {
                        self.handle.spawn(self.clone().confirm(attempt, epoch, limit));
                    }
                }
            }
        }
    }

    /// Confirms one grant, which is lost if that does not succeed in time.
    async fn confirm(self: Arc<Self>, attempt: Arc<Attempt>, epoch: u64, limit: Limit) {
        loop {
            let left = limit.until().since(self.clock.now());
            if left.is_zero() {
                break;
            }
            let begun = self.clock.now();
            match tokio::time::timeout(left, self.router.renew(&attempt, epoch)).await {
                Ok(Ok(true)) => {
                    if attempt.confirmed(begun) {
                        return;
                    }
                }
                Ok(Ok(false)) => break,
                Ok(Err(error)) if error.kind() == ErrorKind::Closed => return,
                Ok(Err(_)) => tokio::time::sleep(left.min(AGE)).await,
                Err(_) => {}
            }
        }
        if attempt.held().is_some() {
            self.losses.lose(&attempt);
        }
    }
}
