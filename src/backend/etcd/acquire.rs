//! Claims: put into the queue, granted, withdrawn, released.

use std::time::Duration;

use etcd_client::Txn;
use tokio::time::Instant;

use super::batch::Member;
use super::claims::Held;
use super::leases::Session;
use super::losses::Subject;
use super::names::Directory;
use super::txn::{self, ClaimKey, Freshness, Position, PutClaim, PutOutcome, Record};
use super::value;
use super::watch::hub::Notice;
use super::{Shared, answer, error};
use crate::backend::backoff::{Backoff, jittered};
use crate::backend::{AttemptId, BackendError, Claim, ErrorKind, Grant, LeaseId, Result};
use crate::info::Mode;

/// How often a waiter looks by itself while its watch seems to work: with the jitter at least every 5 s.
const LOOK: Duration = Duration::from_secs(4);

/// A claim's request may also make one release for so many that a request has room for.
const CARRIED: usize = 8;

/// A claim on its way: what all steps of an acquire need.
struct Attempt<'a> {
    claim: &'a Claim,
    session: &'a Session,
    directory: Directory,
    name: Vec<u8>,
    /// When to give up, for who does not wait.
    deadline: Option<Instant>,
}

impl Shared {
    /// Puts a claim into its queue and waits until it is first.
    pub(super) async fn acquire(&self, claim: &Claim, wait: bool) -> Result<Option<Grant>> {
        let Some(session) = self.sessions.get(claim.lease.id) else {
            return Err(error::lease_lost(self.connection.endpoints()));
        };
        let directory = self.names.directory(&claim.key);
        let number = self.claims.begin(claim.attempt, claim.lease.id, || session.numbers.take());
        let name = directory.claim(claim.mode, claim.lease.id, number);
        let deadline = (!wait).then(|| Instant::now() + self.connection.timeout());
        let attempt = Attempt { claim, session: &session, directory, name, deadline };
        tokio::select! {
            granted = self.run(&attempt) => granted,
            // The claim has gone with the lease.
            () = session.ended() => Err(error::lease_lost(self.connection.endpoints())),
        }
    }

    async fn run(&self, attempt: &Attempt<'_>) -> Result<Option<Grant>> {
        if let Some(deadline) = attempt.deadline {
            // What this process is about to release must not make it look busy.
            let limit = deadline.saturating_duration_since(Instant::now());
            tokio::time::timeout(limit, self.releases.settled(&attempt.directory))
                .await
                .map_err(|_| error::no_answer(self.connection.endpoints(), limit))?;
        }
        let Some((own, seen)) = self.place(attempt).await? else {
            return Ok(None);
        };
        let seen = match seen {
            Some(seen) => seen,
            None => self.read_position(attempt, &own, Freshness::Linearizable).await?,
        };
        let proof = match seen {
            (Position::First, revision) => revision,
            (Position::Behind(ahead), revision) => self.follow(attempt, &own, ahead, revision).await?,
            (Position::Missing, _) => return Err(self.claim_lost()),
        };
        let nonsense = || error::nonsense(self.connection.endpoints());
        let epoch = answer::epoch(proof).ok_or_else(nonsense)?;
        let mut grant = Grant::new(attempt.claim, epoch);
        grant.lease = attempt.session.proven(grant.lease);
        grant.note = answer::epoch(own.create).ok_or_else(nonsense)?;
        self.claims.hold(grant.attempt, Held { claim: own, proof, watch: None });
        self.losses.granted(grant.attempt);
        Ok(Some(grant))
    }

