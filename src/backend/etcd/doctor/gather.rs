//! Asks the members for all that is judged.

use std::time::{Duration, Instant};

use etcd_client::proto::PbAlarmMember;
use etcd_client::{AlarmAction, AlarmType, Client, Error, GetOptions, Txn, TxnOp};
use tokio::time::timeout;

use super::super::endpoints::{Dialing, probe};
use super::super::limits::OPERATIONS;
use super::super::options::Options;
use super::super::{error, proxy};
use super::facts::{Endpoint, Member, Status, Store};
use super::metrics;
use super::rights::Rights;
use crate::backend::examination::{MEASURING, PATIENCE, ROUND_TRIPS, RoundTrips};
use crate::backend::{ErrorKind, Result};

/// The client of one endpoint, whose answers are waited for a while only.
pub(super) struct Asking<'a> {
    pub(super) options: &'a Options,
    endpoint: &'a str,
    pub(super) client: Client,
}

/// Asks an endpoint. Also returns its client, if it can be used.
pub(super) async fn endpoint<'a>(options: &'a Options, endpoint: &'a str) -> (Endpoint, Option<Asking<'a>>) {
    let mut found = Endpoint { at: endpoint.to_owned(), ..Endpoint::default() };
    let opened = open(options, endpoint).await;
    let (asking, is_open) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            found.failure = Some(error);
            return (found, None);
        }
    };
    found.is_open = is_open;
    if let Err(error) = asking.fill(&mut found).await {
        found.failure = Some(error);
        return (found, None);
    }
    (found, Some(asking))
}

async fn open<'a>(options: &'a Options, endpoint: &'a str) -> Result<(Asking<'a>, bool)> {
    let dialing = Dialing::new(options, endpoint, PATIENCE).await?;
    let error = match timeout(PATIENCE, dialing.connect()).await {
        Ok(Ok((client, is_open))) => return Ok((Asking { options, endpoint, client }, is_open)),
        Ok(Err(error)) => error::at_first(endpoint, dialing.uses_tls(), error),
        Err(_) => error::no_answer(endpoint, PATIENCE),
    };
    #[cfg(feature = "etcd-tls")]
    if error.kind() == ErrorKind::Unreachable
        && let Some(refusal) = dialing.refusal(endpoint, PATIENCE).await
    {
        return Err(refusal);
    }
    Err(error)
}

