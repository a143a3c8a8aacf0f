//! The leases of a manager: sessions, renewal, loss.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, Either, FutureExt, Shared, join, select};
use futures::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::yield_now;

use super::{Backoff, Core, Entry, HeldGrant, Unconfirmed, overdue};
use crate::Loss;
use crate::arbiter::Terms;
use crate::backend::{AttemptId, BackendError, ErrorKind, Event, HEAD_START, Lease, LeaseId};
use crate::clock::Timestamp;
use crate::keeper::Watched;
use crate::lease::{LeaseCell, Policy, Step};
use crate::report::{debug, error, info, warn};

/// How often the clock is compared while there are leases: tokio's timers do not count suspend.
const LOOK: Duration = Duration::from_millis(100);

/// How many keys, or leases, are cleaned up before something else gets its turn.
const SLICE: usize = 32;
/// How many leases of those that ended together are revoked at the same time.
const CLEAN_UPS: usize = 64;

type Opened = Result<Arc<LeaseCell>, BackendError>;
type Opening = Shared<BoxFuture<'static, Opened>>;

/// All leases, and which of them are sessions that anyone may use.
#[derive(Debug, Default)]
pub(super) struct Leases {
    cells: HashMap<LeaseId, Kept>,
    /// When to look after which of them next.
    due: BTreeSet<(Timestamp, LeaseId)>,
    /// Few: one for each TTL in use.
    sessions: Vec<(Duration, Session)>,
}

#[derive(Debug)]
struct Kept {
    cell: Arc<LeaseCell>,
    due: Timestamp,
    /// The key that is held on it, where it is for one claim.
    entry: Option<Weak<Entry>>,
}

#[derive(Debug)]
enum Session {
    Open(Arc<LeaseCell>),
    Opening(Opening),
}

/// A lease to claim with: at once, or soon.
pub(crate) enum LeaseFor {
    Ready(Opened),
    Soon(Opening),
}

/// Hears of a lease that is being opened. One that is for a single claim ends with the last who would have heard of it.
struct Hearing {
    core: Arc<Core>,
    told: oneshot::Receiver<Opened>,
}

impl Future for Hearing {
    type Output = Opened;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Opened> {
        Pin::new(&mut self.told).poll(cx).map(|told| told.unwrap_or_else(|_| Err(closed())))
    }
}

impl Drop for Hearing {
    fn drop(&mut self) {
        self.told.close();
        if let Ok(Ok(unheard)) = self.told.try_recv()
            && !unheard.is_session()
            && !self.core.keeper.is_forked()
        {
            self.core.end_lease(unheard);
        }
    }
}

impl Leases {
    fn session(&self, ttl: Duration) -> Option<&Session> {
        self.sessions.iter().find(|(known, _)| *known == ttl).map(|(_, session)| session)
    }

    fn set_session(&mut self, ttl: Duration, session: Option<Session>) {
        self.sessions.retain(|(known, _)| *known != ttl);
        self.sessions.extend(session.map(|session| (ttl, session)));
    }

    pub(super) fn drain(&mut self) -> Vec<Arc<LeaseCell>> {
        self.sessions.clear();
        self.due.clear();
        self.cells.drain().map(|(_, kept)| kept.cell).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    fn keep(&mut self, cell: Arc<LeaseCell>, due: Timestamp) {
        self.due.insert((due, cell.id()));
        self.cells.insert(cell.id(), Kept { cell, due, entry: None });
    }

    /// Looks after it no more. Returns the key that is held on it, where it is for one claim and holds.
    fn forget(&mut self, cell: &Arc<LeaseCell>) -> Option<Weak<Entry>> {
        let kept = self.cells.remove(&cell.id());
        let entry = kept.and_then(|kept| {
            self.due.remove(&(kept.due, cell.id()));
            kept.entry
        });
        if !cell.is_session() {
            return entry;
        }
        self.sessions.retain(|(_, session)| !matches!(session, Session::Open(open) if Arc::ptr_eq(open, cell)));
        entry
    }

    /// Has a lease looked after at this time.
    fn schedule(&mut self, id: LeaseId, due: Timestamp) {
        if let Some(kept) = self.cells.get_mut(&id) {
            self.due.remove(&(kept.due, id));
            kept.due = due;
            self.due.insert((due, id));
        }
    }

    /// Takes those that are to be looked after by now; each has to be [scheduled](Self::schedule) again, or forgotten.
    fn take_due(&mut self, now: Timestamp) -> Vec<Arc<LeaseCell>> {
        let mut taken = Vec::new();
        while let Some((_, id)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.due.pop_first();
            taken.extend(self.cells.get(&id).map(|kept| kept.cell.clone()));
        }
        taken
    }

    /// All that are over by now, for one that the due times do not matter to.
    pub(super) fn past_deadline(&self, now: Timestamp) -> Vec<Arc<LeaseCell>> {
        self.cells.values().filter(|kept| now >= kept.cell.deadline()).map(|kept| kept.cell.clone()).collect()
    }
}

impl Terms {
    fn policy(&self) -> Policy {
        Policy { auto_renew: self.auto_renew, max_hold: self.max_hold }
    }

