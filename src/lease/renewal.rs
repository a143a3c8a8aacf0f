//! When to renew a lease, and when it is lost. Pure: time is an argument.

use std::time::Duration;

use crate::backend::{ErrorKind, Lease};
use crate::clock::{Timestamp, certain};
use crate::info::Loss;

/// The end of the time for which a lease is certain, counted from when its last proven renewal was sent.
fn deadline(lease: &Lease) -> Timestamp {
    lease.proven + certain(lease.ttl)
}

/// How a lease is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Whether it is renewed automatically.
    pub(crate) auto_renew: bool,
    /// The age at which a hold on it ends.
    pub(crate) max_hold: Option<Duration>,
}

/// What has to be done for a lease now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing before this time.
    Sleep(Timestamp),
    /// Renew it at the backend, then call [`Renewal::renewed`] or [`Renewal::failed`].
    Renew,
    /// It is lost.
    Lost(Loss),
}

/// The renewal of one lease: each third of the TTL, with retries until the deadline.
#[derive(Clone, Debug)]
pub(crate) struct Renewal {
    lease: Lease,
    auto_renew: bool,
    /// Whether there was a hold on it. Until then it is renewed whatever its policy, for the claim that waits on it.
    holding: bool,
    /// The end of the hold by `max_hold`.
    limit: Option<Timestamp>,
    next: Timestamp,
    in_flight: bool,
    unreachable: bool,
    lost: Option<Loss>,
}

impl Renewal {
    pub(crate) fn new(lease: Lease, policy: Policy) -> Self {
        Self {
            lease,
            auto_renew: policy.auto_renew,
            holding: false,
            limit: None,
            next: lease.proven + lease.ttl / 3,
            in_flight: false,
            unreachable: false,
            lost: None,
        }
    }

    pub(crate) fn lease(&self) -> Lease {
        self.lease
    }

    /// The first moment at which a hold on it is no longer certain.
    pub(crate) fn deadline(&self) -> Timestamp {
        let lease = deadline(&self.lease);
        self.limit.map_or(lease, |limit| limit.min(lease))
    }

    /// The cause of the loss if no renewal succeeds before the deadline.
    pub(crate) fn cause(&self) -> Loss {
        if self.limit.is_some_and(|limit| limit <= deadline(&self.lease)) {
            Loss::MaxHold
        } else if self.unreachable {
            Loss::Unreachable
        } else {
            Loss::Expired
        }
    }

    /// A hold begins, which ends at `limit`.
    pub(crate) fn hold(&mut self, limit: Option<Timestamp>) {
        self.holding = true;
        self.limit = limit;
    }

    /// Returns what to do now. After [`Step::Renew`] the renewal counts as in flight.
    pub(crate) fn step(&mut self, now: Timestamp) -> Step {
        if let Some(cause) = self.lost_by(now) {
            return Step::Lost(cause);
        }
        if (self.holding && !self.auto_renew) || self.in_flight {
            return Step::Sleep(self.deadline());
        }
        if now < self.next {
            return Step::Sleep(self.next.min(self.deadline()));
        }
        self.in_flight = true;
        Step::Renew
    }

    /// The backend proved the lease. A lost lease stays lost.
    pub(crate) fn renewed(&mut self, proof: Lease, now: Timestamp) {
        self.in_flight = false;
        if self.lost_by(now).is_some() {
            return;
        }
        self.unreachable = false;
        // A backend with another clock may date it in the future.
        let proven = proof.proven.min(now);
        if proven >= self.lease.proven {
            self.lease.proven = proven;
            self.lease.ttl = proof.ttl;
        }
        self.next = self.lease.proven + self.lease.ttl / 3;
    }

    /// The backend did not renew it.
    pub(crate) fn failed(&mut self, kind: ErrorKind, now: Timestamp) {
        self.in_flight = false;
        if self.lost_by(now).is_some() {
            return;
        }
        if kind == ErrorKind::LeaseLost {
            self.lost = Some(Loss::Revoked);
            return;
        }
        self.unreachable = kind == ErrorKind::Unreachable;
        self.next = now + (self.lease.ttl / 20).clamp(Duration::from_millis(10), Duration::from_secs(1));
    }

    /// Ends the lease with this cause; returns the first cause.
    pub(crate) fn lose(&mut self, cause: Loss) -> Loss {
        *self.lost.get_or_insert(cause)
    }

