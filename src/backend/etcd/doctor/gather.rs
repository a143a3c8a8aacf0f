//! Asks the members for all that is judged.

use std::time::{Duration, Instant};

use etcd_client::proto::PbAlarmMember;
use etcd_client::{AlarmAction, AlarmType, GetOptions, Txn, TxnOp};
use tokio::time::timeout;

use super::super::endpoints::probe;
use super::super::limits::OPERATIONS;
use super::super::options::Options;
use super::super::{error, proxy};
use super::asking::Asking;
use super::facts::{Endpoint, Member, Status, Store};
use super::metrics;
use super::rights::Rights;
use crate::backend::examination::{MEASURING, PATIENCE, ROUND_TRIPS, RoundTrips, WHOLE};
use crate::backend::{ErrorKind, Result};

/// Asks an endpoint. Also returns its client, if it can be used.
pub(super) async fn endpoint<'a>(options: &'a Options, endpoint: &'a str) -> (Endpoint, Option<Asking<'a>>) {
    let mut found = Endpoint { at: endpoint.to_owned(), ..Endpoint::default() };
    let asking = match Asking::open(options, endpoint).await {
        Ok((asking, is_open)) => {
            found.is_open = is_open;
            asking
        }
        Err(error) => {
            found.failure = Some(error);
            return (found, None);
        }
    };
    let asked = timeout(WHOLE, fill(&mut found, &asking)).await;
    match asked.unwrap_or_else(|_| Err(error::no_answer(endpoint, WHOLE))) {
        Ok(()) => (found, Some(asking)),
        Err(error) => {
            found.failure = Some(asking.explain(error).await);
            (found, None)
        }
    }
}

async fn fill(found: &mut Endpoint, asking: &Asking<'_>) -> Result<()> {
    let mut client = asking.client.maintenance_client();
    let said = asking.within(client.status()).await?.0;
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
    if status.quota.is_none() && !asking.uses_tls() {
        status.quota = timeout(PATIENCE, metrics::quota(asking.endpoint)).await.ok().flatten();
    }
    found.status = Some(status);
    let name = probe(&asking.options.prefix);
    found.round_trips = RoundTrips::of(measure(asking, &name).await?);
    found.is_proxy = proxy::renumbers(asking.client.watch_client(), name, PATIENCE).await;
    Ok(())
}

/// Linearizable reads, as the ones that prove a hold.
async fn measure(asking: &Asking<'_>, name: &[u8]) -> Result<Vec<Duration>> {
    let (mut times, started) = (Vec::new(), Instant::now());
    while times.len() < ROUND_TRIPS && started.elapsed() < MEASURING {
        let sent = Instant::now();
        // Its permissions are tried later.
        if permitted(asking.read(name, 0).await)?.is_none() {
            break;
        }
        times.push(sent.elapsed());
    }
    Ok(times)
}

/// Asks for what all members know.
pub(super) async fn store(asking: &Asking<'_>) -> Store {
    let mut store = Store::default();
    let asked = timeout(WHOLE, fill_store(&mut store, asking)).await;
    store.failure = asked.unwrap_or_else(|_| Err(error::no_answer(asking.endpoint, WHOLE))).err();
    store
}

async fn fill_store(store: &mut Store, asking: &Asking<'_>) -> Result<()> {
    let (mut cluster, mut maintenance) = (asking.client.cluster_client(), asking.client.maintenance_client());
    let members = permitted(asking.within(cluster.member_list()).await)?;
    store.members = members.map(|list| {
        let members = list.0.members.into_iter();
        members.map(|member| Member { name: member.name, is_learner: member.is_learner }).collect()
    });
    let alarms = permitted(asking.within(maintenance.alarm(AlarmAction::Get, AlarmType::None, None)).await)?;
    // The client's own way to read them takes any number for a known alarm.
    store.alarms = alarms.map(|alarms| alarms.0.alarms.iter().map(alarm).collect());
    let name = probe(&asking.options.prefix);
    store.operations = operations(asking, &name).await?;
    store.revision = permitted(asking.read(&name, 0).await)?.unwrap_or_default();
    store.is_compacted = match asking.read(&name, 1).await {
        Err(error) if error::is_compacted(&error) => Some(true),
        answer => permitted(answer)?.map(|_| false),
    };
    let mut rights = Rights::new(asking);
    let tried = rights.try_all().await;
    (store.shortest, store.tried) = (rights.shortest, rights.tried);
    tried
}

/// How many operations are accepted in a transaction, up to as many as are sent.
async fn operations(asking: &Asking<'_>, name: &[u8]) -> Result<Option<usize>> {
    // So many are accepted, and so many are refused.
    let (mut accepted, mut refused, mut next) = (0, OPERATIONS + 1, OPERATIONS);
    while accepted + 1 < refused {
        let get = TxnOp::get(name, Some(GetOptions::new().with_keys_only()));
        let (mut client, txn) = (asking.client.kv_client(), Txn::new().and_then(vec![get; next]));
        match asking.within(client.txn(txn)).await {
            Err(error) if error::is_too_many(&error) => refused = next,
            answer => match permitted(answer)? {
                Some(_) => accepted = next,
                None => return Ok(None),
            },
        }
        next = usize::midpoint(accepted, refused);
    }
    Ok(Some(accepted))
}

/// The answer; `None` if it is a refusal. Fails if there is none.
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
