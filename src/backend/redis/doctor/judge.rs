//! From what a server has said to findings, without I/O.

use std::collections::BTreeSet;
use std::time::Duration;

use super::facts::{Need, Refusal, Role, Server};
use crate::backend::examination::judge_failure;
use crate::finding::Findings;

/// The shortest `timeout` of a server that closes no connection of ours between two pings, even if one is late, in seconds.
const SHORTEST_TIMEOUT: u64 = 10;

/// How many more connections there have to be room for.
const ROOM: u64 = 16;

/// How many missing rights are named twice, in the finding and in the advice.
const MANY_RIGHTS: usize = 6;

/// How many bytes are displayed as one unit.
const MIB: u64 = 1024 * 1024;

/// What the servers are to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Purpose {
    pub(super) ttl: Duration,
    pub(super) min_replicas: u64,
    /// Whether a replica takes over if the master fails.
    pub(super) fails_over: bool,
    /// Whether there is an account, and whether the connection is encrypted.
    pub(super) has_account: bool,
}

/// Judges one server.
pub(super) fn server(server: &Server, purpose: Purpose, findings: &mut Findings) {
    if let Some(error) = &server.failure {
        judge_failure(error, findings);
    }
    if !server.info.is_empty() {
        version(server, findings);
        role(server, findings);
        memory(server, findings);
        persistence(server, findings);
        connections(server, findings);
        replicas(server, purpose, findings);
    }
    if let Some(round_trips) = &server.round_trips {
        round_trips.judge(purpose.ttl, findings);
    }
    idle_timeout(server, findings);
    rights(server, purpose, findings);
}

fn version(server: &Server, findings: &mut Findings) {
    let (name, version) = match server.text("valkey_version:") {
        Some(version) => ("valkey", version),
        None => ("redis", server.text("redis_version:").unwrap_or("of unknown version")),
    };
    let found = format!("{name} {version}");
    match server.version() {
        Some(version) if version < (6, 0) => {
            findings.note(
                "version",
                found,
                "Use Redis 6.0 or later: this one does not notify holders whose locks are removed.",
            );
        }
        _ => findings.ok("version", found),
    }
}

fn role(server: &Server, findings: &mut Findings) {
    let said = server.text("role:").unwrap_or("unknown");
    match (server.role, said) {
        (Role::Master, "slave") => findings.wrong(
            "role",
            "a replica",
            "Name the master in the URL, or the sentinels that know it (redis+sentinel://…): a replica takes no locks.",
        ),
        (Role::Replica, "slave") if server.text("master_link_status:") != Some("up") => findings.wrong(
            "role",
            "a replica that is not connected to its master",
            "Check its log, and masterauth: it will not have the locks when it takes over.",
        ),
        (_, "slave") => findings.ok("role", "replica"),
        (Role::Replica, "master") => findings.wrong(
            "role",
            "a master, though named as a replica",
            "Wait until a failover has ended; if this stays, make it follow the master (REPLICAOF).",
        ),
        _ => findings.ok("role", said),
    }
    if server.number("loading:") == Some(1) {
        findings.wrong("loading", "is loading its data", "Wait until it has: no locks are granted meanwhile.");
    }
}

/// Eviction, and how much memory is left.
fn memory(server: &Server, findings: &mut Findings) {
    let Some(most) = server.number("maxmemory:") else { return };
    let policy = server.text("maxmemory_policy:").or(server.option("maxmemory-policy")).unwrap_or("unknown");
    let used = server.number("used_memory:").unwrap_or_default();
    let found = match most {
        0 => format!("maxmemory-policy {policy}, without maxmemory"),
        _ => format!("maxmemory-policy {policy}, {} of {} MiB used", used / MIB, most.div_ceil(MIB)),
    };
    match (policy, most) {
        ("noeviction", most) if most > 0 && used > most / 10 * 9 => findings.note(
            "eviction",
            found,
            "Raise maxmemory, or remove data: when it is full, new locks are refused; renewals and releases work.",
        ),
        ("noeviction", _) => findings.ok("eviction", found),
        (_, 0) => findings.note(
            "eviction",
            found,
            "CONFIG SET maxmemory-policy noeviction: with a maxmemory, this policy would remove locks that are held.",
        ),
        _ => findings.wrong(
            "eviction",
            found,
            "CONFIG SET maxmemory-policy noeviction, or use another server for locks: this one removes locks that are held when its \
             memory is full, and others acquire them.",
        ),
    }
}

fn persistence(server: &Server, findings: &mut Findings) {
    const FREE: &str = "Set appendonly yes: after a restart without the latest data, locks that are held are free.";
    let bad = |name: &str| server.text(name).is_some_and(|status| status == "err");
    let is_on = |name: &str| server.number(name) == Some(1);
    if bad("rdb_last_bgsave_status:") || bad("aof_last_write_status:") || bad("aof_last_bgrewrite_status:") {
        let advice = "See the server's log, and make room on its disk: until then it may refuse all writes (MISCONF).";
        return findings.wrong("persistence", "the last write to the disk has failed", advice);
    }
    match (is_on("aof_enabled:"), server.option("save")) {
        (true, _) => {
            let often = server.option("appendfsync").map(|often| format!(", appendfsync {often}")).unwrap_or_default();
            findings.ok("persistence", format!("append-only file{often}"));
        }
        (false, Some("")) => findings.note("persistence", "none", FREE),
        (false, Some(_)) => findings.note("persistence", "snapshots only", FREE),
        (false, None) => findings.note("persistence", "no append-only file", FREE),
    }
}

