//! [`GrantedClaim`]: a claim that was granted, with what is known of its deletion.

use std::ops::Deref;

use parking_lot::Mutex;

use super::error;
use super::position::ClaimKey;
use crate::backend::Result;

/// A claim that was granted. It is part of the grant, so what is known of its release outlives whatever else is known of it.
#[derive(Debug)]
pub(super) struct GrantedClaim {
    key: ClaimKey,
    deletions: Mutex<Deletions>,
}

/// The requests that delete the claim.
#[derive(Debug, Default)]
struct Deletions {
    /// How many were sent, and may still be answered.
    in_flight: u32,
    /// Whether one has found the claim, or may have.
    is_released: bool,
}

impl GrantedClaim {
    pub(super) fn new(key: ClaimKey) -> Self {
        Self { key, deletions: Mutex::default() }
    }

    /// Notes that a request is about to be sent that deletes it.
    pub(super) fn sending(&self) {
        self.deletions.lock().in_flight += 1;
    }

    /// Notes that no answer follows to one of these requests, and whether that has found the claim, or may have.
    pub(super) fn ended(&self, has_found: bool) {
        let Deletions { in_flight, is_released } = &mut *self.deletions.lock();
        *in_flight = in_flight.saturating_sub(1);
        *is_released |= has_found;
    }

    /// Returns whether a request is in flight on which the outcome of the release depends.
    pub(super) fn is_undecided(&self) -> bool {
        let Deletions { in_flight, is_released } = *self.deletions.lock();
        in_flight > 0 && !is_released
    }

    /// Returns the outcome of its release, once it is known that the claim no longer exists.
    ///
    /// # Errors
    ///
    /// [`LeaseLost`](crate::backend::ErrorKind::LeaseLost) if no request has found it, and each that may have was answered: then it was
    /// lost before. [`Unreachable`](crate::backend::ErrorKind::Unreachable) while there are others: the release has to be repeated.
    pub(super) fn outcome(&self, endpoints: &str) -> Result<()> {
        let Deletions { in_flight, is_released } = *self.deletions.lock();
        match in_flight {
            _ if is_released => Ok(()),
            0 => Err(error::claim_lost(endpoints)),
            _ => Err(error::unanswered(endpoints)),
        }
    }
}

impl Deref for GrantedClaim {
    type Target = ClaimKey;
    fn deref(&self) -> &ClaimKey {
        &self.key
    }
}

impl PartialEq for GrantedClaim {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for GrantedClaim {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ErrorKind;

    /// The outcome of a release after these steps: `None` sends a request, others end one.
    fn after(steps: &[Option<bool>]) -> std::result::Result<(), ErrorKind> {
        let claim = GrantedClaim::new(ClaimKey { name: (*b"k").into(), create: 1 });
        for step in steps {
            match step {
                None => claim.sending(),
                Some(has_found) => claim.ended(*has_found),
            }
        }
        assert_eq!(
            claim.is_undecided(),
            claim.outcome("here").is_err_and(|error| error.kind() == ErrorKind::Unreachable)
        );
        claim.outcome("here").map_err(|error| error.kind())
    }

    #[test]
    fn a_release_has_failed_if_no_request_can_have_found_the_claim() {
        let (sent, found, missed) = (None, Some(true), Some(false));
        let (lost, undecided) = (Err(ErrorKind::LeaseLost), Err(ErrorKind::Unreachable));
        for (steps, outcome) in [
            (&[][..], lost),
            (&[sent], undecided),
            (&[sent, found], Ok(())),
            (&[sent, missed], lost),
            (&[sent, missed, sent, missed], lost),
            (&[sent, found, sent, missed], Ok(())),
            (&[sent, sent, missed], undecided),
            (&[sent, sent, missed, missed], lost),
            (&[sent, sent, missed, found], Ok(())),
            (&[sent, sent, found], Ok(())),
        ] {
            assert_eq!(after(steps), outcome, "{steps:?}");
        }
    }
}
