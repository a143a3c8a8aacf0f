//! How far replicas of a Redis server are.

use crate::eventually;
use crate::redis::Redis;

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
