//! A claim of this manager, from the lock of its byte until that is unlocked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

use super::error::failed;
use super::key::KeyFile;
use super::life::Life;
use super::peers::Peers;
use super::release::leave;
use super::ticket::{Place, micros};
use crate::backend::{AttemptId, Result};
use crate::info::Mode;

/// A claim in the queue of a key.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) attempt: AttemptId,
    pub(super) key: Arc<KeyFile>,
    pub(super) place: Place,
    pub(super) mode: Mode,
    pub(super) life: Arc<Life>,
    pub(super) wake: Arc<Notify>,
    peers: Arc<Peers>,
    /// The time of the grant, in microseconds since the start of the system; zero before it.
    granted: AtomicU64,
    has_left: AtomicBool,
}

impl Placed {
    /// Takes a place in the queue, of which nobody knows yet whether it is the last one.
    pub(super) fn take(
        attempt: AttemptId,
        key: &Arc<KeyFile>,
        (ticket, mode): (u64, Mode),
        life: &Arc<Life>,
        peers: &Arc<Peers>,
        wake: &Arc<Notify>,
    ) -> Result<Self> {
        let place = key.place(ticket, life.name.slot, mode, wake)?;
        let (key, life, peers, wake) = (key.clone(), life.clone(), peers.clone(), wake.clone());
        let (granted, has_left) = (AtomicU64::new(0), AtomicBool::new(false));
        Ok(Self { attempt, key, place, mode, life, wake, peers, granted, has_left })
    }

    /// Leaves the queue, and wakes those behind. Only the first call has an effect.
    pub(super) fn leave(&self) {
        // In a fork, the unlock would end the parent's hold.
        if self.has_left.swap(true, Ordering::AcqRel) || self.life.is_forked() {
            return;
        }
        // The next epoch must be a greater one.
        let granted = self.granted.load(Ordering::Acquire);
        while micros() <= granted {
            std::hint::spin_loop();
        }
        leave(&self.key, &self.peers, self.place, self.mode);
    }

    pub(super) fn has_left(&self) -> bool {
        self.has_left.load(Ordering::Acquire)
    }

    /// Notes that it holds the key.
    pub(super) fn grant(&self, micros: u64) {
        self.granted.store(micros, Ordering::Release);
    }

    pub(super) fn is_granted(&self) -> bool {
        self.granted.load(Ordering::Acquire) > 0
    }

    /// Whether it has become void while its lease is alive: its key's file was removed, or it was evicted.
    pub(super) fn is_void(&self) -> Result<bool> {
        let state = self.key.state()?;
        Ok(!state.has_name || (state.is_marked && self.has_mark()?))
    }

    /// Whether a mark voids it.
    pub(super) fn has_mark(&self) -> Result<bool> {
        let mark = self.life.name.mark(self.key.inode, self.place);
        let mark = self.key.directory.marks.stat(&mark);
        Ok(mark.map_err(|error| failed("look for a mark", error))?.is_some())
    }

    /// Removes the mark of a claim that has left.
    pub(super) fn remove_mark(&self) {
        let _ = self.key.directory.marks.remove(&self.life.name.mark(self.key.inode, self.place));
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.leave();
    }
}
