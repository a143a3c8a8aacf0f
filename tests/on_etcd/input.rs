//! Invalid keys, options and URLs are refused before any I/O, with a code and the name of the invalid part.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use futures::FutureExt;
use leasehold::testing::MemoryStore;
use leasehold::{LockManager, LockRequest, Result};
use support::etcd::Etcd;
use support::ports::free_port;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The error of a call that fails at its first poll, so without any answer.
fn refused<T: Debug>(call: impl IntoFuture<Output = Result<T>>) -> (&'static str, String) {
    let error = call.into_future().now_or_never().expect("refused at once").unwrap_err();
    (error.code(), error.to_string())
}

/// Managers whose servers do not answer, so that a refusal is local.
fn cut_off() -> (Etcd, [LockManager; 2]) {
    let etcd = Etcd::start();
    let on_etcd = LockManager::connect(etcd.url()).wait().unwrap();
    etcd.process().stop();
    let link = MemoryStore::new().link();
    let on_memory = LockManager::builder().backend(link.clone()).build().wait().unwrap();
    link.partition();
    (etcd, [on_etcd, on_memory])
}

#[test]
fn bad_keys_are_refused_without_a_server() {
    let (etcd, managers) = cut_off();
    let long = "k".repeat(1025);
    let bad = [
        "",
        "\0",
        "a\0b",
        "\n",
        "a\tb",
        "\u{1b}[0m",
        "\u{7f}",
        "\u{85}",
        "a\u{202e}b",
        "\u{2066}",
        "\u{200f}",
        "\u{61c}",
        long.as_str(),
    ];
    for manager in managers {
        let good = manager.handle("k".repeat(1024)).unwrap();
        assert_eq!(good.key().len(), 1024);
        for bad in bad {
            let error = manager.handle(bad).unwrap_err();
            assert_eq!((error.code(), error.key()), ("INVALID_KEY", Some(bad)));
            for (code, text) in [
                refused(manager.lock(bad)),
                refused(manager.lock(bad).shared().timeout(Duration::ZERO)),
                refused(manager.lock(bad).ttl(Duration::ZERO)),
                refused(manager.try_lock(bad)),
                refused(manager.is_locked(bad)),
                refused(manager.info(bad)),
                refused(manager.force_unlock(bad)),
                refused(manager.force_unlock(bad).key_only()),
            ] {
                assert_eq!(code, "INVALID_KEY", "{text}");
                assert!(text.len() < 400 && !text.contains(['\0', '\n', '\u{1b}']), "{text:?}");
            }
            let start = Instant::now();
            assert_eq!(manager.lock(bad).wait().unwrap_err().code(), "INVALID_KEY");
            assert!(start.elapsed() < Duration::from_secs(1));
        }
        drop(good);
        assert_eq!(manager.stats().keys, 0);
    }
    etcd.process().resume();
}

#[test]
fn bad_options_are_refused_without_a_server() {
    let (etcd, [on_etcd, on_memory]) = cut_off();
    type Change = fn(LockRequest) -> LockRequest;
    let everywhere: [(&str, Change); 5] = [
        ("ttl", |request| request.ttl(Duration::ZERO)),
        ("ttl", |request| request.ttl(DAY + Duration::from_nanos(1))),
        ("ttl", |request| request.ttl(Duration::MAX)),
        ("max_hold", |request| request.max_hold(Duration::ZERO)),
        ("retry_interval", |request| request.retry_interval(Duration::ZERO)),
    ];
    let etcd_only: [(&str, Change); 2] = [
        ("ttl", |request| request.ttl(Duration::from_millis(999))),
        ("ttl", |request| request.ttl(Duration::from_millis(100))),
    ];
    let memory_only: [(&str, Change); 1] = [("ttl", |request| request.ttl(Duration::from_micros(99_999)))];
    for (manager, more) in [(&on_etcd, &etcd_only[..]), (&on_memory, &memory_only[..])] {
        for (word, change) in everywhere.iter().chain(more) {
            for (code, text) in [refused(change(manager.lock("k"))), refused(change(manager.lock("k")).try_once())] {
                assert!(code == "INVALID_CONFIG" && text.contains(word), "{code}: {text}");
            }
        }
        assert_eq!(manager.stats().waiting, 0);
    }
    etcd.process().resume();
}

