//! How a claim comes to hold its key.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Notify;

use super::claim::Placed;
use super::error::lost;
use super::key::KeyFile;
use super::keys::Keys;
use super::leases::{Leases, OwnLease};
use super::locks::Sees;
use super::peers::{Peer, Peers};
use super::queue::{Before, join, look};
use super::site::Sites;
use super::ticket::{Place, micros};
use super::waits::Waits;
use crate::backend::{Claim, Grant, Result, Timestamp, Wait};
use crate::info::Mode;
use crate::process::blocking;

/// How often a waiter looks in any case.
const LOOK: Duration = Duration::from_secs(5);

/// Acquires locks.
#[derive(Debug)]
pub(super) struct Acquirer {
    pub(super) sites: Arc<Sites>,
    pub(super) keys: Arc<Keys>,
    pub(super) leases: Arc<Leases>,
    pub(super) waits: Arc<Waits>,
}

/// How often a claim that does not wait looks again at one that is undecided, and the pause before each look.
const TRIES: (u32, Duration) = (200, Duration::from_millis(1));

/// What a look of a claim has come to.
enum Turn {
    Granted(Grant),
    Waits(Before),
    /// The file of the key was removed: the queue goes on in another one.
    Moves,
}

impl Acquirer {
    /// Acquires without a wait, and without work on paths. `None` if that cannot be.
    pub(super) fn acquire_now(&self, claim: &Claim, wait: Wait) -> Option<Result<Option<Grant>>> {
        let lease = self.leases.get(claim.lease.id)?;
        let peers = self.peers(&lease).ok()?;
        let file = self.keys.of(claim).opened(&lease.life.directory)?;
        let turn = match wait {
            Wait::Never => self.attempt(claim, &lease, &peers, &file),
            Wait::UntilGranted if has_none(&file, claim.mode) => self.enter(claim, &lease, &peers, &file),
            // A call that may wait finds out what is there.
            Wait::UntilGranted => return None,
        };
        match (turn, wait) {
            (Ok(Turn::Granted(grant)), _) => Some(Ok(Some(grant))),
            (Ok(Turn::Waits(before)), Wait::Never) if !before.is_undecided(&file) => Some(Ok(None)),
            // A call that may take a moment finds out more.
            _ => None,
        }
    }

    pub(super) async fn acquire(&self, claim: &Claim, wait: Wait) -> Result<Option<Grant>> {
        let lease = self.leases.get(claim.lease.id).ok_or_else(lost)?;
        let peers = self.peers(&lease)?;
        let key = self.keys.of(claim);
        if wait == Wait::Never {
            for _ in 0..TRIES.0 {
                let file = key.open(&self.sites, &lease.life.directory).await?;
                match self.attempt(claim, &lease, &peers, &file)? {
                    Turn::Granted(grant) => return Ok(Some(grant)),
                    Turn::Waits(before) if !before.is_undecided(&file) => return Ok(None),
                    Turn::Waits(_) => tokio::time::sleep(TRIES.1).await,
                    Turn::Moves => key.forget(&file),
                }
            }
            return Ok(None);
        }
        let (wake, mut ticket) = (Arc::new(Notify::new()), None);
        loop {
            let file = key.open(&self.sites, &lease.life.directory).await?;
            let placed = join(claim.attempt, &file, claim.mode, &lease.life, &peers, &wake, ticket)?;
            ticket = Some(placed.place.ticket());
            let placed = Leaving(Some(Arc::new(placed)), &lease);
            if let Some(grant) = self.wait(claim, &lease, &peers, placed).await? {
                return Ok(Some(grant));
            }
            key.forget(&file);
        }
    }

    fn peers(&self, lease: &OwnLease) -> Result<Arc<Peers>> {
        let peers = self.sites.current()?.peers.clone();
        // A lease of the directory before this one.
        if Arc::ptr_eq(&peers.directory, &lease.life.directory) { Ok(peers) } else { Err(lost()) }
    }

    /// Takes the key if it is free. Joins its queue only then, so that others do not see an attempt that cannot succeed.
    fn attempt(&self, claim: &Claim, lease: &Arc<OwnLease>, peers: &Arc<Peers>, file: &Arc<KeyFile>) -> Result<Turn> {
        let state = file.state()?;
        if !state.has_name {
            return Ok(Turn::Moves);
        }
        match look(file, peers, Place::at(i64::MAX), claim.mode, state)? {
            Before::Nothing => {}
            before => return Ok(Turn::Waits(before)),
        }
        self.enter(claim, lease, peers, file)
    }

    /// Joins the queue of a key that was free, and leaves it unless the key is granted.
    fn enter(&self, claim: &Claim, lease: &Arc<OwnLease>, peers: &Arc<Peers>, file: &Arc<KeyFile>) -> Result<Turn> {
        let wake = Arc::new(Notify::new());
        let placed = join(claim.attempt, file, claim.mode, &lease.life, peers, &wake, None)?;
        let mut placed = Leaving(Some(Arc::new(placed)), lease);
        placed.register()?;
        let turn = self.turn(claim, peers, &placed)?;
        if let Turn::Granted(_) = turn {
            placed.keep();
        }
        Ok(turn)
    }

