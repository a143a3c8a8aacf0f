//! Scopes: the owners of closures that run under a lock.

use std::cell::RefCell;
use std::task::{Context, RawWakerVTable, Waker};

use tokio::task;

use super::Owner;
use crate::process::blocking;

thread_local! {
    /// The scopes whose closures are being polled on this thread, the innermost last.
    static STACK: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
}

/// One call of a closure under a lock: an owner that also applies to the code that the closure calls.
#[derive(Clone, Debug)]
pub(crate) struct Scope(Owner);

/// A scope that is being polled. Its waker outlives the frame.
struct Frame {
    owner: Owner,
    data: *const (),
    vtable: &'static RawWakerVTable,
    task: Option<task::Id>,
}

impl Scope {
    /// The scope of a closure that holds for `owner`.
    pub(crate) fn new(owner: Owner) -> Self {
        Self(owner)
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.0
    }

    /// Polls the closure's future; requests that it makes in this context are inside the scope.
    pub(crate) fn poll<T>(&self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> T) -> T {
        let waker = cx.waker();
        let frame = Frame { owner: self.0.clone(), data: waker.data(), vtable: waker.vtable(), task: task::try_id() };
        let _on_top = Pushed::new(frame);
        poll(cx)
    }
}

/// Removes the frame when dropped, also when the closure panics.
struct Pushed {
    /// `None` where the thread's locals have ended.
    depth: Option<usize>,
}

impl Pushed {
    fn new(frame: Frame) -> Self {
        let push = |stack: &RefCell<Vec<Frame>>| {
            let mut stack = stack.borrow_mut();
            stack.push(frame);
            stack.len() - 1
        };
        Self { depth: STACK.try_with(push).ok() }
    }
}

impl Drop for Pushed {
    fn drop(&mut self) {
        let Some(depth) = self.depth else { return };
        // Dropped outside of the borrow: dropping an owner may run foreign code.
        let ended = STACK.try_with(|stack| stack.borrow_mut().split_off(depth));
        drop(ended);
    }
}

/// The scopes around a request in this context, the innermost first.
///
/// These are the topmost frames that were polled with the request's waker in the request's task. A branch with a separate waker, a
/// spawned task, and another executor that runs inside are outside. `.wait()` is inside the scopes of its caller.
pub(super) fn around(waker: &Waker) -> Vec<Owner> {
    let task = task::try_id();
    let waits = blocking::is_this_thread(waker);
    STACK
        .try_with(|stack| {
            let stack = stack.borrow();
            let Some(top) = stack.last() else { return Vec::new() };
            let (data, vtable) = if waits { (top.data, top.vtable) } else { (waker.data(), waker.vtable()) };
            let inside = |frame: &&Frame| frame.data == data && *frame.vtable == *vtable && frame.task == task;
            stack.iter().rev().take_while(inside).map(|frame| frame.owner.clone()).collect()
        })
        .unwrap_or_default()
}
