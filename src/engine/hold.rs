//! [`HeldGrant`] and [`Hold`]: the grants of this process, and the holds in them.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::releasing::Releasing;
use super::sessions::{Limited, Sessions};
use super::spans::HoldSpan;
use super::wanted::Wanting;
use crate::arbiter::{Granted, HoldId};
use crate::backend::Grant;
use crate::clock::Timestamp;
use crate::error::LockError;
use crate::info::Loss;
use crate::lease::{LeaseCell, LossFlag, Signal};
use crate::owner::Owner;
use crate::process::report::warn;
use crate::token::FencingToken;

/// A grant of the backend that this process has, or had.
pub(crate) struct HeldGrant {
    pub(crate) grant: Grant,
    pub(crate) cell: Arc<LeaseCell>,
    pub(crate) key: Arc<str>,
    pub(crate) sessions: Arc<Sessions>,
    /// Keeps the manager running until the grant is released.
    _manager: Arc<dyn Any + Send + Sync>,
    /// The loss of the claim alone, while its lease lives.
    lost: LossFlag,
    pub(crate) signal: Signal,
    pub(super) releasing: Releasing,
    pub(super) wanting: Wanting,
}

impl HeldGrant {
    pub(super) fn new(
        grant: Grant,
        cell: Arc<LeaseCell>,
        key: Arc<str>,
        sessions: Arc<Sessions>,
        manager: Arc<dyn Any + Send + Sync>,
    ) -> Arc<Self> {
        let (lost, signal, releasing, wanting) = Default::default();
        let held = Arc::new(Self { grant, cell, key, sessions, _manager: manager, lost, signal, releasing, wanting });
        if let Some(limit) = &held.grant.limit
            && limit.is_set()
        {
            let limited: Weak<HeldGrant> = Arc::downgrade(&held);
            held.sessions.watch_limit(limit.clone(), limited);
        }
        held
    }

    /// The token of its first hold here; later holds, after a handover, have greater ones.
    pub(super) fn first_token(&self) -> FencingToken {
        FencingToken::of_epoch(self.grant.epoch)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.sessions.base.now()
    }

    pub(crate) fn is_forked(&self) -> bool {
        self.sessions.base.is_forked()
    }

    /// The cause of the loss, if the grant is lost by `now`.
    pub(crate) fn loss(&self, now: Timestamp) -> Option<Loss> {
        let of_lease = || if self.is_forked() { self.cell.loss_in_child(now) } else { self.cell.loss(now) };
        self.own_loss(now).or_else(of_lease)
    }

    /// The same under a mutex, see [`LeaseCell::quiet_loss`].
    fn quiet_loss(&self, now: Timestamp) -> Option<Loss> {
        self.own_loss(now).or_else(|| self.cell.quiet_loss(now))
    }

    /// The loss of the claim alone. Wakes no listeners: the backend reports the loss as well.
    fn own_loss(&self, now: Timestamp) -> Option<Loss> {
        if let Some(limit) = &self.grant.limit
            && now >= limit.until()
        {
            // Final from now on: the limit may be lifted a moment later.
            self.lost.set(Loss::Unreachable);
        }
        self.lost.get()
    }

    /// The server removed the claim, or did not confirm it in time.
    pub(super) fn lose(&self, cause: Loss, now: Timestamp) {
        if self.own_loss(now).is_none() {
            self.lost.set(cause);
        }
        // Perhaps not for the first time: the call that found the loss may not have been allowed to wake listeners.
        self.signal.fire();
    }

    /// Counts and logs the loss, unless the manager was closed.
    pub(super) fn report_loss(&self, cause: Loss) {
        self.count_loss(cause);
        self.log_loss(cause);
    }

    pub(super) fn count_loss(&self, cause: Loss) {
        if cause != Loss::Closed {
            self.sessions.base.counters.lost(cause);
        }
    }

    pub(super) fn log_loss(&self, cause: Loss) {
        if cause == Loss::Closed {
            return;
        }
        let base = &self.sessions.base;
        let (name, key, token) = (base.name(), self.key.as_ref(), self.first_token().get());
        warn!(
            target: "leasehold", name = name, key = key, token = token, lease = &self.cell.id();
            "{name}: lock {key:?} lost (token {token}): {cause}{}", self.cell.because(cause)
        );
    }

    /// The first moment at which it is not certain any more.
    pub(super) fn deadline(&self) -> Timestamp {
        let lease = self.cell.deadline();
        self.grant.limit.as_ref().map_or(lease, |limit| limit.until().min(lease))
    }

    pub(crate) fn expired(&self, cause: Loss) -> LockError {
        LockError::Expired { key: self.key.to_string(), cause }
    }

    pub(crate) fn remaining(&self, now: Timestamp) -> Duration {
        if self.own_loss(now).is_some() {
            return Duration::ZERO;
        }
        self.deadline().since(now)
    }
}

