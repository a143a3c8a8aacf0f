//! From what the members have said to findings, without I/O.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::limits::OPERATIONS;
use super::facts::{Endpoint, Need, Status, Store};
use crate::backend::ErrorKind;
use crate::backend::examination::{Demand, judge_failure, text};
use crate::finding::Findings;

/// A leader election takes one to three seconds where the shortest lease is two: with this TTL holders do not notice it.
const FAILOVER: Duration = Duration::from_secs(10);
const LEASES_IN_A_FAILOVER: u32 = 5;

/// The longest TTL that is accepted though a shorter one was requested.
const RAISED: Duration = Duration::from_secs(75);

/// The operations that a repeated shared claim has, and a slot that waits.
const LEAST_OPERATIONS: usize = 4;
const OPERATIONS_OF_A_SLOT: usize = 6;

/// From how many revisions on a history that was never compacted is odd.
const MANY_REVISIONS: i64 = 10_000;

const MIB: u64 = 1024 * 1024;

/// What the servers are to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Purpose<'a> {
    pub(super) ttl: Duration,
    pub(super) prefix: &'a str,
    pub(super) has_account: bool,
}

/// Judges one endpoint.
pub(super) fn endpoint(endpoint: &Endpoint, purpose: Purpose<'_>, findings: &mut Findings) {
    if let Some(error) = &endpoint.failure {
        judge_failure(error, findings);
    }
    if let Some(status) = &endpoint.status {
        version(status, findings);
        leader(status, findings);
        database(status, findings);
    }
    if endpoint.is_proxy == Some(true) {
        let advice = "Name the members of the cluster instead: a proxy answers keep-alives in their place.";
        findings.wrong("proxy", "a gRPC proxy", advice);
    }
    if let Some(round_trips) = &endpoint.round_trips {
        round_trips.judge(purpose.ttl, findings);
    }
}

fn version(status: &Status, findings: &mut Findings) {
    let mut numbers = status.version.split('.').map_while(|number| number.parse().ok());
    let version = numbers.next().zip(numbers.next());
    let found = format!("etcd {}", status.version);
    match version {
        Some(version) if version < (3_u32, 4_u32) => findings.wrong("version", found, "Use etcd 3.4 or later."),
        _ => findings.ok("version", found),
    }
}

fn leader(status: &Status, findings: &mut Findings) {
    if status.is_learner {
        findings.wrong(
            "leader",
            "a learner",
            "Promote it (etcdctl member promote), or remove it from the URL: a learner serves no locks.",
        );
    } else if status.leader == 0 {
        let advice = "Start the members that are down: without a majority there is no leader, and no lock.";
        findings.wrong("leader", "none", advice);
    } else if status.leader == status.member {
        findings.ok("leader", "this member");
    } else {
        findings.ok("leader", format!("member {:x}", status.leader));
    }
    // Alarms are those of the cluster.
    let errors: Vec<_> = status.errors.iter().filter(|error| !error.contains("alarm:")).map(String::as_str).collect();
    if !errors.is_empty() {
        findings.wrong("errors", errors.join("; "), "See the log of this member.");
    }
}

fn database(status: &Status, findings: &mut Findings) {
    let size = status.size.div_ceil(MIB);
    let Some(quota) = status.quota.filter(|quota| *quota > 0) else {
        return findings.ok("database", format!("{size} MiB, of a quota that it does not say"));
    };
    let found = format!("{size} of {} MiB", quota.div_ceil(MIB));
    let advice = "Compact and defragment (etcdctl compact, etcdctl defrag), or raise --quota-backend-bytes: when it is full, new locks fail.";
    if status.size > quota / 10 * 8 {
        findings.note("database", found, advice);
    } else {
        findings.ok("database", found);
    }
}

/// Judges the cluster and its store.
pub(super) fn store(store: &Store, endpoints: &[Endpoint], purpose: Purpose<'_>, findings: &mut Findings) {
    if let Some(error) = &store.failure {
        judge_failure(error, findings);
    }
    members(store, endpoints, findings);
    alarms(store, findings);
    compaction(store, findings);
    operations(store, findings);
    lease(store, purpose.ttl, findings);
    rights(store, purpose, findings);
    account(store, endpoints, purpose.has_account, findings);
}

fn members(store: &Store, endpoints: &[Endpoint], findings: &mut Findings) {
    let statuses = || endpoints.iter().filter_map(|endpoint| endpoint.status.as_ref());
    let clusters: BTreeSet<_> = statuses().map(|status| status.cluster).collect();
    if clusters.len() > 1 {
        let advice = "Name the members of one cluster in the URL: clients of different ones do not exclude each other.";
        findings.wrong("cluster", format!("the URL names {} clusters", clusters.len()), advice);
    }
    let versions: BTreeSet<_> = statuses().map(|status| &*status.version).collect();
    if versions.len() > 1 {
        let versions: Vec<_> = versions.into_iter().collect();
        findings.note("versions", versions.join(", "), "End the update: run the same version at all members.");
    }
    let Some(members) = &store.members else { return };
    let voters = members.iter().filter(|member| !member.is_learner).count();
    let absent = members.iter().filter(|member| member.name.is_empty()).count();
    let named = statuses().map(|status| status.member).collect::<BTreeSet<_>>().len();
    let found = format!("{voters} with a vote, {named} of them answer at the URL's addresses");
    if absent > 0 {
        let advice = "Start them, or remove them (etcdctl member remove): they count for the majority.";
        findings.wrong("members", format!("{absent} of {} were never started", members.len()), advice);
    } else if voters == 1 {
        findings.note("members", "1", "Run three, on three machines: while the only one is down there are no locks.");
    } else if voters % 2 == 0 {
        findings.note("members", found, "Add one: an even number survives no more failures than one less.");
    } else if named < voters && endpoints.iter().all(|endpoint| endpoint.failure.is_none()) {
        findings.note("members", found, "Name all members in the URL: if one fails, locks continue with another.");
    } else {
        findings.ok("members", found);
    }
}

