//! `info`, `list`, `stats` and `ping`.

use std::future::IntoFuture;
use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use super::support::{A_WHILE, SOON, done, eventually, has_waiters, is_free, key, queue_up, soon, stranger, within};
use crate::{LockManager, Mode};

/// The holders, the mode, the start, the remaining time, and the number of waiters.
pub async fn info_names_holders_and_counts_waiters(a: LockManager, b: LockManager) {
    let key = key("info");
    assert!(a.info(&key).await.expect("the server answers").is_none());
    let asked_at = SystemTime::now();
    let guard = soon(a.lock(&key)).await;
    for manager in [&a, &b] {
        let info = manager.info(&key).await.expect("the server answers").expect("held");
        assert_eq!((&*info.key, info.mode, info.waiters, info.foreign), (&*key, Mode::Exclusive, 0, false), "{info:?}");
        let [holder] = &*info.holders else { panic!("{info:?}") };
        assert!(holder.pid == std::process::id() && !holder.host.is_empty() && !holder.name.is_empty(), "{info:?}");
        assert!(info.token.is_none_or(|token| token <= guard.token()), "{info:?}");
        let since = info.since.expect("leasehold's claims have it");
        let skew = Duration::from_secs(1);
        assert!(since + skew >= asked_at && since <= SystemTime::now() + skew, "{info:?}");
        assert!(info.remaining.is_none_or(|remaining| !remaining.is_zero()), "{info:?}");
    }
    // All waiters of a process are one claim at the server.
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let request = b.lock(&key);
            tokio::spawn(async move { drop(request.await.expect("granted")) })
        })
        .collect();
    has_waiters(&a, &key, 1).await;
    eventually(SOON, "three local waiters", || std::future::ready(b.stats().waiting == 3)).await;
    drop(guard);
    for waiter in waiting {
        done(waiter).await;
    }
    is_free(&a, &key).await;
}

/// The wait is not part of the hold.
pub async fn info_has_the_start_of_the_hold(a: LockManager, b: LockManager) {
    const WAITED: Duration = Duration::from_millis(600);
    let key = key("since");
    let guard = soon(a.lock(&key)).await;
    let waiting = tokio::spawn(b.lock(&key).into_future());
    has_waiters(&a, &key, 1).await;
    sleep(WAITED).await;
    let released = SystemTime::now();
    drop(guard);
    let _guard = done(waiting).await.expect("granted");
    let info = a.info(&key).await.expect("the server answers").expect("held");
    let since = info.since.unwrap_or(released);
    // The server's clock may differ, but less than this.
    assert!(since + WAITED / 2 >= released, "{:?} before it was free", released.duration_since(since));
}

/// All processes that share a key are listed.
pub async fn info_lists_all_readers(a: LockManager, b: LockManager) {
    let key = key("info-shared");
    let _readers = [soon(a.lock(&key).shared()).await, soon(b.lock(&key).shared()).await];
    let info = a.info(&key).await.expect("the server answers").expect("held");
    assert_eq!((info.mode, info.holders.len(), info.waiters), (Mode::Shared, 2, 0), "{info:?}");
}

/// Exactly the keys that begin with the prefix, unchanged and in order.
pub async fn list_has_exactly_the_keys_of_a_prefix(a: LockManager, b: LockManager) {
    let base = key("list");
    let keys: Vec<_> = ["", "/a", "/a/b", "/ab", "/a_info", "/ä", "/z %2F{}"].map(|end| format!("{base}{end}")).into();
    let mut guards = Vec::new();
    for (n, key) in keys.iter().enumerate() {
        let manager = if n % 2 == 0 { &a } else { &b };
        guards.push(soon(manager.lock(key)).await);
    }
    let _elsewhere = soon(a.lock(key("list"))).await;
    for (prefix, expected) in
        [("", &[0, 1, 2, 3, 4, 5, 6][..]), ("/a", &[1, 2, 3, 4]), ("/a/", &[2]), ("/ä", &[5]), ("/x", &[])]
    {
        let listed = b.list(format!("{base}{prefix}")).await.expect("the server answers");
        let listed: Vec<_> = listed.into_iter().map(|info| info.key).collect();
        let mut expected: Vec<_> = expected.iter().map(|n| keys[*n].clone()).collect();
        expected.sort_unstable();
        assert_eq!(listed, expected, "with {prefix:?}");
    }
    let middle = &base["conformance/".len()..];
    assert!(a.list(middle).await.expect("the server answers").is_empty(), "{middle} is no prefix");
    for guard in guards {
        guard.unlock().await.expect("unlocked");
    }
    assert!(a.list(&base).await.expect("the server answers").iter().all(|info| !keys.contains(&info.key)));
}

