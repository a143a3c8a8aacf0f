//! Inboxes that a thread reads itself while it waits: a message then wakes the thread that it is for, and not the keeper, which would
//! have to wake that thread.

use std::cell::RefCell;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::event::{EventfdFlags, PollFd, PollFlags, epoll, eventfd, poll};
use rustix::io::{read, write};

/// A FIFO that can be read in two places.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) fifo: OwnedFd,
    /// What the keeper watches: an epoll instance with the FIFO, from which no event comes while a thread waits for the FIFO.
    pub(crate) for_keeper: Arc<OwnedFd>,
}

impl Source {
    pub(crate) fn new(fifo: OwnedFd) -> rustix::io::Result<Self> {
        let for_keeper = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&for_keeper, &fifo, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        Ok(Self { fifo, for_keeper: Arc::new(for_keeper) })
    }

    /// Has the keeper notice messages, also those that are there already, or not.
    fn notify_keeper(&self, events: epoll::EventFlags) {
        // It cannot fail for what has been added.
        let _ = epoll::modify(&self.for_keeper, &self.fifo, epoll::EventData::new_u64(0), events);
    }
}

/// Where messages arrive. While no thread reads it, the keeper does. Either takes all messages, and delivers each to its addressee.
pub(crate) struct Inbox {
    source: Arc<Source>,
    deliver: Box<dyn Fn() + Send + Sync>,
    /// Whether a thread waits for it. One is enough.
    is_attended: AtomicBool,
}

impl Inbox {
    /// `deliver` takes all messages out, without blocking.
    pub(crate) fn new(source: Arc<Source>, deliver: impl Fn() + Send + Sync + 'static) -> Self {
        Self { source, deliver: Box::new(deliver), is_attended: AtomicBool::new(false) }
    }

    pub(crate) fn deliver(&self) {
        (self.deliver)();
    }

    /// Has the keeper read again.
    fn hand_back(&self) {
        self.source.notify_keeper(epoll::EventFlags::IN);
        // ⚠ What has arrived before need not be noticed by it: the kernel notifies of it only if the FIFO is not in the instance's list of
        // what is ready, where it stays from the first notification on, since nobody reads that list.
        self.deliver();
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("is_attended", &self.is_attended).finish_non_exhaustive()
    }
}

thread_local! {
    static ATTENDED: RefCell<Option<Arc<Inbox>>> = const { RefCell::new(None) };
}

/// Has this thread read an inbox while it waits for the future that it is polling.
pub(super) fn attend(inbox: &Arc<Inbox>) {
    // In the destructor of another thread-local, it only waits.
    let _ = ATTENDED.try_with(|attended| attended.replace(Some(inbox.clone())));
}

/// Whether a thread has been woken, or waits in a way in which it has to be rung for.
const QUIET: u8 = 0;
const WAITS: u8 = 1;
const RUNG: u8 = 2;

/// Wakes a thread that waits for an inbox.
#[derive(Debug, Default)]
pub(super) struct Bell {
    state: AtomicU8,
    /// Made at the first wait for an inbox. `None` if the system refuses: then the keeper reads.
    fd: OnceLock<Option<OwnedFd>>,
}

impl Bell {
    /// Before the future is polled: forgets earlier wakes, and which inbox to read.
    pub(super) fn reset(&self) {
        self.state.store(QUIET, Ordering::SeqCst);
        let _ = ATTENDED.try_with(RefCell::take);
    }

    /// Wakes the thread if it waits for an inbox. False if it does not.
    pub(super) fn ring(&self) -> bool {
        let waits = self.state.swap(RUNG, Ordering::SeqCst) == WAITS;
        if waits && let Some(Some(fd)) = self.fd.get() {
            let _ = write(fd, &1_u64.to_ne_bytes());
        }
        waits
    }

    /// Waits until the bell rings, or messages were delivered. False if there is no inbox to read, at once.
    pub(super) fn wait(&self) -> bool {
        let Some(inbox) = ATTENDED.try_with(RefCell::take).ok().flatten() else { return false };
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        let Some(fd) = self.fd.get_or_init(|| eventfd(0, flags).ok()) else { return false };
        if inbox.is_attended.swap(true, Ordering::AcqRel) {
            return false;
        }
        // It may have been woken since the future was polled.
        if self.state.compare_exchange(QUIET, WAITS, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            inbox.source.notify_keeper(epoll::EventFlags::empty());
            let mut fds = [PollFd::new(fd, PollFlags::IN), PollFd::new(&inbox.source.fifo, PollFlags::IN)];
            // An interrupted wait is one without a message.
            let _ = poll(&mut fds, None);
            // It is awake, so that a delivery need not ring.
            self.state.store(QUIET, Ordering::SeqCst);
            let [is_rung, has_messages] = fds.map(|fd| !fd.revents().is_empty());
            if is_rung {
                let _ = read(fd, &mut [0; 8]);
            }
            if has_messages {
                inbox.deliver();
            }
            inbox.hand_back();
        }
        inbox.is_attended.store(false, Ordering::Release);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Poll, Waker};

