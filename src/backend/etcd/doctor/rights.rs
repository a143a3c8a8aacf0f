//! The rights of the account: what the library requests is tried on a lease and on keys of its own.

use std::time::Duration;

use etcd_client::{
    Compare, CompareOp, Error, GetOptions, LeaseGrantOptions, PutOptions, Txn, TxnOp, WatchOptions, WatchResponse,
};

use super::super::error;
use super::super::kind::Kind;
use super::super::names::{Names, signed};
use super::asking::Asking;
use super::facts::{Need, Tried};
use crate::backend::{BackendError, ErrorKind, LeaseId, Result};

/// The TTL of what is written, in seconds, if it cannot be removed.
const KEPT: i64 = 30;

/// Tries one request after another.
pub(super) struct Rights<'a> {
    asking: &'a Asking<'a>,
    lease: LeaseId,
    /// The TTL that is granted if a second is requested.
    pub(super) shortest: Option<Duration>,
    pub(super) tried: Vec<Tried>,
}

impl<'a> Rights<'a> {
    pub(super) fn new(asking: &'a Asking<'a>) -> Self {
        Self { asking, lease: random_lease(), shortest: None, tried: Vec::new() }
    }

    /// Tries all, on a lease of its own. Fails if the connection does; what was written ends with the lease then.
    pub(super) async fn try_all(&mut self) -> Result<()> {
        let (mut client, asking, id) = (self.asking.client.lease_client(), self.asking, signed(self.lease));
        let mut open = async |seconds, id| {
            let granting = client.grant(seconds, Some(LeaseGrantOptions::new().with_id(id)));
            asking.within(granting).await.map(|granted| granted.ttl())
        };
        let brief = signed(random_lease());
        let shortest = open(1, brief).await;
        self.shortest = shortest.as_ref().ok().and_then(|ttl| u64::try_from(*ttl).ok()).map(Duration::from_secs);
        let opened = open(KEPT, id).await;
        if !self.attempt("open a lease", Need::User, shortest.and(opened))? {
            return Ok(());
        }
        let worked = self.try_on_lease().await;
        // It would expire within seconds.
        asking.within(client.revoke(brief)).await.ok();
        self.attempt("revoke a lease", Need::Write, asking.within(client.revoke(id)).await)?;
        worked
    }

    async fn try_on_lease(&mut self) -> Result<()> {
        let (asking, id) = (self.asking, signed(self.lease));
        let names = Names::new(asking.options.prefix.clone());
        let directory = names.directory(&format!("leasehold-doctor-{:016x}", rand::random::<u64>()));
        let (record, claim) = (names.record(self.lease), directory.claim(Kind::Exclusive, self.lease, 1));
        let (mut kv, mut lease, mut watch) =
            (asking.client.kv_client(), asking.client.lease_client(), asking.client.watch_client());
        let on_lease = || Some(PutOptions::new().with_lease(id));
        self.attempt("write the record of a lease", Need::Write, asking.within(kv.put(record, "", on_lease())).await)?;
        let absent = Compare::version(&*claim, CompareOp::Equal, 0);
        let put = Txn::new().when([absent]).and_then([TxnOp::put(&*claim, "", on_lease())]);
        self.attempt("write a claim", Need::Write, asking.within(kv.txn(put)).await)?;
        let range = GetOptions::new().with_keys_only().with_range(directory.end());
        self.attempt(
            "read the claims of a lock",
            Need::Read,
            asking.within(kv.get(directory.start(), Some(range))).await,
        )?;
        let (start, end) = names.range("");
        let list = GetOptions::new().with_keys_only().with_range(end).with_limit(1);
        self.attempt("list locks", Need::Read, asking.within(kv.get(start, Some(list))).await)?;
        let keeping = asking.within(async {
            // The client swallows the first answer.
            let (mut keeper, mut answers) = lease.keep_alive(id).await?;
            keeper.keep_alive().await?;
            let answer = answers.message().await?;
            answer.filter(|answer| answer.ttl() > 0).ok_or_else(|| Error::LeaseKeepAliveError("lease not found".into()))
        });
        self.attempt("renew a lease", Need::User, keeping.await)?;
        let options = WatchOptions::new().with_range(directory.end());
        let watching = asking.within(async {
            let mut stream = watch.watch(directory.start(), Some(options)).await?;
            stream.message().await
        });
        let is_watched = |answer: &WatchResponse| answer.created() && !answer.canceled();
        let refused = || BackendError::new(ErrorKind::Denied, "the watch was refused");
        let watched = watching.await.and_then(|answer| answer.filter(is_watched).ok_or_else(refused));
        self.attempt("watch a lock", Need::Read, watched)?;
        let delete = Txn::new().and_then([TxnOp::delete(&*claim, None)]);
        self.attempt("delete a claim", Need::Write, asking.within(kv.txn(delete)).await)?;
        Ok(())
    }

    /// Notes the answer to a request. Returns whether it was granted.
    fn attempt<T>(&mut self, what: &'static str, need: Need, answer: Result<T>) -> Result<bool> {
        let refusal = match answer {
            Ok(_) => None,
            Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
            // The alarm says more.
            Err(error) if error::is_no_space(&error) => return Ok(false),
            Err(error) => Some(error),
        };
        let is_granted = refusal.is_none();
        self.tried.push(Tried { what, need, refusal });
        Ok(is_granted)
    }
}

fn random_lease() -> LeaseId {
    LeaseId((rand::random::<u64>() >> 1).max(1))
}
