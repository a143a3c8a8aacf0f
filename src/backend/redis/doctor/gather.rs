//! Asks a server with locks for all that is judged.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use redis::Value;
use tokio::time::timeout;

use super::super::names::{Name, Names};
use super::super::options::{ServerKind, Target};
use super::super::{error, requirements};
use super::asking::{Asking, command};
use super::facts::{Role, Server};
use super::rights::{Rights, Wanted};
use crate::backend::Result;
use crate::backend::examination::{MEASURING, ROUND_TRIPS, RoundTrips, WHOLE};

/// The options that are judged.
const OPTIONS: [&str; 9] = [
    "maxmemory-policy",
    "timeout",
    "maxclients",
    "min-replicas-to-write",
    "min-replicas-max-lag",
    "cluster-node-timeout",
    "cluster-require-full-coverage",
    "save",
    "appendfsync",
];

/// How often the time is asked for: the quickest answer counts.
const READINGS: usize = 5;

/// Where a server is, and what it has to be.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) target: Target,
    pub(super) role: Role,
    pub(super) wanted: Wanted,
    /// The slots of a node, of which it has one at least; empty if it has all keys.
    pub(super) slots: Vec<RangeInclusive<u16>>,
}

/// Asks a server. What it does not say is missing.
pub(super) async fn ask(place: Place, names: &Names) -> Server {
    let mut server = Server { at: place.target.to_string(), role: place.role, ..Server::default() };
    let asked = timeout(WHOLE, fill(&mut server, &place, names)).await;
    server.failure = asked.unwrap_or_else(|_| Err(error::no_answer(&place.target.to_string(), WHOLE))).err();
    server
}

async fn fill(server: &mut Server, place: &Place, names: &Names) -> Result<()> {
    let mut asking = Asking::open(place.target.clone()).await?;
    server.info = match asking.answer::<String>(&command(&["INFO"])).await? {
        Ok(info) => info,
        // An account that may not log in, or that the server has given no rights at all.
        Err(error) if error.code() == Some("NOAUTH") => return Err(error::of(&server.at, &error)),
        Err(_) => String::new(),
    };
    let kind = if place.wanted.is_node { ServerKind::Node } else { ServerKind::Standalone };
    if !server.info.is_empty() {
        requirements::check_version(&server.at, &server.info)?;
        requirements::check_kind(&server.at, &server.info, kind)?;
    }
    server.round_trips = RoundTrips::of(measure(&mut asking).await?);
    server.ahead = compare_clocks(&mut asking).await?;
    server.config = configuration(&mut asking).await?;
    let name = own_name(names, &place.slots)?;
    let mut rights = Rights::new(&mut asking);
    let tried = rights.try_all(names, &name, place.wanted).await;
    server.tried = rights.tried;
    tried
}

async fn measure(asking: &mut Asking) -> Result<Vec<Duration>> {
    let (ping, mut times, started) = (command(&["PING"]), Vec::new(), Instant::now());
    while times.len() < ROUND_TRIPS && started.elapsed() < MEASURING {
        let sent = Instant::now();
        if asking.answer::<Value>(&ping).await?.is_err() {
            break;
        }
        times.push(sent.elapsed());
    }
    Ok(times)
}

/// Returns how far the server's clock is ahead of ours, in microseconds, and how exactly that is known.
async fn compare_clocks(asking: &mut Asking) -> Result<Option<(i64, Duration)>> {
    let mut best: Option<(i64, Duration)> = None;
    for _ in 0..READINGS {
        let (sent, at) = (Instant::now(), SystemTime::now());
        let Ok((seconds, micros)) = asking.answer::<(i64, i64)>(&command(&["TIME"])).await? else { return Ok(None) };
        let half = sent.elapsed() / 2;
        let ours = at.duration_since(UNIX_EPOCH).unwrap_or_default() + half;
        let ours = i64::try_from(ours.as_micros()).unwrap_or_default();
        let ahead = seconds.saturating_mul(1_000_000).saturating_add(micros).saturating_sub(ours);
        if best.is_none_or(|(_, within)| half < within) {
            best = Some((ahead, half));
        }
    }
    Ok(best)
}

async fn configuration(asking: &mut Asking) -> Result<BTreeMap<String, String>> {
    let mut config = BTreeMap::new();
    for option in OPTIONS {
        match asking.answer::<BTreeMap<String, String>>(&command(&["CONFIG", "GET", option])).await? {
            Ok(found) => config.extend(found),
            // The account may not ask, or there is no such command.
            Err(_) => break,
        }
    }
    Ok(config)
}

/// A lock that nobody else uses, in one of these slots.
fn own_name(names: &Names, slots: &[RangeInclusive<u16>]) -> Result<std::sync::Arc<Name>> {
    loop {
        let name = names.of(&format!("leasehold-doctor-{:016x}", rand::random::<u64>()))?;
        if slots.is_empty() || slots.iter().any(|range| range.contains(&name.slot)) {
            return Ok(name);
        }
    }
}