impl Asking<'_> {
    /// Waits for an answer. An error of the server is one of its answers.
    pub(super) async fn within<T>(&self, step: impl Future<Output = std::result::Result<T, Error>>) -> Result<T> {
        match timeout(PATIENCE, step).await {
            Ok(answer) => answer.map_err(|error| error::at_first(self.endpoint, self.uses_tls(), error)),
            Err(_) => Err(error::no_answer(self.endpoint, PATIENCE)),
        }
    }

    fn uses_tls(&self) -> bool {
        #[cfg(feature = "etcd-tls")]
        return self.options.tls.is_some();
        #[cfg(not(feature = "etcd-tls"))]
        return false;
    }

    async fn fill(&self, found: &mut Endpoint) -> Result<()> {
        let mut client = self.client.maintenance_client();
        let said = self.within(async { client.status().await.map(|status| status.0) }).await?;
        let header = said.header.unwrap_or_default();
        let size = |bytes: i64| u64::try_from(bytes).ok();
        let mut status = Status {
            version: said.version,
            cluster: header.cluster_id,
            member: header.member_id,
            leader: said.leader,
            is_learner: said.is_learner,
            errors: said.errors,
            size: size(said.db_size).unwrap_or_default(),
            quota: size(said.db_size_quota).filter(|quota| *quota > 0),
        };
        if status.quota.is_none() && !self.uses_tls() {
            status.quota = timeout(PATIENCE, metrics::quota(self.endpoint)).await.ok().flatten();
        }
        found.status = Some(status);
        let name = probe(&self.options.prefix);
        found.round_trips = RoundTrips::of(self.measure(&name).await?);
        found.is_proxy = proxy::renumbers(self.client.watch_client(), name, PATIENCE).await;
        Ok(())
    }

    /// Linearizable reads, as the ones that prove a hold.
    async fn measure(&self, name: &[u8]) -> Result<Vec<Duration>> {
        let (mut times, started) = (Vec::new(), Instant::now());
        while times.len() < ROUND_TRIPS && started.elapsed() < MEASURING {
            let sent = Instant::now();
            match self.read(name, 0).await {
                Ok(()) => times.push(sent.elapsed()),
                // Its permissions are tried later.
                Err(error) if error.kind() != ErrorKind::Unreachable => break,
                Err(error) => return Err(error),
            }
        }
        Ok(times)
    }

    /// Reads a name as it was at a revision, 0 for now.
    async fn read(&self, name: &[u8], revision: i64) -> Result<()> {
        let (mut client, options) = (self.client.kv_client(), GetOptions::new().with_keys_only());
        let reading = client.get(name, Some(options.with_revision(revision)));
        self.within(reading).await.map(drop)
    }

    /// Asks for what all members know.
    pub(super) async fn store(&self) -> Store {
        let mut store = Store::default();
        if let Err(error) = self.fill_store(&mut store).await {
            store.failure = Some(error);
        }
        store
    }

    async fn fill_store(&self, store: &mut Store) -> Result<()> {
        let (mut cluster, mut maintenance) = (self.client.cluster_client(), self.client.maintenance_client());
        store.members = permitted(self.within(async { cluster.member_list().await.map(|list| list.0.members) }).await)?
            .map(|members| {
                members.into_iter().map(|member| Member { name: member.name, is_learner: member.is_learner }).collect()
            });
        // Read here: the client's own way takes the numbers of alarms for known ones.
        let asking =
            async { maintenance.alarm(AlarmAction::Get, AlarmType::None, None).await.map(|alarms| alarms.0.alarms) };
        store.alarms = permitted(self.within(asking).await)?.map(|alarms| alarms.iter().map(alarm).collect());
        let name = probe(&self.options.prefix);
        store.operations = self.operations(&name).await?;
        let (mut client, options) = (self.client.kv_client(), GetOptions::new().with_keys_only());
        let reading = async { client.get(&*name, Some(options)).await.map(|found| found.0.header) };
        store.revision = permitted(self.within(reading).await)?.flatten().map_or(0, |header| header.revision);
        store.is_compacted = match self.read(&name, 1).await {
            Ok(()) => Some(false),
            Err(error) if error::is_compacted(&error) => Some(true),
            Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
            Err(_) => None,
        };
        let mut rights = Rights::new(self);
        let tried = rights.try_all().await;
        (store.shortest, store.tried) = (rights.shortest, rights.tried);
        tried
    }

    /// How many operations are accepted in a transaction, up to as many as are sent.
    async fn operations(&self, name: &[u8]) -> Result<Option<usize>> {
        // All up to the first are accepted, and none from the second on.
        let (mut accepted, mut refused) = (0, OPERATIONS + 1);
        let mut next = OPERATIONS;
        while accepted + 1 < refused {
            let get = TxnOp::get(name, Some(GetOptions::new().with_keys_only()));
            let (mut client, txn) = (self.client.kv_client(), Txn::new().and_then(vec![get; next]));
            match self.within(client.txn(txn)).await {
                Ok(_) => accepted = next,
                Err(error) if error::is_too_many(&error) => refused = next,
                Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
                Err(_) => return Ok(None),
            }
            next = usize::midpoint(accepted, refused);
        }
        Ok(Some(accepted))
    }
}

/// What the account may ask for.
fn permitted<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.kind() == ErrorKind::Unreachable => Err(error),
        Err(_) => Ok(None),
    }
}

fn alarm(alarm: &PbAlarmMember) -> String {
    match alarm.alarm {
        1 => "NOSPACE".into(),
        2 => "CORRUPT".into(),
        other => format!("number {other}"),
    }
}
