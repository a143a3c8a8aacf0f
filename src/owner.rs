//! Who holds a lock.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::thread::ThreadId;

use crate::blocking;

/// Who holds a lock: the one who may lock the same key again without waiting.
///
/// By default it is found at the first poll of the acquire: the tokio task; else, under `.wait()`, the thread; else whatever the
/// waker stands for (a task of another executor, the future of a `block_on`). So nested acquires just work, and two tasks
/// exclude each other. The branches of `join!` and `select!` are one task, so one owner; give them owners of their own if they
/// shall exclude each other.
///
/// An explicit owner goes wherever it is passed:
///
/// ```
/// # leasehold::doctest(async {
/// let manager = leasehold::LockManager::memory();
/// let mine = leasehold::Owner::new();
/// let outer = manager.lock("k").owner(&mine).await?;
/// let inner = manager.lock("k").owner(&mine).await?; // no waiting: the same owner
/// assert_eq!(inner.depth(), 2);
/// assert!(manager.try_lock("k").await?.is_none()); // this task is somebody else
/// # Ok(()) });
/// ```
#[derive(Clone)]
pub struct Owner {
    id: OwnerId,
    /// Kept so that its address cannot come to mean another task while this owner is known.
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum OwnerId {
    Numbered(u64),
    Task(tokio::task::Id),
    Thread(ThreadId),
}

impl Owner {
    /// Creates an owner that is nobody else.
    #[expect(clippy::new_without_default, reason = "a default that differs each time surprises")]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { id: OwnerId::Numbered(NEXT.fetch_add(1, Ordering::Relaxed)), waker: None }
    }

    /// The owner that a poll in this context stands for; `known` are those among whom it may be found by its waker.
    pub(crate) fn of_context<'a>(cx: &Context<'_>, known: impl IntoIterator<Item = &'a Owner>) -> Self {
        if let Some(task) = tokio::task::try_id() {
            return Self { id: OwnerId::Task(task), waker: None };
        }
        let waker = cx.waker();
        if blocking::is_this_thread(waker) {
            return Self { id: OwnerId::Thread(std::thread::current().id()), waker: None };
        }
        if waker.data().is_null() {
            return Self::new();
        }
        let same = |owner: &&Owner| owner.waker.as_ref().is_some_and(|kept| is_same(kept, waker));
        match known.into_iter().find(same) {
            Some(owner) => owner.clone(),
            None => Self { waker: Some(waker.clone()), ..Self::new() },
        }
    }
}

/// Whether `waker` is the one that `kept` was cloned from.
///
/// Their data is the same then, but not always their vtable: each part of an optimized program may have a copy of it, and clones
/// get that of the part where cloning is. So a clone is compared with a clone.
fn is_same(kept: &Waker, waker: &Waker) -> bool {
    kept.data() == waker.data() && (kept.will_wake(waker) || kept.will_wake(&waker.clone()))
}

impl PartialEq for Owner {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Owner {}

impl Hash for Owner {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Owner({:?})", self.id)
    }
}
