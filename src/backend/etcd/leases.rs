//! Leases: opened, proven, ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_client::proto::PbKeyValue;
use etcd_client::{Error, LeaseGrantOptions, LeaseKeepAliveStream, LeaseKeeper};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::connection::Connection;
use super::losses::Subject;
use super::names::signed;
use super::numbers::Numbers;
use super::txn::{self, Freshness, Record};
use super::watch::hub::WatchId;
use super::{Shared, answer, error, value};
use crate::backend::{ErrorKind, Lease, LeaseId, Result, Timestamp};

/// How many renewals in a row may be spoilt by a change of leader before one call gives up.
const MAX_PROOFS: u32 = 8;

/// What is known of a lease that lives.
#[derive(Debug)]
pub(super) struct Session {
    id: LeaseId,
    /// The TTL that was asked for.
    asked: Duration,
    record: Vec<u8>,
    value: Vec<u8>,
    facts: Mutex<Facts>,
    pub(super) numbers: Numbers,
    /// Whether this side has begun to revoke it: its end is no loss then.
    revoking: AtomicBool,
    /// Turns true at the end.
    over: watch::Sender<bool>,
}

#[derive(Debug)]
struct Facts {
    ttl: Duration,
    proven: Timestamp,
    /// The highest version of the record that was seen.
    version: i64,
    /// The term of the last linearizable answer about this lease.
    term: u64,
    watch: Option<WatchId>,
}

impl Session {
    /// Returns the record as a transaction should expect it.
    pub(super) fn record(&self) -> Record {
        let version = self.facts.lock().version;
        Record { name: self.record.clone(), value: self.value.clone(), lease: self.id, version }
    }

    /// Takes note of a version of the record.
    pub(super) fn saw_version(&self, version: i64) {
        let mut facts = self.facts.lock();
        facts.version = facts.version.max(version);
    }

    /// Returns the lease with its latest proof.
    pub(super) fn proven(&self, lease: Lease) -> Lease {
        let facts = self.facts.lock();
        if facts.proven > lease.proven { Lease { ttl: facts.ttl, proven: facts.proven, ..lease } } else { lease }
    }

    /// Returns whether the lease may still live at `now`.
    pub(super) fn may_live(&self, now: Timestamp) -> bool {
        let facts = self.facts.lock();
        now < facts.proven + facts.ttl
    }

    /// Returns whether its end would be a loss.
    pub(super) fn is_wanted(&self) -> bool {
        !self.revoking.load(Ordering::Acquire)
    }

    /// Waits for the end of the lease.
    pub(super) async fn ended(&self) {
        let mut over = self.over.subscribe();
        // The sender lives as long as self.
        let _ = over.wait_for(|over| *over).await;
    }
}

/// The leases that live, as far as is known.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<LeaseId, Arc<Session>>>);

impl Sessions {
    /// Returns a lease that has not ended.
    pub(super) fn get(&self, id: LeaseId) -> Option<Arc<Session>> {
        self.0.lock().get(&id).cloned()
    }

    /// Returns the names of all leases that have not ended.
    pub(super) fn ids(&self) -> Vec<LeaseId> {
        self.0.lock().keys().copied().collect()
    }
}

/// Revokes a lease whose opening was given up half-way.
struct RevokeOnDrop<'a> {
    shared: &'a Shared,
    lease: Option<i64>,
}

impl Drop for RevokeOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            let connection: Arc<Connection> = self.shared.connection.clone();
            // If this cannot reach the server either, the lease expires by itself.
            self.shared.connection.handle().spawn(async move { connection.revoke(lease).await });
        }
    }
}

/// Ends a stream by both sides' word. One that is just dropped counts as a failed call on the server.
async fn end(keeper: LeaseKeeper, mut answers: LeaseKeepAliveStream) {
    drop(keeper);
    while let Ok(Some(_)) = answers.message().await {}
}

