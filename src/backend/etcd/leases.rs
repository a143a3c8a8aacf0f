//! Leases: opened, renewed, revoked.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::PbKeyValue;
use etcd_client::{Error, LeaseGrantOptions, LeaseKeepAliveStream, LeaseKeeper, ResponseHeader};
use futures::future::join_all;

use super::connection::Connection;
use super::losses::Losses;
use super::names::{Names, signed};
use super::position::Freshness;
use super::session::{KeepAlive, Session, Sessions};
use super::txn::Record;
use super::value::{self, Writer};
use super::watched::Subject;
use super::{answer, error};
use crate::backend::{Clock, ErrorKind, Lease, LeaseId, LeaseScope, Result};

/// How many renewals in a row may be spoilt by a change of leader before one call gives up.
const MAX_PROOFS: u32 = 8;

/// The pause after a renewal that proved nothing.
const PAUSE: Duration = Duration::from_millis(50);

/// The leases of one manager.
pub(super) struct Leases {
    connection: Arc<Connection>,
    names: Names,
    clock: Arc<dyn Clock>,
    writer: Writer,
    sessions: Arc<Sessions>,
    losses: Arc<Losses>,
}

/// Revokes a lease that was only partly opened.
struct RevokeOnDrop<'a> {
    connection: &'a Arc<Connection>,
    lease: Option<i64>,
}

impl Drop for RevokeOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            let connection = self.connection.clone();
            // If the server cannot be reached for this either, the lease expires.
            self.connection.handle().spawn(async move { connection.revoke(lease).await });
        }
    }
}

/// Ends a stream of keep-alives on both sides. The server would count one that is just dropped as a failed call.
async fn end(keeper: LeaseKeeper, mut answers: LeaseKeepAliveStream) {
    drop(keeper);
    while let Ok(Some(_)) = answers.message().await {}
}

impl Leases {
    /// Creates the leases of a manager, whose claims have the values of this writer.
    pub(super) fn new(
        connection: Arc<Connection>,
        names: Names,
        clock: Arc<dyn Clock>,
        writer: Writer,
        sessions: Arc<Sessions>,
        losses: Arc<Losses>,
    ) -> Self {
        Self { connection, names, clock, writer, sessions, losses }
    }

    /// Returns the writer of the claims' values.
    pub(super) fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Returns the session of a lease.
    pub(super) fn session(&self, id: LeaseId) -> Result<Arc<Session>> {
        self.sessions.get(id).ok_or_else(|| error::lease_lost(self.connection.endpoints()))
    }

    /// Returns whether a lease may still be alive.
    pub(super) fn may_live(&self, session: &Session) -> bool {
        session.may_live(self.clock.now())
    }

    /// Returns the record that a transaction has to rewrite to keep older copies of a claim from taking effect.
    pub(super) fn record_to_rewrite(&self, lease: LeaseId, is_unknown: bool) -> Option<Record> {
        self.sessions.record_to_rewrite(lease, is_unknown)
    }