/// A lock affects neither a similar key nor the key of a backend's own records.
pub async fn similar_keys_are_different_locks(a: LockManager, b: LockManager) {
    let base = key("alike");
    let ends = [
        "",
        "/",
        "//",
        "a",
        "a/",
        "a/b",
        "ab",
        "a_info",
        "a.lock",
        "a:queue",
        "%2F",
        "/%2f",
        "%",
        "%25",
        "{}",
        "{a}",
        "a}b",
        "a b",
        " ",
        "A",
        "ä",
        "a\u{308}",
        "鍵",
        "🔒",
        "..",
        "\\",
        "*",
        "?",
        "[a]",
        "\u{feff}",
        "\u{10ffff}",
        "0",
        "00",
    ];
    let mut guards = Vec::new();
    for (n, end) in ends.iter().enumerate() {
        let manager = if n % 2 == 0 { &a } else { &b };
        let guard = manager.try_lock(format!("{base}{end}")).await.expect("a good key");
        guards.push(guard.unwrap_or_else(|| panic!("{end:?} is not free")));
    }
    for (n, end) in ends.iter().enumerate() {
        let (key, other) = (format!("{base}{end}"), if n % 2 == 0 { &b } else { &a });
        assert!(other.try_lock(&key).await.expect("the server answers").is_none(), "{end:?} is not held");
        assert_eq!(other.info(&key).await.expect("the server answers").expect("held").key, key);
        assert_eq!(guards[n].key(), key);
    }
    // Released one by one; the others stay held.
    while let Some(guard) = guards.pop() {
        let key = guard.key().to_owned();
        guard.unlock().await.expect("unlocked");
        assert!(b.info(&key).await.expect("the server answers").is_none(), "{key} is free");
        assert!(guards.iter().all(|guard| !guard.is_lost()));
        if let Some(last) = guards.last() {
            assert!(b.is_locked(last.key()).await.expect("the server answers"));
        }
    }
}

/// `is_held` is about this manager, `is_locked` about all clients.
pub async fn is_held_and_is_locked(a: LockManager, b: LockManager) {
    let key = key("held");
    let (here, there) = (a.handle(&key).expect("a good key"), b.handle(&key).expect("a good key"));
    assert!(!here.is_held() && !here.is_locked().await.expect("the server answers"));
    let guard = soon(here.lock()).await;
    assert!(here.is_held() && !there.is_held());
    for locked in [here.is_locked(), there.is_locked(), b.is_locked(&key)] {
        assert!(locked.await.expect("the server answers"));
    }
    drop(guard);
    assert!(!here.is_held());
    is_free(&b, &key).await;
    assert!(!there.is_locked().await.expect("the server answers"));
    let _reader = soon(there.lock().shared()).await;
    assert!(there.is_held() && here.is_locked().await.expect("the server answers"));
}

/// The counters of a manager.
pub async fn stats_count(a: LockManager, b: LockManager) {
    let (one, two) = (key("stats-one"), key("stats-two"));
    let before = a.stats();
    assert_eq!((before.held, before.waiting, before.keys), (0, 0, 0));
    let guards = [soon(a.lock(&one)).await, soon(a.lock(&one)).await, soon(a.lock(&two)).await];
    let waiting = queue_up(stranger(a.lock(&two)));
    let stats = a.stats();
    assert_eq!((stats.held, stats.waiting, stats.keys), (2, 1, 2), "{stats:?}");
    assert_eq!(stats.acquired - before.acquired, 2, "holds, not guards: {stats:?}");
    drop(waiting);
    drop(guards);
    let _taken = soon(b.lock(&one)).await;
    let error = a.lock(&one).timeout(Duration::from_millis(10)).await.expect_err("held by another");
    assert_eq!(error.code(), "LOCK_TIMEOUT");
    eventually(SOON, "all locks are released", || {
        let stats = a.stats();
        let gone = (stats.held, stats.waiting, stats.keys) == (0, 0, 0);
        std::future::ready(gone && stats.released - before.released >= 2 && stats.timeouts - before.timeouts == 1)
    })
    .await;
    assert_eq!(a.stats().lost, before.lost);
}

/// From the first poll to the hold, and from that to the end of its last guard; nested guards are not counted.
pub async fn stats_time_waits_and_holds(a: LockManager, b: LockManager) {
    let key = key("stats-times");
    let busy = soon(b.lock(&key)).await;
    let waiting = queue_up(a.lock(&key));
    sleep(A_WHILE).await;
    drop(busy);
    let guard = within(SOON, "the lock", waiting).await.expect("free by now");
    let nested = guard.reenter().expect("held");
    sleep(A_WHILE).await;
    drop(guard);
    assert_eq!((a.stats().wait_times.count(), a.stats().hold_times.count()), (1, 0));
    drop(nested);
    let stats = a.stats();
    assert_eq!((stats.wait_times.count(), stats.hold_times.count()), (1, 1));
    for times in [stats.wait_times, stats.hold_times] {
        assert!(times.mean() >= A_WHILE && times.quantile(0.5) > times.mean(), "{times:?}");
    }
}

/// Also losses that are found after the guards were dropped.
pub async fn stats_count_losses_by_cause(a: LockManager, b: LockManager) {
    let (one, two) = (key("stats-revoked"), key("stats-max-hold"));
    let revoked = soon(a.lock(&one)).await;
    b.force_unlock(&one).key_only().await.expect("evicted");
    within(SOON, "the loss", revoked.lost()).await;
    drop(revoked);
    let stuck = soon(a.lock(&two).max_hold(A_WHILE)).await;
    within(SOON, "the loss", stuck.lost()).await;
    drop(stuck);
    eventually(SOON, "both are counted", || {
        let stats = a.stats();
        std::future::ready((stats.lost, stats.losses.revoked, stats.losses.max_hold) == (2, 1, 1))
    })
    .await;
    assert_eq!((a.stats().released, a.stats().hold_times.count()), (0, 2));
}

/// A health check.
pub async fn the_server_answers_a_ping(a: LockManager, b: LockManager) {
    for manager in [a, b] {
        assert!(manager.ping().await.expect("the server answers") < SOON);
    }
}
