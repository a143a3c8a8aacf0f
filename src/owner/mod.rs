//! [`Owner`]: the identity that reentrancy is based on.

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

/// The owner of a hold, which can lock the same key again without waiting.
///
/// By default the owner is derived from the context of the acquire's first poll:
///
/// - a tokio task: the task;
/// - the body of a `block_on`, and `.wait()`: the thread;
/// - a future that is polled with any other waker (a task of another executor, a branch of `FuturesUnordered`,
///   `for_each_concurrent`, `buffer_unordered`, or of a `join_all` of more than 30): that future;
/// - the closure of a [`with_lock`](crate::LockManager::with_lock): that call, so that the code it calls can lock the key again.
///
/// The branches of `join!`, `select!`, and of a `join_all` of up to 30 are polled with the waker of their task. They cannot be
/// distinguished from nested calls, so they have one owner. If they must exclude each other, pass an explicit owner to each, or
/// build the manager with [`reentrant(false)`](crate::LockManagerBuilder::reentrant).
///
/// [`guide::ownership`](crate::guide::ownership) has the complete rules.
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
    /// The task or thread of the last request, for diagnostics; not part of the identity.
    origin: Option<Origin>,
}

/// The task of a request, or its thread where there is no task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
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

/// A future that is polled with a separate waker.
///
/// The waker is kept, so that its address cannot be reused for another future while this owner exists. An executor may use one
/// waker for everything that it runs on a thread, so a future in another task is another owner.
struct WakerId {
    /// `None` only during drop.
    waker: Option<Waker>,
    task: Option<task::Id>,
    /// Set only where the wakers of tokio's roots, which threads share, cannot be recognized.
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

    /// The same owner, with this task or thread as the origin of its request.
    fn asking_here(&self) -> Self {
        Self { id: self.id.clone(), origin: Some(Origin::here()) }
    }

    /// The task or thread of the request; `None` if it is not known.
    pub(crate) fn origin(&self) -> Option<Origin> {
        self.origin
    }
}

impl WakerId {
    fn data(&self) -> *const () {
        self.waker.as_ref().map_or(std::ptr::null(), Waker::data)
    }
}

impl Drop for WakerId {
    fn drop(&mut self) {
        // Dropping the waker may drop its task, which may panic, and this drop may be part of a guard's.
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
            // The vtable is not hashed: equal wakers may have different copies of it.
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
