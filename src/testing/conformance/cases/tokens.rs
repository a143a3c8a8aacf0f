//! Fencing tokens grow.

use super::support::{SOON, key, queue_up, soon, stranger, within};
use crate::LockManager;

/// Between the holds of two managers, however the lock was released.
pub async fn tokens_grow_from_manager_to_manager(a: LockManager, b: LockManager) {
    let key = key("tokens");
    let mut last = None;
    for round in 0..20 {
        let manager = if round % 3 == 0 { &a } else { &b };
        let guard = soon(manager.lock(&key)).await;
        assert!(Some(guard.token()) > last, "{} after {last:?}", guard.token());
        last = Some(guard.token());
        let shown = b.info(&key).await.expect("the server answers").expect("held").token;
        assert!(shown.is_none_or(|shown| shown <= guard.token()), "{shown:?} of {}", guard.token());
        if round % 2 == 0 {
            guard.unlock().await.expect("unlocked");
        }
    }
}

/// When the lock is handed over within the process.
pub async fn tokens_grow_within_a_process(a: LockManager, _: LockManager) {
    const WAITERS: usize = 50;
    let key = key("tokens-here");
    let guard = soon(a.lock(&key)).await;
    let mut last = guard.token();
    let waiting: Vec<_> = (0..WAITERS).map(|_| queue_up(stranger(a.lock(&key)))).collect();
    drop(guard);
    for next in waiting {
        let guard = within(SOON, "the next holder", next).await.expect("granted");
        assert!(guard.token() > last, "{} after {last}", guard.token());
        last = guard.token();
    }
}

/// When the holder was evicted, and still has its token.
pub async fn tokens_grow_over_a_force_unlock(a: LockManager, b: LockManager) {
    let key = key("tokens-forced");
    let mut last = soon(a.lock(&key)).await;
    for round in 0..4 {
        let (next, other) = if round % 2 == 0 { (&b, &a) } else { (&a, &b) };
        other.force_unlock(&key).await.expect("the server answers");
        let guard = soon(next.lock(&key)).await;
        assert!(guard.token() > last.token(), "{} after {}", guard.token(), last.token());
        last = guard;
    }
}

/// A reader's token is at least that of the writer before, and below that of the writer after; however that writer got the lock.
pub async fn tokens_of_readers_lie_between_those_of_writers(a: LockManager, b: LockManager) {
    let key = key("tokens-shared");
    let mut last = None;
    for _ in 0..3 {
        let readers = [soon(a.lock(&key).shared()).await, soon(b.lock(&key).shared()).await];
        let tokens = readers.each_ref().map(|reader| reader.token());
        assert!(tokens.iter().all(|token| Some(*token) >= last), "{tokens:?} after {last:?}");
        drop(readers);
        for manager in [&a, &b] {
            let mut writer = soon(manager.lock(&key)).await;
            assert!(tokens.iter().all(|token| *token < writer.token()), "{tokens:?} before {}", writer.token());
            for _ in 0..3 {
                // By a handover within the process.
                let next = queue_up(stranger(manager.lock(&key)));
                drop(writer);
                writer = within(SOON, "the next holder", next).await.expect("granted");
            }
            last = Some(writer.token());
        }
    }
}

/// A reentrant guard is not a new hold.
pub async fn guards_of_a_hold_have_its_token(a: LockManager, _: LockManager) {
    let key = key("tokens-depth");
    let guard = soon(a.lock(&key)).await;
    let again = soon(a.lock(&key)).await;
    let second = guard.reenter().expect("not lost");
    assert_eq!((guard.token(), guard.token()), (again.token(), second.token()));
    assert_eq!(u64::from(guard.token()), guard.token().get());
    assert_eq!(guard.token().to_string(), guard.token().get().to_string());
}