fn alarms(store: &Store, findings: &mut Findings) {
    let Some(alarms) = &store.alarms else {
        return findings.note("alarms", "not known: the account may not ask", "Ask as root: etcdctl alarm list.");
    };
    if alarms.is_empty() {
        findings.ok("alarms", "none");
    } else if alarms.iter().any(|alarm| alarm == "CORRUPT") {
        findings.wrong("alarms", alarms.join(", "), "Replace the member whose data is corrupt; its log names it.");
    } else {
        let advice = "Compact, defragment, then etcdctl alarm disarm: no new lock is granted meanwhile.";
        findings.wrong("alarms", alarms.join(", "), advice);
    }
}

fn compaction(store: &Store, findings: &mut Findings) {
    match store.is_compacted {
        Some(false) if store.revision > MANY_REVISIONS => findings.note(
            "compaction",
            format!("never, at revision {}", store.revision),
            "Set --auto-compaction-mode and --auto-compaction-retention: the database grows with every lock.",
        ),
        Some(false) => findings.ok("compaction", format!("none yet, at revision {}", store.revision)),
        Some(true) => findings.ok("compaction", format!("has run; revision {}", store.revision)),
        None => {}
    }
}

fn operations(store: &Store, findings: &mut Findings) {
    let Some(most) = store.operations else { return };
    let found = format!("{most} operations");
    if most >= OPERATIONS {
        findings.ok("transactions", format!("{found} or more"));
    } else if most < LEAST_OPERATIONS {
        findings.wrong("transactions", found, "Set --max-txn-ops to 128, its default: leasehold needs 4.");
    } else if most < OPERATIONS_OF_A_SLOT {
        findings.wrong("transactions", found, "Set --max-txn-ops to 128, its default: slots of a semaphore need 6.");
    } else {
        let advice = "Set --max-txn-ops to 128, its default: fewer locks are granted together.";
        findings.note("transactions", found, advice);
    }
}

fn lease(store: &Store, ttl: Duration, findings: &mut Findings) {
    let Some(shortest) = store.shortest else { return };
    let found = format!("{} s for 1 s", shortest.as_secs());
    let advice = "Lower --election-timeout: the shortest lease is one and a half times that.";
    if shortest > RAISED {
        findings.wrong("shortest lease", found, advice);
    } else if shortest > ttl {
        findings.note("shortest lease", format!("{found}; the TTL is {ttl:?}"), advice);
    } else {
        findings.ok("shortest lease", found);
    }
}

fn rights(store: &Store, purpose: Purpose<'_>, findings: &mut Findings) {
    let prefix = purpose.prefix;
    let refused: Vec<_> = store.tried.iter().filter_map(|tried| Some((tried, tried.refusal.as_ref()?))).collect();
    let Some((_, error)) = refused.first() else {
        if !store.tried.is_empty() && store.failure.is_none() {
            findings.ok("rights", format!("{} requests tried below {prefix:?}", store.tried.len()));
        }
        return;
    };
    let what: Vec<_> = refused.iter().map(|(tried, _)| tried.what).collect();
    let found = format!("refused: {}: {}", what.join(", "), text(error));
    let advice = match refused.iter().any(|(tried, _)| tried.need == Need::Write) {
        _ if !purpose.has_account => "Name a user and a password in the URL: the server asks for them.".to_owned(),
        true => format!("etcdctl role grant-permission <role> --prefix=true readwrite {prefix:?}"),
        false => format!("etcdctl role grant-permission <role> --prefix=true read {prefix:?}"),
    };
    if has_denied(store) {
        findings.wrong("rights", found, advice);
    } else {
        findings.wrong("requests", found, "Correct what the server refuses.");
    }
}

/// Whether a request was denied, as only a server with authentication does.
fn has_denied(store: &Store) -> bool {
    let mut refusals = store.tried.iter().filter_map(|tried| tried.refusal.as_ref());
    refusals.any(|error| error.kind() == ErrorKind::Denied)
}

fn account(store: &Store, endpoints: &[Endpoint], has_account: bool, findings: &mut Findings) {
    let is_open = !has_denied(store) && endpoints.iter().any(|endpoint| endpoint.is_open && endpoint.status.is_some());
    if is_open {
        let found =
            if has_account { "authentication is off: the password is not asked for" } else { "authentication is off" };
        let advice = "Turn it on, as docs/security.md says: any client that reaches the server can remove locks.";
        findings.note("account", found, advice);
    } else if endpoints.iter().any(|endpoint| endpoint.status.is_some()) {
        findings.ok("account", "authentication is on");
    }
}

/// What the TTL has to outlive.
pub(super) fn demands(store: &Store, endpoints: &[Endpoint]) -> Vec<Demand> {
    let trips = endpoints.iter().filter_map(|endpoint| endpoint.round_trips).max_by_key(|trips| trips.p99);
    let are_many = store.members.as_ref().is_some_and(|members| members.len() > 1);
    let of_lease = |shortest: Duration| match are_many {
        true => Demand {
            ttl: FAILOVER.max(shortest.saturating_mul(LEASES_IN_A_FAILOVER)),
            because: format!("an election, {LEASES_IN_A_FAILOVER} × the shortest lease of {} s", shortest.as_secs()),
        },
        false => Demand { ttl: shortest, because: "the shortest lease".into() },
    };
    trips.map(|trips| trips.demand()).into_iter().chain(store.shortest.map(of_lease)).collect()
}
