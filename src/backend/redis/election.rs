//! Which server is the master, by what the sentinels say. Pure: time is an argument.
//!
//! A master's own word is no proof: one that was deposed, and is back, says for ten seconds that it is the master, and takes writes.
//! Each failover has a greater epoch than those before, so a sentinel that has not heard of it yet is recognized by its epoch.

use std::time::{Duration, Instant};

use super::options::Node;

/// How long a majority has to name an epoch that is not greater than the present one: the sentinels were set up anew.
const DOUBT: Duration = Duration::from_secs(10);

/// The master that a sentinel names, and the epoch of the failover by which it became that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Master {
    pub(super) epoch: u64,
    pub(super) node: Node,
}

/// What the sentinels have said of late.
#[derive(Clone, Copy, Debug)]
pub(super) struct Votes<'a> {
    pub(super) masters: &'a [Master],
    /// How many sentinels there are.
    pub(super) sentinels: usize,
    /// Whether no sentinel remains that may say something soon.
    pub(super) complete: bool,
}

impl Votes<'_> {
    fn is_majority(&self, count: usize) -> bool {
        2 * count > self.sentinels
    }

    fn count(&self, master: &Master) -> usize {
        self.masters.iter().filter(|named| *named == master).count()
    }
}

/// The master that counts.
#[derive(Debug, Default)]
pub(super) struct Election {
    master: Option<Master>,
    /// The one that a majority names instead, and since when.
    doubt: Option<(Master, Instant)>,
}

impl Election {
    /// Returns the master that counts.
    pub(super) fn master(&self) -> Option<&Master> {
        self.master.as_ref()
    }

    /// Counts the votes. Returns whether there is another master now.
    pub(super) fn count(&mut self, votes: Votes<'_>, now: Instant) -> bool {
        let Some(newest) = votes.masters.iter().max_by_key(|named| (named.epoch, votes.count(named))) else {
            return false;
        };
        let Some(present) = &self.master else {
            // A single sentinel may not have heard of the last failover yet.
            let is_enough = votes.complete || votes.is_majority(votes.masters.len());
            self.master = is_enough.then(|| newest.clone());
            return is_enough;
        };
        if newest.epoch > present.epoch {
            (self.master, self.doubt) = (Some(newest.clone()), None);
            return true;
        }
        let other = votes.masters.iter().find(|named| *named != present && votes.is_majority(votes.count(named)));
        self.doubt = other.map(|other| match &self.doubt {
            Some((doubted, since)) if doubted == other => (other.clone(), *since),
            _ => (other.clone(), now),
        });
        match self.doubt.take_if(|(_, since)| now.duration_since(*since) >= DOUBT) {
            Some((other, _)) => {
                self.master = Some(other);
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(epoch: u64, host: &str) -> Master {
        Master { epoch, node: Node { host: host.into(), port: 6379 } }
    }

    /// A count: the second, what is named, and whether that is complete.
    type Count<'a> = (u64, &'a [(u64, &'a str)], bool);

    /// The master after each of these counts of three sentinels.
    fn after(counts: &[Count<'_>]) -> Vec<Option<String>> {
        let (mut election, start) = (Election::default(), Instant::now());
        let count = |(at, named, complete): &Count<'_>| {
            let masters: Vec<_> = named.iter().map(|(epoch, host)| master(*epoch, host)).collect();
            let before = election.master().cloned();
            let votes = Votes { masters: &masters, sentinels: 3, complete: *complete };
            let changed = election.count(votes, start + Duration::from_secs(*at));
            assert_eq!(changed, before.as_ref() != election.master());
            election.master().map(|master| format!("{} {}", master.node.host, master.epoch))
        };
        counts.iter().map(count).collect()
    }

    /// The last of them.
    fn last(counts: &[Count<'_>]) -> String {
        after(counts).pop().flatten().unwrap_or_default()
    }

    #[test]
    fn the_first_master_is_that_of_the_greatest_epoch_among_a_majority() {
        for (named, complete, wanted) in [
            (&[][..], true, ""),
            // One alone may be stale.
            (&[(3, "a")][..], false, ""),
            (&[(3, "a")], true, "a 3"),
            (&[(3, "a"), (3, "a")], false, "a 3"),
            (&[(3, "a"), (4, "b")], false, "b 4"),
            (&[(4, "b"), (3, "a"), (3, "a")], true, "b 4"),
            // Asked between two answers of a sentinel that has just heard of the failover.
            (&[(3, "b"), (3, "a"), (3, "a")], true, "a 3"),
            (&[(0, "a"), (0, "a")], false, "a 0"),
        ] {
            assert_eq!(last(&[(0, named, complete)]), wanted, "{named:?} {complete}");
        }
    }

    #[test]
    fn a_greater_epoch_counts_at_once_from_a_single_sentinel() {
        let first: Count<'_> = (0, &[(3, "a"), (3, "a"), (3, "a")], true);
        assert_eq!(last(&[first, (1, &[(3, "a"), (3, "a"), (4, "b")], true)]), "b 4");
        assert_eq!(last(&[first, (1, &[(4, "b")], false)]), "b 4");
        // The same server again, after a failover that was not seen.
        assert_eq!(last(&[first, (1, &[(5, "a")], false)]), "a 5");
    }

    #[test]
    fn an_older_epoch_counts_for_nothing() {
        let first: Count<'_> = (0, &[(4, "b"), (4, "b"), (4, "b")], true);
        for stale in
            [&[(3, "a")][..], &[(3, "a"), (4, "b")], &[(4, "a"), (3, "c")], &[(3, "a"), (2, "c"), (1, "d")], &[]]
        {
            // However long it says so.
            assert_eq!(last(&[first, (1, stale, true), (60, stale, true)]), "b 4", "{stale:?}");
        }
    }

    #[test]
    fn a_majority_that_says_so_for_ten_seconds_was_set_up_anew() {
        let first: Count<'_> = (0, &[(4, "b"), (4, "b"), (4, "b")], true);
        let anew: &[_] = &[(0, "a"), (0, "a")];
        assert_eq!(last(&[first, (1, anew, true), (10, anew, true)]), "b 4");
        assert_eq!(last(&[first, (1, anew, true), (11, anew, true)]), "a 0");
        // Interrupted, or of several minds.
        assert_eq!(last(&[first, (1, anew, true), (6, &[(0, "a")], true), (11, anew, true)]), "b 4");
        assert_eq!(last(&[first, (1, anew, true), (6, &[(0, "c"), (0, "c")], true), (11, anew, true)]), "b 4");
        // From then on, their epochs count.
        assert_eq!(last(&[first, (1, anew, true), (11, anew, true), (12, &[(1, "c")], false)]), "c 1");
        assert_eq!(last(&[first, (1, anew, true), (11, anew, true), (12, &[(4, "b")], false)]), "b 4");
        // The same epoch with another address.
        let moved: &[_] = &[(4, "c"), (4, "c")];
        assert_eq!(last(&[first, (1, moved, true), (11, moved, true)]), "c 4");
    }

    #[test]
    fn a_doubt_ends_with_a_newer_epoch() {
        let first: Count<'_> = (0, &[(4, "b"), (4, "b"), (4, "b")], true);
        let anew: &[_] = &[(0, "a"), (0, "a")];
        let seen = after(&[first, (1, anew, true), (5, &[(5, "c")], false), (11, anew, true), (20, anew, true)]);
        assert_eq!(seen.into_iter().flatten().collect::<Vec<_>>(), ["b 4", "b 4", "c 5", "c 5", "c 5"]);
    }
}
