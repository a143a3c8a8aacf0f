//! Users and passwords on etcd: wrong ones are refused at once, and an expired token is renewed without an effect on
//! callers.

use std::time::{Duration, Instant};

use leasehold::backend::ErrorKind;
use leasehold::{LockError, LockManager, LockManagerBuilder, Loss};
use support::etcd::{Etcd, metric};
use support::folder::Folder;
use support::proxy::Proxy;
use support::{PATIENCE, all_texts, eventually, in_a_separate_process, in_the_background, logs, lost_since};

/// Needs escapes in a URL.
const PASSWORD: &str = "joe's p@ss/w:rd%?";
const ESCAPED: &str = "joe%27s%20p%40ss%2Fw%3Ard%25%3F";
/// The secrets that must not appear anywhere.
const SECRETS: [&str; 3] = [PASSWORD, ESCAPED, "wr0ng"];

/// The limit for an immediate effect, on a busy machine: well under the managers' timeout, and sooner than
/// any periodic check or renewal.
const SOON: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(15);

/// An etcd with two users: root has all permissions; joe can lock below `p/` and read below `seen/`. No log record
/// contains a secret meanwhile.
struct Fixture {
    etcd: Etcd,
    _folder: Folder,
}

/// The two kinds of etcd's tokens.
#[derive(Clone, Copy, Debug)]
enum Tokens {
    /// The server invalidates one that was not used for a second.
    Simple,
    /// Self-contained; it has an expiry, and becomes invalid when any user or role is changed.
    Signed { seconds: u64 },
}

impl Fixture {
    fn new(tokens: Tokens) -> Self {
        logs::collect();
        let folder = Folder::new();
        let key = folder.path().join("key");
        std::fs::write(&key, "anything at all that is long enough").unwrap();
        let tokens = match tokens {
            Tokens::Simple => "--auth-token-ttl=1".to_owned(),
            Tokens::Signed { seconds } => {
                format!("--auth-token=jwt,sign-method=HS256,priv-key={},ttl={seconds}s", key.display())
            }
        };
        // The cheapest password hash, because the machine is busy with other tests.
        let etcd = Etcd::start_with(&[&tokens, "--bcrypt-cost=4"]);
        etcd.etcdctl(&["user", "add", "root:secret"]);
        etcd.etcdctl(&["user", "add", "joe", "--new-user-password", PASSWORD]);
        etcd.etcdctl(&["role", "add", "locks"]);
        etcd.etcdctl(&["role", "grant-permission", "locks", "--prefix=true", "readwrite", "p/"]);
        etcd.etcdctl(&["role", "grant-permission", "locks", "--prefix=true", "read", "seen/"]);
        etcd.etcdctl(&["user", "grant-role", "joe", "locks"]);
        etcd.etcdctl(&["auth", "enable"]);
        Self { etcd, _folder: folder }
    }

    fn root(&self, arguments: &[&str]) -> String {
        self.etcd.etcdctl(&[&["--user", "root:secret", "--command-timeout=20s"], arguments].concat())
    }

    fn joe(&self) -> LockManagerBuilder {
        self.joe_at(&self.etcd.endpoint())
    }

    fn joe_at(&self, endpoint: &str) -> LockManagerBuilder {
        LockManager::builder().url(format!("etcd://joe:{ESCAPED}@{endpoint}?prefix=p/")).timeout(TIMEOUT)
    }

    /// Invalidates every token, with etcd's other error, by a change to users and roles.
    fn change_another_role(&self) {
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.root(&["role", "add", &format!("other-{count}")]);
    }

    /// The names of the claims of a key.
    fn claims(&self, key: &str) -> Vec<String> {
        let printed = self.root(&["get", &format!("p/{key}/"), "--prefix", "--keys-only"]);
        printed.lines().filter(|line| !line.is_empty()).map(Into::into).collect()
    }

    /// The number of tokens that the server has issued.
    fn logins(&self) -> u64 {
        metric(self.etcd.address(), "grpc_server_handled_total", &["grpc_method=\"Authenticate\"", "grpc_code=\"OK\""])
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            logs::lines().iter().for_each(|line| tells_no_secret(&format!("{} {:?}", line.text, line.fields)));
        }
    }
}

