//! Requests that a stopped member finds in its socket when it resumes, long after their attempts were aborted elsewhere.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use leasehold::{LockGuard, LockManager, Result};
use support::etcd::{Cluster, Etcd};
use support::proxy::Proxy;
use support::{PATIENCE, eventually};

/// Longer than any test here: nothing is renewed, and nothing expires.
const TTL: Duration = Duration::from_secs(120);
const PREFIX: &str = "late/";

/// A manager whose first member stops, with a wire to it that can be cut, and another manager that never uses it.
struct Fixture {
    cluster: Cluster<3>,
    stopped: usize,
    proxy: Proxy,
    manager: LockManager,
    rival: LockManager,
}

impl Fixture {
    fn new() -> Self {
        let cluster = Cluster::<3>::start();
        let stopped = (cluster.leader() + 1) % 3;
        let [first, second, third] = [0, 1, 2].map(|number| &cluster.members[(stopped + number) % 3]);
        let proxy = Proxy::start(first.address());
        let url = format!("etcd://{},{},{}", proxy.address(), second.endpoint(), third.endpoint());
        let build = |url: &str| LockManager::builder().url(url).prefix(PREFIX).ttl(TTL).build().wait().unwrap();
        let (manager, rival) = (build(&url), build(&second.url()));
        // The sessions exist from here on.
        manager.lock("else").wait().unwrap().unlock().wait().unwrap();
        rival.lock("else").wait().unwrap().unlock().wait().unwrap();
        Self { cluster, stopped, proxy, manager, rival }
    }

    fn stopped(&self) -> &Etcd {
        &self.cluster.members[self.stopped]
    }

    /// Sends a claim into the socket of the member, which stops before it can read it. What the client sends there afterwards is
    /// held back, so that the request is not taken back.
    fn send_into_the_stop(&self, limit: Duration) -> (Receiver<Result<LockGuard>>, u64) {
        let handled = self.stopped().handled("Txn");
        self.stopped().process().stop();
        let requested = self.proxy.requested();
        let (request, (sender, answer)) = (self.manager.lock("k").timeout(limit), channel());
        std::thread::spawn(move || sender.send(request.wait()));
        eventually("the request is sent", || (self.proxy.requested() > requested).then_some(()));
        // A fixed pause: the whole request has passed the proxy.
        std::thread::sleep(Duration::from_millis(200));
        self.proxy.cut();
        (answer, handled)
    }

    /// Resumes the member, and waits until it has handled the requests in its socket.
    fn resume(&self, handled: u64) {
        self.stopped().process().resume();
        eventually("the late request is handled", || (self.stopped().handled("Txn") > handled).then_some(()));
    }

    fn claims(&self) -> usize {
        self.cluster.members[(self.stopped + 1) % 3].keys(&format!("{PREFIX}k/")).len()
    }

    /// Asserts that no claim of the key is left, and that each manager can lock it.
    fn is_free(&self) {
        assert_eq!(self.claims(), 0);
        for manager in [&self.rival, &self.manager] {
            manager.try_lock("k").wait().unwrap().expect("free").unlock().wait().unwrap();
        }
    }
}

#[test]
fn a_request_that_was_repeated_elsewhere_has_no_effect_while_the_lock_is_held() {
    let fixture = Fixture::new();
    let (answer, handled) = fixture.send_into_the_stop(PATIENCE);
    let guard = answer.recv_timeout(PATIENCE).unwrap().unwrap();
    fixture.resume(handled);
    assert_eq!((fixture.claims(), guard.depth(), guard.is_lost()), (1, 1, false));
    assert!(fixture.rival.try_lock("k").wait().unwrap().is_none());
    guard.unlock().wait().unwrap();
    fixture.is_free();
}

#[test]
fn a_request_that_was_repeated_elsewhere_has_no_effect_after_the_release() {
    let fixture = Fixture::new();
    let (answer, handled) = fixture.send_into_the_stop(PATIENCE);
    answer.recv_timeout(PATIENCE).unwrap().unwrap().unlock().wait().unwrap();
    fixture.resume(handled);
    fixture.is_free();
}

#[test]
fn a_request_that_was_cancelled_has_no_effect() {
    let fixture = Fixture::new();
    // Before it would be repeated elsewhere.
    let (answer, handled) = fixture.send_into_the_stop(Duration::from_millis(500));
    assert_eq!(answer.recv_timeout(PATIENCE).unwrap().unwrap_err().code(), "LOCK_TIMEOUT");
    // The next attempt begins after the abort of that one.
    fixture.manager.lock("k").timeout(PATIENCE).wait().unwrap().unlock().wait().unwrap();
    fixture.resume(handled);
    fixture.is_free();
}

#[test]
fn a_request_of_a_manager_that_was_closed_has_no_effect() {
    let fixture = Fixture::new();
    let (answer, handled) = fixture.send_into_the_stop(PATIENCE);
    fixture.manager.close().wait().unwrap();
    assert!(answer.recv_timeout(PATIENCE).unwrap().is_err());
    fixture.resume(handled);
    assert_eq!(fixture.claims(), 0);
    fixture.rival.try_lock("k").wait().unwrap().expect("free").unlock().wait().unwrap();
}
