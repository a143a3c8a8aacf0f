//! How far replicas of a Redis server are, and failovers on request.

use std::time::{Duration, Instant};

use crate::redis::Redis;
use crate::{PATIENCE, eventually, eventually_within};

/// How far a master has written, or a replica has received; `None` while it is neither.
fn offset(server: &Redis) -> Option<u64> {
    let role = server.cli(&["ROLE"]);
    let mut lines = role.lines();
    let offset = match lines.next()? {
        "master" => lines.next(),
        // After the master's host and port.
        "slave" => lines.skip_while(|line| *line != "connected").nth(1),
        _ => None,
    };
    offset?.parse().ok()
}

/// Waits until a replica has what its master has written.
pub fn wait_for_replica(master: &Redis, replica: &Redis) {
    let written = offset(master).expect("the master's offset");
    eventually("the replica is up to date", || (offset(replica)? >= written).then_some(()));
}

/// Requests a failover until `probe` tells its result. `request` returns whether it is accepted: one that is under way is not requested
/// again, unless it takes so long that the servers have given it up.
pub fn request_failover<T>(request: impl Fn() -> bool, probe: impl Fn() -> Option<T>) -> T {
    let mut requested = None::<Instant>;
    eventually_within(3 * PATIENCE, "the failover that was requested", || {
        if requested.is_none_or(|requested| requested.elapsed() > Duration::from_secs(7)) {
            requested = request().then(Instant::now);
        }
        probe()
    })
}