impl Shared {
    /// Opens a lease and puts its record on it.
    pub(super) async fn open(&self, ttl: Duration, own: bool) -> Result<Lease> {
        self.connection.check(self.names.record(LeaseId(0))).await?;
        // Chosen here, so that an attempt of unknown outcome can be repeated and undone.
        let id = LeaseId((rand::random::<u64>() >> 1).max(1));
        let mut orphan = RevokeOnDrop { shared: self, lease: Some(signed(id)) };
        let proven = self.clock.now();
        let asked = ttl;
        let ttl = self.grant(id, asked).await?;
        let (name, value) = (self.names.record(id), value::of_record(&self.manager));
        let answer = self
            .connection
            .txn(Record { name: name.clone(), value: value.clone(), lease: id, version: 0 }.create())
            .await?;
        let revision = answer::revision(answer.header.as_ref());
        let revision = revision.ok_or_else(|| error::nonsense(self.connection.endpoints()))?;
        let term = answer.header.map_or(0, |header| header.raft_term);
        orphan.lease = None;
        let facts = Mutex::new(Facts { ttl, proven, version: 1, term, watch: None });
        let session = Session {
            id,
            asked,
            record: name.clone(),
            value,
            facts,
            numbers: Numbers::default(),
            revoking: AtomicBool::new(false),
            over: watch::Sender::new(false),
        };
        let session = Arc::new(session);
        // Known before it is watched, or its end could come as a surprise.
        self.sessions.0.lock().insert(id, session.clone());
        session.facts.lock().watch =
            Some(self.losses.watch(self.connection.hub(), Subject::Session(id), name, revision + 1));
        Ok(Lease::new(id, ttl, proven, !own))
    }

    /// Grants a lease and returns its TTL.
    async fn grant(&self, id: LeaseId, ttl: Duration) -> Result<Duration> {
        let seconds = i64::try_from(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).unwrap_or(i64::MAX);
        let granted = self
            .connection
            .retry(|| {
                let mut client = self.connection.lease();
                async move {
                    let options = LeaseGrantOptions::new().with_id(signed(id));
                    match client.grant(seconds, Some(options)).await {
                        Ok(granted) => Ok(granted.ttl()),
                        // The name is random, so it was an earlier copy of this request that came through.
                        Err(error) if error::is_lease_exists(&error) => {
                            client.time_to_live(signed(id), None).await.map(|lease| lease.granted_ttl())
                        }
                        Err(error) => Err(error),
                    }
                }
            })
            .await?;
        answer::ttl(granted, ttl).ok_or_else(|| error::nonsense(self.connection.endpoints()))
    }

