//! A cluster of three members, one of which fails.

use std::time::Instant;

use rustix::process::Signal;

use super::*;

/// A client whose first endpoint is this member.
async fn client(cluster: &servers::Cluster<3>, first: usize) -> Client {
    let mut options = options(&cluster.members[first].endpoint(), "p/");
    options.endpoints.extend((1..3).map(|next| cluster.members[(first + next) % 3].endpoint()));
    let etcd = connect(options).await.unwrap();
    let lease = etcd.open(Duration::from_secs(10), LeaseScope::Session).await.unwrap();
    Client { etcd, lease }
}

/// Locks, unlocks and renews while a member fails. Returns the longest time that one of these took.
async fn work(client: &mut Client, key: &str, until: Instant) -> Duration {
    let (mut longest, mut epoch) = (Duration::ZERO, 0);
    while Instant::now() < until {
        let start = Instant::now();
        let grant = client.lock(key).await;
        assert!(grant.epoch > epoch);
        epoch = grant.epoch;
        while client.etcd.release(&grant).await.is_err() {}
        let renewed = loop {
            match client.etcd.renew(&[client.lease]).await.remove(0) {
                Ok(lease) => break lease,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}"),
            }
        };
        client.lease = renewed;
        longest = longest.max(start.elapsed());
    }
    longest
}

#[test]
fn a_stopped_or_killed_member_is_survived() {
    run(async {
        let cluster = servers::Cluster::start();
        let leader = cluster.leader();
        let mut clients = [client(&cluster, leader).await, client(&cluster, (leader + 1) % 3).await];
        for (member, signal) in [((leader + 1) % 3, Signal::STOP), (leader, Signal::STOP), (leader, Signal::KILL)] {
            cluster.members[member].process().signal(signal);
            let until = Instant::now() + Duration::from_secs(6);
            let [a, b] = &mut clients;
            let longest = futures::future::join(work(a, "k", until), work(b, "k", until)).await;
            println!("{signal:?} of {member} (leader {leader}): {longest:?}");
            assert!(longest.0.max(longest.1) < LIMIT, "{longest:?}");
            if signal == Signal::STOP {
                cluster.members[member].process().resume();
            }
        }
        for client in &clients {
            client.etcd.revoke(&client.lease).await.unwrap();
        }
        let left = cluster.members[(leader + 1) % 3].keys("");
        assert_eq!(left, Vec::<String>::new());
    });
}
