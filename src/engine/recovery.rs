//! Pauses between tries, which the end of an outage cuts short.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, Shared, WeakShared, select};
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use crate::backend::Backend;
use crate::backend::backoff::Backoff;

/// How soon a server answers that is there.
const QUICK: Duration = Duration::from_millis(250);
/// How long one question to a server that was silent may hang.
const PATIENCE: Duration = Duration::from_secs(1);

/// The check of a server that does not answer, which all that pause at the same time share.
#[derive(Debug)]
pub(crate) struct Recovery {
    backend: Arc<dyn Backend>,
    check: Mutex<Option<WeakShared<BoxFuture<'static, ()>>>>,
}

impl Recovery {
    pub(super) fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend, check: Mutex::default() }
    }

    /// Pauses for the next delay, but not beyond the end of an outage.
    pub(super) async fn pause(&self, backoff: &mut Backoff) {
        select(pin!(sleep(backoff.delay())), self.recovery()).await;
    }

    fn recovery(&self) -> Shared<BoxFuture<'static, ()>> {
        let mut known = self.check.lock();
        if let Some(going) = known.as_ref().and_then(WeakShared::upgrade).filter(|going| going.peek().is_none()) {
            return going;
        }
        let check = answers_again(self.backend.clone()).boxed().shared();
        *known = check.downgrade();
        check
    }
}

/// Ends when the server answers after it did not. One that answers all along fails for another reason, and the pause spares it.
async fn answers_again(backend: Arc<dyn Backend>) {
    let mut silent = false;
    loop {
        let patience = if silent { PATIENCE } else { QUICK };
        match timeout(patience, backend.ping()).await {
            Ok(Ok(())) if silent => return,
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => silent = true,
        }
        sleep(QUICK).await;
    }
}
