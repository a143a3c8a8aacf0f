//! Tests against a real etcd, one for each test.

mod admin;
mod begun;
mod cluster;
mod faults;
mod lean;
mod locks;
mod looks;
mod losses;
mod slots;

use std::future::Future;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::{Etcd, Options};
use crate::backend::{
    Account, AttemptId, Backend, Claim, ErrorKind, Event, Evict, EvictScope, Grant, Lease, LeaseScope, SystemClock,
    Wait,
};
use crate::credentials::Credentials;
use crate::info::{Holder, Mode};
use crate::support::etcd as servers;

/// The maximum time for anything here. Without a leader, etcd 3.4 keeps a request for 7 s before it fails, and a lock takes two.
const LIMIT: Duration = Duration::from_secs(30);

/// An etcd of one test's own.
pub(super) struct Server(servers::Etcd);

impl Server {
    pub(super) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with more arguments.
    pub(super) async fn start_with(arguments: &[&str]) -> Self {
        Self(servers::Etcd::start_with(arguments))
    }

    pub(super) fn endpoint(&self) -> String {
        self.0.endpoint()
    }

    pub(super) fn options(&self, prefix: &str) -> Options {
        options(&self.endpoint(), prefix)
    }

    pub(super) async fn backend(&self, prefix: &str) -> Etcd {
        connect(self.options(prefix)).await.unwrap()
    }

    /// Enables authentication, and connects with a lease as a user who may read and write what begins with one of these.
    pub(super) async fn limited_to(&self, granted: &[&str]) -> Client {
        let locks = |prefix| ["role", "grant-permission", "locks", "--prefix=true", "readwrite", prefix];
        self.ctl(&["user", "add", "root:secret"]);
        self.ctl(&["user", "add", "joe:pass"]);
        self.ctl(&["role", "add", "locks"]);
        granted.iter().for_each(|prefix| drop(self.ctl(&locks(prefix))));
        self.ctl(&["user", "grant-role", "joe", "locks"]);
        self.ctl(&["auth", "enable"]);
        let etcd = connect(Options { account: fixed("joe", "pass"), ..self.options("p/") }).await.unwrap();
        let lease = etcd.open(Duration::from_secs(10), LeaseScope::Session).await.unwrap();
        Client { etcd, lease }
    }

    /// Runs etcdctl to its end.
    pub(super) fn ctl(&self, args: &[&str]) -> String {
        self.0.etcdctl(args)
    }

    fn ctl_command(&self, args: &[&str]) -> Command {
        let mut command = self.0.etcdctl_command();
        command.args(args);
        command
    }

    /// Returns the names of all keys.
    fn names(&self) -> Vec<String> {
        self.0.keys("")
    }

    /// Returns the names of all keys that are no records of leases.
    pub(super) fn claims(&self) -> Vec<String> {
        self.names().into_iter().filter(|name| !name.contains("%session/")).collect()
    }

    fn leases(&self) -> Vec<String> {
        self.0.leases()
    }
}

fn options(endpoint: &str, prefix: &str) -> Options {
    Options {
        endpoints: vec![endpoint.into()],
        account: Account::Anonymous,
        prefix: prefix.into(),
        timeout: Duration::from_secs(5),
        retry_interval: Duration::from_millis(100),
        #[cfg(feature = "etcd-tls")]
        tls: None,
    }
}

pub(super) fn fixed(username: &str, password: &str) -> Account {
    Account::Fixed(Credentials::new(username, password))
}

pub(super) async fn connect(options: Options) -> crate::backend::Result<Etcd> {
    Etcd::connect(options, Arc::new(SystemClock), tokio::runtime::Handle::current()).await
}

/// Runs a test that has to end.
pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(50), test).await.expect("the test hangs") });
}

fn claim(key: &str, mode: Mode, lease: Lease) -> Claim {
    let attempt = AttemptId(rand::random());
    Claim::new(attempt, key.into(), mode, lease, Arc::new(Holder::new("test", "here", 7)))
}

/// A backend with the lease of a session.
pub(super) struct Client {
    pub(super) etcd: Etcd,
    pub(super) lease: Lease,
}

impl Client {
    pub(super) async fn new(server: &Server, prefix: &str) -> Self {
        let etcd = server.backend(prefix).await;
        let lease = etcd.open(Duration::from_secs(10), LeaseScope::Session).await.unwrap();
        Self { etcd, lease }
    }

    pub(super) fn claim(&self, key: &str, mode: Mode) -> Claim {
        claim(key, mode, self.lease)
    }

    async fn get(&self, key: &str, mode: Mode) -> Grant {
        let granted = tokio::time::timeout(LIMIT, async {
            loop {
                let claim = self.claim(key, mode);
                match self.etcd.acquire(&claim, Wait::UntilGranted).await {
                    // The outcome is unknown: aborted, and repeated.
                    Err(error) if error.kind() == ErrorKind::Unreachable => {
                        while self.etcd.abort(&claim).await.is_err() {}
                    }
                    granted => return granted,
                }
            }
        });
        granted.await.expect("not granted").unwrap().unwrap()
    }

    pub(super) async fn lock(&self, key: &str) -> Grant {
        self.get(key, Mode::Exclusive).await
    }

    async fn try_get(&self, key: &str, mode: Mode) -> Option<Grant> {
        self.etcd.acquire(&self.claim(key, mode), Wait::Never).await.unwrap()
    }

    async fn release(&self, grant: &Grant) {
        self.etcd.release(grant).await.unwrap();
    }

    async fn event(&self, limit: Duration) -> Event {
        tokio::time::timeout(limit, self.etcd.next_event()).await.expect("no event").unwrap()
    }

    /// Waits until this many claims of the key stand in the queue.
    async fn queued(&self, key: &str, count: usize) {
        for _ in 0..500 {
            let waiters = self.etcd.inspect(key).await.unwrap().map_or(0, |info| info.holders.len() + info.waiters);
            if waiters == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never {count} claims of {key}");
    }
}

pub(super) fn kind<T: std::fmt::Debug>(result: crate::backend::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}
