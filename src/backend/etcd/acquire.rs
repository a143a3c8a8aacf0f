//! Acquires: a claim is put into its queue and waits until it is first. What follows each answer is decided in
//! [`attempt`](super::attempt).

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::attempt::{Answer, LostPart, State, Step, next};
use super::batch::Batcher;
use super::blockers::Blockers;
use super::claims::Claims;
use super::connection::Connection;
use super::granted::GrantedClaim;
use super::kind::Kind;
use super::leases::Leases;
use super::looks::Looks;
use super::losses::Losses;
use super::member::Member;
use super::names::{Directory, Name, Names};
use super::position::{Ahead, ClaimKey, Freshness, Position, SeenClaim};
use super::release::Releaser;
use super::releases::Carried;
use super::session::Session;
use super::txn::{self, Form, PutClaim, PutOutcome};
use super::watch::hub::{Filter, Subscription, Target};
use super::watched::Subject;
use super::{answer, error, slots};
use crate::backend::backoff::{Backoff, jittered};
use crate::backend::{BackendError, Claim, ErrorKind, Grant, Result, Wait, derived};

/// How often a waiter polls while its watch is trusted: with the jitter at least every 5 s.
const POLL_INTERVAL: Duration = Duration::from_secs(4);

/// The share of a request's room that the releases which a claim also makes may take: one in so many.
const CARRIED_SHARE: usize = 8;

/// Acquires the locks of one manager.
pub(super) struct Acquirer {
    pub(super) connection: Arc<Connection>,
    pub(super) names: Names,
    pub(super) retry_interval: Duration,
    pub(super) claims: Arc<Claims>,
    pub(super) batcher: Arc<Batcher>,
    pub(super) leases: Arc<Leases>,
    pub(super) losses: Arc<Losses>,
    pub(super) releaser: Arc<Releaser>,
    pub(super) blockers: Blockers,
    pub(super) looks: Arc<Looks>,
}

/// What an acquire is about.
struct Request<'a> {
    claim: &'a Claim,
    kind: Kind,
    session: &'a Arc<Session>,
    directory: Directory,
    name: Name,
    /// When to give up, for an attempt that does not wait.
    deadline: Option<Instant>,
}

impl Request<'_> {
    /// Returns whether the transaction first compares a claim that blocked an earlier one. For shared claims it would have more operations
    /// than the smallest limit.
    fn has_blocker(&self) -> bool {
        self.deadline.is_some() && self.kind == Kind::Exclusive
    }
}

impl Acquirer {
    /// Puts a claim into its queue, and with `wait` waits until it is first. `None` if the key is not free.
    pub(super) async fn acquire(&self, claim: &Claim, wait: Wait) -> Result<Option<Grant>> {
        let session = &self.leases.session(claim.lease.id)?;
        let Ok(directory) = derived(claim, || Ok::<_, Infallible>(Arc::new(self.names.directory(&claim.key))));
        let directory = Directory::clone(&directory);
        let number = self.claims.begin(claim.attempt, session, &directory);
        let kind = Kind::of(claim);
        let name = directory.claim(kind, claim.lease.id, number);
        let deadline = (wait == Wait::Never).then(|| Instant::now() + self.connection.timeout());
        let request = Request { claim, kind, session, directory, name, deadline };
        tokio::select! {
            biased;
            granted = self.run(&request) => granted,
            // The claim has ended with the lease.
            () = session.ended() => Err(error::lease_lost(self.connection.endpoints())),
        }
    }