fn tells_no_secret(text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret:?} in {text}");
    }
}

/// Asserts that an error is a refusal by the server.
fn assert_denied(what: &str, error: &LockError, took: Duration) {
    println!("{what}: {} after {took:?}: {error}", error.code());
    assert!(matches!(error, LockError::Backend { kind: ErrorKind::Denied, .. }), "{what}: {error:?}");
    assert_eq!(error.code(), "BACKEND");
    assert!(took < SOON, "{what}: {took:?}");
    tells_no_secret(&all_texts(error));
}

#[test]
fn a_missing_permission_is_an_immediate_error() {
    in_a_separate_process!();
    let fixture = Fixture::new(Tokens::Simple);
    let endpoint = fixture.etcd.endpoint();
    let took = |call: &dyn Fn() -> LockError| {
        let start = Instant::now();
        (call(), start.elapsed())
    };
    for (what, url) in [
        ("a wrong password", format!("etcd://joe:wr0ng@{endpoint}?prefix=p/")),
        ("an unknown user", format!("etcd://jack:{ESCAPED}@{endpoint}?prefix=p/")),
        ("no user at all", format!("etcd://{endpoint}?prefix=p/")),
        ("a prefix that is not joe's", format!("etcd://joe:{ESCAPED}@{endpoint}?prefix=q/")),
    ] {
        let (error, took) = took(&|| LockManager::builder().url(&url).timeout(TIMEOUT).build().wait().unwrap_err());
        assert_denied(what, &error, took);
    }
    // A user with only read permission is refused when it locks.
    let reader = fixture.joe().prefix("seen/").build().wait().unwrap();
    tells_no_secret(&format!("{reader:?}"));
    assert_eq!(reader.info("k").wait().unwrap(), None);
    for _ in 0..2 {
        let (error, time) = took(&|| reader.lock("k").wait().unwrap_err());
        assert_denied("a lock where one may only read", &error, time);
        let (error, time) = took(&|| reader.try_lock("k").wait().unwrap_err());
        assert_denied("a try where one may only read", &error, time);
    }
    assert!(logs::lines().iter().any(|line| line.target.starts_with("leasehold")), "nothing was logged");
}

#[test]
fn a_token_that_expires_during_the_hold_is_no_loss() {
    in_a_separate_process!();
    for tokens in [Tokens::Simple, Tokens::Signed { seconds: 1 }] {
        expires_during_the_hold(&Fixture::new(tokens));
    }
}

fn expires_during_the_hold(fixture: &Fixture) {
    let (holder, waiter) = (fixture.joe().ttl(Duration::from_secs(6)), fixture.joe().ttl(Duration::from_secs(60)));
    let (holder, waiter) = (holder.build().wait().unwrap(), waiter.build().wait().unwrap());
    let guard = holder.lock("k").wait().unwrap();
    let waiting = in_the_background(waiter.lock("k"));
    eventually("the other one waits", || (fixture.claims("k").len() == 2).then_some(()));
    // Renewed every 2 s, so its token has expired before each renewal. The waiter has sent nothing for even longer.
    eventually("two renewals, each with a new token", || (holder.stats().renewals >= 2).then_some(()));
    assert!(!guard.is_lost());
    assert_eq!(holder.stats().failed_renewals, 0);
    let start = Instant::now();
    guard.unlock().wait().unwrap();
    let (next, at) = waiting.recv_timeout(PATIENCE).unwrap();
    println!("the next one in after {:?}", at - start);
    assert!(at - start < SOON, "{:?}", at - start);
    next.unlock().wait().unwrap();
}

