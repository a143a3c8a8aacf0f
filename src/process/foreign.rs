//! Foreign wakers and futures, which may panic.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use super::report::{Foreign, catch};
use super::wakers;

/// Wakes a task.
pub(crate) fn wake(waker: Waker) {
    catch(Foreign::Waker, || waker.wake());
}

/// Clones a waker, under a mutex for example. One that panics is replaced by one that does nothing.
pub(crate) fn cloned(waker: &Waker) -> Waker {
    catch(Foreign::Waker, || waker.clone()).unwrap_or_else(|| Waker::noop().clone())
}

/// Drops wakers.
pub(crate) fn drop_all(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        catch(Foreign::Waker, || drop(waker));
    }
}

/// Polls futures of this library and of backends, parts of which run on the keeper, with wakers that do not panic there.
#[derive(Debug, Default)]
pub(crate) struct CatchingWaker(Option<(Waker, Waker)>);

struct Caught(Waker);

impl Wake for Caught {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        catch(Foreign::Waker, || self.0.wake_by_ref());
    }
}

impl CatchingWaker {
    /// Polls with the waker of `cx` where it is known to be well-behaved, else with one around it.
    pub(crate) fn poll<T>(&mut self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> T) -> T {
        if wakers::is_known(cx.waker()) {
            return poll(cx);
        }
        let (_, around) = match &mut self.0 {
            Some(known) if known.0.will_wake(cx.waker()) => known,
            known => known.insert((cx.waker().clone(), Waker::from(Arc::new(Caught(cx.waker().clone()))))),
        };
        poll(&mut Context::from_waker(around))
    }
}

/// A future that ends with `None` where it panics.
pub(crate) struct Catching<F> {
    what: Foreign,
    /// `None` once it has panicked.
    future: Option<F>,
}

impl<F: Future + Unpin> Catching<F> {
    pub(crate) fn new(what: Foreign, future: F) -> Self {
        Self { what, future: Some(future) }
    }
}

impl<F: Future + Unpin> Future for Catching<F> {
    type Output = Option<F::Output>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let what = self.what;
        let Some(future) = &mut self.future else { return Poll::Ready(None) };
        let Some(polled) = catch(what, || Pin::new(future).poll(cx)) else {
            let broken = self.future.take();
            catch(what, || drop(broken));
            return Poll::Ready(None);
        };
        polled.map(Some)
    }
}

impl<F> Drop for Catching<F> {
    fn drop(&mut self) {
        let (what, future) = (self.what, self.future.take());
        catch(what, || drop(future));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Panics;

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            std::panic::resume_unwind(Box::new("as wakers should not"));
        }
    }

    #[test]
    fn a_waker_that_panics_is_caught() {
        let waker = Waker::from(Arc::new(Panics));
        wake(waker.clone());
        let mut catching = CatchingWaker::default();
        let around = catching.poll(&mut Context::from_waker(&waker), |cx| cx.waker().clone());
        around.wake_by_ref();
        let again = catching.poll(&mut Context::from_waker(&waker), |cx| cx.waker().clone());
        assert!(around.will_wake(&again), "the wrapper is not reused");
    }

    #[test]
    fn a_future_that_panics_ends() {
        let broken = async { std::panic::resume_unwind(Box::new("as backends should not")) };
        let mut catching = Catching::<futures::future::BoxFuture<'_, ()>>::new(Foreign::Backend, Box::pin(broken));
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(Pin::new(&mut catching).poll(&mut cx), Poll::Ready(None));
    }
}