    /// Whether a hold on these terms needs a lease of its own.
    fn wants_own_lease(&self) -> bool {
        self.isolated || !self.auto_renew || self.max_hold.is_some()
    }
}

impl Core {
    /// Returns the session for these terms, or opens a lease.
    pub(crate) fn lease_for(self: &Arc<Self>, terms: &Terms, now: Timestamp) -> LeaseFor {
        let own = terms.wants_own_lease();
        if !own {
            match self.leases.lock().session(terms.ttl) {
                Some(Session::Open(cell)) if cell.quiet_loss(now).is_none() => {
                    return LeaseFor::Ready(Ok(cell.clone()));
                }
                Some(Session::Opening(opening)) => return LeaseFor::Soon(opening.clone()),
                Some(Session::Open(_)) | None => {}
            }
        }
        let (backend, ttl) = (self.backend.clone(), terms.ttl);
        let mut call = async move { backend.open(ttl, own).await }.boxed();
        let polled = self.keeper.enter().ok().and_then(|_within| (&mut call).now_or_never());
        match polled {
            Some(opened) => LeaseFor::Ready(opened.map(|lease| self.keep_lease(lease, terms))),
            None => LeaseFor::Soon(self.open_on_keeper(call, *terms)),
        }
    }

    /// Opens on the keeper, so that nobody who gives up waiting leaves a lease that no one knows.
    fn open_on_keeper(
        self: &Arc<Self>,
        call: BoxFuture<'static, Result<Lease, BackendError>>,
        terms: Terms,
    ) -> Opening {
        let own = terms.wants_own_lease();
        let mut leases = self.leases.lock();
        // Another may have come first, and be done by now.
        match leases.session(terms.ttl).filter(|_| !own) {
            Some(Session::Opening(opening)) => return opening.clone(),
            Some(Session::Open(cell)) if cell.quiet_loss(self.now()).is_none() => {
                return std::future::ready(Ok(cell.clone())).boxed().shared();
            }
            Some(Session::Open(_)) | None => {}
        }
        let (tell, told) = oneshot::channel::<Opened>();
        let opening: Opening = Hearing { core: self.clone(), told }.boxed().shared();
        if !own {
            leases.set_session(terms.ttl, Some(Session::Opening(opening.clone())));
        }
        drop(leases);
        let core = self.clone();
        // A close waits for it: the lease may be there already.
        let unconfirmed = Unconfirmed::new(self);
        self.keeper.spawn(async move {
            let limit = core.defaults.timeout;
            let opened = tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(core.no_answer(limit)));
            let opened = match opened {
                Ok(lease) => Ok(core.keep_lease(lease, &terms)),
                Err(error) => {
                    if !own {
                        core.leases.lock().set_session(terms.ttl, None);
                    }
                    Err(error)
                }
            };
            if let Err(Ok(unwanted)) = tell.send(opened)
                && !unwanted.is_session()
            {
                core.end_lease(unwanted);
            }
            drop(unconfirmed);
        });
        opening
    }