    /// Opens a lease and puts its record on it.
    pub(super) async fn open(&self, ttl: Duration, scope: LeaseScope) -> Result<Lease> {
        self.connection.check(self.names.record(LeaseId(0))).await?;
        // Chosen here, so that an attempt of unknown outcome can be repeated and undone.
        let id = LeaseId((rand::random::<u64>() >> 1).max(1));
        let mut partly_opened = RevokeOnDrop { connection: &self.connection, lease: Some(signed(id)) };
        let proven = self.clock.now();
        let granted = self.grant(id, ttl).await?;
        let lease = Lease::new(id, granted, proven, scope);
        let (name, value) = (self.names.record(id).into(), value::of_record(self.writer.manager()).into());
        let record = Record { name, value, lease: id, version: 0 };
        let answer = self.connection.txn(record.create()).await?;
        let revision = answer::revision(answer.header.as_ref());
        let revision = revision.ok_or_else(|| error::nonsense(self.connection.endpoints()))?;
        partly_opened.lease = None;
        let term = answer.header.map_or(0, |header| header.raft_term);
        let session = Arc::new(Session::new(record, ttl, &lease, term));
        // Added before it is watched, or its end would not be reported.
        self.sessions.add(session.clone());
        self.losses.watch_session(&session, revision + 1);
        Ok(lease)
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
                        // The id is random, so an earlier copy of this request has granted it.
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

    /// Renews leases at the same time. Returns one result for each, in their order.
    pub(super) async fn renew(&self, leases: &[Lease]) -> Vec<Result<Lease>> {
        let third = leases.iter().map(|lease| lease.ttl / 3).min().unwrap_or_default();
        let limit = third.mul_f64(0.9).min(self.connection.timeout());
        join_all(leases.iter().map(|lease| self.renew_one(lease, limit))).await
    }

    async fn renew_one(&self, lease: &Lease, limit: Duration) -> Result<Lease> {
        let session = self.session(lease.id)?;
        let no_answer = || error::no_answer(self.connection.endpoints(), limit);
        let renewed = tokio::time::timeout(limit, async {
            let mut last = no_answer();
            for round in 0..MAX_PROOFS {
                // A silent endpoint must leave time for another one.
                match self.prove(&session, self.connection.patience(limit)).await {
                    Ok(true) => return Ok(session.proven(*lease)),
                    Ok(false) => {}
                    Err(error) if error.kind() == ErrorKind::Unreachable => last = error,
                    Err(error) => return Err(error),
                }
                if round > 0 {
                    tokio::time::sleep(PAUSE).await;
                }
            }
            Err(last)
        })
        .await
        .unwrap_or_else(|_| Err(no_answer()));
        if renewed.as_ref().is_err_and(|error| error.kind() == ErrorKind::LeaseLost) {
            self.losses.report(Subject::Session(lease.id));
        }
        renewed
    }

    /// Keeps a lease alive, and returns whether that is proven.
    ///
    /// ⚠ A leader that was stopped answers keep-alives that the current leader never sees. So a keep-alive only counts if a
    /// linearizable read finds the record afterwards, and no term has begun since the read before it.
    async fn prove(&self, session: &Session, patience: Duration) -> Result<bool> {
        let before = session.term();
        let endpoints = self.connection.endpoints();
        let mut client = self.connection.lease();
        let (id, clock) = (signed(session.id()), self.clock.clone());
        let (sent, answer) = self
            .connection
            .once(patience, async move {
                // A new stream each time, since one that hangs does not fail. The client swallows the first answer.
                let (mut keeper, mut answers) = client.keep_alive(id).await?;
                let sent = clock.now();
                keeper.keep_alive().await?;
                match answers.message().await? {
                    Some(answer) => {
                        // In a separate task: no caller waits for it, and the end of this manager does not cut it off.
                        tokio::spawn(tokio::time::timeout(patience, end(keeper, answers)));
                        Ok((sent, answer))
                    }
                    None => Err(Error::LeaseKeepAliveError("the stream has ended".into())),
                }
            })
            .await?;
        if !answer::is_about(answer.id(), session.id()) {
            return Err(error::nonsense(endpoints));
        }
        let ttl = answer::ttl(answer.ttl(), session.requested_ttl()).ok_or_else(|| error::lease_lost(endpoints))?;
        let found = self.connection.key_once(patience, Freshness::Linearizable, session.record_name()).await?;
        let is_record =
            |found: &PbKeyValue| *found.key == **session.record_name() && answer::is_about(found.lease, session.id());
        if !found.kvs.iter().any(is_record) {
            return Err(error::lease_lost(endpoints));
        }
        let kept = answer.header().map(ResponseHeader::raft_term);
        let after = found.header.map(|header| header.raft_term);
        Ok(session.renewed(KeepAlive { sent, ttl, terms: [Some(before), kept, after] }))
    }

    /// Ends a lease. Its end is not reported as a loss.
    ///
    /// The watch stays until then: if the server cannot be reached, the lease may end without this.
    pub(super) async fn revoke(&self, id: LeaseId) -> Result<()> {
        if let Some(session) = self.sessions.get(id) {
            session.revoking();
        }
        self.connection.revoke(signed(id)).await?;
        self.losses.forget(id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Client, Server, run};
    use super::*;

    #[test]
    fn a_keep_alive_across_terms_does_not_count() {
        run(async {
            let server = Server::start().await;
            let client = Client::new(&server, "p/").await;
            let leases = &client.etcd.parts().unwrap().leases;
            let session = leases.session(client.lease.id).unwrap();
            let term = session.term();
            session.renewed(KeepAlive {
                sent: client.lease.proven,
                ttl: client.lease.ttl,
                terms: [None, None, Some(term - 1)],
            });
            let patience = leases.connection.timeout();
            assert!(!leases.prove(&session, patience).await.unwrap());
            assert_eq!(session.proven(client.lease).proven, client.lease.proven);
            assert!(leases.prove(&session, patience).await.unwrap());
            assert!(session.proven(client.lease).proven > client.lease.proven);
        });
    }

    #[test]
    fn a_keep_alive_without_the_record_does_not_count() {
        run(async {
            let server = Server::start().await;
            let client = Client::new(&server, "p/").await;
            let leases = &client.etcd.parts().unwrap().leases;
            let session = leases.session(client.lease.id).unwrap();
            server.ctl(&["del", std::str::from_utf8(session.record_name()).unwrap()]);
            let refused = leases.prove(&session, leases.connection.timeout()).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::LeaseLost);
            assert_eq!(session.proven(client.lease).proven, client.lease.proven);
        });
    }
}
