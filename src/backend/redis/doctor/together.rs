//! Judges what several servers say together: their clocks, the sentinels, the slots of a cluster.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::names::SLOTS;
use super::facts::{Role, Sentinel, Server, Slots};
use crate::backend::examination::{Demand, judge_failure};
use crate::finding::Findings;

/// Differences of clocks, in microseconds: what NTP does not leave behind, and what shortens holds noticeably.
const ODD: i64 = 500_000;
const TOO_MUCH: i64 = 2_000_000;

/// What a failover takes beyond the time after which a master is considered dead.
const FAILOVER: Duration = Duration::from_secs(3);

/// The default of the nodes, where the account may not ask.
const NODE_TIMEOUT: Duration = Duration::from_secs(15);

/// The longest `failover-timeout` after which sentinels try again soon.
const RETRY: u64 = 60_000;

/// Judges the clock of a server beside that of this machine.
pub(super) fn clock(server: &Server, findings: &mut Findings) {
    let Some((ahead, within)) = server.ahead else { return };
    let sure = ahead.saturating_abs().saturating_sub(micros(within));
    let found = match sure > 0 {
        true => format!("{} this machine's", difference(ahead)),
        false => format!("that of this machine, within {within:.1?}"),
    };
    let advice = "Synchronize both by NTP: if it is the server's that is wrong, tokens may repeat after a restart or a failover, and holds \
                  end early.";
    judge(sure, "clock", found, advice, findings);
}

/// Judges the clocks of the servers of which one may take over from another.
pub(super) fn clocks(servers: &[Server], findings: &mut Findings) {
    let known = || servers.iter().filter_map(|server| Some((server.ahead?, server)));
    let (Some(first), Some(last)) =
        (known().min_by_key(|((ahead, _), _)| *ahead), known().max_by_key(|((ahead, _), _)| *ahead))
    else {
        return;
    };
    if known().count() < 2 {
        return;
    }
    let (((low, one), slow), ((high, other), fast)) = (first, last);
    let between = high.saturating_sub(low);
    let sure = between.saturating_sub(micros(one)).saturating_sub(micros(other));
    let found = format!("{} between {} and {}", seconds(between), slow.at, fast.at);
    let advice = "Synchronize the servers by NTP: after a failover holds are shorter by the difference, and tokens may not grow.";
    let found = if sure > 0 { found } else { format!("within {}", seconds(micros(one) + micros(other))) };
    judge(sure, "clocks", found, advice, findings);
}

fn judge(sure: i64, check: &'static str, found: String, advice: &str, findings: &mut Findings) {
    if sure > TOO_MUCH {
        findings.wrong(check, found, advice);
    } else if sure > ODD {
        findings.note(check, found, advice);
    } else {
        findings.ok(check, found);
    }
}

fn difference(ahead: i64) -> String {
    format!("{} {}", seconds(ahead.saturating_abs()), if ahead > 0 { "ahead of" } else { "behind" })
}

