//! The end of a wait: what is known by then of who holds the key.

use std::pin::pin;
use std::sync::OnceLock;
use std::time::Duration;

use futures::future::{Either, select};

use super::{Acquired, Begun, Waiter};
use crate::backend::{Queueing, Wait};
use crate::engine::lookup::{LONGEST, Lookup};
use crate::error::{BackendError, LockError};
use crate::info::Holder;

/// How long tries that have not claimed wait for each other before a lookup.
const TOGETHER: Duration = Duration::from_millis(50);

impl Waiter {
    /// Waits for at most `limit`, and looks up the holder of the key meanwhile.
    pub(super) async fn run_within(mut self, limit: Duration, begun: Begun) -> Acquired {
        let (entry, asked, tries, queueing) =
            (self.entry.clone(), self.asked, self.options.tries, self.queueing.clone());
        let found = OnceLock::new();
        // The lookup begins before the timeout, so that it does not delay the error.
        let lead = match (tries, &queueing) {
            (false, _) => (limit / 2).min(LONGEST),
            (true, Some(_)) => limit / 2,
            // A try that has not claimed needs the answer. Those that begin together share one.
            (true, None) => limit - (limit / 4).min(TOGETHER),
        };
        {
            let mut acquire = pin!(self.acquire(begun));
            if let Either::Left((acquired, _)) = select(acquire.as_mut(), pin!(tokio::time::sleep(limit - lead))).await
            {
                return acquired;
            }
            let look_up = async {
                if !tries || queueing.and_then(|queueing| queueing.took()).is_none() {
                    let _ = found.set(entry.look_up(asked).await);
                }
                std::future::pending::<()>().await;
            };
            let (mut look_up, mut rest) = (pin!(look_up), pin!(tokio::time::sleep(lead)));
            let until = select(look_up.as_mut(), rest.as_mut());
            if let Either::Left((acquired, _)) = select(acquire.as_mut(), until).await {
                return acquired;
            }
        }
        Err(self.timed_out(limit, lead, found.into_inner()))
    }

    /// The timeout error. `found` is the holder of the key, if the server answered within `lead`.
    fn timed_out(&mut self, limit: Duration, lead: Duration, found: Option<<Lookup as Future>::Output>) -> LockError {
        let base = self.base().clone();
        let was_held = self.was_held(&found);
        // A wrong password, for example, may appear in the renewals only.
        let trouble = self.engine.sessions.failure(self.options.terms.ttl).or(self.trouble.take());
        let outage = || base.backend.outage();
        if self.wait == Wait::Never || (self.options.tries && !was_held) {
            let error = outage().or(trouble).unwrap_or_else(|| base.no_answer(limit));
            return LockError::backend(Some(&self.entry.key), "try_lock", error);
        }
        base.counters.timed_out();
        let (holder, source): (Option<Holder>, Option<BackendError>) = match found {
            Some(Ok(Some(holder))) => (Some(holder), None),
            Some(Ok(None)) => (None, trouble),
            Some(Err(error)) => (None, outage().or(trouble).or(Some(error))),
            None => {
                // Neither a short time nor a slow network nor a lookup that had to queue proves that the server is silent.
                let is_slow = self.queueing.as_ref().and_then(Queueing::took).is_some_and(|took| took > lead / 8);
                let silent = lead == LONGEST && !is_slow && !base.lookups.was_answered_since(base.now() - lead);
                (None, outage().or(trouble).or(silent.then(|| base.no_answer(lead))))
            }
        };
        let own = self.entry.arbiter().is_held_beside(&self.owner);
        LockError::Timeout { key: self.entry.key.to_string(), after: limit, holder, own, source: source.map(Box::new) }
    }

    /// Whether another client is known to have held the key since this one asked for it. `found` is its holder now.
    fn was_held(&self, found: &Option<<Lookup as Future>::Output>) -> bool {
        let base = self.base();
        let is_queued = self.queueing.as_ref().and_then(Queueing::took).is_some();
        let was_held_here = self.was_held || self.entry.arbiter().was_granted_since(self.asked);
        // Once it has claimed, this process may be what the server names.
        let is_other = |holder: &Holder| self.queueing.is_none() || *holder != *base.holder;
        is_queued || was_held_here || matches!(found, Some(Ok(Some(holder))) if is_other(holder))
    }
}
