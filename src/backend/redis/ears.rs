//! Ears: by which a manager is notified of the next change of a lock.
//!
//! An ear is a member of the lock's queue, before all waiters, which the next script removes that changes the holders of the lock, or adds
//! a waiter. That script sends one message, so a slow listener costs nothing, and what nobody listens to costs no more than without ears.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// What an ear listens for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A change of the holders.
    Holders,
    /// A new waiter.
    Waiters,
}

/// The ears of one manager.
#[derive(Debug, Default)]
pub(super) struct Ears(Mutex<HashMap<u64, Arc<Notify>, foldhash::fast::RandomState>>);

impl Ears {
    /// An ear was notified.
    pub(super) fn ring(&self, id: u64) {
        if let Some(ear) = self.0.lock().get(&id) {
            ear.notify_one();
        }
    }

    /// Messages may have been lost, or ears removed: each looks again.
    pub(super) fn ring_all(&self) {
        self.0.lock().values().for_each(|ear| ear.notify_one());
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.lock().len()
    }
}

/// An ear of this manager. It need not be on the server.
#[derive(Debug)]
pub(super) struct Ear {
    ears: Arc<Ears>,
    id: u64,
    /// Its name on the server.
    pub(super) member: Arc<str>,
    rung: Arc<Notify>,
}

impl Ear {
    pub(super) fn new(ears: &Arc<Ears>, kind: Kind, manager: u64) -> Self {
        let (id, rung) = (rand::random(), Arc::<Notify>::default());
        let kind = match kind {
            Kind::Holders => 'o',
            Kind::Waiters => 'w',
        };
        let member = format!("{kind}:{manager:016x}:{id:016x}").into();
        ears.0.lock().insert(id, rung.clone());
        Self { ears: ears.clone(), id, member, rung }
    }

    /// Waits until it was notified since the last call.
    pub(super) async fn rung(&self) {
        self.rung.notified().await;
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.ears.0.lock().remove(&self.id);
    }
}
