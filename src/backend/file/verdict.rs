//! Whether a lease of another manager still counts.

use std::time::Duration;

use crate::backend::Timestamp;

/// What is seen of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signs {
    /// Whether its FIFO has a reader: its process lives, or a fork of it.
    pub(super) has_reader: bool,
    /// Whether its FIFO has a name, any.
    pub(super) has_name: bool,
    /// The time of its last renewal, by the clock of leases.
    pub(super) renewed: Timestamp,
    pub(super) ttl: Duration,
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its claims are void.
    Void,
    /// Its time is over. Its claims are void if that is still so once it cannot be renewed any more.
    Expired,
    /// Its claims count, at least until this time.
    Valid(Timestamp),
}

impl Signs {
    pub(super) fn verdict(&self, now: Timestamp) -> Verdict {
        let until = self.renewed + self.ttl;
        if !self.has_reader || !self.has_name {
            Verdict::Void
        } else if until <= now {
            Verdict::Expired
        } else {
            Verdict::Valid(until)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_while_it_has_a_reader_a_name_and_time() {
        let at = |seconds: u64| Timestamp::from_nanos(seconds * 1_000_000_000);
        let alive = Signs { has_reader: true, has_name: true, renewed: at(100), ttl: Duration::from_secs(30) };
        for (signs, now, verdict) in [
            (alive, 100, Verdict::Valid(at(130))),
            (alive, 129, Verdict::Valid(at(130))),
            (alive, 130, Verdict::Expired),
            (alive, 50, Verdict::Valid(at(130))),
            (Signs { has_reader: false, ..alive }, 101, Verdict::Void),
            (Signs { has_name: false, ..alive }, 101, Verdict::Void),
            (Signs { has_name: false, ..alive }, 500, Verdict::Void),
        ] {
            assert_eq!(signs.verdict(at(now)), verdict, "{signs:?} at {now}");
        }
    }
}