    fn keep_lease(self: &Arc<Self>, lease: Lease, terms: &Terms) -> Arc<LeaseCell> {
        let cell = Arc::new(LeaseCell::new(lease, terms.policy()));
        let now = self.now();
        let known = {
            let mut leases = self.leases.lock();
            let known = match leases.session(terms.ttl) {
                Some(Session::Open(known)) if lease.session && known.quiet_loss(now).is_none() => Some(known.clone()),
                _ => None,
            };
            if known.is_none() {
                leases.keep(cell.clone(), now);
                if !terms.wants_own_lease() {
                    // What the backend does not share is for one of those who wait, and for no later one.
                    leases.set_session(terms.ttl, lease.session.then(|| Session::Open(cell.clone())));
                }
            }
            known
        };
        if let Some(known) = known {
            // Two that began at the same time: one session is enough.
            self.revoke(cell);
            return known;
        }
        if lease.session {
            let name = self.defaults.name.as_ref();
            info!(target: "leasehold", name = name, lease:% = lease.id; "{name}: session {} established, TTL {:?}", lease.id, lease.ttl);
        }
        self.leases_changed.notify_one();
        self.keeper.rouse();
        if self.is_closed() {
            // close() may have looked before this was there to see.
            cell.lose(Loss::Closed, now);
            self.forget_lease(&cell);
            self.revoke(cell.clone());
        }
        cell
    }

    /// Renews a lease no more.
    pub(super) fn forget_lease(&self, cell: &Arc<LeaseCell>) {
        self.leases.lock().forget(cell);
    }

    /// A key is held on this lease. If the lease is for one claim, its end concerns no other key.
    pub(crate) fn lease_holds(&self, cell: &LeaseCell, entry: &Arc<Entry>) {
        if !cell.is_session()
            && let Some(kept) = self.leases.lock().cells.get_mut(&cell.id())
        {
            kept.entry = Some(Arc::downgrade(entry));
        }
    }

    /// Has the keeper go round now.
    pub(crate) fn look_after(&self) {
        self.leases_changed.notify_one();
    }

    /// A lease may be over sooner than it was to be looked after.
    pub(super) fn lease_is_due(&self, cell: &LeaseCell) {
        self.leases.lock().schedule(cell.id(), Timestamp::from_nanos(0));
        self.leases_changed.notify_one();
    }

    /// Renews the lease now. Returns the loss if it cannot be saved.
    pub(crate) async fn renew(self: &Arc<Self>, cell: &Arc<LeaseCell>) -> Result<(), BackendError> {
        self.renew_all(vec![cell.clone()]).await.into_iter().next().unwrap_or(Ok(()))
    }

    async fn renew_all(self: &Arc<Self>, cells: Vec<Arc<LeaseCell>>) -> Vec<Result<(), BackendError>> {
        let leases: Vec<Lease> = cells.iter().map(|cell| cell.lease()).collect();
        let third = leases.iter().map(|lease| lease.ttl / 3).min().unwrap_or(LOOK);
        let limit = third.min(self.defaults.timeout);
        let answers = match tokio::time::timeout(limit, self.backend.renew(&leases)).await {
            Ok(answers) if answers.len() == leases.len() => answers,
            Ok(_) => vec![Err(BackendError::new(ErrorKind::Refused, "renewals without answers")); leases.len()],
            Err(_) => vec![Err(self.no_answer(limit)); leases.len()],
        };
        let now = self.now();
        let outcome = |(cell, answer): (&Arc<LeaseCell>, Result<Lease, BackendError>)| match answer {
            Ok(proof) => {
                self.counters.renewed();
                cell.recovered();
                cell.update(now, |renewal| renewal.renewed(proof, now));
                Ok(())
            }
            Err(error) => {
                self.counters.renewal_failed();
                let name = self.defaults.name.as_ref();
                debug!(target: "leasehold", name = name, lease:% = cell.id(); "{name}: renewal of {} failed: {error}", cell.id());
                cell.failed(&error);
                cell.update(now, |renewal| renewal.failed(error.kind(), now));
                Err(error)
            }
        };
        let outcomes: Vec<_> = cells.iter().zip(answers).map(outcome).collect();
        // Of a lease that is gone, the loss is reported.
        let failures = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
        self.report_renewals(failures.clone().find(|error| error.kind() != ErrorKind::LeaseLost));
        let mut leases = self.leases.lock();
        cells.iter().for_each(|cell| leases.schedule(cell.id(), now));
        drop(leases);
        self.leases_changed.notify_one();
        outcomes
    }

