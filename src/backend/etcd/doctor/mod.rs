//! The examination of a cluster, for `leasehold doctor`: what its members say is gathered, and then judged.
//!
//! It has connections of its own, so that an endpoint which a manager would refuse, or not use, can be examined.

mod asking;
mod facts;
mod gather;
mod judge;
mod metrics;
mod rights;
#[cfg(test)]
mod tests;

use std::time::Duration;

use futures::future::join_all;

use self::facts::Store;
use self::judge::Purpose;
use super::options::{FOREVER, Options};
use crate::backend::Account;
use crate::backend::examination::Examined;
use crate::finding::Findings;

/// Examines the endpoints of the options, and the cluster; `ttl` is that of the locks.
pub(crate) async fn examine(mut options: Options, ttl: Duration) -> Examined {
    options.timeout = options.timeout.min(FOREVER);
    let purpose = Purpose { ttl, prefix: &options.prefix, has_account: options.account != Account::Anonymous };
    let asking = options.endpoints.iter().map(|endpoint| gather::endpoint(&options, endpoint));
    let (endpoints, clients): (Vec<_>, Vec<_>) = join_all(asking).await.into_iter().unzip();
    let is_usable = |endpoint: &facts::Endpoint| {
        endpoint.status.as_ref().is_some_and(|status| status.leader != 0 && !status.is_learner)
    };
    let usable = endpoints.iter().zip(&clients).filter(|(endpoint, _)| is_usable(endpoint));
    let client = usable.filter_map(|(_, client)| client.as_ref()).next();
    let store = match client {
        Some(client) => gather::store(client).await,
        None => Store::default(),
    };
    let mut findings = Vec::new();
    for endpoint in &endpoints {
        let mut found = Findings::of(endpoint.at.clone());
        judge::endpoint(endpoint, purpose, &mut found);
        findings.extend(found.into_list());
    }
    let mut all = Findings::of("etcd");
    if client.is_some() {
        judge::store(&store, &endpoints, purpose, &mut all);
    }
    findings.extend(all.into_list());
    Examined { findings, is_reachable: client.is_some(), demands: judge::demands(&store, &endpoints) }
}
