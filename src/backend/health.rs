//! [`Health`]: whether a server serves requests, derived from its answers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::BackendError;

/// The age from which a failure is ignored if the request was not tried again since.
const STALE: Duration = Duration::from_secs(10);

/// Why a server does not serve, for each of `N` sorts of requests: one may be refused while another is served.
#[derive(Debug)]
pub(crate) struct Health<const N: usize> {
    is_sound: AtomicBool,
    failures: Mutex<[Option<(Instant, BackendError)>; N]>,
}

impl<const N: usize> Default for Health<N> {
    fn default() -> Self {
        Self { is_sound: AtomicBool::new(true), failures: Mutex::new(std::array::from_fn(|_| None)) }
    }
}

impl<const N: usize> Health<N> {
    /// A request of this sort has failed, and is to be tried again.
    pub(crate) fn failed(&self, sort: usize, error: &BackendError) {
        let mut failures = self.failures.lock();
        if let Some(failure) = failures.get_mut(sort) {
            *failure = Some((Instant::now(), error.clone()));
            self.is_sound.store(false, Ordering::Release);
        }
    }

    /// A request of this sort was served.
    pub(crate) fn served(&self, sort: usize) {
        if self.is_sound.load(Ordering::Acquire) {
            return;
        }
        let mut failures = self.failures.lock();
        if let Some(failure) = failures.get_mut(sort) {
            *failure = None;
        }
        self.is_sound.store(failures.iter().all(Option::is_none), Ordering::Release);
    }

    /// The first failure that has not been followed by a success.
    pub(crate) fn failure(&self) -> Option<BackendError> {
        if self.is_sound.load(Ordering::Acquire) {
            return None;
        }
        let failures = self.failures.lock();
        let mut fresh = failures.iter().flatten().filter(|(since, _)| since.elapsed() < STALE);
        fresh.next().map(|(_, error)| error.clone())
    }
}
