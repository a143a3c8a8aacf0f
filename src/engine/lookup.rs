//! The holder of a key, asked for once on behalf of all that want to know at the same time.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, Shared};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::base::{Base, closed};
use crate::clock::Timestamp;
use crate::error::BackendError;
use crate::info::Holder;

/// The holder of a key, if there is one. Every caller that wants to know has a clone; the server is asked by the keeper.
pub(crate) type Lookup = Shared<BoxFuture<'static, Result<Option<Holder>, BackendError>>>;

/// For how long an answer, or a question under way, is good for others as well.
pub(crate) const FRESH: Duration = Duration::from_millis(200);

/// How long a caller waits for an answer at most.
pub(super) const LONGEST: Duration = Duration::from_secs(1);

/// The last time that the server was asked about a key.
#[derive(Debug, Default)]
pub(super) struct LastLookup(Mutex<Option<(Timestamp, Lookup)>>);

impl LastLookup {
    /// Returns the last answer if it is fresh, else asks the server.
    pub(super) fn ask(&self, base: &Arc<Base>, key: &Arc<str>) -> Lookup {
        let now = base.now();
        let mut last = self.0.lock();
        if let Some((asked, lookup)) = &*last
            && now.since(*asked) < FRESH
        {
            return lookup.clone();
        }
        let (reply, answer) = oneshot::channel();
        let (asker, key) = (base.clone(), key.clone());
        base.keeper.spawn(async move {
            let _turn = asker.lookups.turn().await;
            if asker.now().since(now) > LONGEST {
                // Its callers have given up.
                return;
            }
            let found = asker.answer(asker.defaults.timeout, asker.backend.inspect(&key)).await;
            if found.is_ok() {
                asker.lookups.answered(asker.now());
            }
            // The callers may have gone.
            let _ = reply.send(found.map(|info| info.and_then(|info| info.holders.into_iter().next())));
        });
        let lookup = async move { answer.await.unwrap_or_else(|_| Err(closed())) }.boxed().shared();
        *last = Some((now, lookup.clone()));
        lookup
    }
}
