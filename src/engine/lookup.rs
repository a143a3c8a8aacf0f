//! Lookups of the holder of a key, one for all concurrent callers.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, Shared};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::base::{Base, closed};
use crate::clock::Timestamp;
use crate::error::BackendError;
use crate::info::Holder;

/// The holder of a key, if there is one. Each caller has a clone; the keeper sends the request.
pub(crate) type Lookup = Shared<BoxFuture<'static, Result<Option<Holder>, BackendError>>>;

/// The time for which an answer, or a request in flight, is shared with later callers.
const FRESH: Duration = Duration::from_millis(200);

/// The longest wait for an answer.
pub(crate) const LONGEST: Duration = Duration::from_secs(1);

/// The last lookup for a key.
#[derive(Debug, Default)]
pub(super) struct LastLookup(Mutex<Option<(Timestamp, Lookup)>>);

impl LastLookup {
    /// Returns the last lookup if it is fresh, and not from before `since`; otherwise starts one.
    pub(super) fn ask(&self, base: &Arc<Base>, key: &Arc<str>, since: Timestamp) -> Lookup {
        let now = base.now();
        let mut last = self.0.lock();
        if let Some((asked, lookup)) = &*last
            && now.since(*asked) < FRESH
            && *asked >= since
        {
            return lookup.clone();
        }
        let (reply, answer) = oneshot::channel();
        let (asker, key) = (base.clone(), key.clone());
        base.keeper.spawn(async move {
            let _turn = asker.lookups.turn().await;
            if asker.now().since(now) > LONGEST {
                // Its callers do not wait any more.
                return;
            }
            let found = asker.answer(asker.defaults.timeout, asker.backend.inspect(&key)).await;
            if found.is_ok() {
                asker.lookups.answered(asker.now());
            }
            // The callers may not wait any more.
            let _ = reply.send(found.map(|info| info.and_then(|info| info.holders.into_iter().next())));
        });
        let lookup = async move { answer.await.unwrap_or_else(|_| Err(closed())) }.boxed().shared();
        *last = Some((now, lookup.clone()));
        lookup
    }
}