    /// Looks after the leases that are due; returns those to be renewed, and when to look again.
    ///
    /// Costs O(log n) for each that is due. All losses are notified before anything is cleaned up.
    fn look_after_leases(self: &Arc<Self>) -> (Vec<Arc<LeaseCell>>, Option<Timestamp>) {
        let now = self.now();
        let cells = self.leases.lock().take_due(now);
        let (mut renew, mut over, mut later) = (Vec::new(), Vec::new(), Vec::new());
        for cell in cells {
            match cell.step(now) {
                Step::Sleep(until) => later.push((cell.id(), until)),
                Step::Renew => {
                    later.push((cell.id(), cell.deadline()));
                    renew.push(cell);
                }
                Step::Lost(cause) => over.push((cell, cause)),
            }
        }
        let next = {
            let mut leases = self.leases.lock();
            for (id, due) in later {
                leases.schedule(id, due);
            }
            leases.due.first().map(|(due, _)| *due)
        };
        self.leases_are_over(over);
        (renew, next)
    }

    /// Cleans up after leases whose losses have been notified.
    fn leases_are_over(self: &Arc<Self>, over: Vec<(Arc<LeaseCell>, Loss)>) {
        if over.is_empty() {
            return;
        }
        let mut entries = Vec::new();
        {
            let mut leases = self.leases.lock();
            over.iter().for_each(|(cell, _)| entries.extend(leases.forget(cell)));
        }
        let has_session = over.iter().any(|(cell, _)| cell.is_session());
        for (cell, cause) in over.iter().filter(|(cell, _)| cell.is_session()) {
            let name = self.defaults.name.as_ref();
            warn!(target: "leasehold", name = name, lease:% = cell.id(); "{name}: session {} lost: {cause}{}", cell.id(), cell.because(*cause));
        }
        let core = self.clone();
        let unconfirmed = Unconfirmed::new(self);
        self.keeper.spawn(async move {
            let entries = match has_session {
                true => core.entries_in_use(),
                false => entries.iter().filter_map(Weak::upgrade).collect(),
            };
            core.purge_each(entries).await;
            // Whatever is left of them on the server goes as soon as the server can be reached.
            let at_deadline = |(_, cause): &(Arc<LeaseCell>, Loss)| matches!(cause, Loss::Expired | Loss::Unreachable);
            let (later, at_once): (Vec<_>, Vec<_>) = over.into_iter().partition(at_deadline);
            let later = async {
                if !later.is_empty() {
                    tokio::time::sleep(HEAD_START).await;
                }
                core.revoke_each(later).await;
            };
            join(core.revoke_each(at_once), later).await;
            drop(unconfirmed);
        });
    }

    /// Ends leases that are over, many at a time.
    async fn revoke_each(self: &Arc<Self>, over: Vec<(Arc<LeaseCell>, Loss)>) {
        let mut revoking = FuturesUnordered::new();
        for (place, (cell, _)) in over.into_iter().enumerate() {
            revoking.push(self.revoke_until_confirmed(cell));
            if revoking.len() == CLEAN_UPS {
                revoking.next().await;
            }
            if place % SLICE == SLICE - 1 {
                yield_now().await;
            }
        }
        while revoking.next().await.is_some() {}
    }

    /// Lets the waiters of lost grants of these keys go to the backend, in slices.
    async fn purge_each(self: &Arc<Self>, entries: Vec<Arc<Entry>>) {
        for (place, entry) in entries.into_iter().enumerate() {
            self.purge(&entry, self.now());
            if place % SLICE == SLICE - 1 {
                yield_now().await;
            }
        }
    }