fn seconds(micros: i64) -> String {
    format!("{:.1?}", Duration::from_micros(micros.unsigned_abs()))
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// Judges one sentinel.
pub(super) fn sentinel(sentinel: &Sentinel, findings: &mut Findings) {
    if let Some(error) = &sentinel.failure {
        return judge_failure(error, findings);
    }
    let flags = sentinel.fields.get("flags").map(String::as_str).unwrap_or_default();
    let is_down = ["s_down", "o_down", "disconnected"].iter().any(|down| flags.split(',').any(|flag| flag == *down));
    if is_down {
        let advice = "Check what is between this sentinel and the master; if the master is down, a failover is due.";
        findings.wrong("master", format!("the sentinel does not reach it: {flags}"), advice);
    } else {
        let master = sentinel.master.as_ref().map(ToString::to_string).unwrap_or_default();
        findings.ok(
            "master",
            format!("{master}, epoch {}", sentinel.fields.get("config-epoch").map_or("?", |epoch| epoch)),
        );
    }
    let Some(retry) = sentinel.number("failover-timeout") else { return };
    if retry > RETRY {
        let advice = "SENTINEL SET <master> failover-timeout 10000: sentinels that do not agree try again after twice that time.";
        findings.note("failover-timeout", format!("{} s", retry / 1000), advice);
    } else {
        findings.ok("failover-timeout", format!("{} s", retry / 1000));
    }
}

/// Judges whether the sentinels can replace the master.
pub(super) fn sentinels(all: &[Sentinel], findings: &mut Findings) {
    let up: Vec<_> = all.iter().filter(|sentinel| sentinel.failure.is_none()).collect();
    let quorum = up.iter().filter_map(|sentinel| sentinel.number("quorum")).max().unwrap_or_default();
    let found = format!("{} of {} answer, quorum {quorum}", up.len(), all.len());
    let most = (all.len() / 2 + 1).max(usize::try_from(quorum).unwrap_or(usize::MAX));
    if up.len() < most {
        findings.wrong("sentinels", found, "Start the others: too few are there to replace a master that fails.");
    } else if all.len() < 3 {
        findings.note(
            "sentinels",
            found,
            "Run three, on three machines: if one of these fails, no master is replaced.",
        );
    } else {
        findings.ok("sentinels", found);
    }
    let masters: BTreeSet<_> = up.iter().filter_map(|sentinel| sentinel.master.as_ref()).collect();
    if masters.len() > 1 {
        let names: Vec<_> = masters.iter().map(ToString::to_string).collect();
        let advice = "Wait until a failover has ended; if this stays, the sentinels do not reach each other.";
        findings.wrong("agreement", format!("the sentinels name {}", names.join(" and ")), advice);
    }
}

/// Judges the slots of a cluster.
pub(super) fn slots(slots: &Slots, servers: &[Server], findings: &mut Findings) {
    let found = format!("{} of {SLOTS}, at {} masters", slots.served, slots.masters);
    if slots.served < usize::from(SLOTS) {
        findings.wrong(
            "slots",
            found,
            "Give every slot a node (redis-cli --cluster fix): locks in the others cannot be acquired.",
        );
    } else if slots.masters < 3 {
        findings.note("slots", found, "Run three masters: with fewer no majority can replace one that fails.");
    } else {
        findings.ok("slots", found);
    }
    let coverage: BTreeSet<_> =
        servers.iter().filter_map(|server| server.option("cluster-require-full-coverage")).collect();
    if coverage.contains("yes") {
        let advice = "CONFIG SET cluster-require-full-coverage no, at each node: else a shard that is down stops all others as well.";
        findings.note("full coverage", "required", advice);
    } else if coverage.contains("no") {
        findings.ok("full coverage", "not required");
    }
}

/// What the TTL has to outlive behind sentinels, if any of them has said it.
pub(super) fn demand_of_sentinels(all: &[Sentinel]) -> Option<Demand> {
    let known = all.iter().filter_map(|sentinel| sentinel.number("down-after-milliseconds")).max()?;
    Some(failover("down-after-milliseconds", Duration::from_millis(known), ""))
}

/// What the TTL has to outlive in a cluster.
pub(super) fn demand_of_cluster(servers: &[Server]) -> Demand {
    match servers.iter().filter_map(|server| server.number_option("cluster-node-timeout")).max() {
        Some(known) => failover("cluster-node-timeout", Duration::from_millis(known), ""),
        None => failover("cluster-node-timeout", NODE_TIMEOUT, ", its default,"),
    }
}

fn failover(option: &str, time: Duration, guessed: &str) -> Demand {
    let because = format!("1.5 × ({option} of {}{guessed} + {FAILOVER:?})", humantime::format_duration(time));
    Demand { ttl: time.saturating_add(FAILOVER).saturating_mul(3) / 2, because }
}

/// The round trips that matter: those to masters.
pub(super) fn demands_of_round_trips(servers: &[Server]) -> Option<Demand> {
    let masters = servers.iter().filter(|server| server.role == Role::Master);
    masters.filter_map(|server| server.round_trips).max_by_key(|trips| trips.p99).map(|trips| trips.demand())
}