fn connections(server: &Server, findings: &mut Findings) {
    let most = server.number("maxclients:").or(server.number_option("maxclients"));
    let (Some(used), Some(most)) = (server.number("connected_clients:"), most) else { return };
    let left = most.saturating_sub(used);
    let found = format!("{used} of {most} used");
    let advice = "Raise maxclients, or find who leaves connections open (CLIENT LIST): each process with locks needs two, and is refused \
                  without them.";
    if left < ROOM {
        findings.wrong("connections", found, advice);
    } else if left < most / 10 {
        findings.note("connections", found, advice);
    } else {
        findings.ok("connections", found);
    }
}

fn replicas(server: &Server, purpose: Purpose, findings: &mut Findings) {
    if server.role == Role::Replica || server.text("role:") == Some("slave") {
        return;
    }
    let (all, online) = (server.replicas().len() as u64, server.online_replicas() as u64);
    let found = match (all, purpose.min_replicas) {
        (0, 0) => "none".to_owned(),
        (_, confirming) => format!("{online} of {all} up to date, min_replicas={confirming}"),
    };
    if online < purpose.min_replicas {
        let advice = "Start more replicas, or lower min_replicas: no lock is granted until so many have it.";
        findings.wrong("replicas", found, advice);
    } else if online < all {
        let advice = "Check the log of the replica that is not: it will not have the locks when it takes over.";
        findings.wrong("replicas", found, advice);
    } else if purpose.fails_over && all == 0 {
        findings.wrong("replicas", found, "Start two replicas: without any, nothing takes over from this server.");
    } else if purpose.fails_over && purpose.min_replicas == 0 {
        let advice = format!("Set ?min_replicas={}: else a failover may forget locks that are held.", all.div_ceil(2));
        findings.note("replicas", found, advice);
    } else if purpose.fails_over && all == 1 {
        findings.note(
            "replicas",
            found,
            "Start a second replica: after a failover no lock is granted until the old master is back.",
        );
    } else {
        findings.ok("replicas", found);
    }
    writable(server, online, purpose, findings);
}

/// `min-replicas-to-write`.
fn writable(server: &Server, online: u64, purpose: Purpose, findings: &mut Findings) {
    let Some(least) = server.number_option("min-replicas-to-write") else { return };
    let lag = server.option("min-replicas-max-lag").unwrap_or("?");
    let found = format!("{least}, min-replicas-max-lag {lag}");
    let check = "min-replicas-to-write";
    if least > online {
        findings.wrong(
            check,
            found,
            "Start more replicas, or lower it: the server refuses all writes, and so all locks.",
        );
    } else if least == 0 && purpose.fails_over {
        let advice = "CONFIG SET min-replicas-to-write 1: else a master that is cut off goes on granting locks.";
        findings.note(check, "0", advice);
    } else if least > 0 && server.version().is_some_and(|version| version < (6, 2)) {
        findings.note(
            check,
            found,
            "Use Redis 6.2 or later, or ?min_replicas=1: earlier ones do not heed it for scripts.",
        );
    } else if least > 0 {
        findings.ok(check, found);
    }
}

fn idle_timeout(server: &Server, findings: &mut Findings) {
    match server.number_option("timeout") {
        Some(0) => findings.ok("timeout", "none"),
        Some(seconds) if seconds < SHORTEST_TIMEOUT => findings.wrong(
            "timeout",
            format!("{seconds} s"),
            "CONFIG SET timeout 0, or 60 and more: idle connections are pinged each 2 to 3 s, and closed when a ping is late.",
        ),
        Some(seconds) => findings.ok("timeout", format!("{seconds} s")),
        None if server.failure.is_none() => findings.note(
            "configuration",
            "CONFIG GET is not permitted",
            "Compare timeout, maxclients and min-replicas-to-write with the documentation, or run this with an account that has +config|get.",
        ),
        None => {}
    }
}

fn rights(server: &Server, purpose: Purpose, findings: &mut Findings) {
    let mut missing: BTreeSet<String> = BTreeSet::new();
    let (mut unknown, mut less) = (BTreeSet::new(), BTreeSet::new());
    for tried in &server.tried {
        let right = match (tried.refusal, &tried.scope) {
            (None, _) => continue,
            (Some(Refusal::Unknown), _) => {
                unknown.insert(tried.command.to_uppercase());
                continue;
            }
            (Some(Refusal::Scope), Some(scope)) => scope.clone(),
            (Some(_), _) => format!("+{}", tried.command),
        };
        match tried.need {
            Need::Locks => drop(missing.insert(right)),
            Need::Less(what) => drop(less.insert((right, what))),
        }
    }
    let list = |rights: &BTreeSet<String>| rights.iter().cloned().collect::<Vec<_>>().join(" ");
    if !unknown.is_empty() {
        let advice = "Undo rename-command for these, or use a server that has them.";
        findings.wrong("commands", format!("the server lacks {}", list(&unknown)), advice);
    }
    if !missing.is_empty() {
        let found = match missing.len() {
            1..=MANY_RIGHTS => list(&missing),
            count => format!("{count} rights"),
        };
        findings.wrong(
            "rights",
            format!("the account lacks {found}"),
            format!("ACL SETUSER <user> {}", list(&missing)),
        );
    }
    for (right, what) in &less {
        findings.note("rights", format!("the account lacks {right}: {what}"), format!("ACL SETUSER <user> {right}"));
    }
    if missing.is_empty() && less.is_empty() && !server.tried.is_empty() && server.failure.is_none() {
        let kinds: BTreeSet<_> = server.tried.iter().map(|tried| tried.command).collect();
        findings.ok("rights", format!("{} commands tried", kinds.len()));
    }
    if !purpose.has_account && server.failure.is_none() {
        let advice = "Create an account for locks, as docs/security.md says: any client that reaches the server can remove them.";
        findings.note("account", "the URL names none", advice);
    }
}