impl fmt::Debug for HeldGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldGrant").field("grant", &self.grant).field("lost", &self.lost).finish_non_exhaustive()
    }
}

impl Limited for HeldGrant {
    fn check_limit(&self, now: Timestamp) {
        if self.own_loss(now).is_some() {
            self.signal.fire();
        }
    }
}

impl Granted for Arc<HeldGrant> {
    type Hold = Arc<Hold>;

    fn hold(&self, id: HoldId, owner: &Owner, handovers: u16, now: Timestamp) -> Arc<Hold> {
        let policy = self.cell.policy();
        if policy.max_hold.is_some() || !policy.auto_renew {
            self.cell.change(now, |renewal| renewal.hold(policy.max_hold.map(|age| now + age)));
            self.sessions.set_due_now(&self.cell);
        }
        Arc::new(Hold {
            id,
            held: self.clone(),
            owner: Mutex::new(Some(owner.clone())),
            token: FencingToken::of_grant(self.grant.epoch, handovers),
            since: now,
            depth: AtomicU32::new(1),
            ended: AtomicBool::new(false),
            lost: LossFlag::default(),
            wanted: AtomicBool::new(false),
            span: HoldSpan::new(),
        })
    }

    fn set_depth(hold: &Arc<Hold>, depth: u32) {
        hold.depth.store(depth, Ordering::Relaxed);
    }

    fn is_alive(&self, now: Timestamp) -> bool {
        self.quiet_loss(now).is_none()
    }

    fn is_fresh(&self, now: Timestamp) -> bool {
        self.is_alive(now)
            && self.cell.deadline().since(now) > self.grant.lease.ttl / 2
            && self.grant.limit.as_ref().is_none_or(|limit| limit.is_fresh(now))
    }
}

/// One owner's possession of a key. Its guards share it.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) id: HoldId,
    pub(crate) held: Arc<HeldGrant>,
    /// `None` once the hold has ended: a future for its loss, which may outlive it, must not keep the owner's task alive.
    owner: Mutex<Option<Owner>>,
    pub(crate) token: FencingToken,
    since: Timestamp,
    /// The arbiter's count, for reading; changed only under the arbiter's mutex.
    depth: AtomicU32,
    /// Set at the drop of the last guard. Afterwards other owners may use the grant, and its loss does not concern this hold.
    ended: AtomicBool,
    /// Set if it had been lost before its end.
    lost: LossFlag,
    /// Whether others were found to wait for the key.
    wanted: AtomicBool,
    pub(super) span: HoldSpan,
}

impl Hold {
    /// The cause of the loss, if the hold is, or ended, lost. `None` also if it ended otherwise.
    pub(crate) fn loss(&self, now: Timestamp) -> Option<Loss> {
        self.lost.get().or_else(|| if self.ended.load(Ordering::Acquire) { None } else { self.held.loss(now) })
    }

    /// The cause of the loss, if it was lost before its end.
    pub(super) fn loss_before_end(&self) -> Option<Loss> {
        self.lost.get()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(super) fn age(&self, now: Timestamp) -> Duration {
        now.since(self.since)
    }

    pub(crate) fn owner(&self) -> Owner {
        self.owner.lock().clone().unwrap_or_else(Owner::new)
    }

    /// The signal of others that wait for the key. The backend is asked from now on.
    pub(crate) fn ask_wanted(&self) -> &Signal {
        self.held.wanting.ask(&self.held.sessions.base, &self.held.grant)
    }

    /// Whether others are known to wait for the key; `is_local` tells whether an owner of this process does.
    pub(crate) fn is_wanted(&self, is_local: impl FnOnce() -> bool) -> bool {
        let wanted =
            self.wanted.load(Ordering::Acquire) || !self.has_ended() && (self.held.wanting.is_by_claim() || is_local());
        if wanted {
            self.wanted.store(true, Ordering::Release);
        }
        wanted
    }

    /// Ends the hold with its last guard. Returns the owner, whose drop may run foreign code.
    pub(super) fn end(&self, now: Timestamp) -> Option<Owner> {
        if let Some(loss) = self.held.quiet_loss(now) {
            self.lost.set(loss);
        }
        self.ended.store(true, Ordering::Release);
        self.owner.lock().take()
    }

    pub(crate) fn depth(&self) -> u32 {
        self.depth.load(Ordering::Relaxed)
    }

    /// Counts the end of a guard whose hold was lost and removed from the arbiter. Returns the number of guards left.
    pub(super) fn leave_lost(&self) -> u32 {
        self.depth.fetch_sub(1, Ordering::Relaxed).saturating_sub(1)
    }
}

#[cfg(feature = "tracing")]
impl Drop for Hold {
    fn drop(&mut self) {
        if self.held.is_forked() {
            self.span.forget();
        }
    }
}
