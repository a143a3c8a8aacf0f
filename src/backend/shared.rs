//! Connections that the managers of this process share if their settings are equal.

use std::future::Future;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::runtime;

/// Shared values, found by the runtime that drives them and by their settings, which are compared by value.
///
/// The runtime is part of the key because the runtime of a keeper that has ended, or of a parent process, drives nothing here.
#[derive(Debug)]
pub(super) struct Pool<K, V>(Mutex<Vec<(runtime::Id, K, Slot<V>)>>);

type Slot<V> = Arc<tokio::sync::Mutex<Weak<V>>>;

impl<K: Eq, V> Pool<K, V> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Returns the value that is already in use; otherwise calls `open`, once for all concurrent callers. If that fails, the next
    /// caller calls its own `open`. The value is dropped with its last user.
    pub(super) async fn get<E>(
        &self,
        runtime: runtime::Id,
        key: K,
        open: impl Future<Output = Result<Arc<V>, E>>,
    ) -> Result<Arc<V>, E> {
        let slot = self.slot(runtime, key);
        let mut known = slot.lock().await;
        if let Some(shared) = known.upgrade() {
            return Ok(shared);
        }
        let opened = open.await?;
        *known = Arc::downgrade(&opened);
        Ok(opened)
    }

    fn slot(&self, runtime: runtime::Id, key: K) -> Slot<V> {
        let mut slots = self.0.lock();
        // Removes the slots that are neither in use nor about to be.
        slots.retain(|(.., slot)| {
            Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|known| known.strong_count() > 0)
        });
        if let Some((.., slot)) = slots.iter().find(|(of, known, _)| *of == runtime && *known == key) {
            return slot.clone();
        }
        let slot = Slot::default();
        slots.push((runtime, key, slot.clone()));
        slot
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::future::join_all;

    use super::*;

    fn id() -> runtime::Id {
        runtime::Handle::current().id()
    }

    #[tokio::test]
    async fn equal_settings_open_once_and_the_value_ends_with_its_last_user() {
        let pool = Pool::new();
        let opened = Mutex::new(0);
        let open = async || {
            tokio::task::yield_now().await;
            *opened.lock() += 1;
            Ok::<_, Infallible>(Arc::new(()))
        };
        let users = join_all((0..100).map(|n| pool.get(id(), n % 2, open()))).await;
        assert_eq!(*opened.lock(), 2);
        drop(users);
        pool.get(id(), 0, open()).await.unwrap();
        assert_eq!((*opened.lock(), pool.0.lock().len()), (3, 1), "the other value is removed");
    }

    #[tokio::test]
    async fn a_caller_after_a_failure_opens_again() {
        let pool = Pool::new();
        let failing = pool.get(id(), 0, async { Err("away") });
        let working = pool.get(id(), 0, async { Ok::<_, Infallible>(Arc::new(7)) });
        let (first, second) = tokio::join!(failing, working);
        assert_eq!((first, second.map(|found| *found)), (Err("away"), Ok(7)));
    }

    #[test]
    fn values_of_another_runtime_are_not_shared() {
        let pool = Pool::new();
        let run = |value| {
            let runtime = runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async { pool.get::<Infallible>(id(), 0, async { Ok(Arc::new(value)) }).await.unwrap() })
        };
        assert_eq!((*run(1), *run(2)), (1, 2));
        let (first, second) = (run(1), run(2));
        assert_eq!((*first, *second), (1, 2));
    }
}
