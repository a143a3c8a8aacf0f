//! When waiters look by themselves: one call a second for all that a manager waits for, unless something is sooner.

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The next look that is planned.
#[derive(Debug, Default)]
pub(super) struct Looks {
    plan: Mutex<Plan>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Plan {
    next: Option<Instant>,
    /// Everyone is to look, because messages may have been lost.
    all: bool,
}

impl Looks {
    /// Plans a look.
    pub(super) fn plan(&self, at: Instant) {
        let mut plan = self.plan.lock();
        if plan.next.is_none_or(|next| at < next) {
            plan.next = Some(at);
            drop(plan);
            self.changed.notify_one();
        }
    }

    /// Everyone is to look now.
    pub(super) fn at_all(&self) {
        self.plan.lock().all = true;
        self.changed.notify_one();
    }

    /// Waits until it is time. Returns whether everyone is to look. What comes after is to be [planned](Self::plan) anew.
    pub(super) async fn due(&self) -> bool {
        loop {
            let next = {
                let mut plan = self.plan.lock();
                let due = plan.next.is_some_and(|next| next <= Instant::now());
                if due || plan.all {
                    plan.next = None;
                    return std::mem::take(&mut plan.all);
                }
                plan.next
            };
            let timer = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = timer => {}
                () = self.changed.notified() => {}
            }
        }
    }
}
