//! A cluster of three members, one of which fails.

use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use super::*;

/// A cluster for one test.
struct Cluster {
    members: Vec<Server>,
}

impl Cluster {
    async fn start() -> Self {
        let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let ports: Vec<_> = (0..3).map(|_| (port(), port())).collect();
        let peers: Vec<_> =
            ports.iter().enumerate().map(|(number, (_, peer))| format!("m{number}=http://127.0.0.1:{peer}")).collect();
        let mut members = Vec::new();
        for (number, (port, peer)) in ports.iter().enumerate() {
            let folder = std::env::temp_dir().join(format!("leasehold-etcd-{}-m{number}-{port}", std::process::id()));
            let (client_url, peer_url) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
            let child = Command::new("etcd")
                .arg("--data-dir")
                .arg(&folder)
                .args(["--name", &format!("m{number}")])
                .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
                .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
                .args(["--initial-cluster", &peers.join(","), "--log-level", "error"])
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            members.push(Server { child, port: *port, folder });
        }
        let cluster = Self { members };
        for member in &cluster.members {
            while connect(member.options("")).await.is_err() {}
        }
        cluster
    }

    async fn client(&self, first: usize) -> Client {
        let mut options = self.members[first].options("p/");
        let others = self.members.iter().map(Server::endpoint).filter(|endpoint| *endpoint != options.endpoints[0]);
        let endpoints: Vec<_> = others.collect();
        options.endpoints.extend(endpoints);
        let etcd = connect(options).await.unwrap();
        let lease = etcd.open(Duration::from_secs(10), false).await.unwrap();
        Client { etcd, lease }
    }

    /// Returns the number of the leader.
    async fn leader(&self) -> usize {
        for (number, member) in self.members.iter().enumerate() {
            let mut client = etcd_client::Client::connect([member.endpoint()], None).await.unwrap();
            let status = client.status().await.unwrap();
            if status.header().unwrap().member_id() == status.leader() {
                return number;
            }
        }
        panic!("no leader");
    }

    fn signal(&self, member: usize, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.members[member].child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
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
        let cluster = Cluster::start().await;
        let leader = cluster.leader().await;
        let mut clients = [cluster.client(leader).await, cluster.client((leader + 1) % 3).await];
        for (member, signal) in [((leader + 1) % 3, Signal::STOP), (leader, Signal::STOP), (leader, Signal::KILL)] {
            cluster.signal(member, signal);
            let until = Instant::now() + Duration::from_secs(6);
            let [a, b] = &mut clients;
            let longest = futures::future::join(work(a, "k", until), work(b, "k", until)).await;
            println!("{signal:?} of {member} (leader {leader}): {longest:?}");
            assert!(longest.0.max(longest.1) < LIMIT, "{longest:?}");
            if signal == Signal::STOP {
                cluster.signal(member, Signal::CONT);
            }
        }
        for client in &clients {
            client.etcd.revoke(&client.lease).await.unwrap();
        }
        let left = cluster.members[(leader + 1) % 3].names();
        assert_eq!(left, Vec::<String>::new());
    });
}