    /// Waits for the turn of a claim. `None` if it has to join the queue in another file.
    async fn wait(
        &self,
        claim: &Claim,
        lease: &Arc<OwnLease>,
        peers: &Arc<Peers>,
        mut placed: Leaving<'_>,
    ) -> Result<Option<Grant>> {
        placed.register()?;
        let Some(waiting) = placed.0.clone() else { return Ok(None) };
        // Before the look: what has been sent before is seen by it.
        let _listening = self.waits.listen(waiting.key.inode, waiting.place, &waiting.wake);
        loop {
            if lease.life.has_ended() || waiting.has_left() {
                return Err(lost());
            }
            match self.turn(claim, peers, &placed)? {
                Turn::Granted(grant) => {
                    placed.keep();
                    return Ok(Some(grant));
                }
                Turn::Moves => return Ok(None),
                Turn::Waits(before) => {
                    claim.queued();
                    self.woken(&waiting.wake, peers, before).await;
                }
            }
        }
    }

    /// Looks whether it is the turn of a claim, and takes it.
    fn turn(&self, claim: &Claim, peers: &Peers, placed: &Leaving<'_>) -> Result<Turn> {
        let Some(placed) = &placed.0 else { return Err(lost()) };
        let key = &placed.key;
        let state = key.state()?;
        if !state.has_name {
            return Ok(Turn::Moves);
        }
        match look(key, peers, placed.place, placed.mode, state)? {
            Before::Nothing => {}
            before => return Ok(Turn::Waits(before)),
        }
        #[cfg(test)]
        super::gates::pass(super::gates::Gate::Looked);
        // After the look, so that it is greater than that of any claim which was before this one.
        let now = micros();
        let epoch = key.directory.epochs.at(now);
        #[cfg(test)]
        super::gates::pass(super::gates::Gate::Dated);
        // And the proof after it, so that a claim that has been evicted meanwhile does not get a greater one than its successor.
        placed.life.prove()?;
        let state = key.state()?;
        if !state.has_name {
            return Ok(Turn::Moves);
        }
        if state.is_marked && placed.has_mark()? {
            return Err(lost());
        }
        placed.grant(now);
        key.show(placed.place, epoch);
        let mut grant = Grant::new(claim, epoch);
        grant.payload = Some(placed.clone());
        Ok(Turn::Granted(grant))
    }

    /// Waits until a claim should look again.
    async fn woken(&self, wake: &Notify, peers: &Peers, before: Before) {
        match before {
            Before::Nothing => {}
            Before::Own => {
                // Woken, ended, or the time is over: it looks in any case.
                let _ = tokio::time::timeout(LOOK, wake.notified()).await;
            }
            Before::Other(peer, until, _) => self.woken_or_ended(wake, peers, &peer, until).await,
        }
    }

    async fn woken_or_ended(&self, wake: &Notify, peers: &Peers, peer: &Arc<Peer>, until: Timestamp) {
        // A moment later than its end, at which it is still valid.
        let patience = until.since(peers.clock().now()).min(LOOK) + Duration::from_millis(1);
        let inbox = self.sites.current().ok().and_then(|site| site.inbox().cloned());
        let (mut woken, mut ended) = (pin!(wake.notified()), pin!(peer.ended()));
        let (mut exited, mut over) =
            (pin!(peer.exited(self.leases.pid_namespace())), pin!(tokio::time::sleep(patience)));
        let has_exited = std::future::poll_fn(|cx| {
            let others = [
                woken.as_mut().poll(cx).is_ready(),
                ended.as_mut().poll(cx).is_ready(),
                over.as_mut().poll(cx).is_ready(),
            ];
            if others.contains(&true) {
                return Poll::Ready(false);
            }
            let has_exited = exited.as_mut().poll(cx).map(|()| true);
            if let (Poll::Pending, Some(inbox)) = (has_exited, &inbox) {
                blocking::attend(cx.waker(), inbox);
            }
            has_exited
        });
        // A fork of the process may keep its FIFO open, and its locks.
        if has_exited.await {
            peers.end(peer);
        }
    }
}

/// Whether there is no claim that excludes one of this mode, valid or not.
fn has_none(key: &KeyFile, mode: Mode) -> bool {
    let others = key.query(Sees::blockers_of(mode), 0..i64::MAX);
    key.own_below(Place::at(i64::MAX), mode).is_none() && others.is_ok_and(|found| found.is_none())
}

/// A claim that leaves its queue when it is dropped, unless it is kept.
struct Leaving<'a>(Option<Arc<Placed>>, &'a Arc<OwnLease>);

impl Leaving<'_> {
    /// Has the claim end with its lease.
    fn register(&mut self) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |placed| self.1.add(placed))
    }

    fn keep(&mut self) {
        self.0 = None;
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if let Some(placed) = self.0.take() {
            self.1.remove(placed.attempt);
            placed.leave();
        }
    }
}