    /// Lets the waiters of lost grants of this key go to the backend.
    fn purge(self: &Arc<Self>, entry: &Arc<Entry>, now: Timestamp) {
        for held in entry.purge(self, now) {
            self.report(&held, held.loss(now).unwrap_or(Loss::Expired));
        }
    }

    /// Counts and logs a grant that is lost. Closing the manager is no news.
    pub(super) fn report(&self, held: &HeldGrant, cause: Loss) {
        if cause == Loss::Closed {
            return;
        }
        self.counters.lost(cause);
        let (name, key, token) = (self.defaults.name.as_ref(), held.entry.key.as_ref(), held.first_token().get());
        warn!(
            target: "leasehold", name = name, key = key, token = token, lease:% = held.cell.id();
            "{name}: lock {key:?} lost (token {token}): {cause}{}", held.cell.because(cause)
        );
    }

    fn on_events(self: &Arc<Self>, events: &[Event]) {
        let now = self.now();
        let (mut claims, mut over) = (HashSet::new(), Vec::new());
        for event in events {
            match event {
                Event::LeaseLost(id) => {
                    let cell = self.leases.lock().cells.get(id).map(|kept| kept.cell.clone());
                    over.extend(cell.map(|cell| {
                        let cause = cell.lose(Loss::Revoked, now).unwrap_or(Loss::Revoked);
                        (cell, cause)
                    }));
                }
                Event::ClaimLost(attempt) => {
                    // Noted before the look: whoever is about to take the grant looks here after having taken it.
                    self.strays.add(*attempt);
                    claims.insert(*attempt);
                }
            }
        }
        // One look at all keys for all of them: a lease that ends may take ten thousand claims along.
        let mut lost = Vec::new();
        if !claims.is_empty() {
            for entry in self.entries_in_use() {
                let found = entry.find(&claims);
                found.iter().for_each(|held| held.lose(Loss::Revoked, now));
                lost.extend((!found.is_empty()).then_some(entry));
            }
        }
        self.leases_are_over(over);
        if !lost.is_empty() {
            let core = self.clone();
            self.keeper.spawn(async move { core.purge_each(lost).await });
        }
    }

    /// Whether the server has told that this attempt's claim is gone.
    pub(crate) fn has_lost(&self, attempt: AttemptId) -> bool {
        self.strays.contains(attempt)
    }

    /// Ends a hold whose claim was lost between its grant and now.
    pub(crate) fn lose_if_stray(self: &Arc<Self>, held: &HeldGrant, now: Timestamp) {
        if self.has_lost(held.grant.attempt) {
            held.lose(Loss::Revoked, now);
            self.purge(&held.entry, now);
        }
    }

    /// Ends all leases, of which nobody knows what became.
    fn lose_all(self: &Arc<Self>) {
        let (now, cells) = (self.now(), self.leases.lock().drain());
        let lose = |cell: Arc<LeaseCell>| {
            let cause = cell.lose(Loss::Expired, now).unwrap_or(Loss::Expired);
            (cell, cause)
        };
        self.leases_are_over(cells.into_iter().map(lose).collect());
    }

    /// Lets waiters claim who wait for a hand-over that will not come.
    fn nudge_contended(self: &Arc<Self>) {
        let contended = std::mem::take(&mut *self.contended.lock());
        let now = self.now();
        for entry in contended.iter().filter_map(Weak::upgrade) {
            let effects = entry.arbiter().nudge(now);
            self.carry_out(&entry, effects);
        }
    }
}

/// Attempts whose claims were lost of late: some before their grants were fetched, so that nobody had them yet.
#[derive(Debug, Default)]
pub(super) struct Strays {
    any: AtomicBool,
    recent: Mutex<VecDeque<AttemptId>>,
}

impl Strays {
    /// Most are known by the time they get here, so only a burst could push one out that is not.
    const MOST: usize = 4096;

    fn add(&self, attempt: AttemptId) {
        let mut recent = self.recent.lock();
        if recent.len() == Self::MOST {
            recent.pop_front();
        }
        recent.push_back(attempt);
        self.any.store(true, Ordering::Release);
    }

    fn contains(&self, attempt: AttemptId) -> bool {
        self.any.load(Ordering::Acquire) && self.recent.lock().contains(&attempt)
    }
}