    /// The cause of the loss, if the lease is lost by `now`.
    pub(crate) fn lost_by(&mut self, now: Timestamp) -> Option<Loss> {
        if self.lost.is_none() && now >= self.deadline() {
            self.lost = Some(self.cause());
        }
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{LeaseId, LeaseScope};
    use crate::support::walk::walk;
    use rand::RngExt;

    const TTL: Duration = Duration::from_secs(30);
    const RENEWED: Policy = Policy { auto_renew: true, max_hold: None };

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(0) + Duration::from_millis(millis)
    }

    fn lease(proven: u64) -> Lease {
        Lease::new(LeaseId(1), TTL, at(proven), LeaseScope::Session)
    }

    #[test]
    fn renews_each_third_and_counts_from_the_send_time() {
        let mut renewal = Renewal::new(lease(0), RENEWED);
        assert_eq!(renewal.step(at(0)), Step::Sleep(at(10_000)));
        assert_eq!(renewal.step(at(10_000)), Step::Renew);
        assert_eq!(renewal.step(at(10_001)), Step::Sleep(at(29_695)), "one renewal at a time");
        renewal.renewed(lease(10_000), at(12_000));
        assert_eq!(renewal.step(at(12_000)), Step::Sleep(at(20_000)));
        assert_eq!(renewal.deadline(), at(39_695));
    }

    #[test]
    fn one_failed_renewal_is_no_loss_and_is_tried_again_until_the_deadline() {
        let mut renewal = Renewal::new(lease(0), RENEWED);
        let (mut now, mut tries) = (10_000, 0);
        let lost = loop {
            match renewal.step(at(now)) {
                Step::Renew => {
                    tries += 1;
                    renewal.failed(ErrorKind::Unreachable, at(now));
                }
                Step::Sleep(until) => now = until.as_nanos() / 1_000_000,
                Step::Lost(cause) => break cause,
            }
        };
        assert_eq!((lost, now), (Loss::Unreachable, 29_695));
        assert!(tries > 5, "{tries}");
    }

    #[test]
    fn the_causes() {
        let mut unrenewed = Renewal::new(lease(0), Policy { auto_renew: false, max_hold: None });
        unrenewed.hold(None);
        assert_eq!(unrenewed.step(at(29_694)), Step::Sleep(at(29_695)));
        assert_eq!(unrenewed.step(at(29_695)), Step::Lost(Loss::Expired));

        let mut removed = Renewal::new(lease(0), RENEWED);
        removed.failed(ErrorKind::LeaseLost, at(1));
        assert_eq!(removed.step(at(2)), Step::Lost(Loss::Revoked));

        let mut old = Renewal::new(lease(0), RENEWED);
        old.hold(Some(at(5_000)));
        assert_eq!(old.step(at(5_000)), Step::Lost(Loss::MaxHold));
    }

    #[test]
    fn a_proof_from_the_future_counts_from_its_answer() {
        let mut renewal = Renewal::new(lease(0), RENEWED);
        assert_eq!(renewal.step(at(10_000)), Step::Renew);
        renewal.renewed(lease(3_600_000), at(10_001));
        assert_eq!(renewal.deadline(), at(10_001 + 29_695));
    }

    #[test]
    fn an_answer_after_the_deadline_saves_nothing() {
        let mut renewal = Renewal::new(lease(0), RENEWED);
        assert_eq!(renewal.step(at(10_000)), Step::Renew);
        renewal.renewed(lease(10_000), at(29_695));
        assert_eq!(renewal.step(at(29_696)), Step::Lost(Loss::Expired));
    }

    /// Whatever the answers and their times: never alive at or after the deadline of the last proof, and lost for ever.
    #[test]
    fn never_outlives_its_last_proof() {
        walk(256, |rng| {
            let mut renewal = Renewal::new(lease(0), RENEWED);
            let (mut now, mut last_proof, mut lost) = (0u64, 0u64, None);
            for _ in 0..rng.random_range(1..60) {
                now += rng.random_range(0..12_000);
                match rng.random_range(0..4) {
                    0 => renewal.failed(ErrorKind::Unreachable, at(now)),
                    1 | 2 => {
                        let sent = now.saturating_sub(rng.random_range(0..12_000));
                        if now < last_proof + 29_695 && lost.is_none() {
                            last_proof = last_proof.max(sent);
                        }
                        renewal.renewed(lease(sent), at(now));
                    }
                    _ => {}
                }
                let step = renewal.step(at(now));
                if let Some(cause) = lost {
                    assert_eq!(step, Step::Lost(cause));
                } else if now >= last_proof + 29_695 {
                    assert!(matches!(step, Step::Lost(_)));
                } else {
                    assert!(!matches!(step, Step::Lost(_)));
                }
                if let Step::Lost(cause) = step {
                    lost = Some(cause);
                }
            }
        });
    }
}