#[test]
fn the_shortest_and_the_longest_ttl_are_granted() {
    let etcd = Etcd::start();
    let on_etcd = LockManager::connect(etcd.url()).wait().unwrap();
    for (asked, granted) in [(1000, 2), (1500, 2), (2000, 2), (2001, 3), (86_400_000, 86_400)] {
        let guard = on_etcd.lock("k").ttl(Duration::from_millis(asked)).isolated().wait().unwrap();
        let left = guard.remaining();
        let (least, most) = (Duration::from_secs(granted).mul_f64(0.9), Duration::from_secs(granted));
        assert!(left <= most && left > least - Duration::from_millis(500), "{asked} ms asked, {left:?} left");
        guard.unlock().wait().unwrap();
    }
    let on_memory = LockManager::memory();
    for asked in [Duration::from_millis(100), DAY] {
        assert!(on_memory.lock("k").ttl(asked).wait().unwrap().remaining() <= asked);
    }
}

#[test]
fn urls_and_settings_are_refused_before_connecting() {
    let nobody = format!("127.0.0.1:{}", free_port());
    let long = "p".repeat(1025);
    for (url, word) in [
        ("", "scheme"),
        ("HOST", "scheme"),
        ("zookeeper://HOST", "zookeeper"),
        ("etcd://", "host"),
        ("etcd://HOST:1", "port"),
        ("etcd://host:99999", "port"),
        ("etcd://HOST/leasehold", "path"),
        ("etcd://user@HOST", "password"),
        ("etcd://HOST?tll=5s", "tll"),
        ("memory://n?tll=5s", "tll"),
        ("etcd://HOST?ttl=5s&ttl=6s", "ttl"),
        ("etcd://HOST?ttl=5", "ttl"),
        ("etcd://HOST?ttl=0s", "ttl"),
        ("etcd://HOST?ttl=999ms", "ttl"),
        ("etcd://HOST?ttl=24h1s", "ttl"),
        ("memory://n?ttl=99ms", "ttl"),
        ("etcd://HOST?timeout=0s", "timeout"),
        ("etcd://HOST?retry_interval=0s", "retry_interval"),
        ("etcd://HOST?max_retries=many", "max_retries"),
        ("etcd://HOST?auto_renew=1", "auto_renew"),
        ("etcd://HOST?prefix=%00", "prefix"),
        ("etcd://HOST?prefix=LONG", "prefix"),
        ("etcd://HOST?name=", "name"),
        ("etcd://HOST?ca=/ca.pem", "ca"),
        ("etcds://HOST?cert=/c.pem", "key"),
        ("memory://n/m", "memory"),
    ] {
        let url = url.replace("HOST", &nobody).replace("LONG", &long);
        let (code, text) = refused(LockManager::connect(&url));
        assert!(code == "INVALID_CONFIG" && text.contains(word), "{url}: {code}: {text}");
    }
    for (builder, word) in [
        (LockManager::builder().ttl(Duration::ZERO), "ttl"),
        (LockManager::builder().ttl(DAY + Duration::from_secs(1)), "ttl"),
        (LockManager::builder().ttl(Duration::from_millis(99)), "ttl"),
        (LockManager::builder().url(format!("etcd://{nobody}")).ttl(Duration::from_millis(999)), "ttl"),
        (LockManager::builder().timeout(Duration::ZERO), "timeout"),
        (LockManager::builder().retry_interval(Duration::ZERO), "retry_interval"),
        (LockManager::builder().max_hold(Duration::ZERO), "max_hold"),
        (LockManager::builder().hand_over(Duration::from_millis(1), 1024), "handover"),
        (LockManager::builder().prefix("a\nb"), "prefix"),
        (LockManager::builder().name(""), "name"),
        (LockManager::builder().credentials("user", "secret"), "username"),
        (LockManager::builder().backend(MemoryStore::new().link()).ttl(Duration::from_millis(99)), "ttl"),
    ] {
        let (code, text) = refused(builder.build());
        assert!(code == "INVALID_CONFIG" && text.contains(word), "{code}: {text}");
        assert!(!text.contains("secret"), "{text}");
    }
    for (url, word) in
        [("redis+cluster://h/1", "database"), ("redis+sentinel://h", "master"), ("redis://a,b", "redis+sentinel://")]
    {
        let (code, text) = refused(LockManager::connect(url));
        assert!(code == "INVALID_CONFIG" && text.contains(word), "{url}: {code}: {text}");
    }
}