#[test]
fn a_change_to_another_users_role_is_no_loss() {
    in_a_separate_process!();
    let fixture = Fixture::new(Tokens::Signed { seconds: 600 });
    let (holder, waiter) = (fixture.joe().ttl(Duration::from_secs(3)), fixture.joe().ttl(Duration::from_secs(60)));
    let (holder, waiter) = (holder.build().wait().unwrap(), waiter.build().wait().unwrap());
    for round in 0..3 {
        let guard = holder.lock("k").wait().unwrap();
        let waiting = in_the_background(waiter.lock("k"));
        eventually("the other one waits", || (fixture.claims("k").len() == 2).then_some(()));
        fixture.change_another_role();
        if round == 1 {
            let renewed = holder.stats().renewals;
            eventually("renewed after the change", || (holder.stats().renewals > renewed).then_some(()));
        }
        assert!(!guard.is_lost());
        let start = Instant::now();
        guard.unlock().wait().unwrap();
        let (next, at) = waiting.recv_timeout(PATIENCE).unwrap();
        println!("the next one in after {:?}", at - start);
        assert!(at - start < SOON, "{:?}", at - start);
        fixture.change_another_role();
        assert!(holder.try_lock("k").wait().unwrap().is_none());
        fixture.change_another_role();
        next.unlock().wait().unwrap();
    }
}

#[test]
fn a_loss_is_notified_though_the_token_is_too_old_for_the_watch() {
    in_a_separate_process!();
    for tokens in [Tokens::Simple, Tokens::Signed { seconds: 600 }] {
        notified_with_an_old_token(&Fixture::new(tokens));
    }
}

fn notified_with_an_old_token(fixture: &Fixture) {
    let proxy = Proxy::start(fixture.etcd.address());
    let builder = fixture.joe_at(&proxy.address().to_string());
    let manager = builder.ttl(Duration::from_secs(60)).build().wait().unwrap();
    let guard = manager.lock("k").wait().unwrap();
    // Nothing is sent until the renewal, in 20 s. A fixed pause: the hold is old enough for its watch, and the token too old.
    std::thread::sleep(Duration::from_millis(2500));
    fixture.change_another_role();
    proxy.reset_all();
    let [claim] = &fixture.claims("k")[..] else { panic!("not one claim") };
    let start = Instant::now();
    fixture.root(&["del", claim]);
    let (loss, took) = lost_since(&guard, start);
    assert!(loss == Loss::Revoked && took < SOON, "{loss:?} after {took:?}");
}

#[test]
fn many_requests_share_one_new_token() {
    in_a_separate_process!();
    let fixture = Fixture::new(Tokens::Signed { seconds: 600 });
    let manager = fixture.joe().build().wait().unwrap();
    drop(manager.lock("k").wait().unwrap());
    fixture.change_another_role();
    let before = fixture.logins();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let requests = (0..50).map(|n| tokio::spawn(manager.lock(format!("k{n}")).into_future()));
        for guard in futures::future::join_all(requests).await {
            drop(guard.unwrap().unwrap());
        }
    });
    let logins = fixture.logins() - before;
    println!("{logins} tokens for 50 locks");
    assert!((1..=2).contains(&logins), "{logins} tokens for 50 locks");
}

#[test]
fn a_revoked_permission_is_a_loss_in_time() {
    in_a_separate_process!();
    let fixture = Fixture::new(Tokens::Simple);
    // Long enough for the session to outlive the refusals of a busy machine.
    let ttl = Duration::from_secs(6);
    let manager = fixture.joe().ttl(ttl).build().wait().unwrap();
    for revoke in [&["user", "revoke-role", "joe", "locks"], &["user", "delete", "joe"][..]] {
        let (guard, other) = (manager.lock("k").wait().unwrap(), manager.lock("l").wait().unwrap());
        let start = Instant::now();
        fixture.root(revoke);
        let error = other.unlock().wait().unwrap_err();
        assert_denied("an unlock that is not allowed any more", &error, start.elapsed());
        let asked = Instant::now();
        let error = manager.lock("m").wait().unwrap_err();
        assert_denied("a lock that is not allowed any more", &error, asked.elapsed());
        let (_, took) = lost_since(&guard, start);
        assert!(took < ttl + SOON, "{took:?}");
        assert_eq!(guard.unlock().wait().unwrap_err().code(), "LOCK_EXPIRED");
        if revoke.contains(&"revoke-role") {
            fixture.root(&["user", "grant-role", "joe", "locks"]);
            drop(eventually("the key can be locked again", || manager.lock("k").wait().ok()));
        }
    }
}
