//! Detects a store that was restored from a backup.
//!
//! Such a store continues from an earlier revision. What this process knows of it is worthless then: claims that it holds no longer
//! exist, and others that it has released exist again.

use etcd_client::proto::PbResponseHeader;
use parking_lot::Mutex;
use tokio::sync::watch;

/// The revisions of linearizable answers. A later request is never answered from an earlier revision of the same store.
#[derive(Debug)]
pub(super) struct History {
    seen: Mutex<Mark>,
    restores: watch::Sender<u64>,
}

/// The state of the history before a request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mark {
    /// The number of times that the store was found to be restored.
    restores: u64,
    /// The cluster, or 0 before the first answer.
    cluster: u64,
    revision: i64,
}

impl Default for History {
    fn default() -> Self {
        Self { seen: Mutex::default(), restores: watch::Sender::new(0) }
    }
}

impl History {
    /// Returns a receiver of the number of times that the store was found to be restored.
    pub(super) fn restores(&self) -> watch::Receiver<u64> {
        self.restores.subscribe()
    }

    /// Returns the state before a request.
    pub(super) fn mark(&self) -> Mark {
        *self.seen.lock()
    }

    /// Takes the answer to a request into account. Returns false if the store was restored in between.
    pub(super) fn goes_on(&self, before: Mark, header: &PbResponseHeader) -> bool {
        let now = {
            let mut seen = self.seen.lock();
            if seen.restores != before.restores {
                // Another request has detected it; this answer may be from before or from after.
                return false;
            }
            let same = before.cluster == 0 || before.cluster == header.cluster_id;
            if same && header.revision >= before.revision {
                seen.cluster = header.cluster_id;
                seen.revision = seen.revision.max(header.revision);
                return true;
            }
            *seen = Mark { restores: seen.restores + 1, cluster: header.cluster_id, revision: header.revision };
            seen.restores
        };
        crate::process::report::warn!(target: "leasehold::etcd", "etcd has returned to an earlier revision: was it restored from a backup?");
        self.restores.send_replace(now);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(cluster_id: u64, revision: i64) -> PbResponseHeader {
        PbResponseHeader { cluster_id, member_id: 1, revision, raft_term: 2 }
    }

    #[test]
    fn an_answer_is_compared_only_with_the_state_before_its_request() {
        let history = History::default();
        let early = history.mark();
        assert!(history.goes_on(history.mark(), &header(1, 10)));
        assert!(history.goes_on(early, &header(1, 7)), "answers may overtake each other");
        assert!(history.goes_on(history.mark(), &header(1, 10)));
        assert_eq!(*history.restores().borrow(), 0);
    }

    #[test]
    fn an_earlier_revision_and_another_cluster_are_noticed_once() {
        let history = History::default();
        assert!(history.goes_on(history.mark(), &header(1, 10)));
        let old = history.mark();
        assert!(!history.goes_on(history.mark(), &header(1, 9)));
        assert!(!history.goes_on(old, &header(1, 9)));
        assert!(!history.goes_on(old, &header(1, 11)), "a late answer of the old store says nothing of the new one");
        assert_eq!(*history.restores().borrow(), 1);
        assert!(history.goes_on(history.mark(), &header(1, 9)));
        assert!(!history.goes_on(history.mark(), &header(2, 12)));
        assert_eq!(*history.restores().borrow(), 2);
    }
}
