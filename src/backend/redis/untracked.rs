//! The attempts whose locks are to be read, so that the server reports their changes.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::attempt::Attempt;

/// The attempts of one manager at one server. Some may have ended.
#[derive(Debug, Default)]
pub(super) struct Untracked {
    lists: Mutex<Lists>,
    /// Notified when there are some again.
    added: Notify,
}

#[derive(Debug, Default)]
struct Lists {
    /// Holds that have begun since the last ones were taken.
    young: Vec<Arc<Attempt>>,
    /// Those that had begun before, to be taken if they last.
    grown: Vec<Arc<Attempt>>,
    /// Others, to be taken at once.
    due: Vec<Arc<Attempt>>,
    /// Whether changes were reported since the last ones were taken.
    reported: bool,
}

impl Lists {
    fn is_empty(&self) -> bool {
        self.young.is_empty() && self.grown.is_empty() && self.due.is_empty()
    }
}

impl Untracked {
    /// A hold has begun.
    pub(super) fn add_young(&self, attempt: &Arc<Attempt>) {
        let mut lists = self.lists.lock();
        let was_empty = lists.is_empty();
        lists.young.push(attempt.clone());
        drop(lists);
        if was_empty {
            self.added.notify_one();
        }
    }

    /// The change of a lock was reported.
    pub(super) fn report(&self) {
        self.lists.lock().reported = true;
    }

    /// Has the locks of these attempts read.
    pub(super) fn add(&self, attempts: impl IntoIterator<Item = Arc<Attempt>>) {
        self.lists.lock().due.extend(attempts);
        self.added.notify_one();
    }

    /// Has the locks of these attempts read, and not those of others that were added before.
    pub(super) fn replace(&self, attempts: Vec<Arc<Attempt>>) {
        self.lists.lock().due = attempts;
        self.added.notify_one();
    }

    /// Waits until there are attempts whose locks are to be read, or may be soon. Returns the former, and whether
    /// changes were reported.
    pub(super) async fn take(&self) -> (Vec<Arc<Attempt>>, bool) {
        loop {
            {
                let mut lists = self.lists.lock();
                if !lists.is_empty() {
                    let Lists { young, grown, due, reported } = std::mem::take(&mut *lists);
                    lists.grown = young;
                    let lasting = grown.into_iter().filter(|attempt| attempt.held().is_some());
                    let due = due.into_iter().filter(|attempt| attempt.is_wanted());
                    return (lasting.chain(due).collect(), reported);
                }
            }
            self.added.notified().await;
        }
    }
}
