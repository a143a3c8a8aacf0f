//! Losses: how a hold is found to be lost, and the events that report it.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::answers;
use super::attempt::Attempt;
use super::release::Releases;
use super::router::Router;
use super::scripts::Op;
use crate::backend::events::Events;
use crate::backend::{Event, HEAD_START};
use crate::process::report::debug;

#[derive(Debug)]
pub(super) struct Losses {
    router: Arc<Router>,
    releases: Releases,
    handle: Handle,
    events: Events,
}

impl Losses {
    pub(super) fn new(router: Arc<Router>, releases: Releases, handle: Handle) -> Arc<Self> {
        Arc::new(Self { router, releases, handle, events: Events::default() })
    }

    /// Waits for the next loss.
    pub(super) async fn next(&self) -> Event {
        self.events.next().await
    }

    /// Checks an attempt after a message that it was evicted. Anyone can send such a message, so a grant that can be renewed goes on,
    /// and one that is no longer wanted is left alone.
    pub(super) fn check(self: &Arc<Self>, attempt: Arc<Attempt>) {
        // One check for all messages that come meanwhile.
        let Some(mut epoch) = attempt.begin_check() else { return };
        let losses = self.clone();
        self.handle.spawn(async move {
            loop {
                let renewal = losses.router.request_one(Op::Renew(attempt.clone(), epoch)).await;
                // After an error nothing is known: the deadline decides.
                let is_lost = renewal.is_ok_and(|answer| answers::text(&answer) == Some("0"));
                if is_lost && attempt.is_granted(epoch) {
                    return losses.lose(&attempt);
                }
                match attempt.end_check() {
                    Some(again) => epoch = again,
                    None => return,
                }
            }
        });
    }

    /// Reports that an attempt has lost its hold, or may have, and cleans up what is left of it on the server.
    pub(super) fn lose(&self, attempt: &Arc<Attempt>) {
        self.events.push(Event::ClaimLost(attempt.id));
        attempt.give_up();
        let (releases, attempt) = (self.releases.clone(), attempt.clone());
        self.handle.spawn(async move {
            // The hold may still be valid on the server, if the answer to a renewal was lost: its holder must be notified before
            // another client can acquire the lock.
            tokio::time::sleep(HEAD_START).await;
            if let Err(error) = releases.withdraw(&attempt).await {
                debug!(target: "leasehold::redis", "not cleaned up: {error}");
                releases.forget(&attempt);
            }
        });
    }
}