    use parking_lot::Mutex;
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;
    use crate::process::blocking;

    #[test]
    fn a_thread_that_waits_is_woken_by_a_message_that_nobody_else_reads_and_by_its_waker() {
        const ROUNDS: usize = 500;
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap();
        let (received, source) = (Arc::new(AtomicUsize::new(0)), Arc::new(Source::new(reader).unwrap()));
        let (count, from) = (received.clone(), source.clone());
        let inbox = Arc::new(Inbox::new(source, move || {
            let taken = read(&from.fifo, &mut [0; 64]).unwrap_or(0);
            count.fetch_add(taken, Ordering::SeqCst);
        }));
        let (woken, waker) = (AtomicUsize::new(0), Mutex::new(None::<Waker>));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    // Each is answered before the next one.
                    while received.load(Ordering::SeqCst) + woken.load(Ordering::SeqCst) < round - 1 {
                        std::hint::spin_loop();
                    }
                    if round % 2 == 0 {
                        write(&writer, &[0]).unwrap();
                    } else {
                        woken.fetch_add(1, Ordering::SeqCst);
                        if let Some(waker) = waker.lock().take() {
                            waker.wake();
                        }
                    }
                }
            });
            for round in 1..=ROUNDS {
                let waited = blocking::wait(poll_fn(|cx| {
                    *waker.lock() = Some(cx.waker().clone());
                    blocking::attend(cx.waker(), &inbox);
                    let done = received.load(Ordering::SeqCst) + woken.load(Ordering::SeqCst);
                    if done >= round { Poll::Ready(Ok(())) } else { Poll::Pending }
                }));
                waited.unwrap();
            }
        });
        assert_eq!((received.load(Ordering::SeqCst), woken.load(Ordering::SeqCst)), (ROUNDS / 2, ROUNDS / 2));
    }

    #[test]
    fn a_message_that_arrives_before_the_keeper_reads_again_is_delivered() {
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap();
        let (delivered, source) = (Arc::new(AtomicUsize::new(0)), Arc::new(Source::new(reader).unwrap()));
        let (count, from) = (delivered.clone(), source.clone());
        let inbox = Inbox::new(source.clone(), move || {
            count.fetch_add(read(&from.fifo, &mut [0; 64]).unwrap_or(0), Ordering::SeqCst);
        });
        // The keeper's own instance, which is notified of changes.
        let keeper = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&keeper, &source.for_keeper, epoll::EventData::new_u64(0), flags).unwrap();
        let is_notified = || {
            let mut events = Vec::with_capacity(1);
            let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
            epoll::wait(&keeper, rustix::buffer::spare_capacity(&mut events), Some(&now)).unwrap() > 0
        };
        for round in 1..=3 {
            write(&writer, &[0]).unwrap();
            assert!(is_notified());
            inbox.deliver();
            source.notify_keeper(epoll::EventFlags::empty());
            write(&writer, &[0]).unwrap();
            assert!(!is_notified(), "a thread reads it");
            inbox.hand_back();
            assert!(is_notified() || delivered.load(Ordering::SeqCst) == 2 * round, "round {round}");
            inbox.deliver();
            assert_eq!(delivered.load(Ordering::SeqCst), 2 * round);
        }
    }

    #[test]
    fn one_thread_reads_an_inbox_and_the_others_wait_for_their_wakers() {
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap();
        let (is_done, wakers) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::<Waker>::new())));
        let (done, to_wake) = (is_done.clone(), wakers.clone());
        let inbox = Arc::new(Inbox::new(Arc::new(Source::new(reader).unwrap()), move || {
            done.store(true, Ordering::SeqCst);
            to_wake.lock().drain(..).for_each(Waker::wake);
        }));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let waited = blocking::wait(poll_fn(|cx| {
                        wakers.lock().push(cx.waker().clone());
                        blocking::attend(cx.waker(), &inbox);
                        if is_done.load(Ordering::SeqCst) { Poll::Ready(Ok(())) } else { Poll::Pending }
                    }));
                    waited.unwrap();
                });
            }
            write(&writer, &[0]).unwrap();
        });
        assert!(is_done.load(Ordering::SeqCst));
    }
}
