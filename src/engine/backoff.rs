//! Pauses between tries, and the end of an outage, which cuts them short.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, Shared, WeakShared, select};
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use super::Core;

/// How long to wait before the next try: 0.1 s, doubling to 5 s.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self(Duration::from_millis(100))
    }

    /// Pauses, but not beyond the end of an outage.
    pub(crate) async fn pause(&mut self, core: &Arc<Core>) {
        select(pin!(sleep(self.0)), core.recovery()).await;
        self.0 = (self.0 * 2).min(Duration::from_secs(5));
    }
}

/// How soon a server answers that is there.
const QUICK: Duration = Duration::from_millis(250);
/// How long one question to a server that was silent may hang.
const PATIENCE: Duration = Duration::from_secs(1);

type Recovery = Shared<BoxFuture<'static, ()>>;

/// The look at a server that does not answer, which all who pause at the same time share.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<Option<WeakShared<BoxFuture<'static, ()>>>>);

impl Core {
    fn recovery(self: &Arc<Self>) -> Recovery {
        let mut known = self.outage.0.lock();
        if let Some(going) = known.as_ref().and_then(WeakShared::upgrade).filter(|going| going.peek().is_none()) {
            return going;
        }
        let core = self.clone();
        let recovery = async move { core.answers_again().await }.boxed().shared();
        *known = recovery.downgrade();
        recovery
    }

    /// Ends when the server answers after it did not. One that answers all along fails for another reason, and the pause spares it.
    async fn answers_again(&self) {
        let mut silent = false;
        loop {
            let patience = if silent { PATIENCE } else { QUICK };
            match timeout(patience, self.backend.ping()).await {
                Ok(Ok(())) if silent => return,
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => silent = true,
            }
            sleep(QUICK).await;
        }
    }
}