    async fn run(&self, request: &Request<'_>) -> Result<Option<Grant>> {
        self.await_own_releases(request).await?;
        let (mut state, mut step, mut watch) = (State::default(), Step::Put, None);
        loop {
            let answer = match step {
                Step::Put => self.put(request).await?,
                Step::Recheck { own, freshness } => self.recheck(request, &own, freshness).await?,
                Step::Watch { ahead } => {
                    request.claim.queued();
                    drop(watch.take());
                    let target = match ahead {
                        Ahead::Claim(SeenClaim { claim, is_waiting: false }) => claim.name.into(),
                        Ahead::Claim(SeenClaim { claim, is_waiting: true }) => Target::key(claim.name),
                        Ahead::Slots(_) => Target::range(request.directory.slots(), Filter::Deletions),
                    };
                    watch = Some(self.connection.hub().subscribe(target));
                    Answer::Watching
                }
                Step::Wait { is_trusted } => self.wait(watch.as_mut(), is_trusted).await,
                Step::Confirm { ahead, since } => Answer::Confirmed(self.was_unchanged(since, &ahead).await),
                Step::Poll { ahead } => Answer::Polled { has_changed: self.looks.has_changed(&ahead).await },
                Step::Won { own, proof, is_followed } => {
                    let own = Arc::new(GrantedClaim::new(own));
                    if is_followed {
                        self.touch(request, own.clone());
                    }
                    return self.grant(request, own, proof).map(Some);
                }
                Step::Busy => return self.withdraw(request).await.map(|()| None),
                Step::Lost(lost) => return Err(self.lost(request, lost)),
            };
            (state, step) = next(state, answer);
        }
    }

    /// Waits for unconfirmed releases of the key, for an attempt that does not wait: they must not make the key appear busy.
    async fn await_own_releases(&self, request: &Request<'_>) -> Result<()> {
        let Some(deadline) = request.deadline else { return Ok(()) };
        let limit = deadline.saturating_duration_since(Instant::now());
        tokio::time::timeout(limit, self.claims.releases().all_confirmed(&request.directory))
            .await
            .map_err(|_| error::no_answer(self.connection.endpoints(), limit))
    }

