//! What the examinations of all backends have in common: their limits, and what follows for the TTL.

use std::error::Error;
use std::time::Duration;

use super::{BackendError, ErrorKind};
use crate::finding::{Finding, Findings};

/// The longest time to wait for one answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// The longest time to ask one server: some hundred questions, one after the other, also over a slow network.
pub(crate) const WHOLE: Duration = Duration::from_secs(60);

/// How many round trips are measured, and for how long.
pub(crate) const ROUND_TRIPS: usize = 100;
pub(crate) const MEASURING: Duration = Duration::from_secs(1);

/// How many round trips fit in a TTL at least: a renewal begins at each third of it, takes up to three, and may have to be repeated.
const TRIPS_IN_A_TTL: u32 = 20;

/// What was found about the servers of a backend.
#[derive(Debug, Default)]
pub(crate) struct Examined {
    pub(crate) findings: Vec<Finding>,
    /// Whether a lock can be tried.
    pub(crate) is_reachable: bool,
    /// What the TTL has to outlive.
    pub(crate) demands: Vec<Demand>,
}

/// A lower bound of the TTL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) ttl: Duration,
    pub(crate) because: String,
}

/// The time of round trips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RoundTrips {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    count: usize,
}

impl RoundTrips {
    /// Summarizes these times; `None` if there are none.
    pub(crate) fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied();
        Some(Self { p50: at(50)?, p99: at(99)?, count: times.len() })
    }

    /// The TTL that these demand.
    pub(crate) fn demand(&self) -> Demand {
        let because = format!("{TRIPS_IN_A_TTL} × the round trip of {:.1?}", self.p99);
        Demand { ttl: self.p99 * TRIPS_IN_A_TTL, because }
    }

    pub(crate) fn judge(&self, ttl: Duration, findings: &mut Findings) {
        let Self { p50, p99, count } = self;
        let found = format!("p50 {p50:.1?}, p99 {p99:.1?}, of {count}");
        if *p99 * TRIPS_IN_A_TTL > ttl {
            findings.note("round trip", found, "Move closer to the server, or choose a longer TTL.");
        } else {
            findings.ok("round trip", found);
        }
    }
}

/// Judges why a server could not be asked.
pub(crate) fn judge_failure(error: &BackendError, findings: &mut Findings) {
    let text = text(error);
    let advice = match error.kind() {
        ErrorKind::Denied | ErrorKind::Unreachable if text.contains("certificate") || text.contains("TLS") => {
            "Check the certificate of the server, the files ca, cert and key of the URL, and its scheme."
        }
        ErrorKind::Denied => "Check the user and the password in the URL, and that the server has this account.",
        ErrorKind::Misconfigured => "Correct the URL, or the files that it names.",
        ErrorKind::Unsupported => "Use another server, or a later version of it.",
        ErrorKind::Unreachable => {
            "Check that the server runs, that the address is right, and what is between it and this machine."
        }
        _ => "Correct what the server refuses.",
    };
    findings.wrong("connection", text, advice);
}

/// The text of an error, with its cause where that says more.
pub(crate) fn text(error: &BackendError) -> String {
    let text = error.to_string();
    match error.source() {
        Some(cause) if text.ends_with("unreachable") => format!("{text}: {cause}"),
        _ => text,
    }
}

/// Judges the TTL of the URL. Also returns the shortest one that is long enough, if there is a bound. Without servers that were reached,
/// there may be one that is not known.
pub(crate) fn judge_ttl(
    ttl: Duration,
    demands: &[Demand],
    is_reachable: bool,
    findings: &mut Findings,
) -> Option<Duration> {
    let Some(Demand { ttl: least, because }) = demands.iter().max_by_key(|demand| demand.ttl) else {
        let bound =
            if is_reachable { "there is no failover to survive" } else { "what it has to survive is not known" };
        findings.ok("ttl", format!("{}; {bound}", whole(ttl)));
        return None;
    };
    let least = rounded_up(*least);
    let found = format!("{}; at least {}: {because}", whole(ttl), whole(least));
    if ttl < least {
        let advice = format!("Set ?ttl={} or more: else holds are lost whenever that happens.", whole(least));
        findings.wrong("ttl", found, advice);
    } else {
        findings.ok("ttl", found);
    }
    Some(least)
}

/// In whole seconds above one, else in tenths.
fn rounded_up(time: Duration) -> Duration {
    let unit = if time > Duration::from_secs(1) { 1000 } else { 100 };
    let millis = u64::try_from(time.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
    Duration::from_millis(millis.div_ceil(unit).max(1).saturating_mul(unit))
}

fn whole(time: Duration) -> String {
    humantime::format_duration(time).to_string().replace(' ', "")
}