#[test]
fn similar_keys_are_different_locks() {
    let etcd = Etcd::start();
    let on_etcd = ["", "leasehold/", "p%"]
        .map(|prefix| LockManager::builder().url(etcd.url()).prefix(prefix).build().wait().unwrap());
    let keys = [
        "a", "a/b", "a/", "/a", "a_info", "ab", "a%2Fb", "a%2fb", "a b", "a ", "{a}", "a}b", "{}x", "鍵", "é",
        "e\u{301}", "read", "%session", "/", "%", "..", "A", "a/read/b",
    ];
    for manager in on_etcd.iter().chain(&[LockManager::memory()]) {
        let guards: Vec<_> = keys.iter().map(|key| manager.try_lock(key).wait().unwrap().expect(key)).collect();
        let mut sorted = keys.to_vec();
        sorted.sort_unstable();
        let mut listed: Vec<_> = manager.list("").wait().unwrap().into_iter().map(|info| info.key).collect();
        listed.sort_unstable();
        assert_eq!(listed, sorted, "{manager:?}");
        let mut below: Vec<_> = manager.list("a/").wait().unwrap().into_iter().map(|info| info.key).collect();
        below.sort_unstable();
        assert_eq!(below, ["a/", "a/b", "a/read/b"]);
        for (n, guard) in guards.into_iter().enumerate() {
            assert_eq!(manager.info(keys[n]).wait().unwrap().unwrap().key, keys[n]);
            guard.unlock().wait().unwrap();
            assert!(manager.info(keys[n]).wait().unwrap().is_none());
            assert_eq!(manager.stats().held, (keys.len() - n - 1) as u64);
        }
    }
}

#[test]
fn values_of_other_clients_are_only_bytes() {
    let etcd = Etcd::start();
    let manager = LockManager::builder().url(etcd.url()).prefix("p/").build().wait().unwrap();
    let values = ["", "\u{0}\u{1}", "null", "[[[[[[", r#"{"v":1}"#, r#"{"v":99,"name":7}"#, r#"{"v":1e400}"#];
    // Names like leasehold's, like etcdctl's, and like no known client's.
    for (n, value) in values.iter().enumerate() {
        for name in ["7f-1", "694d8a3b1c5e0a07", "-", "read/7f-1", "read/", "fffffffffffffffffffff-1", "x/y/z"] {
            let key = format!("k{n}");
            // A value with a zero byte cannot be an argument, but standard input may have it.
            put(&etcd, &format!("p/{key}/{name}"), value);
            assert!(manager.try_lock(&key).wait().unwrap().is_none(), "{name}: {value:?}");
            let info = manager.info(&key).wait().unwrap().unwrap();
            assert_eq!((&info.key, info.remaining), (&key, None));
            assert!(manager.list("k").wait().unwrap().iter().any(|info| info.key == key));
            // Without a lease it never expires, but an administrator can remove it.
            let eviction = manager.force_unlock(&key).wait().unwrap();
            assert_eq!(eviction.released, [key.as_str()]);
            drop(manager.try_lock(&key).wait().unwrap().expect("free"));
            support::eventually("free", || manager.info(&key).wait().unwrap().is_none().then_some(()));
        }
    }
}

fn put(etcd: &Etcd, name: &str, value: &str) {
    use std::io::Write;
    let mut put = etcd.etcdctl_command();
    put.args(["put", "--", name]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
    if value.is_empty() {
        // etcdctl treats an empty input as a missing one.
        put.arg("");
    }
    let mut put = put.spawn().unwrap();
    put.stdin.take().unwrap().write_all(value.as_bytes()).unwrap();
    assert!(put.wait().unwrap().success());
}
