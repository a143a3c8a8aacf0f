//! The owner of a hold.

mod caller;
mod scope;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::thread::ThreadId;

use tokio::task;

pub(crate) use self::caller::{Caller, OwnerSource};
pub(crate) use self::scope::Scope;
use crate::process::{blocking, foreign, wakers};

/// The owner of a hold: the one that may lock the same key again without waiting.
///
/// By default it is found at the first poll of the acquire. In a tokio task it is the task; in the body of a `block_on` and
/// under `.wait()` it is the thread. A future that is polled with another waker (a task of another executor, a branch of
/// `FuturesUnordered`, `for_each_concurrent`, `buffer_unordered`, or a `join_all` of more than 30) is an owner of its own. The
/// closure of each [`with_lock`](crate::LockManager::with_lock) is one too: what it calls may lock the key again.
///
/// The branches of `join!`, `select!`, and of a `join_all` of up to 30 are polled with the waker of their task. They cannot be
/// told from nested calls, so they are one owner: pass owners to them, or build the manager with
/// [`reentrant(false)`](crate::LockManagerBuilder::reentrant), if they must exclude each other.
///
/// An explicit owner is valid wherever it is passed:
///
/// ```
/// # leasehold::doctest(async {
/// let manager = leasehold::LockManager::memory();
/// let mine = leasehold::Owner::new();
/// let outer = manager.lock("k").owner(&mine).await?;
/// let inner = manager.lock("k").owner(&mine).await?; // no waiting: the same owner
/// assert_eq!(inner.depth(), 2);
/// assert!(manager.try_lock("k").await?.is_none()); // this task is another owner
/// # Ok(()) });
/// ```
#[derive(Clone)]
pub struct Owner {
    id: OwnerId,
    /// Where it last asked for a lock; no part of its identity.
    origin: Option<Origin>,
}

/// The task, or else the thread, that something was asked in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Task(task::Id),
    Thread(ThreadId),
}

impl Origin {
    fn here() -> Self {
        task::try_id().map_or_else(|| Self::Thread(std::thread::current().id()), Self::Task)
    }
}

#[derive(Clone, PartialEq, Eq)]
enum OwnerId {
    Numbered(u64),
    Task(task::Id),
    Thread(ThreadId),
    Waker(Arc<WakerId>),
}

/// What is polled with a waker of its own.
///
/// The waker is kept, so that its address cannot come to mean another future while this owner is known. An executor may use
/// one waker for all it runs on a thread, so what is run by another task is another owner.
struct WakerId {
    /// `None` while it is dropped.
    waker: Option<Waker>,
    task: Option<task::Id>,
    /// Only where the wakers of tokio's roots, which threads share, cannot be recognized.
    thread: Option<ThreadId>,
}

impl Owner {
    /// Creates an owner that differs from all others.
    #[expect(clippy::new_without_default, reason = "a default that differs each time surprises")]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { id: OwnerId::Numbered(NEXT.fetch_add(1, Ordering::Relaxed)), origin: None }
    }

    /// The owner that a poll in this context stands for.
    fn of_context(cx: &Context<'_>) -> Self {
        let (task, waker) = (task::try_id(), cx.waker());
        let id = if wakers::is_of_tokio(waker) || blocking::is_this_thread(waker) {
            match task {
                Some(task) => OwnerId::Task(task),
                None => OwnerId::Thread(std::thread::current().id()),
            }
        } else if waker.data().is_null() {
            return Self::new();
        } else {
            let thread = wakers::are_unknown().then(|| std::thread::current().id());
            OwnerId::Waker(Arc::new(WakerId { waker: Some(waker.clone()), task, thread }))
        };
        Self { id, origin: None }
    }

    /// The same owner, as it asks in this task or thread.
    fn asking_here(&self) -> Self {
        Self { id: self.id.clone(), origin: Some(Origin::here()) }
    }

    /// Whether the other one is another owner that asked in the same task or thread, and may be waiting for it.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        self.id != other.id && self.origin.is_some() && self.origin == other.origin
    }
}

impl WakerId {
    fn data(&self) -> *const () {
        self.waker.as_ref().map_or(std::ptr::null(), Waker::data)
    }
}

impl Drop for WakerId {
    fn drop(&mut self) {
        // Its end is the end of a task, which may panic; this one is a guard's.
        foreign::drop_all(self.waker.take());
    }
}

impl PartialEq for WakerId {
    fn eq(&self, other: &Self) -> bool {
        let is_same =
            self.waker.as_ref().zip(other.waker.as_ref()).is_some_and(|(one, other)| wakers::is_same(one, other));
        is_same && self.task == other.task && self.thread == other.thread
    }
}

impl Eq for WakerId {}

impl PartialEq for Owner {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Owner {}

impl Hash for Owner {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match &self.id {
            OwnerId::Numbered(number) => number.hash(state),
            OwnerId::Task(task) => task.hash(state),
            OwnerId::Thread(thread) => thread.hash(state),
            // Not the vtable, of which equal wakers may have different copies.
            OwnerId::Waker(id) => id.data().hash(state),
        }
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            OwnerId::Numbered(number) => write!(f, "Owner({number})"),
            OwnerId::Task(task) => write!(f, "Owner(task {task})"),
            OwnerId::Thread(thread) => write!(f, "Owner({thread:?})"),
            OwnerId::Waker(id) => write!(f, "Owner(waker {:p})", id.data()),
        }
    }
}
