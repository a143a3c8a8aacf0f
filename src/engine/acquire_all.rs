//! Acquiring several keys: one after another in the order of the keys, all or none.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;

use super::acquire::Acquisition;
use super::{EngineHandle, Entry, RequestOptions, Share};
use crate::backend::Wait;
use crate::backend::backoff::Backoff;
use crate::error::{LockError, Result};
use crate::owner::{Owner, OwnerSource};

type Acquired = Result<Option<Vec<Share>>>;

/// An acquire of several keys.
pub(crate) struct AllAcquisition(State);

enum State {
    Start(Result<Request>),
    Waiting(BoxFuture<'static, Acquired>),
    Done,
}

impl AllAcquisition {
    pub(crate) fn new(
        engine: Arc<EngineHandle>,
        asked: Result<Vec<Arc<Entry>>>,
        options: RequestOptions,
        wait: Wait,
    ) -> Self {
        Self(State::Start(asked.map(|asked| Request::new(engine, asked, options, wait))))
    }
}

impl Future for AllAcquisition {
    type Output = Acquired;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Acquired> {
        if let State::Start(..) = self.0
            && let State::Start(start) = std::mem::replace(&mut self.0, State::Done)
        {
            match start.and_then(|keys| keys.enter(cx)) {
                Ok(entered) => self.0 = State::Waiting(Box::pin(entered.acquire())),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let State::Waiting(waiting) = &mut self.0 else { return Poll::Pending };
        let polled = waiting.as_mut().poll(cx);
        if polled.is_ready() {
            self.0 = State::Done;
        }
        polled
    }
}

/// The request.
struct Request {
    engine: Arc<EngineHandle>,
    /// Each once, in the order of their bytes.
    sorted: Vec<Arc<Entry>>,
    /// In the order of the request: the index of each key in `sorted`.
    places: Vec<usize>,
    options: RequestOptions,
    wait: Wait,
}

/// The request with its owner.
struct Entered {
    request: Request,
    owners: Vec<Owner>,
    /// Shares of the keys that the owner held already.
    shares: Vec<Option<Share>>,
}

impl Request {
    fn new(engine: Arc<EngineHandle>, asked: Vec<Arc<Entry>>, options: RequestOptions, wait: Wait) -> Self {
        let mut sorted = asked.clone();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        sorted.dedup_by(|a, b| a.key == b.key);
        let place = |entry: &Arc<Entry>| sorted.partition_point(|other| other.key < entry.key);
        let places = asked.iter().map(place).collect();
        Self { engine, sorted, places, options, wait }
    }

    /// Derives the owner, and takes shares of its holds now: later it might not have them any more.
    fn enter(self, cx: &Context<'_>) -> Result<Entered> {
        let (now, caller) = (self.engine.base.now(), self.options.caller(&self.engine.base.defaults, cx));
        let (mut owners, mut shares) = (Vec::new(), Vec::new());
        for entry in &self.sorted {
            self.engine.base.check_open(Some(&entry.key), "lock")?;
            let mut arbiter = entry.arbiter();
            let owner = caller.for_key(|owner| arbiter.enters(owner, &self.options.terms, now));
            let entered = arbiter.enter(&owner, &self.options.terms, now);
            drop(arbiter);
            owners.push(owner);
            shares.push(match entered {
                Some(Ok((hold, _))) => Some(Share::new(hold, entry.clone())),
                Some(Err(reason)) => return Err(LockError::AlreadyHeld { key: entry.key.to_string(), reason }),
                None => None,
            });
        }
        Ok(Entered { request: self, owners, shares })
    }
}

impl Entered {
    async fn acquire(mut self) -> Acquired {
        let base = self.request.engine.base.clone();
        let limit = self.request.options.limit(&base.defaults, self.request.wait);
        let started = base.now();
        let rest = || limit.map(|limit| limit.saturating_sub(base.now().since(started)));
        let mut losses = Backoff::at_once();
        loop {
            for place in 0..self.request.sorted.len() {
                if self.shares[place].is_none() {
                    match self.one(place, rest()).await {
                        Ok(Some(share)) => self.shares[place] = Some(share),
                        Ok(None) => return Ok(None),
                        Err(error) => return Err(of_all(error, limit)),
                    }
                }
            }
            let lost = |share: &Option<Share>| share.as_ref().is_some_and(Share::is_lost);
            if !self.shares.iter().any(lost) {
                match self.in_order() {
                    Err(LockError::Expired { .. }) => {}
                    shares => return shares.map(Some),
                }
            }
            // Lost during the wait for another key. Waiting for this one while holding those would be out of order.
            self.shares.iter_mut().for_each(|share| *share = None);
            losses.pause().await;
            // A hold that ends as soon as it is granted was granted without a wait, which would notice the limit.
            if let Some(after) = limit.filter(|_| rest() == Some(Duration::ZERO)) {
                let key = self.request.sorted[0].key.to_string();
                return Err(LockError::Timeout { key, after, holder: None, own: false, source: None });
            }
        }
    }

    fn one(&self, place: usize, rest: Option<Duration>) -> Acquisition {
        let Request { engine, sorted, options, wait, .. } = &self.request;
        let mut options = options.clone().within(rest);
        options.owner = OwnerSource::Owner(self.owners[place].clone());
        Acquisition::new(engine.clone(), Ok(sorted[place].clone()), options, *wait)
    }

    /// The shares in the order of the request. A repeated key gets one more share.
    fn in_order(&mut self) -> Result<Vec<Share>> {
        let places = &self.request.places;
        let mut given: Vec<Share> = Vec::with_capacity(places.len());
        for place in places {
            let share = match self.shares[*place].take() {
                Some(share) => share,
                None => {
                    let first = places.iter().position(|other| other == place).unwrap_or_default();
                    given[first].reenter()?
                }
            };
            given.push(share);
        }
        Ok(given)
    }
}

/// Sets the time in a timeout error: the timeout was for all keys together.
fn of_all(error: LockError, limit: Option<Duration>) -> LockError {
    match (error, limit) {
        (LockError::Timeout { key, holder, own, source, .. }, Some(after)) => {
            LockError::Timeout { key, after, holder, own, source }
        }
        (error, _) => error,
    }
}