    /// Sends the claim until that is answered.
    async fn put(&self, request: &Request<'_>) -> Result<Answer> {
        let (id, limits) = (request.claim.attempt, self.connection.limits());
        let mut backoff = Backoff::new();
        // What an attempt for a slot that does not wait has seen.
        let mut newest_slot = 0;
        loop {
            let (put, carried) = self.prepare(request, newest_slot);
            match self.batcher.send(self.patience(request), Member::claim(id, put.clone(), carried)).await {
                Ok(answer) => {
                    let outcome = put.read(answer).ok_or_else(|| self.nonsense())?;
                    self.note(request, &put, &outcome);
                    match outcome {
                        // Nothing was put, and no copy is left: the full form tells why, or waits.
                        PutOutcome::Refused => {}
                        PutOutcome::Room { newest } => newest_slot = newest,
                        outcome => return Ok(Answer::Put(outcome)),
                    }
                }
                Err(error) if error.kind() == ErrorKind::Unreachable => {
                    self.pause(request, &mut backoff, error).await?;
                }
                Err(error)
                    if !put.released().is_empty()
                        && limits.refused(&error, put.released().len() * CARRIED_SHARE, put.bytes()) =>
                {
                    // The releases are sent separately then, and the claim waits behind those.
                    self.claims.answered(id, put.is_repeated() || error::is_unread(&error));
                }
                Err(error) => {
                    if put.is_repeated() || error::is_unread(&error) {
                        self.claims.answered(id, true);
                    } else {
                        // Refused, and the only copy: there is nothing to abort, which might be refused as well.
                        self.claims.forget(id);
                    }
                    if error.kind() == ErrorKind::LeaseLost {
                        self.losses.report(Subject::Session(request.claim.lease.id));
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Prepares the next request of a claim, with the releases that it also makes.
    fn prepare(&self, request: &Request<'_>, newest_slot: i64) -> (Arc<PutClaim>, Option<Carried>) {
        let Request { claim, kind, session, directory, name, deadline } = request;
        let (releases, limits) = (self.claims.releases(), self.connection.limits());
        let outcome = self.claims.outcome(claim.attempt);
        // A semaphore is hardly ever free of other slots.
        let may_be_lean = outcome.is_none() && kind.limit().is_none() && self.blockers.was_free(directory);
        let lean = may_be_lean.then(|| releases.carry_lean(directory, *kind == Kind::Exclusive)).flatten();
        let (form, carried) = if let Some(carried) = lean {
            let released = carried.as_ref().and_then(|carried| carried.claims().first().cloned());
            (Form::Lean { released }, carried)
        } else {
            let room = limits.operations().min(limits.bytes() / txn::bytes_of_deletion(name));
            let carried = releases.carry(directory, room / CARRIED_SHARE);
            let released = carried.claims().to_vec();
            // Whether an earlier copy of this may still be in flight.
            let is_repeated = outcome.unwrap_or_default();
            let form = if kind.limit().is_some() {
                Form::Slot { released, is_repeated, newest: deadline.map(|_| newest_slot) }
            } else {
                let blocker = request.has_blocker().then(|| self.blockers.known(directory)).flatten();
                let blocker = blocker.filter(|blocker| blocker != name);
                Form::Full { released, only_if_free: deadline.is_some(), blocker, is_repeated }
            };
            (form, Some(carried))
        };
        let (directory, name, kind) = (directory.clone(), name.clone(), *kind);
        let (value, record) = (self.leases.writer().claim(claim), session.record());
        (Arc::new(PutClaim { directory, kind, name, value, record, form }), carried)
    }

    /// Notes what the answer to a claim says.
    fn note(&self, request: &Request<'_>, put: &PutClaim, outcome: &PutOutcome) {
        let is_repeated = put.is_repeated();
        let is_unknown = match outcome {
            PutOutcome::In { position, .. } => {
                match position {
                    Position::Behind(ahead) => self.blockers.blocked(&request.directory, ahead.name().cloned()),
                    // There may be others beside a slot.
                    _ if request.kind.limit().is_some() => {}
                    _ => self.blockers.free(&request.directory),
                }
                if is_repeated {
                    request.session.saw_version(put.record.version + 1);
                }
                false
            }
            // An earlier copy has put it. Others may follow once the claim no longer exists, so the outcome stays unknown.
            PutOutcome::Already { .. } => return,
            PutOutcome::Stale { version } => {
                request.session.saw_version(*version);
                is_repeated
            }
            PutOutcome::Rewound | PutOutcome::Over | PutOutcome::Refused | PutOutcome::Room { .. } => is_repeated,
            PutOutcome::Busy(blocker) => {
                self.blockers.blocked(&request.directory, blocker.clone());
                is_repeated
            }
        };
        self.claims.answered(request.claim.attempt, is_unknown);
    }

    /// Reads the position of the claim.
    async fn recheck(&self, request: &Request<'_>, own: &ClaimKey, freshness: Freshness) -> Result<Answer> {
        let mut backoff = Backoff::new();
        let Request { directory, kind, .. } = request;
        let mut limit = kind.limit();
        loop {
            let read = match limit {
                Some(limit) => slots::read_position(directory, own, limit, freshness),
                None => txn::read_position(directory, *kind, own, freshness),
            };
            match self.connection.txn_once(self.patience(request), freshness, read).await {
                Ok(answer) => {
                    let revision = txn::revision(&answer);
                    let position = txn::found(answer).and_then(|found| match limit {
                        Some(limit) => slots::position(directory, own, limit, &found),
                        None => Position::read(directory, own, found.iter().flatten()),
                    });
                    let (position, revision) = position.zip(revision).ok_or_else(|| self.nonsense())?;
                    match position {
                        Position::Unclear { limit: wider } => limit = Some(wider),
                        position => return Ok(Answer::Position { freshness, position, revision }),
                    }
                }
                Err(error) if error.kind() == ErrorKind::Unreachable => {
                    self.pause(request, &mut backoff, error).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for the next notice, or until it is time to poll.
    async fn wait(&self, watch: Option<&mut Subscription>, is_trusted: bool) -> Answer {
        let notice = async {
            match watch {
                Some(watch) => watch.next().await,
                None => pending().await,
            }
        };
        tokio::select! {
            notice = notice => Answer::Notice(notice),
            () = tokio::time::sleep(jittered(if is_trusted { POLL_INTERVAL } else { self.retry_interval })) => Answer::PollDue,
        }
    }

    /// Returns whether the claim ahead is known to have been unchanged at a revision, or later: its next change comes after that.
    async fn was_unchanged(&self, revision: i64, ahead: &SeenClaim) -> bool {
        // Any member will do if its state is new enough.
        let limit = self.connection.patience(self.connection.timeout());
        let found = self.connection.key_once(limit, Freshness::Serializable, &ahead.claim.name).await;
        found.is_ok_and(|found| {
            answer::revision(found.header.as_ref()).is_some_and(|at| at >= revision)
                && found.kvs.iter().any(|found| ahead.is(found))
        })
    }

    /// Touches a slot that has waited, for the waiter behind it. Until the server has confirmed it, that one may wait for nothing.
    fn touch(&self, request: &Request<'_>, own: Arc<GrantedClaim>) {
        let (directory, session) = (request.directory.clone(), request.session.clone());
        let (connection, batcher) = (self.connection.clone(), self.batcher.clone());
        let (leases, losses) = (self.leases.clone(), self.losses.clone());
        self.connection.handle().spawn(async move {
            let mut backoff = Backoff::new();
            while leases.may_live(&session) && losses.is_open() {
                let member = Member::touch(directory.clone(), own.clone(), session.id());
                match batcher.send(connection.patience(connection.timeout()), member).await {
                    Err(error) if error.kind() == ErrorKind::Unreachable => backoff.pause().await,
                    // Without space for it the waiter enters when a slot ahead of it is free again.
                    _ => return,
                }
            }
        });
    }

    /// Makes a grant of a claim that was proven to hold its key.
    fn grant(&self, request: &Request<'_>, own: Arc<GrantedClaim>, proof: i64) -> Result<Grant> {
        let epoch = answer::epoch(proof).ok_or_else(|| self.nonsense())?;
        let mut grant = Grant::new(request.claim, epoch);
        grant.lease = request.session.proven(grant.lease);
        grant.payload = Some(own.clone());
        self.losses.hold(grant.attempt, own, proof);
        Ok(grant)
    }

    /// Leaves nothing of a claim that was refused because the key is not free.
    async fn withdraw(&self, request: &Request<'_>) -> Result<()> {
        let id = request.claim.attempt;
        if self.claims.outcome(id) == Some(true) {
            // A late copy would take the lock after it was reported as busy.
            return self.releaser.abort(request.claim).await;
        }
        self.claims.forget_certain(id);
        Ok(())
    }

    fn lost(&self, request: &Request<'_>, lost: LostPart) -> BackendError {
        let endpoints = self.connection.endpoints();
        match lost {
            LostPart::Lease => {
                self.losses.report(Subject::Session(request.claim.lease.id));
                error::lease_lost(endpoints)
            }
            LostPart::Claim => error::claim_lost(endpoints),
        }
    }

    fn patience(&self, request: &Request<'_>) -> Duration {
        let left = request.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        self.connection.patience(left.unwrap_or(self.connection.timeout()))
    }

    /// Pauses after a failure that may pass, or gives up with it.
    async fn pause(&self, request: &Request<'_>, backoff: &mut Backoff, error: BackendError) -> Result<()> {
        let delay = backoff.delay();
        let is_too_late = request.deadline.is_some_and(|deadline| Instant::now() + delay >= deadline);
        if is_too_late || !self.leases.may_live(request.session) || !self.losses.is_open() {
            return Err(error);
        }
        tokio::time::sleep(delay).await;
        Ok(())
    }

    fn nonsense(&self) -> BackendError {
        error::nonsense(self.connection.endpoints())
    }
}
