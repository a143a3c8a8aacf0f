//! Validation of keys and options.

use std::fmt::Debug;
use std::time::Duration;

use futures::FutureExt;

use super::support::{SOON, eventually, is_free, key, on_thread, soon};
use crate::{Lock, LockManager, Result};

/// The error of a call that must fail at its first poll, before any request is sent.
fn refused<T: Debug>(call: impl IntoFuture<Output = Result<T>>) -> (&'static str, String) {
    let result = call.into_future().now_or_never().expect("refused at once");
    let error = result.expect_err("refused");
    (error.code(), error.to_string())
}

/// Empty keys, keys with control or bidirectional control characters, and keys that are too long.
pub async fn bad_keys_are_refused_at_once(a: LockManager, _: LockManager) {
    for bad in
        ["", "\0", "a\nb", "a\tb", "\u{7f}", "a\u{85}", "a\u{202e}b", "\u{2069}", &"k".repeat(1025), &"é".repeat(513)]
    {
        assert_eq!(a.handle(bad).expect_err("refused").code(), "INVALID_KEY");
        for (code, text) in [
            refused(a.lock(bad)),
            refused(a.lock(bad).shared()),
            refused(a.try_lock(bad)),
            refused(a.info(bad)),
            refused(a.is_locked(bad)),
            refused(a.force_unlock(bad)),
        ] {
            assert_eq!(code, "INVALID_KEY", "{text}");
        }
        let (manager, bad) = (a.clone(), bad.to_owned());
        let error = on_thread(move || manager.lock(bad).wait().expect_err("refused")).await;
        assert_eq!(error.code(), "INVALID_KEY");
    }
    assert_eq!(a.stats().keys, 0);
}

/// TTLs of zero, below every server's minimum, above one day, and so on; the error names the option.
pub async fn bad_durations_are_refused_at_once(a: LockManager, _: LockManager) {
    let key = key("durations");
    let a_day = Duration::from_secs(24 * 60 * 60);
    for bad in [
        Duration::ZERO,
        Duration::from_nanos(1),
        Duration::from_millis(1),
        a_day + Duration::from_nanos(1),
        Duration::MAX,
    ] {
        for (code, text) in [refused(a.lock(&key).ttl(bad)), refused(a.lock(&key).ttl(bad).try_once())] {
            assert_eq!(code, "INVALID_CONFIG", "{bad:?}");
            assert!(text.contains("ttl"), "{text}");
        }
    }
    let (code, text) = refused(a.lock(&key).max_hold(Duration::ZERO));
    assert!(code == "INVALID_CONFIG" && text.contains("max_hold"), "{text}");
    let (code, text) = refused(a.lock(&key).retry_interval(Duration::ZERO));
    assert!(code == "INVALID_CONFIG" && text.contains("retry_interval"), "{text}");
    drop(soon(a.lock(&key).ttl(a_day).isolated()).await);
    is_free(&a, &key).await;
}

/// 1,024 bytes, of characters of any length.
pub async fn the_longest_key_works(a: LockManager, b: LockManager) {
    let start = key("longest");
    for filling in ["k", "鍵", "/", "%"] {
        let mut key = start.clone();
        while key.len() + filling.len() <= 1024 {
            key.push_str(filling);
        }
        let guard = soon(a.lock(&key)).await;
        assert_eq!(b.info(&key).await.expect("the server answers").expect("held").key, key);
        assert!(b.try_lock(&key).await.expect("the server answers").is_none());
        guard.unlock().await.expect("unlocked");
        assert!(b.list(&key).await.expect("the server answers").is_empty());
    }
}

/// The handle of a key is one object while there is one; each manager has its own.
pub async fn handles_are_one_object_for_each_key(a: LockManager, b: LockManager) {
    let (one, two) = (key("handle"), key("handle"));
    let handle = a.handle(&one).expect("a good key");
    assert_eq!(handle.key(), one);
    for same in [a.handle(&one), a.clone().handle(&one), Ok(handle.clone())] {
        assert!(Lock::ptr_eq(&handle, &same.expect("a good key")));
    }
    for other in [a.handle(&two), b.handle(&one)] {
        assert!(!Lock::ptr_eq(&handle, &other.expect("a good key")));
    }
    // Also while the key is locked without the handle.
    let guard = soon(a.lock(&one)).await;
    assert!(handle.is_held() && Lock::ptr_eq(&handle, &a.handle(&one).expect("a good key")));
    drop(guard);
    assert!(!handle.is_held());
}

/// A manager keeps no data of keys that are not in use.
pub async fn unused_keys_are_removed(a: LockManager, _: LockManager) {
    let base = key("forgotten");
    for n in 0..100 {
        let key = format!("{base}/{n}");
        let handle = a.handle(&key).expect("a good key");
        if n % 2 == 0 {
            drop(soon(handle.lock()).await);
        }
        assert!(a.stats().keys >= 1);
    }
    eventually(SOON, "no keys", || std::future::ready(a.stats().keys == 0)).await;
}
