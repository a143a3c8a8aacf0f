//! Who holds a key, asked once for all who want to know at the same time.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, Shared, ready};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::leases::closed;
use super::{Core, Entry};
use crate::Holder;
use crate::backend::BackendError;
use crate::clock::Timestamp;

/// The holder of a key, if there is one. Whoever wants to know has a clone; the server is asked by the keeper.
pub(crate) type Lookup = Shared<BoxFuture<'static, Result<Option<Holder>, BackendError>>>;

/// For how long an answer, or a question under way, is good for others as well.
pub(crate) const FRESH: Duration = Duration::from_millis(200);

/// The last time that the server was asked.
#[derive(Debug, Default)]
pub(super) struct LastLookup(Mutex<Option<(Timestamp, Lookup)>>);

impl Core {
    /// Finds out who holds the key: this process, or whoever the backend knows of.
    pub(crate) fn look_up(self: &Arc<Self>, entry: &Arc<Entry>) -> Lookup {
        let now = self.now();
        if entry.arbiter().is_held(now) {
            return ready(Ok(Some((*self.holder).clone()))).boxed().shared();
        }
        let mut last = entry.last_lookup.0.lock();
        if let Some((asked, lookup)) = &*last
            && now.since(*asked) < FRESH
        {
            return lookup.clone();
        }
        let (reply, answer) = oneshot::channel();
        let (core, key) = (self.clone(), entry.key.clone());
        self.keeper.spawn(async move {
            let limit = core.defaults.timeout;
            let found = timeout(limit, core.backend.inspect(&key)).await.unwrap_or_else(|_| Err(core.no_answer(limit)));
            // Nobody waits any more only if it does not matter.
            let _ = reply.send(found.map(|info| info.and_then(|info| info.holders.into_iter().next())));
        });
        let lookup = async move { answer.await.unwrap_or_else(|_| Err(closed())) }.boxed().shared();
        *last = Some((now, lookup.clone()));
        lookup
    }
}