    /// Puts the claim into the queue, whatever it takes, and says where it stood at which revision, if that is known. `None` if it
    /// was busy and would have to wait.
    async fn place(&self, attempt: &Attempt<'_>) -> Result<Option<(ClaimKey, Option<(Position, i64)>)>> {
        let Attempt { claim, session, directory, name, .. } = attempt;
        let id = claim.attempt;
        let mut backoff = Backoff::new();
        loop {
            let limits = self.connection.limits();
            let most = limits.operations().min(limits.bytes() / txn::bytes_of_deletion(name)) / CARRIED;
            let carried = self.releases.carry(directory, most);
            let released = carried.claims.clone();
            // Whether an earlier copy of this may still be on its way.
            let repeated = self.claims.outcome(id).unwrap_or_default();
            // For shared claims the transaction would have more operations than the smallest limit.
            let tries = attempt.deadline.is_some() && claim.mode == Mode::Exclusive;
            let blocker = tries.then(|| self.blockers.known(directory)).flatten().filter(|blocker| blocker != name);
            let place = PutClaim {
                directory,
                mode: claim.mode,
                name,
                value: value::of_claim(claim, &self.manager),
                record: session.record(),
                released: &released,
                only_if_free: attempt.deadline.is_some(),
                blocker: blocker.as_deref(),
            };
            let (txn, alone, bytes) = (place.txn(), repeated.then(|| place.rewriting()), place.bytes());
            let record = repeated.then(|| place.record.clone());
            let member = Member {
                attempt: Some(id),
                directory: directory.clone(),
                name: name.clone(),
                txn,
                record,
                alone,
                carried: Some(carried),
                bytes,
            };
            let answer = match self.batcher.send(self.patience(attempt), member).await {
                Ok(answer) => answer,
                Err(error) if error.kind() == ErrorKind::Unreachable => {
                    self.pause(attempt, &mut backoff, error).await?;
                    continue;
                }
                Err(error) if !released.is_empty() && limits.refused(&error, released.len() * CARRIED, bytes) => {
                    // The releases go on separately then, and the claim waits behind those.
                    self.claims.answered(id, repeated || error::is_unread(&error));
                    continue;
                }
                Err(error) => {
                    if repeated || error::is_unread(&error) {
                        self.claims.answered(id, true);
                    } else {
                        // Refused, and the only copy: there is nothing to settle, which might be refused as well.
                        self.claims.forget(id);
                    }
                    return Err(error);
                }
            };
            let own = |create| ClaimKey { name: name.clone(), create };
            match place.read(&answer) {
                None => return Err(error::nonsense(self.connection.endpoints())),
                Some(PutOutcome::In { create, position }) => {
                    if blocker.is_some() {
                        self.blockers.note(directory, None);
                    }
                    if repeated {
                        session.saw_version(place.record.version + 1);
                    }
                    self.claims.answered(id, false);
                    return Ok(Some((own(create), answer.revision.map(|revision| (position, revision)))));
                }
                // An earlier copy came through. Others may follow once this claim is gone, so the outcome stays unknown.
                Some(PutOutcome::Already { create }) => return Ok(Some((own(create), None))),
                Some(PutOutcome::Stale { version }) => {
                    self.claims.answered(id, repeated);
                    if version < place.record.version {
                        // It never falls, unless the store was restored from a backup and has overtaken its past since.
                        self.lost(Subject::Session(claim.lease.id));
                        return Err(error::lease_lost(self.connection.endpoints()));
                    }
                    session.saw_version(version);
                }
                Some(PutOutcome::Over) => {
                    self.claims.answered(id, repeated);
                    return Err(error::lease_lost(self.connection.endpoints()));
                }
                Some(PutOutcome::Busy(blocker)) => {
                    if tries {
                        self.blockers.note(directory, blocker);
                    }
                    if repeated {
                        // A late copy would take the lock after we have said that it is busy.
                        self.settle(claim).await?;
                    } else {
                        self.gone_for_certain(id, claim.lease.id);
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// Waits until nothing is ahead of the claim. Returns the revision that proves it.
    ///
    /// The claim `ahead` was there at the revision `seen`.
    async fn follow(&self, attempt: &Attempt<'_>, own: &ClaimKey, mut ahead: ClaimKey, mut seen: i64) -> Result<i64> {
        loop {
            let mut watch = self.connection.hub().subscribe(ahead.name.clone());
            let mut trusted = false;
            loop {
                let look = tokio::select! {
                    notice = watch.next() => match notice {
                        // Of an earlier claim with that name.
                        Notice::Deleted(at) if at <= seen => false,
                        Notice::Deleted(_) => {
                            if let (Position::First, revision) =
                                self.read_position(attempt, own, Freshness::Serializable).await?
                            {
                                return Ok(revision);
                            }
                            true
                        }
                        Notice::Created(since) => {
                            trusted = true;
                            // The watch may have begun after the deletion.
                            since > seen && !self.stood_at(since, &ahead).await
                        }
                        Notice::Recreated => {
                            trusted = true;
                            true
                        }
                        Notice::Down => {
                            trusted = false;
                            false
                        }
                    },
                    () = tokio::time::sleep(jittered(if trusted { LOOK } else { self.retry_interval })) => {
                        self.is_gone(&ahead).await
                    }
                };
                if !look {
                    continue;
                }
                match self.read_position(attempt, own, Freshness::Linearizable).await? {
                    (Position::First, revision) => return Ok(revision),
                    (Position::Missing, _) => return Err(self.claim_lost()),
                    (Position::Behind(same), revision) if same == ahead => seen = revision,
                    (Position::Behind(other), revision) => {
                        (ahead, seen) = (other, revision);
                        break;
                    }
                }
            }
        }
    }

    /// Returns whether the claim ahead was still there at a revision, or later: then its deletion comes after that.
    async fn stood_at(&self, revision: i64, ahead: &ClaimKey) -> bool {
        // Any member will do if its state is new enough.
        let limit = self.connection.patience(self.connection.timeout());
        let found = self.connection.key_once(limit, Freshness::Serializable, &ahead.name).await;
        found.is_ok_and(|found| {
            answer::revision(found.header.as_ref()).is_some_and(|at| at >= revision)
                && found.kvs.iter().any(|found| found.create_revision == ahead.create)
        })
    }

    /// Returns whether the claim ahead is gone. One key only: a thousand waiters that sort ranges would drown the server.
    async fn is_gone(&self, ahead: &ClaimKey) -> bool {
        let limit = self.connection.patience(self.connection.timeout());
        match self.connection.key_once(limit, Freshness::Linearizable, &ahead.name).await {
            Ok(found) => found.kvs.iter().all(|found| found.create_revision != ahead.create),
            Err(_) => false,
        }
    }

    /// Reads where the claim stands, and at which revision.
    async fn read_position(
        &self,
        attempt: &Attempt<'_>,
        own: &ClaimKey,
        freshness: Freshness,
    ) -> Result<(Position, i64)> {
        let mut backoff = Backoff::new();
        loop {
            let look = txn::read_position(&attempt.directory, attempt.claim.mode, own, freshness);
            match self.connection.txn_once(self.patience(attempt), freshness, look).await {
                Ok(answer) => {
                    let revision = txn::revision(&answer);
                    let seen = txn::keys(answer).and_then(|seen| Position::read(&attempt.directory, own, &seen));
                    return seen.zip(revision).ok_or_else(|| error::nonsense(self.connection.endpoints()));
                }
                Err(error) if error.kind() == ErrorKind::Unreachable => {
                    self.pause(attempt, &mut backoff, error).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn patience(&self, attempt: &Attempt<'_>) -> Duration {
        let timeout = self.connection.timeout();
        let left = attempt.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        self.connection.patience(left.unwrap_or(timeout))
    }

    /// Waits a little after a failure that may pass, or gives up with it.
    async fn pause(&self, attempt: &Attempt<'_>, backoff: &mut Backoff, error: BackendError) -> Result<()> {
        let delay = backoff.delay();
        let too_late = attempt.deadline.is_some_and(|deadline| Instant::now() + delay >= deadline);
        if too_late || !attempt.session.may_live(self.clock.now()) || !self.is_open() {
            return Err(error);
        }
        tokio::time::sleep(delay).await;
        Ok(())
    }

    fn claim_lost(&self) -> BackendError {
        let endpoints = self.connection.endpoints();
        BackendError::new(ErrorKind::LeaseLost, format!("the claim was removed from its queue in etcd at {endpoints}"))
    }

    /// Removes all traces of an attempt, those included that have not arrived yet.
    pub(super) async fn settle(&self, claim: &Claim) -> Result<()> {
        if !claim.lease.session {
            return self.revoke(claim.lease.id).await;
        }
        // Nothing was sent, or all that was sent has been answered and undone.
        let Some(unknown) = self.claims.outcome(claim.attempt) else {
            self.gone_for_certain(claim.attempt, claim.lease.id);
            return Ok(());
        };
        if let Some(watch) = self.claims.let_go(claim.attempt) {
            self.losses.unwatch(self.connection.hub(), watch);
        }
        let Some(number) = self.claims.number(claim.attempt) else { return Ok(()) };
        let directory = self.names.directory(&claim.key);
        let name = directory.claim(claim.mode, claim.lease.id, number);
        self.delete(directory, name.clone(), txn::settle(&name), self.rewritten(claim.lease.id, unknown)).await?;
        // Its number with it: a copy of this may come late, and deletes by name.
        self.claims.forget(claim.attempt);
        Ok(())
    }

    /// Takes note that a grant is given up, from now on, whatever becomes of the request.
    pub(super) fn give_up(&self, grant: &Grant) {
        let directory = self.names.directory(&grant.key);
        let unknown = self.claims.outcome(grant.attempt).unwrap_or_default();
        if let Some(watch) = self.claims.let_go(grant.attempt) {
            self.losses.unwatch(self.connection.hub(), watch);
        }
        // On a lease that is over there is nothing left to release.
        if let Some(claim) = self.born(&directory, grant) {
            self.releases.add(directory, claim, grant.lease.id, unknown);
        }
    }

    /// The name of a grant's claim, if its lease is not over.
    pub(super) fn claim_name(&self, grant: &Grant) -> Option<Vec<u8>> {
        self.born(&self.names.directory(&grant.key), grant).map(|claim| claim.name)
    }

    /// The claim of a grant, if its lease is not over.
    fn born(&self, directory: &Directory, grant: &Grant) -> Option<ClaimKey> {
        let name = directory.claim(grant.mode, grant.lease.id, self.claims.number(grant.attempt)?);
        Some(ClaimKey { name, create: i64::try_from(grant.note).unwrap_or_default() })
    }

    /// Nothing of the attempt is on the server, nor will be: its number is free.
    fn gone_for_certain(&self, attempt: AttemptId, lease: LeaseId) {
        if let (Some(number), Some(session)) = (self.claims.forget(attempt), self.sessions.get(lease)) {
            session.numbers.give_back(number);
        }
    }

    /// Releases a grant that was [given up](Self::give_up).
    pub(super) async fn release(&self, grant: &Grant) -> Result<()> {
        if !grant.lease.session {
            return self.revoke(grant.lease.id).await;
        }
        let unknown = self.claims.outcome(grant.attempt).unwrap_or_default();
        let directory = self.names.directory(&grant.key);
        let Some(claim) = self.born(&directory, grant) else { return Ok(()) };
        // Whoever drops a guard often locks again at once, and the claim that is sent then takes the release along: one write for
        // the server instead of two. No time is lost if nobody does.
        yield_once().await;
        if !self.releases.await_uncarried(&directory, &claim).await {
            self.gone_for_certain(grant.attempt, grant.lease.id);
            return Ok(());
        }
        self.delete(directory.clone(), claim.name.clone(), claim.delete(), self.rewritten(grant.lease.id, unknown))
            .await?;
        if unknown {
            self.claims.forget(grant.attempt);
        } else {
            self.gone_for_certain(grant.attempt, grant.lease.id);
        }
        self.releases.confirm(&directory, &[claim]);
        Ok(())
    }

    /// Sends a transaction that deletes, with what keeps older copies away; if the server has no space for that, a bare one.
    async fn delete(&self, directory: Directory, name: Vec<u8>, txn: Txn, record: Option<Record>) -> Result<()> {
        let limit = self.connection.patience(self.connection.timeout());
        let bytes = txn::bytes_of_deletion(&name) + record.as_ref().map_or(0, Record::bytes);
        let member =
            Member { attempt: None, directory, name, txn: txn.clone(), record, alone: None, carried: None, bytes };
        match self.batcher.send(limit, member).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::LeaseLost => Ok(()),
            Err(error) if error.kind() == ErrorKind::Refused => {
                // The lock is free for others then, but an older copy can still come, so this is to be tried again.
                self.connection.txn(txn).await?;
                Err(BackendError::new(ErrorKind::Unreachable, error.to_string()).because(error))
            }
            Err(error) => Err(error),
        }
    }
}

/// Comes back at the next poll, which is asked for at once.
async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}