impl Watched for Core {
    fn check(self: Arc<Self>) -> bool {
        let now = self.now();
        let last_round = Timestamp::from_nanos(self.last_round.load(Ordering::Acquire));
        let (has_any, late) = {
            let leases = self.leases.lock();
            let is_held_up = now.since(last_round) > LOOK;
            (!leases.is_empty(), if is_held_up { leases.past_deadline(now) } else { Vec::new() })
        };
        if !late.is_empty() && !self.is_rescuing.swap(true, Ordering::AcqRel) {
            // On a thread of its own: what holds the keeper up may be a waker that blocks, and may be called again here.
            let core = self.clone();
            let fire = move || {
                late.iter().for_each(|cell| _ = cell.loss(now));
                core.is_rescuing.store(false, Ordering::Release);
            };
            if std::thread::Builder::new().name("leasehold-losses".into()).spawn(fire).is_err() {
                self.is_rescuing.store(false, Ordering::Release);
            }
        }
        has_any
    }
}

pub(super) fn closed() -> BackendError {
    BackendError::new(ErrorKind::Closed, "the manager is closed")
}

/// Runs a task of the manager until it returns. If it panics, the holds are lost, since it may have missed something, and it begins
/// again.
pub(super) async fn supervise<F: Future<Output = ()>>(core: Arc<Core>, task: impl Fn(Arc<Core>) -> F) {
    while AssertUnwindSafe(task(core.clone())).catch_unwind().await.is_err() {
        let name = core.defaults.name.as_ref();
        error!(target: "leasehold", name = name; "{name}: a background task panicked: all holds are lost");
        core.lose_all();
        tokio::time::sleep(LOOK).await;
    }
}

/// Renews and watches the manager's leases until it ends.
pub(super) async fn keep(core: Arc<Core>) {
    let mut renewals = FuturesUnordered::new();
    let mut ended = std::pin::pin!(core.has_ended());
    let mut told = core.now();
    loop {
        core.last_round.store(core.now().as_nanos(), Ordering::Release);
        if core.now().since(told) > overdue::EVERY {
            told = core.now();
            core.tell_overdue();
        }
        let changed = core.leases_changed.notified();
        core.report_outage();
        core.nudge_contended();
        let (due, next) = core.look_after_leases();
        if !due.is_empty() {
            let core = core.clone();
            renewals.push(async move { core.renew_all(due).await });
        }
        let pause = match next {
            Some(next) => next.since(core.now()).min(LOOK),
            None if !core.contended.lock().is_empty() || core.is_outage_logged() => LOOK,
            None => Duration::from_secs(3600),
        };
        let timer = std::pin::pin!(tokio::time::sleep(pause));
        let changed = std::pin::pin!(changed);
        let news = async {
            if renewals.is_empty() {
                std::future::pending::<()>().await;
            }
            renewals.next().await;
        };
        let news = std::pin::pin!(news);
        match select(select(timer, changed), select(news, &mut ended)).await {
            Either::Right((Either::Right(_), _)) => return,
            Either::Left(_) | Either::Right(_) => {}
        }
    }
}

/// Hears what the server tells until the manager ends.
pub(super) async fn listen(core: Arc<Core>) {
    let mut ended = std::pin::pin!(core.has_ended());
    let mut backoff = Backoff::new();
    loop {
        match select(core.backend.next_event(), &mut ended).await {
            Either::Left((Ok(event), _)) => {
                let mut events = vec![event];
                while events.len() < Strays::MOST
                    && let Some(Ok(event)) = core.backend.next_event().now_or_never()
                {
                    events.push(event);
                }
                core.on_events(&events);
                backoff = Backoff::new();
            }
            Either::Left((Err(error), _)) => {
                let name = core.defaults.name.as_ref();
                debug!(target: "leasehold", name = name; "{name}: no events: {error}");
                let pause = std::pin::pin!(backoff.pause(&core));
                if let Either::Right(_) = select(pause, &mut ended).await {
                    return;
                }
            }
            Either::Right(_) => return,
        }
    }
}
