//! Pauses between tries, which end early at the end of an outage.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, Shared, WeakShared, select};
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use crate::backend::Backend;
use crate::backend::backoff::Backoff;

/// The time within which a server that is up answers.
const QUICK: Duration = Duration::from_millis(250);
/// The timeout of one check of a server that was silent.
const PATIENCE: Duration = Duration::from_secs(1);

/// The check of a server that does not answer, shared by all concurrent pauses.
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

/// Completes when the server answers after it did not. If it answers all along, the failure has another cause, and the pause is not
/// ended.
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