    /// Renews a lease within `limit`.
    pub(super) async fn renew(&self, lease: &Lease, limit: Duration) -> Result<Lease> {
        let endpoints = self.connection.endpoints();
        let session = self.sessions.get(lease.id).ok_or_else(|| error::lease_lost(endpoints))?;
        let renewed = tokio::time::timeout(limit, async {
            let mut last = error::no_answer(endpoints, limit);
            for round in 0..MAX_PROOFS {
                // A silent endpoint must leave time for another.
                match self.prove(&session, self.connection.patience(limit)).await {
                    Ok(true) => return Ok(session.proven(*lease)),
                    Ok(false) => {}
                    Err(error) if error.kind() == ErrorKind::Unreachable => last = error,
                    Err(error) => return Err(error),
                }
                if round > 0 {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            Err(last)
        })
        .await
        .unwrap_or_else(|_| Err(error::no_answer(endpoints, limit)));
        if renewed.as_ref().is_err_and(|error| error.kind() == ErrorKind::LeaseLost) {
            self.forget(lease.id);
        }
        renewed
    }

    /// Keeps a lease alive, and returns whether it is proven that the leader of the cluster did.
    ///
    /// A leader that was stopped answers keep-alives that the real one never sees. So the keep-alive only counts if a
    /// linearizable range finds the record afterwards, and no term has begun since the range before it.
    async fn prove(&self, session: &Session, patience: Duration) -> Result<bool> {
        let before = session.facts.lock().term;
        let endpoints = self.connection.endpoints();
        let mut client = self.connection.lease();
        let (id, clock) = (signed(session.id), self.clock.clone());
        let (sent, answer) = self
            .connection
            .once(patience, async move {
                // A stream of its own, since one that hangs never says so. The client swallows the first answer.
                let (mut keeper, mut answers) = client.keep_alive(id).await?;
                let sent = clock.now();
                keeper.keep_alive().await?;
                match answers.message().await? {
                    Some(answer) => {
                        // Apart: nobody waits for it, and the end of this manager does not cut it off.
                        tokio::spawn(tokio::time::timeout(patience, end(keeper, answers)));
                        Ok((sent, answer))
                    }
                    None => Err(Error::LeaseKeepAliveError("the stream has ended".into())),
                }
            })
            .await?;
        if !answer::is_about(answer.id(), session.id) {
            return Err(error::nonsense(endpoints));
        }
        let ttl = answer::ttl(answer.ttl(), session.asked).ok_or_else(|| error::lease_lost(endpoints))?;
        let found = self.connection.key_once(patience, Freshness::Linearizable, &session.record).await?;
        let is_record = |found: &PbKeyValue| found.key == session.record && answer::is_about(found.lease, session.id);
        if !found.kvs.iter().any(is_record) {
            return Err(error::lease_lost(endpoints));
        }
        let kept = answer.header().map(etcd_client::ResponseHeader::raft_term);
        let after = found.header.map(|header| header.raft_term);
        let mut facts = session.facts.lock();
        facts.term = after.unwrap_or_default();
        let counts = kept == Some(before) && after == Some(before);
        if counts {
            (facts.ttl, facts.proven) = (ttl, sent.max(facts.proven));
        }
        Ok(counts)
    }

    /// Ends a lease. Its end is not reported as a loss.
    ///
    /// The watch stays until then: if the server cannot be reached, the lease may end without this.
    pub(super) async fn revoke(&self, id: LeaseId) -> Result<()> {
        if let Some(session) = self.sessions.get(id) {
            session.revoking.store(true, Ordering::Release);
        }
        self.connection.revoke(signed(id)).await?;
        self.forget(id);
        Ok(())
    }

    /// Forgets a lease that is over, and all that was on it. Returns whether it was known.
    pub(super) fn forget(&self, id: LeaseId) -> bool {
        let session = self.sessions.0.lock().remove(&id);
        for watch in self.claims.forget_lease(id) {
            self.losses.unwatch(self.connection.hub(), watch);
        }
        self.releases.forget_lease(id);
        if let Some(session) = &session {
            self.unwatch(session);
            session.over.send_replace(true);
        }
        session.is_some()
    }

    fn unwatch(&self, session: &Session) {
        let watch = session.facts.lock().watch.take();
        if let Some(watch) = watch {
            self.losses.unwatch(self.connection.hub(), watch);
        }
    }

    /// Returns the record that a transaction has to rewrite to keep older copies of a claim from taking effect.
    pub(super) fn rewritten(&self, lease: LeaseId, unknown: bool) -> Option<txn::Record> {
        // Without a session the lease is over, and nothing can be put on it.
        unknown.then(|| self.sessions.get(lease).map(|session| session.record()))?
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Client, Server, run};
    use super::ErrorKind;

    #[test]
    fn a_keep_alive_across_terms_does_not_count() {
        run(async {
            let server = Server::start().await;
            let client = Client::new(&server, "p/").await;
            let shared = &client.etcd.shared();
            let session = shared.sessions.get(client.lease.id).unwrap();
            session.facts.lock().term -= 1;
            let patience = shared.connection.timeout();
            assert!(!shared.prove(&session, patience).await.unwrap());
            assert_eq!(session.facts.lock().proven, client.lease.proven);
            assert!(shared.prove(&session, patience).await.unwrap());
            assert!(session.facts.lock().proven > client.lease.proven);
        });
    }

    #[test]
    fn a_keep_alive_without_the_record_does_not_count() {
        run(async {
            let server = Server::start().await;
            let client = Client::new(&server, "p/").await;
            let shared = &client.etcd.shared();
            let session = shared.sessions.get(client.lease.id).unwrap();
            server.ctl(&["del", &String::from_utf8(session.record.clone()).unwrap()]);
            let refused = shared.prove(&session, shared.connection.timeout()).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::LeaseLost);
            assert_eq!(session.facts.lock().proven, client.lease.proven);
        });
    }
}
