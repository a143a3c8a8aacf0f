//! Recognition of tokio's wakers.
//!
//! tokio polls with three kinds of wakers: a task's, the one of a current-thread runtime's root (which all threads that block on
//! that runtime share), and a thread's parker (for the other roots). A combinator that polls its branches with separate wakers
//! has another kind. A kind is known by its vtable, compared by value: an optimized program may have several copies of one table.

use std::future::poll_fn;
use std::sync::OnceLock;
use std::task::{Context, Poll, RawWakerVTable, Waker};

use futures::stream::{FuturesUnordered, Stream};
use tokio::runtime::Runtime;
use tokio::task::coop::{self, RestoreOnPending};

use super::blocking;

/// The vtables of tokio's wakers and of their clones; empty where they cannot be distinguished from a branch's.
static TOKIO: OnceLock<Vec<&'static RawWakerVTable>> = OnceLock::new();

/// Learns the wakers of this program's tokio, once, on the thread of a current-thread runtime.
pub(crate) fn learn(runtime: &Runtime) {
    TOKIO.get_or_init(|| {
        let root = runtime.block_on(tables());
        let parker = runtime.handle().block_on(tables());
        let task = runtime.block_on(runtime.spawn(tables()));
        let known: Vec<_> = [Some(root), Some(parker), task.ok()].into_iter().flatten().flatten().collect();
        let is_complete = known.len() == 6 && !known.iter().any(|table| branch().contains(table));
        if is_complete { known } else { Vec::new() }
    });
}

/// Whether this is the waker of one of tokio's tasks or roots.
pub(crate) fn is_of_tokio(waker: &Waker) -> bool {
    let table = waker.vtable();
    TOKIO.get().is_some_and(|known| known.iter().any(|known| std::ptr::eq(*known, table) || **known == *table))
}

/// Uses the cooperative budget of tokio's tasks, as tokio's locks do, so that a loop that never waits yields to other tasks.
///
/// It does not where another executor polls inside a task: if that executor blocks, the budget is never renewed.
pub(crate) fn cooperate<T>(cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    let Poll::Ready(budget) = proceed(cx) else { return Poll::Pending };
    let polled = poll(cx);
    if polled.is_ready() {
        budget.inspect(RestoreOnPending::made_progress);
    }
    polled
}

fn proceed(cx: &mut Context<'_>) -> Poll<Option<RestoreOnPending>> {
    if is_of_tokio(cx.waker()) { coop::poll_proceed(cx).map(Some) } else { Poll::Ready(None) }
}

/// Whether this is tokio's waker or our own, which do not panic.
pub(crate) fn is_known(waker: &Waker) -> bool {
    is_of_tokio(waker) || blocking::is_this_thread(waker)
}

/// Whether tokio's wakers cannot be recognized in this program.
pub(crate) fn are_unknown() -> bool {
    TOKIO.get().is_none_or(Vec::is_empty)
}

/// Whether both wakers wake the same task.
pub(crate) fn is_same(one: &Waker, other: &Waker) -> bool {
    one.data() == other.data() && *one.vtable() == *other.vtable()
}

type Tables = [&'static RawWakerVTable; 2];

fn of(waker: &Waker) -> Tables {
    [waker.vtable(), waker.clone().vtable()]
}

fn tables() -> impl Future<Output = Tables> {
    poll_fn(|cx| Poll::Ready(of(cx.waker())))
}

/// The vtables of a branch with a separate waker.
fn branch() -> Vec<&'static RawWakerVTable> {
    let mut set: FuturesUnordered<_> = std::iter::once(tables()).collect();
    match std::pin::Pin::new(&mut set).poll_next(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(tables)) => tables.into(),
        Poll::Ready(None) | Poll::Pending => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use tokio::runtime::Builder;

    use super::*;

    fn seen() -> impl Future<Output = bool> {
        poll_fn(|cx| {
            let (direct, cloned) = (is_of_tokio(cx.waker()), is_of_tokio(&cx.waker().clone()));
            assert_eq!(direct, cloned);
            Poll::Ready(direct)
        })
    }

    #[test]
    fn tokios_wakers_are_known_and_those_of_branches_are_not() {
        learn(&Builder::new_current_thread().build().unwrap());
        assert!(!are_unknown());
        for runtime in [Builder::new_current_thread().build().unwrap(), Builder::new_multi_thread().build().unwrap()] {
            assert!(runtime.block_on(seen()));
            assert!(runtime.handle().block_on(seen()));
            assert!(runtime.block_on(runtime.spawn(seen())).unwrap());
            let mut branch: FuturesUnordered<_> = std::iter::once(seen()).collect();
            assert_eq!(runtime.block_on(branch.next()), Some(false));
        }
        assert!(!futures::executor::block_on(seen()));
        assert!(!futures::executor::LocalPool::new().run_until(seen()));
    }
}
