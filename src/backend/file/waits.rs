//! The claims of this manager that wait, and their messages.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::ticket::Place;

/// The claims that wait, by the file of their key and their place.
#[derive(Debug, Default)]
pub(super) struct Waits(Mutex<HashMap<(u64, Place), Arc<Notify>, foldhash::fast::RandomState>>);

impl Waits {
    /// Delivers messages for a place until the returned value is dropped.
    pub(super) fn listen(self: &Arc<Self>, inode: u64, place: Place, wake: &Arc<Notify>) -> Listening {
        self.0.lock().insert((inode, place), wake.clone());
        Listening { waits: self.clone(), of: (inode, place) }
    }

    pub(super) fn wake(&self, inode: u64, place: Place) {
        let wake = self.0.lock().get(&(inode, place)).cloned();
        if let Some(wake) = wake {
            wake.notify_one();
        }
    }

    pub(super) fn wake_all(&self) {
        let all: Vec<_> = self.0.lock().values().cloned().collect();
        all.iter().for_each(|wake| wake.notify_one());
    }
}

pub(super) struct Listening {
    waits: Arc<Waits>,
    of: (u64, Place),
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.waits.0.lock().remove(&self.of);
    }
}
