//! The states of a key, and whether a hold is wanted.
//!
//! A look arms an ear and reads the lock in one script, so no change between two looks is missed. Other clients' changes, and holds that
//! end, are found by looks at intervals.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, Stream};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::claims::Claims;
use super::ears::{Ear, Kind};
use super::inspect::Snapshot;
use super::names::{Name, Names};
use super::requests::PendingAnswer;
use super::router::Router;
use super::scripts::Op;
use super::{answers, error};
use crate::backend::{AttemptId, ErrorKind, Result};
use crate::info::LockInfo;

/// The shortest time between two looks of a listener.
const APART: Duration = Duration::from_millis(10);

/// How often an observer looks.
const LOOK: Duration = Duration::from_secs(5);

/// How often it looks after an error.
const RETRY: Duration = Duration::from_millis(500);

/// How often a hold is checked for waiters. An ear lives for 60 s.
const LISTEN: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct Observers {
    pub(super) names: Names,
    pub(super) manager: u64,
    pub(super) claims: Arc<Claims>,
    pub(super) router: Arc<Router>,
    /// How long an answer may take before the state counts as unknown.
    pub(super) limit: Duration,
}

impl Observers {
    /// The states of a key.
    pub(super) fn observe<'a>(&'a self, key: &'a str) -> impl Stream<Item = Result<Option<LockInfo>>> + 'a {
        stream::unfold(Some(self.observer(key)), |observer| async {
            match observer? {
                Ok(mut observer) => {
                    let state = observer.next().await;
                    let goes_on = state.as_ref().err().is_none_or(|error| error.kind() == ErrorKind::Unreachable);
                    Some((state, goes_on.then_some(Ok(observer))))
                }
                Err(refused) => Some((Err(refused), None)),
            }
        })
    }

    fn observer<'a>(&'a self, key: &'a str) -> Result<Observer<'a>> {
        let (name, ear) = (self.names.of(key)?, Ear::new(&self.claims.ears, Kind::Holders, self.manager));
        Ok(Observer { observers: self, key, name, ear, looking: None, next: None })
    }

    /// Waits until somebody waits for the lock of a hold.
    pub(super) async fn wanted(&self, id: AttemptId) -> Result<()> {
        let lost = || error::lost(self.router.server());
        let attempt = self.claims.get(id).ok_or_else(lost)?;
        let ear = Ear::new(&self.claims.ears, Kind::Waiters, self.manager);
        loop {
            let begun = Instant::now();
            let answer = self.router.request_one(Op::Listen(attempt.clone(), ear.member.clone())).await?;
            match answers::text(&answer) {
                Some("1") => return Ok(()),
                Some("0") => {}
                Some("n") => return Err(lost()),
                _ => return Err(error::malformed(self.router.server())),
            }
            // Without a notification it is checked after that time.
            let _ = timeout_at(begun + LISTEN, ear.rung()).await;
            sleep_until(begun + APART).await;
        }
    }
}

/// An observer of one key.
struct Observer<'a> {
    observers: &'a Observers,
    key: &'a str,
    name: Arc<Name>,
    ear: Ear,
    /// The look that was not answered in time.
    looking: Option<PendingAnswer>,
    /// When to look at the earliest, and at the latest. `None` before the first look.
    next: Option<(Instant, Instant)>,
}

impl Observer<'_> {
    /// The state of the key when it may have changed since the last one.
    async fn next(&mut self) -> Result<Option<LockInfo>> {
        let state = self.look().await;
        let now = Instant::now();
        let pause = match &state {
            // A hold may end then.
            Ok(Some(info)) => info.remaining.map_or(LOOK, |left| (left + Duration::from_millis(2)).min(LOOK)),
            Ok(None) => LOOK,
            Err(_) => RETRY,
        };
        self.next = Some((now + APART, now + pause));
        state
    }

    async fn look(&mut self) -> Result<Option<LockInfo>> {
        let Observers { router, limit, .. } = self.observers;
        let answer = match self.looking.take() {
            Some(late) => late.await?,
            None => {
                if let Some((earliest, latest)) = self.next {
                    let _ = timeout_at(latest, self.ear.rung()).await;
                    sleep_until(earliest).await;
                }
                let ear = self.ear.member.clone();
                let mut looking = router.request_one(Op::Inspect(self.name.clone(), Some(ear)));
                match timeout(*limit, &mut looking).await {
                    Ok(answer) => answer?,
                    Err(_) => {
                        self.looking = Some(looking);
                        return Err(error::no_answer(router.server(), *limit));
                    }
                }
            }
        };
        let snapshot = Snapshot::read(answer).ok_or_else(|| error::malformed(router.server()))?;
        Ok(snapshot.info(self.key))
    }
}
