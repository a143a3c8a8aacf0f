//! [`Signal`]: wakes all its listeners, once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use parking_lot::Mutex;

use crate::process::foreign;

/// A list of wakers. The event itself is stored elsewhere: store it first, then fire.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    listeners: Mutex<Listeners>,
    /// How many times it has fired, each of which has ended all registrations.
    fired: AtomicU64,
}

#[derive(Debug, Default)]
struct Listeners {
    last: u64,
    /// In the order of registration.
    wakers: BTreeMap<u64, Waker>,
}

/// A listener's place in the list.
#[derive(Debug, Default)]
pub(crate) struct Listener(Option<u64>);

impl Listener {
    /// Whether it is registered.
    pub(crate) fn is_set(&self) -> bool {
        self.0.is_some()
    }
}

impl Signal {
    /// Puts `waker` into the listener's place. Check for the event afterwards, not before.
    pub(crate) fn listen(&self, listener: &mut Listener, waker: &Waker) {
        // Clones and drops of a waker run foreign code, the end of a task for example, which may call this method.
        let mut waker = waker.clone();
        let mut listeners = self.listeners.lock();
        let known = listener.0.and_then(|id| listeners.wakers.get_mut(&id));
        match known {
            Some(kept) => std::mem::swap(kept, &mut waker),
            None => {
                listeners.last += 1;
                let id = listeners.last;
                listeners.wakers.insert(id, waker);
                listener.0 = Some(id);
                return;
            }
        }
        drop(listeners);
        foreign::drop_all([waker]);
    }

    /// Removes the listener.
    pub(crate) fn forget(&self, listener: &mut Listener) {
        if let Some(id) = listener.0.take() {
            let forgotten = self.listeners.lock().wakers.remove(&id);
            foreign::drop_all(forgotten);
        }
    }

    /// How many times it has fired.
    pub(crate) fn fired(&self) -> u64 {
        self.fired.load(Ordering::Acquire)
    }

    /// Wakes and removes all listeners.
    pub(crate) fn fire(&self) {
        let wakers = {
            let mut listeners = self.listeners.lock();
            self.fired.fetch_add(1, Ordering::Release);
            std::mem::take(&mut listeners.wakers)
        };
        wakers.into_values().for_each(foreign::wake);
    }
}
