//! The way to several holds: one after another in the order of their keys, all or none.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;

use crate::acquire::Acquisition;
use crate::engine::{Entry, Life};
use crate::guard::LockGuard;
use crate::guards::LockGuards;
use crate::owner::{Owner, OwnerSource};
use crate::request::Options;
use crate::{LockError, Result};

type Acquired = Result<Option<LockGuards>>;

/// An acquire of several keys.
pub(crate) struct AllAcquired(State);

enum State {
    Start(Result<Keys>),
    Waiting(BoxFuture<'static, Acquired>),
    Done,
}

impl AllAcquired {
    pub(crate) fn new(life: Arc<Life>, asked: Result<Vec<Arc<Entry>>>, options: Options, wait: bool) -> Self {
        Self(State::Start(asked.map(|asked| Keys::new(life, asked, options, wait))))
    }
}

impl Future for AllAcquired {
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

/// What is asked for.
struct Keys {
    life: Arc<Life>,
    /// Each once, in the order of their bytes.
    sorted: Vec<Arc<Entry>>,
    /// In the order asked, each key's place among the sorted.
    places: Vec<usize>,
    options: Options,
    wait: bool,
}

/// The same, once it is known who asks.
struct Entered {
    keys: Keys,
    owners: Vec<Owner>,
    /// Of the keys that the owner held already.
    guards: Vec<Option<LockGuard>>,
}

impl Keys {
    fn new(life: Arc<Life>, asked: Vec<Arc<Entry>>, options: Options, wait: bool) -> Self {
        let mut sorted = asked.clone();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        sorted.dedup_by(|a, b| a.key == b.key);
        let place = |entry: &Arc<Entry>| sorted.partition_point(|other| other.key < entry.key);
        let places = asked.iter().map(place).collect();
        Self { life, sorted, places, options, wait }
    }

    /// Finds the owner, and takes what it holds already: later it might not any more.
    fn enter(self, cx: &Context<'_>) -> Result<Entered> {
        let (now, caller) = (self.life.now(), self.options.caller(&self.life, cx));
        let (mut owners, mut guards) = (Vec::new(), Vec::new());
        for entry in &self.sorted {
            self.life.check_open(Some(&entry.key), "lock")?;
            let mut arbiter = entry.arbiter();
            let owner = caller.for_key(|owner| arbiter.holds(owner, now));
            let entered = arbiter.enter(&owner, self.options.terms.mode, now);
            drop(arbiter);
            owners.push(owner);
            guards.push(match entered {
                Some(Ok((hold, _))) => Some(LockGuard::new(hold)),
                Some(Err(reason)) => return Err(LockError::AlreadyHeld { key: entry.key.to_string(), reason }),
                None => None,
            });
        }
        Ok(Entered { keys: self, owners, guards })
    }
}

impl Entered {
    async fn acquire(mut self) -> Acquired {
        let life = self.keys.life.clone();
        let limit = self.keys.options.limit(&life, self.keys.wait);
        let started = life.now();
        let rest = || limit.map(|limit| limit.saturating_sub(life.now().since(started)));
        loop {
            for place in 0..self.keys.sorted.len() {
                if self.guards[place].is_none() {
                    match self.one(place, rest()).await {
                        Ok(Some(guard)) => self.guards[place] = Some(guard),
                        Ok(None) => return Ok(None),
                        Err(error) => return Err(of_all(error, limit)),
                    }
                }
            }
            let lost = |guard: &Option<LockGuard>| guard.as_ref().is_some_and(LockGuard::is_lost);
            if !self.guards.iter().any(lost) {
                match self.in_order() {
                    Err(LockError::Expired { .. }) => {}
                    guards => return guards.map(Some),
                }
            }
            // Waiting for one of the others has taken too long. To wait for this one while holding those would be out of order.
            self.guards.iter_mut().for_each(|guard| *guard = None);
        }
    }

    fn one(&self, place: usize, rest: Option<Duration>) -> Acquisition {
        let Keys { life, sorted, options, wait, .. } = &self.keys;
        let mut options = options.clone().within(rest);
        options.owner = OwnerSource::Owner(self.owners[place].clone());
        Acquisition::new(life.clone(), Ok(sorted[place].clone()), options, *wait)
    }

    /// The guards in the order asked. A key that was named before has one guard more.
    fn in_order(&mut self) -> Result<LockGuards> {
        let places = &self.keys.places;
        let mut given: Vec<LockGuard> = Vec::with_capacity(places.len());
        for place in places {
            let guard = match self.guards[*place].take() {
                Some(guard) => guard,
                None => {
                    let first = places.iter().position(|other| other == place).unwrap_or_default();
                    given[first].reenter()?
                }
            };
            given.push(guard);
        }
        Ok(LockGuards::new(given))
    }
}

/// The timeout was for all keys together.
fn of_all(error: LockError, limit: Option<Duration>) -> LockError {
    match (error, limit) {
        (LockError::Timeout { key, holder, own, source, .. }, Some(after)) => {
            LockError::Timeout { key, after, holder, own, source }
        }
        (error, _) => error,
    }
}
