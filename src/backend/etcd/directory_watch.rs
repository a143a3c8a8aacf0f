//! A watch on a lock's directory, for users who follow what it contains.
//!
//! The watch begins now, and its user reads the directory once the server has confirmed it, so the read shows the watch's first revision
//! or a later one, and the changes after the read's revision are all reported. ⚠ A watch from the revision of an earlier read would be
//! served late, and not at all after a compaction; and what came between a read and the confirmation would go unheard.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::names::Directory;
use super::watch::hub::{Change, Filter, Hub, Notice, Subscription, Target};

/// How often the directory is read while it is not watched.
const UNWATCHED: Duration = Duration::from_secs(1);

/// What is known of a directory.
pub(super) enum News {
    /// It has to be read: there may have been changes that were not reported.
    Unknown,
    /// There were these changes.
    Changed(Vec<Change>),
}

/// A watch on a directory.
pub(super) struct DirectoryWatch {
    subscription: Subscription,
    is_confirmed: bool,
    /// The time at which the directory is read again. `None` while all changes are reported.
    read_at: Option<Instant>,
}

impl DirectoryWatch {
    /// Begins to watch.
    pub(super) fn new(hub: &Hub, directory: &Directory, filter: Filter) -> Self {
        let target = Target::range((directory.start(), directory.end()), filter);
        let subscription = hub.subscribe(target);
        Self { subscription, is_confirmed: false, read_at: Some(Instant::now() + UNWATCHED) }
    }

    /// Waits for news. Cancel safe.
    pub(super) async fn next(&mut self) -> News {
        loop {
            let notice = match self.read_at {
                // ⚠ Changes do not postpone it, also if there is always another one: a timeout would look for the notice first.
                Some(time) if time <= Instant::now() => None,
                Some(time) => timeout_at(time, self.subscription.next()).await.ok(),
                None => Some(self.subscription.next().await),
            };
            match notice {
                Some(Notice::Created(_) | Notice::Recreated) => self.is_confirmed = true,
                Some(Notice::Down) => {
                    self.is_confirmed = false;
                    self.read_at.get_or_insert_with(|| Instant::now() + UNWATCHED);
                    continue;
                }
                Some(Notice::Changed(changes)) => return News::Changed(changes),
                Some(Notice::Deleted(_)) => continue,
                None => {}
            }
            self.read_at = Some(Instant::now() + UNWATCHED);
            return News::Unknown;
        }
    }

    /// Notes that the directory was read after the last news.
    pub(super) fn has_been_read(&mut self) {
        if self.is_confirmed {
            self.read_at = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::Names;
    use super::super::watch::hub::{Command, Commands, Sink, WatchId};
    use super::*;

    /// A watch of a hub that the test serves, with the sink for its notices.
    fn watch() -> (DirectoryWatch, Hub, Commands, (WatchId, Sink)) {
        let (hub, mut commands) = Hub::new();
        let watch = DirectoryWatch::new(&hub, &Names::new("p/".into()).directory("k"), Filter::None);
        let Ok(Command::Watch { id, sink, start: 0, .. }) = commands.try_recv() else { panic!("no watch from now") };
        (watch, hub, commands, (id, sink))
    }

    fn change() -> Notice {
        Notice::Changed(vec![Change { name: (*b"p/k/1-1").into(), at: 7, put: None }])
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_is_read_at_a_confirmation_and_each_second_without_one() {
        let (mut watch, _hub, _commands, (id, sink)) = watch();
        let begun = Instant::now();
        assert!(matches!(watch.next().await, News::Unknown));
        assert_eq!(begun.elapsed().as_secs(), 1, "not confirmed yet");
        watch.has_been_read();
        for notice in [Notice::Created(5), change(), Notice::Down, Notice::Recreated] {
            sink.send((id, notice)).unwrap();
        }
        let begun = Instant::now();
        assert!(matches!(watch.next().await, News::Unknown), "confirmed");
        watch.has_been_read();
        assert!(matches!(watch.next().await, News::Changed(changes) if changes.len() == 1));
        assert!(matches!(watch.next().await, News::Unknown), "after a gap");
        watch.has_been_read();
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let silence = tokio::time::timeout(Duration::from_secs(3600), watch.next()).await;
        assert!(silence.is_err(), "it is watched");
        sink.send((id, Notice::Down)).unwrap();
        for _ in 0..3 {
            assert!(matches!(watch.next().await, News::Unknown), "it is not watched");
            watch.has_been_read();
        }
        assert_eq!(begun.elapsed().as_secs(), 3603);
    }

    #[tokio::test(start_paused = true)]
    async fn changes_do_not_postpone_a_read_that_has_failed() {
        let (mut watch, _hub, _commands, (id, sink)) = watch();
        sink.send((id, Notice::Created(5))).unwrap();
        assert!(matches!(watch.next().await, News::Unknown));
        // The read fails.
        let mut changes = 0;
        loop {
            sink.send((id, change())).unwrap();
            match watch.next().await {
                News::Changed(_) => changes += 1,
                News::Unknown => break,
            }
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(changes, 10);
    }

    #[test]
    fn the_watch_ends_with_its_user() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let (watch, _hub, mut commands, (id, _sink)) = watch();
        drop(watch);
        assert!(matches!(commands.try_recv(), Ok(Command::Rest(ended)) if ended == id));
    }
}
